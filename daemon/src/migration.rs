//! `keyward serve --migrate-store`: a key store of an older format becomes one of this format.

use std::env;
use std::path::Path;

use keyward_unit::Unit;
use nix::unistd::User;

use crate::ground::hardening;
use crate::keys::{MigrationError, OldStore, Store, StoreKey};
use crate::run::{self, Options, ServeError};
use crate::store_key::{self, StoreKeyError};

/// Migrates the key store of a state directory, with the keys that the daemon would start with. Says what was done.
///
/// # Errors
/// [`ServeError`] says what is in the way; the store is as it was then.
pub(crate) fn migrate(options: &Options) -> Result<String, ServeError> {
    let config = run::read_config(options.config.as_deref())?;
    hardening::harden().map_err(ServeError::Hardening)?;
    run::make_state_dir(&options.state_dir)?;
    let Some(store) = OldStore::open(&options.state_dir)? else {
        let path = options.state_dir.join(Store::FILE);
        return Ok(format!("the key store {} has the format of this version already\n", path.display()));
    };
    run::check_dev(options, store.is_dev()?)?;
    let unit = run::master_key(options, &config, false)?;
    let unit = unit.map(|key| Unit::new(key, config.embedded.cached_keys));
    if let (Some(unit), Some(wkid)) = (&unit, store.wkid()?)
        && unit.wkid().to_string() != wkid
    {
        return Err(ServeError::Migration(format!(
            "cannot migrate the key store {}: it was made with master key {wkid}, and the one that is configured is {}; configure the one that it was made with",
            store.path().display(),
            unit.wkid()
        )));
    }
    let key = match (run::store_key(options, &config)?, &unit) {
        (Some(key), _) => key,
        (None, Some(_)) => StoreKey::generate().ok_or(StoreKeyError::NoRandomness)?,
        (None, None) => return Err(StoreKeyError::NotConfigured.into()),
    };
    let wrapped = unit.as_ref().map(|unit| store_key::wrap(unit, &key)).transpose()?;
    let migrated = store.migrate(&key, wrapped.as_deref()).map_err(|error| match error {
        MigrationError::Store(error) => error.into(),
        error => ServeError::Migration(error.to_string()),
    })?;
    Ok(format!(
        "migrated: the key store {} now authenticates its {} keys. A copy of it as it was is {}: keep that until the keys have signed, and away from whoever must not have an old store\n",
        store.path().display(),
        migrated.keys,
        migrated.copy.display()
    ))
}

/// The command that migrates the store of a daemon that was started with these options.
pub(crate) fn command(options: &Options) -> String {
    let mut words = vec!["keyward serve --migrate-store".to_owned()];
    words.push(format!("--state-dir {}", quoted(&options.state_dir)));
    words.extend(options.config.as_ref().map(|config| format!("--config {}", quoted(config))));
    words.extend(options.dev.then(|| "--dev".to_owned()));
    let words = words.join(" ");
    // A shell has no credentials: those of the service come from where its unit file says.
    let credentials = env::var_os("CREDENTIALS_DIRECTORY").filter(|_| !options.dev);
    let files = [("master-key", "/etc/keyward/master.key"), ("store-key", "/etc/keyward/store.key")];
    let passed: Vec<_> = (credentials.iter())
        .flat_map(|dir| files.iter().filter(|(name, _)| Path::new(dir).join(name).exists()))
        .map(|(name, file)| format!("-p LoadCredential={name}:{file} "))
        .collect();
    match User::from_uid(nix::unistd::geteuid()) {
        Ok(Some(user)) if !passed.is_empty() => {
            format!("systemd-run --pipe --wait -p User={} {}{words}", user.name, passed.concat())
        }
        _ => words,
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

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
        assert_eq!(
            command(&options),
            "keyward serve --migrate-store --state-dir /var/lib/keyward --config '/etc/my keyward.toml' --dev"
        );
    }
}
