//! The files of shred secrets: one for each secret, in a directory of their own in the state
//! directory. Other files there are left alone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::secret::{SecretId, ShredSecret};
use crate::ground::ownership::{self, Owners, OwnershipError};
use crate::ground::text::quoted;
use crate::store::SECRETS;

/// The directory with the files.
#[derive(Debug)]
pub(crate) struct SecretFiles {
    directory: PathBuf,
    owners: Owners,
}

impl SecretFiles {
    /// The files of a state directory, which belong to one of `owners`.
    pub(crate) fn of(state_dir: &Path, owners: Owners) -> Self {
        Self { directory: state_dir.join(SECRETS), owners }
    }

    /// Path of the directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of the file of a secret.
    pub(crate) fn path(&self, id: SecretId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    /// Reads a secret. `None` if the file is missing, is a symbolic link, or does not have this
    /// secret: a secret elsewhere could not be erased.
    ///
    /// # Errors
    /// Another user can read or change the file, or the file cannot be read.
    pub(crate) fn read(&self, id: SecretId) -> io::Result<Option<ShredSecret>> {
        if self.path(id).symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            return Ok(None);
        }
        let file = match ownership::open_of(&self.path(id), self.owners).map_err(OwnershipError::into_io) {
            Ok(file) => file,
            Err(Ok(reason)) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(Ok(reason)) => return Err(reason),
            Err(Err(refused)) => return Err(io::Error::other(refused)),
        };
        if file.metadata()?.mode() & 0o077 != 0 {
            let path = quoted(&self.path(id));
            let reason = format!("other users can read or change the file; run: chmod 600 {path}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        // The full capacity at once: bytes that grow leave copies of themselves in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(ShredSecret::LENGTH + 1));
        file.take(ShredSecret::LENGTH as u64 + 1).read_to_end(&mut bytes)?;
        Ok(ShredSecret::from_bytes(&bytes).filter(|secret| secret.id() == id))
    }

    /// Writes a secret: all of the file or nothing. The file is on the disk when the call returns.
    /// `owner` is the user and group of the file, if not those of this process.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn write(&self, secret: &ShredSecret, owner: Option<(u32, u32)>) -> io::Result<()> {
        self.make(owner)?;
        let (directory, id) = (self.open()?, secret.id().to_string());
        let part = format!("{id}{PART}");
        let written = || -> io::Result<()> {
            erase(&directory, &part)?;
            // By descriptors, not by names: for root, the directory may be of another user.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&directory, &part, flags, Mode::RUSR | Mode::WUSR)?;
            let mut file = File::from(file);
            file.write_all(secret.as_bytes())?;
            file.sync_all()?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            // The file that is replaced, such as one that others could read, has the secret, too.
            let replaced = open_to_erase(&directory, &id);
            rustix::fs::renameat(&directory, &part, &directory, &id)?;
            rustix::fs::fsync(&directory)?;
            match replaced {
                Ok(replaced) => overwrite(replaced),
                Err(Errno::NOENT | Errno::LOOP) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        written().inspect_err(|_| drop(erase(&directory, &part)))
    }

    /// Overwrites the file of a secret with zeros, and removes the file. Does nothing if there is
    /// none.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn erase(&self, id: SecretId) -> io::Result<()> {
        let directory = match self.open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        // The rest of a process that was killed while it wrote the file.
        erase(&directory, &format!("{id}{PART}"))?;
        erase(&directory, &id.to_string())?;
        Ok(rustix::fs::fsync(&directory)?)
    }

    /// Erases the files of all secrets but one, also files that are not complete. Leaves files of
    /// other names. Returns the secrets that were erased.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn erase_all_but(&self, kept: Option<SecretId>) -> io::Result<Vec<SecretId>> {
        let others = self.all_but(kept)?;
        others.iter().try_for_each(|id| self.erase(*id))?;
        Ok(others)
    }

    /// The secrets that have a file, without one of them.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn all_but(&self, known: Option<SecretId>) -> io::Result<Vec<SecretId>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut others = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_str().unwrap_or_default();
            let id = name.strip_suffix(PART).unwrap_or(name).parse().ok();
            others.extend(id.filter(|id| Some(*id) != known && !others.contains(id)));
        }
        Ok(others)
    }

    /// Makes the directory, unless it exists.
    fn make(&self, owner: Option<(u32, u32)>) -> io::Result<()> {
        match rustix::fs::mkdir(&self.directory, Mode::RWXU) {
            Err(Errno::EXIST) => return Ok(()),
            made => made?,
        }
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(self.open()?, Some(uid), Some(gid))?;
        }
        // The entry of the new directory must outlive a power cut, too.
        self.directory.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(CWD, &self.directory, flags, Mode::empty())?)
    }
}

fn erase(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match open_to_erase(directory, name) {
        Ok(file) => overwrite(file)?,
        Err(Errno::NOENT) => return Ok(()),
        // No secret is read through a symbolic link.
        Err(Errno::LOOP) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
}

fn open_to_erase(directory: &OwnedFd, name: &str) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(directory, name, flags, Mode::empty());
    let opened = open().or_else(|error| match error {
        // Its owner has taken away the right to write, which its owner can give back.
        Errno::ACCESS => {
            rustix::fs::chmodat(directory, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
            open()
        }
        error => Err(error),
    });
    opened.map(File::from)
}

/// Overwrites the file of a secret with zeros.
fn overwrite(mut file: File) -> io::Result<()> {
    // A file that is shorter may have no room for more on a full disk.
    let length = file.metadata()?.len().min(ShredSecret::LENGTH as u64) as usize;
    file.write_all(&[0; ShredSecret::LENGTH][..length])?;
    file.sync_all()
}

/// Ends the name of a file that is not complete yet.
const PART: &str = ".new";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_read_as_it_was_written_and_erased_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let files = SecretFiles::of(dir.path(), Owners::Own);
        let secret = ShredSecret::generate().unwrap();
        let id = secret.id();
        assert!(files.read(id).unwrap().is_none());
        files.erase(id).unwrap();
        files.write(&secret, None).unwrap();
        let mut replaced = File::open(files.path(id)).unwrap();
        files.write(&secret, None).unwrap();
        let mut zeros = Vec::new();
        replaced.read_to_end(&mut zeros).unwrap();
        assert_eq!(zeros, [0; ShredSecret::LENGTH], "the file that was replaced had the secret, too");
        assert_eq!((mode(&files.directory), mode(&files.path(id))), (0o700, 0o600));
        assert_eq!(files.read(id).unwrap().unwrap().as_bytes(), secret.as_bytes());
        // Somebody who holds the file open reads zeros.
        let mut held = File::open(files.path(id)).unwrap();
        let rest = files.path(id).with_extension("new");
        fs::write(&rest, "half").unwrap();
        files.erase(id).unwrap();
        let mut bytes = Vec::new();
        held.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [0; ShredSecret::LENGTH]);
        assert!(files.read(id).unwrap().is_none() && !rest.exists());
    }

    #[test]
    fn all_secrets_but_one_are_erased_and_other_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let files = SecretFiles::of(dir.path(), Owners::Own);
        let secrets = [(); 3].map(|()| ShredSecret::generate().unwrap());
        files.erase_all_but(None).unwrap();
        secrets.iter().for_each(|secret| files.write(secret, None).unwrap());
        let [kept, gone, half] = secrets.each_ref().map(ShredSecret::id);
        fs::rename(files.path(half), files.path(half).with_extension("new")).unwrap();
        let others = ["README", "0123456789ABCDEF", "0123456789abcdef.txt"];
        others.iter().for_each(|name| fs::write(files.directory.join(name), "").unwrap());
        files.erase_all_but(Some(kept)).unwrap();
        assert!(files.read(kept).unwrap().is_some() && files.read(gone).unwrap().is_none());
        assert_eq!(fs::read_dir(&files.directory).unwrap().count(), 1 + others.len());
    }

    #[test]
    fn a_file_with_other_bytes_or_of_others_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let files = SecretFiles::of(dir.path(), Owners::Own);
        let secret = ShredSecret::generate().unwrap();
        files.write(&secret, None).unwrap();
        let path = files.path(secret.id());
        // A secret elsewhere could not be erased.
        fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(files.read(secret.id()).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        files.write(&secret, None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(files.read(secret.id()).unwrap_err().to_string().contains("run: chmod 600 "));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for bytes in [&[0; 32][..], &[], &[secret.as_bytes(), b"\n"].concat()] {
            fs::write(&path, bytes).unwrap();
            assert!(files.read(secret.id()).unwrap().is_none());
        }
        files.write(&secret, None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(files.read(secret.id()).unwrap_err().to_string().contains("can write"));
        // A link in the place of a file or of the directory leads nowhere.
        let target = dir.path().join("target");
        fs::write(&target, "keep").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        files.erase(secret.id()).unwrap();
        assert!(fs::read(&target).unwrap() == b"keep" && path.symlink_metadata().is_err());
        fs::remove_dir(&files.directory).unwrap();
        symlink(dir.path(), &files.directory).unwrap();
        assert!(files.write(&secret, None).is_err() && files.erase(secret.id()).is_err());
    }
}
