//! The health of the servers that were changed, as their journals name them: a server that does not
//! run shows no other sign of its keys.
//!
//! Only root can read the journals. Another user learns nothing here.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::journal;
use super::running::Running;
use super::{Server, doctor};
use crate::serve::DEFAULT_CONFIG;

/// A fault of a protected server, and its fix.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::cli) struct Fault {
    pub(in crate::cli) detail: String,
    pub(in crate::cli) fix: String,
}

/// Faults of the servers that have journals beside the configuration of the daemon.
pub(in crate::cli) fn faults(config: Option<&Path>) -> Vec<Fault> {
    let config = config.unwrap_or(Path::new(DEFAULT_CONFIG));
    let directory = config.parent().unwrap_or(Path::new("/"));
    let journals = directory.join(DIRECTORY);
    let mut faults: Vec<_> =
        Server::value_variants().iter().flat_map(|server| down(*server, &journals)).collect();
    let is_any = |server: &Server| journal::all(&journals, server.name()).next().is_some();
    if Server::value_variants().iter().any(is_any) {
        let missing = doctor::missing_module(&directory.join(OPENSSL_CONF));
        faults.extend(missing.map(|module| without_module(&module)));
    }
    faults
}

/// The faults of servers of a kind that have journals, and do not run with the provider.
fn down(server: Server, journals: &Path) -> Vec<Fault> {
    let changed: Vec<_> = journal::all(journals, server.name()).collect();
    if changed.is_empty() {
        return Vec::new();
    }
    let running = server.running();
    changed.iter().filter_map(|one| fault(server, one, &running)).collect()
}

fn fault(
    server: Server,
    (name, file): &(String, Option<PathBuf>),
    running: &[Box<dyn Running>],
) -> Option<Fault> {
    let (title, kind, program) = (server.title(), server.name(), server.program());
    let state = match running.iter().find(|one| one.name() == *name) {
        Some(one) if one.has_provider() => return None,
        Some(_) => "runs without the provider keyward",
        None => "does not run",
    };
    let is_usual = name == kind;
    let file = file.as_ref().filter(|_| !is_usual);
    let with = file.map(|file| format!(" with {}", file.display())).unwrap_or_default();
    let which = if is_usual { String::new() } else { format!("={name}") };
    Some(Fault {
        detail: format!("{title}{with} {state}, and keyward protect has moved its keys into the daemon"),
        fix: format!(
            "see its state: systemctl status {program}; if it is to use key files again: keyward protect {kind} --undo{which}"
        ),
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
