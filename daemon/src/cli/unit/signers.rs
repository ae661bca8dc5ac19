//! The keys that sign commands: in a file, in a program of the administrator, or in a signing
//! service.

use core::fmt;
use core::future::Future;
use core::time::Duration;
use std::path::{Path, PathBuf};

use clap::Args;
use keyward_unit::administration::{
    AdministratorKey, Command, Instruction, PersonKey, SignatureFault, SignedCommand, Ski,
};

use super::issue::{passphrase_of, read};
use super::signing_program::Program;
use super::signing_service::{Service, ServiceKey};
use crate::admin::unit_view::OwnedUnitView;
use crate::cli::failure::Failure;
use crate::cli::passphrase;
use crate::ground::exit;

/// The keys of administrators who sign.
#[derive(Args, Debug)]
pub(super) struct Signers {
    /// File with the key of an administrator, who signs the command; may be repeated
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: passphrase::Source,
    #[command(flatten)]
    external: External,
}

impl Signers {
    /// True if nobody signs.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.external.programs.is_empty() && self.external.service.is_none()
    }

    /// Has everybody sign each of the commands. Of a `unit` that is known, only administrators
    /// sign. Returns the names of the keys.
    ///
    /// # Errors
    /// [`Failure`] names the key that does not sign.
    pub(super) fn sign(
        &self,
        commands: &mut [SignedCommand],
        unit: Option<&OwnedUnitView>,
    ) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        for path in &self.keys {
            names.push(sign_with_key_in(path, &self.passphrase, commands, unit)?);
        }
        for program in &self.external.programs {
            names.push(of(program, Signer::Program(program).sign(commands, unit))?);
        }
        if let Some(key) = &self.external.service {
            let signed = self.external.open(key).and_then(|service| service.sign(commands, unit));
            names.push(of(key, signed)?);
        }
        Ok(names)
    }
}

/// Has the administrator whose key is in a file sign each of the commands. Returns the name of the
/// key.
///
/// # Errors
/// [`Failure`] names the key, and why the key does not sign.
pub(super) fn sign_with_key_in(
    path: &Path,
    passphrase: &passphrase::Source,
    commands: &mut [SignedCommand],
    unit: Option<&OwnedUnitView>,
) -> Result<String, Failure> {
    of(&path.display(), signer_in(path, passphrase).and_then(|signer| signer.sign(commands, unit)))
}

/// Opens a file with the key of an administrator: its person knows the passphrase.
pub(super) fn open_key(path: &Path, passphrase: &passphrase::Source) -> Result<(), Failure> {
    of(&path.display(), signer_in(path, passphrase).map(drop)).map(drop)
}

/// The name of a key that has signed.
fn of(name: &impl fmt::Display, signed: Result<(), Failure>) -> Result<String, Failure> {
    let signed = signed.map_err(|failure| failure.while_trying(format_args!("cannot sign with {name}")));
    signed.map(|()| name.to_string())
}

fn signer_in(path: &Path, passphrase: &passphrase::Source) -> Result<Signer<'static>, Failure> {
    let text = read(path)?;
    // Before a person types the passphrase of another file.
    AdministratorKey::person_of_file(&text).map_err(|error| Failure::new(exit::DATA, error))?;
    let key = AdministratorKey::from_file(&text, &passphrase_of(path, passphrase)?);
    key.map(|key| Signer::Key(Box::new(key))).map_err(|error| Failure::new(exit::DATA, error))
}

/// The keys of administrators outside of the files of Keyward.
#[derive(Args, Debug)]
pub(super) struct External {
    /// Program that signs with the key of an administrator; may be repeated
    #[arg(long = "signer", value_name = "COMMAND")]
    programs: Vec<Program>,
    /// Key of an administrator in a signing service, as https://HOST:PORT/NAME
    #[arg(long = "signing-service", value_name = "URL/NAME")]
    service: Option<ServiceKey>,
    /// File with the token for the signing service: the header Authorization, in one line
    #[arg(long, value_name = "FILE", requires = "service")]
    service_token_file: Option<PathBuf>,
    /// Authorities that certify the signing service, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "service")]
    service_ca: Option<PathBuf>,
}

impl External {
    /// The public key of the only key that these options name.
    ///
    /// # Errors
    /// [`Failure`] if there are more keys or none, or the key cannot be asked for.
    pub(super) fn public_key(&self) -> Result<PersonKey, Failure> {
        let asked = match (&*self.programs, &self.service) {
            ([program], None) => program.public_key(),
            ([], Some(key)) => self.open(key)?.public_key(),
            _ => return Err(Failure::new(exit::USAGE, "name one key, with --signer or --signing-service")),
        };
        asked.map_err(|failure| failure.while_trying("cannot get the public key"))
    }

    fn open<'k>(&'k self, key: &'k ServiceKey) -> Result<Signer<'k>, Failure> {
        let (token, ca) = (self.service_token_file.as_deref(), self.service_ca.as_deref());
        Service::new(key, token, ca).map(Signer::Service)
    }
}

enum Signer<'k> {
    Key(Box<AdministratorKey>),
    Program(&'k Program),
    Service(Service<'k>),
}

impl Signer<'_> {
    fn sign(&self, commands: &mut [SignedCommand], unit: Option<&OwnedUnitView>) -> Result<(), Failure> {
        let key = self.public_key()?;
        // Before a person touches a token in vain.
        for command in commands.iter() {
            refuse_stranger(command.command(), unit, key.ski())?;
            if command.signers().any(|signer| signer == key.ski()) {
                return Err(self.has_signed(key.ski()));
            }
        }
        commands.iter_mut().try_for_each(|command| self.sign_one(&key, command))
    }

    /// The refusal to sign a command again.
    fn has_signed(&self, ski: Ski) -> Failure {
        match self {
            Self::Key(key) => {
                let name = &key.person().name;
                Failure::new(exit::DATA, format_args!("{name} has signed this command already"))
            }
            Self::Program(_) | Self::Service(_) => Failure::new(exit::DATA, SignatureFault::Twice(ski)),
        }
    }

    fn public_key(&self) -> Result<PersonKey, Failure> {
        match self {
            Self::Key(key) => Ok(key.person().key),
            Self::Program(program) => program.public_key(),
            Self::Service(service) => service.public_key(),
        }
    }

    fn sign_one(&self, key: &PersonKey, command: &mut SignedCommand) -> Result<(), Failure> {
        let text = command.command().to_text();
        let signature = match self {
            Self::Key(file) => {
                return file.sign(command).map_err(|error| Failure::new(exit::DATA, error));
            }
            Self::Program(program) => program.sign(text.as_bytes())?,
            Self::Service(service) => service.sign(text.as_bytes())?,
        };
        command.add(key, signature).map_err(|_| {
            let ski = key.ski();
            Failure::new(
                exit::DATA,
                format_args!(
                    "the signature is not one of the command by the key {ski}: ECDSA with SHA-512 over the whole text is needed, in DER"
                ),
            )
        })
    }
}

/// Refuses the key of somebody who is not in the claim, or not an administrator of the unit.
fn refuse_stranger(command: &Command, unit: Option<&OwnedUnitView>, ski: Ski) -> Result<(), Failure> {
    let of_nobody = |what: &str| {
        let reason = format_args!("the key {ski} is of nobody {what}");
        Err(Failure::new(exit::NO_PERMISSION, reason))
    };
    match (&command.instruction, unit) {
        (Instruction::Claim { administrators, .. }, _)
            if administrators.iter().all(|person| person.key.ski() != ski) =>
        {
            of_nobody("in the claim; name each administrator with --admin when you make the claim")
        }
        (Instruction::Claim { .. }, _) | (_, None) => Ok(()),
        (_, Some(unit)) => {
            let ski = ski.to_string();
            match unit.owned && unit.administrators.iter().all(|person| person.ski != ski) {
                true => of_nobody("who is an administrator of the unit; see: keyward unit admin list"),
                false => Ok(()),
            }
        }
    }
}

/// Waits for a result, at most for `limit`. `late` says what has not happened then.
///
/// # Errors
/// The failure of `work`, or one after the time.
pub(super) fn wait<T>(
    limit: Duration,
    late: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(exit::OS, error))?;
    let done = runtime.block_on(async { tokio::time::timeout(limit, work).await });
    // A look-up of a host can take longer than the time.
    runtime.shutdown_background();
    done.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(Failure::new(exit::UNAVAILABLE, format_args!("{late} within {limit}")))
    })
}

/// Time for a signature: a person may have to find the token, to type a PIN and to touch the token.
pub(super) const PERSON_TIME: Duration = Duration::from_secs(5 * 60);
