//! Reasons why an operation was refused or has failed.

use core::time::Duration;

use keyward_proto::{KeyType, Label, Use};
use keyward_unit::Wkid;
use keyward_unit::administration::{CustodyError, InvalidSigned};
use thiserror::Error;

use super::renewal::RenewalError;
use super::uses::set_uses_command;
use crate::audit::Unwritten;
use crate::backend::BackendError;
use crate::config::EMBEDDED;
use crate::daemon::ACTS_AT_ONCE;
use crate::ground::ownership::Name;
use crate::ground::text::time;
use crate::keys::certificates::InvalidChain;
use crate::keys::{Approval, Deletion, Inadmissible, Key, PeerUsage, Standing, StoreError};

/// Reason why an operation was refused or has failed.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The unit refused the operation, or was not available.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The backend is in the configuration file, but not in use yet.
    #[error(
        "the backend {name} is in the configuration file, and takes effect after a restart of the daemon; the backends in use are {known}"
    )]
    BackendAfterRestart { name: String, known: String },
    /// The backend of the key is not configured any more.
    #[error("the backend {backend} of key {label} is not configured")]
    BackendGone { label: Label, backend: String },
    /// The backend has no keys yet, so no master key wraps them.
    #[error("backend {0} has no keys")]
    BackendWithoutKeys(String),
    /// The key is compromised, which cannot be undone.
    #[error(
        "key {0} is compromised, which cannot be undone: it signs no more, and gets no new version; make another key: keyward key generate LABEL --type TYPE"
    )]
    Compromised(Label),
    /// One of several commands was not carried out.
    #[error(
        "command {number} of {total}: {reason}; the commands before it were carried out, those after it were not"
    )]
    OfCommand { number: usize, total: usize, reason: Box<Error> },
    /// The last date of the key would not be later than its first date.
    #[error(
        "key {label} would sign from {} until {}, which is not later; set both dates with: keyward key set-dates {label} --not-before DATE --not-after DATE",
        time(*not_before),
        time(*not_after)
    )]
    DatesReversed { label: Label, not_before: u64, not_after: u64 },
    /// The last date of the key has passed.
    #[error("the last date of key {label} has passed, {}; remove the date: keyward key set-dates {label} --not-after none", time(*not_after))]
    Deactivated { label: Label, not_after: u64 },
    /// The key is deleted, and not destroyed yet.
    #[error(
        "key {label} is deleted, and will be destroyed at {}; bring the key back: keyward key restore {label}",
        time(*destroy_at)
    )]
    Deleted { label: Label, destroy_at: u64 },
    /// A step of a plan was refused.
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    /// The certificates do not make a chain.
    #[error(transparent)]
    Chain(#[from] InvalidChain),
    /// The unit did not do what it was asked.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The certificate of the key is in the file, but after another certificate.
    #[error("the certificate of key {label} is number {number} in the file, and must come first")]
    CertificateNotFirst { label: Label, number: usize },
    /// The first certificate is for another public key.
    #[error(
        "no version of key {0} has the public key of the first certificate in the file; request a certificate for the key: keyward csr {0} --subject DN --san NAME"
    )]
    CertificateOfOtherKey(Label),
    /// A disabled key was asked to sign.
    #[error("key {0} is disabled; ask who disabled it, and why; then: keyward key enable {0}")]
    Disabled(Label),
    /// The unit does not let the key do what the uses need.
    #[error(
        "the attributes of the key at the unit of backend {backend} do not allow it to {verb}, and cannot be changed; make another key with {with}"
    )]
    Incapable { backend: String, verb: &'static str, with: &'static str },
    /// A peer has used the key lately.
    #[error(
        "key {label} is in use: {}, used it {}; stop this use first, or delete the key all the same: {}",
        named(peer),
        minutes(*ago),
        delete_by_force(label, *wait)
    )]
    InUse { label: Label, peer: PeerUsage, ago: u64, wait: Option<u64> },
    /// The label belongs to a key that is deleted, and not destroyed yet.
    #[error(
        "key {label} is deleted, and keeps its label until it is destroyed at {}; bring the key back: keyward key restore {label}; or destroy it now, for ever, as a user with the role purger (docs/roles.md): keyward key purge {label} --yes",
        time(*destroy_at)
    )]
    LabelOfDeleted { label: Label, destroy_at: u64 },
    /// The text is not a sequence of commands for the unit.
    #[error("{0}; commands are made by keyward unit, and signed by keyward unit sign")]
    InvalidCommands(InvalidSigned),
    /// The user has carried out too many acts in a short time.
    #[error(
        "not carried out, because this user has carried out {ACTS_AT_ONCE} acts in a short time, and may carry out one each second for now; try again in a second"
    )]
    ManyActs,
    /// The key has as many versions as a key can have.
    #[error("key {label} has {most} versions, the maximum; make another key")]
    ManyVersions { label: Label, most: usize },
    /// The version has no certificate. `certified` are the numbers of the versions that have one.
    #[error("version {number} of key {label} has no certificate; {}", other_versions(certified))]
    NoCertificate { label: Label, number: u32, certified: Vec<u32> },
    /// The daemon is starting or stopping.
    #[error(
        "not reloaded, because the daemon is starting or stopping; run the command again when it is ready: keyward status"
    )]
    NoReloadNow,
    /// The act is not on record as begun, so it was not carried out.
    #[error(
        "not carried out, because every act must be on record: {0}; free space on the file system of the audit trail, or see the log of the daemon, and run the command again; the daemon needs no restart"
    )]
    NotRecorded(Unwritten),
    /// The act was carried out, and is not on record as done.
    #[error("carried out, but not on record as done: {0}; do not repeat the command")]
    DoneNotRecorded(Unwritten),
    /// The key is disabled or compromised already, and a repeat is not carried out.
    #[error(
        "key {label} is {state} already, and stays so; this command, which would change nothing, was {reason}"
    )]
    NotRepeated { label: Label, state: &'static str, reason: Box<Error> },
    /// The key has no such version.
    #[error("key {label} has no version {number}")]
    NoVersion { label: Label, number: u32 },
    /// The owners put the next master key in force, not an operator.
    #[error(
        "the master key of the embedded unit has owners, and an administrator puts the next one in force: keyward unit activate PATTERN"
    )]
    OwnersActivate,
    /// There is nothing to restore.
    #[error("key {0} is not deleted, so there is nothing to restore; see: keyward key show {0}")]
    NotDeleted(Label),
    /// Only a deleted key can be destroyed.
    #[error(
        "key {0} is not deleted, and only a deleted key can be destroyed; first run: keyward key delete {0} --yes"
    )]
    NotDeletedYet(Label),
    /// Only root may do this.
    #[error("only root may claim the unit, because the claim decides who owns it; run the command as root")]
    NeedsRoot,
    /// There is no embedded unit.
    #[error("the daemon has no embedded unit: all its backends are remote; see: keyward unit list")]
    NoUnitHere,
    /// No unit of the backend is healthy.
    #[error(
        "no unit of backend {backend} is healthy, so it is not known whether a unit has the new master key {wkid}"
    )]
    NoUnit { backend: String, wkid: Wkid },
    /// Only remote backends adopt blobs of other programs.
    #[error("only backends over GREP11 adopt blobs; name such a backend with --backend")]
    NotAdoptable,
    /// The bytes are not a certificate request for the key.
    #[error(
        "the bytes to sign are no CertificationRequestInfo for the public key of key {label} version {number}"
    )]
    NotARequest { label: Label, number: u32 },
    /// The uses of the key do not admit certificate requests.
    #[error(
        "the uses of key {label} are {}, without csr; add csr first: {}",
        uses.iter().map(|one| one.name()).collect::<Vec<_>>().join(", "),
        set_uses_command(label.as_str(), &[&**uses, &[Use::Csr]].concat())
    )]
    NotForRequests { label: Label, uses: Vec<Use> },
    /// No unit generates keys of the type of the key.
    #[error(
        "units do not generate keys of the type of key {0}; import a new version: keyward key import {0} --new-version --in FILE"
    )]
    NotGenerated(Label),
    /// The configuration or a file that it names has a mistake.
    #[error("not reloaded, the old configuration stays in force: {0}")]
    NotReloaded(String),
    /// The unit has no new master key.
    #[error("the unit has no next master key, only {0} is in force; to make one, run: keyward unit rotate")]
    NothingCommitted(Wkid),
    /// The owners have not committed a new master key.
    #[error(
        "the new register of the unit has no committed master key, only {0} is in force; the owners of the unit load and commit one first, as docs/ceremony.md describes: keyward unit ceremony"
    )]
    OwnersCommit(Wkid),
    /// There is no master key to take out of memory.
    #[error("the unit has no master key, so there is nothing to seal; see: keyward unit status")]
    NothingToSeal,
    /// Keys of the backend are not wrapped by the next master key.
    #[error(
        "keys that are not wrapped by the new master key: {}; while a unit has the old master key, run: {}",
        abbreviated(labels),
        rewrap_command(backend)
    )]
    NotRewrapped { backend: String, labels: Vec<Label> },
    /// The first date of the key has not come.
    #[error("key {label} signs from {}, not before; remove the date: keyward key set-dates {label} --not-before none", time(*not_before))]
    PreActive { label: Label, not_before: u64 },
    /// No key and no unit has another master key.
    #[error(
        "no key and no unit has another master key than {wkid}; first run: keyward key rewrap --backend {backend}"
    )]
    NothingRewrapped { backend: String, wkid: Wkid },
    /// The blob to adopt is wrapped by another master key than the keys of the backend.
    #[error("the blob is wrapped by master key {blob}, the keys of backend {backend} by {keys}")]
    OtherMasterKey { backend: String, blob: Wkid, keys: Wkid },
    /// Units have another master key than the new one.
    #[error(
        "units do not have the new master key {wkid}: {units}; put the new master key in force at these units first"
    )]
    OtherMasterKeyAtUnits { wkid: Wkid, units: String },
    /// A key does not work with its next blob.
    #[error(
        "key {label} does not work with the blob that the new master key wraps, so the old master key stays in force: {reason}"
    )]
    Proof {
        label: Label,
        #[source]
        reason: BackendError,
    },
    /// The task that was to prove a key has ended early.
    #[error("the proof of a key ended early; run the command again")]
    ProofGivenUp,
    /// A version of the key has the private key in the file already.
    #[error("the key in the file is already version {number} of key {label}")]
    SameKey { label: Label, number: u32 },
    /// The first of the two users has asked again.
    #[error(
        "key {label} needs two users for its deletion, and {} has asked already; another user can delete the key until {}; to withdraw the request, run: keyward key restore {label}",
        Name(approval.by),
        time(approval.until())
    )]
    SameUser { label: Label, approval: Approval },
    /// The waiting period is too short.
    #[error("the waiting period before the destruction of key {0} has at least one hour: --after 1h")]
    ShortWait(Label),
    /// The waiting period is too long.
    #[error("the waiting period before the destruction of key {0} has at most 10 years: --after 10y")]
    LongWait(Label),
    /// None of several backends was named.
    #[error(
        "there are several backends; set default-backend in keyward.toml, or name a backend with --backend: {0}"
    )]
    SeveralBackends(String),
    /// An RSA key would decrypt and sign, and that was not accepted.
    #[error(
        "one key for both rsa-key-exchange and {0} is less safe than two keys; make two keys, or accept the risk with --sign-and-decrypt"
    )]
    SignsAndDecrypts(Use),
    /// The store refused the change, or could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store was altered, so keys of the backend may not be listed.
    #[error(
        "the key store was altered, and keys that cannot be listed would keep the old master key; see keyward key list, then run: keyward key repair"
    )]
    StoreAltered,
    /// The master key in the new register wraps the keys already.
    #[error(
        "the master key in the new register wraps keys in the key store alone already, so the change can only be finished: keyward unit rotate; and, if the unit has owners, keyward unit activate PATTERN"
    )]
    StoreNeedsNew,
    /// The next start would not have the new master key.
    #[error("the master key is not changed, because the change would be lost: {0}")]
    NextStart(String),
    /// Keys that are not here would keep the old master key.
    #[error("the master key is not changed, because keys that are not here would be lost: {0}")]
    StoreIncomplete(String),
    /// There is nothing to put into a recovery file.
    #[error("there is no secret to copy: the key store has had no key yet")]
    NoSecret,
    /// A recovery file has a secret that is not in force.
    #[error(
        "the secret of that recovery file is not in force any more: make another one: keyward backup --recovery FILE"
    )]
    SecretReplaced,
    /// There is no next master key to give up.
    #[error("there is no change of the master key to give up; see: keyward unit status")]
    NoChange,
    /// Nobody could unseal the unit.
    #[error(
        "the master key of the unit has no owners who could bring it again, so the unit is not sealed; to take the master key out of memory, stop the daemon"
    )]
    NobodyUnseals,
    /// The key store was made with another master key than the one in the new register.
    #[error(
        "the key store was made with the master key {needed}, and the new register has {new}, which would open none of its keys; clear the new register, and load the parts of the former master key"
    )]
    StoreNeedsOther { needed: Wkid, new: Wkid },
    /// There is no backend of this name. `known` is empty where the names do not help.
    #[error("there is no backend {name:?}{}", if known.is_empty() { String::new() } else { format!("; there are {known}") })]
    UnknownBackend { name: String, known: String },
    /// Uses of the key before a time may be missing, and that time is not long ago.
    #[error(
        "it is not known whether key {label} was used before {}; wait for an hour from then on, or delete the key all the same: {}",
        time(*since),
        delete_by_force(label, *wait)
    )]
    UseNotKnown { label: Label, since: u64, wait: Option<u64> },
    /// A key of this type cannot decrypt.
    #[error("a key of type {0} cannot be used for rsa-key-exchange")]
    UselessDecryption(KeyType),
}

impl Error {
    /// The refusal of a verb that the key does not admit.
    pub(super) fn inadmissible(key: &Key, reason: Inadmissible) -> Self {
        let label = key.label.clone();
        match reason {
            Inadmissible::Compromised => Self::Compromised(label),
            Inadmissible::DatesReversed { not_before, not_after } => {
                Self::DatesReversed { label, not_before, not_after }
            }
            Inadmissible::Deleted(Deletion { destroy_at, .. }) => Self::Deleted { label, destroy_at },
            Inadmissible::NotDeleted => Self::NotDeleted(label),
            Inadmissible::SameUser(approval) => Self::SameUser { label, approval },
        }
    }

    /// The refusal of a key that is asked to sign, and is not active.
    pub(super) fn not_active(key: &Key, standing: Standing) -> Self {
        let (label, life) = (key.label.clone(), &key.life);
        match (standing, life.deletion) {
            (_, Some(deletion)) => Self::Deleted { label, destroy_at: deletion.destroy_at },
            (Standing::Compromised, _) => Self::Compromised(label),
            (Standing::PreActive, _) => {
                Self::PreActive { label, not_before: life.not_before.unwrap_or_default() }
            }
            (Standing::Deactivated, _) => {
                Self::Deactivated { label, not_after: life.not_after.unwrap_or_default() }
            }
            (Standing::Active | Standing::Suspended | Standing::Deleted, _) => Self::Disabled(label),
        }
    }
}

/// The user, the program and the service of a peer.
fn named(peer: &PeerUsage) -> String {
    let command = peer.command.as_ref().map(|command| format!(" with {command}")).unwrap_or_default();
    let unit = peer.unit.as_ref().map(|unit| format!(" in {unit}")).unwrap_or_default();
    format!("{}{command}{unit}", Name(peer.uid))
}

/// The command that deletes a key in use after the same waiting period, in seconds.
fn delete_by_force(label: &Label, wait: Option<u64>) -> String {
    let wait = wait.map(|wait| format!(" --after {}", duration(wait))).unwrap_or_default();
    format!("keyward key delete {label} --yes{wait} --force")
}

/// A time in seconds as one word, as an option takes it.
fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string().replace(' ', "")
}

/// A short time ago.
fn minutes(ago: u64) -> String {
    match ago {
        1 => "1 second ago".into(),
        0..60 => format!("{ago} seconds ago"),
        60..120 => "1 minute ago".into(),
        _ => format!("{} minutes ago", ago / 60),
    }
}

/// Other versions of the key with certificates, and the option that names a version.
fn other_versions(certified: &[u32]) -> String {
    if certified.is_empty() {
        return "no other version has a certificate".into();
    }
    let numbers: Vec<_> = certified.iter().map(u32::to_string).collect();
    format!("name a version that has a certificate with --version: {}", numbers.join(", "))
}

/// The command that wraps the keys of a backend by the next master key.
fn rewrap_command(backend: &str) -> String {
    match backend {
        EMBEDDED => "keyward unit rotate".into(),
        _ => format!("keyward key rewrap --backend {backend}"),
    }
}

/// The first labels, and how many more there are.
fn abbreviated(labels: &[Label]) -> String {
    let first: Vec<_> = labels.iter().take(SHOWN).map(Label::as_str).collect();
    let more = match labels.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", first.join(", "))
}

/// Maximum number of labels that an error names.
const SHOWN: usize = 5;
