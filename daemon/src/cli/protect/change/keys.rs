//! The keys of a change: the daemon takes them, their files are removed, and the way back forgets
//! them.

use core::time::Duration;
use std::collections::BTreeSet;
use std::path::PathBuf;

use keyward_proto::{Reference, Use};

use super::super::journal::{KeyFile, Phase, Removal, digest};
use super::super::keys::has_private_key;
use super::super::plan::Plan;
use super::super::running::real;
use super::Change;
use crate::admin::request;
use crate::cli::failure::Failure;
use crate::cli::{output, setup};
use crate::ground::exit;
use crate::keys::now;
use crate::servers::processes;

impl Change<'_> {
    /// Has the daemon take the keys.
    pub(super) fn take_keys(&mut self, plan: &Plan) -> Result<Vec<Reference>, Failure> {
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

    /// Removes the key files of changes that are done.
    ///
    /// # Errors
    /// [`Failure`] if the server still names one of the files, or a file is not the one that was
    /// imported, or its key does not sign, or would not after the next start of the daemon.
    pub(in crate::cli::protect) fn remove_key_files(&mut self) -> Result<(), Failure> {
        let (title, name) = (self.options.server.title(), self.options.server.name());
        if self.journal.phase() != Some(Phase::Done) {
            let reason = format_args!("there is nothing to remove: first run keyward protect {name}");
            return Err(Failure::new(exit::NO_INPUT, reason));
        }
        if let Some(fault) = setup::fault_of_secret(&self.admin.status()?) {
            return Err(Failure::new(exit::CONFIG, format_args!("the key files stay: {fault}")));
        }
        let mut in_use = vec![(title.to_owned(), self.server.files_in_use(self.options)?)];
        in_use.extend(self.options.other_users(self.server.pid())?);
        let (keys, _) = self.admin.list()?;
        let is_signing = |public_key: &str| {
            let mut enabled = keys.iter().filter(|key| key.state == "enabled");
            enabled.any(|key| {
                let mut numbers = key.versions.iter().map(|version| version.number);
                numbers.any(|number| key.public_key(number).is_some_and(|spki| digest(&spki) == public_key))
            })
        };
        let mut going = Vec::new();
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
            if let Some(process) = processes::naming(&file.paths()) {
                return Err(refused(&format!("the command line of process {process} names the file")));
            }
            if file.removal == Removal::None && !file.is_same() {
                return Err(refused("it was changed since its key was imported"));
            }
            if file.names() > 1 {
                return Err(refused(
                    "it has another name (a hard link), which would be empty then: remove that",
                ));
            }
            file.check_writable().map_err(|error| refused(&error.to_string()))?;
            if !is_signing(&file.public_key) {
                return Err(refused(&format!(
                    "no key of the daemon that signs now has its public key ({})",
                    file.label
                )));
            }
            going.push(file.path.as_path());
        }
        if !going.is_empty() && !self.options.yes {
            self.options.ask_for_removal(&going)?;
        }
        while let Some(path) = self.journal.remove_key_file()? {
            self.done(&format!("{} removed", path.display()));
        }
        if self.has_no_key_file()? {
            output::note(
                "the keys are in the daemon alone: keep a copy of its key store (keyward backup FILE); copies of the key files in backups still have the keys",
            );
        }
        Ok(())
    }

    /// True if no file is known any more that has a key of the server. Names the other ones.
    fn has_no_key_file(&self) -> Result<bool, Failure> {
        let forgotten = self.journal.forgotten_key_files();
        for path in &forgotten {
            output::warn(format_args!(
                "{0} still has a key, which an earlier change has left there; when you are sure: shred -u {0}",
                path.display()
            ));
        }
        // A renewal may have put a key there, or a site was added.
        let named = self.server.files_in_use(self.options)?;
        let named: BTreeSet<_> = named.iter().filter(|path| path.is_file()).map(|path| real(path)).collect();
        let with_key: Vec<_> = named.iter().filter(|path| has_private_key(path)).collect();
        for path in &with_key {
            output::warn(format_args!(
                "{} has a private key in {}, which keyward protect {} may move, too",
                self.options.server.title(),
                path.display(),
                self.options.server.name()
            ));
        }
        Ok(forgotten.is_empty() && with_key.is_empty() && self.journal.key_files().is_empty())
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

    /// Takes the grants and uses out of force, and deletes the keys that the run has imported and
    /// that are in their key files again. `unseen` is the reason, if there is one, why nobody can
    /// see whether the server still names references. Returns false if a key file is not there as
    /// before.
    pub(super) fn forget_keys(&self, unseen: Option<&str>) -> Result<bool, Failure> {
        self.reload_daemon()?;
        self.take_back_uses()?;
        let (known, _) = self.admin.list()?;
        let (of_others, with_file) = (self.journal.labels_of_others(), self.journal.labels_with_file());
        let own = self.server.workers();
        let mut has_files = true;
        for imported in self.journal.imported() {
            let Some(key) = known.iter().find(|key| key.label == imported.label && key.deletion.is_none())
            else {
                continue;
            };
            let is_it =
                |number: u32| key.public_key(number).is_some_and(|spki| digest(&spki) == imported.public_key);
            let stays = |why: &str| {
                output::note(format_args!(
                    "key {0} stays in the daemon, because {why}; to delete it later: keyward key delete {0}",
                    imported.label
                ));
            };
            if of_others.contains(&imported.label) {
                stays("another protected server uses it");
                continue;
            }
            if !with_file.contains(&imported.label) {
                stays("its key file is not there as before, so the key may be nowhere else");
                has_files = false;
                continue;
            }
            if let Some(reason) = unseen {
                stays(&format!("the server may still name a reference to it: {reason}"));
                continue;
            }
            // The provider of another server would lose the key at once.
            let peers = self.admin.show(&imported.label)?.peers;
            let other = peers.iter().filter(|_| self.server.is_running()).find(|peer| {
                let is_own = peer.uid == own.uid && peer.unit.as_deref() == own.service.as_deref();
                !is_own && now().saturating_sub(peer.last) < RECENTLY.as_secs()
            });
            if let Some(peer) = other {
                let unit = peer.unit.as_ref().map(|unit| format!(", {unit},")).unwrap_or_default();
                stays(&format!("uid {}{unit} used it {}", peer.uid, output::ago(peer.last)));
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
        Ok(has_files)
    }
}

/// Time for which the use of a key counts for a deletion.
const RECENTLY: Duration = Duration::from_secs(3600);
