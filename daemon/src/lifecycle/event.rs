//! Events: acts of an actor on a key, or on the key store.

use keyward_proto::{Label, Scheme, Use};
use keyward_unit::Wkid;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::audit::{self, Phase};
use crate::daemon::Daemon;
use crate::keys::{Key, Repaired};

/// Actor who asks for an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Actor {
    /// A process on the administrators' socket, as the kernel describes it.
    User {
        /// Effective user id at the time the process connected.
        uid: u32,
        /// Process id.
        pid: i32,
    },
}

/// An act that has succeeded.
pub(super) struct Event<'a> {
    /// The act, with its details.
    pub(super) act: Act<'a>,
    /// The key, if the act is about one key.
    pub(super) label: Option<&'a Label>,
    /// The version of the key, if the act is about one version.
    pub(super) version: Option<u32>,
    /// The actor who asked.
    pub(super) actor: Actor,
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
    Rotate,
    SignRequest(Scheme),
}

impl Event<'_> {
    /// Writes the event to the log as one line, and to the audit trail.
    pub(super) async fn record(&self, daemon: &Daemon) {
        self.log();
        let Some(trail) = daemon.trail.get() else { return };
        let (sender, written) = oneshot::channel();
        trail.record_act(self.for_the_trail(), move |result| drop(sender.send(result)));
        if let Ok(Err(error)) = written.await {
            tracing::error!("an act of an administrator has no record: {error}");
        }
    }

    fn for_the_trail(&self) -> audit::Act {
        let Actor::User { uid, pid } = self.actor;
        let (action, details) = match &self.act {
            Act::Adopt(key) => ("keyward.key.adopt", details_of(key)),
            Act::Attach { not_after } => ("keyward.certificate.attach", json!({ "not_after": not_after })),
            Act::Backup { keys } => ("keyward.store.copy", json!({ "keys": keys })),
            Act::Change(key) => ("keyward.key.change", details_of(key)),
            Act::Delete => ("keyward.key.delete", json!({})),
            Act::Detach => ("keyward.certificate.detach", json!({})),
            Act::FinishRewrap { backend, wkid, keys } => {
                ("keyward.key.rewrap", json!({ "backend": backend, "wkid": wkid.to_string(), "keys": keys }))
            }
            Act::Generate(key) => ("keyward.key.generate", details_of(key)),
            Act::Import(key) => ("keyward.key.import", details_of(key)),
            Act::Repair(Repaired { lists, disabled, removed, nameless }) => {
                let labels = |labels: &[Label]| labels.iter().map(Label::to_string).collect::<Vec<_>>();
                let (disabled, removed) = (labels(disabled), labels(removed));
                (
                    "keyward.store.repair",
                    json!({ "lists": lists, "disabled": disabled, "removed": removed, "nameless": nameless }),
                )
            }
            Act::Rotate => ("keyward.key.rotate", json!({})),
            Act::SignRequest(scheme) => ("keyward.certificate.request", json!({ "scheme": scheme.name() })),
        };
        let details = if let Value::Object(details) = details { details } else { Map::new() };
        audit::Act {
            action,
            phase: Phase::Done,
            actor: audit::Actor { uid, pid },
            key: self.label.map(Label::to_string),
            version: self.version,
            details,
        }
    }

    fn log(&self) {
        let key = self.label.map(Label::as_str);
        let version = self.version;
        let Actor::User { uid, pid } = self.actor;
        match self.act {
            Act::Adopt(made) => {
                tracing::info!(key, r#type = type_of(made), uses = ?names(&made.uses), uid, pid, "key adopted");
            }
            Act::Attach { not_after } => {
                tracing::info!(key, version, not_after, uid, pid, "certificate attached");
            }
            Act::Backup { keys } => tracing::info!(keys, uid, pid, "key store copied"),
            Act::Change(now) => {
                tracing::info!(key, state = now.state.name(), uses = ?names(&now.uses), uid, pid, "key changed");
            }
            Act::Delete => tracing::info!(key, uid, pid, "key deleted"),
            Act::Detach => tracing::info!(key, version, uid, pid, "certificate detached"),
            Act::FinishRewrap { backend, wkid, keys } => {
                tracing::info!(backend, %wkid, keys, uid, pid, "keys have another master key");
            }
            Act::Generate(made) => {
                tracing::info!(key, r#type = type_of(made), uses = ?names(&made.uses), uid, pid, "key generated");
            }
            Act::Import(made) => {
                let uses = names(&made.uses);
                tracing::info!(key, r#type = type_of(made), version, ?uses, uid, pid, "key imported");
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
                    "index of the key store repaired"
                );
            }
            Act::Rotate => tracing::info!(key, version, uid, pid, "key rotated"),
            Act::SignRequest(scheme) => {
                tracing::info!(key, version, scheme = scheme.name(), uid, pid, "certificate request signed");
            }
        }
    }
}

fn details_of(key: &Key) -> Value {
    json!({ "type": type_of(key), "state": key.state.name(), "uses": names(&key.uses) })
}

/// The type of the current version.
fn type_of(key: &Key) -> String {
    key.version(0).map(|version| version.key_type.to_string()).unwrap_or_default()
}

fn names(uses: &[Use]) -> Vec<&'static str> {
    uses.iter().map(|one| one.name()).collect()
}
