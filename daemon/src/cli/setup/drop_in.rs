//! The drop-in of keyward.service that passes the secret to the daemon, and the drop-ins that are
//! there.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::choice::Way;
use super::files;
use crate::cli::failure::Failure;
use crate::cli::service_files::{self, Credential};
use crate::ground::exit;
use crate::ground::opening::{PLAIN, UNSEAL};

/// Way that the files of the service configure.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) way: Way,
    /// The file with the secret, if there is one.
    pub(super) secret: Option<PathBuf>,
    /// True if the secret is the master key itself.
    pub(super) is_master_key: bool,
    /// The file that says so.
    pub(super) by: PathBuf,
}

/// Finds the way that the unit file or a drop-in of the service configures. `root` is the root
/// directory.
pub(super) fn configured(root: &Path) -> Option<Configured> {
    let of = |credential: Credential| {
        let Credential { name, file, is_encrypted, by } = credential;
        let way = Way::of_credential(&name, is_encrypted)?;
        // The unit file of earlier versions passes a master key, and will be replaced.
        let counts = way != Way::MasterKey || by.parent().is_some_and(|parent| parent.ends_with(DIRECTORY));
        let secret = Some(file).filter(|file| file.is_absolute());
        counts.then_some(Configured { way, secret, is_master_key: name == "master-key", by })
    };
    let last = service_files::credentials(root).into_iter().filter_map(of).next_back();
    last.or_else(|| {
        // The drop-in for owners passes nothing.
        let own = root.join(UNITS).join(DIRECTORY).join(FILE);
        own.exists().then_some(Configured { way: Way::Owners, secret: None, is_master_key: false, by: own })
    })
}

/// Writes the drop-in for a way, with the file of its secret. `root` is the root directory. Returns
/// the path of the drop-in.
///
/// # Errors
/// [`Failure`] if the drop-in exists, or cannot be made.
pub(super) fn make(root: &Path, way: Way, secret: Option<&Path>) -> Result<PathBuf, Failure> {
    let directory = root.join(UNITS).join(DIRECTORY);
    let made = DirBuilder::new().mode(0o755).create(&directory);
    // The umask of this process is strict.
    made.and_then(|()| fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)))
        .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .map_err(|reason| {
            let path = directory.display();
            Failure::new(
                exit::CANNOT_CREATE,
                format_args!("cannot make {path}: {reason}; run this command as root"),
            )
        })?;
    let file = directory.join(FILE);
    files::make(&file, text(way, secret)?.as_bytes(), 0o644, None)?;
    Ok(file)
}

fn text(way: Way, secret: Option<&Path>) -> Result<String, Failure> {
    let setting = match (way.setting(), secret) {
        (Some(name), Some(secret)) => {
            let encrypted = if way == Way::Credential { "Encrypted" } else { "" };
            // The daemon cannot see whether a credential is encrypted.
            let plain =
                if way.is_plain() { format!("Environment={UNSEAL}={PLAIN}\n") } else { String::new() };
            format!("LoadCredential{encrypted}={name}:{}\n{plain}", escaped(secret)?)
        }
        _ => String::new(),
    };
    Ok(format!(
        "# Made by keyward setup: the unit gets its master key {}.\n[Service]\n{setting}",
        way.described()
    ))
}

/// A path as the value of a setting (systemd.unit(5), systemd.exec(5)).
fn escaped(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().filter(|text| !text.contains(|c: char| c.is_control() || "\"'\\".contains(c)));
    let text = text.filter(|text| !text.contains(char::is_whitespace));
    text.map(|text| text.replace('%', "%%")).ok_or_else(|| {
        Failure::new(
            exit::USAGE,
            format_args!(
                "systemd cannot read a secret from {}: choose a path without blanks, quotes and backslashes",
                path.display()
            ),
        )
    })
}

const UNITS: &str = "etc/systemd/system";
const DIRECTORY: &str = "keyward.service.d";
const FILE: &str = "unseal.conf";

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory with a file of the service.
    fn root_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(UNITS).join(DIRECTORY)).unwrap();
        for (name, text) in files {
            fs::write(root.path().join(UNITS).join(name), text).unwrap();
        }
        root
    }

    #[test]
    fn a_drop_in_is_found_again() {
        for (way, secret) in [
            (Way::Credential, Some("/etc/keyward/unseal-key.cred")),
            (Way::MasterKey, Some("/etc/keyward/master.key")),
            (Way::Owners, None),
            (Way::Passphrase, Some("/media/usb/pass")),
            (Way::Unprotected, Some("/etc/keyward/unseal.key")),
        ] {
            let shipped = include_str!("../../../../conf/systemd/keyward.service");
            let root = root_with(&[("keyward.service", shipped)]);
            assert!(configured(root.path()).is_none(), "the shipped unit chooses nothing");
            let secret = secret.map(Path::new);
            let file = make(root.path(), way, secret).unwrap();
            let found = configured(root.path()).unwrap();
            assert_eq!((found.way, found.secret.as_deref(), found.by), (way, secret, file));
            assert!(make(root.path(), way, secret).is_err(), "nothing is overwritten");
        }
    }

    #[test]
    fn settings_by_hand_are_found() {
        let way =
            |name: &str, text: &str| configured(root_with(&[(name, text)]).path()).map(|found| found.way);
        let by_hand = |text: &str| way("keyward.service.d/mine.conf", text);
        let earlier = "[Service]\nLoadCredential=master-key:/etc/keyward/master.key\n";
        assert_eq!(by_hand(earlier), Some(Way::MasterKey));
        assert_eq!(way("keyward.service", earlier), None, "that unit file will be replaced");
        assert_eq!(by_hand("[Service]\nLoadCredentialEncrypted = master-key:/a\n"), Some(Way::Credential));
        assert_eq!(by_hand("[Service]\nLoadCredential=unseal-key:/a\nLoadCredential=\n"), None);
        assert_eq!(by_hand("[Service]\nLoadCredential=store-key:/etc/keyward/store.key\n"), None);
    }

    #[test]
    fn paths_are_written_for_systemd() {
        let text = |path: &str| text(Way::Unprotected, Some(Path::new(path)));
        assert!(text("/srv/100%/key").unwrap().contains("LoadCredential=unseal-key:/srv/100%%/key\n"));
        for path in ["/srv/my key", "/srv/a\nb", "/srv/\"a"] {
            assert!(text(path).is_err(), "{path}");
        }
    }
}
