//! `keyward serve --migrate-store`: migrates a key store of an older format.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{env, fs, io};

use keyward_unit::Unit;
use nix::unistd::{Uid, User};

use crate::admin::client::AdminClient;
use crate::backend::host_secrets;
use crate::config::Config;
use crate::ground::hardening;
use crate::ground::master_key;
use crate::ground::ownership::{Name, SERVICE};
use crate::ground::state_dir;
use crate::ground::text::quoted;
use crate::keys::{
    self, Format, KeyStore, MigrationError, OldStore, StoreError, StoreKey, StoreKeyError, permit,
};
use crate::serve::backends::check_dev;
use crate::serve::error::ServeError;
use crate::serve::options::Options;
use crate::serve::store_key;

/// Migrates the key store of a state directory. Uses the master key and the store key with which
/// the daemon would start. Returns a report for a person.
///
/// # Errors
/// [`ServeError`] with the reason. The store is unchanged after an error.
pub(crate) fn migrate(options: &Options) -> Result<String, ServeError> {
    let config = options.read_config()?;
    hardening::harden().map_err(ServeError::Hardening)?;
    let file = options.state_dir.join(KeyStore::FILE);
    if file.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(ServeError::NoStore(options.state_dir.clone()));
    }
    refuse_other_user(options, &config)?;
    state_dir::check(&options.state_dir)?;
    let store = match OldStore::open(&options.state_dir) {
        Ok(Format::First(store)) => store,
        Ok(Format::Second) => {
            finish(&file);
            return permitted(&file, String::new());
        }
        Ok(Format::Present) => {
            finish(&file);
            return Ok(format!("the key store {} has the format of this version already\n", file.display()));
        }
        // Only the daemon can read the format. A daemon of this format says how its purges are.
        Err(StoreError::InUse(_)) => {
            let status = AdminClient::new(&options.runtime_dir).and_then(|admin| admin.status());
            if status.is_ok_and(|status| status.purges.is_some()) {
                return Ok(format!(
                    "the key store {} has the format of this version already\n",
                    file.display()
                ));
            }
            let in_use = "a daemon has the key store open, so its format was not checked; ";
            return permitted(&file, in_use.into());
        }
        Err(error) => return Err(error.into()),
    };
    check_dev(options, store.is_dev()?)?;
    let master_key =
        host_secrets::master_key(options.dev, &options.state_dir, &config, store.wkid()?.is_none())?;
    let warning = master_key.as_ref().and_then(master_key::warning).map(|text| format!("warning: {text}\n"));
    let unit = master_key.map(|key| Unit::new(key, config.embedded.cached_keys));
    let has = unit.as_ref().and_then(Unit::wkid).map(|wkid| wkid.to_string());
    if let (Some(has), Some(wkid)) = (has, store.wkid()?)
        && has != wkid
    {
        return Err(ServeError::Migration(format!(
            "cannot migrate the key store {}: it was made with master key {wkid}, but master key {has} is configured; set master-key to the file of the former",
            store.path().display()
        )));
    }
    let key = match (store_key::load_for(options, &config, true)?, &unit) {
        (Some(key), _) => key,
        (None, Some(_)) => StoreKey::generate().ok_or(StoreKeyError::NoRandomness)?,
        (None, None) => return Err(StoreKeyError::NotConfigured.into()),
    };
    let wrapped = unit.as_ref().map(|unit| keys::unlock::wrap(unit, &key)).transpose()?;
    let migrated = keys::migrate(&store, &key, wrapped.as_deref()).map_err(|error| match error {
        MigrationError::Store(error) => error.into(),
        error => ServeError::Migration(error.to_string()),
    })?;
    // From now on the store authenticates its keys. So the report lists the keys, and a person can
    // check that nobody has changed them before.
    let keys = migrated.keys.iter().map(|key| {
        let uses: Vec<_> = key.uses.iter().map(|key_use| key_use.name()).collect();
        format!("  {}: {}, {}\n", key.label, key.state.name(), uses.join(", "))
    });
    permit::give(&file)?;
    Ok(format!(
        "{}migrated: the key store {} now authenticates its {} keys, in this state:\n{}A copy of the old key store is in {}: keep the copy until the keys have signed, and protect it like the store\nThe next start wraps the keys with a secret of the store\n",
        warning.unwrap_or_default(),
        store.path().display(),
        migrated.keys.len(),
        keys.collect::<String>(),
        migrated.copy.display()
    ))
}

/// Permits the migration of a store of the second format, and says what the next start does.
fn permitted(store: &Path, checked: String) -> Result<String, ServeError> {
    permit::give(store)?;
    Ok(format!(
        "{checked}permitted: the next start of the daemon wraps the keys of a store of format {} with a secret, and writes the key store {} anew, for which there must be room twice; an earlier version of keyward does not open the new file: to be able to go back, make a copy of the old file first, and protect the copy like the store\n",
        keys::BARE_FORMAT,
        store.display()
    ))
}

/// Completes a migration that was interrupted at its last step.
pub(crate) fn finish(store: &Path) {
    if let Err(error) = keys::finish(store) {
        tracing::warn!(
            "cannot rename the copy of the key store that its migration made, so a second migration would not be refused: {error}"
        );
    }
}

/// Returns the message for a store of an older format: why the daemon does not start, and what to
/// do.
pub(crate) fn old_format(options: &Options, config: &Config, format: &'static str) -> String {
    let store = options.state_dir.join(KeyStore::FILE);
    if format == keys::OLD_FORMAT && keys::was_migrated(&store) {
        return keys::migrated_before(&store);
    }
    let own = rustix::process::geteuid().as_raw();
    let owner = fs::symlink_metadata(&store).map_or(own, |found| found.uid());
    // To permit a migration takes no key.
    let (credentials, copy) = match format {
        keys::OLD_FORMAT => (credentials(options, config, owner), ""),
        _ => (
            Vec::new(),
            "make a copy of the file first, since earlier versions do not open the new one, and ",
        ),
    };
    let advice = command(options, owner, &credentials);
    format!(
        "{}; if this version of keyward has run here before, the file was exchanged: restore the store from a backup. After an upgrade of keyward, {copy}migrate the store: {advice}",
        StoreError::OldFormat(store, format)
    )
}

/// Returns the credentials that the command needs. A shell has no credentials; the service gets its
/// credentials from the files that its unit names.
fn credentials(options: &Options, config: &Config, owner: u32) -> Vec<(&'static str, &'static str)> {
    let is_own = owner == rustix::process::geteuid().as_raw();
    let directory = env::var_os("CREDENTIALS_DIRECTORY");
    let is_passed = |name: &str, file: &str| match is_own {
        true => directory.as_ref().is_some_and(|dir| Path::new(dir).join(name).exists()),
        false => Path::new(file).exists(),
    };
    let configured = [config.embedded.master_key.is_some(), config.store_key.is_some()];
    let needed =
        CREDENTIALS.into_iter().zip(configured).filter(|(_, configured)| !configured && !options.dev);
    needed.map(|(credential, _)| credential).filter(|(name, file)| is_passed(name, file)).collect()
}

/// Returns the shell command that migrates the store as the user who owns the store.
fn command(options: &Options, uid: u32, credentials: &[(&str, &str)]) -> String {
    let mut words = vec!["keyward serve --migrate-store".to_owned()];
    // Absolute, because systemd-run starts a command in the root directory.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    words.push(format!("--state-dir {}", quoted(&absolute(&options.state_dir))));
    words.extend(options.config.as_ref().map(|config| format!("--config {}", quoted(&absolute(config)))));
    words.extend(options.dev.then(|| "--dev".to_owned()));
    let words = words.join(" ");
    let passed = credentials.iter().map(|(name, file)| format!("-p LoadCredential={name}:{file} "));
    let passed: Vec<_> = passed.collect();
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let is_service = user.as_ref().is_some_and(|user| user.name == SERVICE);
    if passed.is_empty() && !is_service {
        return match rustix::process::geteuid().as_raw() == uid {
            true => format!("run, as the user who ran this: {words}"),
            false => format!("run, as {}: {words}", Name(uid)),
        };
    }
    let user = user.map_or(uid.to_string(), |user| user.name);
    format!("run, as root: systemd-run --pipe --wait -p User={user} {}{words}", passed.concat())
}

/// Returns the owner of a state directory, if the owner is not the user of this process. For root,
/// the owner of a missing directory is the user of the service.
pub(crate) fn other_owner(state_dir: &Path) -> Option<u32> {
    let own = rustix::process::geteuid().as_raw();
    let paths = [state_dir.join(KeyStore::FILE), state_dir.to_owned()];
    let mut found = paths.iter().filter_map(|path| fs::symlink_metadata(path).ok());
    let owner = found.next().map(|found| found.uid());
    let service = || User::from_name(SERVICE).ok().flatten().filter(|_| own == 0);
    owner.or_else(|| service().map(|user| user.uid.as_raw())).filter(|owner| *owner != own)
}

/// Refuses to migrate the store of another user: the daemon of that user could not open the
/// migrated store any more.
fn refuse_other_user(options: &Options, config: &Config) -> Result<(), ServeError> {
    let file = options.state_dir.join(KeyStore::FILE);
    let own = rustix::process::geteuid().as_raw();
    for path in [&options.state_dir, &file] {
        let Ok(found) = fs::symlink_metadata(path) else { continue };
        if found.uid() == own {
            continue;
        }
        return Err(ServeError::OtherUser(format!(
            "refused to migrate the key store {}: {} belongs to {}, and the daemon of that user could not open the migrated store; stop the daemon, and {}",
            file.display(),
            path.display(),
            Name(found.uid()),
            command(options, found.uid(), &credentials(options, config, found.uid()))
        )));
    }
    Ok(())
}

/// Credentials that drop-ins of the service pass.
const CREDENTIALS: [(&str, &str); 2] = [MASTER_KEY, STORE_KEY];
/// Name of the credential with the master key, and its file.
pub(crate) const MASTER_KEY: (&str, &str) = ("master-key", "/etc/keyward/master.key");
/// Name of the credential with the store key, and its file.
pub(crate) const STORE_KEY: (&str, &str) = ("store-key", "/etc/keyward/store.key");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_the_options_of_the_daemon() {
        let options = Options {
            unit: None,
            config: Some("/etc/my keyward.toml".into()),
            state_dir: "/var/lib/keyward".into(),
            runtime_dir: "/run/keyward".into(),
            dev: true,
        };
        let words = "keyward serve --migrate-store --state-dir /var/lib/keyward --config '/etc/my keyward.toml' --dev";
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(command(&options, own, &[]), format!("run, as the user who ran this: {words}"));
        assert_eq!(command(&options, 7001, &[]), format!("run, as user id 7001: {words}"));
        let relative = Options { state_dir: "state".into(), config: None, ..options.clone() };
        let here = env::current_dir().unwrap();
        let words_here = format!("--state-dir {} --dev", quoted(&here.join("state")));
        assert!(command(&relative, 7001, &CREDENTIALS[..1]).ends_with(&words_here));
        assert_eq!(
            command(&options, 7001, &CREDENTIALS[..1]),
            format!(
                "run, as root: systemd-run --pipe --wait -p User=7001 -p LoadCredential=master-key:/etc/keyward/master.key {words}"
            )
        );
    }
}
