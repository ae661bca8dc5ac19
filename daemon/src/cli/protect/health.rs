//! The health of the servers that were changed, as their journals name them: a server that does not
//! run shows no other sign of its keys.
//!
//! Only root can read the journals. Another user learns that there are some.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::running::Running;
use super::{Server, doctor};
use super::{journal, keys};
use crate::ground::text::printable;
use crate::serve::DEFAULT_CONFIG;

/// A fault of a protected server, and its fix.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::cli) struct Fault {
    pub(in crate::cli) detail: String,
    pub(in crate::cli) fix: String,
}

/// A protected server that runs with the provider.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Protected {
    /// The first process.
    pub(in crate::cli) pid: i32,
    /// User of its workers.
    pub(in crate::cli) uid: u32,
    /// Files that `keyward protect` has given a reference, or has taken a key from.
    pub(in crate::cli) files: BTreeSet<PathBuf>,
    /// Labels of the keys that it has given the server.
    pub(in crate::cli) labels: BTreeSet<String>,
    /// The command that protects the server again.
    pub(in crate::cli) command: String,
}

/// The servers that have journals beside the configuration of the daemon.
#[derive(Debug, Default)]
pub(in crate::cli) struct ProtectedServers {
    /// Servers that do not run with the provider, and a provider that is missing.
    pub(in crate::cli) faults: Vec<Fault>,
    pub(in crate::cli) running: Vec<Protected>,
}

impl ProtectedServers {
    /// Looks at the journals and the processes.
    pub(in crate::cli) fn look(config: Option<&Path>) -> Self {
        let journals = journals(config.unwrap_or(Path::new(DEFAULT_CONFIG)));
        let mut found = Self::default();
        if !rustix::process::geteuid().is_root() {
            found.faults.extend(unseen(&journals));
            return found;
        }
        let mut is_any = false;
        for server in Server::value_variants() {
            let changed: Vec<_> = journal::all(&journals, server.name()).collect();
            // The processes are looked at only for a reason.
            let running = if changed.is_empty() { Vec::new() } else { server.running() };
            is_any |= !changed.is_empty();
            for one in &changed {
                match protected(*server, &journals.join(&one.0), one, &running) {
                    Ok(protected) => found.running.push(protected),
                    Err(fault) => found.faults.push(fault),
                }
            }
        }
        if is_any {
            let missing = doctor::missing_module(&journals.with_file_name(OPENSSL_CONF));
            found.faults.extend(missing.map(|module| without_module(&module)));
        }
        found
    }
}

/// Directory of the journals, beside the configuration of the daemon.
pub(super) fn journals(config: &Path) -> PathBuf {
    config.parent().unwrap_or(Path::new("/")).join(DIRECTORY)
}

/// The fault that nobody has looked at the servers that have journals.
fn unseen(journals: &Path) -> Option<Fault> {
    let names = fs::read_dir(journals).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names: BTreeSet<_> = names.map(|name| printable(&name.to_string_lossy())).collect();
    (!names.is_empty()).then(|| Fault {
        detail: format!(
            "only root can see if the servers run that keyward protect has changed: {}",
            Vec::from_iter(names).join(", ")
        ),
        fix: "run this command as root".to_owned(),
    })
}

/// The commands for a renewal that has made a new key, which the reference in a file does not fit.
pub(in crate::cli) fn commands_for_new_key(reference: &Path) -> String {
    keys::other_key(reference)
}

/// The server of a journal.
///
/// # Errors
/// A fault, if the server does not run with the provider.
fn protected(
    server: Server,
    journal: &Path,
    (name, file): &(String, Option<PathBuf>),
    running: &[Box<dyn Running>],
) -> Result<Protected, Fault> {
    let (title, kind, program) = (server.title(), server.name(), server.program());
    let state = match running.iter().find(|one| one.name() == *name) {
        Some(one) if one.has_provider() => {
            let pid = one.pid();
            let (files, labels) = journal::changed(journal);
            let choice = if running.len() > 1 { format!(" --pid {pid}") } else { String::new() };
            return Ok(Protected {
                pid,
                uid: one.workers().uid,
                files,
                labels,
                command: format!("keyward protect {kind}{choice}"),
            });
        }
        Some(_) => "runs without the provider keyward",
        None => "does not run",
    };
    let is_usual = name == kind;
    let file = file.as_ref().filter(|_| !is_usual);
    let with = file.map(|file| format!(" with {}", file.display())).unwrap_or_default();
    let which = if is_usual { String::new() } else { format!("={name}") };
    // The service of another one is not known.
    let see = match is_usual {
        true => format!("see its state: systemctl status {program}"),
        false => "start it again".to_owned(),
    };
    Err(Fault {
        detail: format!("{title}{with} {state}, and keyward protect has moved its keys into the daemon"),
        fix: format!("{see}; if it is to use key files again: keyward protect {kind} --undo{which}"),
    })
}

fn without_module(module: &Path) -> Fault {
    Fault {
        detail: format!(
            "the provider {} is missing, so a protected server does not start again",
            module.display()
        ),
        fix:
            "install the package keyward-openssl; until then, restart no server that uses keys of the daemon"
                .into(),
    }
}

/// Directory of the journals, beside the configuration of the daemon.
const DIRECTORY: &str = "protected";
/// The openssl.cnf of protected servers, beside the configuration of the daemon.
const OPENSSL_CONF: &str = "openssl.cnf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_nobody_may_see_are_named() {
        let home = tempfile::tempdir().unwrap();
        let journals = journals(&home.path().join("keyward.toml"));
        assert_eq!(unseen(&journals), None);
        fs::create_dir_all(journals.join("nginx")).unwrap();
        assert!(unseen(&journals).unwrap().detail.ends_with("has changed: nginx"));
    }
}
