//! Measurement of the daemon over its socket.

use core::sync::atomic::{AtomicBool, Ordering};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use hyper::StatusCode;
use keyward_client::{Address, Client, Input};
use keyward_proto::{KeyType, Label, Use};

use super::interrupt::{Interrupt, interrupted};
use super::measurement::{Latencies, Load, Measured, certificate_verify, no_latencies, record, scheme, vary};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::request::Generate;
use crate::cli::failure::Failure;
use crate::cli::output::{note, warn};
use crate::ground::exit;
use crate::lifecycle::MIN_WAIT;
use crate::peers;

/// The daemon with its sockets in a runtime directory.
pub(super) struct Daemon {
    runtime_dir: PathBuf,
    /// True if keys are deleted, and wait for their destruction.
    leaves_keys: AtomicBool,
}

impl Daemon {
    pub(super) fn new(runtime_dir: &Path) -> Result<Self, Failure> {
        let runtime_dir = std::path::absolute(runtime_dir).map_err(|error| {
            Failure::new(exit::USAGE, format_args!("cannot use the runtime directory: {error}"))
        })?;
        Ok(Self { runtime_dir, leaves_keys: AtomicBool::new(false) })
    }

    pub(super) fn measure(
        &self,
        key_type: KeyType,
        backend: Option<&str>,
        load: Load,
        interrupt: &mut Interrupt,
    ) -> Result<Measured, Failure> {
        let runtime_dir = self.runtime_dir.as_path();
        let key = TemporaryKey::make(self, key_type, backend)?;
        let stop = AtomicBool::new(false);
        let start = Instant::now();
        let mut latencies = no_latencies()?;
        let was_interrupted = thread::scope(|scope| {
            let signers: Vec<_> =
                (0..load.connections).map(|_| scope.spawn(|| sign(runtime_dir, &key, &stop))).collect();
            let is_over = || signers.iter().any(thread::ScopedJoinHandle::is_finished);
            let was_interrupted = interrupt.within(load.duration, is_over);
            stop.store(true, Ordering::Relaxed);
            for signer in signers {
                let signed = signer
                    .join()
                    .map_err(|_| Failure::new(exit::SOFTWARE, "a thread of the benchmark died"))?;
                let _ = latencies.add(signed?);
            }
            Ok::<_, Failure>(was_interrupted)
        })?;
        match was_interrupted {
            true => Err(interrupted()),
            false => Ok(Measured::new(key_type, load, load.connections, start, &latencies)),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if *self.leaves_keys.get_mut() {
            note(format_args!(
                "the keys {LABELS}* are deleted, and will be destroyed in an hour: to destroy them at once, the user needs the role purger (docs/roles.md)"
            ));
        }
    }
}

/// Signs over one connection until `stop` is set.
fn sign(runtime_dir: &Path, key: &TemporaryKey<'_>, stop: &AtomicBool) -> Result<Latencies, Failure> {
    let failed = |error| {
        Failure::new(exit::UNAVAILABLE, error)
            .while_trying(format_args!("cannot sign with key {}", key.label))
    };
    let address = Address::try_from(runtime_dir.join(peers::SOCKET).as_path())
        .map_err(|error| Failure::new(exit::USAGE, error))?;
    let client = Client::new(address, Client::DEFAULT_TIMEOUT);
    let mut latencies = no_latencies()?;
    let scheme = scheme(key.key_type);
    let mut message = certificate_verify();
    // The first signature opens the connection, and the unit unwraps the key.
    client.sign(&key.label, scheme, Input::Message(&message)).map_err(failed)?;
    while !stop.load(Ordering::Relaxed) {
        vary(&mut message);
        let begin = Instant::now();
        client.sign(&key.label, scheme, Input::Message(&message)).map_err(failed)?;
        record(&mut latencies, begin);
    }
    Ok(latencies)
}

/// A key that is deleted on drop, and destroyed if the user may do that.
struct TemporaryKey<'a> {
    daemon: &'a Daemon,
    admin: AdminClient,
    label: Label,
    key_type: KeyType,
}

impl<'a> TemporaryKey<'a> {
    fn make(daemon: &'a Daemon, key_type: KeyType, backend: Option<&str>) -> Result<Self, Failure> {
        let label = format!("{LABELS}{key_type}-{}", std::process::id());
        let label: Label = label.parse().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let admin = AdminClient::new(&daemon.runtime_dir)?;
        let request = Generate {
            label: label.clone(),
            key_type,
            uses: vec![Use::TlsServer],
            sign_and_decrypt: false,
            backend: backend.map(str::to_owned),
        };
        admin.generate(&request).map_err(|error| {
            Failure::from(error).while_trying(format_args!("cannot generate key {label}"))
        })?;
        Ok(Self { daemon, admin, label, key_type })
    }
}

impl Drop for TemporaryKey<'_> {
    fn drop(&mut self) {
        let label = self.label.as_str();
        let deleted = self.admin.delete(label, Some(MIN_WAIT), true);
        match deleted.map(|_| self.admin.purge(label)) {
            Ok(Ok(_)) => {}
            Ok(Err(AdminClientError::Refused { status: StatusCode::FORBIDDEN, .. })) => {
                self.daemon.leaves_keys.store(true, Ordering::Relaxed);
            }
            Ok(Err(error)) | Err(error) => warn(format_args!("cannot destroy key {label}: {error}")),
        }
    }
}

/// Beginning of the labels of the keys.
const LABELS: &str = "keyward-bench-";
