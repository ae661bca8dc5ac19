//! State of a running daemon: keys, backends, configuration and metrics.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use keyward_proto::Label;
use keyward_unit::Wkid;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use crate::audit::{self, Phase, Trail, Unwritten};
use crate::backend::{Backend, Backends, KeyMaterial};
use crate::config::Config;
use crate::ground::allowance::Allowance;
use crate::keys::shred::Shredding;
use crate::keys::{KeyStore, Keys, Scratch, Version, now};
use crate::observe::metrics::Metrics;
use crate::policy::authorise::{Grant, Peer};
use crate::policy::purpose::Purpose;
use crate::policy::roles::RoleSet;
use crate::renewal::Renewals;

/// Running daemon without its sockets. Shared by reference between tasks.
pub(crate) struct Daemon {
    pub(crate) keys: Keys,
    pub(crate) backends: Backends,
    pub(crate) metrics: Metrics,
    /// The audit trail, once it is open.
    trail: OnceLock<Trail>,
    /// Reason why the audit trail could not be opened.
    no_trail: ArcSwapOption<String>,
    unrecorded: Unrecorded,
    /// Acts that each user may still carry out.
    acts: Mutex<HashMap<u32, Allowance>>,
    /// Acts that stop keys now: user, name of the act, and key.
    stopping: Mutex<HashSet<Stop>>,
    pub(crate) started: Instant,
    /// Time of the start in seconds since 1970, by the clock of then.
    pub(crate) started_at: u64,
    /// True if the daemon was started with `--dev`.
    pub(crate) dev: bool,
    /// True if the embedded unit serves GREP11, and the daemon has no peers.
    pub(crate) serves_grep11: bool,
    /// Message about keys that the embedded unit cannot unwrap, if there are any.
    unusable_keys: ArcSwapOption<String>,
    /// False until every key was looked at since the start.
    is_surveyed: AtomicBool,
    /// Reason why the next start cannot open the embedded unit, if there is one.
    next_start: ArcSwapOption<String>,
    /// Reason why the file with the state of the embedded unit is not right, if there is one.
    unit_state: ArcSwapOption<String>,
    /// Reason why purges are not made final, if there is one.
    not_final: ArcSwapOption<String>,
    /// Reason why the file of a shred secret is not right, if there is one.
    secrets: ArcSwapOption<String>,
    /// Files of the unit server that are not in force, if there are any.
    unit_files: ArcSwapOption<String>,
    sockets: ArcSwapOption<String>,
    /// Reason why the last reload was refused, if it was.
    refused_reload: ArcSwapOption<String>,
    pub(crate) shredding: Shredding,
    /// How far the plans of certificates are.
    pub(crate) renewals: Renewals,
    config: ArcSwap<Config>,
    /// File of the configuration, if there is one.
    pub(crate) config_file: Option<PathBuf>,
    /// [`Config::fingerprint`] of the configuration.
    fingerprint: ArcSwap<String>,
    /// Names of changed settings that take effect only with a restart.
    pub(crate) waiting_for_restart: ArcSwap<Vec<String>>,
    /// Requests for a reload, once the daemon takes them.
    reloads: OnceLock<mpsc::Sender<ReloadRequest>>,
    /// Grants of `--dev`, in addition to the configuration.
    extra_grants: Vec<Grant>,
}

impl Daemon {
    /// Daemon with this configuration. `extra_grants` apply in addition to the configured grants.
    pub(crate) fn new(
        config: Config,
        extra_grants: Vec<Grant>,
        dev: bool,
        store: KeyStore,
        backends: Backends,
    ) -> Self {
        let keys = Keys::new(store, config.cached_records).with_unit(backends.embedded_unit());
        let daemon = Self {
            renewals: Renewals::load(keys.state_dir(), Some(keys.store())),
            keys,
            metrics: Metrics::new(
                Purpose::ALL.map(Purpose::name).to_vec(),
                backends.iter().map(Backend::shared_name),
            ),
            trail: OnceLock::new(),
            no_trail: ArcSwapOption::empty(),
            unrecorded: Unrecorded::default(),
            acts: Mutex::default(),
            stopping: Mutex::default(),
            backends,
            started: Instant::now(),
            started_at: now(),
            dev,
            serves_grep11: false,
            unusable_keys: ArcSwapOption::empty(),
            is_surveyed: AtomicBool::new(true),
            next_start: ArcSwapOption::empty(),
            unit_state: ArcSwapOption::empty(),
            not_final: ArcSwapOption::empty(),
            secrets: ArcSwapOption::empty(),
            unit_files: ArcSwapOption::empty(),
            sockets: ArcSwapOption::empty(),
            refused_reload: ArcSwapOption::empty(),
            shredding: Shredding::default(),
            config: ArcSwap::from_pointee(Config::default()),
            config_file: None,
            fingerprint: ArcSwap::default(),
            waiting_for_restart: ArcSwap::default(),
            reloads: OnceLock::new(),
            extra_grants,
        };
        daemon.set_config(config);
        daemon
    }

    /// Sets the file of the configuration.
    #[must_use]
    pub(crate) fn with_config_file(self, config_file: Option<PathBuf>) -> Self {
        Self { config_file, ..self }
    }

    /// Sets the file for copies of the key store.
    #[must_use]
    pub(crate) fn with_scratch(self, scratch: Scratch) -> Self {
        Self { keys: self.keys.with_scratch(scratch), ..self }
    }

    /// Sets whether the embedded unit serves GREP11 instead of peers.
    #[must_use]
    pub(crate) fn serving_grep11(self, serves_grep11: bool) -> Self {
        Self { serves_grep11, ..self }
    }

    /// Sets the message about keys that the embedded unit cannot unwrap.
    pub(crate) fn set_unusable_keys(&self, unusable_keys: Option<String>) {
        self.unusable_keys.store(unusable_keys.map(Arc::new));
    }

    /// Sets the reason why the next start cannot open the embedded unit.
    pub(crate) fn set_next_start(&self, problem: Option<String>) {
        note_problem(&self.next_start, problem);
    }

    /// True if the next start cannot open the embedded unit.
    pub(crate) fn next_start_fails(&self) -> bool {
        self.next_start.load().is_some()
    }

    /// Sets the reason why the file with the state of the embedded unit is not right.
    pub(crate) fn set_unit_state(&self, problem: Option<String>) {
        note_problem(&self.unit_state, problem);
    }

    /// Sets the files of the unit server that are not in force.
    pub(crate) fn set_unit_files(&self, problem: Option<String>) {
        note_problem(&self.unit_files, problem);
    }

    /// Sets the sockets that nobody can reach.
    pub(crate) fn set_sockets(&self, problem: Option<String>) {
        note_problem(&self.sockets, problem);
    }

    /// Sets the reason why the last reload was refused; none if it was not.
    pub(crate) fn set_refused_reload(&self, reason: Option<String>) {
        self.refused_reload.store(reason.map(Arc::new));
    }

    /// Reason why the last reload was refused, so that an older configuration is in force.
    pub(crate) fn refused_reload(&self) -> Option<Arc<String>> {
        self.refused_reload.load_full()
    }

    /// Sets the reason why purges are not made final.
    pub(crate) fn set_not_final(&self, problem: Option<String>) {
        note_problem(&self.not_final, problem);
    }

    /// True if every key was looked at since the start.
    pub(crate) fn is_surveyed(&self) -> bool {
        self.is_surveyed.load(Ordering::Relaxed)
    }

    /// Notes whether every key was looked at since the start.
    pub(crate) fn set_surveyed(&self, is_surveyed: bool) {
        self.is_surveyed.store(is_surveyed, Ordering::Relaxed);
    }

    /// Sets the reason why the file of a shred secret is not right.
    pub(crate) fn set_secrets(&self, problem: Option<String>) {
        note_problem(&self.secrets, problem);
    }

    /// The audit trail. `None` if this daemon has none: there is no state directory, or it has not
    /// started yet.
    pub(crate) fn trail(&self) -> Option<Result<&Trail, Unwritten>> {
        // Each signature asks, and an open trail is the rule.
        if let Some(trail) = self.trail.get() {
            return Some(Ok(trail));
        }
        self.no_trail.load().as_ref().map(|reason| Err(Unwritten(reason.to_string())))
    }

    /// Reason why uses of keys have no record now.
    pub(crate) fn trail_failure(&self) -> Option<Unwritten> {
        match self.trail()? {
            // The reason may be gone meanwhile: records are written again.
            Ok(trail) if trail.has_failed() => trail.failure().map(Unwritten),
            Ok(_) => None,
            Err(reason) => Some(reason),
        }
    }

    /// Sets the audit trail, or the reason why there is none yet. The first trail stays.
    pub(crate) fn set_trail(&self, trail: Result<Trail, String>) {
        match trail {
            Ok(trail) => {
                drop(self.trail.set(trail));
                self.tell_unrecorded();
            }
            Err(reason) => self.no_trail.store(Some(Arc::new(reason))),
        }
    }

    /// Sets the receiver of requests for a reload. The first one stays.
    pub(crate) fn set_reloads(&self, reloads: mpsc::Sender<ReloadRequest>) {
        drop(self.reloads.set(reloads));
    }

    /// Has the configuration reloaded.
    ///
    /// # Errors
    /// The reason why the old configuration stays in force. `None` if the daemon is starting or
    /// stopping.
    pub(crate) async fn reload(&self) -> Result<Reload, Option<String>> {
        let (request, reloaded) = oneshot::channel();
        self.reloads.get().ok_or(None)?.send(request).await.map_err(|_| None)?;
        reloaded.await.map_err(|_| None)?.map_err(Some)
    }

    /// Counts uses, and records of acts that were carried out nevertheless, while the audit trail
    /// is not open. The trail tells the numbers when it is.
    pub(crate) fn has_no_record_of(&self, uses: u64, acts: u64) {
        self.unrecorded.uses.fetch_add(uses, Ordering::AcqRel);
        self.unrecorded.acts.fetch_add(acts, Ordering::AcqRel);
        // It may be open by now.
        self.tell_unrecorded();
    }

    /// Records an act that a user was refused, or counts the act while the audit trail is not open.
    pub(crate) fn record_refused_act(&self, act: RefusedAct<'_>) {
        let RefusedAct { actor, reason, key, details } = act;
        match self.trail() {
            Some(Ok(trail)) => trail.record_refused_act(audit::Act {
                action: "keyward.admin.refused",
                phase: Phase::Refused(reason),
                actor,
                key: key.map(Label::to_string),
                version: None,
                details,
            }),
            Some(Err(_)) => self.has_no_record_of(1, 0),
            None => {}
        }
    }

    fn tell_unrecorded(&self) {
        let Some(trail) = self.trail.get() else { return };
        let uses = self.unrecorded.uses.swap(0, Ordering::AcqRel);
        let acts = self.unrecorded.acts.swap(0, Ordering::AcqRel);
        if uses > 0 || acts > 0 {
            trail.record_gap(uses, acts);
        }
    }

    /// True if a user may carry out one more act: nobody fills the audit trail with acts. Root and
    /// the user of the daemon can fill its file system in any case, so they may.
    pub(crate) fn may_act(&self, uid: u32) -> bool {
        let own = rustix::process::geteuid().as_raw();
        if uid == 0 || (uid == own && uid != OVERFLOW) {
            return true;
        }
        let mut acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
        acts.entry(uid).or_insert_with(|| Allowance::new(ACTS_AT_ONCE, ACTS_IN_A_SECOND)).take()
    }

    /// True if the same act of the same user does not stop the same key now. Then
    /// [`Daemon::ends_stop`] is to be called.
    pub(crate) fn begins_stop(&self, stop: Stop) -> bool {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner).insert(stop)
    }

    /// Ends what [`Daemon::begins_stop`] has begun.
    pub(crate) fn ends_stop(&self, stop: &Stop) {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner).remove(stop);
    }

    /// The present configuration, for the audit trail.
    pub(crate) fn loaded(&self) -> Loaded {
        let (grants, roles) = (self.configured_grants(), self.config().roles.iter().count());
        let custody = self.backends.embedded().map(|embedded| embedded.custodian().custody());
        let unit = custody.map(|custody| (custody.state.unit().to_string(), custody.state.next_counter()));
        Loaded { fingerprint: self.fingerprint(), grants, roles, unit }
    }

    /// Number of grants in the configuration, without the grants of `--dev`.
    pub(crate) fn configured_grants(&self) -> usize {
        self.config().grants.iter().count().saturating_sub(self.extra_grants.len())
    }

    /// True if the configuration has grants or roles, not counting the grants of `--dev`.
    pub(crate) fn is_configured(&self) -> bool {
        let Loaded { grants, roles, .. } = self.loaded();
        grants > 0 || roles > 0
    }

    /// [`Config::fingerprint`] of the present configuration.
    pub(crate) fn fingerprint(&self) -> String {
        self.fingerprint.load().to_string()
    }

    /// Present configuration.
    pub(crate) fn config(&self) -> arc_swap::Guard<Arc<Config>> {
        self.config.load()
    }

    /// Roles of a process on the administrators' socket, under the present configuration. Root and
    /// the user of the daemon are manager in any case. With `--dev`, the user who started the
    /// daemon has every role, also if the configuration separates roles. Roles by group count if
    /// the user has an entry in the user database.
    pub(crate) fn roles_of(&self, peer: &Peer, has_entry: bool) -> RoleSet {
        use rustix::process::{geteuid, getuid};

        if self.dev && peer.uid == getuid().as_raw() {
            return RoleSet::all();
        }
        let is_manager = [0, geteuid().as_raw()].contains(&peer.uid);
        self.config().roles.of(peer, is_manager, has_entry)
    }

    /// True if a backend can sign with its keys now.
    pub(crate) async fn is_ready(&self, backend: &Backend) -> bool {
        self.problem_of(backend).await.is_none()
    }

    /// Reason why a backend cannot sign with its keys now; `None` if it can.
    async fn problem_of(&self, backend: &Backend) -> Option<String> {
        if let Err(unusable) = backend.usable() {
            return Some(unusable.to_string());
        }
        // If the store cannot be read, keys in memory may still sign.
        let present = self.keys.wkid(backend.name()).await.ok().flatten();
        let next = self.keys.next_wkid(backend.name()).await.ok().flatten();
        let wkids: Vec<Wkid> = present.into_iter().chain(next).collect();
        let is_ready = !self.keys.is_locked() && backend.is_ready(&wkids);
        (!is_ready).then(|| format!("no unit of backend {} can sign with its keys", backend.name()))
    }

    /// Reasons why the daemon cannot sign with its keys. A daemon with such a problem is not ready.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.keys.problem().await.into_iter().collect();
        problems.extend(self.unready().await);
        problems
    }

    /// Reasons why backends cannot sign with their keys now.
    pub(crate) async fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for backend in self.backends.iter() {
            reasons.extend(self.problem_of(backend).await);
        }
        reasons
    }

    /// Problems of a daemon that is ready nevertheless: a key does not sign, or its state is not in
    /// the key store yet, or the next start cannot open the unit.
    pub(crate) fn other_problems(&self) -> Vec<String> {
        let pending = self.keys.pending();
        let (count, first) = (pending.len(), pending.iter().take(MAX_LABELS).map(Label::as_str));
        let mut first = first.collect::<Vec<_>>().join(", ");
        if count > MAX_LABELS {
            first += ", ...";
        }
        let (why, until) = match self.keys.is_locked() {
            true => ("the unit is sealed", "the daemon writes the changes when the unit is unsealed"),
            false => ("the key store cannot be written", "the daemon tries again every 10 seconds"),
        };
        let pending = (count > 0).then(|| {
            format!("{count} keys are compromised, disabled or deleted in the running daemon alone, because {why}: {first}; {until}, and a restart before that loses them")
        });
        let unusable = self.unusable_keys.load().as_ref().map(|problem| problem.to_string());
        let noted = [
            &self.next_start,
            &self.unit_state,
            &self.not_final,
            &self.secrets,
            &self.unit_files,
            &self.sockets,
        ];
        let noted = noted.into_iter().filter_map(|problem| Some(problem.load_full()?.to_string()));
        let is_without_plans = self.config().plans.is_empty();
        let orphans = is_without_plans.then(|| self.renewals.orphans()).flatten();
        let of_renewals = self.renewals.problem().into_iter().chain(orphans);
        let unsurveyed = (!self.is_surveyed() && !self.keys.is_locked()).then(|| UNSURVEYED.to_owned());
        unusable.into_iter().chain(unsurveyed).chain(pending).chain(noted).chain(of_renewals).collect()
    }

    /// Puts a configuration in force. Notifies watching peers if the grants have changed.
    pub(crate) fn set_config(&self, mut config: Config) {
        self.fingerprint.store(Arc::new(config.fingerprint()));
        config.grants.extend(self.extra_grants.iter().cloned());
        let old = self.config.swap(Arc::new(config));
        if old.grants != self.config().grants {
            self.keys.changes().of_grants();
        }
    }
}

/// Notes a problem for the status. Logs a new one.
fn note_problem(place: &ArcSwapOption<String>, problem: Option<String>) {
    let problem = problem.map(Arc::new);
    let before = place.swap(problem.clone());
    if let Some(problem) = problem.filter(|problem| Some(problem) != before.as_ref()) {
        tracing::error!("{problem}");
    }
}

/// Numbers that the audit trail has yet to count, because it was not open.
#[derive(Debug, Default)]
struct Unrecorded {
    uses: AtomicU64,
    /// Records of acts that were carried out nevertheless.
    acts: AtomicU64,
}

/// An act that a user was refused.
pub(crate) struct RefusedAct<'a> {
    pub(crate) actor: audit::Actor,
    pub(crate) reason: String,
    pub(crate) key: Option<&'a Label>,
    /// The act, and where it was asked for.
    pub(crate) details: Map<String, Value>,
}

/// A configuration that a reload has put in force, and the parts of it that are not.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) loaded: Loaded,
    /// Names of changed settings that take effect only with a restart.
    pub(crate) waiting_for_restart: Vec<String>,
    /// Sockets that are not there, and problems of files of the backends.
    pub(crate) problems: Vec<String>,
}

/// A configuration, for the audit trail.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// [`Config::fingerprint`].
    pub(crate) fingerprint: String,
    /// Number of grants in the file.
    pub(crate) grants: usize,
    /// Number of roles in the file.
    pub(crate) roles: usize,
    /// Identity of the embedded unit, and counter of its next command: a restored state of the unit
    /// shows in the trail.
    pub(crate) unit: Option<(String, u64)>,
}

/// Request for a reload of the configuration: takes the result, as [`Daemon::reload`] returns it.
pub(crate) type ReloadRequest = oneshot::Sender<Result<Reload, String>>;

/// An act that stops a key: user, name of the act, and key.
pub(crate) type Stop = (u32, &'static str, Label);

/// User whom the kernel names in place of every user that another user namespace does not map
/// (user_namespaces(7)).
const OVERFLOW: u32 = 65534;

/// Problem while a part of the keys was not looked at.
const UNSURVEYED: &str = "not every record of the key store was checked since the start: with very many keys, this takes some seconds; if it does not end, the log says why";

/// Maximum number of labels in a problem.
const MAX_LABELS: usize = 5;
/// Acts that a user may carry out at once: some 13 MB of the audit trail.
pub(crate) const ACTS_AT_ONCE: u32 = 10_000;
/// Acts that a user may carry out in a second after that: some 110 MB a day.
const ACTS_IN_A_SECOND: u32 = 1;

/// Returns the part of a version that a backend needs.
pub(crate) fn key_material(version: &Version) -> KeyMaterial<'_> {
    KeyMaterial {
        key_type: version.key_type,
        spki: &version.spki,
        blob: &version.blob,
        next_blob: version.next_blob.as_deref(),
    }
}
