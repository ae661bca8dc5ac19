//! Parts and shares that their owners encrypt on machines of their own, without a daemon.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use keyward_unit::administration::Ski;
use serde_json::json;

use super::issue::{read, refuse_existing, write_new};
use super::parts::{PieceFile, aim, verified};
use crate::admin::client::AdminClient;
use crate::admin::unit_view::ImporterView;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::cli::passphrase;
use crate::ground::exit;
use crate::ground::text::quoted;

#[derive(Args, Debug)]
pub(in crate::cli) struct ShowImporter {
    /// Write the key to a new file instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    client: Client,
}

impl ShowImporter {
    pub(super) fn run(self) -> Result<(), Failure> {
        let failed = |failure: Failure| failure.while_trying("cannot get the importer key of the unit");
        let importer = AdminClient::new(&self.client.runtime_dir)
            .and_then(|admin| admin.importer())
            .map_err(|error| failed(error.into()).at(&self.client.runtime_dir))?;
        if let Some(path) = &self.out {
            write_new(path, importer.as_bytes(), 0o644).map_err(failed)?;
        }
        match &self.out {
            Some(path) if self.client.json => print_json(&json!({ "importer": importer, "file": path })),
            None if self.client.json => print_json(&ImporterView { importer }),
            None => print(&importer),
            Some(path) => print(&format!(
                "wrote the importer key of the unit to {0}\neach owner runs: keyward unit part encrypt PART --importer {0} --unit-key FINGERPRINT --out FILE\n",
                quoted(path)
            )),
        }
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Encrypt {
    /// File of the part, or of the share with --owner-key
    #[arg(value_name = "PART")]
    file: PathBuf,
    /// Output of keyward unit importer
    #[arg(long, value_name = "FILE")]
    importer: PathBuf,
    /// Fingerprint of the key of the unit, as you know it since the claim: 64 hexadecimal digits
    #[arg(long, value_name = "FINGERPRINT")]
    unit_key: Ski,
    /// Encrypt the part to load the new register, as agreed in a ceremony; without this option, the
    /// unit takes the part only for a master key that it has had before
    #[arg(long)]
    load: bool,
    /// File with the key of the owner of the share
    #[arg(long, value_name = "FILE")]
    owner_key: Option<PathBuf>,
    /// File to make: the encrypted part
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: passphrase::Source,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Encrypt {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (pattern, unit) = self.encrypt().map_err(|failure| {
            failure.while_trying(format_args!("cannot encrypt {}", self.file.display()))
        })?;
        if self.json {
            return print_json(&json!({ "pattern": pattern, "unit": unit, "load": self.load }));
        }
        print(&format!(
            "encrypted {pattern}\ncarry {0} to the machine of the unit {unit}\nthen run there: keyward unit unseal --encrypted {0}\n",
            quoted(&self.out)
        ))
    }

    /// Writes the encrypted part. Returns its pattern, and the unit that it is for.
    fn encrypt(&self) -> Result<(String, String), Failure> {
        refuse_existing(&self.out)?;
        let importer = verified(&read(&self.importer)?, self.unit_key).map_err(|failure| {
            failure.while_trying(format_args!("cannot use {}", self.importer.display()))
        })?;
        let piece = PieceFile {
            file: &self.file,
            owner_key: self.owner_key.as_deref(),
            passphrase: &self.passphrase,
        };
        let (pattern, part) = piece.encrypt(&importer, aim(self.load))?;
        write_new(&self.out, part.to_text().as_bytes(), 0o644)?;
        Ok((pattern.to_string(), importer.unit().to_string()))
    }
}

/// A part or a share that is encrypted to the importer key of a unit. The bytes are as the unit
/// takes them.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct EncryptedPart(pub(super) Vec<u8>);

impl EncryptedPart {
    /// Reads the output of [`Self::to_text`] from a file.
    ///
    /// # Errors
    /// [`Failure`] if the file cannot be read, or is not an encrypted part.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        Self::from_text(&read(path)?).map_err(|reason| {
            Failure::new(
                exit::DATA,
                format_args!(
                    "cannot read {}: {reason}; make the file with: keyward unit part encrypt",
                    path.display()
                ),
            )
        })
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("an encrypted part is not longer than {MAX_TEXT} bytes"));
        }
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        if first != FIRST_LINE {
            // The line stays out of the message: it may be a passphrase, in the wrong file.
            return Err(format!("the first line is not {FIRST_LINE:?}"));
        }
        let bytes = rest.strip_suffix('\n').and_then(|line| STANDARD.decode(line).ok());
        let is_whole = |bytes: &Vec<u8>| LENGTHS.contains(&bytes.len());
        bytes.filter(is_whole).map(Self).ok_or_else(|| "the encrypted part is damaged".into())
    }

    /// The file: a line that says what it is, and the bytes in base64.
    fn to_text(&self) -> String {
        format!("{FIRST_LINE}\n{}\n", STANDARD.encode(&self.0))
    }
}

const FIRST_LINE: &str = "keyward encrypted part 1";
/// Longest text, in bytes. An encrypted share has 274.
const MAX_TEXT: usize = 512;
/// Lengths of an encrypted part and of an encrypted share, in bytes: an ephemeral key of 133, a
/// part of 33 or a share of 35, and a tag of 16.
const LENGTHS: [usize; 2] = [133 + 33 + 16, 133 + 35 + 16];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encrypted_part_is_read_as_written_and_nothing_else_is() {
        for length in LENGTHS {
            let part = EncryptedPart(vec![7; length]);
            assert_eq!(EncryptedPart::from_text(&part.to_text()), Ok(part));
        }
        let text = EncryptedPart(vec![7; LENGTHS[0]]).to_text();
        for (bad, reason) in [
            (String::new(), "the first line"),
            (text.replace("part 1", "part 2"), "the first line"),
            (text.trim_end().to_owned(), "damaged"),
            (text.replace("Bwc", "B c"), "damaged"),
            (format!("{text}{text}"), "longer than 512 bytes"),
            (format!("{text}\n"), "damaged"),
            (EncryptedPart(vec![7; LENGTHS[0] - 3]).to_text(), "damaged"),
            (EncryptedPart(vec![7; LENGTHS[1] + 3]).to_text(), "damaged"),
            ("x".repeat(MAX_TEXT + 1), "longer than"),
        ] {
            let error = EncryptedPart::from_text(&bad).unwrap_err();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }
}
