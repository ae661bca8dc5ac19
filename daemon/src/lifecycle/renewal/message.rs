//! Messages to the authority of a plan, and the certificate request of a plan.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::Encode;
use der::asn1::Ia5String;
use keyward_proto::{Label, Scheme};
use serde::Deserialize;
use serde_json::Value;
use x509_cert::ext::pkix::name::GeneralName;
use zeroize::Zeroizing;

use super::hold::hold;
use super::{RenewalError, account_key, authority, check_url, key_of, plan, public_key, state};
use crate::config::{Identifier, Issuer, Plan};
use crate::daemon::Daemon;
use crate::ground::ownership;
use crate::keys::certificates::request as csr;
use crate::keys::{Key, Version, now};
use crate::lifecycle::details::Act;
use crate::lifecycle::event::{Action, Actor, begin};
use crate::lifecycle::request::{sign, sign_request};
use crate::lifecycle::{Error, versions};
use crate::renewal::jws::{Payload, Unsigned};
use crate::renewal::known::digest;

/// Kind of a message.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// Makes the account, or finds the account of the key.
    NewAccount,
    /// Orders the certificate of the plan.
    NewOrder,
    /// Reads an order, an authorisation, a challenge or a certificate.
    Read,
    /// Says that the answer to a challenge is in place.
    Answer,
    /// Sends the certificate request.
    Finalize,
    /// Revokes the certificate of the plan, as a person asked.
    Revoke,
}

impl Step {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NewAccount => "new-account",
            Self::NewOrder => "new-order",
            Self::Read => "read",
            Self::Answer => "answer",
            Self::Finalize => "finalize",
            Self::Revoke => "revoke",
        }
    }
}

/// Builds and signs the message of a step. The agent chooses the URL, below the origin of the
/// authority, and the nonce.
///
/// # Errors
/// [`Error::Renewal`] if the step is not one that the plan takes now.
pub(crate) async fn message(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
    step: Step,
    url: &str,
    nonce: &str,
) -> Result<Value, Error> {
    let message = built(daemon, actor, name, step, url, nonce).await;
    super::record_refusal(daemon, actor, name, step.name(), &message);
    message
}

async fn built(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
    step: Step,
    url: &str,
    nonce: &str,
) -> Result<Value, Error> {
    let config = daemon.config();
    let plan = plan(&config, name)?;
    let authority = authority(&config, &plan)?;
    check_url(authority, url)?;
    let is_nonce = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !(1..=256).contains(&nonce.len()) || !nonce.bytes().all(is_nonce) {
        return Err(RenewalError::Nonce.into());
    }
    hold(daemon, actor, name)?;
    let account_key = account_key(daemon, authority).await?;
    let (version, public) = public_key(&account_key)?;
    let account = daemon.renewals.account(&authority.directory, &public.thumbprint());
    let account = account.and_then(|account| account.url);
    let account = match step {
        Step::NewAccount => None,
        _ => Some(account.ok_or(RenewalError::NoAccount)?),
    };
    let names: Vec<_> = plan.names.iter().map(|name| (name.kind(), name.to_string())).collect();
    let state = state::of(daemon, name).await?;
    let request;
    let certificate;
    let replaces;
    let mac_key;
    let mut revoked = None;
    let payload = match step {
        Step::Read => Payload::Read,
        Step::Answer => Payload::Answer,
        Step::NewAccount => {
            mac_key = authority.binding.as_ref().map(|binding| read_mac_key(&binding.key)).transpose()?;
            let binding = authority.binding.as_ref().zip(mac_key.as_ref());
            let binding = binding.map(|(binding, key)| (binding.kid.as_str(), key.as_slice()));
            Payload::Account { contact: &authority.contact, binding }
        }
        Step::NewOrder => {
            count_order(daemon, &plan, &state)?;
            let Issuer::Acme { profile, .. } = &plan.issuer else {
                return Err(RenewalError::NotAcme(name.clone()).into());
            };
            replaces = state.replaces();
            Payload::Order { names: &names, profile: profile.as_deref(), replaces: replaces.as_deref() }
        }
        Step::Finalize => {
            if state.progress.order.is_none() {
                return Err(RenewalError::NotOrdered(name.clone()).into());
            }
            request = self::request(daemon, actor, name).await?;
            Payload::Finalize(&request)
        }
        Step::Revoke => {
            let asked = state.revocation(authority).cloned();
            let asked = asked.ok_or_else(|| RenewalError::NotRevoked(name.clone()))?;
            let unreadable = |_| RenewalError::NoCertificate(name.clone());
            certificate = URL_SAFE_NO_PAD.decode(&asked.certificate).map_err(unreadable)?;
            let reason = asked.reason;
            revoked = Some(asked);
            Payload::Revoke(&certificate, reason)
        }
    };
    let message = Unsigned::new(public, account.as_deref(), nonce, url, &payload);
    // Messages that only read are many, and change nothing at the authority.
    let begun = match step {
        Step::Read | Step::Answer => None,
        _ => Some(begin(daemon, actor, Action::SignAcme, Some(&plan.key)).await?),
    };
    let scheme = Scheme::EcdsaSecp256r1Sha256;
    let signed = sign(daemon, &account_key, version, scheme, &message.signing_input(), None).await;
    let signed = match &begun {
        Some(begun) => begun.result(signed).await?,
        None => signed?,
    };
    let unreadable = || RenewalError::Encoding("the unit gave a signature that is none on P-256".into());
    let message = message.signed(&signed).ok_or_else(unreadable)?;
    if let Some(revoked) = revoked {
        let sent = daemon.renewals.update(name.as_str(), |progress, known| {
            // A person may have given it up while the message was signed.
            match progress.send(known, &revoked) {
                true => Ok(()),
                false => Err(RenewalError::NotRevoked(name.clone())),
            }
        });
        match &begun {
            Some(begun) => begun.result(sent).await?,
            None => sent?,
        }
    }
    if let Some(begun) = begun {
        begun.done(Act::SignAcme { plan: name, step: step.name(), url }, None).await?;
    }
    Ok(message)
}

/// Refuses an order that is not due, and counts an order.
fn count_order(daemon: &Daemon, plan: &Plan, state: &state::PlanState) -> Result<(), Error> {
    let (name, now) = (&plan.name, now());
    if state.progress.order.is_some() {
        return Err(RenewalError::Ordered(name.clone()).into());
    }
    state.refuse_early()?;
    daemon.renewals.update(name.as_str(), |progress, _| {
        let hold = progress.held.as_mut().ok_or_else(|| RenewalError::Ordered(name.clone()))?;
        hold.messages += 1;
        progress.nonces.retain(|at| at.saturating_add(DAY) > now);
        // The authority did not take the nonce of the message before.
        if (2..=MOST_MESSAGES).contains(&hold.messages) && progress.nonces.len() < MOST_NONCES {
            progress.nonces.push(now);
            return Ok(());
        }
        hold.messages = 1;
        // Of certificates that live for minutes, there are more.
        let most =
            state.lifetime().map_or(MOST_ORDERS, |life| MOST_ORDERS.max((4 * DAY / life.max(1)) as usize));
        progress.orders.retain(|at| at.saturating_add(DAY) > now);
        if progress.orders.len() >= most {
            let until = progress.orders.first().map_or(now, |first| first.saturating_add(DAY));
            return Err(RenewalError::ManyOrders { plan: name.clone(), orders: most, until });
        }
        progress.orders.push(now);
        Ok(())
    })?;
    Ok(())
}

/// The certificate request of a plan whose issuer is a program, and which is due.
///
/// # Errors
/// [`Error`] says why there is no request.
pub(crate) async fn request_for_program(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
) -> Result<Vec<u8>, Error> {
    let made = async {
        let state = state::of(daemon, name).await?;
        if let Issuer::Acme { .. } = state.plan.issuer {
            return Err(RenewalError::IsAcme(name.clone()).into());
        }
        state.refuse_early()?;
        request(daemon, actor, name).await
    }
    .await;
    super::record_refusal(daemon, actor, name, "request", &made);
    made
}

/// The certificate request of a plan, in DER, signed by the version of its key that the certificate
/// is for. If the plan renews its key, the first request of an order makes the version.
///
/// # Errors
/// [`Error`] says why the key does not sign the request.
async fn request(daemon: &Daemon, actor: Actor, name: &Label) -> Result<Vec<u8>, Error> {
    let plan = plan(&daemon.config(), name)?;
    hold(daemon, actor, name)?;
    let key = key_of(daemon, &plan).await?;
    let (progress, known) = daemon.renewals.look(name.as_str(), Some(&key));
    let refused = known.refused(&key);
    let ordered = progress.ordered(&key).filter(|number| refused.is_none_or(|refused| *number > refused));
    let (key, number) = match ordered {
        Some(number) => (key, number),
        None if wants_new_key(&plan, &key, refused) => match unused(&key, refused) {
            Some(number) => (key, number),
            None => versions::prepare(daemon, actor, &plan.key).await?,
        },
        None => {
            // A version that servers do not show yet may have a certificate already.
            let certified = state::of(daemon, name).await?.version;
            let number = certified.unwrap_or(key.current).max(key.current);
            (key, number)
        }
    };
    let names: Vec<_> = plan.names.iter().map(Identifier::to_string).collect();
    if ordered != Some(number) || progress.ordered_names != names {
        let wanted = key.version(number).map(|version| digest(&version.spki));
        daemon.renewals.update(name.as_str(), |progress, known| {
            // A person may have called the key compromised since the look above.
            if known.refused(&key).is_some_and(|refused| number <= refused) {
                return Err(RenewalError::RefusedKey { label: plan.key.clone(), version: number });
            }
            (progress.ordered_key, progress.ordered_names) = (wanted, names);
            Ok(())
        })?;
    }
    let version = key.version(number).ok_or_else(|| Error::NoVersion { label: plan.key.clone(), number })?;
    let info = info(&plan, version)?;
    let bytes = info.to_der().map_err(encoding)?;
    let signed = sign_request(daemon, actor, &plan.key, number, &bytes).await?;
    let whole = csr::whole(info, signed.scheme, &signed.signature);
    whole.ok_or_else(|| RenewalError::Encoding("no authority takes the scheme of the key".into()).into())
}

/// True if the next certificate of a plan is for a new version of its key.
fn wants_new_key(plan: &Plan, key: &Key, refused: Option<u32>) -> bool {
    let Some(current) = key.version(0) else { return false };
    let is_old =
        plan.new_key_after.is_some_and(|after| current.created.saturating_add(after.as_secs()) <= now());
    let is_refused = refused.is_some_and(|refused| key.current <= refused);
    is_refused || (plan.renews_key || is_old) && !current.certificates.is_empty()
}

/// A version that was made for an order that has failed, and has no certificate yet; in the place
/// of a version that was refused, also one that has a certificate.
fn unused(key: &Key, refused: Option<u32>) -> Option<u32> {
    let is_unused = |version: &&Version| {
        let may_be = match refused.filter(|refused| key.current <= *refused) {
            Some(refused) => version.number > refused,
            None => version.certificates.is_empty(),
        };
        version.number > key.current && may_be
    };
    key.versions.iter().rev().find(is_unused).map(|version| version.number)
}

fn info(plan: &Plan, version: &Version) -> Result<x509_cert::request::CertReqInfo, Error> {
    let names = plan.names.iter().map(general_name).collect::<Result<Vec<_>, _>>().map_err(encoding)?;
    Ok(csr::info(None, names, &version.spki).map_err(encoding)?)
}

/// A name as the certificate has it.
pub(super) fn general_name(name: &Identifier) -> der::Result<GeneralName> {
    Ok(match name {
        Identifier::Dns(name) => GeneralName::DnsName(Ia5String::new(name)?),
        Identifier::Ip(address) => (*address).into(),
    })
}

pub(super) fn encoding(error: der::Error) -> RenewalError {
    RenewalError::Encoding(error.to_string())
}

pub(super) fn read_mac_key(path: &std::path::Path) -> Result<Zeroizing<Vec<u8>>, RenewalError> {
    let failed = |reason| RenewalError::Binding(path.to_owned(), reason);
    let file = ownership::open(path).map_err(|error| failed(std::io::Error::other(error)))?;
    let text = ownership::read_all(file).map_err(failed)?;
    let form = || RenewalError::BindingForm(path.to_owned());
    let text = str::from_utf8(&text).map_err(|_| form())?;
    let decoded = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
    decoded.map(Zeroizing::new).map_err(|_| form())
}

/// Most orders of a plan within a day. Let's Encrypt allows five for the same names within a week,
/// so more than these come from a fault.
const MOST_ORDERS: usize = 10;
/// Most orders of a plan within a day that are the same one again, with another nonce. An authority
/// may take each for an order of its own.
const MOST_NONCES: usize = 40;
/// Most messages of an order: as many nonces as an agent tries.
const MOST_MESSAGES: u32 = 20;
const DAY: u64 = 24 * 3600;
