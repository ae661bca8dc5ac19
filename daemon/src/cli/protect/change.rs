//! The steps of a change, and the way back from each of them.
//!
//! Every way back has the same order: files, check by the server, reload of the server, and only
//! then the grants and keys that the server has used until then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use keyward_proto::Reference;

use super::Protect;
use super::journal::{Journal, Phase, digest};
use super::nginx::{self, Nginx};
use super::plan::{Plan, Probe};
use crate::admin::api::User;
use crate::admin::client::AdminClient;
use crate::cli::failure::Failure;
use crate::cli::{output, program, service_files};
use crate::config::Config;
use crate::ground::exit;
use crate::servers::served;

/// Certificates that listeners show, by SHA-256.
type Shown = BTreeMap<Probe, String>;

/// Carries out a plan. If a step fails, everything that this run has done is put back.
///
/// # Errors
/// [`Failure`] of the step.
pub(super) fn make(
    options: &Protect,
    admin: &AdminClient,
    journal: &mut Journal,
    nginx: &Nginx,
    plan: &Plan,
    texts: &BTreeMap<PathBuf, String>,
) -> Result<(), Failure> {
    check_daemon(options, admin)?;
    let before = shown(&plan.probes)?;
    for name in plan.unseen(before.keys()) {
        output::warn(format_args!("{name} does not shake hands now, so nobody can compare its certificate"));
    }
    journal.begin_run()?;
    let made = steps(options, admin, journal, nginx, plan, texts, &before);
    let Err(failure) = made else { return Ok(()) };
    let undone = nginx::back(nginx).and_then(|()| undo_run(options, admin, journal, nginx));
    Err(match undone {
        Ok(()) => failure.while_trying("everything was put back"),
        Err(error) => failure.while_trying(format_args!(
            "not everything could be put back ({}); correct that, and run: keyward protect nginx --undo",
            error.into_reason()
        )),
    })
}

fn steps(
    options: &Protect,
    admin: &AdminClient,
    journal: &mut Journal,
    nginx: &Nginx,
    plan: &Plan,
    texts: &BTreeMap<PathBuf, String>,
    before: &Shown,
) -> Result<(), Failure> {
    let references = take_keys(options, admin, journal, plan)?;
    let all = plan.contents(texts, &references, |_| true);
    let first = plan.contents(texts, &references, |edit| edit.is_environment);
    journal.keep(&first, texts)?;
    journal.keep(&all, texts)?;
    // The grants come before the first request, and the references before the lines that name them.
    let edited: BTreeSet<_> = plan.edits.iter().map(|edit| &edit.path).collect();
    for (path, contents) in all.iter().filter(|(path, _)| !edited.contains(path)) {
        journal.write(path, contents)?;
    }
    options.done(&format!("{} new files", all.len() - edited.len()));
    reload_daemon(options, admin)?;
    check_grants(admin, nginx, plan)?;
    options.done("the daemon grants the keys to nginx");
    if !nginx.has_provider() {
        for (path, contents) in first.iter().filter(|(path, _)| edited.contains(path)) {
            journal.write(path, contents)?;
        }
        nginx.check(options)?;
        nginx::reload(&nginx.master)?;
        options.done("nginx knows where the provider is");
    }
    for (path, contents) in all.iter().filter(|(path, _)| edited.contains(path)) {
        journal.write(path, contents)?;
    }
    nginx.check(options)?;
    options.done("nginx accepts the references");
    reload_systemd()?;
    journal.enter(Phase::Switching)?;
    nginx::forward(nginx)?;
    options.done("nginx uses the references");
    compare(before, &shown(&plan.probes)?)?;
    options.done(&format!("{} handshakes show the same certificates as before", before.len()));
    end(options, journal, nginx)
}

/// Ends the old master, and notes that the run is done.
fn end(options: &Protect, journal: &mut Journal, nginx: &Nginx) -> Result<(), Failure> {
    journal.enter(Phase::Ending)?;
    match nginx::finish(nginx)? {
        true => options.done("no process of nginx from before is left"),
        false => output::warn(format_args!(
            "connections of before keep the old nginx (process {}) alive, which has the keys in its memory; it ends with them",
            nginx.master.pid
        )),
    }
    journal.enter(Phase::Done)
}

/// Has the daemon take the keys.
fn take_keys(
    options: &Protect,
    admin: &AdminClient,
    journal: &mut Journal,
    plan: &Plan,
) -> Result<Vec<Reference>, Failure> {
    for (file, number) in plan.key_files() {
        if let Some(key) = plan.keys.planned.get(number) {
            journal.note_key_file(file, key.label.as_str())?;
        }
    }
    let mut references = Vec::new();
    for key in &plan.keys.planned {
        // Noted first: the undo removes a key that was made, and nothing was there before.
        if !key.is_known() {
            journal.note_key(key.label.as_str(), key.spki())?;
        }
        let (reference, is_new) = key.take(admin)?;
        references.push(reference);
        let how = if is_new { "imported" } else { "is in the daemon already" };
        options.done(&format!("key {} {how}", key.label));
    }
    Ok(references)
}

/// Goes on with a run that was interrupted, or undoes that run.
///
/// # Errors
/// [`Failure`] if it can neither go on nor be undone.
pub(super) fn recover(
    options: &Protect,
    admin: &AdminClient,
    journal: &mut Journal,
    nginx: &Nginx,
) -> Result<(), Failure> {
    match journal.phase() {
        None | Some(Phase::Done) => Ok(()),
        Some(Phase::Switching) => {
            nginx.check(options)?;
            nginx::forward(nginx)?;
            options.done("nginx uses the references: an interrupted change is complete now");
            end(options, journal, nginx)
        }
        Some(Phase::Ending) => end(options, journal, nginx),
        Some(Phase::Writing | Phase::Undoing) => {
            refuse_foreign(journal)?;
            undo_run(options, admin, journal, nginx)?;
            options.done("an interrupted change was undone");
            Ok(())
        }
    }
}

/// Puts everything back as it was before the first run.
///
/// # Errors
/// [`Failure`] if a file was changed since, or nginx does not take the old files. The runs before
/// that one are undone, and that one is not.
pub(super) fn undo(
    options: &Protect,
    admin: &AdminClient,
    mut journal: Journal,
    nginx: &Nginx,
) -> Result<(), Failure> {
    if journal.phase().is_none() {
        journal.remove()?;
        let reason = "keyward protect has changed nothing here that is not undone";
        return Err(Failure::new(exit::NO_INPUT, reason));
    }
    while journal.phase().is_some() {
        if journal.is_final() {
            let reason = "the key files were removed, so nginx cannot use them again; the keys are in the daemon alone";
            return Err(Failure::new(exit::NO_INPUT, reason));
        }
        refuse_foreign(&journal)?;
        nginx::back(nginx)?;
        undo_run(options, admin, &mut journal, nginx)?;
    }
    journal.remove()?;
    options.done("every file is as it was");
    Ok(())
}

/// Undoes the last run.
fn undo_run(
    options: &Protect,
    admin: &AdminClient,
    journal: &mut Journal,
    nginx: &Nginx,
) -> Result<(), Failure> {
    let was_done = journal.phase() == Some(Phase::Done);
    journal.enter(Phase::Undoing)?;
    journal.put_back()?;
    reload_systemd()?;
    if let Err(refusal) = nginx.check(options) {
        // Another part of the configuration may name a file of the run, such as a new site.
        if was_done {
            journal.write_again()?;
            journal.enter(Phase::Done)?;
            return Err(refusal.while_trying("nothing was put back"));
        }
        return Err(refusal);
    }
    nginx::reload(&nginx.master)?;
    // Handshakes that have begun with references still need the keys.
    nginx::settle(&nginx.master);
    options.done("nginx uses the files of before");
    forget_keys(options, admin, journal)?;
    journal.forget_run()
}

/// Removes the key files of changes that are done.
///
/// # Errors [`Failure`] if nginx still names one of the files, or a file is not the one that was
/// imported, or its key does not sign.
pub(super) fn remove_key_files(
    options: &Protect,
    admin: &AdminClient,
    journal: &mut Journal,
    nginx: &Nginx,
) -> Result<(), Failure> {
    if journal.phase() != Some(Phase::Done) {
        let reason = "there is nothing to remove: first run keyward protect nginx";
        return Err(Failure::new(exit::NO_INPUT, reason));
    }
    let named = nginx.files_in_use(options)?;
    for file in journal.key_files() {
        let refused =
            |why: &str| Failure::new(exit::CONFIG, format_args!("{} stays: {why}", file.path.display()));
        if named.contains(&file.path) {
            return Err(refused("nginx uses the file"));
        }
        if !file.is_same() {
            return Err(refused("it was changed since its key was imported"));
        }
        if admin.show(&file.label)?.state != "enabled" {
            return Err(refused(&format!("its key {} does not sign in the daemon now", file.label)));
        }
    }
    for path in journal.remove_key_files()? {
        options.done(&format!("{} removed", path.display()));
    }
    output::note(
        "the keys are in the daemon alone: keep a copy of its key store (keyward backup FILE); copies of the key files in backups still have the keys",
    );
    Ok(())
}

/// Takes the grants out of force, and deletes the keys that the run has imported. Their key files
/// are there.
fn forget_keys(options: &Protect, admin: &AdminClient, journal: &Journal) -> Result<(), Failure> {
    reload_daemon(options, admin)?;
    let (known, _) = admin.list()?;
    for imported in journal.imported() {
        let Some(key) = known.iter().find(|key| key.label == imported.label && key.deletion.is_none()) else {
            continue;
        };
        let is_it =
            |number: u32| key.public_key(number).is_some_and(|spki| digest(&spki) == imported.public_key);
        // Another version, or another key, is in no file.
        match key.versions.as_slice() {
            [one] if is_it(one.number) => {
                admin.delete(&imported.label, None, true)?;
                options.done(&format!(
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

fn refuse_foreign(journal: &Journal) -> Result<(), Failure> {
    let changed: Vec<_> = journal
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
fn check_daemon(options: &Protect, admin: &AdminClient) -> Result<(), Failure> {
    check_in_force(options, admin)?;
    let status = admin.status()?;
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
fn reload_daemon(options: &Protect, admin: &AdminClient) -> Result<(), Failure> {
    let reloaded = admin.reload()?;
    for problem in &reloaded.problems {
        output::warn(problem);
    }
    check_in_force(options, admin)
}

/// Checks that the daemon has read the configuration file as it is now.
fn check_in_force(options: &Protect, admin: &AdminClient) -> Result<(), Failure> {
    let config = Config::load(&options.config).map_err(|error| Failure::new(exit::CONFIG, error))?;
    match admin.status()?.config.is_none_or(|in_force| in_force == config.fingerprint()) {
        true => Ok(()),
        false => Err(Failure::new(
            exit::CONFIG,
            format_args!(
                "the daemon has another configuration than {}; if that is its file, run keyward reload, or else name the file with --config",
                options.config.display()
            ),
        )),
    }
}

/// Checks that the workers of nginx may use each key.
fn check_grants(admin: &AdminClient, nginx: &Nginx, plan: &Plan) -> Result<(), Failure> {
    let service = Some(nginx.service.clone().unwrap_or_default());
    let user = User { uid: nginx.user, gid: nginx.group, groups: None, service };
    for key in &plan.keys.planned {
        let access = admin.access(key.label.as_str(), &user)?;
        let is_granted = |name: &str| access.granted.iter().any(|known| known == name);
        if let Some(missing) = key.uses.iter().find(|one| !is_granted(one.name())) {
            let why = access.obstacle.unwrap_or_else(|| "no grant covers it".into());
            return Err(Failure::new(
                exit::CONFIG,
                format_args!("the workers of nginx may not use key {} for {missing}: {why}", key.label),
            ));
        }
    }
    Ok(())
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
        true => "shows another certificate than before",
        false => "does not shake hands any more; the log of the daemon (keyward audit tail) may say why",
    };
    Err(Failure::new(exit::UNAVAILABLE, format_args!("the listener {} {how}, for {}", probe.at, probe.name)))
}

/// Has systemd read the drop-in of the service of nginx again.
fn reload_systemd() -> Result<(), Failure> {
    if !service_files::has_systemd() {
        return Ok(());
    }
    let reloaded = program::run("systemctl", &["daemon-reload"], b"");
    reloaded.map(drop).map_err(|error| Failure::new(exit::UNAVAILABLE, error))
}
