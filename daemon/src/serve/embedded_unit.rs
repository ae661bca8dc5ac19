//! Opens the embedded unit: gives it the master key that a file or a secret of this host has, or
//! leaves it sealed until its owners bring their parts.

use std::sync::Arc;

use keyward_unit::administration::{
    Custodian, Custody, CustodyError, KeepingSecret, Register, State, StateFile,
};
use keyward_unit::{MasterKey, Unit, Wkid};

use crate::backend::{Embedded, Unusable, host_secrets};
use crate::config::Config;
use crate::ground::master_key::{self, MasterKeyError};
use crate::ground::opening::Opening;
use crate::ground::text::quoted;
use crate::ground::unit_state::{KnownUnit, Nowhere, UnitStateFile};
use crate::keys::KeyStore;
use crate::serve::error::ServeError;
use crate::serve::options::Options;
use crate::serve::upgrade;

/// A unit with its custodian, and the reason why it cannot be used with the key store, if it is
/// known.
pub(crate) struct Opened {
    pub(crate) unit: Arc<Unit>,
    pub(crate) custodian: Arc<Custodian>,
    pub(crate) problem: Option<Unusable>,
}

/// Opens the unit. `None` for a daemon that has no embedded unit and never had one.
///
/// # Errors
/// [`ServeError`] if a file cannot be used, or the store cannot be read.
pub(super) fn backend(
    options: &Options,
    config: &Config,
    store: &KeyStore,
) -> Result<Option<Embedded>, ServeError> {
    let file = UnitStateFile::of(&options.state_dir);
    let has_state = file.exists();
    let sources = Sources::read(options, config, store)?;
    if !has_state && !sources.has_any() && !config.grep11.is_empty() {
        return Ok(None);
    }
    let text = file.read()?;
    let text = text.as_deref().map(String::as_str);
    let known = KnownUnit::read(&options.state_dir)?;
    let purpose = match &known {
        Some(known) if is_lost(text, known) => Purpose::Lost,
        _ => Purpose::Serve,
    };
    let opened = sources.open(config, text, Box::new(file), purpose)?;
    if let Some(unit) = &options.unit {
        opened.custodian.serve_grep11(unit.control_points);
    }
    if purpose == Purpose::Serve
        && known.is_some_and(|known| known.owned)
        && opened.custodian.custody().state.is_unowned()
    {
        tracing::warn!(
            "the embedded unit, which had owners, was zeroized: if none of its administrators has done that, another program has replaced its state"
        );
    }
    let problem = match purpose {
        Purpose::Lost => Some(Unusable::Lost { state_dir: options.state_dir.clone() }),
        _ => opened.problem,
    };
    warn_of_secrets(options, config);
    note(&opened.custodian, options, purpose);
    let file = UnitStateFile::of(&options.state_dir);
    if !file.exists() {
        tracing::error!(
            "cannot write the state of the unit in {}: the unit has another identity at the next start; make room on the disk, and restart the daemon",
            file.path().display()
        );
    }
    let embedded =
        Embedded::new(opened.unit, opened.custodian, next_step(options)).map_err(ServeError::Runtime)?;
    embedded.set_opening(host_secrets::opening(options.dev, config));
    embedded.set_needed(store.master_key()?);
    embedded.set_problem(problem);
    Ok(Some(embedded))
}

/// Advice for a unit that has never had a master key.
fn next_step(options: &Options) -> String {
    match options.unit {
        None => "its owners make one with: keyward unit ceremony (docs/ceremony.md); for a unit without owners, run keyward setup; if owners were chosen before, first remove /etc/systemd/system/keyward.service.d/unseal.conf".into(),
        Some(_) => format!(
            "its owners make one with: keyward unit ceremony --runtime-dir {}; for a unit without owners, name a file with --master-key FILE: docs/grep11.md",
            quoted(&options.runtime_dir)
        ),
    }
}

/// Logs the warnings about the secrets of this host.
fn warn_of_secrets(options: &Options, config: &Config) {
    if !options.dev {
        host_secrets::warnings(config, &options.state_dir)
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
    }
}

/// True if the state in a text is not the one of the unit with owners that belongs here.
pub(crate) fn is_lost(text: Option<&str>, known: &KnownUnit) -> bool {
    let state = text.map(|text| State::from_json(text.lines().next().unwrap_or_default()));
    match state {
        // A damaged state is refused by itself.
        Some(Err(_)) => false,
        Some(Ok(state)) => known.is_lost(Some(&state)),
        None => known.is_lost(None),
    }
}

/// Notes the unit for the next start.
fn note(custodian: &Custodian, options: &Options, purpose: Purpose) {
    if purpose == Purpose::Serve
        && let Err(error) = KnownUnit::of(&custodian.custody().state).keep(&options.state_dir)
    {
        tracing::error!("cannot note which unit belongs to the key store: {error}");
    }
}

/// Opens the unit for a check, with the state in a text. Nothing is written. `None` for a daemon
/// that has no embedded unit and never had one.
///
/// # Errors
/// [`ServeError`] if a file has no valid master key, or the store cannot be read.
pub(crate) fn look(
    options: &Options,
    config: &Config,
    store: &KeyStore,
    text: Option<&str>,
) -> Result<Option<Opened>, ServeError> {
    let sources = Sources::read(options, config, store)?;
    if text.is_none() && !sources.has_any() && !config.grep11.is_empty() {
        return Ok(None);
    }
    sources.open(config, text, Box::new(Nowhere), Purpose::Look).map(Some)
}

/// The purpose for which a unit is opened.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Purpose {
    /// To check, without a change.
    Look,
    /// The state of the owners is lost: they alone give the unit a master key.
    Lost,
    Serve,
}

/// The master key and the secrets of this host, and the master key that the key store needs.
struct Sources {
    /// The master key of the file. The error is one that owners, or a file later, can make good.
    file: Result<Option<MasterKey>, MasterKeyError>,
    secrets: Vec<KeepingSecret>,
    /// True if this host has a secret, even one that cannot be read now.
    has_secret: bool,
    needed: Option<Wkid>,
    /// True if no master key has wrapped anything in the store.
    is_new: bool,
}

impl Sources {
    fn read(options: &Options, config: &Config, store: &KeyStore) -> Result<Self, ServeError> {
        let (needed, noted) = (store.master_key()?, store.noted_master_key());
        let is_new = needed.is_none() && noted.is_none();
        let file = match host_secrets::master_key(options.dev, &options.state_dir, config, is_new) {
            // Owners, or a secret, may have the master key.
            Err(MasterKeyError::NotPassed) => Ok(None),
            Err(error @ MasterKeyError::Lost(_)) if needed.is_some() => Err(error),
            Err(MasterKeyError::NotConfigured) => Ok(None),
            Err(error) => {
                return Err(match noted {
                    Some(noted) => ServeError::MasterKey(format!("{error}; the master key is {noted}")),
                    None => error.into(),
                });
            }
            Ok(key) => Ok(key),
        };
        let has_secret = host_secrets::opening(options.dev, config) != Opening::Owners;
        let mut secrets = usable(host_secrets::read(config));
        if let Ok(Some(key)) = &file {
            if let Some(warning) = master_key::warning(key) {
                tracing::error!("{warning}");
            }
            secrets.push(KeepingSecret::of_key(key));
        }
        Ok(Self { file, secrets, has_secret, needed, is_new })
    }

    /// True if a master key or a secret is configured, or the key store needs a master key.
    fn has_any(&self) -> bool {
        !self.secrets.is_empty() || self.needed.is_some() || matches!(self.file, Ok(Some(_)))
    }

    fn open(
        self,
        config: &Config,
        text: Option<&str>,
        file: Box<dyn StateFile>,
        purpose: Purpose,
    ) -> Result<Opened, ServeError> {
        let unit = Arc::new(Unit::sealed(config.embedded.cached_keys));
        let custodian = Arc::new(Custodian::open(Arc::clone(&unit), text, file)?);
        if purpose == Purpose::Serve {
            take_over(&custodian);
        }
        let problem = match purpose {
            Purpose::Lost => None,
            Purpose::Look | Purpose::Serve => self.unseal(&unit, &custodian, purpose)?,
        };
        Ok(Opened { unit, custodian, problem })
    }

    /// Unseals the unit, if the sources of this host can. Returns the reason why the unit cannot be
    /// used with the key store, unless that is only that owners have not brought their parts.
    fn unseal(
        self,
        unit: &Unit,
        custodian: &Custodian,
        purpose: Purpose,
    ) -> Result<Option<Unusable>, ServeError> {
        let Self { file, secrets, has_secret, needed, is_new } = self;
        let (in_file, missing) = match file {
            Ok(Some(key)) => {
                let wkid = key.wkid();
                let has = custodian.custody().state.current().contents().map(|contents| contents.wkid);
                // A file with another master key than the store needs may be a mistake.
                if has.or(needed).is_none_or(|expected| expected == wkid) {
                    unseal_by_file(custodian, key)?;
                }
                (Some(wkid), None)
            }
            Ok(None) => (None, None),
            Err(error) => (None, Some(error)),
        };
        let other_secret = keep(custodian, &secrets, has_secret)?;
        let missing = missing.map(|error| error.to_string()).or(other_secret);
        let custody = custodian.custody();
        let is_first_start = is_new && *custody.state.current() == Register::Empty;
        let is_nobodys = custody.state.is_unowned() && !custody.state.is_erased();
        if is_first_start
            && is_nobodys
            && !secrets.is_empty()
            && in_file.is_none()
            && purpose == Purpose::Serve
        {
            custodian.make_master_key()?;
            tracing::info!("the embedded unit has made its master key, which the unseal secret keeps");
        }
        Ok(problem(unit, &custodian.custody(), needed, in_file, missing))
    }
}

/// Unseals the unit by the master key of a file.
fn unseal_by_file(custodian: &Custodian, key: MasterKey) -> Result<(), ServeError> {
    match custodian.unseal_by_file(key) {
        // The file may be what it was before the owners changed the master key.
        Err(CustodyError::OtherMasterKey { .. }) | Ok(()) => Ok(()),
        Err(error @ CustodyError::NeedsOwners) => {
            tracing::error!("the master key in the file is not used: {error}");
            Ok(())
        }
        // The next start reads the file again.
        Err(error @ CustodyError::Write(_)) => {
            tracing::error!("{error}");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Unseals the unit by secrets of this host, and has the first one keep its master keys. If the
/// host is to have none, the state forgets the master keys. Returns the reason why the secrets do
/// not open what the state keeps.
fn keep(
    custodian: &Custodian,
    secrets: &[KeepingSecret],
    has_secret: bool,
) -> Result<Option<String>, ServeError> {
    let kept = match has_secret || !secrets.is_empty() {
        true => custodian.keep_by(secrets),
        false => custodian.keep_no_more().map(|()| false),
    };
    match kept {
        Ok(true) => {}
        Ok(false) if secrets.is_empty() || *custodian.custody().state.current() == Register::Empty => {}
        Ok(false) => tracing::warn!(
            "the unseal secret keeps no master key yet: it will from the next time that the owners bring their parts"
        ),
        // The owners can still bring their parts.
        Err(error @ CustodyError::OtherKeeper) => {
            tracing::error!("{error}");
            return Ok(Some(error.to_string()));
        }
        // The unit has its master keys, and the state keeps what it kept before.
        Err(error @ CustodyError::Write(_)) => tracing::error!("{error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(None)
}

/// Reads the secrets of this host again, and has the first one keep the master keys. Nothing
/// changes if one of the files cannot be used, or a master key is not in memory. Returns the
/// problems.
pub(super) async fn keep_again(
    custodian: &Arc<Custodian>,
    options: &Options,
    config: &Config,
) -> Vec<String> {
    warn_of_secrets(options, config);
    let mut secrets = Vec::new();
    for secret in host_secrets::read(config) {
        match secret {
            Ok(secret) => secrets.push(secret),
            Err(error) => return vec![error.to_string()],
        }
    }
    if let Ok(Some(key)) = host_secrets::master_key(options.dev, &options.state_dir, config, false) {
        secrets.push(KeepingSecret::of_key(&key));
    }
    let custodian = Arc::clone(custodian);
    // A passphrase is stretched, and the disk may be slow.
    let has_secret = host_secrets::opening(options.dev, config) != Opening::Owners;
    let kept = tokio::task::spawn_blocking(move || match has_secret {
        true => custodian.keep_by(&secrets).map(drop),
        false => custodian.keep_no_more(),
    });
    match kept.await {
        Ok(Ok(())) => Vec::new(),
        Ok(Err(error)) => vec![error.to_string()],
        Err(error) => vec![error.to_string()],
    }
}

fn problem(
    unit: &Unit,
    custody: &Custody,
    needed: Option<Wkid>,
    in_file: Option<Wkid>,
    missing: Option<String>,
) -> Option<Unusable> {
    if let Some(has) = unit.wkid() {
        let needed = needed.filter(|needed| *needed != has && Some(*needed) != unit.other_wkid());
        return needed.map(|needed| Unusable::Other { needed, has });
    }
    let current = custody.state.current().contents();
    if current.is_some_and(|current| current.origin.needed() > 0) {
        return None;
    }
    let needed = needed.or(current.map(|current| current.wkid))?;
    if let Some(has) = in_file.filter(|has| *has != needed) {
        return Some(Unusable::Other { needed, has });
    }
    let why = match (missing, current) {
        (Some(missing), _) => missing,
        (None, Some(_)) => MasterKeyError::NotPassed.to_string(),
        (None, None) => return None,
    };
    Some(Unusable::Missing { needed, why })
}

/// Takes over the master keys of the program before an upgrade, if there are any.
fn take_over(custodian: &Custodian) {
    let taken = match upgrade::handed_over_keys() {
        Ok(None) => return,
        Ok(Some(keys)) => custodian.take_over(&keys).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = taken {
        tracing::error!("cannot take over the master key of the program before: {error}");
    }
}

/// The secrets that could be read. Others are logged: owners can bring their parts all the same.
fn usable(read: Vec<Result<KeepingSecret, MasterKeyError>>) -> Vec<KeepingSecret> {
    let mut secrets = Vec::new();
    for secret in read {
        match secret {
            Ok(secret) => secrets.push(secret),
            Err(error) => tracing::error!("{error}"),
        }
    }
    secrets
}
