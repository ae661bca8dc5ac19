//! `keyward audit verify`: checks a trail with the public audit key.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::audit::{self, AuditKey, Checkpoint, Head, TrailError};
use crate::cli::client::STATE_DIR;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::ground::exit;

/// Exits with 0 if the whole trail is signed, 1 if it is not as it was written, 2 if records at the
/// end are not signed, or if the record of a copy of head was removed.
#[derive(Args, Debug)]
pub(in crate::cli) struct Verify {
    /// Directory of the trail, or of a copy
    #[arg(long, value_name = "DIR", default_value_os_t = PathBuf::from(STATE_DIR).join("audit"))]
    dir: PathBuf,
    /// File with the public audit key in PEM: a copy that was kept elsewhere
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File with a copy of head that was kept elsewhere: the trail must have its record
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Print the result in JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        let pem = fs::read(&self.key).map_err(|error| Failure::reading(&self.key, &error))?;
        let not_a_key = || {
            let path = self.key.display();
            Failure::new(exit::DATA, format_args!("cannot read {path}: not a public key with P-256 in PEM"))
        };
        let (label, spki) = pem_rfc7468::decode_vec(&pem).map_err(|_| not_a_key())?;
        let key = AuditKey::from_spki(&spki).ok().filter(|_| label == "PUBLIC KEY").ok_or_else(not_a_key)?;
        let kept = self.head.as_deref().map(read_head).transpose()?;
        let verified = audit::verify(&self.dir, &key, kept.as_ref()).map_err(|error| match error {
            TrailError::File { path, source, .. } => Failure::reading(&path, &source),
            error => Failure::new(exit::DATA, error),
        })?;
        let (status, text, value) = match verified {
            Ok(report) => {
                let (records, first, last) = (report.records, report.first, report.last);
                let mut text = format!("{records} records, from {first} to {last}");
                let status = if report.is_whole() { 0 } else { UNSIGNED };
                if status == 0 {
                    text += ": whole and signed";
                } else if report.checkpoints == 0 {
                    text += "; nothing is signed, so nothing shows that the daemon has written them";
                } else if report.unsigned > 0 {
                    text += &format!(
                        "; the last {} are not signed, as while the daemon runs or after it was killed",
                        report.unsigned
                    );
                }
                if report.partial > 0 {
                    text += "; one more record was not written to its end, as after a kill or a full disk";
                }
                if let (Some(has), Some(Head { path, checkpoint })) = (report.has_kept, &kept) {
                    let (through, path) = (checkpoint.through, path.display());
                    text += &match has {
                        true => format!("; record {through} is the one that {path} covers"),
                        false => format!(
                            "; record {through}, which {path} covers, was removed with the beginning of the trail: keep a newer copy of head"
                        ),
                    };
                }
                let value = json!({
                    "records": records, "first": first, "last": last, "unsigned": report.unsigned,
                    "partial": report.partial, "checkpoints": report.checkpoints,
                    "has_kept_head": report.has_kept,
                });
                (status, text, value)
            }
            Err(fault) => {
                let value = json!({
                    "file": fault.place.path, "line": fault.place.line, "problem": fault.problem,
                });
                (ALTERED, fault.to_string(), value)
            }
        };
        output::print(&format!("{}\n", if self.json { value.to_string() } else { text }))?;
        if status == 0 { Ok(()) } else { Err(Failure::silent(status)) }
    }
}

/// Reads a copy of `head`.
fn read_head(path: &Path) -> Result<Head, Failure> {
    let read = File::open(path).and_then(Checkpoint::read);
    let checkpoint = read.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            Failure::new(exit::DATA, format_args!("cannot read {}: {error}", path.display()))
        }
        _ => Failure::reading(path, &error),
    })?;
    Ok(Head { path: path.to_owned(), checkpoint })
}

/// Exit status if a record is missing, changed, inserted or out of order.
const ALTERED: u8 = 1;
/// Exit status if records at the end are not signed, or cannot be compared.
const UNSIGNED: u8 = 2;
