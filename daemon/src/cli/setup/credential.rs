//! The encrypted credential: `systemd-creds` binds the secret to this machine.

use std::path::Path;

use serde::Serialize;
use zeroize::Zeroizing;

use super::files;
use crate::cli::failure::Failure;
use crate::cli::program::{self, ProgramError};
use crate::ground::exit;
use crate::ground::text::quoted;

/// The key that encrypts a credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Binding {
    /// The key of the host, in /var/lib/systemd/credential.secret.
    Host,
    /// The key of the host and the TPM of the machine.
    Tpm,
}

impl Binding {
    /// The option of systemd-creds. The systemd of Debian 12 falls back to the key of the host by
    /// itself without it, and does not say so in a way that a program can read.
    fn option(self) -> &'static str {
        match self {
            Self::Host => "--with-key=host",
            Self::Tpm => "--with-key=host+tpm2",
        }
    }

    /// The words for people.
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Host => {
                "the key of this host, which is on the disk (/var/lib/systemd/credential.secret): a stolen disk has the keys"
            }
            Self::Tpm => "the TPM of this machine, and the key of this host",
        }
    }
}

/// Encrypts a secret into a new file, and checks that it can be decrypted.
///
/// # Errors
/// [`Failure`] if the machine has a TPM that cannot be used, unless `without_tpm` is true, or if
/// the file exists or cannot be made.
pub(super) fn make(file: &Path, secret: &str, without_tpm: bool) -> Result<Binding, Failure> {
    let (encrypted, binding) = encrypt(secret, without_tpm)?;
    if *decrypt(&encrypted)? != *secret {
        let reason = "systemd-creds decrypts another secret than it has encrypted; nothing was made";
        return Err(Failure::new(exit::SOFTWARE, reason));
    }
    // The file is no secret, and systemd makes it with this mode, too.
    files::make(file, &encrypted, 0o644, None)?;
    Ok(binding)
}

/// Decrypts the secret of a credential on this machine.
///
/// # Errors
/// [`Failure`] if this machine cannot decrypt it.
pub(super) fn decrypt(encrypted: &[u8]) -> Result<Zeroizing<String>, Failure> {
    decrypt_as(NAME, encrypted)
}

/// Decrypts the credential of an earlier version, which has a master key.
///
/// # Errors
/// See [`decrypt`].
pub(super) fn decrypt_master_key(encrypted: &[u8]) -> Result<Zeroizing<String>, Failure> {
    decrypt_as("--name=master-key", encrypted)
}

fn decrypt_as(name: &str, encrypted: &[u8]) -> Result<Zeroizing<String>, Failure> {
    let output = program::run(CREDS, &["decrypt", name, "-", "-"], encrypted);
    let output = output.map_err(|error| failed("decrypt", &error, ""))?;
    let text = str::from_utf8(&output).unwrap_or_default().trim();
    Ok(Zeroizing::new(text.to_owned()))
}

/// The command that makes the credential again of a copy of its secret, with the same binding if it
/// is known.
pub(super) fn restoring(copy: &Path, file: &Path, binding: Option<Binding>) -> String {
    let key = binding.map(|binding| format!("{} ", binding.option())).unwrap_or_default();
    format!("{CREDS} encrypt {key}{NAME} {} {}", quoted(copy), quoted(file))
}

fn encrypt(secret: &str, without_tpm: bool) -> Result<(Zeroizing<Vec<u8>>, Binding), Failure> {
    let with = |binding: Binding| {
        let words = ["encrypt", binding.option(), NAME, "-", "-"];
        program::run(CREDS, &words, secret.as_bytes()).map(|encrypted| (encrypted, binding))
    };
    match (!without_tpm).then(|| with(Binding::Tpm)) {
        Some(Ok(encrypted)) => return Ok(encrypted),
        Some(Err(error)) if !matches!(error, ProgramError::Ended { .. }) || has_tpm() => {
            return Err(failed("encrypt", &error, advice(&error)));
        }
        Some(Err(_)) | None => {}
    }
    with(Binding::Host).map_err(|error| failed("encrypt", &error, ""))
}

/// True if the kernel has a driver for a TPM 2.0 of this machine.
fn has_tpm() -> bool {
    // The status says whether everything is there, such as support by the firmware.
    match program::run_any(CREDS, &["has-tpm2"]) {
        Ok(output) => String::from_utf8_lossy(&output).split_whitespace().any(|word| word == "+driver"),
        Err(_) => false,
    }
}

fn advice(error: &ProgramError) -> &'static str {
    match error {
        ProgramError::Ended { .. } => TPM_ADVICE,
        _ => "; install systemd 250 or later, or choose passphrase or unprotected",
    }
}

fn failed(verb: &str, error: &ProgramError, advice: &str) -> Failure {
    Failure::new(exit::UNAVAILABLE, format_args!("cannot {verb} the unseal key: {error}{advice}"))
}

const CREDS: &str = "systemd-creds";
/// systemd checks that a credential is used under its own name.
const NAME: &str = "--name=unseal-key";
const TPM_ADVICE: &str = "; this machine has a TPM: on Debian, install the packages that systemd needs for it (apt-get install libtss2-esys-3.0.2-0 libtss2-rc0 libtss2-tcti-device0) and run keyward setup again, or do without the TPM: keyward setup --unseal credential --without-tpm";
