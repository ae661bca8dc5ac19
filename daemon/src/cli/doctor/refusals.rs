//! Requests that the daemon refused a short time ago.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::Outcome;

use super::account::Account;
use super::finding::Finding;
use crate::admin::api::User;
use crate::admin::client::AdminClient;
use crate::admin::status_view::{RefusalView, StatusView};
use crate::cli::output::ago;
use crate::cli::protect::health::Protected;

/// Warns of recent refusals that hint at a misconfiguration. Older ones may be fixed by now, and of
/// those for want of a grant, the daemon says whether it would refuse them again.
pub(super) fn check(status: &StatusView, admin: &AdminClient) -> Vec<Finding> {
    findings(status, &|refusal| is_refused(admin, refusal))
}

/// Recent refusals for want of a grant to workers of protected servers, which the daemon would
/// refuse again. Other users can cause refusals at will.
pub(super) fn of_protected(status: &StatusView, running: &[Protected], admin: &AdminClient) -> Vec<Finding> {
    let is_of_server = |refusal: &RefusalView| {
        let mut of_user = running.iter().filter(|server| server.uid == refusal.uid);
        of_user.any(|server| server.labels.contains(&refusal.key))
    };
    let refusals = without_grant(status).filter(|refusal| is_of_server(refusal));
    let still = refusals.filter(|refusal| is_refused(admin, refusal));
    let finding = |refusal: &RefusalView| {
        let detail = format!("handshakes fail, because no grant covers {}", described(refusal));
        Finding::fail(CHECK, detail, "see which server that is, and the grant that it lacks: keyward doctor")
    };
    still.map(finding).collect()
}

fn findings(status: &StatusView, is_refused: &dyn Fn(&RefusalView) -> bool) -> Vec<Finding> {
    // There are fewer than 32 outcomes in keyward.proto.
    let outcomes = (0..32).filter_map(|number| Outcome::try_from(number).ok());
    let finding = |outcome: Outcome| {
        let of = |counts: &BTreeMap<String, u64>| counts.get(outcome.name()).copied().unwrap_or_default();
        let count = of(&status.outcomes) + of(&status.decryption_outcomes);
        let fix = fix(outcome).filter(|_| count > 0)?;
        let mut detail = format!("{count} requests since the start ended with {}", outcome.name());
        if let Some(times) = &status.last_refusals {
            let last = times.get(outcome.name()).copied().unwrap_or_default();
            if now().saturating_sub(last) >= RECENT {
                return None;
            }
            detail += &format!(", the last one {}", ago(last));
        }
        if outcome == Outcome::NoGrant {
            let mut known = without_grant(status).peekable();
            let has_any = known.peek().is_some();
            match known.find(|refusal| is_refused(refusal)) {
                Some(refusal) => detail += &format!(": {}", described(refusal)),
                None if has_any => return None,
                None => {}
            }
        }
        // The cause may be fixed by now, so this is no failure.
        Some(Finding::warn(CHECK, detail, fix))
    };
    outcomes.filter_map(finding).collect()
}

/// Recent refusals for want of a grant, the newest first, as far as the daemon still knows them.
fn without_grant(status: &StatusView) -> impl Iterator<Item = &RefusalView> {
    let is_it = |refusal: &&RefusalView| {
        refusal.outcome == Outcome::NoGrant.name() && now().saturating_sub(refusal.last) < RECENT
    };
    status.refusals.iter().flatten().filter(is_it)
}

/// True unless the daemon would grant the request now.
fn is_refused(admin: &AdminClient, refusal: &RefusalView) -> bool {
    let RefusalView { uid, service, key, .. } = refusal;
    let gid = Account::of_uid(*uid).gid;
    let user = User { uid: *uid, gid, groups: None, service: service.clone() };
    let access = admin.access(key, &user);
    let is_granted = |refusal: Option<&str>| refusal != Some(Outcome::NoGrant.name());
    !access.is_ok_and(|access| access.uses.iter().any(|one| is_granted(one.refusal.as_deref())))
}

/// The user, the key and the time of refusals.
fn described(refusal: &RefusalView) -> String {
    let user = Account::of_uid(refusal.uid).name;
    let service = refusal.service.as_ref().map(|service| format!(" in {service}")).unwrap_or_default();
    format!("{user}{service} for key {}, refused {}", refusal.key, ago(refusal.last))
}

/// Advice for an outcome of requests; `None` if there is nothing to fix.
fn fix(outcome: Outcome) -> Option<&'static str> {
    Some(match outcome {
        Outcome::Unspecified | Outcome::Done => return None,
        Outcome::Malformed => "install the provider with the version of the daemon, and restart the servers",
        Outcome::NotSupported => {
            "compare the signature algorithms of the server with the type of its key: keyward key show LABEL"
        }
        Outcome::NoGrant => "add a [[grant]] for the user of the server to keyward.toml and reload",
        Outcome::UnknownKey => "compare the labels in the references with: keyward key list",
        Outcome::UnknownVersion => "make the reference again: keyward key reference LABEL > FILE",
        Outcome::KeyDisabled => {
            "find the key whose state is not enabled: keyward key list; if it is disabled, ask who disabled it, and why; then: keyward key enable LABEL"
        }
        Outcome::UseRefused => {
            "look at the uses of the key: keyward key show LABEL; needs= in the log of the daemon names the missing use; then name \
             that use and each use to keep: keyward key set-uses LABEL --use USE --use USE"
        }
        Outcome::UseNotGranted => {
            "look at the uses of the grant in keyward.toml; needs= in the log of the daemon names the missing use"
        }
        Outcome::UnitSealed => "have the owners of the unit bring their parts: keyward unit unseal FILE",
        Outcome::OtherMasterKey => "give the unit the master key that the log of the daemon names",
        Outcome::BlobDamaged => "restore the key store from a backup",
        Outcome::DeadlineExceeded => {
            "look at the units: keyward unit list; a unit is slow, or has more handshakes than it can take"
        }
        Outcome::Overloaded => {
            "look at the units: keyward unit list; add units, or reduce the number of handshakes"
        }
        Outcome::UnitUnavailable => "look at the units: keyward unit list; see also the log of the daemon",
        Outcome::Internal => "see the log of the daemon",
        Outcome::NotRecorded => {
            "free space on the file system of the audit trail; see also the log of the daemon, and keyward status"
        }
        Outcome::NoDowngradeSentinel => {
            "let the server offer TLS 1.3 as well; or, for a server with only TLS 1.2, add tls12-server to the uses of its grant \
             and of its key, with each use to keep: keyward key set-uses LABEL --use tls-server --use tls12-server"
        }
        Outcome::DheRefused => {
            "drop the DHE ciphers of the server; or add tls12-dhe-server to the uses of its grant and of its key, with each use \
             to keep: keyward key set-uses LABEL --use tls-server --use tls12-dhe-server"
        }
        Outcome::OtherDhGroup => {
            "give the server a group of RFC 7919 (openssl genpkey -genparam -algorithm DH -pkeyopt group:ffdhe2048), or drop its \
             DHE ciphers"
        }
        Outcome::OtherPublicKey => {
            "a server has a reference to a former key of that label: the key was deleted and generated again, or an older key \
             store was restored; see the log of the server; get a certificate for the present key (keyward csr LABEL \
             --subject DN --san NAME), and make a new reference: keyward key reference LABEL > FILE"
        }
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const CHECK: &str = "signatures";
/// Seconds for which a refusal is reported.
const RECENT: u64 = 3600;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_refusal_is_reported_for_an_hour() {
        let details = |last: Value| {
            let mut status = json!({
                "version": "", "pid": 1, "uptime_seconds": 1, "dev": false, "backends": [], "keys": 1,
                "connections": 0, "requests": 2, "outcomes": {"no-grant": 2}, "decryption_outcomes": {},
                "purposes": {}, "closed_for_malformed": 0, "closed_for_limit": 0,
            });
            status["last_refusals"] = last;
            let found = findings(&serde_json::from_value(status).unwrap(), &|_| true);
            found.into_iter().map(|finding| finding.detail).collect::<Vec<_>>()
        };
        let ago = |seconds: u64| json!({"no-grant": now() - seconds});
        assert_eq!(
            details(ago(600)),
            ["2 requests since the start ended with no-grant, the last one 10 minutes ago"]
        );
        assert!(details(ago(RECENT + 1)).is_empty());
        // A daemon of an earlier version does not report the time.
        assert_eq!(details(Value::Null), ["2 requests since the start ended with no-grant"]);
    }

    #[test]
    fn a_refusal_is_not_reported_when_its_grant_is_there() {
        let refusal = |key: &str| json!({"key": key, "outcome": "no-grant", "uid": 4_000_000, "last": now(), "count": 1});
        let status: StatusView = serde_json::from_value(json!({
            "version": "", "pid": 1, "uptime_seconds": 1, "dev": false, "backends": [], "keys": 1,
            "connections": 0, "requests": 2, "outcomes": {"no-grant": 2}, "decryption_outcomes": {},
            "purposes": {}, "closed_for_malformed": 0, "closed_for_limit": 0,
            "last_refusals": {"no-grant": now()}, "refusals": [refusal("mail"), refusal("shop")],
        }))
        .unwrap();
        assert!(findings(&status, &|_| false).is_empty());
        let found = findings(&status, &|refusal| refusal.key == "shop");
        assert!(found[0].detail.contains(": user id 4000000 for key shop, refused "), "{found:?}");
    }
}
