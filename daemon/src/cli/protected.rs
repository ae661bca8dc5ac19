//! Servers whose keys `keyward protect` has moved into the daemon, as its journals name them: a
//! server that does not run shows no other sign of its keys.
//!
//! Only root can read the journals. Another user learns nothing here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::doctor;
use crate::serve::DEFAULT_CONFIG;
use crate::servers::processes::{Master, children, has_provider, masters};

/// A fault of a protected server, and its fix.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub(super) detail: String,
    pub(super) fix: String,
}

/// Faults of the servers that have journals beside the configuration of the daemon.
pub(super) fn faults(config: Option<&Path>) -> Vec<Fault> {
    let config = config.unwrap_or(Path::new(DEFAULT_CONFIG));
    let directory = config.parent().unwrap_or(Path::new("/"));
    let journals = journals(&directory.join(DIRECTORY));
    if journals.is_empty() {
        return Vec::new();
    }
    let missing = doctor::missing_module(&directory.join(OPENSSL_CONF));
    let stopped = journals.iter().filter_map(|(kind, names)| not_running(kind, names));
    missing.map(|module| without_module(&module)).into_iter().chain(stopped).collect()
}

/// The names of the journals that hold a change, by the kind of the server.
fn journals(directory: &Path) -> BTreeMap<&'static Kind, Vec<String>> {
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let of = |kind: &&Kind| {
            name.strip_prefix(kind.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let Some(kind) = KINDS.iter().find(of) else { continue };
        let mut runs = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        if runs.any(|run| run.path().join(ENTRIES).exists()) {
            found.entry(kind).or_default().push(name);
        }
    }
    found
}

/// The fault of a kind of server of which fewer run with the provider than have journals.
fn not_running(kind: &Kind, names: &[String]) -> Option<Fault> {
    let running = masters(kind.program);
    // The master of HAProxy loads nothing after a reload.
    let has_keys = |master: &&Master| {
        has_provider(master.pid) || children(master).iter().any(|child| has_provider(child.pid))
    };
    let with_provider = running.iter().filter(has_keys).count();
    let (title, program) = (kind.title, kind.program);
    let state = match (with_provider, running.len()) {
        (with, _) if with >= names.len() => return None,
        (0, 0) => format!("{title} does not run"),
        (0, _) => format!("{title} runs without the provider keyward"),
        (with, _) => format!("only {with} of {} {title} run with the provider keyward", names.len()),
    };
    Some(Fault {
        detail: format!("{state}, and keyward protect has moved its keys into the daemon"),
        fix: format!(
            "see why it does not run: systemctl status {program}; if it is to use key files again: keyward protect {} --undo",
            kind.name
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

/// A kind of server that `keyward protect` knows.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Kind {
    /// The word of the command, with which the names of its journals begin.
    name: &'static str,
    title: &'static str,
    program: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind { name: "nginx", title: "nginx", program: "nginx" },
    Kind { name: "haproxy", title: "HAProxy", program: "haproxy" },
    Kind { name: "apache", title: "Apache", program: "apache2" },
];
/// Directory of the journals, beside the configuration of the daemon.
const DIRECTORY: &str = "protected";
/// File with the changes of a run.
const ENTRIES: &str = "journal.json";
/// The openssl.cnf of protected servers, beside the configuration of the daemon.
const OPENSSL_CONF: &str = "openssl.cnf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_without_a_change_is_of_no_server() {
        let home = tempfile::tempdir().unwrap();
        let directory = |name: &str| fs::create_dir_all(home.path().join(name)).unwrap();
        for name in ["nginx/1", "nginx-0123456789ab/2", "apache", "haproxy/3", "nginxes/1", "other/1"] {
            directory(name);
        }
        for name in ["nginx/1", "nginx-0123456789ab/2", "nginxes/1", "other/1"] {
            fs::write(home.path().join(name).join(ENTRIES), "{}").unwrap();
        }
        let mut found = journals(home.path());
        found.values_mut().for_each(|names| names.sort());
        let names: Vec<_> = found.into_iter().map(|(kind, names)| (kind.name, names.join(" "))).collect();
        assert_eq!(names, [("nginx", "nginx nginx-0123456789ab".to_owned())]);
    }
}
