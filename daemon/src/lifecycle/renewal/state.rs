//! State of a plan: its certificate, its progress, and when it is due.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::{Decode, Encode};
use keyward_proto::Label;
use sha2::{Digest, Sha256};
use x509_cert::Certificate as X509;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;

use super::{RenewalError, plan};
use crate::config::{Authority, Config, Plan, origin};
use crate::daemon::Daemon;
use crate::keys::certificates::Certificate;
use crate::keys::{Key, Version, now};
use crate::lifecycle::Error;
use crate::renewal::due::{Facts, Validity, due};
use crate::renewal::former::FormerOrder;
use crate::renewal::known::digest;
use crate::renewal::progress::Window;
use crate::renewal::revocation::{At, Revocation};
use crate::renewal::{Known, Looked, Progress};

/// State of a plan.
pub(crate) struct PlanState {
    pub(crate) plan: Plan,
    pub(crate) key: Option<Arc<Key>>,
    pub(crate) progress: Progress,
    /// The certificate that the plan has; `None` if there is none for its names.
    pub(crate) certificate: Option<Certificate>,
    /// Number of the version of the key with the certificate.
    pub(crate) version: Option<u32>,
    /// Number of the version of the key that the order under way is for, once its request was
    /// signed.
    pub(super) ordered: Option<u32>,
    /// Facts about keys and certificates.
    pub(super) known: Looked,
    /// Certificates to be revoked that are the concern of this plan, the first one first.
    pub(crate) revocations: Vec<Revocation>,
    /// Orders that are the concern of this plan, and whose certificates are to be revoked.
    pub(crate) former_orders: Vec<FormerOrder>,
    /// True if an authority has revoked the certificate, or may have.
    pub(crate) may_be_revoked: bool,
    /// True if the certificate is for a version of the key that a person has called compromised, or
    /// for an older one.
    pub(crate) is_compromised: bool,
    /// When the plan is due, in seconds since 1970.
    pub(crate) due: u64,
}

impl PlanState {
    /// Id of the certificate in ARI (RFC 9773, 4.1); `None` without a key identifier of the
    /// authority.
    pub(crate) fn certificate_id(&self) -> Option<String> {
        id_of(self.certificate.as_ref()?.der())
    }

    /// The certificate to be revoked first, of those that this authority has issued.
    pub(crate) fn revocation(&self, authority: &Authority) -> Option<&Revocation> {
        self.revocations.iter().find(|asked| is_at(&asked.at, authority))
    }

    /// URLs of the orders at which the agent looks now, because their certificates are to be
    /// revoked.
    pub(crate) fn orders_to_read(&self, authority: &Authority, now: u64) -> Vec<String> {
        let orders = self.former_orders.iter();
        let orders = orders.filter(|one| one.is_to_be_read(now) && is_at(&one.at, authority));
        orders.map(|one| one.url.clone()).collect()
    }

    /// True if servers do not get the certificate while they have another one: it is revoked, or
    /// may be, has expired, or this very public key was called compromised. That a newer version
    /// was called so says nothing about the certificate.
    pub(crate) fn is_rejected(&self) -> bool {
        let is_bad =
            |one: &Certificate| one.not_after() <= now() || self.known.is_compromised(&digest(one.spki()));
        self.may_be_revoked || self.certificate.as_ref().is_some_and(is_bad)
    }

    /// True if the certificate is revoked, or may be, or is for a compromised key.
    pub(crate) fn is_revoked(&self) -> bool {
        self.may_be_revoked || self.is_compromised
    }

    /// Refuses a step of a plan that is not due.
    pub(super) fn refuse_early(&self) -> Result<(), RenewalError> {
        match self.due > now() {
            true => Err(RenewalError::NotDue { plan: self.plan.name.clone(), at: self.due }),
            false => Ok(()),
        }
    }

    /// The window that the authority has suggested for this very certificate.
    pub(crate) fn window(&self) -> Option<&Window> {
        let id = self.certificate_id()?;
        self.progress.window.as_ref().filter(|window| window.certificate == id)
    }

    /// Id of the certificate that an order replaces: the authority must have said that it knows
    /// the certificate.
    pub(super) fn replaces(&self) -> Option<String> {
        let is_known = self.window().is_some_and(|window| window.chosen.is_some());
        self.certificate_id().filter(|_| is_known && !self.progress.is_replaced)
    }

    /// Lifetime of the certificate, in seconds.
    pub(super) fn lifetime(&self) -> Option<u64> {
        self.certificate.as_ref().map(|one| one.not_after().saturating_sub(one.not_before()))
    }
}

/// State of each plan, in the order of the configuration.
///
/// # Errors
/// The key store cannot be read.
pub(crate) async fn all(daemon: &Daemon) -> Result<Vec<PlanState>, Error> {
    let config = Arc::clone(&daemon.config());
    let mut duties = Duties::of(&config, &daemon.renewals.known(), None);
    let mut states = Vec::new();
    for plan in &config.plans {
        let of_plan = duties.remove(plan.name.as_str()).unwrap_or_default();
        states.push(self::of_plan(daemon, plan.clone(), of_plan).await?);
    }
    Ok(states)
}

/// State of a plan.
///
/// # Errors
/// There is no such plan, or the key store cannot be read.
pub(crate) async fn of(daemon: &Daemon, name: &Label) -> Result<PlanState, Error> {
    let config = Arc::clone(&daemon.config());
    let mut duties = Duties::of(&config, &daemon.renewals.known(), Some(name));
    let of_plan = duties.remove(name.as_str()).unwrap_or_default();
    self::of_plan(daemon, plan(&config, name)?, of_plan).await
}

async fn of_plan(daemon: &Daemon, plan: Plan, duties: Duties) -> Result<PlanState, Error> {
    let key = daemon.keys.get(&plan.key).await?;
    let (mut progress, known) = daemon.renewals.look(plan.name.as_str(), key.as_deref());
    let config = daemon.config();
    let ordered = key.as_ref().and_then(|key| progress.ordered(key));
    // An order at the authority that the plan had before, or for the key that it had before, is of
    // no use now. It is of use again if that is changed back.
    let is_here = |order: &String| {
        super::authority(&config, &plan).is_ok_and(|authority| origin(order) == Some(authority.origin()))
    };
    let is_of_key = ordered.is_some() || progress.ordered_key.is_none();
    progress.order = progress.order.filter(|order| is_of_key && is_here(order));
    let Duties { revocations, former_orders } = duties;
    // What has failed is not wanted any more.
    if revocations.is_empty() {
        progress.forget_revocation_failures();
    }
    let found = key.as_ref().and_then(|key| newest(key, &plan));
    let (version, certificate) = found.unzip();
    let present = certificate.as_ref().map(validity);
    // A certificate that was revoked comes back if the names of the plan are changed back.
    let compromised = key.as_ref().and_then(|key| known.compromised(key));
    let is_compromised = compromised.is_some_and(|newest| version.is_some_and(|of| of <= newest));
    let may_be_revoked = certificate.as_ref().is_some_and(|present| known.is_revoked(present));
    let is_revoked = is_compromised || may_be_revoked;
    // The chain of the order was attached, and the disk was full or the daemon was killed then. The
    // agent brings the chain again.
    let is_unfinished = progress.order.is_some()
        && certificate.as_ref().is_some_and(|present| known.issuer(present).is_none());
    let id = certificate.as_ref().and_then(|certificate| id_of(certificate.der()));
    let window = progress.window.as_ref().filter(|window| Some(&window.certificate) == id.as_ref());
    let facts = Facts {
        present,
        suggested: window.and_then(|window| window.chosen),
        renewed_at: progress.renewed_at,
        next_try: progress.next_try,
        asked_at: progress
            .asked_at
            .or(is_revoked.then(|| progress.renewed_at.unwrap_or_default()))
            .or(is_unfinished.then_some(0)),
        spread: spread(plan.name.as_str()),
    };
    // A failure of before the plan was due says nothing about the certificate that the plan has:
    // the names have come back, or the certificate was attached.
    let at = due(&Facts { next_try: 0, ..facts });
    if present.is_some() && progress.last_error.as_ref().is_some_and(|failed| failed.at < at) {
        progress.forget_attempts();
    }
    let due = due(&Facts { next_try: progress.next_try, ..facts });
    Ok(PlanState {
        plan,
        key,
        progress,
        certificate,
        version,
        ordered,
        known,
        revocations,
        former_orders,
        may_be_revoked,
        is_compromised,
        due,
    })
}

/// True if an authority with its account is the one that is meant.
pub(crate) fn is_at(at: &At, authority: &Authority) -> bool {
    at.is(&authority.directory, authority.account_key.as_str())
}

/// Certificates and orders to be revoked that are the concern of a plan.
#[derive(Default)]
struct Duties {
    revocations: Vec<Revocation>,
    former_orders: Vec<FormerOrder>,
}

impl Duties {
    /// The duties of each plan that has any, by its name; of one plan, if one is named.
    fn of<'c>(config: &'c Config, known: &Known, only: Option<&Label>) -> HashMap<&'c str, Self> {
        let mut all: HashMap<&str, Self> = HashMap::new();
        if known.revocations(0).next().is_none() && known.former_orders().is_empty() {
            return all;
        }
        let keepers = Keepers::of(config);
        let is_wanted = |plan: &&Plan| only.is_none_or(|only| plan.name == *only);
        for asked in known.revocations(now()) {
            let keeper = keepers.keeper(&asked.plan, &asked.key, &asked.at).filter(is_wanted);
            if let Some(keeper) = keeper {
                all.entry(keeper.name.as_str()).or_default().revocations.push(asked.clone());
            }
        }
        for order in known.former_orders() {
            let keeper = keepers.keeper(&order.plan, &order.key, &order.at).filter(is_wanted);
            if let Some(keeper) = keeper {
                all.entry(keeper.name.as_str()).or_default().former_orders.push(order.clone());
            }
        }
        all
    }
}

/// The plans that have certificates revoked.
struct Keepers<'c> {
    config: &'c Config,
    by_key: HashMap<&'c str, &'c Plan>,
    by_name: HashMap<&'c str, &'c Plan>,
}

impl<'c> Keepers<'c> {
    fn of(config: &'c Config) -> Self {
        let (mut by_key, mut by_name) = (HashMap::new(), HashMap::new());
        for plan in &config.plans {
            by_key.insert(plan.key.as_str(), plan);
            by_name.insert(plan.name.as_str(), plan);
        }
        Self { config, by_key, by_name }
    }

    /// The plan that has a certificate of a plan and a key revoked by an account at an authority.
    /// First comes the plan that has the key now, at this authority, then the one that has the name
    /// now, then any other one at the authority. If there is none, the first plan says that nobody
    /// does it.
    fn keeper(&self, plan: &str, key: &str, at: &At) -> Option<&'c Plan> {
        let is_here =
            |plan: &&'c Plan| super::authority(self.config, plan).is_ok_and(|authority| is_at(at, authority));
        let with_key = self.by_key.get(key).copied().filter(is_here);
        let found = with_key.or_else(|| self.by_name.get(plan).copied());
        let found = found.or_else(|| self.config.plans.iter().find(is_here));
        found.or_else(|| self.config.plans.first())
    }
}

/// The newest version of a key with a certificate for exactly the names of a plan.
fn newest(key: &Key, plan: &Plan) -> Option<(u32, Certificate)> {
    key.versions.iter().rev().find_map(|version| {
        let certificate = of_version(version)?;
        has_names(&certificate, plan).then_some((version.number, certificate))
    })
}

/// The version of a key whose certificate has a fingerprint, and the certificate.
pub(super) fn with_certificate<'k>(key: &'k Key, fingerprint: &str) -> Option<(&'k Version, Certificate)> {
    let certified = key.versions.iter().rev().filter_map(|version| Some((version, of_version(version)?)));
    certified.into_iter().find(|(_, certificate)| certificate.fingerprint() == fingerprint)
}

pub(super) fn of_version(version: &Version) -> Option<Certificate> {
    Certificate::from_der(version.certificates.first()?).ok()
}

/// True if a certificate is for exactly the names of a plan.
pub(super) fn has_names(certificate: &Certificate, plan: &Plan) -> bool {
    let has: BTreeSet<_> = certificate.identifiers().iter().cloned().collect();
    has == plan.names.iter().map(|name| (name.kind(), name.to_string())).collect()
}

pub(super) fn validity(certificate: &Certificate) -> Validity {
    Validity { not_before: certificate.not_before(), not_after: certificate.not_after() }
}

/// Id of a certificate (RFC 9773, 4.1): the key identifier of its authority, a point, and its
/// serial number as in DER.
fn id_of(der: &[u8]) -> Option<String> {
    let read = X509::from_der(der).ok()?;
    let fields = read.tbs_certificate();
    let (_, authority) = fields.get_extension::<AuthorityKeyIdentifier>().ok().flatten()?;
    let authority = authority.key_identifier?;
    // The serial number without tag and length: both take one byte, since it has at most 20.
    let serial = fields.serial_number().to_der().ok()?;
    let [authority, serial] =
        [authority.as_bytes(), serial.get(2..)?].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
    Some(format!("{authority}.{serial}"))
}

/// A number that differs from plan to plan, and is the same at each look.
pub(super) fn spread(name: &str) -> u64 {
    let digest = Sha256::digest(name);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
