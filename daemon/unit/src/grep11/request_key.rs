//! Keys in requests and responses: where a message holds its key.

use keyward_grep11::{KeyBlob, ckr};

use super::error::Error;

/// The key of a request in either dialect. The newer field counts if both are set.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` without a key.
pub(super) fn key_argument(newer: Option<KeyBlob>, older: Vec<u8>) -> Result<Vec<u8>, Error> {
    let newer = newer.and_then(|key| key.key_blobs.into_iter().next()).filter(|blob| !blob.is_empty());
    let blob = newer.unwrap_or(older);
    if blob.is_empty() {
        return Err(Error::new(ckr::CKR_ARGUMENTS_BAD, "the request has no key"));
    }
    Ok(blob)
}

/// A key in the newer form of a response.
pub(super) fn key_blob(blob: &[u8]) -> Option<KeyBlob> {
    Some(KeyBlob { key_blobs: vec![blob.to_vec()], ..KeyBlob::default() })
}

/// Refuses a key of the wrong type for the mechanism.
pub(super) fn wrong_type(needed: &str) -> Error {
    Error::new(ckr::CKR_KEY_TYPE_INCONSISTENT, format!("the mechanism needs {needed}"))
}
