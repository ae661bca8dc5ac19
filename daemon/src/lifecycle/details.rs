//! Acts with their details: for the audit trail, and for the log.

use keyward_proto::{Label, Scheme, Use};
use keyward_unit::Wkid;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::event::{Action, Actor};
use crate::daemon::Loaded;
use crate::ground::text::time;
use crate::keys::shred::{Named, Recovery};
use crate::keys::{Key, Life, Repaired};

/// An act, with its details.
pub(super) enum Act<'a> {
    Adopt(&'a Key),
    /// The first of two users has asked for the deletion.
    ApproveDeletion(&'a Key),
    /// `not_after` is when the first certificate of the chain expires, in seconds since 1970.
    Attach {
        not_after: Option<u64>,
    },
    /// `keys` is the number of keys in the copy.
    Backup {
        keys: u64,
    },
    Change(&'a Key),
    Compromise(&'a Key),
    CopySecret(&'a Recovery),
    Delete(&'a Key),
    /// The waiting period of a deletion has ended, or the record of the key was altered.
    Destroy,
    Detach,
    /// The keys are wrapped by another shred secret now, and the one before is erased.
    EraseSecret {
        erased: Option<Named>,
        /// Ids of secrets of other stores, such as one that was moved away.
        others: Vec<String>,
        in_force: Option<Named>,
    },
    /// `wkid` is the new master key, `keys` the number of keys that it wraps.
    FinishRewrap {
        backend: &'a str,
        wkid: Wkid,
        keys: u64,
    },
    Generate(&'a Key),
    Import(&'a Key),
    LoadConfiguration(&'a Loaded),
    /// A recovery file is on a disk.
    NoteRecovery {
        secret: Named,
        has_old: bool,
    },
    /// A deleted key was destroyed before its waiting period ended.
    Purge,
    RenewCertificate(&'a Label),
    Repair(&'a Repaired),
    Restore(&'a Key),
    /// `keys` is the number of keys that were looked at, `wrapped` the number of new blobs.
    Rewrap {
        backend: &'a str,
        keys: u64,
        wrapped: u64,
    },
    RevokeCertificate {
        plan: &'a Label,
        reason: u8,
        /// SHA-256 of each certificate, in hexadecimal digits.
        certificates: &'a [String],
    },
    Rotate,
    /// A message to an authority that issues certificates.
    SignAcme {
        plan: &'a Label,
        step: &'static str,
        url: &'a str,
    },
    SignRequest(Scheme),
    /// An act on the embedded unit, with its facts.
    Unit(Map<String, Value>),
    /// The request of the first of two users was withdrawn.
    WithdrawDeletion,
}

/// Facts about an act, for the audit trail.
pub(super) fn details(act: &Act<'_>) -> Map<String, Value> {
    let details = match act {
        Act::Unit(details) => return details.clone(),
        // Another program may have written everything else in the record.
        Act::Change(key) | Act::Compromise(key) if key.unverified => {
            json!({ "state": key.state.name(), "effect": "in-memory" })
        }
        Act::Adopt(key) | Act::Generate(key) | Act::Import(key) | Act::Change(key) => details_of(key),
        Act::ApproveDeletion(key) => with(details_of(key), "effect", "approved"),
        Act::Delete(key) | Act::Restore(key) => details_of(key),
        Act::Destroy => json!({ "effect": "destroyed" }),
        Act::WithdrawDeletion => json!({ "effect": "withdrawn" }),
        Act::Attach { not_after } => json!({ "not_after": not_after }),
        Act::Backup { keys } => json!({ "keys": keys }),
        Act::CopySecret(Recovery { in_force, old }) => {
            let old = old.as_ref().map(|(named, _)| named.to_string());
            json!({ "secret": in_force.0.to_string(), "old": old })
        }
        Act::EraseSecret { erased, others, in_force } => {
            let [erased, secret] = [erased, in_force].map(|named| named.map(|named| named.to_string()));
            json!({ "erased": erased, "others": others, "secret": secret })
        }
        Act::FinishRewrap { backend, wkid, keys } => {
            json!({ "backend": backend, "wkid": wkid.to_string(), "keys": keys })
        }
        Act::LoadConfiguration(Loaded { fingerprint, grants, roles, unit }) => {
            let details = json!({ "fingerprint": fingerprint, "grants": grants, "roles": roles });
            match unit {
                Some((unit, counter)) => with(with(details, "unit", unit), "next_counter", counter),
                None => details,
            }
        }
        Act::Rewrap { backend, keys, wrapped } => {
            json!({ "backend": backend, "keys": keys, "wrapped": wrapped })
        }
        Act::Repair(Repaired { lists, disabled, removed, nameless }) => {
            let labels = |labels: &[Label]| labels.iter().map(Label::to_string).collect::<Vec<_>>();
            json!({
                "lists": lists, "disabled": labels(disabled), "removed": labels(removed), "nameless": nameless,
            })
        }
        Act::NoteRecovery { secret, has_old } => json!({ "secret": secret.to_string(), "has_old": has_old }),
        Act::RenewCertificate(plan) => json!({ "plan": plan.as_str() }),
        Act::RevokeCertificate { plan, reason, certificates } => {
            json!({ "plan": plan.as_str(), "reason": reason, "certificates": certificates })
        }
        Act::SignAcme { plan, step, url } => json!({ "plan": plan.as_str(), "step": step, "url": url }),
        Act::SignRequest(scheme) => json!({ "scheme": scheme.name() }),
        Act::Compromise(_) | Act::Detach | Act::Purge | Act::Rotate => json!({}),
    };
    if let Value::Object(details) = details { details } else { Map::new() }
}

fn details_of(key: &Key) -> Value {
    let details = json!({ "type": type_of(key), "state": key.state.name(), "uses": names(&key.uses) });
    match key.life == Life::default() {
        true => details,
        false => with(details, "life", &key.life),
    }
}

fn with(mut details: Value, name: &str, value: impl Serialize) -> Value {
    details[name] = json!(value);
    details
}

/// Writes an act to the log as one line.
pub(super) fn log(act: &Act<'_>, action: Action, label: Option<&Label>, version: Option<u32>, actor: Actor) {
    let key = label.map(Label::as_str);
    let (uid, pid, role) = actor.parts();
    match *act {
        Act::Adopt(made) => {
            tracing::info!(key, r#type = type_of(made), uses = ?names(&made.uses), uid, pid, role, "key adopted");
        }
        Act::Attach { not_after } => {
            tracing::info!(key, version, not_after, uid, pid, role, "certificate attached");
        }
        Act::Backup { keys } => tracing::info!(keys, uid, pid, role, "key store copied"),
        Act::Change(key) | Act::Compromise(key) if key.unverified => {
            let (key, state) = (key.label.as_str(), key.state.name());
            tracing::warn!(
                key,
                state,
                uid,
                pid,
                role,
                "key stopped in memory only: the key store gets the change when the unit is unsealed"
            );
        }
        Act::Change(now) => {
            let Life { not_before, not_after, dual, .. } = &now.life;
            let [not_before, not_after] = [not_before, not_after].map(|date| date.map(time));
            let (state, uses) = (now.state.name(), names(&now.uses));
            tracing::info!(key, state, ?uses, not_before, not_after, dual, uid, pid, role, "key changed");
        }
        Act::ApproveDeletion(_) => {
            tracing::info!(key, uid, pid, role, "deletion of the key asked for: a second user must ask, too");
        }
        Act::Compromise(_) => {
            tracing::warn!(key, uid, pid, role, "key compromised: it signs no more, for ever");
        }
        Act::CopySecret(Recovery { in_force, .. }) => {
            tracing::info!(secret = %in_force.0, uid, pid, role, "secret of the key store copied");
        }
        Act::Delete(deleted) => {
            let destroy_at = deleted.life.deletion.map(|deletion| time(deletion.destroy_at));
            tracing::info!(key, destroy_at, uid, pid, role, "key deleted");
        }
        Act::Destroy => tracing::info!(key, uid, pid, role, "key destroyed"),
        Act::Detach => tracing::info!(key, version, uid, pid, role, "certificate detached"),
        Act::EraseSecret { erased, ref others, in_force } => {
            let [erased, secret] = [erased, in_force].map(|named| named.map(|named| named.to_string()));
            tracing::info!(
                erased,
                ?others,
                secret,
                uid,
                pid,
                role,
                "purges are final: the old secret of the key store is erased"
            );
        }
        Act::FinishRewrap { backend, wkid, keys } => {
            tracing::info!(backend, %wkid, keys, uid, pid, role, "keys have another master key");
        }
        Act::Generate(made) => {
            tracing::info!(key, r#type = type_of(made), uses = ?names(&made.uses), uid, pid, role, "key generated");
        }
        Act::Import(made) => {
            let uses = names(&made.uses);
            tracing::info!(key, r#type = type_of(made), version, ?uses, uid, pid, role, "key imported");
        }
        Act::LoadConfiguration(Loaded { fingerprint, grants, roles, .. }) => {
            tracing::info!(fingerprint, grants, roles, uid, pid, role, "configuration in force");
        }
        Act::NoteRecovery { secret, .. } => {
            tracing::info!(%secret, uid, pid, role, "recovery file of the key store written");
        }
        Act::Purge => tracing::info!(key, uid, pid, role, "key destroyed before its time"),
        Act::RenewCertificate(plan) => {
            tracing::info!(plan = plan.as_str(), key, uid, pid, role, "certificate is to be renewed now");
        }
        Act::RevokeCertificate { plan, reason, certificates } => {
            let (plan, certificates) = (plan.as_str(), certificates.join(", "));
            tracing::warn!(plan, key, reason, certificates, uid, pid, role, "certificates are to be revoked");
        }
        Act::SignAcme { plan, step, url } => {
            tracing::info!(
                plan = plan.as_str(),
                key,
                step,
                url,
                uid,
                pid,
                role,
                "message to the authority signed"
            );
        }
        Act::Repair(Repaired { lists, disabled, removed, nameless }) => {
            let labels = |labels: &[Label]| labels.iter().map(Label::to_string).collect::<Vec<_>>();
            let (disabled, removed) = (labels(disabled), labels(removed));
            tracing::warn!(
                lists,
                ?disabled,
                ?removed,
                nameless,
                uid,
                pid,
                role,
                "index of the key store repaired"
            );
        }
        Act::Restore(now) => {
            tracing::info!(key, state = now.state.name(), uid, pid, role, "key restored");
        }
        Act::Rewrap { backend, keys, wrapped } => {
            tracing::info!(backend, keys, wrapped, uid, pid, role, "keys rewrapped");
        }
        Act::Rotate => tracing::info!(key, version, uid, pid, role, "key rotated"),
        Act::SignRequest(scheme) => {
            tracing::info!(
                key,
                version,
                scheme = scheme.name(),
                uid,
                pid,
                role,
                "certificate request signed"
            );
        }
        Act::Unit(ref details) => {
            let details = Value::Object(details.clone());
            tracing::info!(action = action.name(), %details, uid, pid, role, "the unit has done what it was asked");
        }
        Act::WithdrawDeletion => {
            tracing::info!(key, uid, pid, role, "request for the deletion of the key withdrawn");
        }
    }
}

/// The type of the current version.
fn type_of(key: &Key) -> String {
    key.version(0).map(|version| version.key_type.to_string()).unwrap_or_default()
}

fn names(uses: &[Use]) -> Vec<&'static str> {
    uses.iter().map(|one| one.name()).collect()
}
