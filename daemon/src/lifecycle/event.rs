//! Acts of an actor on a key, or on the key store: on record before they begin and when they end.

use keyward_proto::{Label, Scheme, Use};
use keyward_unit::Wkid;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::Error;
use crate::audit::{self, Phase, Unwritten};
use crate::daemon::Daemon;
use crate::ground::causes::causes;
use crate::keys::{Key, Repaired};
use crate::policy::roles::Role;

/// Actor who asks for an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Actor {
    /// A process on the administrators' socket, as the kernel describes it.
    User {
        /// Effective user id at the time the process connected.
        uid: u32,
        /// Process id.
        pid: i32,
        /// Role that allows the act: the least powerful one of the user that does.
        role: Role,
    },
}

/// Acts by their names in the audit trail, and whether the record may stop the act.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    Adopt,
    Attach,
    Backup,
    Delete,
    Detach,
    Disable,
    Enable,
    FinishRewrap,
    Generate,
    Import,
    Repair,
    Rewrap,
    Rotate,
    SetUses,
    SignRequest,
}

impl Action {
    /// Name of the act in the audit trail.
    fn name(self) -> &'static str {
        match self {
            Self::Adopt => "keyward.key.adopt",
            Self::Attach => "keyward.certificate.attach",
            Self::Backup => "keyward.store.copy",
            Self::Delete => "keyward.key.delete",
            Self::Detach => "keyward.certificate.detach",
            Self::Disable => "keyward.key.disable",
            Self::Enable => "keyward.key.enable",
            Self::FinishRewrap => "keyward.master-key.finish",
            Self::Generate => "keyward.key.generate",
            Self::Import => "keyward.key.import",
            Self::Repair => "keyward.store.repair",
            Self::Rewrap => "keyward.key.rewrap",
            Self::Rotate => "keyward.key.rotate",
            Self::SetUses => "keyward.key.set-uses",
            Self::SignRequest => "keyward.certificate.request",
        }
    }

    /// True if the act is carried out even if it cannot be recorded: who must stop a key must be
    /// able to.
    fn is_urgent(self) -> bool {
        matches!(self, Self::Disable)
    }
}

/// An act that is on record as begun, and has not ended yet.
pub(super) struct Begun<'a> {
    daemon: &'a Daemon,
    action: Action,
    label: Option<&'a Label>,
    actor: Actor,
}

/// Records that an act begins. Nothing may be changed before.
///
/// # Errors
/// [`Error::NotRecorded`] if the audit trail cannot be written, so the act must not be carried out.
pub(super) async fn begin<'a>(
    daemon: &'a Daemon,
    actor: Actor,
    action: Action,
    label: Option<&'a Label>,
) -> Result<Begun<'a>, Error> {
    let begun = Begun { daemon, action, label, actor };
    match begun.write(Phase::Begun, None, Map::new()).await {
        Err(error) if !action.is_urgent() => Err(Error::NotRecorded(error)),
        _ => Ok(begun),
    }
}

impl Begun<'_> {
    /// The result of the act. A failure is recorded.
    pub(super) async fn result<T, E: Into<Error>>(&self, result: Result<T, E>) -> Result<T, Error> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error.into(),
        };
        // The actor gets the error in any case.
        let _unwritten = self.write(Phase::Failed(causes(&error)), None, Map::new()).await;
        Err(error)
    }

    /// Records that the change is in force, and logs it. `version` is the version that the act is
    /// about.
    ///
    /// # Errors
    /// [`Error::DoneNotRecorded`] if the audit trail cannot be written any more.
    pub(super) async fn done(self, act: Act<'_>, version: Option<u32>) -> Result<(), Error> {
        log(&act, self.label, version, self.actor);
        match self.write(Phase::Done, version, details(&act)).await {
            Err(error) if !self.action.is_urgent() => Err(Error::DoneNotRecorded(error)),
            _ => Ok(()),
        }
    }

    /// Writes a record, and waits until it is on the disk.
    async fn write(
        &self,
        phase: Phase,
        version: Option<u32>,
        details: Map<String, Value>,
    ) -> Result<(), Unwritten> {
        let Some(trail) = self.daemon.trail() else { return Ok(()) };
        // The end of an act that has begun may use the reserved room: the act cannot be undone.
        let is_urgent = self.action.is_urgent() || phase != Phase::Begun;
        let Actor::User { uid, pid, role } = self.actor;
        let act = audit::Act {
            action: self.action.name(),
            phase,
            actor: audit::Actor { uid, pid, role: role.name() },
            key: self.label.map(Label::to_string),
            version,
            details,
        };
        let (sender, written) = oneshot::channel();
        let then = move |result| drop(sender.send(result));
        match is_urgent {
            true => trail?.record_urgent_act(act, then),
            false => trail?.record_act(act, then),
        }
        written.await.unwrap_or_else(|_| Err(Unwritten("the thread that writes has ended".into())))
    }
}

/// An act, with its details.
pub(super) enum Act<'a> {
    Adopt(&'a Key),
    /// `not_after` is when the first certificate of the chain expires, in seconds since 1970.
    Attach {
        not_after: Option<u64>,
    },
    /// `keys` is the number of keys in the copy.
    Backup {
        keys: u64,
    },
    Change(&'a Key),
    Delete,
    Detach,
    /// `wkid` is the new master key, `keys` the number of keys that it wraps.
    FinishRewrap {
        backend: &'a str,
        wkid: Wkid,
        keys: u64,
    },
    Generate(&'a Key),
    Import(&'a Key),
    Repair(&'a Repaired),
    /// `keys` is the number of keys that were looked at, `wrapped` the number of new blobs.
    Rewrap {
        backend: &'a str,
        keys: u64,
        wrapped: u64,
    },
    Rotate,
    SignRequest(Scheme),
}

/// Facts about an act, for the audit trail.
fn details(act: &Act<'_>) -> Map<String, Value> {
    let details = match act {
        Act::Adopt(key) | Act::Generate(key) | Act::Import(key) | Act::Change(key) => {
            json!({ "type": type_of(key), "state": key.state.name(), "uses": names(&key.uses) })
        }
        Act::Attach { not_after } => json!({ "not_after": not_after }),
        Act::Backup { keys } => json!({ "keys": keys }),
        Act::FinishRewrap { backend, wkid, keys } => {
            json!({ "backend": backend, "wkid": wkid.to_string(), "keys": keys })
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
        Act::SignRequest(scheme) => json!({ "scheme": scheme.name() }),
        Act::Delete | Act::Detach | Act::Rotate => json!({}),
    };
    if let Value::Object(details) = details { details } else { Map::new() }
}

/// Writes an act to the log as one line.
fn log(act: &Act<'_>, label: Option<&Label>, version: Option<u32>, actor: Actor) {
    let key = label.map(Label::as_str);
    let Actor::User { uid, pid, role } = actor;
    let role = role.name();
    match *act {
        Act::Adopt(made) => {
            tracing::info!(key, r#type = type_of(made), uses = ?names(&made.uses), uid, pid, role, "key adopted");
        }
        Act::Attach { not_after } => {
            tracing::info!(key, version, not_after, uid, pid, role, "certificate attached");
        }
        Act::Backup { keys } => tracing::info!(keys, uid, pid, role, "key store copied"),
        Act::Change(now) => {
            tracing::info!(key, state = now.state.name(), uses = ?names(&now.uses), uid, pid, role, "key changed");
        }
        Act::Delete => tracing::info!(key, uid, pid, role, "key deleted"),
        Act::Detach => tracing::info!(key, version, uid, pid, role, "certificate detached"),
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
    }
}

/// The type of the current version.
fn type_of(key: &Key) -> String {
    key.version(0).map(|version| version.key_type.to_string()).unwrap_or_default()
}

fn names(uses: &[Use]) -> Vec<&'static str> {
    uses.iter().map(|one| one.name()).collect()
}
