//! Rows of the lists: keys, certificates and plans.

use std::collections::HashMap;

use keyward_proto::{Label, Use};
use keyward_unit::{Header, Wkid};

use crate::admin::status_view::ExpiringView;
use crate::backend::Backend;
use crate::config::EMBEDDED;
use crate::daemon::Daemon;
use crate::keys::certificates::{Certificate, first_to_expire};
use crate::keys::expiry::is_soon;
use crate::keys::{Key, PeerUsage, Standing, StoreError};

/// A key.
#[derive(Clone, Debug)]
pub(crate) struct KeyRow {
    pub(crate) label: String,
    /// Type of the current version; empty if it is not known.
    pub(crate) key_type: String,
    /// Backend; empty if it is not known.
    pub(crate) backend: String,
    /// Reason why the key cannot sign now.
    pub(crate) cannot: Option<Cannot>,
    /// The peer that used the key last, if a use is known. The key may have been used since.
    pub(crate) last: Option<PeerUsage>,
    /// Time from which uses are known, in seconds since 1970.
    pub(crate) since: u64,
    /// Time when the key was made or imported, in seconds since 1970.
    pub(crate) created: u64,
    /// True if the key has a use for peers: accounts at authorities sign nothing for servers.
    pub(crate) is_for_peers: bool,
}

/// Reason why a key cannot sign now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Cannot {
    /// The key is not to sign: the word for its state.
    State(&'static str),
    /// The backend of the key is not in the configuration.
    NoBackend,
    /// No unit of the backend is ready.
    NotReady,
    /// No unit of the backend has the master key with this name, which wraps the key.
    OtherMasterKey(String),
    /// The record of the key was altered, or is not verified.
    Record(String),
}

/// A backend, as keys need it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BackendNow {
    is_ready: bool,
    /// Master keys of the units.
    wkids: Vec<Wkid>,
}

/// Every backend, by its name.
pub(super) async fn backends_now(daemon: &Daemon) -> HashMap<String, BackendNow> {
    let mut backends = HashMap::new();
    for backend in daemon.backends.iter() {
        let units = backend.units().into_iter();
        let wkids = units.flat_map(|unit| [unit.wkid, unit.next_wkid]).flatten().collect();
        let now = BackendNow { is_ready: daemon.is_ready(backend).await, wkids };
        backends.insert(Backend::name(backend).to_owned(), now);
    }
    backends
}

impl KeyRow {
    pub(super) fn of(key: &Key, daemon: &Daemon, backends: &HashMap<String, BackendNow>, now: u64) -> Self {
        let usage = daemon.keys.usage();
        let label = key.label.as_str();
        Self {
            label: label.to_owned(),
            key_type: key.version(0).map(|version| version.key_type.to_string()).unwrap_or_default(),
            backend: key.backend.clone(),
            cannot: cannot(key, backends.get(&key.backend), now),
            last: usage.of_key(label).into_iter().next(),
            since: usage.since(label),
            created: key.created(),
            is_for_peers: key.uses.iter().any(|one| *one != Use::AcmeAccount),
        }
    }

    /// A key of which only the label is known.
    pub(super) fn altered(label: &Label, reason: &StoreError) -> Self {
        Self {
            label: label.to_string(),
            key_type: String::new(),
            backend: String::new(),
            cannot: Some(Cannot::Record(reason.to_string())),
            last: None,
            since: 0,
            created: 0,
            is_for_peers: false,
        }
    }
}

fn cannot(key: &Key, backend: Option<&BackendNow>, now: u64) -> Option<Cannot> {
    let standing = key.standing(now);
    if standing != Standing::Active {
        return Some(Cannot::State(standing.state_name()));
    }
    let Some(BackendNow { is_ready, wkids }) = backend else { return Some(Cannot::NoBackend) };
    if !is_ready {
        return Some(Cannot::NotReady);
    }
    // Blobs of remote units are opaque: their backend compares the master keys.
    if key.backend != EMBEDDED {
        return None;
    }
    let version = key.version(0)?;
    let blobs = [Some(&version.blob), version.next_blob.as_ref()].into_iter().flatten();
    let needed: Vec<_> = blobs.filter_map(|blob| Some(Header::read(blob)?.wkid())).collect();
    let is_there = needed.iter().any(|wkid| wkids.contains(wkid));
    let first = needed.first().filter(|_| !is_there);
    first.map(|wkid| Cannot::OtherMasterKey(wkid.to_string()))
}

/// The certificate of a key.
#[derive(Clone, Debug)]
pub(crate) struct CertificateRow {
    pub(crate) key: String,
    pub(crate) version: u32,
    /// Names of the certificate, or its subject.
    pub(crate) names: Vec<String>,
    /// Validity of the certificate of the chain that expires first, in seconds since 1970.
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// Subject of that certificate, if it is not the certificate of the key.
    pub(crate) issuer: Option<String>,
    pub(crate) plan: Option<PlanRow>,
}

impl CertificateRow {
    /// The certificate in use: of the newest version that has one.
    pub(super) fn of(key: &Key, plan: Option<&PlanRow>) -> Option<Self> {
        let version = key.certified()?;
        let own = Certificate::from_der(version.certificates.first()?).ok()?;
        let (number, first) = first_to_expire(&version.certificates)?;
        let names = match own.names() {
            [] => vec![own.subject()],
            names => names.to_vec(),
        };
        Some(Self {
            key: key.label.to_string(),
            version: version.number,
            names,
            not_before: first.not_before(),
            not_after: first.not_after(),
            issuer: (number > 1).then(|| first.subject()),
            plan: plan.cloned(),
        })
    }

    /// True if the certificate should have been renewed by now.
    pub(crate) fn is_soon(&self, now: u64) -> bool {
        is_soon(self.not_before, self.not_after, now)
    }

    pub(super) fn view(&self) -> ExpiringView {
        ExpiringView {
            key: self.key.clone(),
            version: self.version,
            names: self.names.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
            plan: self.plan.as_ref().map(|plan| plan.plan.clone()),
            renewal: self.plan.as_ref().map(|plan| plan.due),
        }
    }
}

/// The plan of a certificate.
#[derive(Clone, Debug)]
pub(crate) struct PlanRow {
    pub(crate) plan: String,
    /// Names that the certificate has or will have.
    pub(crate) names: Vec<String>,
    /// `none`, `valid`, `due`, `failing` or `expired`.
    pub(crate) state: &'static str,
    /// Time of the next renewal, in seconds since 1970.
    pub(crate) due: u64,
    /// The last failure, in the words of the authority.
    pub(crate) problem: Option<String>,
    /// True if the key of the plan has a certificate.
    pub(crate) has_certificate: bool,
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_proto::KeyType;
    use keyward_unit::{MasterKey, Unit};

    use super::*;
    use crate::keys::tests::key;
    use crate::keys::{Key, State};

    #[test]
    fn the_first_reason_is_why_a_key_cannot_sign() {
        let unit = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        let mut active = key("shop");
        active.versions[0].blob = unit.generate(KeyType::P256).unwrap().blob;
        let disabled = Key { state: State::Disabled, ..active.clone() };
        let backend =
            |is_ready, wkid: &Unit| BackendNow { is_ready, wkids: wkid.wkid().into_iter().collect() };
        let other = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        let needed = unit.wkid().unwrap().to_string();
        for (key, backend, expected) in [
            (&active, Some(&backend(true, &unit)), None),
            (&disabled, None, Some(Cannot::State("disabled"))),
            (&active, None, Some(Cannot::NoBackend)),
            (&active, Some(&backend(false, &unit)), Some(Cannot::NotReady)),
            (&active, Some(&backend(true, &other)), Some(Cannot::OtherMasterKey(needed))),
        ] {
            assert_eq!(cannot(key, backend, 100), expected);
        }
        let remote = Key { backend: "hsm".into(), ..active.clone() };
        assert_eq!(cannot(&remote, Some(&backend(true, &other)), 100), None);
        // While the keys are rewrapped, the next master key opens the other blob.
        active.versions[0].next_blob = Some(other.generate(KeyType::P256).unwrap().blob);
        assert_eq!(cannot(&active, Some(&backend(true, &other)), 100), None);
    }
}
