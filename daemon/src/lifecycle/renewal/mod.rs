//! Steps of plans: what the agent and the deployer ask for. The daemon builds and signs each
//! message itself, so an agent in the wrong hands gets the certificates of the plans, for keys of
//! this daemon, and nothing else.

mod anchors;
mod chain;
mod error;
mod hold;
mod message;
mod placeholder;
mod report;
mod revocable;
mod revoke;
mod state;

pub(crate) use chain::{accept, files};
pub(crate) use error::RenewalError;
pub(crate) use message::{message, request_for_program};
pub(crate) use report::{deployed, renew_now, report};
pub(crate) use revocable::revocable;
pub(crate) use revoke::{Meant, keep, revoke, shown, shown_order};
pub(crate) use state::{PlanState, all, is_at, of};

use std::sync::Arc;

use keyward_proto::{KeyType, Label, Use};

use super::Error;
use super::create::{KeySpec, Properties, generate};
use super::event::Actor;
use crate::audit;
use crate::config::{Authority, Config, Issuer, Plan, origin};
use crate::daemon::{Daemon, RefusedAct};
use crate::keys::{Key, Standing, StoreError, Version, now};
use crate::policy::act::Act;
use crate::policy::purpose::Purpose;
use crate::renewal::jws::AccountKey;
use crate::renewal::revocation::At;

/// The account of the daemon at an authority.
fn at(authority: &Authority) -> At {
    let account_key = Some(authority.account_key.to_string());
    At { directory: authority.directory.clone(), account_key }
}

/// Makes the keys of a plan that are missing: that of its certificate, and that of the account at
/// its authority.
///
/// # Errors
/// [`Error`] says why there is no key.
pub(crate) async fn prepare(daemon: &Daemon, name: &Label) -> Result<(), Error> {
    let config = daemon.config();
    let plan = plan(&config, name)?;
    let key = key_of(daemon, &plan).await?;
    if !Act::Sign(Purpose::CertificateRequest).is_admitted_by(&key.uses) {
        return Err(Error::NotForRequests { label: key.label.clone(), uses: key.uses.clone() });
    }
    if let Issuer::Acme { .. } = plan.issuer {
        account_key(daemon, authority(&config, &plan)?).await?;
    }
    Ok(())
}

/// A plan of the configuration.
fn plan(config: &Config, name: &Label) -> Result<Plan, Error> {
    let found = config.plans.iter().find(|plan| plan.name == *name);
    found.cloned().ok_or_else(|| RenewalError::NoPlan(name.clone()).into())
}

/// The authority of a plan.
fn authority<'c>(config: &'c Config, plan: &Plan) -> Result<&'c Authority, Error> {
    let of_acme = match &plan.issuer {
        Issuer::Acme { authority, .. } => config.authorities.get(authority),
        Issuer::Command(_) => None,
    };
    of_acme.ok_or_else(|| RenewalError::NotAcme(plan.name.clone()).into())
}

/// Why there can be no account at the authority of a plan: its key is not one for accounts, or the
/// file that binds it to an account of the owner cannot be used. `None` if nothing is wrong, or the
/// account is there.
///
/// # Errors
/// The key store cannot be read.
pub(crate) async fn account_problem(daemon: &Daemon, plan: &Plan) -> Result<Option<String>, Error> {
    let config = daemon.config();
    let Ok(authority) = authority(&config, plan) else { return Ok(None) };
    let key = daemon.keys.get(&authority.account_key).await?;
    let wrong = key.as_ref().and_then(|key| check_account_key(key).err());
    let thumbprint = key.as_ref().and_then(|key| Some(public_key(key).ok()?.1.thumbprint()));
    let account =
        thumbprint.and_then(|thumbprint| daemon.renewals.account(&authority.directory, &thumbprint));
    if wrong.is_some() || account.is_some_and(|account| account.url.is_some()) {
        return Ok(wrong.map(|error| error.to_string()));
    }
    let binding = authority.binding.as_ref().map(|binding| message::read_mac_key(&binding.key));
    Ok(binding.and_then(Result::err).map(|error| error.to_string()))
}

/// The key of a plan, which is made if there is none.
async fn key_of(daemon: &Daemon, plan: &Plan) -> Result<Arc<Key>, Error> {
    let key = found_or_made(daemon, &plan.key, &[Use::TlsServer, Use::Csr], plan.key_type).await?;
    match key.standing(now()) {
        Standing::Active => Ok(key),
        standing => Err(Error::not_active(&key, standing)),
    }
}

/// The key of the account at an authority, which is made if there is none.
async fn account_key(daemon: &Daemon, authority: &Authority) -> Result<Arc<Key>, Error> {
    let key = found_or_made(daemon, &authority.account_key, &[Use::AcmeAccount], KeyType::P256).await?;
    check_account_key(&key)?;
    Ok(key)
}

/// The key with a label, which is made for these uses if there is none.
async fn found_or_made(
    daemon: &Daemon,
    label: &Label,
    uses: &[Use],
    key_type: KeyType,
) -> Result<Arc<Key>, Error> {
    if let Some(key) = daemon.keys.get(label).await? {
        return Ok(key);
    }
    let spec = KeySpec {
        label: label.clone(),
        properties: Properties { uses: uses.to_vec(), ..Properties::default() },
    };
    match generate(daemon, Actor::Daemon, spec, key_type).await {
        // Another request has made it meanwhile.
        Err(Error::Store(StoreError::Exists(_))) => {
            let made = daemon.keys.get(label).await?;
            made.ok_or_else(|| StoreError::Unknown(label.clone()).into())
        }
        made => made,
    }
}

/// Refuses a URL of another server than that of an authority.
fn check_url(authority: &Authority, url: &str) -> Result<(), RenewalError> {
    let expected = authority.origin();
    match origin(url) == Some(expected) {
        true => Ok(()),
        false => {
            let url = url.chars().take(200).collect();
            Err(RenewalError::OtherUrl { url, origin: expected.to_owned() })
        }
    }
}

/// The current version of an account key, and its public key.
fn public_key(key: &Key) -> Result<(&Version, AccountKey<'_>), RenewalError> {
    let version = key.version(0);
    let found = version.and_then(|version| Some((version, AccountKey::of(&version.spki)?)));
    found.ok_or_else(|| RenewalError::NotAnAccountKey(key.label.clone()))
}

fn check_account_key(key: &Key) -> Result<(), Error> {
    let standing = key.standing(now());
    match public_key(key).is_ok() {
        _ if standing != Standing::Active => Err(Error::not_active(key, standing)),
        true if key.uses == [Use::AcmeAccount] => Ok(()),
        _ => Err(RenewalError::NotAnAccountKey(key.label.clone()).into()),
    }
}

/// Puts the refusal of a step on record. A refusal because of a unit or a disk is no attempt of
/// somebody.
fn record_refusal<T>(daemon: &Daemon, actor: Actor, name: &Label, step: &str, result: &Result<T, Error>) {
    let (Err(Error::Renewal(reason)), Actor::User { uid, pid, role }) = (result, actor) else { return };
    let details = [("act", "step"), ("step", step), ("plan", name.as_str())];
    daemon.record_refused_act(RefusedAct {
        actor: audit::Actor { uid, pid, role: role.name() },
        reason: reason.to_string(),
        key: None,
        details: details.into_iter().map(|(field, text)| (field.to_owned(), text.into())).collect(),
    });
}
