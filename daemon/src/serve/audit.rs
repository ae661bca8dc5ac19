//! Start and end of the audit trail.

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{fs, io, thread};

use keyward_proto::{KeyType, Scheme};
use pem_rfc7468::LineEnding;
use tokio::runtime::Handle;

use crate::audit::{Policy, Settings, Signer, Trail};
use crate::backend::{Context, KeyMaterial, SigningInput};
use crate::config::{self, Config};
use crate::daemon::Daemon;
use crate::ground::causes::causes;
use crate::ground::replace::replace;
use crate::keys::AuditKey;
use crate::lifecycle;

/// Opens the trail in the state directory. If that fails, the log says so, acts of administrators
/// are refused, and a task tries again.
pub(super) fn start(daemon: &Arc<Daemon>, state_dir: &Path) {
    let directory = state_dir.join(DIRECTORY);
    let Err(error) = open(daemon, &directory) else { return };
    tracing::error!("there is no audit trail: {error}");
    daemon.set_trail(Err(error));
    let daemon = Arc::clone(daemon);
    drop(tokio::spawn(async move {
        loop {
            tokio::time::sleep(AGAIN).await;
            match open(&daemon, &directory) {
                Ok(()) => return tracing::info!("the audit trail is open now"),
                Err(error) => daemon.set_trail(Err(error)),
            }
        }
    }));
}

fn open(daemon: &Arc<Daemon>, directory: &Path) -> Result<(), String> {
    let signer = UnitSigner {
        daemon: Arc::downgrade(daemon),
        runtime: Handle::current(),
        public: directory.join(PUBLIC_KEY),
        key: Mutex::new(None),
    };
    let settings = Settings {
        directory: directory.to_owned(),
        threads: thread::available_parallelism().map_or(1, usize::from),
        checkpoint_interval: CHECKPOINT_INTERVAL,
        checkpoint_records: CHECKPOINT_RECORDS,
        copy: daemon.config().audit.copy_to.clone(),
        policy: policy(&daemon.config()),
    };
    let trail = Trail::open(&settings, Some(Box::new(signer))).map_err(|error| error.to_string())?;
    daemon.set_trail(Ok(trail));
    Ok(())
}

/// Policy of the trail in a configuration.
fn policy(config: &Config) -> Policy {
    let config::Audit { keep, keep_size, signatures, .. } = config.audit;
    Policy { keep, keep_size, signatures, ..Policy::default() }
}

/// Puts the present configuration in force.
pub(super) fn reload(daemon: &Daemon) {
    if let Some(Ok(trail)) = daemon.trail() {
        trail.set_policy(policy(&daemon.config()));
    }
}

/// Writes and signs the rest of the trail.
pub(super) async fn stop(daemon: &Arc<Daemon>) {
    let daemon = Arc::clone(daemon);
    let stop = move || {
        if let Some(Ok(trail)) = daemon.trail() {
            trail.stop();
        }
    };
    // The unit signs with the runtime, so another thread waits.
    let _panicked = tokio::task::spawn_blocking(stop).await;
}

/// Has the unit of the audit key sign.
struct UnitSigner {
    daemon: Weak<Daemon>,
    runtime: Handle,
    /// File of the public key.
    public: PathBuf,
    /// The key, once it is read.
    key: Mutex<Option<AuditKey>>,
}

impl Signer for UnitSigner {
    fn sign(&self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let daemon = self.daemon.upgrade().ok_or("the daemon has ended")?;
        let mut known = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        self.runtime.block_on(async {
            // A key that was read before may have another blob now, of another master key.
            if let Some(key) = &*known
                && let Ok(signature) = sign(&daemon, key, message).await
            {
                return Ok(Some(signature));
            }
            *known = self.read_key(&daemon).await?;
            let Some(key) = &*known else { return Ok(None) };
            sign(&daemon, key, message).await.map(Some)
        })
    }
}

impl UnitSigner {
    /// Reads the audit key, and writes its public half to its file. `None` if there is none yet.
    async fn read_key(&self, daemon: &Daemon) -> Result<Option<AuditKey>, String> {
        let Some(key) = lifecycle::audit_key(daemon).await.map_err(|error| causes(&error))? else {
            return Ok(None);
        };
        let pem = pem_rfc7468::encode_string("PUBLIC KEY", LineEnding::LF, &key.spki).unwrap_or_default();
        keep(&self.public, &pem)
            .map_err(|error| format!("cannot write {}: {error}", self.public.display()))?;
        Ok(Some(key))
    }
}

/// Writes a file, unless it has the text. On a full disk an older file stays as it is.
fn keep(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    replace(path, text.as_bytes(), 0o644)
}

async fn sign(daemon: &Daemon, key: &AuditKey, message: &[u8]) -> Result<Vec<u8>, String> {
    let AuditKey { backend, spki, blob, next_blob } = key;
    let backend = daemon.backends.get(backend).ok_or("the backend of the audit key is not configured")?;
    let key = KeyMaterial { key_type: KeyType::P256, spki, blob, next_blob: next_blob.as_deref() };
    let mut context = Context::of_daemon(TIME_LIMIT);
    let input = SigningInput::Message(message);
    let signed = backend.sign(key, Scheme::EcdsaSecp256r1Sha256, input, &mut context).await;
    signed.map_err(|error| error.to_string())
}

/// Directory of the trail in the state directory.
const DIRECTORY: &str = "audit";
/// File of the public key in the directory.
const PUBLIC_KEY: &str = "key.pem";
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
const CHECKPOINT_RECORDS: u64 = 10_000;
/// Time between two attempts to open the trail.
const AGAIN: Duration = Duration::from_secs(2);
/// Time that a unit has for a signature.
const TIME_LIMIT: Duration = Duration::from_secs(5);
