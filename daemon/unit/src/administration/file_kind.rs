//! Kinds of the files of owners and administrators, and the reason why one of them cannot be used.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use super::person::PersonKey;

/// Reason why a file of an owner or an administrator cannot be used. The errors quote nothing of
/// the file.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum InvalidFile {
    /// The file is damaged, or of another version.
    #[error("the file is damaged, or of another version of the program")]
    Damaged,
    /// The share was made for another owner.
    #[error("the share was not made for the owner of this key")]
    NotOfThisOwner,
    /// The file is of another kind.
    #[error("{}", told(needed, *found))]
    Other {
        /// The kind that is needed.
        needed: &'static str,
        /// The kind of the file, if it is one of Keyward.
        found: Option<&'static str>,
    },
    /// The passphrase is wrong, or the file was changed.
    #[error("the passphrase is wrong, or the file was changed")]
    Passphrase,
}

impl InvalidFile {
    /// The reason why a text is not a file of the kind `needed`.
    pub(super) fn instead_of(needed: &'static str, text: &str) -> Self {
        match kind_of(text) {
            Some(found) if found == needed => Self::Damaged,
            found => Self::Other { needed, found },
        }
    }
}

/// The kind of a file of Keyward.
fn kind_of(text: &str) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct Marked {
        keyward: String,
    }
    if let Some(Marked { keyward }) = from_json(text) {
        return KINDS.iter().map(|(kind, _)| *kind).find(|kind| *kind == keyward);
    }
    let first = text.lines().next().unwrap_or_default();
    if let Some(kind) = first.strip_prefix("keyward ") {
        return KINDS.iter().map(|(kind, _)| *kind).find(|known| *known == kind);
    }
    let key = first.split_once(' ').and_then(|(_, key)| STANDARD.decode(key).ok())?;
    PersonKey::from_spki(&key).ok().map(|_| PUBLIC)
}

/// Reads JSON of at most [`MAX_FILE`] bytes.
pub(super) fn from_json<'t, T: Deserialize<'t>>(text: &'t str) -> Option<T> {
    (text.len() <= MAX_FILE).then(|| serde_json::from_str(text).ok())?
}

/// The message of [`InvalidFile::Other`].
fn told(needed: &str, found: Option<&str>) -> String {
    let in_words =
        |kind: &str| KINDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, words)| *words);
    let Some(found) = found else {
        return format!("this file is not {}", in_words(needed));
    };
    let advice = match (needed, found) {
        ("part 1", SHARE) => ": add --owner-key with the file of the key of its owner",
        (SHARE, "part 1") => ": leave --owner-key out",
        ("part 1" | SHARE, "encrypted part 1") => ": bring it with: keyward unit unseal --encrypted FILE",
        _ => "",
    };
    format!("this file is {}, and {} is needed{advice}", in_words(found), in_words(needed))
}

/// Kinds of files, and their names for people.
const KINDS: [(&str, &str); 8] = [
    ("administrator key 1", "the key of an administrator"),
    ("owner key 1", "the key of an owner of shares"),
    ("part 1", "a part"),
    (SHARE, "a share"),
    ("encrypted part 1", "an encrypted part"),
    ("unit command 1", "a command"),
    ("unit importer 1", "an importer key"),
    (PUBLIC, "the public file (.pub) of a person"),
];
/// The kind of a public file.
const PUBLIC: &str = "public file";
/// The kind of a share.
pub(super) const SHARE: &str = "share 1";
/// Longest file, in bytes. The file of an administrator has some 1,000.
pub(super) const MAX_FILE: usize = 8192;
