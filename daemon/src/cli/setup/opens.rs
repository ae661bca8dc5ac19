//! Whether the secret that is there opens the unit of an installation: a service that is started
//! with another secret, or without one, stays sealed.

use core::num::NonZeroUsize;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use keyward_unit::administration::{Custodian, CustodyError, KeepingSecret, MAX_STATE, Register};
use keyward_unit::{MasterKey, Unit, Wkid};
use zeroize::Zeroizing;

use super::choice::Way;
use super::credential;
use super::secret;
use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::ground::ownership;
use crate::ground::text::quoted;
use crate::ground::unit_state::{Nowhere, UnitStateFile};

/// The secret that is in force, or that is to be in force.
pub(super) struct InForce<'a> {
    pub(super) way: Way,
    pub(super) file: &'a Path,
    /// True if the secret is the master key itself, as in installations of earlier versions.
    pub(super) is_master_key: bool,
    /// True if the configuration names the file, so that the daemon reads it. Otherwise systemd
    /// does.
    pub(super) is_of_daemon: bool,
}

/// Checks a secret that is there against the state of the unit. `reader` is the user of the
/// daemon, if that is another one than the user who runs this. `needed` is the master key that the
/// key store was made with, if it is known. Returns a note for a person, if there is one.
///
/// # Errors
/// [`Failure`] if the daemon cannot read the secret, or if the secret does not open the unit.
pub(super) fn check(
    secret: &InForce<'_>,
    state_dir: &Path,
    needed: Option<Wkid>,
    reader: Option<u32>,
) -> Result<Option<String>, Failure> {
    if secret.is_of_daemon {
        secret::check(secret.way, secret.file, reader)?;
    }
    let custodian = match custodian(state_dir) {
        Ok(custodian) => custodian,
        Err(reason) => {
            return Ok(Some(format!("it was not checked whether the secret opens the unit: {reason}")));
        }
    };
    let has_key = custodian.as_ref().is_some_and(has_master_key);
    if !has_key && needed.is_none() {
        return Ok(None);
    }
    let text = text_of(secret)?;
    let opens = match &custodian {
        _ if secret.is_master_key && is_the_key(&text, custodian.as_ref(), needed) => Ok(true),
        Some(custodian) if has_key => opens(custodian, secret.way, &text),
        _ if secret.is_master_key => Err(CustodyError::OtherKeeper),
        _ => return Err(without_state(state_dir)),
    };
    let has_owners = custodian.as_ref().is_some_and(has_owners);
    match opens {
        Ok(true) => Ok(None),
        Ok(false) if has_owners => Ok(Some(
            "the secret keeps no master key yet: restart the daemon, and have the owners bring their parts once more"
                .into(),
        )),
        Ok(false) | Err(CustodyError::OtherKeeper) => Err(other(secret.file, has_owners)),
        Err(error) => Err(Failure::new(exit::CONFIG, error)),
    }
}

/// True if the unit has had a master key. The state is not trusted for more than that.
pub(super) fn has_had_master_key(state_dir: &Path) -> bool {
    custodian(state_dir).ok().flatten().is_none_or(|custodian| has_master_key(&custodian))
}

/// True if owners have the master key in force.
pub(super) fn is_of_owners(state_dir: &Path) -> bool {
    custodian(state_dir).ok().flatten().is_some_and(|custodian| has_owners(&custodian))
}

/// True if the unit has administrators already, so that nobody can claim it.
pub(super) fn is_claimed(state_dir: &Path) -> bool {
    custodian(state_dir).ok().flatten().is_some_and(|custodian| !custodian.custody().state.is_unowned())
}

/// Opens the state of the unit for a look. `None` if there is none. The state belongs to the user
/// of the daemon, so its owner is not checked.
fn custodian(state_dir: &Path) -> Result<Option<Custodian>, String> {
    let path = UnitStateFile::of(state_dir).path().to_owned();
    let failed = |reason: io::Error| format!("cannot read {}: {reason}", path.display());
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    // The full capacity at once: a text that grows leaves copies of itself in memory.
    let mut text = Zeroizing::new(String::with_capacity(MAX_STATE));
    file.take(MAX_STATE as u64).read_to_string(&mut text).map_err(failed)?;
    let unit = Arc::new(Unit::sealed(NonZeroUsize::MIN));
    Custodian::open(unit, Some(&text), Box::new(Nowhere)).map(Some).map_err(|error| error.to_string())
}

fn has_master_key(custodian: &Custodian) -> bool {
    *custodian.custody().state.current() != Register::Empty
}

fn has_owners(custodian: &Custodian) -> bool {
    custodian.custody().state.current().contents().is_some_and(|key| key.origin.needed() > 0)
}

/// The secret, as text.
fn text_of(secret: &InForce<'_>) -> Result<Zeroizing<String>, Failure> {
    let read = File::open(secret.file).and_then(ownership::read_all);
    let bytes = read.map_err(|reason| Failure::reading(secret.file, &reason))?;
    if secret.way == Way::Credential {
        return match secret.is_master_key {
            true => credential::decrypt_master_key(&bytes),
            false => credential::decrypt(&bytes),
        };
    }
    Ok(Zeroizing::new(str::from_utf8(&bytes).unwrap_or_default().trim().to_owned()))
}

/// True if a text is the master key that the unit or the key store needs.
fn is_the_key(text: &str, custodian: Option<&Custodian>, needed: Option<Wkid>) -> bool {
    let Ok(key) = MasterKey::from_hex(text) else { return false };
    let custody = custodian.map(Custodian::custody);
    let has = custody.as_ref().and_then(|custody| custody.state.current().contents()).map(|key| key.wkid);
    has.or(needed).is_none_or(|expected| expected == key.wkid())
}

/// True if a secret opens the master keys that the state keeps. False if it keeps none.
fn opens(custodian: &Custodian, way: Way, text: &str) -> Result<bool, CustodyError> {
    let secret = match way {
        Way::Passphrase => KeepingSecret::passphrase(text.as_bytes()),
        _ => MasterKey::from_hex(text).ok().map(|key| KeepingSecret::of_key(&key)),
    };
    match secret {
        Some(secret) => custodian.keep_by(&[secret]),
        None => Err(CustodyError::OtherKeeper),
    }
}

fn other(file: &Path, has_owners: bool) -> Failure {
    let advice = match has_owners {
        true => {
            "restore the file from its copy; or, if its owners agreed on this secret, restart the daemon, and have them bring their parts: docs/ceremony.md"
        }
        false => "restore the file from its copy, and run keyward setup again",
    };
    Failure::new(
        exit::CONFIG,
        format_args!(
            "the secret in {} does not open the master key of the unit, which another secret keeps; {advice}",
            file.display()
        ),
    )
}

fn without_state(state_dir: &Path) -> Failure {
    let directory = state_dir.join("unit");
    Failure::new(
        exit::CONFIG,
        format_args!(
            "the key store in {} was made with a master key, and {} does not have that key, so no secret can open it; restore that directory from a backup, and run keyward setup again",
            state_dir.display(),
            quoted(&directory)
        ),
    )
}
