//! Status of the daemon and its units.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use super::expiry;
use super::finding::Finding;
use super::{refusals, renewals};
use crate::admin::SOCKET;
use crate::admin::api::{REFUSED_RELOAD, UnitView};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::status_view::{BackendView, MeasureView, StatusView};
use crate::cli::failure::is_to_be_set_up;
use crate::cli::key::for_daemon;
use crate::cli::output::{from_now, time};
use crate::cli::setup;
use crate::ground::opening::described;

/// Checks the status of the daemon, its units and certificates, and its recent refusals.
pub(super) fn check(
    admin: &AdminClient,
    runtime_dir: &Path,
    status: Result<StatusView, AdminClientError>,
) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    let status = match status {
        Ok(status) => status,
        Err(AdminClientError::Unreachable { reason, .. })
            if reason.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            return vec![Finding::warn(
                CHECK,
                "this user may not connect to the administrators' socket",
                "for all checks, run keyward doctor as root, or give the socket the mode 0666",
            )];
        }
        Err(AdminClientError::Refused { status: StatusCode::FORBIDDEN, .. }) => {
            return vec![Finding::warn(
                CHECK,
                "this user has no role that may see the state of the daemon",
                "for all checks, run keyward doctor as root or as a user with the role viewer (docs/roles.md)",
            )];
        }
        Err(error @ (AdminClientError::Exposed { .. } | AdminClientError::Impostor { .. })) => {
            return vec![Finding::fail(
                CHECK,
                error.to_string(),
                "make sure that only root and the user of the daemon can create sockets there",
            )];
        }
        Err(error @ AdminClientError::Late { .. }) => {
            let fix = "see why the daemon does not answer: systemctl status keyward; journalctl -u keyward";
            return vec![Finding::fail(CHECK, error.to_string(), fix)];
        }
        Err(error) => {
            let fix = match is_to_be_set_up(&runtime_dir.join(SOCKET)) {
                true => "run keyward setup: it chooses how the master key comes, and starts the service",
                false => {
                    "start the daemon (systemctl start keyward), or name its directory with --runtime-dir"
                }
            };
            return vec![Finding::fail(CHECK, error.to_string(), fix)];
        }
    };
    let mut findings = vec![Finding::ok(
        CHECK,
        format!(
            "version {}, pid {}, keys: {}{}, backends: {}",
            status.version,
            status.pid,
            status.keys,
            created(", key store created", &status),
            status
                .backends
                .iter()
                .map(|one| format!("{} ({})", one.name, one.unit))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    )];
    for problem in &status.problems {
        findings.push(match problem.starts_with(REFUSED_RELOAD) {
            true => Finding::fail(
                "configuration",
                problem,
                format!("correct it; then: {}", for_daemon("keyward reload".into(), runtime_dir)),
            ),
            false => Finding::fail(
                "keys",
                problem,
                match problem.contains(NO_MASTER_KEY) {
                    true => "choose one of these ways: docs/setup.md describes them, and docs/ceremony.md how owners begin",
                    false => "docs/key-store.md, docs/remote-units.md and docs/ceremony.md describe how to recover",
                },
            ),
        });
    }
    if let Some((problem, advice)) = status.altered.problem() {
        findings.push(Finding::fail(KEY_STORE, problem, advice));
    }
    if let Some(warning) = status.recovery_warning() {
        let command = for_daemon("keyward backup --recovery FILE".into(), runtime_dir);
        let fix = format!("keep a recovery file apart from the backups: {command}");
        findings.push(Finding::warn(KEY_STORE, warning, fix));
    }
    for path in status.purges.iter().flat_map(|purges| &purges.leftovers) {
        findings.push(Finding::warn(
            KEY_STORE,
            format!("purged keys can come back from copies of before, as long as there is {}", path.display()),
            "see docs/key-store.md; the next purge erases other secrets; remove the copy of a migration yourself",
        ));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if let Some(audit) = &status.audit {
        // Without a signature for a while, every act is on record all the same.
        let verdict = if audit.failure.is_some() { Finding::fail } else { Finding::warn };
        let problems = audit.problems(now).into_iter();
        findings.extend(problems.map(|problem| verdict("audit trail", problem, "see docs/audit.md")));
    }
    if status.keys == 0 && status.grants > 0 && status.problems.is_empty() {
        findings.push(Finding::warn(
            KEY_STORE,
            format!("there is no key, but there are grants ({}){}", status.grants, created("; the key store was created", &status)),
            "if there were keys, restore the store from a backup (see docs/key-store.md); otherwise make a key: keyward key \
             generate LABEL --type TYPE",
        ));
    }
    findings.extend(units(admin));
    findings.extend(expiry::check(admin, runtime_dir));
    findings.extend(renewals::check(admin, runtime_dir));
    if status.dev {
        findings.push(Finding::warn(
            "mode",
            "the daemon runs with --dev: its master key is stored beside the keys",
            "start it without --dev on a new state directory before servers use it",
        ));
    }
    match setup::fault_of_secret(&status) {
        Some(fault) => findings.push(Finding::fail(MASTER_KEY, fault, "do so before the daemon restarts")),
        None => findings.extend(status.backends.iter().filter_map(opening)),
    }
    findings.extend(confinement(&status));
    findings.extend(refusals::check(&status, admin));
    findings
}

/// Says which measures confine the process of the daemon.
fn confinement(status: &StatusView) -> Vec<Finding> {
    const CHECK: &str = "confinement";
    let (in_force, missing): (Vec<_>, Vec<_>) = status.confinement.iter().partition(|one| one.in_force);
    let names = in_force.iter().map(|one| one.measure.as_str()).collect::<Vec<_>>().join(", ");
    let in_force = (!names.is_empty()).then(|| Finding::ok(CHECK, format!("in force: {names}")));
    let missing = missing.into_iter().map(|MeasureView { measure, detail, .. }| {
        Finding::warn(
            CHECK,
            format!("{measure} is not confined: {detail}"),
            "docs/security.md says what that means and which kernel or limit is needed",
        )
    });
    in_force.into_iter().chain(missing).collect()
}

/// Says how the embedded unit gets its master key after a start.
fn opening(backend: &BackendView) -> Option<Finding> {
    // The status of the daemon has the reason why the unit is not open.
    let opening = backend.opening.as_deref().filter(|_| backend.ready && !backend.next_start_fails)?;
    Some(Finding::ok(MASTER_KEY, format!("the embedded unit is opened {}", described(opening))))
}

/// Time when the key store was created, if known. The daemon creates a store again if it was
/// emptied.
fn created(words: &str, status: &StatusView) -> String {
    let created = status.store_created;
    created.map(|at| format!("{words} at {} ({})", time(at), from_now(at))).unwrap_or_default()
}

/// Checks the remote units.
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
                format!("{name} is down: {}", problem.unwrap_or_default()),
                "check the unit, the network to it, and its section in keyward.toml",
            ),
            (_, Some(problem)) => {
                Finding::warn(CHECK, format!("{name}: {problem}"), "see the log of the daemon")
            }
            _ if unit.other_master_key => Finding::fail(
                CHECK,
                format!(
                    "{name} has another master key than the keys of its backend, so it signs with none of them"
                ),
                "give it the master key of the other units; if the master key is being changed, see: keyward key rewrap --help",
            ),
            _ if unit.next_master_key => {
                let detail = format!("{name} is {}, with the next master key", unit.health);
                Finding::ok(CHECK, detail)
            }
            _ => Finding::ok(CHECK, format!("{name} is {}", unit.health)),
        }
    };
    // The status of the daemon has the problems of the embedded unit.
    units.into_iter().filter(|unit| unit.breaker.is_some()).map(finding).collect()
}

const KEY_STORE: &str = "key store";
/// Words of the daemon about a unit that has never had a master key.
const NO_MASTER_KEY: &str = "no master key yet";
const MASTER_KEY: &str = "master key";
