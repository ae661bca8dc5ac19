//! Start and end of the audit trail.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use keyward_proto::{KeyType, Scheme};
use pem_rfc7468::LineEnding;
use tokio::runtime::Handle;

use crate::audit::{Policy, Settings, Signer, Trail};
use crate::backend::{Context, KeyMaterial, SigningInput};
use crate::daemon::Daemon;
use crate::ground::causes::causes;
use crate::keys::AuditKey;
use crate::lifecycle;

/// Opens the trail in the state directory. A daemon without a trail serves nevertheless, and says
/// so in the log.
pub(super) fn start(daemon: &Arc<Daemon>, state_dir: &Path) {
    let directory = state_dir.join(DIRECTORY);
    let signer = UnitSigner {
        daemon: Arc::downgrade(daemon),
        runtime: Handle::current(),
        public: directory.join(PUBLIC_KEY),
        key: OnceLock::new(),
    };
    let settings = Settings {
        directory,
        threads: thread::available_parallelism().map_or(1, usize::from),
        checkpoint_interval: CHECKPOINT_INTERVAL,
        checkpoint_records: CHECKPOINT_RECORDS,
        copy: None,
        policy: Policy::default(),
    };
    match Trail::open(&settings, Some(Box::new(signer))) {
        Ok(trail) => {
            let _is_first = daemon.trail.set(trail);
        }
        Err(error) => tracing::error!("there is no audit trail: {error}"),
    }
}

/// Writes and signs the rest of the trail.
pub(super) async fn stop(daemon: &Arc<Daemon>) {
    let daemon = Arc::clone(daemon);
    let stop = move || {
        if let Some(trail) = daemon.trail.get() {
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
    key: OnceLock<AuditKey>,
}

impl Signer for UnitSigner {
    fn sign(&self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let daemon = self.daemon.upgrade().ok_or("the daemon has ended")?;
        self.runtime.block_on(async {
            let Some(AuditKey { backend, spki, blob }) = self.key(&daemon).await? else { return Ok(None) };
            let backend = daemon.backends.get(backend);
            let backend = backend.ok_or("the backend of the audit key is not configured")?;
            let key = KeyMaterial { key_type: KeyType::P256, spki, blob, next_blob: None };
            let mut context = Context::of_daemon(TIME_LIMIT);
            let input = SigningInput::Message(message);
            let signed = backend.sign(key, Scheme::EcdsaSecp256r1Sha256, input, &mut context).await;
            signed.map(Some).map_err(|error| error.to_string())
        })
    }
}

impl UnitSigner {
    /// The audit key, whose public half is in its file. `None` if there is none yet.
    async fn key(&self, daemon: &Daemon) -> Result<Option<&AuditKey>, String> {
        if let Some(key) = self.key.get() {
            return Ok(Some(key));
        }
        let Some(key) = lifecycle::audit_key(daemon).await.map_err(|error| causes(&error))? else {
            return Ok(None);
        };
        let pem = pem_rfc7468::encode_string("PUBLIC KEY", LineEnding::LF, &key.spki).unwrap_or_default();
        fs::write(&self.public, pem)
            .map_err(|error| format!("cannot write {}: {error}", self.public.display()))?;
        Ok(Some(self.key.get_or_init(|| key)))
    }
}

/// Directory of the trail in the state directory.
const DIRECTORY: &str = "audit";
/// File of the public key in the directory.
const PUBLIC_KEY: &str = "key.pem";
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
const CHECKPOINT_RECORDS: u64 = 10_000;
/// Time that a unit has for a signature.
const TIME_LIMIT: Duration = Duration::from_secs(5);
