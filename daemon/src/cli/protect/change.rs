//! The steps of a change, and the way back from each of them.
//!
//! Every way back has the same order: files, check by the server, reload of the server, and only
//! then the grants and keys that the server has used until then.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use keyward_proto::{Reference, Use};

use super::Protect;
use super::journal::{Journal, KeyFile, Phase, Removal, digest};
use super::plan::{Plan, Probe};
use super::running::{Running, real};
use crate::admin::api::User;
use crate::admin::client::AdminClient;
use crate::admin::request;
use crate::cli::doctor;
use crate::cli::failure::Failure;
use crate::cli::{output, program, service_files};
use crate::config::Config;
use crate::ground::exit;
use crate::keys::now;
use crate::peers;
use crate::servers::served;

/// A change of a running server.
pub(super) struct Change<'a> {
    pub(super) options: &'a Protect,
    pub(super) admin: &'a AdminClient,
    pub(super) server: &'a dyn Running,
    pub(super) journal: &'a mut Journal,
}

/// Certificates that listeners show, by SHA-256.
type Shown = BTreeMap<Probe, String>;

impl Change<'_> {
    /// Carries out a plan. If a step fails, everything that this run has done is put back.
    ///
    /// # Errors
    /// [`Failure`] of the step.
    pub(super) fn make(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.check_daemon()?;
        let before = shown(&plan.probes.all)?;
        for name in plan.unseen(before.keys()) {
            output::warn(format_args!(
                "{name} does not shake hands now, so nobody can compare its certificate"
            ));
        }
        self.journal.begin_run().map_err(|failure| failure.while_trying("nothing was changed"))?;
        let Err(failure) = self.steps(plan, &before) else { return Ok(()) };
        let undone = self.server.back().and_then(|()| self.undo_run());
        Err(match undone {
            Ok(_) => failure.while_trying("everything was put back"),
            Err(error) => failure.while_trying(format_args!(
                "not everything could be put back ({}); correct that, and run: {}",
                error.into_reason(),
                self.options.command("--undo")
            )),
        })
    }

    fn steps(&mut self, plan: &Plan, before: &Shown) -> Result<(), Failure> {
        // Handshakes and a question have taken their time since.
        plan.keys.check_unchanged()?;
        let title = self.options.server.title();
        let references = self.take_keys(plan)?;
        let all = plan.contents(&references, |_| true);
        let first = plan.contents(&references, |edit| edit.is_environment);
        self.journal.keep(&first, &plan.texts, &plan.replaced)?;
        self.journal.keep(&all, &plan.texts, &plan.replaced)?;
        // The grants come before the first request, and the references before the lines that name
        // them.
        let edited: BTreeSet<_> = plan.edits.iter().map(|edit| &edit.path).collect();
        let is_new = |path: &PathBuf| !edited.contains(path) && !plan.replaced.contains_key(path);
        let new: Vec<_> = all.iter().filter(|(path, _)| is_new(path)).collect();
        for (path, contents) in &new {
            self.journal.write(path, contents)?;
        }
        self.done(&format!("{} new files", new.len()));
        self.reload_daemon()?;
        self.check_grants(plan)?;
        self.done(&format!("the daemon grants the keys to {title}"));
        self.try_socket(plan)?;
        if !self.server.has_provider() && plan.edits.iter().any(|edit| edit.is_environment) {
            for (path, contents) in first.iter().filter(|(path, _)| edited.contains(path)) {
                self.journal.write(path, contents)?;
            }
            self.server.check(self.options)?;
            self.server.reload(self.options)?;
            self.done(&format!("{title} knows where the provider is"));
        }
        for (path, contents) in all.iter().filter(|(path, _)| edited.contains(path)) {
            self.journal.write(path, contents)?;
        }
        plan.keys.check_unchanged()?;
        for (path, contents) in all.iter().filter(|(path, _)| plan.replaced.contains_key(*path)) {
            self.journal.replace(path, contents)?;
        }
        self.server.check(self.options)?;
        self.done(&format!("{title} accepts its files"));
        reload_systemd()?;
        self.journal.enter(Phase::Switching)?;
        self.forward()?;
        self.done(&format!("{title} uses the references"));
        compare(before, &shown(&plan.probes.all)?)?;
        self.done(&plan.comparison(before.len()));
        self.end()
    }

    /// Brings the server to the references, and says how long it did not answer.
    fn forward(&self) -> Result<(), Failure> {
        if let Some(pause) = self.server.forward(self.options)? {
            self.done(&format!(
                "{} was started again: no handshakes for {:.1} seconds",
                self.options.server.title(),
                pause.as_secs_f32()
            ));
        }
        Ok(())
    }

    /// Ends the processes of before, and notes that the run is done.
    fn end(&mut self) -> Result<(), Failure> {
        self.journal.enter(Phase::Ending)?;
        let title = self.options.server.title();
        match self.server.finish()? {
            true => self.done(&format!("no process of {title} from before is left")),
            false => output::warn(format_args!(
                "connections of before keep an old process of {title} alive, which has the keys in its memory; it ends with them"
            )),
        }
        self.journal.enter(Phase::Done)
    }

    /// Has the daemon take the keys.
    fn take_keys(&mut self, plan: &Plan) -> Result<Vec<Reference>, Failure> {
        for (path, number) in plan.key_files() {
            let moved = plan.replaced.get(path).map(PathBuf::as_path);
            // The file behind a link that moves, too.
            let is_noted = moved.is_some() && path.is_symlink() && plan.replaced.contains_key(&real(path));
            let key = plan.keys.planned.get(number).filter(|_| !is_noted);
            if let (Some(key), Some(facts)) = (key, plan.keys.facts.get(path)) {
                let public_key = digest(key.spki());
                let file = KeyFile::new(path, key.label.as_str(), public_key, *facts, moved);
                self.journal.note_key_file(file)?;
            }
        }
        let mut references = Vec::new();
        for key in &plan.keys.planned {
            // Noted first: the undo removes a key that was made, and nothing was there before.
            if !key.is_known() || key.is_deleted() {
                self.journal.note_key(key.label.as_str(), key.spki())?;
            }
            let had = match key.is_known() {
                true => self.admin.show(key.label.as_str())?.uses,
                false => Vec::new(),
            };
            let needed = key.uses.iter().map(|one| one.name().to_owned()).collect();
            self.journal.note_uses(key.label.as_str(), &needed, &had)?;
            let (reference, is_new) = key.take(self.admin)?;
            references.push(reference);
            let how = if is_new { "imported" } else { "is in the daemon already" };
            self.done(&format!("key {} {how}", key.label));
        }
        Ok(references)
    }

    /// True if a run was stopped while the server was about to take up files.
    pub(super) fn is_interrupted(&self) -> bool {
        self.journal.phase().is_some_and(|phase| phase != Phase::Done)
    }

    /// Goes on with a run that was interrupted, or undoes that run.
    ///
    /// # Errors
    /// [`Failure`] if it can neither go on nor be undone.
    pub(super) fn recover(&mut self) -> Result<(), Failure> {
        match self.journal.phase() {
            None | Some(Phase::Done) => Ok(()),
            Some(Phase::Switching) => {
                self.server.check(self.options)?;
                self.forward()?;
                let title = self.options.server.title();
                self.done(&format!("{title} uses the references: an interrupted change is complete now"));
                self.end()
            }
            Some(Phase::Ending) => self.end(),
            Some(Phase::Writing | Phase::Undoing) => {
                self.refuse_foreign()?;
                self.undo_run()?;
                self.done("an interrupted change was undone");
                Ok(())
            }
        }
    }

    /// Puts everything back as it was before the first run.
    ///
    /// # Errors
    /// [`Failure`] if a file was changed since, or the server does not take the old files. The runs
    /// after that one are undone, and that one is not.
    pub(super) fn undo(&mut self) -> Result<(), Failure> {
        if self.journal.phase().is_none() {
            self.journal.remove()?;
            let reason = "keyward protect has changed nothing here that is not undone";
            return Err(Failure::new(exit::NO_INPUT, reason));
        }
        let mut is_whole = true;
        while self.journal.phase().is_some() {
            if self.journal.is_final() {
                let reason = format_args!(
                    "the key files were removed, so {} cannot use them again; the keys are in the daemon alone",
                    self.options.server.title()
                );
                return Err(Failure::new(exit::NO_INPUT, reason));
            }
            self.refuse_foreign()?;
            self.server.back()?;
            is_whole &= self.undo_run()?;
        }
        self.journal.remove()?;
        self.done(match is_whole {
            true => "every file is as it was",
            false => "every other file is as it was",
        });
        Ok(())
    }

    /// Undoes the last run. Returns false if a file stays, which has a new key.
    fn undo_run(&mut self) -> Result<bool, Failure> {
        let was_done = self.journal.phase() == Some(Phase::Done);
        let begun = self.journal.begin_undo();
        begun.map_err(|failure| failure.while_trying("no further file was put back"))?;
        let is_whole = self.journal.put_back();
        let is_whole = is_whole.map_err(|failure| failure.while_trying("not every file was put back yet"))?;
        reload_systemd()?;
        if let Err(refusal) = self.server.check(self.options) {
            // Another part of the configuration may name a file of the run, such as a new site.
            if was_done {
                self.journal.write_again()?;
                self.journal.enter(Phase::Done)?;
                return Err(refusal.while_trying("nothing was put back"));
            }
            return Err(refusal);
        }
        self.server.reload(self.options)?;
        // Handshakes that have begun with references still need the keys.
        self.server.settle();
        let title = self.options.server.title();
        if self.server.is_running() {
            self.done(&format!("{title} uses the files of before"));
        }
        self.forget_keys().map_err(|failure| {
            failure.while_trying(format_args!(
                "the files of {title} are as they were, and the daemon still has grants and keys; when it answers, run the command again"
            ))
        })?;
        self.journal.forget_run()?;
        Ok(is_whole)
    }

    /// Removes the key files of changes that are done.
    ///
    /// # Errors
    /// [`Failure`] if the server still names one of the files, or a file is not the one that was
    /// imported, or its key does not sign.
    pub(super) fn remove_key_files(&mut self) -> Result<(), Failure> {
        let (title, name) = (self.options.server.title(), self.options.server.name());
        if self.journal.phase() != Some(Phase::Done) {
            let reason = format_args!("there is nothing to remove: first run keyward protect {name}");
            return Err(Failure::new(exit::NO_INPUT, reason));
        }
        let mut in_use = vec![(title.to_owned(), self.server.files_in_use(self.options)?)];
        in_use.extend(self.options.other_servers(self.server.pid()));
        let (keys, _) = self.admin.list()?;
        let is_signing = |public_key: &str| {
            let mut enabled = keys.iter().filter(|key| key.state == "enabled");
            enabled.any(|key| {
                let mut numbers = key.versions.iter().map(|version| version.number);
                numbers.any(|number| key.public_key(number).is_some_and(|spki| digest(&spki) == public_key))
            })
        };
        for file in self.journal.key_files() {
            let refused =
                |why: &str| Failure::new(exit::CONFIG, format_args!("{} stays: {why}", file.path.display()));
            if file.is_of_certbot() {
                output::note(format_args!(
                    "{} stays, because certbot renews nothing without it; docs/certbot.md puts a reference there",
                    file.path.display()
                ));
                continue;
            }
            let is_named = |files: &BTreeSet<PathBuf>| {
                let is_it = |path: &PathBuf| path.metadata().is_ok_and(|found| file.is_at(&found));
                files.contains(&file.path) || files.iter().any(is_it)
            };
            if let Some((user, _)) = in_use.iter().find(|(_, files)| is_named(files)) {
                return Err(refused(&format!("{user} uses the file")));
            }
            if file.removal == Removal::None && !file.is_same() {
                return Err(refused("it was changed since its key was imported"));
            }
            if file.names() > 1 {
                return Err(refused(
                    "it has another name (a hard link), which would be empty then: remove that",
                ));
            }
            if !is_signing(&file.public_key) {
                return Err(refused(&format!(
                    "no key of the daemon that signs now has its public key ({})",
                    file.label
                )));
            }
        }
        for path in self.journal.remove_key_files()? {
            self.done(&format!("{} removed", path.display()));
        }
        output::note(
            "the keys are in the daemon alone: keep a copy of its key store (keyward backup FILE); copies of the key files in backups still have the keys",
        );
        Ok(())
    }

    /// Takes the uses back that the run has added to keys, except for uses that another protected
    /// server, or an earlier run, needs.
    fn take_back_uses(&self) -> Result<(), Failure> {
        let (known, _) = self.admin.list()?;
        for own in self.journal.uses() {
            let key = known.iter().find(|key| key.label == own.label && key.deletion.is_none());
            let Some(key) = key else { continue };
            let needed = self.journal.needed_by_others(&own.label);
            let is_needed = |one: &String| needed.as_ref().is_some_and(|needed| needed.contains(one));
            let (added, left): (Vec<_>, Vec<_>) =
                key.uses.iter().partition(|one| own.added.contains(*one) && !is_needed(one));
            if added.is_empty() {
                continue;
            }
            if needed.is_none() || left.is_empty() {
                // A key that the run has imported is deleted next.
                if !self.journal.imported().iter().any(|imported| imported.label == own.label) {
                    output::note(format_args!(
                        "key {0} keeps the uses of this server: another one may need them, or the key would have none; to set its uses: keyward key set-uses {0} --use USE",
                        key.label
                    ));
                }
                continue;
            }
            let left: Vec<Use> = left.into_iter().filter_map(|one| one.parse().ok()).collect();
            let change = request::Change {
                sign_and_decrypt: left.contains(&Use::RsaKeyExchange),
                uses: Some(left),
                ..request::Change::default()
            };
            let uses = self.admin.change(&key.label, &change)?.uses;
            self.done(&format!("key {} has the uses {} again", key.label, uses.join(", ")));
        }
        Ok(())
    }

    /// Takes the grants and uses out of force, and deletes the keys that the run has imported.
    /// Their key files are there.
    fn forget_keys(&self) -> Result<(), Failure> {
        self.reload_daemon()?;
        self.take_back_uses()?;
        let (known, _) = self.admin.list()?;
        let of_others = self.journal.labels_of_others();
        let own = self.server.workers();
        for imported in self.journal.imported() {
            let Some(key) = known.iter().find(|key| key.label == imported.label && key.deletion.is_none())
            else {
                continue;
            };
            let is_it =
                |number: u32| key.public_key(number).is_some_and(|spki| digest(&spki) == imported.public_key);
            // The provider of another server would lose the key at once.
            let peers = self.admin.show(&imported.label)?.peers;
            let is_used = self.server.is_running()
                && peers.iter().any(|peer| {
                    let is_own = peer.uid == own.uid && peer.unit.as_deref() == own.service.as_deref();
                    !is_own && now().saturating_sub(peer.last) < RECENTLY.as_secs()
                });
            if is_used || of_others.contains(&imported.label) {
                output::note(format_args!(
                    "key {0} stays in the daemon, because another server uses it; to delete it later: keyward key delete {0}",
                    imported.label
                ));
                continue;
            }
            // Another version, or another key, is in no file.
            match key.versions.as_slice() {
                [one] if is_it(one.number) => {
                    self.admin.delete(&imported.label, None, true)?;
                    self.done(&format!(
                        "key {0} deleted; keyward key restore {0} brings it back for a time",
                        imported.label
                    ));
                }
                _ => output::note(format_args!(
                    "key {} stays in the daemon: it is not only the one that was imported",
                    imported.label
                )),
            }
        }
        Ok(())
    }

    fn refuse_foreign(&self) -> Result<(), Failure> {
        let changed: Vec<_> = self
            .journal
            .changed_since()
            .iter()
            .map(|(path, copy)| match copy {
                Some(copy) => format!("{} (before: {})", path.display(), copy.display()),
                None => path.display().to_string(),
            })
            .collect();
        match changed.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(
                exit::CONFIG,
                format_args!(
                    "these files were changed since, and would lose that change: {}",
                    changed.join(", ")
                ),
            )),
        }
    }

    /// Checks that the daemon can take keys, and has the configuration that gets the grants.
    fn check_daemon(&self) -> Result<(), Failure> {
        self.check_in_force()?;
        let status = self.admin.status()?;
        match status.backends.iter().find(|backend| !backend.ready) {
            Some(backend) if !status.backends.iter().any(|backend| backend.ready) => {
                let why = status.problems.first().map_or("see keyward status", String::as_str);
                Err(Failure::new(
                    exit::UNAVAILABLE,
                    format_args!("the backend {} of the daemon is not ready: {why}", backend.name),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Puts the configuration of the daemon in force.
    fn reload_daemon(&self) -> Result<(), Failure> {
        let reloaded = self.admin.reload()?;
        for problem in &reloaded.problems {
            output::warn(problem);
        }
        self.check_in_force()
    }

    /// Checks that the daemon has read the configuration file as it is now.
    fn check_in_force(&self) -> Result<(), Failure> {
        let file = &self.options.config;
        let config = Config::load(file).map_err(|error| Failure::new(exit::CONFIG, error))?;
        match self.admin.status()?.config.is_none_or(|in_force| in_force == config.fingerprint()) {
            true => Ok(()),
            false => Err(Failure::new(
                exit::CONFIG,
                format_args!(
                    "the daemon has another configuration than {}; if that is its file, run keyward reload, or else name the file with --config",
                    file.display()
                ),
            )),
        }
    }

    /// Checks that the workers of the server may use each key.
    fn check_grants(&self, plan: &Plan) -> Result<(), Failure> {
        let workers = self.server.workers();
        let service = Some(workers.service.clone().unwrap_or_default());
        let user = User { uid: workers.uid, gid: workers.gid, groups: None, service };
        for key in &plan.keys.planned {
            let access = self.admin.access(key.label.as_str(), &user)?;
            let is_granted = |name: &str| access.granted.iter().any(|known| known == name);
            if let Some(missing) = key.uses.iter().find(|one| !is_granted(one.name())) {
                let why = access.obstacle.unwrap_or_else(|| "no grant covers it".into());
                return Err(Failure::new(
                    exit::CONFIG,
                    format_args!(
                        "the workers of {} may not use key {} for {missing}: {why}",
                        self.options.server.title(),
                        key.label
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Checks that the workers reach this daemon at the address that the provider will use. A wrong
    /// address would cost handshakes until the way back.
    fn try_socket(&self, plan: &Plan) -> Result<(), Failure> {
        let own = self.options.client.runtime_dir.join(peers::SOCKET);
        let own = std::path::absolute(&own).unwrap_or(own);
        let workers = self.server.workers();
        let address = plan.socket.as_deref();
        let faults = doctor::faults_of_socket(&own, address, &self.options.openssl_conf, workers.pid);
        match faults.first() {
            None => Ok(()),
            Some(fault) => {
                let title = self.options.server.title();
                let reason = format_args!("the workers of {title} do not reach the daemon: {fault}");
                Err(Failure::new(exit::CONFIG, reason))
            }
        }
    }

    fn done(&self, step: &str) {
        self.options.done(step);
    }
}

/// Shakes hands with each listener. Those that do not answer are left out.
fn shown(probes: &BTreeSet<Probe>) -> Result<Shown, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(exit::OS, error))?;
    let mut shown = Shown::new();
    for probe in probes {
        let found = runtime.block_on(served::certificate_of(probe.at, &probe.name, Some(probe.client)));
        if let Ok(certificate) = found {
            shown.insert(probe.clone(), certificate.fingerprint());
        }
    }
    Ok(shown)
}

fn compare(before: &Shown, after: &Shown) -> Result<(), Failure> {
    let other = before.iter().find(|(probe, certificate)| after.get(probe) != Some(*certificate));
    let Some((probe, _)) = other else { return Ok(()) };
    let how = match after.contains_key(probe) {
        true => {
            "shows another certificate than before; if the server had not yet read files that were renewed, reload it first"
        }
        false => "does not shake hands any more; the log of the daemon (keyward audit tail) may say why",
    };
    Err(Failure::new(exit::UNAVAILABLE, format_args!("the listener {} {how}, for {}", probe.at, probe.name)))
}

/// Has systemd read the drop-in of the service of the server again.
fn reload_systemd() -> Result<(), Failure> {
    if !service_files::has_systemd() {
        return Ok(());
    }
    let reloaded = program::run("systemctl", &["daemon-reload"], b"");
    reloaded.map(drop).map_err(|error| Failure::new(exit::UNAVAILABLE, error))
}

/// Time for which the use of a key counts for a deletion.
const RECENTLY: Duration = Duration::from_secs(3600);
