//! The places of an installation.

use std::path::{Path, PathBuf};

use nix::unistd::{Group, Uid, User};

use crate::cli::client::{RUNTIME_DIR, STATE_DIR};
use crate::cli::failure::Failure;
use crate::cli::service_files;
use crate::ground::exit;
use crate::ground::ownership::{self, Owners};
use crate::ground::text::quoted;
use crate::serve::{DEFAULT_CONFIG, migration};

/// The places of an installation. All paths are absolute.
pub(super) struct Place {
    /// Directory of the configuration and the secret.
    pub(super) dir: PathBuf,
    pub(super) config: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) runtime_dir: PathBuf,
    /// True if systemd is the init system that runs.
    pub(super) has_systemd: bool,
}

impl Place {
    /// The places that the command line names.
    ///
    /// # Errors
    /// [`Failure`] if a path cannot be made absolute.
    pub(super) fn new(
        dir: &Path,
        config: Option<&Path>,
        state_dir: &Path,
        runtime_dir: &Path,
    ) -> Result<Self, Failure> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|reason| {
                Failure::new(exit::USAGE, format_args!("cannot use {}: {reason}", path.display()))
            })
        };
        let dir = absolute(dir)?;
        Ok(Self {
            config: config.map_or_else(|| Ok(dir.join("keyward.toml")), absolute)?,
            dir,
            state_dir: absolute(state_dir)?,
            runtime_dir: absolute(runtime_dir)?,
            has_systemd: service_files::has_systemd(),
        })
    }

    /// Makes the directory of the secret, if it is missing, and checks that no other user can
    /// exchange files in it.
    ///
    /// # Errors
    /// [`Failure`] if another user can, or the directory cannot be made.
    pub(super) fn prepare(&self) -> Result<(), Failure> {
        let prepared = ownership::make_directories(&self.dir)
            .and_then(|()| ownership::check_directory(&self.dir, Owners::OwnOrService));
        prepared.map_err(|error| {
            let attempt = format_args!("cannot use the directory {}: {error}", self.dir.display());
            Failure::new(exit::NO_PERMISSION, attempt)
        })
    }

    /// The user of the daemon, who must own the secret. `None` if that is the user who runs this,
    /// or if systemd reads the secret.
    pub(super) fn user(&self) -> Option<u32> {
        if self.has_systemd { None } else { self.daemon() }
    }

    /// The user of the daemon, if that is another one than the user who runs this.
    pub(super) fn daemon(&self) -> Option<u32> {
        migration::other_owner(&self.state_dir)
    }

    /// The command that starts the daemon without systemd.
    pub(super) fn command(&self) -> String {
        let mut command = match self.user() {
            None => "keyward serve".to_owned(),
            Some(user) => format!("setpriv {} keyward serve", identity(user)),
        };
        for (option, path, default) in [
            ("--config", &self.config, DEFAULT_CONFIG),
            ("--state-dir", &self.state_dir, STATE_DIR),
            ("--runtime-dir", &self.runtime_dir, RUNTIME_DIR),
        ] {
            if *path != Path::new(default) {
                command += &format!(" {option} {}", quoted(path));
            }
        }
        command
    }
}

/// Options of setpriv(1) for a user.
fn identity(uid: u32) -> String {
    let Some(user) = User::from_uid(Uid::from_raw(uid)).ok().flatten() else {
        return format!("--reuid {uid} --clear-groups");
    };
    let group = Group::from_gid(user.gid).ok().flatten().map_or(user.gid.to_string(), |group| group.name);
    format!("--reuid {} --regid {group} --init-groups", user.name)
}
