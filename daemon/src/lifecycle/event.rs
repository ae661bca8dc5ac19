//! Acts of an actor on a key, or on the key store: on record before they begin and when they end.

use core::time::Duration;

use keyward_proto::Label;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::Error;
use super::details::{Act, details, log};
use crate::audit::{self, Phase, Unwritten};
use crate::daemon::{Daemon, RefusedAct, Reload};
use crate::ground::causes::causes;
use crate::keys::{State, Verb};
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
    pub(super) fn parts(self) -> (u32, i32, &'static str) {
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

/// Time that the disk has for the record of an act.
const LIMIT: Duration = Duration::from_secs(10);
/// Time that the disk has for the record of an act that is carried out nevertheless.
const URGENT_LIMIT: Duration = Duration::from_secs(2);
