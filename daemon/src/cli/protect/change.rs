//! The steps of a change, and the way back from each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use keyward_proto::Reference;

use super::journal::{Entries, Journal, KeyFile, Phase};
use super::nginx::{self, Nginx};
use super::plan::{Plan, Probe};
use super::{Protect, has_systemd};
use crate::admin::api::User;
use crate::admin::client::AdminClient;
use crate::cli::failure::Failure;
use crate::config::Config;
use crate::ground::exit;
use crate::servers::served;

/// Certificates that listeners show, by SHA-256.
type Shown = BTreeMap<Probe, String>;

/// Carries out a plan. If a step fails, everything is put back.
///
/// # Errors
/// [`Failure`] of the step.
pub(super) fn make(
    options: &Protect,
    admin: &AdminClient,
    mut journal: Journal,
    nginx: &Nginx,
    plan: &Plan,
    texts: BTreeMap<PathBuf, String>,
) -> Result<(), Failure> {
    check_daemon(admin)?;
    let before = shown(&plan.probes)?;
    let made = steps(options, admin, &mut journal, nginx, plan, &texts, &before);
    let Err(failure) = made else { return Ok(()) };
    let undone = nginx::back(nginx).and_then(|()| put_back(options, admin, &mut journal));
    match undone {
        Ok(()) => {
            // A master that has read the new files reads the old ones again.
            if nginx.master.signal(None).is_ok() {
                nginx::reload(&nginx.master)?;
            }
            journal.remove()?;
            Err(failure.while_trying("everything was put back"))
        }
        Err(error) => Err(failure.while_trying(format_args!(
            "not everything could be put back ({}); run: keyward protect nginx --undo",
            error.into_reason()
        ))),
    }
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
    journal.begin(&BTreeMap::new())?;
    let references = take_keys(options, admin, journal, plan)?;
    let all = plan.contents(texts, &references, |_| true);
    let first = plan.contents(texts, &references, |edit| edit.is_environment);
    journal.begin(&first)?;
    journal.begin(&all)?;
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
        for path in first.keys().filter(|path| edited.contains(path)) {
            journal.write(path, &first[path])?;
        }
        nginx.check(options)?;
        nginx::reload(&nginx.master)?;
        options.done("nginx knows where the provider is");
    }
    for path in &edited {
        journal.write(path, &all[*path])?;
    }
    nginx.check(options)?;
    options.done("nginx accepts the references");
    if has_systemd() {
        systemctl(&["daemon-reload"])?;
    }
    journal.enter(Phase::Switching)?;
    nginx::forward(nginx)?;
    options.done("nginx uses the references");
    compare(before, &shown(&plan.probes)?)?;
    options.done(&format!("{} listeners show the same certificates as before", before.len()));
    end(options, journal, nginx)
}

/// Ends the old master, and notes that the change is done.
fn end(options: &Protect, journal: &mut Journal, nginx: &Nginx) -> Result<(), Failure> {
    journal.enter(Phase::Done)?;
    match nginx::finish(nginx)? {
        true => options.done("no process of nginx from before is left"),
        false => crate::cli::output::warn(format_args!(
            "connections of before keep the old nginx (process {}) alive, which has the keys in its memory; it ends with them",
            nginx.master.pid
        )),
    }
    Ok(())
}

/// Has the daemon take the keys.
fn take_keys(
    options: &Protect,
    admin: &AdminClient,
    journal: &mut Journal,
    plan: &Plan,
) -> Result<Vec<Reference>, Failure> {
    let mut references = Vec::new();
    for key in &plan.keys.planned {
        for file in &key.files {
            journal.note_key_file(file, key.label.as_str())?;
        }
        // Noted first: the undo removes a key that was made, and nothing was there before.
        if !key.is_known() {
            journal.note_key(key.label.as_str())?;
        }
        let (reference, is_new) = key.take(admin)?;
        references.push(reference);
        let how = if is_new { "imported" } else { "is in the daemon already" };
        options.done(&format!("key {} {how}", key.label));
    }
    Ok(references)
}

/// Goes on with a change that was interrupted, or undoes it.
///
/// # Errors
/// [`Failure`] if it can neither go on nor be undone.
pub(super) fn recover(options: &Protect, admin: &AdminClient, journal: &mut Journal) -> Result<(), Failure> {
    match journal.entries.as_ref().map(|entries| entries.phase) {
        None | Some(Phase::Done) => Ok(()),
        Some(Phase::Switching) => {
            let nginx = Nginx::find(options.pid)?;
            nginx.check(options)?;
            nginx::forward(&nginx)?;
            options.done("nginx uses the references: an interrupted change is complete now");
            end(options, journal, &nginx)
        }
        Some(Phase::Writing | Phase::Undoing) => {
            refuse_foreign(journal)?;
            put_back(options, admin, journal)?;
            options.done("an interrupted change was undone");
            journal.clear()
        }
    }
}

/// Puts everything back as it was.
///
/// # Errors
/// [`Failure`] if a file was changed since, or nginx does not take the old files.
pub(super) fn undo(options: &Protect, admin: &AdminClient, mut journal: Journal) -> Result<(), Failure> {
    if journal.entries.is_none() {
        journal.remove()?;
        let reason = "keyward protect has changed nothing here that is not undone";
        return Err(Failure::new(exit::NO_INPUT, reason));
    }
    if journal.entries.as_ref().is_some_and(|entries| entries.is_final) {
        let reason =
            "the key files were removed, so nginx cannot use them again; the keys are in the daemon alone";
        return Err(Failure::new(exit::NO_INPUT, reason));
    }
    refuse_foreign(&journal)?;
    let nginx = Nginx::find(options.pid)?;
    nginx::back(&nginx)?;
    put_files_back(&mut journal)?;
    nginx.check(options)?;
    nginx::reload(&nginx.master)?;
    // Handshakes that have begun with references still need the keys.
    nginx::settle(&nginx.master);
    options.done("nginx uses the key files again");
    forget_keys(options, admin, &journal)?;
    journal.remove()?;
    options.done("every file is as it was");
    Ok(())
}

/// Removes the key files of a change that is done.
///
/// # Errors [`Failure`] if nginx still names one of the files, or a file is not the one that was
/// imported, or its key does not sign.
pub(super) fn remove_key_files(
    options: &Protect,
    admin: &AdminClient,
    mut journal: Journal,
) -> Result<(), Failure> {
    let is_done = |entries: &&Entries| entries.phase == Phase::Done;
    let Some(entries) = journal.entries.as_ref().filter(is_done) else {
        let reason = "there is nothing to remove: first run keyward protect nginx";
        return Err(Failure::new(exit::NO_INPUT, reason));
    };
    let nginx = Nginx::find(options.pid)?;
    let named = nginx.key_files(options)?;
    for file in entries.key_files.iter().filter(|file| file.path.exists()) {
        let refused =
            |why: &str| Failure::new(exit::CONFIG, format_args!("{} stays: {why}", file.path.display()));
        if named.contains(&file.path) {
            return Err(refused("nginx uses the file"));
        }
        if !entries.is_final && KeyFile::of(&file.path, &file.label)? != *file {
            return Err(refused("it was changed since its key was imported"));
        }
        if admin.show(&file.label)?.state != "enabled" {
            return Err(refused(&format!("its key {} does not sign in the daemon now", file.label)));
        }
    }
    for path in journal.remove_key_files()? {
        options.done(&format!("{} removed", path.display()));
    }
    crate::cli::output::note(
        "the keys are in the daemon alone: keep a copy of its key store (keyward backup FILE); copies of the key files in backups still have the keys",
    );
    Ok(())
}

/// Puts the files back, and has the daemon forget keys and grants.
fn put_back(options: &Protect, admin: &AdminClient, journal: &mut Journal) -> Result<(), Failure> {
    put_files_back(journal)?;
    forget_keys(options, admin, journal)
}

fn put_files_back(journal: &mut Journal) -> Result<(), Failure> {
    journal.enter(Phase::Undoing)?;
    journal.put_back()?;
    if has_systemd() {
        systemctl(&["daemon-reload"])?;
    }
    Ok(())
}

/// Takes the grants out of force, and deletes the keys that the change has imported. Their key
/// files are there.
fn forget_keys(options: &Protect, admin: &AdminClient, journal: &Journal) -> Result<(), Failure> {
    reload_daemon(options, admin)?;
    let (known, _) = admin.list()?;
    let imported = journal.entries.iter().flat_map(|entries| &entries.imported);
    for label in imported {
        if known.iter().any(|key| key.label == *label && key.deletion.is_none()) {
            admin.delete(label, None, true)?;
            options
                .done(&format!("key {label} deleted; keyward key restore {label} brings it back for a time"));
        }
    }
    Ok(())
}

fn refuse_foreign(journal: &Journal) -> Result<(), Failure> {
    let changed: Vec<_> = journal.changed_since().iter().map(|path| path.display().to_string()).collect();
    match changed.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            exit::CONFIG,
            format_args!(
                "these files were changed since, and would lose that change: {}; copies of the files as they were are in the journal",
                changed.join(", ")
            ),
        )),
    }
}

/// Checks that the daemon can take keys.
fn check_daemon(admin: &AdminClient) -> Result<(), Failure> {
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
    let config = Config::load(&options.config).map_err(|error| Failure::new(exit::CONFIG, error))?;
    let reloaded = admin.reload()?;
    for problem in &reloaded.problems {
        crate::cli::output::warn(problem);
    }
    match admin.status()?.config.is_none_or(|in_force| in_force == config.fingerprint()) {
        true => Ok(()),
        false => Err(Failure::new(
            exit::CONFIG,
            format_args!(
                "the daemon has another configuration than {}; name its file with --config",
                options.config.display()
            ),
        )),
    }
}

/// Checks that the workers of nginx may use each key.
fn check_grants(admin: &AdminClient, nginx: &Nginx, plan: &Plan) -> Result<(), Failure> {
    let user = User {
        uid: nginx.user,
        gid: nginx.group,
        groups: None,
        service: Some(nginx.service.clone().unwrap_or_default()),
    };
    for key in &plan.keys.planned {
        let access = admin.access(key.label.as_str(), &user)?;
        if let Some(missing) =
            key.uses.iter().find(|one| !access.granted.iter().any(|known| known == one.name()))
        {
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
        let found = runtime.block_on(served::certificate_of(probe.at, &probe.name, Some(probe.family)));
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
        false => "does not shake hands any more",
    };
    Err(Failure::new(exit::UNAVAILABLE, format_args!("the listener {} {how}, for {}", probe.at, probe.name)))
}

fn systemctl(words: &[&str]) -> Result<(), Failure> {
    let failed =
        |why: String| Failure::new(exit::UNAVAILABLE, format_args!("systemctl {}: {why}", words.join(" ")));
    let ended = Command::new("systemctl").args(words).output().map_err(|error| failed(error.to_string()))?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&ended.stderr).trim().to_owned())),
    }
}
