//! `keyward serve --check-config`: checks the configuration as the daemon does at its start.
//!
//! The caller is often root, and the daemon is another user with credentials of systemd. So this
//! process may be able to read files that the daemon cannot read, and the daemon may be able to
//! read files that this process cannot read.

use core::fmt::Display;
use core::num::NonZeroUsize;
use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::{env, fs, io};

use keyward_client::Address;
use keyward_unit::administration::{Custodian, KeepingSecret};
use keyward_unit::{MasterKey, Unit, Wkid};

use super::failure::Failure;
use super::remarks::Remarks;
use super::{doctor, output, private_network, service_files};
use crate::backend::{Backend, Unusable, host_secrets};
use crate::config::{Config, Sources, drop_in_directory};
use crate::ground::exit;
use crate::ground::master_key::{self, MasterKeyError, Patterns};
use crate::ground::ownership::{self, Name, Owners, OwnershipError};
use crate::ground::unit_state::{KnownUnit, Nowhere, UnitStateFile};
use crate::keys::{self, KeyStore, Look, StoreError, StoreKeyError, Witness, permit};
use crate::serve::migration::{self, MASTER_KEY, STORE_KEY};
use crate::serve::sockets::check_extra;
use crate::serve::upgrade::RUNNING_FORMAT;
use crate::serve::{self, Options};
use crate::serve::{embedded_unit, store_key};

/// Checks the configuration and its files, and prints the configuration with all defaults and the
/// file of each value.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let mut remarks = Remarks::default();
    let checked = check(options, &mut remarks);
    remarks.notes.into_iter().for_each(output::note);
    remarks.warnings.into_iter().for_each(output::warn);
    let (config, sources) = checked?;
    output::print(&sources.shown_in(&config))
}

/// Checks the configuration and its files.
///
/// # Errors
/// The reason why a daemon would not start with the configuration.
pub(super) fn check(options: &Options, remarks: &mut Remarks) -> Result<(Config, Sources), Failure> {
    let (config, sources) = options.read_config_with_sources().map_err(wrong)?;
    sources.skipped.iter().for_each(|file| remarks.note(serve::skipped(file)));
    remarks.warnings.extend(serve::warnings(&config));
    remarks.notes.extend(config.notes());
    private_network::remark(&config, remarks);
    remark_units(&config, remarks);
    check_readers(options, &sources)?;
    // For a store that a daemon has open, or that is missing, the witness file names the master
    // key.
    let noted = Witness::read(&options.state_dir).and_then(|noted| noted.master_key);
    let has_witness = noted.is_some();
    let noted = noted.and_then(|name| name.parse::<Wkid>().ok());
    let altered = |_| wrong(StoreError::AlteredStore(options.state_dir.join(KeyStore::FILE)));
    let (fresh, needed) = match keys::look(&options.state_dir) {
        Look::Old(format) => return Err(wrong(migration::old_format(options, &config, format))),
        Look::New => (!has_witness, noted),
        Look::Used(Some(name)) => (false, Some(name.parse().map_err(altered)?)),
        Look::Used(None) => (false, noted),
    };
    check_running_format(options, &config)?;
    check_places(options, &config, remarks)?;
    // With --dev, the daemon makes its own keys.
    if !options.dev {
        check_keys(options, &config, fresh, needed, remarks)?;
    }
    let owner = migration::other_owner(&options.state_dir);
    for (name, settings) in &config.grep11 {
        for file in settings.files() {
            if let Some((reason, command)) = owner.and_then(|owner| doctor::closed_to_reader(owner, file)) {
                remarks
                    .warn(format_args!("backend {name} needs {}: {reason}; run: {command}", file.display()));
            }
        }
        let backend = Backend::grep11(name, settings).map_err(wrong)?;
        // A daemon starts without the backend, and waits for it.
        if let Err(warning) = backend.check_credentials() {
            remarks.warn(warning);
        }
    }
    Ok((config, sources))
}

/// Warns of grants for services that systemd does not know.
fn remark_units(config: &Config, remarks: &mut Remarks) {
    if !service_files::has_systemd() {
        return;
    }
    let named: BTreeSet<&str> =
        config.grants.iter().filter_map(|grant| grant.who.service.as_deref()).collect();
    let missing: Vec<_> =
        named.into_iter().filter(|unit| !service_files::has_unit(Path::new("/"), unit)).collect();
    if !missing.is_empty() {
        remarks.warn(format_args!(
            "grants name services that this host does not have, so nobody has these grants: {}",
            missing.join(", ")
        ));
    }
}

/// Checks that the user of the daemon can read the files of the configuration, and list the
/// drop-ins: this process may be root, who can read everything.
fn check_readers(options: &Options, sources: &Sources) -> Result<(), Failure> {
    let Some(owner) = migration::other_owner(&options.state_dir) else { return Ok(()) };
    let directory = sources.files.first().map(|file| drop_in_directory(file));
    for path in sources.files.iter().chain(&directory) {
        if let Some((reason, command)) = doctor::closed_to_reader(owner, path) {
            return Err(wrong(format_args!(
                "the daemon runs as {}, and cannot read its configuration: {reason}; run: {command}",
                Name(owner)
            )));
        }
    }
    Ok(())
}

/// Checks that this version opens the key store of the running daemon that wants to execute it.
fn check_running_format(options: &Options, config: &Config) -> Result<(), Failure> {
    let store = options.state_dir.join(KeyStore::FILE);
    match env::var(RUNNING_FORMAT).ok().as_deref() {
        None | Some(keys::THIS_FORMAT) => Ok(()),
        Some(keys::BARE_FORMAT) if permit::is_given(&store) => Ok(()),
        Some(keys::BARE_FORMAT) => Err(wrong(migration::old_format(options, config, keys::BARE_FORMAT))),
        Some(other) => Err(wrong(StoreError::Format(store, other.to_owned()))),
    }
}

/// Checks that other users cannot change the key store or the sockets, and that the secrets of
/// the store are there.
fn check_places(options: &Options, config: &Config, remarks: &mut Remarks) -> Result<(), Failure> {
    let running = env::var(RUNNING_FORMAT).ok();
    let store = options.state_dir.join(KeyStore::FILE);
    let owners = match migration::other_owner(&options.state_dir) {
        Some(owner) if running.is_none() => Owners::OwnOr(owner),
        _ => Owners::Own,
    };
    let directory = |path: &Path| ownership::check_directory(path, owners);
    let state_dir = directory(&options.state_dir).and_then(|()| match running {
        Some(_) => ownership::check_writable(&options.state_dir, 0o700),
        None => Ok(()),
    });
    let places = [
        ("state directory", &options.state_dir, state_dir),
        ("key store", &store, ownership::open_to_write_of(&store, owners).map(drop)),
        ("runtime directory", &options.runtime_dir, directory(&options.runtime_dir)),
    ];
    for (what, path, found) in places {
        // The daemon creates missing files, and this user may not be able to examine them.
        match found.map_err(OwnershipError::into_io) {
            Err(Ok(reason)) if running.is_none() || reason.kind() == io::ErrorKind::NotFound => {}
            Err(Ok(reason)) => return Err(wrong(format_args!("cannot use {}: {reason}", path.display()))),
            Err(Err(reason)) => {
                return Err(wrong(format_args!("cannot use the {what} {}: {reason}", path.display())));
            }
            Ok(()) => {}
        }
    }
    if let Some(warning) = KeyStore::check_secrets(&options.state_dir, owners).map_err(wrong)? {
        remarks.warn(warning);
    }
    for address in config.socket.extra.iter().map(Address::to_string).filter(|at| !at.starts_with('@')) {
        let of = |reason: &dyn Display| format!("the daemon cannot listen on {address}: {reason}");
        match check_extra(Path::new(&address)).map_err(OwnershipError::into_io) {
            // The directory may be created before the daemon starts.
            Err(Ok(reason)) if running.is_none() => remarks.warn(of(&reason)),
            Err(Ok(reason)) => return Err(wrong(of(&reason))),
            Err(Err(reason)) => return Err(wrong(of(&reason))),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Checks the master key and the store key at the places where the daemon looks for them.
fn check_keys(
    options: &Options,
    config: &Config,
    fresh: bool,
    needed: Option<Wkid>,
    remarks: &mut Remarks,
) -> Result<(), Failure> {
    let owner = migration::other_owner(&options.state_dir);
    let file = UnitStateFile::of(&options.state_dir);
    check_note(&options.state_dir, &file, owner, remarks)?;
    let by_service = unseal_secret_of_service(config, owner, remarks);
    let has_key_file = config.embedded.master_key.is_some() || Path::new(MASTER_KEY.1).exists();
    let has_secret = config.embedded.unseal_key.is_some() || config.embedded.unseal_passphrase.is_some();
    let has_master_key = match has_key_file {
        _ if by_service => true,
        false if file.exists() => {
            check_unit(config, &file, owner, remarks)?;
            true
        }
        // The unit makes its master key at its first start.
        false if has_secret && fresh && needed.is_none() => {
            if secrets(config, owner, remarks).is_some_and(|secrets| !secrets.is_empty()) {
                remarks.note(
                    "the embedded unit makes its master key at its first start, and the unseal secret keeps the key",
                );
            }
            true
        }
        _ => check_master_key(config, fresh, needed, &file, owner, remarks)?,
    };
    host_secrets::warnings(config, &options.state_dir).into_iter().for_each(|warning| remarks.warn(warning));
    match store_key::load(config.store_key.as_deref(), &options.state_dir, fresh) {
        Ok(None) if has_master_key || is_passed(STORE_KEY, owner, remarks) => {}
        Ok(None) => remarks.warn(match fresh {
            true => StoreKeyError::NotConfigured,
            false => StoreKeyError::NotNamed(options.state_dir.join(KeyStore::FILE)),
        }),
        Ok(Some(_)) => warn_of_reader(config.store_key.as_deref(), owner, remarks),
        Err(error) => return Err(wrong(error)),
    }
    Ok(())
}

/// Checks the state of a unit without a master key file, and the secrets that unseal the unit.
fn check_unit(
    config: &Config,
    file: &UnitStateFile,
    owner: Option<u32>,
    remarks: &mut Remarks,
) -> Result<(), Failure> {
    let secrets = secrets(config, owner, remarks);
    let text = match file.read() {
        Ok(text) => text,
        Err(error) if owner.is_some() => {
            remarks.note(format_args!("the state of the embedded unit was not checked: {error}"));
            return Ok(());
        }
        Err(error) => return Err(wrong(error)),
    };
    let custodian = looked_at(text.as_deref().map(String::as_str))?;
    let Some(secrets) = secrets else { return Ok(()) };
    let has_secret = !secrets.is_empty();
    match custodian.keep_by(&secrets) {
        Ok(true) => remarks.note("the unseal secret unseals the embedded unit at each start"),
        Ok(false) if custodian.custody().state.current().contents().is_none() => {
            remarks.note("the embedded unit has no master key yet");
        }
        Ok(false) if !has_owners(&custodian) => remarks.warn(MasterKeyError::NotPassed),
        Ok(false) if has_secret => remarks
            .warn("the unseal secret keeps no master key yet: the owners must bring their parts once more"),
        Ok(false) => remarks.note("the owners of the embedded unit bring their parts after each start"),
        Err(error) => remarks.warn(error),
    }
    Ok(())
}

/// Checks the note about the owners of the unit, without which the daemon does not start.
fn check_note(
    state_dir: &Path,
    file: &UnitStateFile,
    owner: Option<u32>,
    remarks: &mut Remarks,
) -> Result<(), Failure> {
    // The files belong to the user of the daemon.
    if owner.is_some() {
        return Ok(());
    }
    let Some(known) = KnownUnit::read(state_dir).map_err(wrong)? else { return Ok(()) };
    let text = if file.exists() { file.read().map_err(wrong)? } else { None };
    if embedded_unit::is_lost(text.as_deref().map(String::as_str), &known) {
        remarks.warn(Unusable::Lost { state_dir: state_dir.to_owned() });
    }
    Ok(())
}

/// The secrets of the configuration. `owner` is the user of the daemon, if that is another one than
/// the user who runs this. `None` if a file belongs to that user: this process does not read it.
fn secrets(config: &Config, owner: Option<u32>, remarks: &mut Remarks) -> Option<Vec<KeepingSecret>> {
    let files = [&config.embedded.unseal_key, &config.embedded.unseal_passphrase];
    let files = || files.into_iter().filter_map(|file| file.as_deref());
    let is_of_daemon =
        |file: &Path| fs::metadata(file).is_ok_and(|found| owner.is_some_and(|owner| found.uid() == owner));
    // This process refuses a file of that user, and the daemon does not.
    for file in files().filter(|file| is_of_daemon(file)) {
        remarks.note(of_daemon(file, owner.unwrap_or_default()));
    }
    let can_read_all = !files().any(is_of_daemon);
    let mut secrets = Vec::new();
    for secret in host_secrets::read(config) {
        match secret {
            Ok(secret) => secrets.push(secret),
            Err(error) if can_read_all => remarks.warn(error),
            Err(_) => {}
        }
    }
    files().filter(|file| !is_of_daemon(file)).for_each(|file| warn_of_reader(Some(file), owner, remarks));
    can_read_all.then_some(secrets)
}

/// The note about a file of the daemon's user that this process does not read.
fn of_daemon(file: &Path, user: u32) -> String {
    format!(
        "{} belongs to {}, the user of the daemon: to check the file, run this command as that user",
        file.display(),
        Name(user)
    )
}

/// A custodian that changes nothing, for the state in a text.
fn looked_at(text: Option<&str>) -> Result<Custodian, Failure> {
    let unit = Arc::new(Unit::sealed(NonZeroUsize::MIN));
    Custodian::open(unit, text, Box::new(Nowhere)).map_err(wrong)
}

/// True if owners have the master key in force.
fn has_owners(custodian: &Custodian) -> bool {
    let custody = custodian.custody();
    custody.state.current().contents().is_some_and(|key| key.origin.needed() > 0)
}

/// True if the unit can have the master key `needed` beside a file with another one: its owners
/// have it, or the state has it, kept by the file.
fn is_kept_by(key: &MasterKey, file: &UnitStateFile, needed: Wkid) -> bool {
    let text = file.read().ok().flatten();
    let custodian = text.and_then(|text| looked_at(Some(text.as_str())).ok());
    let Some(custodian) = custodian else { return false };
    if has_owners(&custodian) {
        return true;
    }
    let opened = custodian.keep_by(&[KeepingSecret::of_key(key)]).is_ok_and(|opened| opened);
    let custody = custodian.custody();
    let registers = [custody.state.current(), custody.state.new_register()];
    opened && registers.iter().filter_map(|register| register.contents()).any(|key| key.wkid == needed)
}

/// Checks the master key. Returns true if the daemon has, or should have, a master key. `needed` is
/// the name of the master key that the key store was made with, if known.
fn check_master_key(
    config: &Config,
    fresh: bool,
    needed: Option<Wkid>,
    state: &UnitStateFile,
    owner: Option<u32>,
    remarks: &mut Remarks,
) -> Result<bool, Failure> {
    let configured = config.embedded.master_key.as_deref();
    let patterns = if fresh { Patterns::Refused } else { Patterns::Accepted };
    let of_store = |error: MasterKeyError| if fresh { error } else { error.of_existing_store() };
    match master_key::load(configured, patterns) {
        Ok(key) => {
            master_key::warning(&key).into_iter().for_each(|warning| remarks.warn(warning));
            warn_of_reader(configured, owner, remarks);
            check_name(&key, needed, state)?;
        }
        Err(MasterKeyError::NotConfigured) if is_passed(MASTER_KEY, owner, remarks) => {
            match master_key::load(Some(Path::new(MASTER_KEY.1)), patterns) {
                Ok(key) => {
                    master_key::warning(&key).into_iter().for_each(|warning| remarks.warn(warning));
                    check_name(&key, needed, state)?;
                }
                Err(MasterKeyError::Read { reason, .. })
                    if reason.kind() == io::ErrorKind::PermissionDenied => {}
                // The daemon reads a copy, to which systemd gives safe permissions.
                Err(open @ (MasterKeyError::Open(_) | MasterKeyError::Refused(_))) => remarks.warn(open),
                Err(error) => return Err(wrong(of_store(error))),
            }
        }
        Err(MasterKeyError::NotConfigured) if !config.grep11.is_empty() => return Ok(false),
        Err(missing @ MasterKeyError::NotConfigured) => match owner {
            Some(owner) => remarks.warn(format_args!(
                "{}; the user of the daemon, {}, must be able to read its file",
                of_store(missing),
                Name(owner)
            )),
            None => remarks.warn(of_store(missing)),
        },
        // The owner is right for the daemon.
        Err(MasterKeyError::Refused(OwnershipError::Owner { path, uid, is_directory: false }))
            if Some(uid) == owner =>
        {
            remarks.note(of_daemon(&path, uid));
        }
        Err(error) => return Err(wrong(of_store(error))),
    }
    Ok(true)
}

/// Refuses a master key that the key store was not made with.
fn check_name(key: &MasterKey, needed: Option<Wkid>, state: &UnitStateFile) -> Result<(), Failure> {
    match needed.filter(|needed| *needed != key.wkid() && !is_kept_by(key, state, *needed)) {
        Some(needed) => Err(wrong(Unusable::Other { needed, has: key.wkid() })),
        None => Ok(()),
    }
}

/// True if systemd probably passes a key file to the daemon as a credential, which this process
/// cannot see.
fn is_passed((credential, file): (&str, &str), owner: Option<u32>, remarks: &mut Remarks) -> bool {
    let Some(owner) = owner.filter(|_| Path::new(file).exists()) else { return false };
    let root = Path::new("/");
    let passes = service_files::credentials(root).iter().any(|passed| passed.name == credential);
    if credential == MASTER_KEY.0 && !passes && !service_files::read(root).is_empty() {
        remarks.warn(format_args!(
            "the service does not pass {file} to the daemon, which needs it as the credential {credential}: run keyward setup"
        ));
        return true;
    }
    remarks.note(format_args!(
        "the daemon runs as {}; with a drop-in of its service, systemd passes {file} to it as the credential {credential}",
        Name(owner)
    ));
    true
}

/// True if systemd passes a secret that unseals the unit to the daemon. This process cannot see the
/// secret.
fn unseal_secret_of_service(config: &Config, owner: Option<u32>, remarks: &mut Remarks) -> bool {
    let settings = &config.embedded;
    let named = [&settings.master_key, &settings.unseal_key, &settings.unseal_passphrase];
    if owner.is_none() || named.iter().any(|file| file.is_some()) {
        return false;
    }
    let passed = service_files::credentials(Path::new("/")).into_iter();
    let Some(passed) = passed.rev().find(|passed| passed.name.starts_with("unseal-")) else { return false };
    remarks.note(format_args!(
        "systemd passes {} to the daemon as the credential {}; this process cannot see whether it opens the embedded unit",
        passed.file.display(),
        passed.name
    ));
    true
}

/// Warns if the user of the daemon, who is not the owner, must be able to read a file that this
/// user has read.
fn warn_of_reader(file: Option<&Path>, owner: Option<u32>, remarks: &mut Remarks) {
    let (Some(file), Some(owner)) = (file, owner) else { return };
    // The daemon trusts a file of root.
    let can_read = |found: &Metadata| found.uid() == 0 && doctor::closed_to_reader(owner, file).is_none();
    if fs::metadata(file).is_ok_and(|found| found.uid() != owner && !can_read(&found)) {
        remarks.warn(format_args!(
            "{} was read as {}, but the daemon runs as {}, who must be able to read it: give the file to that user, or remove it from the configuration and let systemd pass it as a credential",
            file.display(),
            Name(rustix::process::geteuid().as_raw()),
            Name(owner)
        ));
    }
}

fn wrong(reason: impl Display) -> Failure {
    Failure::new(exit::CONFIG, reason)
}
