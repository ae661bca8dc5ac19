//! The chain that an issuer gave: checked, and attached to its version. And the files of a plan.

use der::Decode;
use der::asn1::ObjectIdentifier;
use keyward_proto::{Label, Reference};
use x509_cert::Certificate as X509;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::name::{Name, RelativeDistinguishedName};

use super::hold::hold;
use super::state::{self, has_names};
use super::{RenewalError, anchors, at, authority, key_of, placeholder, plan};
use crate::config::{Authority, Identifier, Issuer, Plan};
use crate::daemon::Daemon;
use crate::ground::text::printable;
use crate::keys::certificates::{Certificate, Chain};
use crate::keys::{Key, Standing, Version, now};
use crate::lifecycle::event::Actor;
use crate::lifecycle::{Error, certificates, versions};
use crate::renewal::Known;
use crate::renewal::known::{digest, version_of};

/// Checks the chain of a plan, and attaches it. The order has ended then. `is_preferred` is false
/// for an authority that does not have the chain that the owner prefers.
///
/// # Errors
/// [`RenewalError`] says how the certificate differs from the plan. Nothing is changed then.
pub(crate) async fn accept(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
    chain: &Chain,
    is_preferred: bool,
) -> Result<state::PlanState, Error> {
    let accepted = carry_out(daemon, actor, name, chain, is_preferred).await;
    // The agent looks for the preferred chain by sending each one.
    if !matches!(&accepted, Err(Error::Renewal(RenewalError::NotPreferred { .. }))) {
        super::record_refusal(daemon, actor, name, "chain", &accepted);
    }
    accepted
}

async fn carry_out(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
    chain: &Chain,
    is_preferred: bool,
) -> Result<state::PlanState, Error> {
    let plan = plan(&daemon.config(), name)?;
    hold(daemon, actor, name)?;
    let before = state::of(daemon, name).await?;
    let key = key_of(daemon, &plan).await?;
    let leaf = chain.certificates.first().ok_or_else(|| RenewalError::NoCertificate(name.clone()))?;
    let config = daemon.config();
    let authority = authority(&config, &plan).ok();
    if before.known.is_compromised(&digest(leaf.spki())) {
        // The certificate of an order that was under way when a person called the key compromised
        // is revoked. Everything else that is sent for this key changes nothing.
        let is_of_former = authority.is_some_and(|authority| {
            before.known.is_of_former(leaf, &authority.directory, authority.account_key.as_str())
        });
        if is_of_former && leaf.not_after() > now() {
            anchors::check(&plan, is_public(daemon, &plan), chain)?;
            daemon.renewals.update(name.as_str(), |_, known| {
                known.revoke_former(leaf);
                Ok::<_, RenewalError>(())
            })?;
        }
        return Err(RenewalError::CompromisedKey.into());
    }
    refuse_unwanted(&before)?;
    let number = before.ordered.ok_or_else(|| RenewalError::NotOrdered(name.clone()))?;
    if before.known.refused(&key).is_some_and(|refused| number <= refused) {
        return Err(RenewalError::RefusedKey { label: key.label.clone(), version: number }.into());
    }
    // A person, or the authority by its window, wants another one before its time. An authority
    // whose roots are known decides about the lives of its certificates.
    let suggested = before.window().and_then(|window| window.chosen);
    let is_asked_for = before.progress.asked_at.is_some();
    let has_roots = plan.chain_root.is_some() || is_public(daemon, &plan);
    let may_end_earlier = is_asked_for || has_roots || suggested.is_some_and(|at| at <= now());
    // An attempt that was interrupted has attached it, and did not come to its end.
    let is_attached =
        before.certificate.as_ref().is_some_and(|present| present.fingerprint() == leaf.fingerprint());
    if is_attached && before.known.issuer(leaf).is_some() {
        return Err(RenewalError::Unchanged(name.clone()).into());
    }
    // A certificate that was revoked, or is for a compromised key, says nothing about the next one.
    let present = before.certificate.as_ref().filter(|_| !before.is_revoked());
    check(&plan, &key, number, leaf, present, is_asked_for, may_end_earlier)?;
    if before.known.is_unwanted(leaf) {
        return Err(RenewalError::Unwanted.into());
    }
    anchors::check(&plan, is_public(daemon, &plan), chain)?;
    if let Some(wanted) = plan.issuer.preferred_chain() {
        let last = chain.certificates.last().unwrap_or(leaf);
        let read = X509::from_der(last.der()).map_err(super::message::encoding)?;
        let fields = read.tbs_certificate();
        let is_wanted = [fields.issuer(), fields.subject()].iter().any(|name| has_common_name(name, wanted));
        match (is_wanted, is_preferred) {
            (true, _) => {}
            (false, true) => {
                let has = last.issuer();
                return Err(
                    RenewalError::NotPreferred { plan: name.clone(), wanted: wanted.into(), has }.into()
                );
            }
            (false, false) => {
                let plan = name.as_str();
                tracing::warn!(
                    plan,
                    wanted,
                    "the authority has no chain with this root; its first one is taken"
                );
            }
        }
    }
    // The certificate that the version had is gone then.
    let replaced = key.version(number).and_then(|version| version.certificates.first());
    let replaced = replaced.and_then(|der| Some(Certificate::from_der(der).ok()?.fingerprint()));
    if !is_attached {
        certificates::attach(daemon, actor, &plan.key, chain).await?;
    }
    let now = now();
    let is_deployed = plan.is_deployed();
    // Nobody has files: servers on rustls take the newest version with a certificate. A person may
    // have called the key compromised since the checks above.
    let is_refused = |known: &Known| known.refused(&key).is_some_and(|refused| number <= refused);
    if key.current < number && !is_deployed && !is_refused(&daemon.renewals.known()) {
        versions::promote(daemon, actor, &plan.key, number).await?;
    }
    daemon.renewals.update(name.as_str(), |progress, known| {
        // The agent holds the plan until it says that the attempt has ended.
        (progress.order, progress.last_error) = (None, None);
        (progress.failures, progress.next_try) = (0, 0);
        progress.is_replaced = false;
        // The work of before a wish does not fulfil the wish. The wish may have come since the
        // checks above, also that this key is compromised.
        progress.asked_at = match progress.has_new_wish() || is_refused(known) {
            true => progress.asked_at.or(Some(now)),
            false => None,
        };
        progress.refused_key = None;
        progress.renewed_at = Some(now);
        known.note_issued(leaf, authority.map(at), replaced.as_deref());
        // The next request is for the current version, or for a new one.
        if !is_deployed || key.current == number {
            progress.ordered_key = None;
        }
        // A person may have called the key compromised since the checks above.
        known.revoke_former(leaf);
        Ok::<_, RenewalError>(())
    })?;
    state::of(daemon, name).await
}

/// The placeholder of a plan, which is made once.
async fn placeholder(daemon: &Daemon, plan: &Plan, key: &Key, version: &Version) -> Result<Vec<u8>, Error> {
    let (name, number) = (plan.name.as_str(), version.number);
    let known = daemon.renewals.placeholder(name, number).filter(|der| {
        Certificate::from_der(der)
            .is_ok_and(|one| one.not_after() > now() && has_names(&one, plan) && one.spki() == version.spki)
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let made = placeholder::made(daemon, plan, key, version).await?;
    daemon.renewals.keep_placeholder(name, number, made.clone());
    Ok(made)
}

fn check(
    plan: &Plan,
    key: &Key,
    number: u32,
    leaf: &Certificate,
    present: Option<&Certificate>,
    is_asked_for: bool,
    may_end_earlier: bool,
) -> Result<(), Error> {
    let version = key.version(number).ok_or_else(|| Error::NoVersion { label: key.label.clone(), number })?;
    if leaf.spki() != version.spki {
        return Err(RenewalError::OtherKey { label: key.label.clone(), version: number }.into());
    }
    if !has_names(leaf, plan) {
        let wants: Vec<_> = plan.names.iter().map(Identifier::to_string).collect();
        let has: Vec<_> = leaf.identifiers().iter().map(|(kind, name)| shown(kind, name)).collect();
        let (has, wants) = (has.join(", "), wants.join(", "));
        return Err(RenewalError::OtherNames { plan: plan.name.clone(), has, wants }.into());
    }
    let (not_before, not_after, now) = (leaf.not_before(), leaf.not_after(), now());
    if now < not_before || not_after <= now {
        return Err(RenewalError::NotValidNow { not_before, not_after, now }.into());
    }
    // A certificate that has expired says nothing about the next one.
    if let Some(present) = present.filter(|present| present.not_after() > now) {
        let plan = plan.name.clone();
        // One of before, unless the authority has set its clock or its begin back.
        if !is_asked_for && not_before < present.not_before() {
            return Err(RenewalError::NotNew { plan, new: not_before, old: present.not_before() }.into());
        }
        if !may_end_earlier && not_after < present.not_after() {
            return Err(RenewalError::EndsEarlier { plan, new: not_after, old: present.not_after() }.into());
        }
        let life = |one: &Certificate| one.not_after().saturating_sub(one.not_before());
        if !is_asked_for && life(leaf) > life(present).saturating_mul(LONGER) {
            return Err(RenewalError::TooLong { plan, new: life(leaf), old: life(present) }.into());
        }
    }
    check_usage(leaf)
}

/// A name of a certificate, for people.
fn shown(kind: &str, name: &str) -> String {
    match kind {
        "other" => format!("{} (not the name of a server)", printable(name)),
        _ => printable(name),
    }
}

/// Refuses a certificate with which TLS servers cannot prove who they are. An extension that cannot
/// be read is refused, too.
fn check_usage(leaf: &Certificate) -> Result<(), Error> {
    let read = X509::from_der(leaf.der()).map_err(super::message::encoding)?;
    let fields = read.tbs_certificate();
    let is_authority = match fields.get_extension::<BasicConstraints>() {
        Ok(found) => found.is_some_and(|(_, constraints)| constraints.ca),
        Err(_) => true,
    };
    let may_sign = match fields.get_extension::<KeyUsage>() {
        Ok(found) => found.is_none_or(|(_, usage)| usage.digital_signature()),
        Err(_) => false,
    };
    let is_of_server = match fields.get_extension::<ExtendedKeyUsage>() {
        Ok(found) => found.is_none_or(|(_, usage)| usage.0.contains(&ID_KP_SERVER_AUTH)),
        Err(_) => false,
    };
    match (is_authority, may_sign, is_of_server) {
        (true, ..) => {
            Err(RenewalError::NotForServers("it is one of an authority, which certifies others").into())
        }
        (_, false, _) => Err(RenewalError::NotForServers("its key usage lacks digitalSignature").into()),
        (.., false) => Err(RenewalError::NotForServers("its extended key usage lacks serverAuth").into()),
        _ => Ok(()),
    }
}

/// Refuses a chain that nobody has asked for: the plan is not due, or no order is under way.
fn refuse_unwanted(state: &state::PlanState) -> Result<(), Error> {
    let name = &state.plan.name;
    state.refuse_early()?;
    match (&state.plan.issuer, &state.progress.order) {
        (Issuer::Acme { .. }, None) => Err(RenewalError::NotOrdered(name.clone()).into()),
        _ => Ok(()),
    }
}

/// True if the certificate comes from an authority that everybody trusts.
fn is_public(daemon: &Daemon, plan: &Plan) -> bool {
    let config = daemon.config();
    authority(&config, plan).is_ok_and(Authority::is_trusted)
}

/// True if a name has this common name.
fn has_common_name(name: &Name, wanted: &str) -> bool {
    let attributes = name.iter_rdn().flat_map(RelativeDistinguishedName::iter);
    let mut common = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
    common.any(|attribute| attribute.value.value() == wanted.as_bytes())
}

/// Most times the life of the present certificate that the next one may live.
const LONGER: u64 = 3;
/// Common name (RFC 4519, 2.3).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// Extended key usage of TLS servers (RFC 5280, 4.2.1.12).
const ID_KP_SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");

/// The files of a plan for its servers. None of them is secret.
pub(crate) struct Files {
    /// The certificate, and the certificates that certify it, in PEM.
    pub(crate) chain: String,
    /// The reference to the key, in PEM.
    pub(crate) reference: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub(crate) certificate: String,
    /// End of the certificate, in seconds since 1970.
    pub(crate) not_after: u64,
    /// True if the certificate is the placeholder of the daemon, before the first one.
    pub(crate) is_placeholder: bool,
    /// True if something is wrong with the certificate: servers keep another one that they have.
    pub(crate) is_makeshift: bool,
}

/// The files of a plan: with the newest certificate for its names, or with a placeholder that the
/// daemon has made.
///
/// # Errors
/// [`Error`] says why there is no key, or why the key signs no placeholder.
pub(crate) async fn files(daemon: &Daemon, name: &Label) -> Result<Files, Error> {
    daemon.renewals.check().map_err(RenewalError::from)?;
    let plan = plan(&daemon.config(), name)?;
    let state = state::of(daemon, name).await?;
    let key = key_of(daemon, &plan).await?;
    let number = state.version.unwrap_or_default();
    let version = key.version(number).ok_or_else(|| RenewalError::NoCertificate(name.clone()))?;
    let is_placeholder = state.certificate.is_none();
    let ders = match is_placeholder {
        true => vec![placeholder(daemon, &plan, &key, version).await?],
        false => version.certificates.clone(),
    };
    let leaf = ders.first().and_then(|der| Certificate::from_der(der).ok());
    let leaf = leaf.ok_or_else(|| RenewalError::NoCertificate(name.clone()))?;
    let is_makeshift = state.is_rejected() && !has_worse_key(daemon, &state, &leaf).await?;
    let block = |der: &Vec<u8>| pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, der);
    let chain = ders.iter().map(block).collect::<Result<String, _>>();
    let chain = chain.map_err(|error| RenewalError::Encoding(error.to_string()))?;
    let reference = Reference::new(key.label.clone(), version.number, version.spki.clone());
    let reference = reference.map_err(|error| RenewalError::Encoding(error.to_string()))?.to_pem();
    let (certificate, not_after) = (leaf.fingerprint(), leaf.not_after());
    Ok(Files { chain, reference, certificate, not_after, is_placeholder, is_makeshift })
}

/// True if the key in the files that servers have signs nothing any more, as far as the daemon
/// knows, so that these servers serve nobody; or if the key is compromised, and that of `leaf` is
/// not.
async fn has_worse_key(daemon: &Daemon, state: &state::PlanState, leaf: &Certificate) -> Result<bool, Error> {
    let Some(deployed) = &state.progress.deployed else { return Ok(false) };
    let Some(label) = deployed.key.as_ref().and_then(|label| label.parse().ok()) else { return Ok(false) };
    let is_compromised = |public_key: &String| state.known.is_compromised(public_key);
    if deployed.public_key.as_ref().is_some_and(is_compromised) && !is_compromised(&digest(leaf.spki())) {
        return Ok(true);
    }
    let Some(key) = daemon.keys.get(&label).await? else { return Ok(true) };
    let is_there = |public_key: &String| version_of(&key, public_key).is_some();
    Ok(key.standing(now()) != Standing::Active || !deployed.public_key.as_ref().is_none_or(is_there))
}
