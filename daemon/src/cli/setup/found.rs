//! The state of this machine before the setup: a new installation, an existing one, or the rest of
//! a setup that was interrupted.

use std::io;
use std::path::{Path, PathBuf};

use keyward_unit::Wkid;

use super::choice::{Choice, Way};
use super::configuration;
use super::drop_in::{self, Configured};
use super::opens::{self, InForce};
use super::place::Place;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::config::Config;
use crate::ground::exit;
use crate::keys::{self, Look, Witness};

/// The state of this machine before the setup.
pub(super) struct Found {
    /// The way that is configured already.
    pub(super) configured: Option<Configured>,
    /// The ways whose file is in the directory of the configuration.
    present: Vec<Way>,
    /// True if the key store was made with a master key, or may have been.
    needs_master_key: bool,
    /// The master key that the key store was made with, if it is known.
    needed: Option<Wkid>,
}

impl Found {
    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// [`Failure`] if the configuration is wrong.
    pub(super) fn look(place: &Place) -> Result<Self, Failure> {
        let config = match place.config.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Config::default(),
            _ => Config::load(&place.config).map_err(|error| Failure::new(exit::CONFIG, error))?,
        };
        let by_service = place.has_systemd.then(|| drop_in::configured(Path::new("/"))).flatten();
        let by_config = configuration::way_of(&config.embedded).map(|(way, secret)| Configured {
            way,
            secret: Some(secret.to_owned()),
            is_master_key: way == Way::MasterKey,
            by: place.config.clone(),
        });
        let has_file = |way: &Way| way.file(&place.dir).is_some_and(|file| file.symlink_metadata().is_ok());
        // The drop-in for owners passes nothing, so the configuration may name a secret.
        let configured = match by_service {
            Some(by_service) if by_service.way != Way::Owners => Some(by_service),
            other => by_config.or(other),
        };
        Ok(Self {
            configured,
            present: Way::WITH_FILE.into_iter().filter(has_file).collect(),
            needs_master_key: needs_master_key(&place.state_dir, &config),
            needed: needed(&place.state_dir),
        })
    }

    /// Decides which way the unit gets its master key. `ask` asks a person. `named` is the file
    /// that a person has named as the secret.
    ///
    /// # Errors
    /// [`Failure`] if another way is there already, or if the key store needs a secret that is not
    /// there.
    pub(super) fn decide(
        &self,
        place: &Place,
        chosen: Option<Choice>,
        named: Option<&Path>,
        ask: impl FnOnce() -> Result<Choice, Failure>,
    ) -> Result<Way, Failure> {
        let there = match &self.configured {
            Some(configured) => Some((configured.way, configured.by.clone())),
            // The key file of an installation stays in use.
            None => self.key_file(place).map(|file| (Way::MasterKey, file)),
        };
        if let Some((way, by)) = there {
            return match chosen.filter(|chosen| !way.is(*chosen)) {
                Some(_) => Err(self.refused(place, way, &by)),
                None => Ok(way),
            };
        }
        let way = match (chosen, self.present.as_slice()) {
            (Some(chosen), _) => chosen.into(),
            // The rest of a setup that was interrupted.
            (None, [way]) => *way,
            (None, _) if self.needs_master_key => return Err(lost(place)),
            (None, _) => ask()?.into(),
        };
        let has_secret = way == Way::Owners || self.has(way) || named.is_some();
        if self.needs_master_key && !has_secret { Err(lost(place)) } else { Ok(way) }
    }

    /// Checks that the secret in force is there, and opens the unit. `file` is its file. Returns
    /// false if there is none yet, and the unit has no master key that it would have to open.
    ///
    /// # Errors
    /// [`Failure`] if a start of the service would leave the unit sealed.
    pub(super) fn check(&self, place: &Place, way: Way, file: &Path) -> Result<bool, Failure> {
        let checked = self.try_secret(place, way, file);
        let (is_there, note) = checked.map_err(|failure| failure.while_trying("cannot set up the unit"))?;
        note.iter().for_each(output::note);
        Ok(is_there)
    }

    /// Reason why a start of the service would leave the unit sealed, although a secret is
    /// configured.
    pub(super) fn fault(&self, place: &Place) -> Option<Failure> {
        let configured = self.configured.as_ref()?;
        self.try_secret(place, configured.way, configured.secret.as_deref()?).err()
    }

    /// Does the check of [`Self::check`]. Returns false if there is no secret yet, and a note for a
    /// person, if there is one.
    fn try_secret(&self, place: &Place, way: Way, file: &Path) -> Result<(bool, Option<String>), Failure> {
        let configured = self.configured.as_ref();
        let is_missing = file.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        match (is_missing, configured) {
            (true, Some(configured)) if self.needs_master_key => {
                return Err(gone(place, file, &configured.by));
            }
            (true, _) => return Ok((false, None)),
            (false, _) => {}
        }
        let is_of_daemon = match configured {
            Some(configured) => configured.by == place.config,
            None => !place.has_systemd,
        };
        let is_master_key = configured.map_or(way == Way::MasterKey, |configured| configured.is_master_key);
        let secret = InForce { way, file, is_master_key, is_of_daemon };
        opens::check(&secret, &place.state_dir, self.needed, place.daemon()).map(|note| (true, note))
    }

    /// The user who gets a new secret, if that is another one than the user who runs this: the user
    /// of the daemon, unless systemd reads the secret.
    pub(super) fn owner_of_secret(&self, place: &Place) -> Option<u32> {
        if self.is_in_config(place) { place.daemon() } else { place.user() }
    }

    /// True if the file of a way is there.
    pub(super) fn has(&self, way: Way) -> bool {
        self.present.contains(&way)
    }

    /// Files of other ways, which nothing uses.
    pub(super) fn left_over(&self, place: &Place, way: Way) -> Vec<PathBuf> {
        let others = self.present.iter().filter(|other| self.configured.is_none() && **other != way);
        others.filter_map(|other| other.file(&place.dir)).collect()
    }

    fn key_file(&self, place: &Place) -> Option<PathBuf> {
        Way::MasterKey.file(&place.dir).filter(|_| self.has(Way::MasterKey))
    }

    fn refused(&self, place: &Place, way: Way, by: &Path) -> Failure {
        let by = by.display();
        // Nothing depends on a choice without a master key.
        let again = match (self.needs_master_key, way.setting()) {
            (true, _) => "docs/ceremony.md and docs/key-store.md describe the change to another way".into(),
            // The file has the grants and roles, too.
            (false, Some(setting)) if self.is_in_config(place) => format!(
                "to choose again, remove the line {setting} = ... from section [embedded] of {by}, and run keyward setup again"
            ),
            (false, _) => format!("to choose again, remove {by} first"),
        };
        Failure::new(
            exit::CANNOT_CREATE,
            format_args!(
                "refused to change how the unit gets its master key: because of {by}, the unit gets the key {}; {again}",
                way.described()
            ),
        )
    }

    fn is_in_config(&self, place: &Place) -> bool {
        self.configured.as_ref().is_some_and(|configured| configured.by == place.config)
    }
}

/// True if the key store was made with a master key, or may have been.
fn needs_master_key(state_dir: &Path, config: &Config) -> bool {
    let is_noted = Witness::read(state_dir).is_some_and(|noted| noted.master_key.is_some());
    match keys::look(state_dir) {
        Look::New => is_noted,
        Look::Old(_) | Look::Used(Some(_)) => true,
        // A store that a daemon has open, or one for keys at remote units.
        Look::Used(None) => is_noted || (config.grep11.is_empty() && opens::has_had_master_key(state_dir)),
    }
}

/// The master key that the key store was made with, if it is known.
fn needed(state_dir: &Path) -> Option<Wkid> {
    let name = match keys::look(state_dir) {
        Look::Used(Some(name)) => Some(name),
        Look::New | Look::Old(_) | Look::Used(None) => {
            Witness::read(state_dir).and_then(|noted| noted.master_key)
        }
    };
    name.and_then(|name| name.parse().ok())
}

/// The failure for a secret that is configured, and is gone.
fn gone(place: &Place, file: &Path, by: &Path) -> Failure {
    let advice = match opens::is_of_owners(&place.state_dir) {
        true => {
            "; or, since the master key has owners, make another secret, which keeps the key when they have brought their parts: docs/ceremony.md"
        }
        false => "",
    };
    Failure::new(
        exit::CONFIG,
        format_args!(
            "{file}, which {} names, is not there, and the key store in {} was made with a master key, which a new secret would not open; restore {file} from its copy, and run keyward setup again{advice}",
            by.display(),
            place.state_dir.display(),
            file = file.display(),
        ),
    )
}

/// The failure for a key store whose secret is not there: a new one would open none of its keys.
fn lost(place: &Place) -> Failure {
    let names: Vec<_> = Way::WITH_FILE.iter().filter_map(|way| way.file(&place.dir)).collect();
    let names: Vec<_> = names.iter().map(|file| file.display().to_string()).collect();
    Failure::new(
        exit::CONFIG,
        format_args!(
            "cannot set up the unit: the key store in {} was made with a master key, and a new secret would open none of its keys; restore the file with its secret from a copy, which is one of {}, and run keyward setup again; if the master key has owners: keyward setup --unseal owners",
            place.state_dir.display(),
            names.join(", ")
        ),
    )
}
