//! Acts on the embedded unit: commands of its administrators, and parts of its owners.
//!
//! The signatures of a command decide whether the unit carries it out. The actor only brings it.

use std::sync::Arc;

use keyward_proto::Label;
use keyward_unit::Wkid;
use keyward_unit::administration::{
    Custodian, Custody, CustodyError, Done, Instruction, Register, RegisterName, SealedShare, SignedCommand,
    Ski, Taken,
};
use serde_json::{Map, Value, json};

use super::details::Act;
use super::event::{Action, Actor, begin};
use super::{Error, audit_key, next_start, rewrap};
use crate::backend::{BackendError, Embedded, Unusable};
use crate::config::EMBEDDED;
use crate::daemon::Daemon;
use crate::ground::unit_state::KnownUnit;
use crate::keys::now;

/// A command that the unit has carried out.
#[derive(Debug)]
pub(crate) struct CarriedOut {
    /// Name of what it does.
    pub(crate) name: &'static str,
    pub(crate) counter: u64,
    /// Shares of a master key that the unit has made.
    pub(crate) shares: Vec<SealedShare>,
}

/// The state of the unit, and the parts that it waits for.
///
/// # Errors
/// [`Error::NoUnitHere`] if there is no embedded unit.
pub(crate) fn unit_custody(daemon: &Daemon) -> Result<Arc<Custody>, Error> {
    Ok(custodian(daemon)?.custody())
}

/// The importer key of the unit, signed by the unit.
///
/// # Errors
/// [`Error::NoUnitHere`] if there is no embedded unit.
pub(crate) async fn unit_importer(daemon: &Daemon) -> Result<String, Error> {
    let custodian = Arc::clone(custodian(daemon)?);
    blocking(move || custodian.importer().map_err(CustodyError::from)).await
}

/// The claim secret of a unit that nobody owns. `None` if somebody owns it. The act is on record.
///
/// # Errors
/// [`Error::NeedsRoot`] for anybody but root.
pub(crate) async fn claim_secret(daemon: &Daemon, actor: Actor) -> Result<Option<String>, Error> {
    let custodian = Arc::clone(custodian(daemon)?);
    refuse_others_than_root(daemon, actor)?;
    let begun = begin(daemon, actor, Action::ShowClaim, None).await?;
    let secret = custodian.custody().state.claim_secret().map(|secret| secret.as_str().to_owned());
    begun.done(Act::Unit(Map::new()), None).await?;
    Ok(secret)
}

/// Carries out the commands in a text, one after another. Ends at the first that the unit refuses.
///
/// # Errors
/// [`Error`] says which command was refused, and why. The commands before it were carried out.
pub(crate) async fn unit_commands(
    daemon: &Arc<Daemon>,
    actor: Actor,
    text: &str,
) -> Result<Vec<CarriedOut>, Error> {
    custodian(daemon)?;
    let mut done = Vec::new();
    let commands = SignedCommand::read_all(text).map_err(Error::InvalidCommands)?;
    let total = commands.len();
    for (signed, number) in commands.into_iter().zip(1..) {
        let carried_out = unit_command(daemon, actor, signed).await;
        done.push(carried_out.map_err(|reason| match total {
            1 => reason,
            _ => Error::OfCommand { number, total, reason: Box::new(reason) },
        })?);
    }
    Ok(done)
}

async fn unit_command(
    daemon: &Arc<Daemon>,
    actor: Actor,
    signed: SignedCommand,
) -> Result<CarriedOut, Error> {
    let instruction = &signed.command().instruction;
    if matches!(instruction, Instruction::Claim { .. }) {
        refuse_others_than_root(daemon, actor)?;
    }
    let custodian = Arc::clone(custodian(daemon)?);
    let (name, counter, details) =
        (instruction.name(), signed.command().counter, details(&signed, &custodian));
    let begun = begin(daemon, actor, action_of(instruction), None).await?;
    let carried_out = carry_out(daemon, custodian, signed).await;
    let shares = match begun.result(carried_out).await? {
        Done::Shares(shares) => shares,
        Done::Command | Done::Expects(_) => Vec::new(),
    };
    settle(daemon).await;
    begun.done(Act::Unit(details), None).await?;
    Ok(CarriedOut { name, counter, shares })
}

async fn carry_out(
    daemon: &Arc<Daemon>,
    custodian: Arc<Custodian>,
    signed: SignedCommand,
) -> Result<Done, Error> {
    // No other command, and no change of the keys, comes between the look and the command.
    let locked = rewrap::lock(daemon, EMBEDDED).await?;
    {
        // Nothing is changed for a command that the unit refuses.
        let (custodian, signed) = (Arc::clone(&custodian), signed.clone());
        blocking(move || custodian.check(&signed, now())).await?;
    }
    let custody = custodian.custody();
    let new = custody.state.new_register().contents().map(|contents| contents.wkid);
    let has_current = *custody.state.current() != Register::Empty;
    match (&signed.command().instruction, new) {
        (Instruction::Activate(_), _) if has_current => {
            rewrap::finish(daemon, EMBEDDED, &locked).await?;
        }
        (Instruction::Activate(_) | Instruction::Commit(_), Some(new)) if !has_current => {
            refuse_other(daemon, new).await?;
        }
        // Without a master key in force, the owners can load the same one again.
        (Instruction::Clear(RegisterName::New, _), Some(_)) if !has_current => {}
        (Instruction::Clear(RegisterName::New, _), Some(new)) if !daemon.keys.is_locked() => {
            rewrap::refuse_to_give_up(daemon, new, &locked).await?;
        }
        (Instruction::Clear(..), Some(new)) => rewrap::refuse_to_cut_off(daemon, new, &locked).await?,
        _ => {}
    }
    blocking(move || custodian.command(&signed, now())).await
}

/// Refuses a first master key that is not the one of the key store.
async fn refuse_other(daemon: &Daemon, new: Wkid) -> Result<(), Error> {
    // A store that is not there yet, or cannot be read, names no master key.
    match daemon.keys.master_key().await.ok().flatten() {
        Some(needed) if needed != new => Err(Error::StoreNeedsOther { needed, new }),
        _ => Ok(()),
    }
}

/// Gives the unit a part or a share that its owner has encrypted to the importer key.
///
/// # Errors
/// [`Error::Custody`] says why the unit does not wait for it.
pub(crate) async fn unit_part(daemon: &Arc<Daemon>, actor: Actor, sealed: Vec<u8>) -> Result<Taken, Error> {
    let custodian = Arc::clone(custodian(daemon)?);
    let begun = begin(daemon, actor, Action::BringPart, None).await?;
    let taken = begun.result(blocking(move || custodian.take(&sealed)).await).await?;
    if taken.missing == 0 {
        settle(daemon).await;
    }
    let details = json!({
        "register": taken.register.name(),
        "pattern": taken.pattern.to_string(),
        "missing": taken.missing,
    });
    begun.done(Act::Unit(object(details)), None).await?;
    Ok(taken)
}

/// Takes the master keys out of the memory of the unit.
///
/// # Errors
/// [`Error::NobodyUnseals`] if the master key has no owners, and [`Error::NothingToSeal`] if there
/// is none.
pub(crate) async fn seal_unit(daemon: &Arc<Daemon>, actor: Actor) -> Result<(), Error> {
    let custodian = Arc::clone(custodian(daemon)?);
    let custody = custodian.custody();
    match custody.state.current().contents().map(|current| current.origin.needed()) {
        Some(0) => return Err(Error::NobodyUnseals),
        None if *custody.state.new_register() == Register::Empty => return Err(Error::NothingToSeal),
        _ => {}
    }
    let begun = begin(daemon, actor, Action::SealUnit, None).await?;
    begun
        .result(
            blocking(move || {
                custodian.seal();
                Ok(())
            })
            .await,
        )
        .await?;
    begun.done(Act::Unit(Map::new()), None).await
}

/// Sees that the embedded unit has a next master key, to which its keys can go. A unit that nobody
/// owns makes one.
///
/// # Errors
/// [`Error::OwnersCommit`] if the owners have not committed one.
pub(crate) async fn prepare_rotation(daemon: &Daemon, actor: Actor) -> Result<Arc<Custody>, Error> {
    let custodian = Arc::clone(custodian(daemon)?);
    rewrap::refuse_incomplete_store(daemon).await?;
    let custody = custodian.custody();
    if !custody.state.is_unowned() {
        return match (custody.state.new_register(), custody.state.current().contents()) {
            (Register::Committed(_), _) | (_, None) => Ok(custody),
            (_, Some(current)) => Err(Error::OwnersCommit(current.wkid)),
        };
    }
    if daemon.keys.is_locked() {
        return Err(audit_key::locked(daemon));
    }
    let begun = begin(daemon, actor, Action::LoadMasterKey, None).await?;
    begun.result(next_start::refuse_to_lose(daemon).await).await?;
    let made = {
        let custodian = Arc::clone(&custodian);
        blocking(move || custodian.make_next_master_key()).await
    };
    begun.result(made).await?;
    let custody = custodian.custody();
    let pattern = custody.state.new_register().pattern().map(|pattern| pattern.to_string());
    begun.done(Act::Unit(object(json!({ "pattern": pattern, "owners": [] }))), None).await?;
    Ok(custody)
}

/// Gives up the next master key of a unit that nobody owns.
///
/// # Errors
/// [`Error::StoreNeedsNew`] if the keys have gone to it already.
pub(crate) async fn give_up_rotation(daemon: &Daemon, actor: Actor) -> Result<(), Error> {
    let custodian = Arc::clone(custodian(daemon)?);
    let new = custodian.custody().state.new_register().contents().map(|contents| contents.wkid);
    let new = new.ok_or(Error::NoChange)?;
    let locked = rewrap::lock(daemon, EMBEDDED).await?;
    rewrap::refuse_to_give_up(daemon, new, &locked).await?;
    let begun = begin(daemon, actor, Action::ClearNew, None).await?;
    begun.result(blocking(move || custodian.forget_next_master_key()).await).await?;
    begun.done(Act::Unit(Map::new()), None).await
}

/// Unlocks the key store if the unit has its master key now, and notes whether the unit has the one
/// of the key store.
async fn settle(daemon: &Daemon) {
    let Some(embedded) = daemon.backends.embedded() else { return };
    let unit = embedded.unit();
    embedded.set_needed(daemon.keys.master_key().await.ok().flatten());
    note_unit(daemon, embedded);
    if unit.is_sealed() {
        embedded.set_problem(None);
        daemon.set_next_start(None);
        return;
    }
    if daemon.keys.is_locked() {
        match daemon.keys.unlock(Arc::clone(unit), daemon.dev).await {
            Ok(()) => {
                tracing::info!("the unit has its master key, and the key store is open");
                daemon.set_surveyed(true);
                daemon.shredding.want();
            }
            Err(error) => tracing::error!("{error}"),
        }
    }
    embedded.set_problem(problem(daemon, embedded).await);
    let wkids = [unit.wkid(), unit.other_wkid()].into_iter().flatten().collect();
    let left = daemon.keys.left_behind(wkids).await.unwrap_or_default();
    daemon.set_unusable_keys(left_behind(&left));
    // Parts of owners open a unit whose secret does not.
    next_start::look(daemon).await;
}

/// Message about keys that the embedded unit cannot unwrap with its master keys. `None` without
/// such keys.
pub(crate) fn left_behind(labels: &[Label]) -> Option<String> {
    const MAX_LABELS: usize = 5;
    let first: Vec<_> = labels.iter().take(MAX_LABELS).map(Label::as_str).collect();
    (!labels.is_empty()).then(|| {
        format!(
            "{} keys are wrapped by another master key than the unit has, and do not sign: {}{}; if a change of the master key has begun, finish the change: keyward unit rotate; if the unit does not have the other master key, its owners bring their parts, or restore the directory unit of the state directory from a backup",
            labels.len(),
            first.join(", "),
            if labels.len() > MAX_LABELS { ", ..." } else { "" }
        )
    })
}

/// Notes the unit beside the key store, for the next start.
fn note_unit(daemon: &Daemon, embedded: &Embedded) {
    let known = KnownUnit::of(&embedded.custodian().custody().state);
    if let Err(error) = known.keep(daemon.keys.state_dir()) {
        tracing::error!("cannot note which unit belongs to the key store: {error}");
    }
}

/// Reason why the unit, which is not sealed, cannot be used with the key store.
async fn problem(daemon: &Daemon, embedded: &Embedded) -> Option<Unusable> {
    let unit = embedded.unit();
    let (needed, has) = (daemon.keys.master_key().await.ok()??, unit.wkid()?);
    match has == needed || unit.other_wkid() == Some(needed) {
        true => None,
        false => Some(Unusable::Other { needed, has }),
    }
}

fn custodian(daemon: &Daemon) -> Result<&Arc<Custodian>, Error> {
    daemon.backends.embedded().map(Embedded::custodian).ok_or(Error::NoUnitHere)
}

/// Refuses everybody but root: a claim decides who owns the unit.
fn refuse_others_than_root(daemon: &Daemon, actor: Actor) -> Result<(), Error> {
    let is_root = actor.uid() == 0 || daemon.dev && actor.uid() == rustix::process::getuid().as_raw();
    if is_root { Ok(()) } else { Err(Error::NeedsRoot) }
}

/// Does work that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, CustodyError> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(BackendError::GivenUp.into()),
    }
}

fn action_of(instruction: &Instruction) -> Action {
    match instruction {
        Instruction::Activate(_) => Action::ActivateMasterKey,
        Instruction::AddAdministrator(_) => Action::AddAdministrator,
        Instruction::Claim { .. } => Action::ClaimUnit,
        Instruction::Clear(RegisterName::Current, _) => Action::ClearCurrent,
        Instruction::Clear(RegisterName::New, _) => Action::ClearNew,
        Instruction::Commit(_) => Action::CommitMasterKey,
        Instruction::GenerateShares { .. } | Instruction::LoadParts(_) | Instruction::LoadShares { .. } => {
            Action::LoadMasterKey
        }
        Instruction::RemoveAdministrator { .. } => Action::RemoveAdministrator,
        Instruction::SetControlPoints(_) => Action::SetControlPoints,
        Instruction::SetThresholds(_) => Action::SetThresholds,
        Instruction::Zeroize => Action::ResetUnit,
    }
}

/// Facts about a command, for the audit trail. `signers` are the administrators whose signatures
/// the command has; the unit verifies them.
fn details(signed: &SignedCommand, custodian: &Custodian) -> Map<String, Value> {
    let custody = custodian.custody();
    let state = &custody.state;
    let name_of = |ski: Ski| {
        state
            .administrators()
            .iter()
            .find(|person| person.key.ski() == ski)
            .map(|person| person.name.to_string())
    };
    let signers: Vec<_> =
        signed.signers().map(|ski| json!({ "ski": ski.to_string(), "name": name_of(ski) })).collect();
    let command = signed.command();
    let mut details =
        json!({ "unit": command.unit.to_string(), "counter": command.counter, "signers": signers });
    let more = match &command.instruction {
        Instruction::Activate(pattern) | Instruction::Commit(pattern) | Instruction::Clear(_, pattern) => {
            json!({ "pattern": pattern.to_string() })
        }
        Instruction::AddAdministrator(person) => {
            json!({ "name": person.name.to_string(), "ski": person.key.ski().to_string() })
        }
        Instruction::Claim { administrators, thresholds } => {
            let skis: Vec<_> = administrators.iter().map(|person| person.key.ski().to_string()).collect();
            json!({
                "administrators": skis,
                "signature_threshold": thresholds.signature,
                "revocation_threshold": thresholds.revocation,
            })
        }
        Instruction::GenerateShares { needed, owners } => {
            let owners: Vec<_> = owners.iter().map(|owner| owner.name.to_string()).collect();
            json!({ "needed": needed, "owners": owners })
        }
        Instruction::LoadParts(parts) => {
            json!({ "parts": parts.iter().map(ToString::to_string).collect::<Vec<_>>() })
        }
        Instruction::LoadShares { needed, shares } => {
            let patterns: Vec<_> = shares.iter().map(|(_, pattern)| pattern.to_string()).collect();
            json!({ "needed": needed, "shares": patterns })
        }
        Instruction::RemoveAdministrator { ski, name } => {
            json!({ "ski": ski.to_string(), "name": name.to_string() })
        }
        Instruction::SetControlPoints(profile) => json!({ "profile": profile.name() }),
        Instruction::SetThresholds(thresholds) => json!({
            "signature_threshold": thresholds.signature,
            "revocation_threshold": thresholds.revocation,
        }),
        Instruction::Zeroize => json!({}),
    };
    if let (Some(details), Value::Object(more)) = (details.as_object_mut(), more) {
        details.extend(more);
    }
    object(details)
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}
