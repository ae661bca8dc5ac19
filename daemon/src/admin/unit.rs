//! The embedded unit and its owners.

use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_unit::administration::{
    Custody, Origin, Pattern, Register, RegisterName, SealedShare, ShareFile, Taken, UnitId,
};

use super::{Admin, AdminError, Administrator, Answer, Body};
use crate::admin::unit_view::{
    AwaitedView, ClaimView, CommandView, CommandsView, ImporterView, OwnedUnitView, PersonView, RegisterView,
    SealedView, ShareView, TakenView,
};
use crate::backend::Embedded;
use crate::daemon::Daemon;
use crate::lifecycle::{self, CarriedOut};

pub(super) async fn show(State(admin): State<Admin>) -> Answer<OwnedUnitView> {
    Ok(Json(view(&admin.daemon, &*lifecycle::unit_custody(&admin.daemon)?)))
}

/// Sees that the unit has a next master key.
pub(super) async fn prepare_rotation(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Answer<OwnedUnitView> {
    Ok(Json(view(&admin.daemon, &*lifecycle::prepare_rotation(&admin.daemon, actor).await?)))
}

/// Gives up the next master key of a unit that nobody owns.
pub(super) async fn give_up_rotation(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Answer<OwnedUnitView> {
    lifecycle::give_up_rotation(&admin.daemon, actor).await?;
    Ok(Json(view(&admin.daemon, &*lifecycle::unit_custody(&admin.daemon)?)))
}

fn view(daemon: &Daemon, custody: &Custody) -> OwnedUnitView {
    let embedded = daemon.backends.embedded();
    let opening = embedded.map(|embedded| embedded.opening().name());
    let state = &custody.state;
    let needed = embedded.and_then(Embedded::needed).filter(|_| *state.current() == Register::Empty);
    let thresholds = state.thresholds();
    let administrators = state
        .administrators()
        .iter()
        .map(|person| PersonView { name: person.name.to_string(), ski: person.key.ski().to_string() });
    OwnedUnitView {
        unit: state.unit().to_string(),
        unit_key: state.unit_key().ski().to_string(),
        serves_grep11: daemon.serves_grep11,
        control_points: custody.profile.to_string(),
        owned: !state.is_unowned(),
        sealed: custody.is_sealed,
        opening: opening.unwrap_or_default().into(),
        next_start_fails: daemon.next_start_fails(),
        next_counter: state.next_counter(),
        signature_threshold: thresholds.signature,
        revocation_threshold: thresholds.revocation,
        administrators: administrators.collect(),
        current: register(state.unit(), state.current()),
        new: register(state.unit(), state.new_register()),
        store_needs: needed.map(|needed| needed.to_string()),
        awaited: custody.awaited.iter().map(awaited_view).collect(),
    }
}

fn register(unit: UnitId, register: &Register) -> RegisterView {
    let contents = register.contents();
    RegisterView {
        state: register.state().into(),
        pattern: contents.map(|contents| contents.pattern.to_string()),
        wkid: contents.map(|contents| contents.wkid.to_string()),
        needed: contents.map(|contents| contents.origin.needed()),
        parts: contents.map(|contents| texts(&contents.origin.patterns())).unwrap_or_default(),
        shares: contents
            .into_iter()
            .flat_map(|key| &key.shares)
            .map(|one| share(unit, one.clone()))
            .collect(),
    }
}

/// The file of a share, for its owner.
fn share(unit: UnitId, share: SealedShare) -> ShareView {
    ShareView { owner: share.owner.name.to_string(), file: ShareFile { unit, share }.to_text() }
}

fn awaited_view((register, origin, arrived): &(RegisterName, Origin, Vec<Pattern>)) -> AwaitedView {
    AwaitedView {
        register: register.name().into(),
        needed: origin.needed(),
        parts: texts(&origin.patterns()),
        arrived: texts(arrived),
    }
}

fn texts(patterns: &[Pattern]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

pub(super) async fn importer(State(admin): State<Admin>) -> Answer<ImporterView> {
    Ok(Json(ImporterView { importer: lifecycle::unit_importer(&admin.daemon).await? }))
}

pub(super) async fn claim_secret(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Answer<ClaimView> {
    Ok(Json(ClaimView { secret: lifecycle::claim_secret(&admin.daemon, actor).await? }))
}

/// Carries out the signed commands in the body.
pub(super) async fn commands(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    body: Body,
) -> Answer<CommandsView> {
    let body = body?;
    let text = str::from_utf8(&body).map_err(|_| AdminError::Invalid("the commands are not text".into()))?;
    let unit = lifecycle::unit_custody(&admin.daemon)?.state.unit();
    let done = lifecycle::unit_commands(&admin.daemon, actor, text).await?;
    let command = |CarriedOut { name, counter, shares }: CarriedOut| CommandView {
        command: name.into(),
        counter,
        shares: shares.into_iter().map(|one| share(unit, one)).collect(),
    };
    Ok(Json(CommandsView { done: done.into_iter().map(command).collect() }))
}

/// Gives the unit the part in the body, which is encrypted to its importer key, in base64.
pub(super) async fn part(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    body: Body,
) -> Answer<TakenView> {
    let sealed = STANDARD.decode(body?.trim_ascii());
    let sealed = sealed.map_err(|_| AdminError::Invalid("the part is not in base64".into()))?;
    let Taken { register, pattern, missing } = lifecycle::unit_part(&admin.daemon, actor, sealed).await?;
    Ok(Json(TakenView { register: register.name().into(), pattern: pattern.to_string(), missing }))
}

pub(super) async fn seal(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Answer<SealedView> {
    lifecycle::seal_unit(&admin.daemon, actor).await?;
    Ok(Json(SealedView { sealed: true }))
}
