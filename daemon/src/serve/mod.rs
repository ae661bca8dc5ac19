//! Start-up, reload and drain: the only place that knows every module.

pub(crate) mod backup;
pub(crate) mod embedded_unit;
mod error;
pub(crate) mod migration;
pub(crate) mod sockets;
pub(crate) mod store_key;
pub(crate) mod upgrade;

use core::pin::pin;
use core::time::Duration;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyward_proto::Label;
use nix::sys::signal::{SigSet, Signal as HeldSignal};
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::backend::{Backend, Backends, Unusable};
use crate::config::{self, Config, ConfigError, EMBEDDED};
use crate::daemon::Daemon;
use crate::ground::hardening;
use crate::ground::log::Log;
use crate::ground::master_key::{self, MasterKeyError};
use crate::ground::service_manager::{notify, notify_reloading};
use crate::ground::signals::{Instruction, Signals};
use crate::ground::text::time;
use crate::ground::{state_dir, sweep};
use crate::keys::expiry;
use crate::keys::{KeyStore, StoreError, StoreKey};
use crate::peers::reactors::Reactors;
use crate::peers::shared::Shared;
use crate::peers::{listener, service};
use crate::policy::authorise::{Grant, Who};
pub use error::ServeError;
use sockets::{Opened, Role, Sockets};
use store_key::StoreKeyError;
use upgrade::Program;

/// What `keyward serve` is told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file; without one, [`DEFAULT_CONFIG`] if that exists, or else no configuration.
    pub config: Option<PathBuf>,
    /// Where the keys are stored.
    pub state_dir: PathBuf,
    /// Where the sockets are.
    pub runtime_dir: PathBuf,
    /// Make a master key for trying things out, and let the user who started the daemon do everything.
    pub dev: bool,
}

/// Where the configuration is looked for if no other file is named.
pub const DEFAULT_CONFIG: &str = "/etc/keyward/keyward.toml";

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError`] says what kept it from starting.
pub fn serve(options: &Options) -> Result<(), ServeError> {
    hold_signals().map_err(ServeError::Runtime)?;
    let log = Log::start();
    let program = Program::running();
    let config = load_config(options.config.as_deref())?;
    log.set_level(config.log);
    hardening::harden().map_err(ServeError::Hardening)?;
    let descriptors = hardening::raise_descriptor_limit();
    state_dir::make(&options.state_dir)?;
    let store = KeyStore::open(&options.state_dir).map_err(|error| match error {
        StoreError::OldFormat(_) => ServeError::OldFormat(migration::old_format(options, &config)),
        error => error.into(),
    })?;
    let is_new = store.is_new()?;
    let backends = open_backends(options, &config, &store)?;
    migration::finish(store.path());
    if !store.is_locked()
        && let Some((problem, advice)) = store.check()?.problem()
    {
        tracing::error!("{problem}; {advice}");
    }
    // Of a new one it was said already. At each start: somebody may have started it once since it
    // was emptied.
    if let Some(problem) = store.problem() {
        tracing::error!("{problem}");
    } else if !is_new && store.count()? == 0 && config.grants.iter().next().is_some() {
        tracing::warn!(
            "the key store {} has no key, and there are grants{}: if there were keys, restore it from a backup",
            store.path().display(),
            store.created()?.map(|made| format!("; it was made at {}", time(made))).unwrap_or_default()
        );
    }
    let left_behind = left_behind(&store, &backends)?;
    if let Some(left_behind) = &left_behind {
        tracing::error!("{left_behind}");
    }
    let (mut sockets, opened) = Sockets::open(&options.runtime_dir, &config.socket.extra)?;
    let reactors = Reactors::start().map_err(ServeError::Runtime)?;
    let at_start = config.clone();
    let daemon = Daemon::new(config, dev_grants(options.dev), options.dev, store, backends);
    let config_file =
        config_file(options.config.as_deref()).map(|file| std::path::absolute(file).unwrap_or(file.into()));
    let daemon = Arc::new(daemon.with_left_behind(left_behind).with_config_file(config_file));
    let peers = Arc::new(Shared::new(Arc::clone(&daemon), reactors, descriptors));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let served: Result<_, ServeError> = runtime.block_on(async {
        let mut signals = Signals::new().map_err(ServeError::Runtime)?;
        held_signals().thread_unblock().map_err(|errno| ServeError::Runtime(errno.into()))?;
        let stop = CancellationToken::new();
        // A unit that hangs must not keep the daemon from being stopped.
        if signals.unless_stopped(start_units(&daemon)).await.is_none() {
            return Ok(None);
        }
        let tasks = Tasks::default();
        spawn(&peers);
        accept(&peers, opened, &tasks, &stop).map_err(ServeError::Runtime)?;
        notify(&[NotifyState::Ready]);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            backends = daemon.backends.iter().map(Backend::name).collect::<Vec<_>>().join(","),
            runtime_dir = %options.runtime_dir.display(),
            "ready"
        );
        let next = loop {
            match signals.next().await {
                Instruction::Reload => {
                    notify_reloading();
                    reload(&peers, options, &at_start, &log).await;
                    if let Err(error) = accept(&peers, sockets.reopen(), &tasks, &stop) {
                        tracing::error!("cannot listen on a socket that was bound again: {error}");
                    }
                    notify(&[NotifyState::Ready]);
                }
                Instruction::Upgrade => {
                    match signals.unless_stopped(upgrade::checked(program.as_ref(), &daemon)).await {
                        Some(None) => {}
                        Some(Some(program)) => break Some(program),
                        None => break None,
                    }
                }
                Instruction::Stop => break None,
            }
        };
        let mut drained = pin!(drain(&peers, &tasks, &stop));
        if let Some(program) = next {
            notify_reloading();
            let handed_over = sockets.hand_over();
            if signals.unless_stopped(&mut drained).await.is_some() {
                return Ok(Some((program, handed_over)));
            }
            tracing::info!("told to stop: not going on as the program that is there now");
        } else {
            // Nobody is to wait at a socket that nobody accepts at.
            drop(sockets);
        }
        notify(&[NotifyState::Stopping]);
        drained.await;
        Ok(None)
    });
    // Whatever still computes, such as a large RSA key, has nobody to answer.
    runtime.shutdown_background();
    match served? {
        None => Ok(()),
        Some((program, sockets)) => {
            hold_signals().map_err(ServeError::Upgrade)?;
            Err(ServeError::Upgrade(program.become_it(sockets)))
        }
    }
}

/// Has signals wait that would end a process without handlers: those of this program end with it,
/// and the next one begins with its own. Who blocks signals hands that, and those that wait, to the
/// program that it becomes.
fn hold_signals() -> io::Result<()> {
    Ok(held_signals().thread_block()?)
}

/// Those that do not ask for the end.
fn held_signals() -> SigSet {
    [HeldSignal::SIGHUP, HeldSignal::SIGUSR1, HeldSignal::SIGUSR2].into_iter().collect()
}

/// The file that `--config` names, or else [`DEFAULT_CONFIG`] if there is one.
pub(crate) fn config_file(path: Option<&Path>) -> Option<&Path> {
    let default = Path::new(DEFAULT_CONFIG);
    path.or_else(|| default.exists().then_some(default))
}

/// Reads the configuration that `--config` names, or else [`DEFAULT_CONFIG`] if there is one.
///
/// # Errors
/// [`ConfigError`] says where it is wrong.
pub fn read_config(path: Option<&Path>) -> Result<Config, ConfigError> {
    match config_file(path) {
        Some(path) => Config::load(path),
        None => Ok(Config::default()),
    }
}

/// Refuses a store that was made the other way.
pub(crate) fn check_dev(options: &Options, made_with_dev: Option<bool>) -> Result<(), ServeError> {
    match made_with_dev.filter(|dev| *dev != options.dev) {
        Some(made_with_dev) => Err(ServeError::Dev(options.state_dir.clone(), made_with_dev)),
        None => Ok(()),
    }
}

/// The store key of a file, if there is one. `fresh` if the store has none yet.
pub(crate) fn store_key(
    options: &Options,
    config: &Config,
    fresh: bool,
) -> Result<Option<StoreKey>, StoreKeyError> {
    match options.dev {
        true => Ok(None),
        false => store_key::load(config.store_key.as_deref(), &options.state_dir, fresh),
    }
}

/// Reads the configuration, and logs what is doubtful in it.
fn load_config(path: Option<&Path>) -> Result<Config, ConfigError> {
    let config = read_config(path)?;
    for warning in warnings(&config) {
        tracing::warn!("configuration: {warning}");
    }
    Ok(config)
}

/// Whatever is legal in a configuration and looks like a mistake, or does not hold on this system.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let by_service = config.grants.iter().any(|grant| grant.who.service.is_some());
    let obstacle = service::obstacle().filter(|_| by_service).map(|why| {
        format!("no grant with unit = ... holds, since services are known by their cgroup: {why}")
    });
    config.warnings().into_iter().chain(obstacle).collect()
}

/// Opens the embedded unit, if there is a master key for it, and prepares the remote backends.
fn open_backends(options: &Options, config: &Config, store: &KeyStore) -> Result<Backends, ServeError> {
    let made_with_dev = store.is_dev()?;
    check_dev(options, made_with_dev)?;
    let is_new = store.is_new()?;
    let mut unit = embedded_unit::open(options, config, store)?;
    let usable = unit.as_ref().and_then(|unit| unit.as_ref().ok());
    match store_key::unlock(store, usable, store_key(options, config, is_new)?) {
        // The daemon runs, and says to everybody who asks why it signs nothing.
        Err(StoreKeyError::NoMasterKey(..)) if matches!(unit, Some(Err(_))) => {}
        unlocked => unlocked?,
    }
    if is_new {
        tracing::warn!(
            "made a new key store, {}, without any key: if there were keys in this state directory, restore it from a backup",
            store.path().display()
        );
    }
    // Somebody who has moved all keys to units elsewhere needs no master key any more.
    if matches!(unit, Some(Err(Unusable::Missing { .. })))
        && !store.is_locked()
        && !config.grep11.is_empty()
        && !store.has_keys_of(EMBEDDED)?
    {
        unit = None;
    }
    let mut backends = Vec::new();
    if let Some(unit) = unit {
        match &unit {
            Ok(unit) if store.wkid(EMBEDDED)?.is_none() => store.set_wkid(EMBEDDED, unit.wkid(), None)?,
            Ok(_) => {}
            Err(unusable) => tracing::error!("{unusable}"),
        }
        backends.push(Backend::embedded(unit).map_err(ServeError::Runtime)?);
    }
    for (name, settings) in &config.grep11 {
        backends.push(Backend::grep11(name, settings)?);
    }
    for gone in store.remote_backends()?.iter().filter(|name| !config.grep11.contains_key(*name)) {
        tracing::warn!(
            "there is no section [grep11.{gone}] in the configuration: keys of that backend, if there are any, will not sign"
        );
    }
    if made_with_dev.is_none() && !store.is_locked() {
        store.set_dev(options.dev)?;
    }
    Ok(Backends::new(backends))
}

/// Begins to watch over the remote units, and waits for the first probe of each.
async fn start_units(daemon: &Daemon) {
    for backend in daemon.backends.iter() {
        backend.start().await;
    }
}

fn dev_grants(dev: bool) -> Vec<Grant> {
    if !dev {
        return Vec::new();
    }
    let uid = rustix::process::getuid().as_raw();
    tracing::warn!(
        "DEVELOPMENT MODE (--dev): user id {uid} may sign anything with every key, and the master key lies beside the keys; not for production"
    );
    vec![Grant::everything(Who::user(uid))]
}

/// Starts the tasks that run until the runtime ends.
fn spawn(peers: &Arc<Shared>) {
    let daemon = &peers.daemon;
    if let Some(unit) = daemon.backends.embedded_unit() {
        drop(tokio::spawn(sweep::sweep(unit)));
    }
    let follower = Arc::clone(daemon);
    drop(tokio::spawn(async move {
        expiry::follow(&follower.metrics.expiries, &follower.keys).await;
    }));
    drop(tokio::spawn(settle(Arc::clone(daemon))));
    let teller = Arc::clone(peers);
    // The rest is told when everything is drained.
    drop(tokio::spawn(async move { teller.log_limits.log_withheld().await }));
}

/// Starts one task for each socket, which ends when another socket has taken its place.
fn accept(
    peers: &Arc<Shared>,
    opened: Vec<Opened>,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> io::Result<()> {
    for Opened { listener, role, replaced } in opened {
        listener.set_nonblocking(true)?;
        let (peers, stop) = (Arc::clone(peers), stop.clone());
        match role {
            Role::Peers => {
                let accept = listener::accept(peers, listener, tasks.peers.clone(), stop, replaced)?;
                tasks.peers.spawn(accept);
            }
            Role::Administrators => {
                let listener = UnixListener::from_std(listener)?;
                let ended = async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = replaced.cancelled() => {}
                    }
                };
                tasks.administrators.spawn(admin::serve(peers, listener, ended));
            }
        }
    }
    Ok(())
}

/// Keys that the embedded unit cannot unwrap, in words, if there are any: a change of its master
/// key that was not brought to its end leaves such.
fn left_behind(store: &KeyStore, backends: &Backends) -> Result<Option<String>, ServeError> {
    let Some(unit) = backends.embedded_unit() else { return Ok(None) };
    let wkids: Vec<_> = [Some(unit.wkid()), unit.other_wkid()].into_iter().flatten().collect();
    let left = store.left_behind(&wkids)?;
    let named: Vec<_> = left.iter().take(SHOWN).map(Label::as_str).collect();
    Ok((!left.is_empty()).then(|| {
        format!(
            "{} keys are wrapped by another master key than the unit has, and do not sign: {}{}; if a change of the master key was begun, name the other one as next-master-key, restart, and finish it: keyward key rewrap --backend {EMBEDDED}, then the same with --finish",
            left.len(),
            named.join(", "),
            if left.len() > SHOWN { ", ..." } else { "" }
        )
    }))
}

/// Labels that are told of many.
const SHOWN: usize = 5;

/// Writes what could not be written when a key was disabled or deleted, as soon as it can be.
async fn settle(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(SETTLE).await;
        settle_now(&daemon).await;
    }
}

/// Writes what could not be written when a key was disabled or deleted, if that can be now.
pub(crate) async fn settle_now(daemon: &Daemon) {
    for label in daemon.keys.settle().await {
        tracing::info!(key = label.as_str(), "the end of the use of the key is written to the key store");
    }
}

/// As the answer says to whom it could not be done for at once.
const SETTLE: Duration = Duration::from_secs(10);

/// Takes over a new configuration if it is sound; else everything stays as it is. `started` is the
/// one that the daemon has started with.
async fn reload(peers: &Shared, options: &Options, started: &Config, log: &Log) {
    let daemon = &*peers.daemon;
    for backend in daemon.backends.iter() {
        backend.renew().await;
    }
    let config = match load_config(options.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("not reloaded, the old configuration stays in force: {error}");
            return;
        }
    };
    let takes_next = match take_next_master_key(daemon, &config) {
        Ok(taken) => taken,
        Err(error) => {
            tracing::error!("not reloaded, the old configuration stays in force: {error}");
            return;
        }
    };
    let waiting = waiting_for_restart(started, &config, takes_next);
    log.set_level(config.log);
    daemon.set_config(config);
    peers.apply_grants(&daemon.config());
    daemon.waiting.store(Arc::new(waiting.clone()));
    match waiting.is_empty() {
        true => tracing::info!("configuration reloaded"),
        false => tracing::warn!(
            "configuration reloaded, except for what takes effect with a restart of the daemon: {}",
            waiting.join(", ")
        ),
    }
}

/// The settings that a running daemon does not take over, and that have changed.
fn waiting_for_restart(started: &Config, config: &Config, takes_next: bool) -> Vec<String> {
    let next_master_key = started.embedded.next_master_key.clone();
    let embedded = config::Embedded { next_master_key, ..config.embedded.clone() };
    let changed = [
        ("socket.also", config.socket.extra != started.socket.extra),
        ("[embedded]", embedded != started.embedded || !takes_next),
        ("store.key", config.store_key != started.store_key),
        ("limits.cached-records", config.cached_records != started.cached_records),
    ];
    let changed = changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name.to_owned());
    let names: BTreeSet<_> = started.grep11.keys().chain(config.grep11.keys()).collect();
    let backends = names.into_iter().filter_map(|name| {
        let what = match (started.grep11.get(name), config.grep11.get(name)) {
            (None, _) => "new",
            (_, None) => "gone",
            (before, now) if before == now => return None,
            _ => "changed",
        };
        Some(format!("[grep11.{name}] ({what})"))
    });
    changed.chain(backends).collect()
}

/// Takes in the master key that is to come, where there is one. False if there is another one
/// already.
fn take_next_master_key(daemon: &Daemon, config: &Config) -> Result<bool, MasterKeyError> {
    let next = master_key::load_next(config.embedded.next_master_key.as_deref())?;
    let Some(unit) = daemon.backends.embedded_unit() else { return Ok(next.is_none()) };
    Ok(next.is_none_or(|next| next.wkid() == unit.wkid() || unit.accept(next)))
}

/// Those who are served.
#[derive(Default)]
struct Tasks {
    peers: TaskTracker,
    administrators: TaskTracker,
}

/// Answers what has arrived, and accepts nothing more.
async fn drain(peers: &Shared, tasks: &Tasks, stop: &CancellationToken) {
    let daemon = &peers.daemon;
    let patience = daemon.config().drain_timeout;
    stop.cancel();
    tasks.peers.close();
    tasks.administrators.close();
    let answered = tokio::time::timeout(patience, tasks.peers.wait()).await;
    // New peers wait by now, and an administrator may take minutes for a backup. What is cut off is
    // an error at its client, and the store has all of a change or nothing.
    let administrators =
        tokio::time::timeout(patience.min(FOR_ADMINISTRATORS), tasks.administrators.wait()).await;
    daemon.keys.settle().await;
    for label in daemon.keys.unsettled() {
        tracing::error!(
            key = label.as_str(),
            "the end of the use of the key could not be written: the next start takes it back"
        );
    }
    peers.log_limits.log_all_withheld();
    if administrators.is_err() {
        tracing::warn!("gave up requests of administrators, who were told so");
    }
    match answered {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!("stopped with requests unanswered after {patience:?}"),
    }
}

/// Longest time for the requests of administrators after those of peers.
const FOR_ADMINISTRATORS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use crate::ground::exit;

    #[test]
    fn the_service_is_not_started_again_before_somebody_has_changed_something() {
        let unit = include_str!("../../../conf/systemd/keyward.service");
        let statuses = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
        assert_eq!(statuses.unwrap(), format!("{} {} {}", exit::DATA, exit::NO_PERMISSION, exit::CONFIG));
        // systemd.service(5): it holds for the main process alone.
        assert!(!unit.lines().any(|line| line.starts_with("ExecStartPre")));
    }
}
