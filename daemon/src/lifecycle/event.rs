//! Events: acts of an actor on a key, or on the key store.

use keyward_proto::{Label, Scheme, Use};
use keyward_unit::Wkid;

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
    /// Writes the event to the log, as one line.
    pub(super) fn record(&self) {
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

/// The type of the current version.
fn type_of(key: &Key) -> String {
    key.version(0).map(|version| version.key_type.to_string()).unwrap_or_default()
}

fn names(uses: &[Use]) -> Vec<&'static str> {
    uses.iter().map(|one| one.name()).collect()
}
