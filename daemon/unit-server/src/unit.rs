//! The unit of the server, with its master keys.

use core::num::NonZeroUsize;
use std::path::Path;

use keyward_unit::{MasterKey, Unit};

use super::error::UnitServerError;
use super::options::Options;
use keyward_ground::master_key::{self, MasterKeyError, Patterns};
use keyward_ground::state_dir::{self, KEY_STORE};

/// Opens the unit with the master keys of the options.
///
/// # Errors
/// [`UnitServerError`] if a master key is missing or cannot be used.
pub(crate) fn open(options: &Options) -> Result<Unit, UnitServerError> {
    let master_key = match options.dev {
        true => {
            state_dir::make(&options.state_dir)?;
            // If the directory has keys, a missing master key is lost: do not make another one.
            let may_make = !options.state_dir.join(KEY_STORE).exists();
            master_key::load_dev(&options.state_dir, may_make)?
        }
        // The server does not know the blobs that a master key has wrapped. A key with a pattern is
        // accepted only beside a next master key, by which the blobs can be rewrapped.
        false => {
            let patterns = match options.next_master_key {
                Some(_) => Patterns::Accepted,
                None => Patterns::Refused,
            };
            master_key::load_for_unit(options.master_key.as_deref(), patterns).map_err(advise_rewrap)?
        }
    };
    if let Some(warning) = master_key::warning(&master_key) {
        tracing::error!("{warning}");
    }
    let unit = Unit::new(master_key, CACHED_KEYS);
    Ok(match &options.next_master_key {
        Some(path) => unit.with_next_master_key(&next_master_key(path)?),
        None => unit,
    })
}

fn next_master_key(path: &Path) -> Result<MasterKey, MasterKeyError> {
    master_key::load_for_unit(Some(path), Patterns::Refused)
}

/// Adds the advice to rewrap to the refusal of a key with a pattern.
fn advise_rewrap(error: MasterKeyError) -> UnitServerError {
    match error {
        MasterKeyError::Weak(_) => UnitServerError::Guessable(error),
        error => error.into(),
    }
}

/// Maximum number of unwrapped keys in memory.
const CACHED_KEYS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
