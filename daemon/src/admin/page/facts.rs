//! Facts for the page, from the state that the daemon has in any case.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::admin::api::{StatusView, UnitView};
use crate::admin::overview::Overview;
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
    pub(super) async fn of(admin: &Admin) -> Result<Self, AdminError> {
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
        let users = names_of(uids.take(MOST_USERS).collect()).await;
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

/// Looks names up in the user database, which may ask the network: a page does not wait long for
/// them.
async fn names_of(uids: BTreeSet<u32>) -> BTreeMap<u32, String> {
    let look_up = move || {
        let name = |uid| Some((uid, names::user_by_id(uid).ok()??.name));
        uids.into_iter().filter_map(name).collect::<BTreeMap<_, _>>()
    };
    let found = tokio::time::timeout(PATIENCE_FOR_NAMES, tokio::task::spawn_blocking(look_up)).await;
    found.ok().and_then(Result::ok).unwrap_or_default()
}

/// Rows whose users are looked up: refusals come first.
const MOST_USERS: usize = 256;
/// Longest time for the lists of keys.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time for the names of users.
const PATIENCE_FOR_NAMES: Duration = Duration::from_millis(500);
