//! Contents of records, before they have their places in the trail.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::Hash;

/// One use of a private key, carried out or not.
///
/// A value has no memory of its own, so that recording a use needs none.
#[derive(Clone, Debug)]
pub struct KeyUse {
    /// When the use ended.
    pub time: SystemTime,
    /// The process that asked.
    pub peer: Peer,
    /// Label as the peer gave it.
    pub key: Name,
    /// Version that was used, or that the peer asked for. 0: the current version.
    pub version: u32,
    /// Beginning of the SHA-256 of the public key, if the version is known.
    pub fingerprint: Option<u64>,
    /// Purpose of the message, if it was classified.
    pub purpose: Option<&'static str>,
    /// Signature scheme by its name in RFC 8446, 4.2.3. `None`: a decryption, or an unknown scheme.
    pub scheme: Option<&'static str>,
    /// SHA-256 of the message that was to be signed, or of the ciphertext.
    pub message: Hash,
    /// Outcome by its name on the socket; `done` is success.
    pub outcome: &'static str,
    /// Request id, as the log and the units show it.
    pub request: u128,
}

/// Process that uses keys. It is looked up once for each connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Effective user id when the process connected.
    pub uid: u32,
    /// Effective group id when the process connected.
    pub gid: u32,
    /// Process id.
    pub pid: i32,
    /// Name of the program (proc_pid_comm(5)), if it could be read.
    pub command: Option<Arc<str>>,
    /// systemd unit, if the process is part of one.
    pub unit: Option<Arc<str>>,
}

/// Step of an administrative act.
#[derive(Clone, Debug)]
pub struct Act {
    /// Name of the act: `keyward.` and then object and verb.
    pub action: &'static str,
    /// How far the act is.
    pub phase: Phase,
    /// The actor.
    pub actor: Actor,
    /// Label of the key, if the act is about one key.
    pub key: Option<String>,
    /// Version of the key, if the act is about one version.
    pub version: Option<u32>,
    /// Further facts about the act, as an object.
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// How far an administrative act is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Nothing is changed yet.
    Begun,
    /// The change is in force.
    Done,
    /// Nothing was changed, for this reason.
    Failed(String),
    /// The actor has no role that allows the act: see [`crate::Trail::record_refused_act`].
    Refused(String),
}

impl Phase {
    /// Name of the phase, as records show it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
        }
    }
}

/// A process on the administrators' socket, as the kernel describes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Actor {
    /// Effective user id when the process connected.
    pub uid: u32,
    /// Process id.
    pub pid: i32,
    /// Name of the role that allowed the act.
    pub role: &'static str,
}

/// The beginning of a text, in a place of fixed size: 128 bytes, as long as the longest label.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Name {
    length: u8,
    bytes: [u8; Self::MAX],
}

impl Name {
    /// Longest name, in bytes. Longer ones lose their end.
    pub const MAX: usize = 128;

    /// The beginning of a text.
    pub fn of(text: &str) -> Self {
        let end = text.floor_char_boundary(Self::MAX);
        let mut bytes = [0; Self::MAX];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Self { length: u8::try_from(end).unwrap_or_default(), bytes }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A time in RFC 3339 with microseconds, in UTC.
pub(crate) struct Time(pub(crate) SystemTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Times before 1970 or after 9999 are no times of records; humantime cannot format them.
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LATEST);
        humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since).fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The end of the year 9999, from 1970.
const LATEST: Duration = Duration::from_secs(253_402_300_799);
