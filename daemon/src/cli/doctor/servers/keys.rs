//! The keys of a server: references and certificates, and grants for the users of its workers.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use keyward_proto::Use;

use super::report::Report;
use crate::admin::api::KeyView;
use crate::admin::client::AdminClient;
use crate::cli::doctor::account::Account;
use crate::cli::doctor::finding::{Finding, Verdict};
use crate::cli::doctor::processes::Process;
use crate::cli::doctor::server_conf::ServerConf;
use crate::cli::doctor::server_keys::{ServerKeys, ServerReference};
use crate::cli::doctor::{grants, reference, uses};
use crate::cli::protect::health::Protected;
use crate::keys::certificates::Certificate;

/// Checks the keys that a server is configured with, for the users that it runs as. An account
/// without a process id is checked with its groups of the group database.
pub(super) fn check(
    admin: &AdminClient,
    runtime_dir: &Path,
    main: &Process,
    conf: Option<&ServerConf>,
    server_keys: &ServerKeys,
    accounts: &[(Option<u32>, Account)],
    report: &mut Report,
) {
    match conf {
        // The keys that the server needs, if any, are unknown.
        None => {
            let most = if main.names_keyward() { Verdict::Warn } else { Verdict::Note };
            let any =
                accounts.iter().map(|(pid, account)| grants::check_any(admin, runtime_dir, account, *pid));
            report.findings.extend(any.map(|finding| finding.at_most(most)));
        }
        Some(conf) => {
            report.unchecked.extend(conf.unread.iter().map(|one| format!("of its configuration: {one}")));
            if server_keys.is_empty() && server_keys.missing.is_empty() {
                report.findings.push(Finding::note(reference::CHECK, "its configuration names no reference"));
            }
        }
    }
    let checks = KeyChecks { admin, runtime_dir, accounts };
    let mut valid = 0;
    let mut faults = Vec::new();
    let of_references = server_keys.references.iter().map(|one| checks.reference(one));
    let of_labels = server_keys.labels.iter().map(|label| checks.label(label));
    for found in of_references.chain(of_labels) {
        valid += usize::from(found.is_empty());
        faults.extend(found);
    }
    for path in &server_keys.missing {
        let detail = format!("its configuration names {}, which does not exist", path.display());
        let fix = "put the file back before anything reloads or restarts the server; for a reference: keyward key \
                   reference LABEL > FILE";
        faults.push(Finding::fail(reference::CHECK, detail, fix));
    }
    for (path, why) in &server_keys.damaged {
        let detail = format!("{}: {why}", path.display());
        faults.push(Finding::fail(reference::CHECK, detail, reference::AGAIN));
    }
    let more = faults.len().saturating_sub(MOST_FAULTS);
    faults.truncate(MOST_FAULTS);
    report.findings.extend(faults);
    if more > 0 {
        let detail = format!("{more} more findings of its references");
        report.findings.push(Finding::warn(
            reference::CHECK,
            detail,
            "fix these first, and run the doctor again",
        ));
    }
    if valid > 0 {
        let users: Vec<_> = accounts.iter().map(|(_, account)| &*account.name).collect();
        report.findings.push(Finding::ok(
            reference::CHECK,
            format!(
                "valid references, with grants for {} and the known certificates: {valid}",
                users.join(", ")
            ),
        ));
    }
    report.unchecked.extend(server_keys.unread.iter().cloned());
}

/// Findings about the private keys in files of a server: failures for files whose keys were moved
/// into the daemon, and notes for the others, by the public keys of their certificates. `protected`
/// is the server if `keyward protect` has changed it.
pub(super) fn private_keys(
    admin: &AdminClient,
    server_keys: &ServerKeys,
    protected: Option<&Protected>,
) -> Vec<Finding> {
    let is_changed = |path: &Path| protected.is_some_and(|protected| protected.files.contains(path));
    let is_back = |path: &Path| is_changed(path) || path.canonicalize().is_ok_and(|real| is_changed(&real));
    let (back, others): (Vec<_>, Vec<_>) =
        server_keys.private_keys.iter().partition(|(path, _)| is_back(path));
    let back = back.into_iter().zip(protected).map(|((path, _), protected)| {
        let detail = format!(
            "{} holds a private key again, which the server uses: keyward protect had moved its key into the daemon",
            path.display()
        );
        let fix = format!("move the key, too: {}; docs/certbot.md has a hook for renewals", protected.command);
        Finding::fail(KEY_FILE, detail, fix)
    });
    back.chain(notes(admin, &others)).collect()
}

/// Notes about private keys in files of a server.
fn notes(admin: &AdminClient, private_keys: &[&(PathBuf, Option<Vec<u8>>)]) -> Vec<Finding> {
    let count = private_keys.len();
    if count == 0 {
        return Vec::new();
    }
    let known: Option<HashSet<Vec<u8>>> = admin.list().ok().map(|(keys, _)| {
        let versions = |key: KeyView| {
            let numbers: Vec<_> = key.versions.iter().map(|version| version.number).collect();
            numbers.into_iter().filter_map(move |number| key.public_key(number))
        };
        keys.into_iter().flat_map(versions).collect()
    });
    let note = |what: &str, count: usize| {
        let detail = format!("private keys in files of the server, {what}: {count}");
        (count > 0).then(|| Finding::note(KEY_FILE, detail))
    };
    let Some(known) = known else {
        return note("which were not compared with the daemon", count).into_iter().collect();
    };
    let certified: Vec<_> = private_keys.iter().filter_map(|(_, spki)| spki.as_ref()).collect();
    let in_daemon = certified.iter().filter(|spki| known.contains(**spki)).count();
    let notes = [
        note("which the daemon has, too, so that the server could use references", in_daemon),
        note("which the daemon does not have", certified.len() - in_daemon),
        note(
            "whose certificates are unknown here, so that nobody knows whether the daemon has them",
            count - certified.len(),
        ),
    ];
    notes.into_iter().flatten().collect()
}

/// Labels of the keys of a server that sign for a use when one of these accounts asks.
pub(super) fn labels_for(
    admin: &AdminClient,
    server_keys: &ServerKeys,
    accounts: &[(Option<u32>, Account)],
    wanted: Use,
) -> Vec<String> {
    let references = server_keys.references.iter().map(|one| one.reference.label().to_string());
    let labels: BTreeSet<String> = references.chain(server_keys.labels.iter().cloned()).collect();
    let may = |label: &String| {
        accounts.iter().any(|(pid, account)| grants::allows(admin, account, *pid, label, wanted))
    };
    labels.into_iter().filter(may).collect()
}

/// Checks of the single keys of a server.
struct KeyChecks<'a> {
    admin: &'a AdminClient,
    runtime_dir: &'a Path,
    accounts: &'a [(Option<u32>, Account)],
}

impl KeyChecks<'_> {
    /// Faults of a reference in a file.
    fn reference(&self, one: &ServerReference) -> Vec<Finding> {
        let shown = one.path.display().to_string();
        let key = self.admin.show(one.reference.label().as_str());
        let spki = one.certificate.as_ref().map(Certificate::spki);
        let all = [reference::check_key(&key, &one.reference, spki, self.runtime_dir)]
            .into_iter()
            .chain(uses::check_key(self.admin, &one.reference))
            .chain(one.check_certificate(key.as_ref().ok(), self.runtime_dir))
            .chain(one.check_permissions())
            .chain(self.grants(&one.reference));
        all.filter(|finding| finding.verdict != Verdict::Ok).map(|finding| finding.about(&shown)).collect()
    }

    /// Faults of the current version of a key that the server names by its label.
    fn label(&self, label: &str) -> Vec<Finding> {
        let key = self.admin.show(label);
        match key.as_ref().map(|key| key.reference(key.current)) {
            Ok(Some(reference)) => {
                let all = [reference::check_key(&key, &reference, None, self.runtime_dir)].into_iter();
                let all = all.chain(self.grants(&reference));
                all.filter(|finding| finding.verdict != Verdict::Ok).collect()
            }
            Ok(None) => {
                let detail = format!("key {label} has no version");
                vec![Finding::fail(reference::CHECK, detail, "name another key")]
            }
            Err(error) => {
                vec![Finding::fail(reference::CHECK, error.to_string(), reference::MISSING_KEY)]
            }
        }
    }

    fn grants(&self, reference: &keyward_proto::Reference) -> Vec<Finding> {
        let grant = |(pid, account): &(Option<u32>, Account)| {
            grants::check(self.admin, self.runtime_dir, account, *pid, reference)
        };
        self.accounts.iter().filter_map(grant).collect()
    }
}

const KEY_FILE: &str = "key file";
/// Maximum number of faults that are reported of the references of one server.
const MOST_FAULTS: usize = 20;
