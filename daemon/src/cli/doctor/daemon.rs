//! The daemon as it says it is.

use keyward_proto::Outcome;

use super::Finding;
use crate::admin_client::{AdminClient, AdminClientError};
use crate::api::{StatusView, UnitView};

/// What the daemon says of itself, its units, and what it refused.
pub(super) fn check(admin: &AdminClient) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    let status = match admin.status() {
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
            "version {}, pid {}, keys: {}, backends: {}",
            status.version,
            status.pid,
            status.keys,
            status
                .backends
                .iter()
                .map(|one| format!("{} ({})", one.name, one.unit))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    )];
    findings.extend(units(admin));
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
    units.into_iter().filter(|unit| unit.breaker.is_some()).map(finding).collect()
}

/// What the daemon refused since it started, if that hints at a mistake.
fn refusals(status: &StatusView) -> Vec<Finding> {
    let hints = [
        (Outcome::NoGrant, "add a [[grant]] for the user of the server to keyward.toml and reload"),
        (Outcome::UseRefused, "look at the uses of the key: keyward key show LABEL"),
        (Outcome::UseNotGranted, "look at the uses of the grant in keyward.toml"),
        (Outcome::UnknownKey, "compare the labels in the references with: keyward key list"),
        (Outcome::OtherMasterKey, "give the unit the master key that the log of the daemon names"),
        (Outcome::Overloaded, "see keyward unit list; more units, or fewer handshakes, are needed"),
        (Outcome::UnitUnavailable, "see keyward unit list, and the log of the daemon"),
        (Outcome::BlobDamaged, "restore the key store from a backup"),
        (Outcome::Internal, "see the log of the daemon"),
    ];
    let finding = |(outcome, mend): (Outcome, &str)| {
        let count = status.outcomes.get(outcome.name())?;
        let detail = format!("{count} since the start ended with {}", outcome.name());
        // They may be over by now, so this is no failure.
        Some(Finding::warn("signatures", detail, mend))
    };
    hints.into_iter().filter_map(finding).collect()
}
