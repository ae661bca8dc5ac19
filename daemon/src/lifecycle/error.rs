//! Reasons why a use case was refused or has failed.

use keyward_proto::{KeyType, Label, Use};
use keyward_unit::Wkid;
use thiserror::Error;

use super::uses::set_uses_command;
use crate::backend::BackendError;
use crate::ground::master_key::MasterKeyError;
use crate::keys::StoreError;
use crate::keys::certificates::InvalidChain;

/// Reason why a use case was refused or has failed.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The unit refused the operation, or was not available.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The backend is in the configuration file, but not in use yet.
    #[error(
        "the backend {name} is in the configuration, and takes effect with a restart of the daemon; until then there are {known}"
    )]
    BackendAfterRestart { name: String, known: String },
    /// The backend of the key is not configured any more.
    #[error("the backend {backend} of key {label} is not configured")]
    BackendGone { label: Label, backend: String },
    /// The backend has no keys yet, so no master key wraps them.
    #[error("backend {0} has no keys")]
    BackendWithoutKeys(String),
    /// The certificates do not make a chain.
    #[error(transparent)]
    Chain(#[from] InvalidChain),
    /// The certificate of the key is in the file, but after another certificate.
    #[error("the certificate of key {label} is number {number} in the file, and has to come first")]
    CertificateNotFirst { label: Label, number: usize },
    /// The first certificate is for another public key.
    #[error(
        "no version of key {0} has the public key of the first certificate in the file; have one issued for it: keyward csr {0}"
    )]
    CertificateOfOtherKey(Label),
    /// A disabled key was asked to sign.
    #[error("key {0} is disabled; ask who disabled it, and why; then: keyward key enable {0}")]
    Disabled(Label),
    /// The unit does not let the key do what the uses need.
    #[error(
        "the unit of backend {backend} does not let the key {verb}, which was settled when it was made; make another one with {with}"
    )]
    Incapable { backend: String, verb: &'static str, with: &'static str },
    /// The key has as many versions as a key can have.
    #[error("key {label} has {most} versions, and cannot have more; make another key")]
    ManyVersions { label: Label, most: usize },
    /// The version has no certificate. `certified` are the numbers of the versions that have one.
    #[error("version {number} of key {label} has no certificate; {}", of_others(certified))]
    NoCertificate { label: Label, number: u32, certified: Vec<u32> },
    /// No other master key is configured for the embedded unit.
    #[error(
        "no other master key than {0} is configured; name the file of the new one as next-master-key in section [embedded] of the configuration, and reload the daemon"
    )]
    NoNextMasterKey(String),
    /// The key has no such version.
    #[error("key {label} has no version {number}")]
    NoVersion { label: Label, number: u32 },
    /// No unit of the backend is healthy.
    #[error(
        "no unit of backend {backend} is healthy, so it is not known whether a unit has the new master key {wkid}"
    )]
    NoUnit { backend: String, wkid: String },
    /// Only backends with units elsewhere take blobs of others.
    #[error("blobs are adopted by backends over GREP11; name one with --backend")]
    NotAdoptable,
    /// The bytes are not a certificate request for the key.
    #[error(
        "what is to be signed is no CertificationRequestInfo for the public key of key {label} version {number}"
    )]
    NotARequest { label: Label, number: u32 },
    /// The uses of the key do not admit certificate requests.
    #[error(
        "the uses of key {label} are {}, without csr; allow it first: {}",
        uses.iter().map(|one| one.name()).collect::<Vec<_>>().join(", "),
        set_uses_command(label.as_str(), &[&**uses, &[Use::Csr]].concat())
    )]
    NotForRequests { label: Label, uses: Vec<Use> },
    /// No unit generates keys of the type of the key.
    #[error(
        "no key of the type of key {0} can be made; import one: keyward key import {0} --new-version --in FILE"
    )]
    NotGenerated(Label),
    /// Keys of the backend are not wrapped by the next master key.
    #[error(
        "not wrapped by the new master key: {}; have that done by a unit that has the old one: keyward key rewrap --backend {backend}",
        first_of(labels)
    )]
    NotRewrapped { backend: String, labels: Vec<Label> },
    /// The next master key cannot be read.
    #[error(transparent)]
    NextMasterKey(#[from] MasterKeyError),
    /// The file names the master key that the keys have already.
    #[error(
        "the keys have the master key of next-master-key, {0}, already; name its file as master-key, and take next-master-key out of the configuration"
    )]
    NextMasterKeyInForce(String),
    /// No key and no unit has another master key.
    #[error(
        "nothing is wrapped by another master key than {wkid}, and no unit has one; begin with: keyward key rewrap --backend {backend}"
    )]
    NothingRewrapped { backend: String, wkid: String },
    /// The blob to adopt is wrapped by another master key than the keys of the backend.
    #[error("the blob is wrapped by master key {blob}, the keys of backend {backend} by {keys}")]
    OtherMasterKey { backend: String, blob: Wkid, keys: Wkid },
    /// Units have another master key than the new one.
    #[error("units do not have the new master key {wkid}: {units}; put it in force there first")]
    OtherMasterKeyAtUnits { wkid: String, units: String },
    /// A key does not work with its next blob.
    #[error(
        "key {label} does not sign with what the new master key has wrapped, so the old is kept: {reason}"
    )]
    Proof {
        label: Label,
        #[source]
        reason: BackendError,
    },
    /// The task that was to prove a key has ended early.
    #[error("a proof was given up; run it again")]
    ProofGivenUp,
    /// The private key in the file is that of a version.
    #[error("the key in the file is version {number} of key {label} already")]
    SameKey { label: Label, number: u32 },
    /// None of several backends was named.
    #[error(
        "there are several backends; set default-backend in keyward.toml, or name one with --backend: {0}"
    )]
    SeveralBackends(String),
    /// An RSA key would decrypt and sign, and that was not accepted.
    #[error(
        "one key for both rsa-key-exchange and {0} is less safe than two; take two, or accept that with --sign-and-decrypt"
    )]
    SignsAndDecrypts(Use),
    /// The store refused the change, or could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store was altered, so keys of the backend may not be listed.
    #[error(
        "the key store was altered, and keys that nobody can list may be left behind; see keyward key list, then: keyward key repair"
    )]
    StoreAltered,
    /// The embedded unit already has two master keys.
    #[error(
        "the daemon cannot take a third master key, {next}: restart it, with the file of {old} as master-key"
    )]
    ThirdMasterKey { next: Wkid, old: String },
    /// There is no backend of this name. `known` is empty where the names do not help.
    #[error("there is no backend {name:?}{}", if known.is_empty() { String::new() } else { format!("; there are {known}") })]
    UnknownBackend { name: String, known: String },
    /// A key of this type cannot decrypt.
    #[error("a key of type {0} has no use in rsa-key-exchange")]
    UselessDecryption(KeyType),
}

/// The other versions of a key that have certificates, with the option that names one.
fn of_others(certified: &[u32]) -> String {
    if certified.is_empty() {
        return "nor has any other".into();
    }
    let numbers: Vec<_> = certified.iter().map(u32::to_string).collect();
    format!("name one that has with --version: {}", numbers.join(", "))
}

/// The first labels, and how many more there are.
fn first_of(labels: &[Label]) -> String {
    let first: Vec<_> = labels.iter().take(SHOWN).map(Label::as_str).collect();
    let more = match labels.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", first.join(", "))
}

/// Most labels that an error names.
const SHOWN: usize = 5;
