//! All keys at a glance, for the status and the status page.
//!
//! The keys are read in the background, a page at a time. The overview is used again for [`REST`]
//! times as long as it took, unless keys, plans, units or configuration change. So callers who ask
//! without end take a tenth of one processor at most, and never hold signatures up.

mod first;
mod rows;

use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::AdminError;
use super::plans::words;
use crate::admin::status_view::{CertificatesView, ExpiringView};
use crate::daemon::Daemon;
use crate::keys::{Listed, Standing, StoreError, now};
use crate::lifecycle::renewal;
pub(super) use first::First;
use rows::{BackendNow, backends_now};
pub(super) use rows::{Cannot, CertificateRow, KeyRow, PlanRow};

/// The last overview.
pub(super) type Known = Mutex<Option<KnownOverview>>;

/// An overview that may be used again.
pub(super) struct KnownOverview {
    overview: Arc<Overview>,
    basis: Basis,
    /// End of its use.
    end: Instant,
}

/// State of the daemon on which an overview is based.
#[derive(PartialEq)]
struct Basis {
    /// Revision of the last change of a key.
    keys: u64,
    /// Number of changes of plans.
    plans: u64,
    /// Fingerprint of the configuration.
    configuration: String,
    backends: HashMap<String, BackendNow>,
}

impl Basis {
    async fn of(daemon: &Daemon) -> Self {
        let keys = *daemon.keys.changes().subscribe().borrow();
        let (plans, configuration) = (daemon.renewals.changes(), daemon.fingerprint());
        Self { keys, plans, configuration, backends: backends_now(daemon).await }
    }
}

/// All keys at one moment.
#[derive(Debug)]
pub(super) struct Overview {
    /// Number of keys in each state.
    pub(super) states: BTreeMap<String, u64>,
    /// True if the key store is locked: another program may have written everything here.
    pub(super) is_unverified: bool,
    /// Number of enabled keys that cannot sign now.
    pub(super) mute: u64,
    /// Keys: those that cannot sign first, then those that were used last.
    pub(super) keys: First<KeyRow>,
    /// Active keys without a use for [`UNUSED`] seconds, as far as uses are known. The key that was
    /// not used for longest comes first.
    pub(super) unused: First<KeyRow>,
    /// Plans without a certificate.
    pub(super) missing: First<(String, PlanRow)>,
    /// Certificates that have expired, of active keys or with a plan: the last one to expire first.
    pub(super) expired: First<CertificateRow>,
    /// Other certificates of such keys: the next one to expire first.
    pub(super) valid: First<CertificateRow>,
    /// Number of valid certificates that should have been renewed by now.
    pub(super) soon: usize,
}

impl Overview {
    /// The last overview if it is new enough, or a new one. `None` if it is not there in time: with
    /// very many keys, the caller asks again later.
    ///
    /// # Errors
    /// The key store cannot be read.
    pub(super) async fn within(
        patience: Duration,
        daemon: &Arc<Daemon>,
        known: &Arc<Known>,
    ) -> Result<Option<Arc<Self>>, AdminError> {
        // A task of its own, which ends its work for those who ask later.
        let reading = tokio::spawn(Self::of(Arc::clone(daemon), Arc::clone(known)));
        match tokio::time::timeout(patience, reading).await {
            Ok(Ok(read)) => read.map(Some),
            // The task has panicked, or still reads.
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    async fn of(daemon: Arc<Daemon>, known: Arc<Known>) -> Result<Arc<Self>, AdminError> {
        // One caller reads the keys, and the others wait for the result.
        let mut known = known.lock().await;
        let basis = Basis::of(&daemon).await;
        let begin = Instant::now();
        if let Some(last) = known.as_ref().filter(|last| begin < last.end && last.basis == basis) {
            return Ok(Arc::clone(&last.overview));
        }
        let overview = Arc::new(Self::read(&daemon, basis.backends.clone()).await?);
        let end = Instant::now() + begin.elapsed() * REST;
        *known = Some(KnownOverview { overview: Arc::clone(&overview), basis, end });
        Ok(overview)
    }

    async fn read(daemon: &Arc<Daemon>, backends: HashMap<String, BackendNow>) -> Result<Self, AdminError> {
        let mut reading = Reading {
            overview: Self::empty(),
            // The plans of a key store that is locked cannot be read, and its keys can be shown.
            plans: plans(daemon).await.unwrap_or_default(),
            backends,
            daemon: Arc::clone(daemon),
            now: now(),
        };
        let mut after = None;
        loop {
            let page = daemon.keys.look_at_list(after, PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|listed| listed.label().to_string());
            let read = tokio::task::spawn_blocking(move || {
                page.iter().for_each(|listed| reading.add(listed));
                reading
            });
            // Only a panic of the closure ends the task early, and a new overview is tried then.
            reading = read.await.map_err(|_| StoreError::Copy("the overview was given up".into()))?;
            if is_last {
                return Ok(reading.finish());
            }
        }
    }

    /// The overview of a store without keys.
    pub(super) fn empty() -> Self {
        Self {
            states: BTreeMap::new(),
            is_unverified: false,
            mute: 0,
            keys: First::new(MOST_KEYS),
            unused: First::new(MOST_UNUSED),
            missing: First::new(MOST_EXPIRED),
            expired: First::new(MOST_EXPIRED),
            valid: First::new(MOST_CERTIFICATES),
            soon: 0,
        }
    }

    /// Number of keys.
    pub(super) fn keys_in_all(&self) -> u64 {
        self.states.values().sum()
    }

    /// The certificates, for the status.
    pub(super) fn certificates(&self) -> CertificatesView {
        let rows = self.expired.rows().chain(self.valid.rows());
        CertificatesView {
            total: self.expired.total() + self.valid.total(),
            expired: self.expired.total(),
            soon: self.soon,
            first: rows.take(FIRST_IN_STATUS).map(CertificateRow::view).collect::<Vec<ExpiringView>>(),
        }
    }
}

/// An overview that is not complete.
struct Reading {
    overview: Overview,
    /// Plans, by the label of their keys.
    plans: HashMap<String, PlanRow>,
    backends: HashMap<String, BackendNow>,
    daemon: Arc<Daemon>,
    now: u64,
}

impl Reading {
    fn add(&mut self, listed: &Listed) {
        let Self { overview, plans, backends, daemon, now } = self;
        let key = match listed {
            Listed::Key(key) => key,
            Listed::Altered { label, reason } => {
                *overview.states.entry(ALTERED.into()).or_default() += 1;
                overview.keys.push((0, 0), || KeyRow::altered(label, reason));
                return;
            }
        };
        overview.is_unverified |= key.unverified;
        let standing = key.standing(*now);
        *overview.states.entry(standing.state_name().into()).or_default() += 1;
        let row = KeyRow::of(key, daemon, backends, *now);
        let used = row.last.as_ref().map(|peer| peer.last);
        let known = used.unwrap_or_else(|| row.since.max(row.created));
        let is_active = standing == Standing::Active;
        if is_active && now.saturating_sub(known) > UNUSED && row.is_for_peers {
            overview.unused.push((0, known), || row.clone());
        }
        let class = match (is_active, row.cannot.is_some()) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        overview.mute += u64::from(class == 0);
        overview.keys.push((class, u64::MAX - used.unwrap_or_default()), || row);
        let Some(certificate) = CertificateRow::of(key, plans.get(key.label.as_str())) else { return };
        if let Some(plan) = plans.get_mut(key.label.as_str()) {
            plan.has_certificate = true;
        }
        if !is_active && certificate.plan.is_none() {
            return;
        }
        match certificate.not_after <= *now {
            true => overview.expired.push((0, u64::MAX - certificate.not_after), || certificate),
            false => {
                overview.soon += usize::from(certificate.is_soon(*now));
                overview.valid.push((0, certificate.not_after), || certificate);
            }
        }
    }

    fn finish(self) -> Overview {
        let Self { mut overview, plans, .. } = self;
        let mut missing: Vec<_> = plans.into_iter().filter(|(_, plan)| !plan.has_certificate).collect();
        missing.sort_by(|(one, _), (other, _)| one.cmp(other));
        for row in missing {
            overview.missing.push((0, 0), || row);
        }
        overview
    }
}

/// Plans, by the label of their keys.
async fn plans(daemon: &Daemon) -> Result<HashMap<String, PlanRow>, AdminError> {
    let mut plans = HashMap::new();
    for state in renewal::all(daemon).await? {
        let row = PlanRow {
            plan: state.plan.name.to_string(),
            names: state.plan.names.iter().map(ToString::to_string).collect(),
            state: words(daemon, &state),
            due: state.due,
            problem: state.progress.last_error.as_ref().map(|failed| failed.detail.clone()),
            has_certificate: false,
        };
        plans.insert(state.plan.key.to_string(), row);
    }
    Ok(plans)
}

/// Number of keys that are read from the store at a time.
const PAGE: usize = 256;
/// Time for which an overview is used, as a multiple of the time that it took.
const REST: u32 = 9;
/// Most rows of each list.
const MOST_KEYS: usize = 25;
const MOST_UNUSED: usize = 25;
const MOST_EXPIRED: usize = 20;
const MOST_CERTIFICATES: usize = 40;
/// Number of certificates in the status.
const FIRST_IN_STATUS: usize = 5;
/// Seconds (90 days) without a use after which a key counts as unused, as for `keyward audit
/// unused`.
pub(super) const UNUSED: u64 = 90 * 86_400;
/// State of a key whose record was altered, see [`crate::admin::api::KeyView::altered`].
const ALTERED: &str = "altered";
