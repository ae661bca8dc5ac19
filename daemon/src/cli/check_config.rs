//! `keyward serve --check-config`: what the daemon would say of its configuration, without starting
//! it.
//!
//! The caller is often root, and the daemon is another user with credentials of systemd. So this
//! process may be able to read files that the daemon cannot, and the other way round.

use core::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{env, fs, io};

use keyward_client::Address;
use keyward_unit::MasterKey;

use super::failure::Failure;
use super::{output, private_network};
use crate::backend::{Backend, Unusable};
use crate::config::Config;
use crate::ground::exit;
use crate::ground::master_key::{self, MasterKeyError, Patterns};
use crate::ground::ownership::{self, Name, Owners, OwnershipError};
use crate::keys::{self, KeyStore, Look, StoreError, Witness};
use crate::serve::migration::{self, MASTER_KEY, STORE_KEY};
use crate::serve::sockets::check_extra;
use crate::serve::store_key::{self, StoreKeyError};
use crate::serve::upgrade::RUNNING_FORMAT;
use crate::serve::{self, Options};

/// Checks the configuration and the files that it names, and prints it with all defaults.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let mut remarks = Remarks::default();
    let checked = check(options, &mut remarks);
    remarks.notes.into_iter().for_each(output::note);
    remarks.warnings.into_iter().for_each(output::warn);
    output::print(&checked?.to_effective_toml())
}

/// What there is to say of a configuration, whether or not it can be used.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// What is doubtful.
    pub(super) warnings: Vec<String>,
    /// What is in order, and good to know.
    pub(super) notes: Vec<String>,
}

impl Remarks {
    pub(super) fn warn(&mut self, text: impl Display) {
        self.warnings.push(text.to_string());
    }

    pub(super) fn note(&mut self, text: impl Display) {
        self.notes.push(text.to_string());
    }
}

/// Checks the configuration and the files that it names.
///
/// # Errors
/// Why a daemon would not start with it.
pub(super) fn check(options: &Options, remarks: &mut Remarks) -> Result<Config, Failure> {
    let config = serve::read_config(options.config.as_deref()).map_err(wrong)?;
    remarks.warnings.extend(serve::warnings(&config));
    remarks.notes.extend(config.notes());
    private_network::remark(&config, remarks);
    // Of a store that a daemon has open, or that is gone, a note says which master key it needs.
    let noted = Witness::read(&options.state_dir).and_then(|noted| noted.master_key);
    let (fresh, needed) = match keys::look(&options.state_dir) {
        Look::Old => return Err(wrong(migration::old_format(options, &config))),
        Look::New => (noted.is_none(), noted),
        Look::Used(needed) => (false, needed.or(noted)),
    };
    check_places(options, &config, remarks)?;
    // With --dev there are others.
    if !options.dev {
        check_keys(options, &config, fresh, needed.as_deref(), remarks)?;
    }
    for (name, settings) in &config.grep11 {
        let backend = Backend::grep11(name, settings).map_err(wrong)?;
        // A daemon starts without, and waits for it.
        if let Err(warning) = backend.check() {
            remarks.warn(warning);
        }
    }
    Ok(config)
}

/// Looks whether others can get at the key store, or at the sockets.
fn check_places(options: &Options, config: &Config, remarks: &mut Remarks) -> Result<(), Failure> {
    let running = env::var(RUNNING_FORMAT).ok();
    let store = options.state_dir.join(KeyStore::FILE);
    if let Some(format) = running.as_deref().filter(|format| *format != keys::THIS_FORMAT) {
        return Err(wrong(StoreError::Format(store, format.to_owned())));
    }
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
        // The daemon makes what is not there; and who asks may not be able to look.
        match found.map_err(OwnershipError::into_io) {
            Err(Ok(reason)) if running.is_none() || reason.kind() == io::ErrorKind::NotFound => {}
            Err(Ok(reason)) => return Err(wrong(format_args!("cannot use {}: {reason}", path.display()))),
            Err(Err(reason)) => {
                return Err(wrong(format_args!("cannot use the {what} {}: {reason}", path.display())));
            }
            Ok(()) => {}
        }
    }
    for address in config.socket.extra.iter().map(Address::to_string).filter(|at| !at.starts_with('@')) {
        let of = |reason: &dyn Display| format!("the daemon cannot listen on {address}: {reason}");
        match check_extra(Path::new(&address)).map_err(OwnershipError::into_io) {
            // It may be made until then.
            Err(Ok(reason)) if running.is_none() => remarks.warn(of(&reason)),
            Err(Ok(reason)) => return Err(wrong(of(&reason))),
            Err(Err(reason)) => return Err(wrong(of(&reason))),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Looks for the master key and the store key where the daemon would find them.
fn check_keys(
    options: &Options,
    config: &Config,
    fresh: bool,
    needed: Option<&str>,
    remarks: &mut Remarks,
) -> Result<(), Failure> {
    let owner = migration::other_owner(&options.state_dir);
    let has_master_key = check_master_key(config, fresh, needed, owner, remarks)?;
    match store_key::load(config.store_key.as_deref(), &options.state_dir, fresh) {
        Ok(None) if has_master_key || is_passed(STORE_KEY, owner, remarks) => {}
        Ok(None) => remarks.warn(match fresh {
            true => StoreKeyError::NotConfigured,
            false => StoreKeyError::NotNamed(options.state_dir.join(KeyStore::FILE)),
        }),
        Ok(Some(_)) => tell_of_reader(config.store_key.as_deref(), owner, remarks),
        Err(error) => return Err(wrong(error)),
    }
    Ok(())
}

/// Whether the daemon has, or should have, a master key. `needed` is the name of the one that the
/// key store was made with, if that is known.
fn check_master_key(
    config: &Config,
    fresh: bool,
    needed: Option<&str>,
    owner: Option<u32>,
    remarks: &mut Remarks,
) -> Result<bool, Failure> {
    let configured = config.embedded.master_key.as_deref();
    let patterns = if fresh { Patterns::Refused } else { Patterns::Accepted };
    let of_store = |error: MasterKeyError| if fresh { error } else { error.of_existing_store() };
    let next = master_key::load_next(config.embedded.next_master_key.as_deref());
    if let Err(error) = &next {
        output::warn(error);
    }
    if let (Ok(Some(next)), Some(needed)) = (&next, needed)
        && next.wkid().to_string() == needed
    {
        // Whatever becomes of the other one, the daemon starts with this.
        output::note("the next master key is the one of the key store: name its file as master-key");
        return Ok(true);
    }
    match master_key::load(configured, patterns) {
        Ok(key) => {
            master_key::warning(&key).into_iter().for_each(|warning| remarks.warn(warning));
            tell_of_reader(configured, owner, remarks);
            check_name(&key, needed)?;
        }
        Err(MasterKeyError::NotConfigured) if is_passed(MASTER_KEY, owner, remarks) => {
            let (_, file) = MASTER_KEY;
            match master_key::load(Some(Path::new(file)), patterns) {
                Ok(key) => {
                    master_key::warning(&key).into_iter().for_each(|warning| remarks.warn(warning));
                    check_name(&key, needed)?;
                }
                Err(MasterKeyError::Read { reason, .. })
                    if reason.kind() == io::ErrorKind::PermissionDenied => {}
                // The daemon has a copy, which systemd closes.
                Err(open @ (MasterKeyError::Open(_) | MasterKeyError::Refused(_))) => remarks.warn(open),
                Err(error) => return Err(wrong(of_store(error))),
            }
        }
        Err(MasterKeyError::NotConfigured) if !config.grep11.is_empty() => return Ok(false),
        Err(missing @ MasterKeyError::NotConfigured) => match owner {
            Some(owner) => remarks.warn(format_args!(
                "{}; {} must be able to read it, as the user of the daemon",
                of_store(missing),
                Name(owner)
            )),
            None => remarks.warn(of_store(missing)),
        },
        // It is as it should be, for the daemon.
        Err(MasterKeyError::Refused(OwnershipError::Owner { path, uid, is_directory: false }))
            if Some(uid) == owner =>
        {
            remarks.note(format_args!(
                "{} belongs to {}, as whom the daemon runs: run this as that user to have it looked at",
                path.display(),
                Name(uid)
            ));
        }
        Err(error) => return Err(wrong(of_store(error))),
    }
    Ok(true)
}

/// Refuses a master key that the key store was not made with.
fn check_name(key: &MasterKey, needed: Option<&str>) -> Result<(), Failure> {
    match needed.filter(|needed| *needed != key.wkid().to_string()) {
        Some(needed) => Err(wrong(Unusable::Other { needed: needed.to_owned(), has: key.wkid() })),
        None => Ok(()),
    }
}

/// Whether systemd is taken to pass a key to the daemon, of which nothing is to be seen from here.
fn is_passed((credential, file): (&str, &str), owner: Option<u32>, remarks: &mut Remarks) -> bool {
    let Some(owner) = owner.filter(|_| Path::new(file).exists()) else { return false };
    remarks.note(format_args!(
        "the daemon runs as {}, to whom systemd passes {file} as the credential {credential}, if its unit file is that of the package",
        Name(owner)
    ));
    true
}

/// Says that another user must be able to read a file that this one has read.
fn tell_of_reader(file: Option<&Path>, owner: Option<u32>, remarks: &mut Remarks) {
    let (Some(file), Some(owner)) = (file, owner) else { return };
    if fs::metadata(file).is_ok_and(|found| found.uid() != owner) {
        remarks.warn(format_args!(
            "{} was read by {}, and the daemon runs as {}, who must be able to read it: give the file to that user, or take it out of the configuration and have systemd pass it as a credential",
            file.display(),
            Name(rustix::process::geteuid().as_raw()),
            Name(owner)
        ));
    }
}

fn wrong(reason: impl Display) -> Failure {
    Failure::new(exit::CONFIG, reason)
}
