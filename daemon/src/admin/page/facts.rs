//! Facts for the page, from the state that the daemon has in any case.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::admin::api::UnitView;

use crate::admin::overview::Overview;
use crate::admin::status_view::StatusView;
use crate::admin::{Admin, AdminError, status, units};
use crate::ground::names;
use crate::keys::{PeerUsage, now};
use crate::peers::refusals::Refusal;

/// Everything that the page shows.
pub(super) struct Facts {
    /// Name of the host, so that the pages of several tunnels differ.
    pub(super) host: String,
    /// Time of the page, in seconds since 1970.
    pub(super) now: u64,
    pub(super) status: StatusView,
    pub(super) overview: Arc<Overview>,
    pub(super) units: Vec<UnitView>,
    /// The newest refusals first.
    pub(super) refusals: Vec<Refusal>,
    /// The peers that used the keys of the page last, by the labels of the keys.
    pub(super) last: BTreeMap<String, PeerUsage>,
    /// Names of users, as far as they are known.
    pub(super) users: BTreeMap<u32, String>,
}

impl Facts {
    /// The facts of this moment.
    ///
    /// # Errors
    /// The key store cannot be read, or not in time.
    pub(super) async fn of(admin: &Admin, users: &Arc<Users>) -> Result<Self, AdminError> {
        let overview = Overview::within(PATIENCE, &admin.daemon, &admin.overview).await?;
        let overview = overview.ok_or(AdminError::StillReading)?;
        let refusals = admin.peers.refusals.newest();
        // The overview can be older than the last uses.
        let usage = admin.daemon.keys.usage();
        let keys = overview.keys.rows().chain(overview.unused.rows());
        let last =
            keys.filter_map(|row| Some((row.label.clone(), usage.of_key(&row.label).into_iter().next()?)));
        let last: BTreeMap<_, _> = last.collect();
        let of_keys = last.values().map(|peer| peer.uid);
        let uids = refusals.iter().map(|refusal| refusal.uid).chain(of_keys);
        let users = users.names(uids.take(MOST_USERS).collect()).await;
        Ok(Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            now: now(),
            status: status::view(admin).await?,
            units: units::views(&admin.daemon).await?,
            overview,
            refusals,
            last,
            users,
        })
    }

    /// Name and number of a user.
    pub(super) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).map_or_else(|| format!("user {uid}"), |name| format!("{name} ({uid})"))
    }
}

/// Names of users in the user database, which may ask the network: a page does not wait long for
/// them, and one look-up at a time goes on behind it.
#[derive(Debug, Default)]
pub(super) struct Users {
    known: Mutex<Names>,
    is_looking: AtomicBool,
}

/// Names that were looked up, and when that began. A user without a name is known, too.
#[derive(Debug, Default)]
struct Names {
    since: Option<Instant>,
    names: BTreeMap<u32, Option<String>>,
}

impl Users {
    /// The names of these users, as far as they are known in time.
    async fn names(self: &Arc<Self>, uids: BTreeSet<u32>) -> BTreeMap<u32, String> {
        let missing: Vec<u32> = {
            let mut known = self.lock();
            if known.since.is_none_or(|since| since.elapsed() > LIFE_OF_NAMES) {
                *known = Names { since: Some(Instant::now()), names: BTreeMap::new() };
            }
            uids.iter().copied().filter(|uid| !known.names.contains_key(uid)).collect()
        };
        if !missing.is_empty() && !self.is_looking.swap(true, Ordering::SeqCst) {
            let users = Arc::clone(self);
            let look_up = tokio::task::spawn_blocking(move || {
                for uid in missing {
                    let name = names::user_by_id(uid).ok().flatten().map(|user| user.name);
                    users.lock().names.insert(uid, name);
                }
                users.is_looking.store(false, Ordering::SeqCst);
            });
            // The rest of the names is there for a later page.
            let _ = tokio::time::timeout(PATIENCE_FOR_NAMES, look_up).await;
        }
        let known = self.lock();
        uids.into_iter().filter_map(|uid| Some((uid, known.names.get(&uid)?.clone()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows whose users are looked up: refusals come first.
const MOST_USERS: usize = 256;
/// Longest time for the lists of keys.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time for the names of users.
const PATIENCE_FOR_NAMES: Duration = Duration::from_millis(500);
/// Time for which names are kept.
const LIFE_OF_NAMES: Duration = Duration::from_secs(600);
