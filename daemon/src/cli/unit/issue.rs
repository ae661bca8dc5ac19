//! Commands for the unit: made, signed with keys that are here, and sent or written to a file.

use core::time::Duration;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use keyward_unit::administration::{
    ClaimSecret, Command, Instruction, Person, PersonKey, PersonName, SignedCommand,
};
use serde_json::json;
use zeroize::Zeroizing;

use super::possible::refuse_impossible;
use super::signers::Signers;
use crate::admin::client::AdminClient;
use crate::admin::unit_view::{CommandsView, OwnedUnitView, ShareView};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::key::for_daemon;
use crate::cli::output::{print, print_json, warn};
use crate::cli::passphrase;
use crate::ground::exit;
use crate::ground::passphrase as strength;
use crate::ground::replace::replace;
use crate::ground::text::quoted;
use crate::keys::now;

/// Signatures of a command, and where the command goes.
#[derive(Args, Debug)]
pub(super) struct Issue {
    #[command(flatten)]
    pub(super) client: Client,
    #[command(flatten)]
    signers: Signers,
    /// Write the command to a file, for others to sign, instead of sending it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Time for which the command is valid, at most 30d
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = humantime::parse_duration)]
    expires: Duration,
}

impl Issue {
    /// The client of the daemon.
    pub(super) fn admin(&self) -> Result<AdminClient, Failure> {
        Ok(AdminClient::new(&self.client.runtime_dir)?)
    }

    /// Makes the command that `instruction` gives for the present state of the unit. Sends it, or
    /// writes it to the file.
    pub(super) fn issue(
        &self,
        attempt: &str,
        instruction: impl FnOnce(&OwnedUnitView) -> Result<Instruction, Failure>,
    ) -> Result<CommandsView, Failure> {
        self.issue_with(attempt, None, instruction)
    }

    /// Makes a command as [`Self::issue`] does, with the proof of a claim.
    pub(super) fn issue_with(
        &self,
        attempt: &str,
        secret: Option<&ClaimSecret>,
        instruction: impl FnOnce(&OwnedUnitView) -> Result<Instruction, Failure>,
    ) -> Result<CommandsView, Failure> {
        let issue = || {
            let admin = self.admin()?;
            let unit = admin.unit()?;
            let instruction = instruction(&unit)?;
            refuse_impossible(&unit, &instruction)?;
            if let Some(path) = &self.out {
                refuse_existing(path)?;
            }
            let mut signed = SignedCommand::new(next_command(&unit, self.expires, instruction)?);
            if let Some(secret) = secret {
                signed = signed.with_claim_of(secret);
            }
            self.signers.sign(core::slice::from_mut(&mut signed), Some(&unit))?;
            match &self.out {
                None => Ok(admin.unit_commands(signed.to_text())?),
                Some(path) => {
                    write_new(path, signed.to_text().as_bytes(), 0o644)?;
                    Ok(CommandsView { done: Vec::new() })
                }
            }
        };
        issue().map_err(|failure: Failure| failure.while_trying(attempt).at(&self.client.runtime_dir))
    }

    /// True if the command goes to a file, so that nothing happens now.
    pub(super) fn is_for_others(&self) -> bool {
        self.out.is_some()
    }

    /// Prints what has become of the command.
    pub(super) fn report(&self, done: &CommandsView, what: &str) -> Result<(), Failure> {
        match &self.out {
            Some(path) if self.client.json => print_json(&json!({ "done": done.done, "file": path })),
            None if self.client.json => print_json(done),
            None => print(&format!("{what}\n")),
            Some(path) => {
                let path = quoted(path);
                let send = for_daemon(format!("keyward unit send {path}"), &self.client.runtime_dir);
                print(&format!(
                    "wrote the command to {path}\neach administrator signs it with: keyward unit sign {path} --key FILE\nthen: {send}\n"
                ))
            }
        }
    }
}

/// The next command of a unit, which is valid for some time from now.
pub(super) fn next_command(
    unit: &OwnedUnitView,
    valid: Duration,
    instruction: Instruction,
) -> Result<Command, Failure> {
    Ok(Command {
        unit: unit.unit.parse().map_err(|error| Failure::new(exit::SOFTWARE, error))?,
        counter: unit.next_counter,
        expires: now().saturating_add(valid.as_secs()),
        instruction,
    })
}

/// The passphrase of a file.
pub(super) fn passphrase_of(path: &Path, source: &passphrase::Source) -> Result<Zeroizing<Vec<u8>>, Failure> {
    source.read(path)?.ok_or_else(|| no_passphrase(path))
}

/// The passphrase of a file that is to be made.
pub(super) fn new_passphrase_of(
    path: &Path,
    source: &passphrase::Source,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let passphrase = source.read_new(path)?.ok_or_else(|| no_passphrase(path))?;
    if strength::is_short(&passphrase) {
        warn(format_args!("the passphrase is short; {}", strength::ADVICE));
    }
    Ok(passphrase)
}

fn no_passphrase(path: &Path) -> Failure {
    Failure::new(
        exit::USAGE,
        format_args!(
            "the passphrase of {} is needed: run the command on a terminal, or use --passphrase-file",
            path.display()
        ),
    )
}

/// Reads a file of a person: at most 1 MiB of text.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = crate::cli::input::read_input(path)?;
    let text = str::from_utf8(&bytes).map(|text| Zeroizing::new(text.to_owned()));
    text.map_err(|_| Failure::new(exit::DATA, format_args!("cannot read {}: it is not text", path.display())))
}

/// Writes a new file. An existing file stays: it may be the only copy of a key.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = made.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::new(exit::CANNOT_CREATE, format_args!("cannot write {}: {error}", path.display())),
    })
}

/// Refuses a file to make that is there already, before anybody types a passphrase.
pub(super) fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if fs::symlink_metadata(path).is_ok() { Err(exists(path)) } else { Ok(()) }
}

fn exists(path: &Path) -> Failure {
    Failure::new(
        exit::CANNOT_CREATE,
        format_args!("cannot write {0}: {0} exists, and stays as it is; choose another name", path.display()),
    )
}

/// Writes the files of shares into a directory. Files that are there already with other contents
/// stay.
pub(super) fn write_shares(directory: &Path, shares: &[ShareView], client: &Client) -> Result<(), Failure> {
    let again = for_daemon("keyward unit shares --dir DIR".into(), &client.runtime_dir);
    if !shares.is_empty() && !directory.is_dir() {
        let (shown, dir) = (directory.display(), quoted(directory));
        return Err(Failure::new(
            exit::NO_INPUT,
            format_args!(
                "cannot write the shares into {shown}: there is no such directory; the unit keeps the shares; run: mkdir {dir}; then: {}",
                again.replacen("DIR", &dir, 1)
            ),
        ));
    }
    for share in shares {
        // A name that another program in the place of the daemon made up must not lead elsewhere.
        let owner: PersonName = share.owner.parse().map_err(|error| {
            Failure::new(
                exit::DATA,
                format_args!(
                    "cannot write the share of {:?}: {error}; the answer is not of a unit",
                    share.owner
                ),
            )
        })?;
        let path = directory.join(format!("{owner}.share"));
        if fs::read_to_string(&path).is_ok_and(|text| text == share.file) {
            continue;
        }
        write_new(&path, share.file.as_bytes(), 0o644).map_err(|failure| {
            failure.while_trying(format_args!(
                "the unit keeps the shares: write them to another directory with: {again}"
            ))
        })?;
    }
    Ok(())
}

/// Replaces a file of commands.
pub(super) fn rewrite(path: &Path, text: &str) -> Result<(), Failure> {
    replace(path, text.as_bytes(), 0o644).map_err(|error| {
        Failure::new(exit::CANNOT_CREATE, format_args!("cannot write {}: {error}", path.display()))
    })
}

/// The line of the public file of a person: the name, and the public key in base64.
pub(super) fn public_line(person: &Person) -> String {
    use base64::Engine;

    let key = base64::engine::general_purpose::STANDARD.encode(person.key.to_spki());
    format!("{} {key}\n", person.name)
}

/// Reads the public file of a person.
pub(super) fn person(path: &Path) -> Result<Person, Failure> {
    use base64::Engine;

    let text = read(path)?;
    let read = || {
        let (name, key) = text.strip_suffix('\n').unwrap_or(&text).split_once(' ')?;
        let key = base64::engine::general_purpose::STANDARD.decode(key).ok()?;
        Some(Person { name: name.parse().ok()?, key: PersonKey::from_spki(&key).ok()? })
    };
    read().ok_or_else(|| {
        Failure::new(
            exit::DATA,
            format_args!(
                "cannot read {}: it is not the public file (.pub) of an administrator or an owner",
                path.display()
            ),
        )
    })
}

/// Path of the public file beside the file of a key.
pub(super) fn public_path(path: &Path) -> PathBuf {
    path.with_added_extension("pub")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client { runtime_dir: "/run/other".into(), json: false }
    }

    #[test]
    fn the_name_of_an_owner_does_not_lead_out_of_the_directory() {
        let around = tempfile::tempdir().unwrap();
        let directory = around.path().join("shares");
        fs::create_dir(&directory).unwrap();
        let write = |owner: &str| {
            write_shares(&directory, &[ShareView { owner: owner.into(), file: "x".into() }], &client())
        };
        for owner in ["../erin", "/tmp/erin", "sub/../../erin", "", "erin\0"] {
            let reason = write(owner).unwrap_err().into_reason();
            assert!(reason.contains("cannot write the share of"), "{owner}: {reason}");
        }
        assert_eq!(fs::read_dir(around.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        let shares = [ShareView { owner: "erin".into(), file: "x".into() }];
        let reason = write_shares(&around.path().join("away"), &shares, &client()).unwrap_err().into_reason();
        let away = around.path().join("away");
        assert!(
            reason
                .ends_with(&format!("keyward unit shares --dir {} --runtime-dir /run/other", away.display())),
            "{reason}"
        );
        write("..").unwrap();
        write("erin").unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    }
}
