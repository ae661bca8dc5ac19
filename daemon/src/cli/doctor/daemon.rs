//! The daemon as it says it is.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::Outcome;

use super::{Finding, expiry};
use crate::admin::api::{StatusView, UnitView};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::cli::output::{from_now, time};

/// What the daemon says of itself, its units, and what it refused.
pub(super) fn check(admin: &AdminClient, status: Result<StatusView, AdminClientError>) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    let status = match status {
        Ok(status) => status,
        Err(AdminClientError::Unreachable { reason, .. })
            if reason.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            return vec![Finding::warn(
                CHECK,
                "this user may not ask the administrators' socket",
                "run keyward doctor as root or as the user of the daemon for all checks",
            )];
        }
        Err(error @ (AdminClientError::Exposed { .. } | AdminClientError::Impostor { .. })) => {
            return vec![Finding::fail(
                CHECK,
                error.to_string(),
                "see that nobody but root and the user of the daemon can make sockets there",
            )];
        }
        Err(error) => {
            return vec![Finding::fail(
                CHECK,
                error.to_string(),
                "start it (systemctl start keyward), or name its directory with --runtime-dir",
            )];
        }
    };
    let mut findings = vec![Finding::ok(
        CHECK,
        format!(
            "version {}, pid {}, keys: {}{}, backends: {}",
            status.version,
            status.pid,
            status.keys,
            made(", key store made", &status),
            status
                .backends
                .iter()
                .map(|one| format!("{} ({})", one.name, one.unit))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    )];
    for problem in &status.problems {
        findings.push(Finding::fail(
            "keys",
            problem,
            "docs/key-store.md and docs/remote-units.md have the ways back",
        ));
    }
    if let Some((problem, advice)) = status.altered.problem() {
        findings.push(Finding::fail(KEY_STORE, problem, advice));
    }
    if status.keys == 0 && status.grants > 0 && status.problems.is_empty() {
        findings.push(Finding::warn(
            KEY_STORE,
            format!("there is no key, and there are grants ({}){}", status.grants, made("; the key store was made", &status)),
            "if there were keys, restore the store from a backup, as docs/key-store.md has it; otherwise make one: \
             keyward key generate",
        ));
    }
    findings.extend(units(admin));
    findings.extend(expiry::check(admin));
    if status.dev {
        findings.push(Finding::warn(
            "mode",
            "the daemon runs with --dev: its master key lies beside the keys",
            "start it without --dev on a new state directory before it serves anyone",
        ));
    }
    findings.extend(refusals(&status));
    findings
}

/// When the key store was made, if that is known. One that was emptied is made anew by the daemon.
fn made(words: &str, status: &StatusView) -> String {
    let made = status.store_created.map(|made| format!("{words} at {} ({})", time(made), from_now(made)));
    made.unwrap_or_default()
}

/// The units that are elsewhere.
fn units(admin: &AdminClient) -> Vec<Finding> {
    const CHECK: &str = "unit";
    let units = match admin.units() {
        Ok(units) => units,
        Err(error) => return vec![Finding::fail(CHECK, error.to_string(), "see the log of the daemon")],
    };
    let finding = |unit: UnitView| {
        let name = format!("{} of backend {}", unit.address, unit.backend);
        match (unit.health.as_str(), unit.problem) {
            ("down", problem) => Finding::fail(
                CHECK,
                format!("{name} is out of order: {}", problem.unwrap_or_default()),
                "look after the unit, the way there, and its section in keyward.toml",
            ),
            (_, Some(problem)) => {
                Finding::warn(CHECK, format!("{name}: {problem}"), "see the log of the daemon")
            }
            _ if unit.other_master_key => Finding::fail(
                CHECK,
                format!(
                    "{name} has another master key than its backend's keys, so it signs for none of them"
                ),
                "give it the master key of the others, or see keyward key rewrap if that is being changed",
            ),
            _ if unit.next_master_key => {
                let detail = format!("{name} is {}, with the master key that is to come", unit.health);
                Finding::ok(CHECK, detail)
            }
            _ => Finding::ok(CHECK, format!("{name} is {}", unit.health)),
        }
    };
    // Of the embedded unit the daemon has said what is wrong.
    units.into_iter().filter(|unit| unit.breaker.is_some()).map(finding).collect()
}

/// What the daemon refused lately, if that hints at a mistake. What is longer ago may be mended.
fn refusals(status: &StatusView) -> Vec<Finding> {
    // There are fewer than 32 outcomes in keyward.proto.
    let outcomes = (0..32).filter_map(|number| Outcome::try_from(number).ok());
    let finding = |outcome: Outcome| {
        let of = |counts: &BTreeMap<String, u64>| counts.get(outcome.name()).copied().unwrap_or_default();
        let count = of(&status.outcomes) + of(&status.decryption_outcomes);
        let mend = mend(outcome).filter(|_| count > 0)?;
        let mut detail = format!("{count} since the start ended with {}", outcome.name());
        if let Some(times) = &status.last_refusals {
            let last = times.get(outcome.name()).copied().unwrap_or_default();
            if now().saturating_sub(last) >= LATELY {
                return None;
            }
            detail += &format!(", the last one {}", from_now(last));
        }
        // They may be over by now, so this is no failure.
        Some(Finding::warn("signatures", detail, mend))
    };
    outcomes.filter_map(finding).collect()
}

/// Where to look after requests that ended so; `None` if there is nothing to mend.
fn mend(outcome: Outcome) -> Option<&'static str> {
    Some(match outcome {
        Outcome::Unspecified | Outcome::Done => return None,
        Outcome::Malformed => "install the provider of the version of the daemon, and restart the servers",
        Outcome::NotSupported => {
            "compare the signature algorithms of the server with the type of its key: keyward key show LABEL"
        }
        Outcome::NoGrant => "add a [[grant]] for the user of the server to keyward.toml and reload",
        Outcome::UnknownKey => "compare the labels in the references with: keyward key list",
        Outcome::UnknownVersion => "make the reference again: keyward key reference LABEL > FILE",
        Outcome::KeyDisabled => {
            "see which key is disabled: keyward key list; ask who disabled it, and why; then: keyward key enable LABEL"
        }
        Outcome::UseRefused => {
            "look at the uses of the key: keyward key show LABEL; needs= in the log of the daemon names the one that it lacks; \
             then name that and each one to keep: keyward key set-uses LABEL --use USE --use USE"
        }
        Outcome::UseNotGranted => {
            "look at the uses of the grant in keyward.toml; needs= in the log of the daemon names the one that it lacks"
        }
        Outcome::OtherMasterKey => "give the unit the master key that the log of the daemon names",
        Outcome::BlobDamaged => "restore the key store from a backup",
        Outcome::DeadlineExceeded => {
            "see keyward unit list; a slow unit, or more handshakes than it can take, keeps requests waiting"
        }
        Outcome::Overloaded => "see keyward unit list; more units, or fewer handshakes, are needed",
        Outcome::UnitUnavailable => "see keyward unit list, and the log of the daemon",
        Outcome::Internal => "see the log of the daemon",
        Outcome::NoDowngradeSentinel => {
            "have the server offer TLS 1.3 beside TLS 1.2; or, where it has TLS 1.2 alone, add tls12-server to the uses of its \
             key, with each one to keep (keyward key set-uses LABEL --use tls-server --use tls12-server), and grant"
        }
        Outcome::DheRefused => {
            "drop the DHE ciphers of the server; or add tls12-dhe-server to the uses of its key, with each one to keep \
             (keyward key set-uses LABEL --use tls-server --use tls12-dhe-server), and grant"
        }
        Outcome::OtherDhGroup => {
            "have the server use a group of RFC 7919, as from openssl genpkey -genparam -algorithm DH -pkeyopt group:ffdhe2048; \
             or drop its DHE ciphers"
        }
        Outcome::OtherPublicKey => {
            "a server has a reference to a key that is not the one of that label any more, as after keyward key delete and \
             generate, or after an older key store was restored; look at its log, get a certificate for the key that is there \
             (keyward csr), and make a new reference: keyward key reference LABEL"
        }
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const KEY_STORE: &str = "key store";
/// For how many seconds a refusal is told.
const LATELY: u64 = 3600;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_refusal_is_told_for_an_hour() {
        let told = |last: Value| {
            let mut status = json!({
                "version": "", "pid": 1, "uptime_seconds": 1, "dev": false, "backends": [], "keys": 1,
                "connections": 0, "requests": 2, "outcomes": {"no-grant": 2}, "decryption_outcomes": {},
                "purposes": {}, "closed_for_malformed": 0, "closed_for_limit": 0,
            });
            status["last_refusals"] = last;
            let findings = refusals(&serde_json::from_value(status).unwrap());
            findings.into_iter().map(|finding| finding.detail).collect::<Vec<_>>()
        };
        let ago = |seconds: u64| json!({"no-grant": now() - seconds});
        assert_eq!(told(ago(600)), ["2 since the start ended with no-grant, the last one 10 minutes ago"]);
        assert!(told(ago(LATELY + 1)).is_empty());
        // A daemon of a version before this one does not say when.
        assert_eq!(told(Value::Null), ["2 since the start ended with no-grant"]);
    }
}
