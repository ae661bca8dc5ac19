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

use super::finding::Finding;
use super::processes::{self, Found};
pub(super) use report::CHECK;

/// Finds the running servers and checks each one. The last findings name everything that was not
/// checked. A daemon that is silent is not asked about their keys.
pub(super) fn check(runtime_dir: &Path, is_silent: bool) -> Vec<Finding> {
    let found = processes::find();
    let mut findings = Vec::new();
    let mut unchecked = Unchecked::default();
    let end = Instant::now() + ALL_LIMIT;
    for server in found.servers.iter().take(MOST) {
        let (send, receive) = mpsc::channel();
        let (server, runtime_dir) = (server.clone(), runtime_dir.to_owned());
        let title = names::title(&server);
        // Opening a file of a server may block, so a thread does it.
        thread::spawn(move || send.send(server::check(&server, &runtime_dir, is_silent)));
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
