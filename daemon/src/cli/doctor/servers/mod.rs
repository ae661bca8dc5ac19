//! The running servers: whether each server has everything that it needs to use its keys.

mod keys;
mod mail;
mod names;
mod report;
mod server;
mod sockets;

use core::time::Duration;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::unistd::geteuid;

use super::finding::{Finding, Verdict};
use super::processes::{self, Found};
use super::{openssl_program, reference};
use crate::cli::protect::health::Protected;
pub(super) use report::CHECK;

/// Finds the running servers and checks each one. The last findings name everything that was not
/// checked. A daemon that is silent is not asked about their keys. `protected` are the servers that
/// `keyward protect` has changed.
pub(super) fn check(runtime_dir: &Path, is_silent: bool, protected: &[Protected]) -> Vec<Finding> {
    let found = processes::find();
    let mut findings = Vec::new();
    let mut unchecked = Unchecked::default();
    let end = Instant::now() + ALL_LIMIT;
    for server in found.servers.iter().take(MOST) {
        let (send, receive) = mpsc::channel();
        let (server, runtime_dir) = (server.clone(), runtime_dir.to_owned());
        let title = names::title(&server);
        let protected = protected.iter().find(|one| one.pid.cast_unsigned() == server.main.pid).cloned();
        // Opening a file of a server may block, so a thread does it.
        thread::spawn(move || send.send(server::check(&server, &runtime_dir, is_silent, protected.as_ref())));
        match receive.recv_timeout(ONE_LIMIT.min(end.saturating_duration_since(Instant::now()))) {
            Ok(Some(report)) => {
                findings.extend(report.findings.into_iter().map(|finding| finding.about(&title)));
                unchecked.others.extend(report.unchecked.into_iter().map(|one| format!("{title}: {one}")));
            }
            Ok(None) => unchecked.without_keys += 1,
            Err(_) => unchecked.others.push(format!("{title}: its files could not be read in time")),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::note(
            CHECK,
            "no running program has loaded the provider, or names a reference in a configuration that the doctor reads",
        ));
    }
    findings.extend(unchecked.findings(&found));
    findings
}

/// Faults of the keys of a protected server: its references, their certificates and grants, and the
/// private keys in its files.
pub(super) fn faults_of_keys(protected: &Protected, runtime_dir: &Path) -> Vec<Finding> {
    let Some(server) = processes::server(protected.pid) else { return Vec::new() };
    let title = names::title(&server);
    let (send, receive) = mpsc::channel();
    let (protected, runtime_dir) = (protected.clone(), runtime_dir.to_owned());
    // Opening a file of a server may block, so a thread does it.
    thread::spawn(move || send.send(server::check_keys(&server, &runtime_dir, &protected)));
    let Ok(report) = receive.recv_timeout(ONE_LIMIT) else {
        let detail = format!("{title}: its keys could not be checked in time");
        return vec![Finding::warn(CHECK, detail, "see: keyward doctor")];
    };
    let is_fault = |finding: &Finding| match finding.verdict {
        Verdict::Fail => true,
        // Uses that open more than needed are no fault of a server that needs them.
        Verdict::Warn => [openssl_program::CERTIFICATE, reference::CHECK].contains(&finding.check),
        Verdict::Ok | Verdict::Note => false,
    };
    let faults = report.findings.into_iter().filter(is_fault);
    faults.map(|finding| finding.about(&title)).collect()
}

/// Servers and files that were not checked.
#[derive(Default)]
struct Unchecked {
    /// Number of servers that use no key of the daemon.
    without_keys: usize,
    others: Vec<String>,
}

impl Unchecked {
    fn findings(self, found: &Found) -> Vec<Finding> {
        let mut unchecked: Vec<String> = self.others;
        if !geteuid().is_root() {
            let closed = format!("processes of other users ({}): run keyward doctor as root", found.closed);
            unchecked.push(closed);
        } else if found.closed > 0 {
            unchecked.push(format!("processes that the kernel does not show ({})", found.closed));
        }
        if !found.stuck.is_empty() {
            unchecked.push(format!("processes that could not be examined in time: {:?}", found.stuck));
        }
        let more = found.more + found.servers.len().saturating_sub(MOST);
        if more > 0 {
            unchecked.push(format!("{more} more processes"));
        }
        if self.without_keys > 0 {
            unchecked.push(format!(
                "servers without the provider and without a reference ({})",
                self.without_keys
            ));
        }
        unchecked.push(
            "servers that are not running, in containers, on other machines, or on rustls; keys in the configurations of \
             other programs than nginx, HAProxy, Apache, Postfix and Dovecot; certificates that a program makes or \
             fetches itself"
                .into(),
        );
        unchecked.into_iter().map(|one| Finding::note("not checked", one)).collect()
    }
}

/// Maximum number of servers that are checked.
const MOST: usize = 100;
/// Time limit for one server.
const ONE_LIMIT: Duration = Duration::from_secs(20);
/// Time limit for all servers.
const ALL_LIMIT: Duration = Duration::from_secs(60);
