//! The choice: the way in which the unit gets its master key after a start.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::ground::exit;

/// The choice of a person, for a new installation.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Choice {
    /// People bring parts of the master key after each start
    Owners,
    /// A secret that systemd has encrypted, with the TPM if there is one
    Credential,
    /// A passphrase in a file
    Passphrase,
    /// A secret in a plain file
    Unprotected,
}

/// The way in which a unit gets its master key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Way {
    Credential,
    /// From the plain file of the master key, as in installations of earlier versions.
    MasterKey,
    Owners,
    Passphrase,
    Unprotected,
}

impl Way {
    /// The ways with a file, the one of an existing installation first.
    pub(super) const WITH_FILE: [Self; 4] =
        [Self::MasterKey, Self::Credential, Self::Passphrase, Self::Unprotected];

    /// The way that a credential of the service makes. `None` for a credential with something else.
    pub(super) fn of_credential(name: &str, is_encrypted: bool) -> Option<Self> {
        match (name, is_encrypted) {
            ("master-key", false) => Some(Self::MasterKey),
            ("unseal-key", false) => Some(Self::Unprotected),
            ("master-key" | "unseal-key", true) => Some(Self::Credential),
            ("unseal-passphrase", _) => Some(Self::Passphrase),
            _ => None,
        }
    }

    /// True if the secret is a plain file.
    pub(super) fn is_plain(self) -> bool {
        matches!(self, Self::MasterKey | Self::Unprotected)
    }

    /// Name of the credential, and of the setting in section `[embedded]`, that has the secret.
    pub(super) fn setting(self) -> Option<&'static str> {
        match self {
            Self::Owners => None,
            Self::MasterKey => Some("master-key"),
            Self::Credential | Self::Unprotected => Some("unseal-key"),
            Self::Passphrase => Some("unseal-passphrase"),
        }
    }

    /// The file that the setup makes in a directory, or keeps there.
    pub(super) fn file(self, dir: &Path) -> Option<PathBuf> {
        let name = match self {
            Self::Owners => return None,
            Self::MasterKey => "master.key",
            Self::Credential => "unseal-key.cred",
            Self::Passphrase => "unseal.passphrase",
            Self::Unprotected => "unseal.key",
        };
        Some(dir.join(name))
    }

    /// True if this way is the one that a person has chosen.
    pub(super) fn is(self, choice: Choice) -> bool {
        // The plain file of earlier versions is no better protected.
        self == choice.into() || (self, choice) == (Self::MasterKey, Choice::Unprotected)
    }

    /// The words for people.
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Credential => "by an encrypted credential of systemd",
            Self::MasterKey => "by the plain file of its master key: unprotected",
            Self::Owners => "by its owners, who bring their parts after each start",
            Self::Passphrase => "by a passphrase in a file",
            Self::Unprotected => "by a secret in a plain file: unprotected",
        }
    }
}

impl From<Choice> for Way {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Owners => Self::Owners,
            Choice::Credential => Self::Credential,
            Choice::Passphrase => Self::Passphrase,
            Choice::Unprotected => Self::Unprotected,
        }
    }
}

/// True if a person can be asked.
pub(super) fn is_on_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Explains the choices, and asks for one.
///
/// # Errors
/// [`Failure`] if the answer is none of the choices.
pub(super) fn ask() -> Result<Choice, Failure> {
    eprint!("{EXPLANATION}");
    let answer = answer_to("Your choice: ")?;
    Choice::from_str(&answer, true).map_err(|_| {
        let reason = "no choice was made: the answer must be owners, credential, passphrase or unprotected";
        Failure::new(exit::USAGE, reason)
    })
}

/// Asks a question. Returns the answer without blanks around it.
///
/// # Errors
/// [`Failure`] if the terminal is gone.
pub(super) fn answer_to(question: &str) -> Result<String, Failure> {
    let mut answer = String::new();
    eprint!("{question}");
    let read = io::stderr()
        .flush()
        .and_then(|()| io::stdin().lock().take(LONGEST_ANSWER).read_line(&mut answer).map(drop));
    read.map_err(|error| Failure::new(exit::IO, format_args!("cannot read the answer: {error}")))?;
    Ok(answer.trim().to_owned())
}

const EXPLANATION: &str = "\
The master key of the software crypto unit wraps every key. After each start of
the daemon, the unit needs its master key. Choose who or what brings it:

owners       People who each have a part. After a reboot, they must come.
             A stolen disk, a stolen backup: without the parts, no keys.
             Root: can read the keys from memory while the unit is open.
credential   A secret that systemd encrypts, with the TPM if there is one.
             After a reboot, nobody must come.
             A stolen disk: no keys with a TPM. Without a TPM: all keys.
             A stolen backup: no keys. Without a TPM, all keys if it has
             /var/lib/systemd/credential.secret. Root: all keys.
passphrase   A passphrase in a file, if you like on another medium.
             After a reboot, nobody must come if the file is there.
             A stolen disk, a stolen backup: all keys if the file is in it.
             Root: all keys.
unprotected  A secret in a plain file. After a reboot, nobody must come.
             A stolen disk: all keys. A stolen backup: all keys if the file is
             in it. Root: all keys.

";

/// Longest answer, in bytes.
const LONGEST_ANSWER: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_explanation_fits_a_terminal_and_names_each_choice() {
        assert!(EXPLANATION.lines().all(|line| line.len() <= 80));
        for choice in Choice::value_variants() {
            let name = choice.to_possible_value().unwrap().get_name().to_owned();
            assert!(EXPLANATION.contains(&format!("\n{name} ")), "{name}");
        }
        // The page names the same file.
        let page = include_str!("../../../../docs/setup.md");
        let host_key = "/var/lib/systemd/credential.secret";
        assert!(EXPLANATION.contains(host_key) && page.contains(host_key));
    }
}
