//! The embedded unit and its owners in JSON, for the daemon and for the client.

use serde::{Deserialize, Serialize};

/// The embedded unit.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct OwnedUnitView {
    /// Identity of the unit: 32 hexadecimal digits. A zeroized unit gets another one.
    pub(crate) unit: String,
    /// Fingerprint of the key of the unit, which signs importer keys: 64 hexadecimal digits.
    pub(crate) unit_key: String,
    /// True if the unit serves GREP11: its clients have blobs that it does not know of.
    #[serde(default)]
    pub(crate) serves_grep11: bool,
    /// The control points: `tls`, `strict` or `open`.
    #[serde(default)]
    pub(crate) control_points: String,
    /// False until somebody has claimed the unit.
    pub(crate) owned: bool,
    /// True if the current register has a master key that is not in memory.
    pub(crate) sealed: bool,
    /// The way in which the unit gets its master key after a start: `owners`, `credential`,
    /// `passphrase`, `unprotected` or `dev`.
    #[serde(default)]
    pub(crate) opening: String,
    /// True if the next start cannot open the unit in that way.
    #[serde(default)]
    pub(crate) next_start_fails: bool,
    /// Counter of the next command.
    pub(crate) next_counter: u64,
    pub(crate) signature_threshold: u8,
    pub(crate) revocation_threshold: u8,
    pub(crate) administrators: Vec<PersonView>,
    pub(crate) current: RegisterView,
    pub(crate) new: RegisterView,
    /// Name of the master key of the key store, while the unit has none in force.
    #[serde(default)]
    pub(crate) store_needs: Option<String>,
    /// Parts and shares that the unit waits for.
    pub(crate) awaited: Vec<AwaitedView>,
}

/// An administrator of a unit.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PersonView {
    pub(crate) name: String,
    /// Identity: 64 hexadecimal digits.
    pub(crate) ski: String,
}

/// A register of a unit.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RegisterView {
    /// `empty`, `uncommitted`, `committed` or `valid`.
    pub(crate) state: String,
    /// Verification pattern of the master key: 64 hexadecimal digits.
    pub(crate) pattern: Option<String>,
    /// Name of the master key in blobs.
    pub(crate) wkid: Option<String>,
    /// Number of parts or shares that make the master key.
    pub(crate) needed: Option<usize>,
    /// Patterns of all parts or shares.
    pub(crate) parts: Vec<String>,
    /// Files of the shares, if the unit has made them.
    pub(crate) shares: Vec<ShareView>,
}

/// Parts or shares that a unit waits for.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct AwaitedView {
    /// `current` or `new`.
    pub(crate) register: String,
    /// Number of parts or shares that make the master key.
    pub(crate) needed: usize,
    /// Patterns of all parts or shares.
    pub(crate) parts: Vec<String>,
    /// Patterns of those that have arrived.
    pub(crate) arrived: Vec<String>,
}

/// The importer key of a unit, signed by the unit.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ImporterView {
    pub(crate) importer: String,
}

/// The claim secret of a unit; none if somebody owns the unit.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ClaimView {
    pub(crate) secret: Option<String>,
}

/// Commands that a unit has carried out.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct CommandsView {
    pub(crate) done: Vec<CommandView>,
}

/// A command that a unit has carried out.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct CommandView {
    pub(crate) command: String,
    pub(crate) counter: u64,
    /// Shares of a master key that the unit has made.
    pub(crate) shares: Vec<ShareView>,
}

/// A share, encrypted to its owner.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ShareView {
    /// Name of the owner.
    pub(crate) owner: String,
    /// The file for the owner.
    pub(crate) file: String,
}

/// A part or share that a unit has taken.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TakenView {
    /// `current` or `new`.
    pub(crate) register: String,
    /// Pattern of the part or share.
    pub(crate) pattern: String,
    /// Number of parts or shares that are still missing.
    pub(crate) missing: usize,
}

/// A unit that was sealed.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct SealedView {
    pub(crate) sealed: bool,
}
