//! Acts of an actor on a key, or on the key store: on record before they begin and when they end.

use core::time::Duration;

use keyward_proto::{Label, Scheme, Use};
use keyward_unit::Wkid;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::Error;
use crate::audit::{self, Phase, Unwritten};
use crate::daemon::{Daemon, Loaded, RefusedAct, Reload};
use crate::ground::causes::causes;
use crate::ground::text::time;
use crate::keys::shred::{Named, Recovery};
use crate::keys::{Key, Life, Repaired, State, Verb};
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
    /// The daemon itself, without anybody who asks.
    Daemon,
}

impl Actor {
    /// Process id of the actor.
    pub(crate) fn pid(self) -> i32 {
        self.parts().1
    }

    /// User id of the actor.
    pub(crate) fn uid(self) -> u32 {
        self.parts().0
    }

    /// User id, process id, and the name of the role that allows the act.
    fn parts(self) -> (u32, i32, &'static str) {
        match self {
            Self::User { uid, pid, role } => (uid, pid, role.name()),
            Self::Daemon => {
                let (uid, pid) = (rustix::process::geteuid(), rustix::process::getpid());
                (uid.as_raw(), pid.as_raw_nonzero().get(), "daemon")
            }
        }
    }
}

/// Acts by their names in the audit trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    ActivateMasterKey,
    AddAdministrator,
    Adopt,
    Attach,
    Backup,
    BringPart,
    ClaimUnit,
    ClearCurrent,
    ClearNew,
    CommitMasterKey,
    Compromise,
    CopySecret,
    Delete,
    Destroy,
    Detach,
    Disable,
    Enable,
    EraseSecret,
    FinishRewrap,
    Generate,
    Import,
    LoadConfiguration,
    LoadMasterKey,
    NoteRecovery,
    Purge,
    RemoveAdministrator,
    RenewCertificate,
    Repair,
    ResetUnit,
    Restore,
    RevokeCertificate,
    Rewrap,
    Rotate,
    SealUnit,
    SetControlPoints,
    SetDates,
    SetDeletion,
    SetThresholds,
    SetUses,
    ShowClaim,
    SignAcme,
    SignRequest,
}

impl Action {
    /// Name of the act in the audit trail.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ActivateMasterKey => "keyward.unit-master-key-register.activate",
            Self::AddAdministrator => "keyward.unit-admin.add",
            Self::Adopt => "keyward.key.adopt",
            Self::Attach => "keyward.certificate.attach",
            Self::Backup => "keyward.store.copy",
            Self::BringPart => "keyward.unit-part.bring",
            Self::ClaimUnit => "keyward.unit.claim",
            Self::ClearCurrent => "keyward.unit-current-master-key-register.clear",
            Self::ClearNew => "keyward.unit-new-master-key-register.clear",
            Self::CommitMasterKey => "keyward.unit-master-key-register.commit",
            Self::Compromise => "keyward.key.compromise",
            Self::CopySecret => "keyward.shred-secret.copy",
            Self::Delete => "keyward.key.delete",
            Self::Destroy => "keyward.key.destroy",
            Self::Detach => "keyward.certificate.detach",
            Self::Disable => "keyward.key.disable",
            Self::Enable => "keyward.key.enable",
            Self::EraseSecret => "keyward.shred-secret.erase",
            Self::FinishRewrap => "keyward.master-key.finish",
            Self::Generate => "keyward.key.generate",
            Self::Import => "keyward.key.import",
            Self::LoadConfiguration => "keyward.configuration.load",
            Self::LoadMasterKey => "keyward.unit-master-key-register.add",
            Self::NoteRecovery => "keyward.shred-secret.note",
            Self::Purge => "keyward.key.purge",
            Self::RemoveAdministrator => "keyward.unit-admin.remove",
            Self::RenewCertificate => "keyward.certificate.renew",
            Self::Repair => "keyward.store.repair",
            Self::ResetUnit => "keyward.unit.reset",
            Self::Restore => "keyward.key.restore",
            Self::RevokeCertificate => "keyward.certificate.revoke",
            Self::Rewrap => "keyward.key.rewrap",
            Self::Rotate => "keyward.key.rotate",
            Self::SealUnit => "keyward.unit.seal",
            Self::SetControlPoints => "keyward.unit-control-points.set",
            Self::SetDates => "keyward.key.set-dates",
            Self::SetDeletion => "keyward.key.set-deletion",
            Self::SetThresholds => "keyward.unit-threshold.set",
            Self::SetUses => "keyward.key.set-uses",
            Self::ShowClaim => "keyward.unit-claim.show",
            Self::SignAcme => "keyward.acme-message.sign",
            Self::SignRequest => "keyward.certificate.request",
        }
    }

    /// Verb and state of an act that stops a key.
    fn stop(self) -> Option<(Verb, State)> {
        match self {
            Self::Compromise => Some((Verb::Compromise, State::Compromised)),
            Self::Disable => Some((Verb::Disable, State::Disabled)),
            _ => None,
        }
    }
}

/// An act that is on record as begun, and has not ended yet.
pub(super) struct Begun<'a> {
    daemon: &'a Daemon,
    action: Action,
    label: Option<&'a Label>,
    actor: Actor,
    /// True if the act has a record that it begins.
    on_record: bool,
    /// True if the act is carried out even if it cannot be recorded: who must stop a key or seal
    /// the unit must be able to. An act that changes nothing is not urgent.
    is_urgent: bool,
    /// True if this is the act of the user that stops the key now. Of many at the same time, only
    /// one is urgent: the others would use up the room of the trail for acts of other users.
    stops: bool,
}

/// Records that an act begins. Nothing may be changed before.
///
/// # Errors
/// [`Error::NotRecorded`] if the audit trail cannot be written, so the act must not be carried out.
/// [`Error::ManyActs`] if the user has carried out too many. [`Error::NotRepeated`] if there is
/// such a reason, and the key is already as the act would make it.
pub(super) async fn begin<'a>(
    daemon: &'a Daemon,
    actor: Actor,
    action: Action,
    label: Option<&'a Label>,
) -> Result<Begun<'a>, Error> {
    let mut begun = Begun { daemon, action, label, actor, on_record: true, is_urgent: false, stops: false };
    let mut repeated = None;
    if action == Action::SealUnit {
        begun.is_urgent = daemon.backends.embedded().is_some_and(|embedded| !embedded.unit().is_sealed());
    }
    // The running daemon is the only one that has the keys, and nothing can be recorded beside a
    // store whose directory is gone.
    if matches!(action, Action::Backup | Action::CopySecret) && daemon.keys.is_gone().await {
        begun.is_urgent = true;
    }
    // Without a key that can be read, the act itself fails.
    if let (Some((verb, state)), Some(label)) = (action.stop(), label) {
        // Before the key is read, which another act may stop meanwhile.
        begun.stops = daemon.begins_stop((actor.uid(), action.name(), label.clone()));
        if let Ok(Some(key)) = daemon.keys.look(label).await {
            let is_stopped = key.state == state;
            repeated = is_stopped.then(|| (label.clone(), state.name()));
            begun.is_urgent = begun.stops && !is_stopped && key.admits(verb).is_ok();
        }
    }
    match (begun.enter().await, repeated) {
        (Err(_), _) if begun.is_urgent => Ok(begun),
        (Err(reason), Some((label, state))) => {
            Err(Error::NotRepeated { label, state, reason: Box::new(reason) })
        }
        (result, _) => result.map(|()| begun),
    }
}

impl Begun<'_> {
    /// Records that the act begins, unless it is one too many of its user.
    async fn enter(&self) -> Result<(), Error> {
        if !self.is_urgent {
            self.refuse_many()?;
        }
        self.write(Phase::Begun, None, Map::new()).await.map_err(Error::NotRecorded)
    }

    /// Refuses an act of a user who has carried out too many. The refusal is on record.
    fn refuse_many(&self) -> Result<(), Error> {
        let Actor::User { uid, pid, role } = self.actor else { return Ok(()) };
        if self.daemon.may_act(uid) {
            return Ok(());
        }
        self.daemon.record_refused_act(RefusedAct {
            actor: audit::Actor { uid, pid, role: role.name() },
            reason: "too many acts of this user".into(),
            key: self.label,
            details: Map::from_iter([("act".to_owned(), self.action.name().into())]),
        });
        Err(Error::ManyActs)
    }

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
        log(&act, self.action, self.label, version, self.actor);
        match self.write(Phase::Done, version, details(&act)).await {
            Err(error) if !self.is_urgent => Err(Error::DoneNotRecorded(error)),
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
        let trail = match self.daemon.trail() {
            None => return Ok(()),
            Some(Ok(trail)) => trail,
            Some(Err(reason)) => {
                self.daemon.has_no_record_of(0, u64::from(self.is_urgent));
                return Err(reason);
            }
        };
        // The end of an act that has begun may use the reserved room: the act cannot be undone.
        let has_room = self.is_urgent || (self.on_record && phase != Phase::Begun);
        let (uid, pid, role) = self.actor.parts();
        let act = audit::Act {
            action: self.action.name(),
            phase,
            actor: audit::Actor { uid, pid, role },
            key: self.label.map(Label::to_string),
            version,
            details,
        };
        let (sender, written) = oneshot::channel();
        let then = move |result| drop(sender.send(result));
        match has_room {
            true => trail.record_urgent_act(act, then),
            false => trail.record_act(act, then),
        }
        // A disk that does not answer must not keep anybody from stopping a key.
        let limit = if self.is_urgent { URGENT_LIMIT } else { LIMIT };
        match tokio::time::timeout(limit, written).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Err(Unwritten("the thread that writes has ended".into())),
            Err(_) => Err(Unwritten(format!("the disk has not answered within {limit:?}"))),
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(label) = self.label.filter(|_| self.stops) {
            self.daemon.ends_stop(&(self.actor.uid(), self.action.name(), label.clone()));
        }
    }
}

/// Records that the present configuration is in force: grants and roles decide who may do what.
///
/// # Errors
/// The audit trail cannot be written. The configuration is in force all the same.
pub(crate) async fn configuration_loaded(daemon: &Daemon) -> Result<(), Unwritten> {
    let action = Action::LoadConfiguration;
    let (actor, label) = (Actor::Daemon, None);
    let loaded = Begun { daemon, action, label, actor, on_record: false, is_urgent: false, stops: false };
    loaded.write(Phase::Done, None, details(&Act::LoadConfiguration(&daemon.loaded()))).await
}

/// Has an administrator's wish for a reload carried out.
///
/// # Errors
/// [`Error::NotReloaded`] and [`Error::NoReloadNow`] if the old configuration stays in force.
pub(crate) async fn reload(daemon: &Daemon, actor: Actor) -> Result<Reload, Error> {
    let begun = begin(daemon, actor, Action::LoadConfiguration, None).await?;
    let reloaded = daemon.reload().await.map_err(|reason| match reason {
        Some(reason) => Error::NotReloaded(reason),
        None => Error::NoReloadNow,
    });
    let reload = begun.result(reloaded).await?;
    begun.done(Act::LoadConfiguration(&reload.loaded), None).await?;
    Ok(reload)
}

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
fn details(act: &Act<'_>) -> Map<String, Value> {
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
        Act::RevokeCertificate { plan, reason } => json!({ "plan": plan.as_str(), "reason": reason }),
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
fn log(act: &Act<'_>, action: Action, label: Option<&Label>, version: Option<u32>, actor: Actor) {
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
        Act::RevokeCertificate { plan, reason } => {
            tracing::warn!(plan = plan.as_str(), key, reason, uid, pid, role, "certificate is to be revoked");
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

/// Time that the disk has for the record of an act.
const LIMIT: Duration = Duration::from_secs(10);
/// Time that the disk has for the record of an act that is carried out nevertheless.
const URGENT_LIMIT: Duration = Duration::from_secs(2);
