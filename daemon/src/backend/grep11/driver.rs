//! Driver of one unit over GREP11: how to connect, and the operations that the unit offers.
//! [`super::pool_driver`] implements the interface of the pool.

use std::sync::{Arc, Mutex, PoisonError};

use keyward_grep11::ckm;
use keyward_proto::Scheme;

use super::connection::{Access, Connection};
use super::mechanism::{self, InputForm};
use crate::backend::network::TlsClient;
use crate::backend::pool::Failure;
use crate::config::Endpoint;

/// Access to one unit over GREP11.
pub(super) struct Grep11Driver {
    endpoint: Endpoint,
    /// Address of the unit, for people.
    pub(super) address: String,
    pub(super) access: Arc<Access>,
    offered: Mutex<Offered>,
}

/// Operations that the unit offers, as far as known.
#[derive(Default)]
struct Offered {
    /// Mechanisms, sorted.
    mechanisms: Vec<u64>,
    /// True after the unit refused to sign a digest with PSS.
    no_digest_pss: bool,
}

impl Grep11Driver {
    pub(super) fn new(endpoint: Endpoint, access: Arc<Access>) -> Self {
        let address = endpoint.to_string();
        Self { endpoint, address, access, offered: Mutex::default() }
    }

    /// Opens a connection with TLS files that may not be in force.
    ///
    /// # Errors
    /// [`Failure`] says which step failed.
    pub(super) async fn connect_with(&self, tls: Option<Arc<TlsClient>>) -> Result<Connection, Failure> {
        Connection::open(&self.endpoint, &self.access, tls).await
    }

    /// Form in which the unit accepts the input of a scheme: the digest, if possible.
    pub(super) fn form(&self, scheme: Scheme) -> Option<InputForm> {
        self.with(|offered| {
            let no_digest = scheme.is_pss() && offered.no_digest_pss;
            [InputForm::Digest, InputForm::Message]
                .into_iter()
                .filter(|form| !no_digest || *form == InputForm::Message)
                .find(|form| {
                    let number = mechanism::number(scheme, *form);
                    number.is_some_and(|number| offered.mechanisms.binary_search(&number).is_ok())
                })
        })
    }

    /// Notes that the unit has refused to sign a digest with PSS.
    pub(super) fn refused_digest_pss(&self) {
        self.with(|offered| offered.no_digest_pss = true);
    }

    /// Names of the mechanisms that the unit offers.
    pub(super) fn mechanisms(&self) -> Vec<String> {
        let name = |number: &u64| ckm::name(*number).map_or_else(|| format!("{number:#x}"), str::to_owned);
        self.with(|offered| offered.mechanisms.iter().map(name).collect())
    }

    /// Keeps the mechanisms that a probe has found, sorted. `recovered` is true if the unit was
    /// down before, so that the unit may accept digests with PSS again.
    pub(super) fn learn_mechanisms(&self, mechanisms: Vec<u64>, recovered: bool) {
        self.with(|offered| {
            offered.mechanisms = mechanisms;
            offered.no_digest_pss &= !recovered;
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut Offered) -> T) -> T {
        f(&mut self.offered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
