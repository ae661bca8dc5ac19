//! `keyward serve --migrate-store`: a key store of an older format becomes one of this format.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{env, fs, io};

use keyward_unit::Unit;
use nix::unistd::{Uid, User};

use crate::config::Config;
use crate::ground::hardening;
use crate::ground::master_key;
use crate::ground::ownership::{Name, SERVICE};
use crate::ground::state_dir;
use crate::ground::text::quoted;
use crate::keys::{self, KeyStore, MigrationError, OldStore, StoreError, StoreKey};
use crate::serve::embedded_unit;
use crate::serve::store_key::{self, StoreKeyError};
use crate::serve::{self, Options, ServeError};

/// Migrates the key store of a state directory, with the keys that the daemon would start with. Says what was done.
///
/// # Errors
/// [`ServeError`] says what is in the way; the store is as it was then.
pub(crate) fn migrate(options: &Options) -> Result<String, ServeError> {
    let config = serve::read_config(options.config.as_deref())?;
    hardening::harden().map_err(ServeError::Hardening)?;
    let file = options.state_dir.join(KeyStore::FILE);
    if file.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(ServeError::NoStore(options.state_dir.clone()));
    }
    refuse_other_user(options, &config)?;
    state_dir::check(&options.state_dir)?;
    let Some(store) = OldStore::open(&options.state_dir)? else {
        finish(&file);
        return Ok(format!("the key store {} has the format of this version already\n", file.display()));
    };
    serve::check_dev(options, store.is_dev()?)?;
    let master_key = embedded_unit::master_key(options, &config, store.wkid()?.is_none())?;
    let warning = master_key.as_ref().and_then(master_key::warning).map(|text| format!("warning: {text}\n"));
    let unit = master_key.map(|key| Unit::new(key, config.embedded.cached_keys));
    if let (Some(unit), Some(wkid)) = (&unit, store.wkid()?)
        && unit.wkid().to_string() != wkid
    {
        return Err(ServeError::Migration(format!(
            "cannot migrate the key store {}: it was made with master key {wkid}, and the one that is configured is {}; configure the one that it was made with",
            store.path().display(),
            unit.wkid()
        )));
    }
    let key = match (serve::store_key(options, &config, true)?, &unit) {
        (Some(key), _) => key,
        (None, Some(_)) => StoreKey::generate().ok_or(StoreKeyError::NoRandomness)?,
        (None, None) => return Err(StoreKeyError::NotConfigured.into()),
    };
    let wrapped = unit.as_ref().map(|unit| store_key::wrap(unit, &key)).transpose()?;
    let migrated = keys::migrate(&store, &key, wrapped.as_deref()).map_err(|error| match error {
        MigrationError::Store(error) => error.into(),
        error => ServeError::Migration(error.to_string()),
    })?;
    // From now on the store vouches for them, so this is the time to look whether they are as they
    // were made.
    let keys = migrated.keys.iter().map(|key| {
        let uses: Vec<_> = key.uses.iter().map(|one| one.name()).collect();
        format!("  {}: {}, {}\n", key.label, key.state.name(), uses.join(", "))
    });
    Ok(format!(
        "{}migrated: the key store {} now authenticates its {} keys, as they were found:\n{}A copy of it as it was is {}: keep that until the keys have signed, and away from whoever must not have an old store\n",
        warning.unwrap_or_default(),
        store.path().display(),
        migrated.keys.len(),
        keys.collect::<String>(),
        migrated.copy.display()
    ))
}

/// Ends a migration that was broken off at its very end.
pub(crate) fn finish(store: &Path) {
    if let Err(error) = keys::finish(store) {
        tracing::warn!(
            "the copy of the key store that was made for its migration cannot be renamed, so that a second migration would not be refused: {error}"
        );
    }
}

/// Why the daemon does not start with a store of the old format, and what to do.
pub(crate) fn old_format(options: &Options, config: &Config) -> String {
    let store = options.state_dir.join(KeyStore::FILE);
    if keys::was_migrated(&store) {
        return keys::migrated_before(&store);
    }
    let own = rustix::process::geteuid().as_raw();
    let owner = fs::symlink_metadata(&store).map_or(own, |found| found.uid());
    let advice = command(options, owner, &credentials(options, config, owner));
    format!(
        "{}; if this version of keyward has run here before, somebody has put that file there: restore it from a backup. After an upgrade, to migrate it, {advice}",
        StoreError::OldFormat(store)
    )
}

/// What a shell has to pass to the command: it has no credentials, and those of the service come
/// from where its unit file says.
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

/// The command that migrates the store as the user whose store it is, for a shell.
fn command(options: &Options, uid: u32, credentials: &[(&str, &str)]) -> String {
    let mut words = vec!["keyward serve --migrate-store".to_owned()];
    // systemd-run starts it in the root directory.
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

/// The user whose daemon has a state directory, if that is another one than the user who asks.
/// Where there is no directory yet, that of the service, for root.
pub(crate) fn other_owner(state_dir: &Path) -> Option<u32> {
    let own = rustix::process::geteuid().as_raw();
    let paths = [state_dir.join(KeyStore::FILE), state_dir.to_owned()];
    let mut found = paths.iter().filter_map(|path| fs::symlink_metadata(path).ok());
    let owner = found.next().map(|found| found.uid());
    let service = || User::from_name(SERVICE).ok().flatten().filter(|_| own == 0);
    owner.or_else(|| service().map(|user| user.uid.as_raw())).filter(|owner| *owner != own)
}

/// Whoever else migrates a store takes it away from the daemon, which could not open it any more.
fn refuse_other_user(options: &Options, config: &Config) -> Result<(), ServeError> {
    let file = options.state_dir.join(KeyStore::FILE);
    let own = rustix::process::geteuid().as_raw();
    for path in [&options.state_dir, &file] {
        let Ok(found) = fs::symlink_metadata(path) else { continue };
        if found.uid() == own {
            continue;
        }
        return Err(ServeError::OtherUser(format!(
            "refused to migrate the key store {}: {} belongs to {}, and the daemon of that user could not open the store any more; stop the daemon, and {}",
            file.display(),
            path.display(),
            Name(found.uid()),
            command(options, found.uid(), &credentials(options, config, found.uid()))
        )));
    }
    Ok(())
}

/// As conf/systemd/keyward.service and remote-units.conf pass them.
const CREDENTIALS: [(&str, &str); 2] = [MASTER_KEY, STORE_KEY];
/// A credential and the file that it is of.
pub(crate) const MASTER_KEY: (&str, &str) = ("master-key", "/etc/keyward/master.key");
pub(crate) const STORE_KEY: (&str, &str) = ("store-key", "/etc/keyward/store.key");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_what_the_daemon_was_started_with() {
        let options = Options {
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
