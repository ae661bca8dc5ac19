//! The steps of a change, and the way back from each of them.
//!
//! Every way back has the same order: files, check by the server, reload of the server, and only
//! then the grants and keys that the server has used until then.

mod checks;
mod keys;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::Protect;
use super::journal::{Journal, Phase};
use super::keys::reference;
use super::plan::Plan;
use super::running::Running;
use crate::admin::client::AdminClient;
use crate::cli::failure::Failure;
use crate::cli::{output, program, service_files};
use crate::ground::exit;
use checks::{Shown, compare, shown};

/// A change of a running server.
pub(super) struct Change<'a> {
    pub(super) options: &'a Protect,
    pub(super) admin: &'a AdminClient,
    pub(super) server: &'a dyn Running,
    pub(super) journal: &'a mut Journal,
}

impl Change<'_> {
    /// Carries out a plan. If a step fails, everything that this run has done is put back.
    ///
    /// # Errors
    /// [`Failure`] of the step.
    pub(super) fn make(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.check_daemon()?;
        let before = shown(&plan.probes.all)?;
        self.check_comparison(plan, &before)?;
        self.journal.begin_run().map_err(|failure| failure.while_trying("nothing was changed"))?;
        let Err(failure) = self.steps(plan, &before) else { return Ok(()) };
        let undone = self.server.back().and_then(|()| self.undo_run());
        Err(self.explained(failure, undone.map(drop)))
    }

    /// Gives the workers the grants of a plan that moves no key. The grants go back together with
    /// the last run, so that its references are not without them in between.
    ///
    /// # Errors
    /// [`Failure`] of the step. The grants are as before.
    pub(super) fn grant(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.check_daemon()?;
        let is_first = self.journal.phase().is_none();
        if is_first {
            self.journal.begin_run().map_err(|failure| failure.while_trying("nothing was changed"))?;
        }
        let Err(failure) = self.write_grants(plan) else {
            self.done(&format!("the daemon grants the keys to {}", self.options.server.title()));
            return self.journal.enter(Phase::Done);
        };
        let undone = match is_first {
            true => self.undo_run().map(drop),
            false => self.take_grants_back(plan),
        };
        Err(self.explained(failure, undone))
    }

    fn write_grants(&mut self, plan: &Plan) -> Result<(), Failure> {
        let files = plan.contents(&[], |_| true);
        self.journal.keep(&files, &plan.texts, &plan.replaced_texts(), &plan.replaced)?;
        for (label, uses) in &plan.granted {
            let needed = uses.iter().map(|one| one.name().to_owned()).collect();
            self.journal.note_user(label, needed)?;
        }
        for (path, contents) in &files {
            self.journal.write(path, contents)?;
        }
        self.reload_daemon()?;
        self.check_grants(plan)
    }

    fn take_grants_back(&self, plan: &Plan) -> Result<(), Failure> {
        for path in plan.new_files.keys() {
            match plan.texts.get(path) {
                Some(before) => self.journal.write(path, before.as_bytes())?,
                None => drop(fs::remove_file(path)),
            }
        }
        self.reload_daemon()
    }

    /// The failure of a change, with the state of the way back.
    fn explained(&self, failure: Failure, undone: Result<(), Failure>) -> Failure {
        match undone {
            Ok(()) => failure.while_trying("everything was put back"),
            Err(error) => failure.while_trying(format_args!(
                "not everything could be put back ({}); correct that, and run: {}",
                error.into_reason(),
                self.options.command("--undo")
            )),
        }
    }

    fn steps(&mut self, plan: &Plan, before: &Shown) -> Result<(), Failure> {
        // Handshakes and a question have taken their time since.
        plan.keys.check_unchanged()?;
        let title = self.options.server.title();
        let references = self.take_keys(plan)?;
        let all = plan.contents(&references, |_| true);
        let first = plan.contents(&references, |edit| edit.is_environment);
        let edits = plan.replaced_texts();
        self.journal.keep(&first, &plan.texts, &edits, &plan.replaced)?;
        self.journal.keep(&all, &plan.texts, &edits, &plan.replaced)?;
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
                self.adopt_changes()?;
                self.undo_run()?;
                self.done("an interrupted change was undone");
                Ok(())
            }
        }
    }

    /// Puts everything back as it was before the first run.
    ///
    /// # Errors
    /// [`Failure`] if key files were removed: no run that is done is undone then. [`Failure`] if a
    /// file in the place of a key file was changed since, or the server does not take the old
    /// files: the runs after that one are undone, and that one is not.
    pub(super) fn undo(&mut self) -> Result<(), Failure> {
        if self.journal.phase().is_none() {
            self.journal.remove()?;
            let reason = "keyward protect has changed nothing here that is not undone";
            return Err(Failure::new(exit::NO_INPUT, reason));
        }
        let mut is_whole = true;
        while let Some(phase) = self.journal.phase() {
            // A change that was interrupted goes back alone.
            if phase == Phase::Done && self.journal.is_final() {
                let reason = format_args!(
                    "no change that is done was put back: the key files were removed, so {} cannot use them again",
                    self.options.server.title()
                );
                return Err(Failure::new(exit::NO_INPUT, reason));
            }
            is_whole &= self.adopt_changes()?;
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

    /// Undoes the last run. Returns false if a file is not as it was: it has a new key, or somebody
    /// has removed or changed it.
    fn undo_run(&mut self) -> Result<bool, Failure> {
        let was_done = self.journal.phase() == Some(Phase::Done);
        let begun = self.journal.begin_undo();
        begun.map_err(|failure| failure.while_trying("no further file was put back"))?;
        let back = self.journal.put_back();
        let back = back.map_err(|failure| failure.while_trying("not every file was put back yet"))?;
        let checked = self.server.check(self.options);
        let mut checked = checked.and_then(|()| if was_done { self.check_references() } else { Ok(None) });
        // Another part of the configuration may name a file of the run, such as a new site.
        if was_done && checked.is_err() {
            self.journal.write_again(&back)?;
            self.journal.enter(Phase::Done)?;
            checked = checked.map_err(|refusal| refusal.while_trying("nothing was put back"));
        }
        // After a refusal, the drop-in of the service is there again.
        let reloaded = reload_systemd();
        let unseen = checked?;
        reloaded?;
        self.server.reload(self.options)?;
        // Handshakes that have begun with references still need the keys.
        self.server.settle();
        let title = self.options.server.title();
        if self.server.is_running() {
            self.done(&format!("{title} uses the files of before"));
        }
        let has_files = self.forget_keys(unseen.as_deref()).map_err(|failure| {
            failure.while_trying(format_args!(
                "the files of {title} are as they were, and the daemon still has grants and keys; when it answers, run the command again"
            ))
        })?;
        self.journal.forget_run()?;
        Ok(back.is_whole() && has_files)
    }

    /// Checks that the server names no reference any more to a key that is about to go. Returns the
    /// reason why nobody can see that, if there is one: the files go back then, and the keys stay.
    fn check_references(&self) -> Result<Option<String>, Failure> {
        let labels = self.journal.labels_of_last();
        let files = match self.server.files_in_use(self.options) {
            Ok(files) => files,
            Err(failure) => return Ok(Some(failure.into_reason())),
        };
        let label_of = |path: &PathBuf| {
            let found = path.is_file().then(|| reference(path)).flatten()?;
            labels.contains(found.label().as_str()).then(|| found.label().to_string())
        };
        match files.iter().find_map(|path| Some((path, label_of(path)?))) {
            None => Ok(None),
            Some((path, label)) => {
                let reason = format_args!(
                    "{} names {}, a reference to key {label}, which would go: name the key file there, and run the command again",
                    self.options.server.title(),
                    path.display()
                );
                Err(Failure::new(exit::CONFIG, reason))
            }
        }
    }

    /// Leaves changes of others as they are, and says so. Returns true if there are none.
    fn adopt_changes(&mut self) -> Result<bool, Failure> {
        let adopted = self.journal.adopt_changes()?;
        for path in &adopted {
            output::note(format_args!(
                "{} was changed since: that change stays, and only the texts of this command leave the file",
                path.display()
            ));
        }
        Ok(adopted.is_empty())
    }

    fn done(&self, step: &str) {
        self.options.done(step);
    }
}

/// Has systemd read the drop-in of the service of the server again.
fn reload_systemd() -> Result<(), Failure> {
    if !service_files::has_systemd() {
        return Ok(());
    }
    let reloaded = program::run("systemctl", &["daemon-reload"], b"");
    reloaded.map(drop).map_err(|error| Failure::new(exit::UNAVAILABLE, error))
}
