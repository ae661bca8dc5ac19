//! The other users of the files of a server: servers of this host, running or not, and the command
//! lines of processes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::plan::Plan;
use super::{Protect, Server, running};
use crate::cli::doctor;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::ground::exit;
use crate::servers::processes;

/// A user of files, for people, and the files.
pub(super) type User = (String, BTreeSet<PathBuf>);

impl Protect {
    /// Files that other servers of some kinds use, with the names of these servers. `own` is the
    /// process of the server itself.
    ///
    /// # Errors
    /// [`Failure`] if the files of a server cannot be seen, and `is_needed` says that they must be.
    fn other_servers(&self, kinds: &[Server], own: i32, is_needed: bool) -> Result<Vec<User>, Failure> {
        let mut all = Vec::new();
        for kind in kinds {
            for master in processes::masters(kind.program()).iter().filter(|master| master.pid != own) {
                let look = || kind.find(Some(master.pid)).and_then(|server| server.files_in_use(self));
                let mut found = look();
                // The process may have begun just now, or may be a check of a configuration.
                running::wait(|| {
                    let is_over = found.is_ok() || !is_needed || master.signal(None).is_err();
                    if !is_over {
                        found = look();
                    }
                    is_over
                });
                match found {
                    Ok(files) => all.push((format!("{} (process {})", kind.title(), master.pid), files)),
                    // A process that has just ended uses nothing.
                    Err(failure) if master.signal(None).is_ok() => {
                        let (status, title) = (failure.status(), kind.title());
                        let reason = format!(
                            "cannot see which files {title} (process {}) uses: {}",
                            master.pid,
                            failure.into_reason()
                        );
                        if is_needed {
                            return Err(Failure::new(status, reason));
                        }
                        output::warn(reason);
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(all)
    }

    /// Refuses references in files that another server reads, too: in the place of a key file, or
    /// named in a part of the configuration.
    pub(super) fn check_other_servers(&self, own: i32, plan: &Plan) -> Result<(), Failure> {
        let name = |path: &Path| {
            let directory = running::real(path.parent().unwrap_or(Path::new("/")));
            directory.join(path.file_name().unwrap_or_default())
        };
        let edited = plan.edits.iter().map(|edit| &edit.path);
        let changed: BTreeSet<_> = edited.chain(plan.replaced.keys()).map(|path| name(path)).collect();
        // Only servers of one kind share parts of a configuration.
        let kinds = match plan.replaced.is_empty() {
            true => core::slice::from_ref(&self.server),
            false => Server::value_variants(),
        };
        for (user, files) in self.other_servers(kinds, own, !plan.replaced.is_empty())? {
            if let Some(path) = files.iter().find(|path| changed.contains(&name(path))) {
                let reason = format_args!(
                    "{user} uses {} too, and could not use a reference there: give it a file of its own",
                    path.display()
                );
                return Err(Failure::new(exit::CONFIG, reason));
            }
        }
        Ok(())
    }

    /// Key files of other servers of this host, with the names of these servers. Says which ones
    /// they are. `own` is the process of the server itself.
    ///
    /// # Errors
    /// [`Failure`] if the files of a server that runs cannot be seen.
    pub(super) fn other_users(&self, own: i32) -> Result<Vec<User>, Failure> {
        let mut all = self.other_servers(Server::value_variants(), own, true)?;
        for one in doctor::configured_keys() {
            for unread in &one.unread {
                output::note(format_args!("not read of the configuration of {}: {unread}", one.server));
            }
            all.push((one.server, one.files));
        }
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        let names = if names.is_empty() { "no server".to_owned() } else { names.join(", ") };
        output::note(format_args!(
            "looked for other users of the key files in the configurations of {names}, and in the command lines of all processes; other programs, and containers, may need the files, too"
        ));
        Ok(all)
    }
}
