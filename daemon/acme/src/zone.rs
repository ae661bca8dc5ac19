//! The servers of a zone: the authority may ask each of them, so each must have a new record.

use core::time::Duration;
use std::net::SocketAddr;

use keyward_ground::dig::{self, Answer};
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::program;

/// Waits until each server of a zone that can be reached from here has a TXT record. `primary` has
/// it already.
///
/// # Errors
/// A server answers, and does not have the record in time.
pub(crate) async fn wait(plan: &str, primary: SocketAddr, name: &str, value: &str) -> Result<(), Failure> {
    let mut left = servers(plan, primary, name).await;
    if left.is_empty() {
        tracing::info!(
            plan,
            "{primary} names no servers of the zone of {name}, so none of them is waited for"
        );
    }
    let deadline = Instant::now() + LONGEST;
    loop {
        let (mut lacking, mut without) = (Vec::new(), None);
        for server in left {
            match ask(plan, server, "TXT", name).await {
                // A server that does not answer, such as one behind a firewall, is not waited for.
                None => {}
                Some(Said::Data(lines)) if lines.iter().any(|line| line.trim_matches('"') == value) => {}
                Some(said) => {
                    lacking.push(server);
                    if matches!(said, Said::Data(_)) {
                        without.get_or_insert(server);
                    }
                }
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let Some(first) = without else {
                tracing::info!(plan, "servers of the zone of {name} do not have the zone: {lacking:?}");
                return Ok(());
            };
            let seconds = LONGEST.as_secs();
            return Err(Failure::new(
                "dns",
                format!(
                    "the server {first} of the zone did not have the record {name} after {seconds} seconds; does the primary server notify it of changes?"
                ),
            ));
        }
        left = lacking;
        sleep(LOOK).await;
    }
}

/// Servers of the zone of a name, as the primary server has them.
async fn servers(plan: &str, primary: SocketAddr, name: &str) -> Vec<SocketAddr> {
    let mut zone = name;
    while let Some((_, parent)) = zone.split_once('.').filter(|(_, parent)| !parent.is_empty()) {
        zone = parent;
        let Some(Said::Data(names)) = ask(plan, primary, "NS", zone).await else { continue };
        if names.is_empty() {
            continue;
        }
        let mut found = Vec::new();
        for name in names.iter().take(MAX_SERVERS) {
            if let Ok(addresses) = lookup_host((name.trim_end_matches('.'), 53)).await {
                found.extend(addresses.take(MAX_ADDRESSES));
            }
        }
        return found;
    }
    Vec::new()
}

/// Answer of a server.
#[derive(Debug, Eq, PartialEq)]
enum Said {
    Data(Vec<String>),
    /// SERVFAIL, as of a secondary server that is about to load the zone.
    NotYet,
}

/// Answer of a server; `None` if it does not answer, or refuses to.
async fn ask(plan: &str, server: SocketAddr, kind: &str, name: &str) -> Option<Said> {
    let options = ["+norecurse", "+time=2", "+tries=1", "-p"];
    let words = [dig::PROGRAM].into_iter().chain(dig::OPTIONS).chain(options);
    let mut command: Vec<_> = words.map(str::to_owned).collect();
    command.extend([
        server.port().to_string(),
        format!("@{}", server.ip()),
        kind.to_owned(),
        name.to_owned(),
    ]);
    let text = program::run(plan, &command, &[], &[]).await.ok()?;
    about_name(dig::read(&String::from_utf8_lossy(&text))?)
}

/// Only an answer about the name counts as one.
fn about_name(answer: Answer) -> Option<Said> {
    match answer.status.as_str() {
        "NOERROR" | "NXDOMAIN" => Some(Said::Data(answer.data)),
        "SERVFAIL" => Some(Said::NotYet),
        _ => None,
    }
}

/// Longest time until every server has the record.
const LONGEST: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Most servers of a zone, and most addresses of a server, that are asked.
const MAX_SERVERS: usize = 13;
const MAX_ADDRESSES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_has_not_answered() {
        let answer = |status: &str, lines: &str| {
            let text = format!(
                ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: {status}, id: 7\n\n;; ANSWER SECTION:\n{lines}\n"
            );
            about_name(dig::read(&text).unwrap())
        };
        let line = "_acme-challenge.shop.example. 60 IN\tTXT\t\"abc-_D\"";
        assert_eq!(answer("NOERROR", line), Some(Said::Data(vec!["\"abc-_D\"".to_owned()])));
        assert_eq!(answer("NXDOMAIN", ""), Some(Said::Data(Vec::new())));
        assert_eq!((answer("REFUSED", ""), answer("SERVFAIL", "")), (None, Some(Said::NotYet)));
        assert_eq!(dig::read(";; connection timed out; no servers could be reached\n"), None);
    }
}
