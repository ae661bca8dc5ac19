//! Start of the daemon, and its life until SIGTERM, SIGINT or an upgrade.

use core::pin::pin;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

use keyward_unit::Profile;
use keyward_unit_server::UnitServer;
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::accept::{Tasks, accept};
use super::backends::open_backends;
use super::configuration::log_warnings;
use super::drain::drain;
use super::error::ServeError;
use super::migration;
use super::options::Options;
use super::reload::{record, reload};
use super::sockets::{self, HandedOver, MetricsSockets, Opened, SocketError, Sockets};
use super::starter::{self, Starter};
use super::survey::survey;
use super::upgrade;
use super::{audit, background, confinement, unit_server};
use crate::backend::{Backend, Embedded};
use crate::config::Config;
use crate::daemon::{Daemon, Reload};
use crate::ground::log::Log;
use crate::ground::ownership;
use crate::ground::service_manager::{notify, notify_reloading};
use crate::ground::signals::{Instruction, Signals};
use crate::ground::state_dir;
use crate::ground::text::time;
use crate::ground::{exit, hardening, in_use};
use crate::keys::{KeyStore, Scratch, StoreError};
use crate::lifecycle;
use crate::peers::reactors::Reactors;
use crate::peers::shared::Shared;
use crate::policy::authorise::{Grant, Who};

/// Runs the daemon in a child process until SIGTERM or SIGINT. Returns the exit status of this
/// process.
///
/// # Errors
/// [`ServeError`] is the reason why the daemon did not start, or could not upgrade.
pub fn serve(options: &Options) -> Result<u8, ServeError> {
    serve_and(options, || {})
}

/// Runs the daemon as [`serve`] does, and something else in a thread of its process, once the
/// daemon is ready: tests try from there what the confined process must not be able to do.
///
/// # Errors
/// See [`serve`].
pub fn serve_and(options: &Options, at_ready: impl FnOnce() + Send + 'static) -> Result<u8, ServeError> {
    match Starter::of_this_process().map_err(ServeError::Start)? {
        Some(starter) => run(options, &starter, at_ready),
        None => starter::run(),
    }
}

/// Runs the daemon in this process.
fn run(
    options: &Options,
    starter: &Starter,
    at_ready: impl FnOnce() + Send + 'static,
) -> Result<u8, ServeError> {
    upgrade::set_signals_of_start().map_err(ServeError::Runtime)?;
    let log = Log::start();
    let (config, sources) = options.read_config_with_sources()?;
    log.set(config.log, config.log_format);
    log_warnings(&config, &sources);
    hardening::harden().map_err(ServeError::Hardening)?;
    let descriptors = hardening::raise_descriptor_limit();
    let unit_server = unit_server::open(options)?;
    state_dir::make(&options.state_dir)?;
    let scratch = Scratch::make();
    ownership::make_directories(&options.runtime_dir)
        .map_err(|reason| SocketError::RuntimeDir { path: options.runtime_dir.clone(), reason })?;
    sockets::remove_others(&options.runtime_dir, &config.socket.extra);
    let mut passed = sockets::passed()?;
    let metrics = MetricsSockets::open(&mut passed, config.metrics);
    // Before the first secret is read, and before the first thread is started.
    confinement::confine(options, &config)?;
    let store = open_store(options, &config)?;
    let is_new = store.is_new()?;
    let backends = open_backends(options, &config, &store)?;
    migration::finish(store.path());
    if options.unit.is_none() {
        log_problems(&store, is_new, &config)?;
    }
    unit_server::simulate(options, &backends)?;
    let (sockets, opened) = match unit_server {
        None => Sockets::open(&options.runtime_dir, &config.socket.extra, passed, metrics)?,
        Some(_) => Sockets::open_for_administrators(&options.runtime_dir, metrics)?,
    };
    let reactors = Reactors::start().map_err(ServeError::Runtime)?;
    let at_start = config.clone();
    let daemon = Daemon::new(config, dev_grants(options.dev), options.dev, store, backends);
    let daemon = daemon.with_config_file(absolute_config_file(options)).with_scratch(scratch);
    let daemon = daemon.serving_grep11(options.unit.is_some());
    let peers = Arc::new(Shared::new(Arc::new(daemon), reactors, descriptors));
    let mut runtime = match unit_server {
        None => tokio::runtime::Builder::new_current_thread(),
        Some(_) => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build().map_err(ServeError::Runtime)?;
    let server = Server { options, at_start, log, starter, peers, unit_server };
    let served = runtime.block_on(server.run(sockets, opened, at_ready));
    runtime.block_on(audit::stop(&server.peers.daemon));
    // Without a wait: the result of work that still runs, such as an RSA key, has no receiver.
    runtime.shutdown_background();
    match served? {
        None => Ok(0),
        Some(sockets) => {
            let embedded = server.peers.daemon.backends.embedded();
            let custodian = embedded.map(Embedded::custodian);
            let keys = custodian.map(|custodian| upgrade::filled_pipe(&custodian.hand_over()));
            let keys = keys.transpose().map_err(ServeError::Upgrade)?;
            starter.hand_over(sockets, keys).map_err(ServeError::Upgrade)?;
            Ok(exit::OS)
        }
    }
}

/// Started daemon.
struct Server<'a> {
    options: &'a Options,
    /// Configuration at the start.
    at_start: Config,
    log: Log,
    starter: &'a Starter,
    peers: Arc<Shared>,
    /// The server of a unit that serves GREP11 instead of peers.
    unit_server: Option<Arc<UnitServer>>,
}

impl Server<'_> {
    /// Serves until a signal ends the service. Returns the sockets for the installed program, if
    /// that program is to continue.
    async fn run(
        &self,
        mut sockets: Sockets,
        opened: Vec<Opened>,
        at_ready: impl FnOnce() + Send + 'static,
    ) -> Result<Option<Vec<HandedOver>>, ServeError> {
        let daemon = &self.peers.daemon;
        let mut signals = Signals::new().map_err(ServeError::Runtime)?;
        upgrade::unblock_signals().map_err(ServeError::Runtime)?;
        let (stop, tasks) = (CancellationToken::new(), Tasks::default());
        // A unit that hangs must not keep the daemon from being stopped.
        if signals.unless_stopped(start_units(daemon)).await.is_none() {
            return Ok(None);
        }
        if signals.unless_stopped(survey(daemon)).await.is_none() {
            return Ok(None);
        }
        audit::start(daemon, &self.options.state_dir);
        // Before the first use: from now on, a daemon that is killed can lose uses.
        daemon.keys.save_usage(false).await;
        // A disk that hangs must not keep the daemon from being stopped.
        if signals.unless_stopped(record(daemon)).await.is_none() {
            return Ok(None);
        }
        background::spawn(&self.peers);
        accept(&self.peers, opened, &tasks, &stop).map_err(ServeError::Runtime)?;
        let calls = self.unit_server.as_ref().map(|server| unit_server::serve(server, daemon, &stop));
        notify(&[NotifyState::Ready]);
        self.log_ready();
        drop(tokio::task::spawn_blocking(at_ready));
        let mut calls = pin!(unit_server::ended(calls));
        let upgrades = tokio::select! {
            upgrades = self.follow_signals(&mut signals, &mut sockets, &tasks, &stop) => upgrades,
            ended = &mut calls => return ended.map(|()| None),
        };
        let mut drained = pin!(drain(&self.peers, &tasks, &stop));
        if upgrades {
            notify_reloading();
            let handed_over = sockets.hand_over();
            if signals.unless_stopped(&mut drained).await.is_some() {
                return Ok(Some(handed_over));
            }
            tracing::info!("stop requested: not going on as the new program");
        } else {
            // Closed before the drain, so that no client waits at a socket without a server.
            drop(sockets);
        }
        notify(&[NotifyState::Stopping]);
        drained.await;
        lifecycle::mend_secrets(daemon).await;
        if self.unit_server.is_some() {
            calls.await?;
        }
        Ok(None)
    }

    fn log_ready(&self) {
        let (daemon, runtime_dir) = (&self.peers.daemon, self.options.runtime_dir.display());
        let version = env!("CARGO_PKG_VERSION");
        match &self.unit_server {
            None => {
                let backends = daemon.backends.iter().map(Backend::name).collect::<Vec<_>>().join(",");
                tracing::info!(version, backends, %runtime_dir, "ready");
            }
            Some(server) => {
                let wkid = daemon.backends.embedded_unit().and_then(|unit| unit.wkid());
                let wkid = wkid.map(|wkid| wkid.to_string()).unwrap_or_default();
                let profile = daemon.backends.embedded_unit().map_or(Profile::Strict, |unit| unit.profile());
                if profile == Profile::Open {
                    tracing::warn!(
                        "control points open: a client that has the blob of a key can get the key out of the unit; see docs/grep11.md"
                    );
                }
                tracing::info!(version, %wkid, control_points = %profile, listen = %server.address(), %runtime_dir, "ready");
            }
        }
    }

    /// Reloads at SIGHUP, and if an administrator asks. Returns false at SIGTERM and SIGINT, true
    /// at SIGUSR2 if the installed program is to continue.
    async fn follow_signals(
        &self,
        signals: &mut Signals,
        sockets: &mut Sockets,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> bool {
        // Dropped with the requests in it before the drain, which waits for their answers.
        let (sender, mut requests) = mpsc::channel(1);
        self.peers.daemon.set_reloads(sender);
        let mut look = tokio::time::interval(LOOK_AT_SOCKETS);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let instruction = tokio::select! {
                _ = look.tick() => {
                    self.note_lost(sockets);
                    continue;
                }
                instruction = signals.next() => instruction,
                Some(request) = requests.recv() => {
                    notify_reloading();
                    // A directory service that hangs must not keep the daemon from being stopped.
                    let reloaded = signals.unless_stopped(self.reload(sockets, tasks, stop)).await;
                    let Some(reloaded) = reloaded else { return false };
                    notify(&[NotifyState::Ready]);
                    // An administrator who hung up does not ask for the result.
                    drop(request.send(reloaded));
                    continue;
                }
            };
            match instruction {
                Instruction::Reload => {
                    notify_reloading();
                    let reloaded = signals.unless_stopped(self.reload(sockets, tasks, stop)).await;
                    match reloaded {
                        Some(Ok(_)) => record(&self.peers.daemon).await,
                        Some(Err(_)) => {}
                        None => return false,
                    }
                    notify(&[NotifyState::Ready]);
                }
                Instruction::Upgrade if self.unit_server.is_some() => {
                    tracing::warn!(
                        "ignored SIGUSR2: only keyward serve supports it; restart the unit instead"
                    );
                }
                Instruction::Upgrade => {
                    let checked = upgrade::is_possible(self.starter, &self.peers.daemon);
                    match signals.unless_stopped(checked).await {
                        Some(true) => return true,
                        Some(false) => {}
                        None => return false,
                    }
                }
                Instruction::Stop => return false,
            }
        }
    }

    /// Reloads the configuration, and binds lost sockets again.
    async fn reload(
        &self,
        sockets: &mut Sockets,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Result<Reload, String> {
        let problems = match &self.unit_server {
            Some(server) => server.reload().await,
            None => Vec::new(),
        };
        let joined = Some(problems.join("; ")).filter(|joined| !joined.is_empty());
        self.peers.daemon.set_unit_files(joined);
        let mut reloaded = reload(&self.peers, self.options, &self.at_start, &self.log).await;
        if let Err(error) = accept(&self.peers, sockets.reopen(), tasks, stop) {
            tracing::error!("cannot listen on a socket that was bound again: {error}");
        }
        if let Ok(reload) = &mut reloaded {
            reload.problems.extend(problems);
            reload.problems.extend(sockets.lost());
        }
        self.note_lost(sockets);
        self.peers.daemon.set_refused_reload(reloaded.as_ref().err().cloned());
        reloaded
    }

    /// Notes the sockets that nobody can reach, for the state of the daemon.
    fn note_lost(&self, sockets: &Sockets) {
        let lost = sockets.lost().collect::<Vec<_>>().join("; ");
        self.peers.daemon.set_sockets(Some(lost).filter(|lost| !lost.is_empty()));
    }
}

/// Opens the key store. The error for an old format says how to migrate the store.
fn open_store(options: &Options, config: &Config) -> Result<KeyStore, ServeError> {
    let opened =
        in_use::retried(|| KeyStore::open(&options.state_dir), |error| matches!(error, StoreError::InUse(_)));
    opened.map_err(|error| match error {
        StoreError::OldFormat(_, format) => {
            ServeError::OldFormat(migration::old_format(options, config, format))
        }
        error => error.into(),
    })
}

/// Logs problems of the key store that do not prevent the start.
fn log_problems(store: &KeyStore, is_new: bool, config: &Config) -> Result<(), ServeError> {
    // A new store has its own warning. An empty store has one at each start, because the daemon may
    // have been started once since the store was lost.
    if let Some(problem) = store.problem() {
        tracing::error!("{problem}");
    } else if !is_new && store.count()? == 0 && config.grants.iter().next().is_some() {
        tracing::warn!(
            "the key store {} has no key, and there are grants{}: if there were keys, restore the store from a backup",
            store.path().display(),
            store.created()?.map(|made| format!("; it was made at {}", time(made))).unwrap_or_default()
        );
    }
    Ok(())
}

/// Absolute path of the configuration file, if there is one.
fn absolute_config_file(options: &Options) -> Option<PathBuf> {
    options.config_file().map(|file| std::path::absolute(file).unwrap_or(file.into()))
}

/// Grants that `--dev` adds to the configuration.
fn dev_grants(dev: bool) -> Vec<Grant> {
    if !dev {
        return Vec::new();
    }
    let uid = rustix::process::getuid().as_raw();
    tracing::warn!(
        "DEVELOPMENT MODE (--dev): user id {uid} may sign anything with every key, and the master key is in the directory of the keys; not for production"
    );
    vec![Grant::everything(Who::user(uid))]
}

/// Starts the health checks of the remote units, and waits for the first probe of each.
async fn start_units(daemon: &Daemon) {
    for backend in daemon.backends.iter() {
        backend.start().await;
    }
}

/// Time between two looks at the files of the sockets.
const LOOK_AT_SOCKETS: Duration = Duration::from_secs(5);
