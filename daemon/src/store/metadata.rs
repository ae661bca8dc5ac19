//! Names of the metadata of a key store, and the values that more than one module knows. All of
//! them are part of the format of the store.

/// Format of the store: [`OLD_FORMAT`], [`BARE_FORMAT`] or [`THIS_FORMAT`].
pub(crate) const FORMAT: &str = "format";
/// MAC of all other metadata and of the root of the index, in base64.
pub(crate) const SEAL: &str = "seal";
/// Number of entries in the index.
pub(crate) const ENTRIES: &str = "entries";
/// Store key, wrapped by the master key of the embedded unit, in base64.
pub(crate) const STORE_KEY: &str = "store-key";
/// Name of the store key: 32 hexadecimal digits that are derived from the key.
pub(crate) const STORE_KEY_NAME: &str = "store-key-name";
/// Name of the master key of the embedded unit.
pub(crate) const WKID: &str = "wkid";
/// Key that signs the audit trail: an object in JSON with backend, public key and blob.
pub(crate) const AUDIT_KEY: &str = "audit-key";
/// Prefix of the metadata that name the master key of a remote backend. The name of the backend
/// follows.
pub(crate) const REMOTE_WKID: &str = "wkid:";
/// Prefix of the metadata that name the next master key of a backend. A colon and the name of the
/// backend follow.
pub(crate) const NEXT_WKID: &str = "next-wkid";
/// [`YES`] if the store belongs to a daemon that runs with `--dev`, [`NO`] if not.
pub(crate) const DEV: &str = "dev";
/// Last revision that was given to a record, in decimal digits.
pub(crate) const REVISION: &str = "revision";
/// Time when the store was made, in seconds since 1970, in decimal digits.
pub(crate) const CREATED: &str = "created";
/// Shred secret that wraps new blobs: its number, a space and its id.
pub(crate) const SECRET: &str = "shred-secret";
/// Shred secret before, in the same form, while blobs are wrapped anew.
pub(crate) const OLD_SECRET: &str = "shred-secret-old";
/// [`YES`] once the shred secret before wraps nothing any more, and its file is being erased.
pub(crate) const OLD_UNUSED: &str = "shred-secret-old-unused";
/// Id of a shred secret whose file is being written, and that wraps nothing yet.
pub(crate) const NEW_SECRET: &str = "shred-secret-new";
/// [`YES`] if a key was destroyed since the shred secret in force was made.
pub(crate) const DESTROYED: &str = "shred-due";
/// Last recovery file: the number and the id of its secret, the time when it was made in seconds
/// since 1970, and [`YES`] if the file has an old secret, too.
pub(crate) const RECOVERY: &str = "shred-recovery";
/// [`YES`] once the file of the progress of renewals was written: its absence is a loss from then
/// on.
pub(crate) const PROGRESS: &str = "renewals";

/// Format of the stores of Keyward before records had MACs.
pub(crate) const OLD_FORMAT: &str = "1";
/// Format of the stores of Keyward before shred secrets wrapped the blobs.
pub(crate) const BARE_FORMAT: &str = "2";
/// Format of the stores of this version of Keyward.
pub(crate) const THIS_FORMAT: &str = "3";

pub(crate) const YES: &str = "yes";
pub(crate) const NO: &str = "no";
