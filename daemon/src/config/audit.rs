//! Section `[audit]`: the audit trail.

use core::time::Duration;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::InvalidSetting;
use crate::audit::{Copy, Signatures};

/// The audit trail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Audit {
    /// True if no key is used while the trail cannot be written.
    pub refuse_on_failure: bool,
    /// Time for which a file is kept after its last record; `None` stands for ever.
    pub keep: Option<Duration>,
    /// Greatest length of all files of records, in bytes; `None` stands for any length.
    pub keep_size: Option<u64>,
    /// Records of uses that were carried out.
    pub signatures: Signatures,
    /// Collector that gets a copy of each record.
    pub copy_to: Option<Copy>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct RawAudit {
    on_failure: String,
    keep: String,
    keep_size: String,
    signatures: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    copy_to: Option<PathBuf>,
}

impl RawAudit {
    pub(super) fn of(audit: &Audit) -> Self {
        let keep = audit.keep.map(|keep| humantime::format_duration(keep).to_string());
        Self {
            on_failure: if audit.refuse_on_failure { REFUSE } else { COUNT }.into(),
            keep: keep.unwrap_or_else(|| EVER.into()),
            keep_size: audit.keep_size.map_or_else(|| EVER.into(), size_text),
            signatures: match audit.signatures {
                Signatures::Each => EACH,
                Signatures::Summary => SUMMARY,
            }
            .into(),
            copy_to: audit.copy_to.as_ref().map(|copy| match copy {
                Copy::Journald => JOURNALD.into(),
                Copy::Datagram(path) => path.clone(),
            }),
        }
    }

    pub(super) fn check(self) -> Result<Audit, InvalidSetting> {
        let refuse_on_failure = match self.on_failure.as_str() {
            REFUSE => true,
            COUNT => false,
            other => {
                let reason = format!("{other:?} is neither {COUNT:?} nor {REFUSE:?}");
                return Err(InvalidSetting::new("audit.on-failure", reason));
            }
        };
        let signatures = match self.signatures.as_str() {
            EACH => Signatures::Each,
            SUMMARY => Signatures::Summary,
            other => {
                let reason = format!("{other:?} is neither {EACH:?} nor {SUMMARY:?}");
                return Err(InvalidSetting::new("audit.signatures", reason));
            }
        };
        let copy_to = match self.copy_to {
            Some(path) if path == Path::new(JOURNALD) => Some(Copy::Journald),
            Some(path) if path.is_absolute() => Some(Copy::Datagram(path)),
            Some(path) => {
                let path = path.display();
                let reason = format!("\"{path}\" is neither {JOURNALD:?} nor an absolute path of a socket");
                return Err(InvalidSetting::new("audit.copy-to", reason));
            }
            None => None,
        };
        Ok(Audit {
            copy_to,
            signatures,
            refuse_on_failure,
            keep: unless_ever(&self.keep).map(keep_time).transpose()?,
            keep_size: unless_ever(&self.keep_size).map(size).transpose()?,
        })
    }
}

impl Default for RawAudit {
    fn default() -> Self {
        Self::of(&Audit::default())
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            refuse_on_failure: false,
            keep: Some(Duration::from_hours(24 * 365)),
            keep_size: Some(20 << 30),
            signatures: Signatures::Each,
            copy_to: None,
        }
    }
}

fn unless_ever(text: &str) -> Option<&str> {
    (text != EVER).then_some(text)
}

fn keep_time(text: &str) -> Result<Duration, InvalidSetting> {
    let shortest = Duration::from_hours(24);
    humantime::parse_duration(text).ok().filter(|keep| *keep >= shortest).ok_or_else(|| {
        let reason = format!("{text:?} is not a time of one day or more, like \"90d\", and not {EVER:?}");
        InvalidSetting::new("audit.keep", reason)
    })
}

/// Reads a length like `20GiB`.
fn size(text: &str) -> Result<u64, InvalidSetting> {
    let read = |unit: &(&str, u64)| {
        let number: u64 = text.strip_suffix(unit.0)?.trim_end().parse().ok()?;
        number.checked_mul(unit.1)
    };
    UNITS.iter().find_map(read).filter(|size| *size >= SMALLEST).ok_or_else(|| {
        let reason = format!("{text:?} is not a length from 256MiB, like \"20GiB\", and not {EVER:?}");
        InvalidSetting::new("audit.keep-size", reason)
    })
}

fn size_text(size: u64) -> String {
    let unit = UNITS.iter().find(|(_, unit)| size.is_multiple_of(*unit)).unwrap_or(&UNITS[2]);
    format!("{}{}", size / unit.1, unit.0)
}

const REFUSE: &str = "refuse";
const COUNT: &str = "count";
const JOURNALD: &str = "journald";
const EACH: &str = "each";
const SUMMARY: &str = "summary";
const EVER: &str = "unlimited";
const UNITS: [(&str, u64); 3] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
/// Smallest total length: a few files.
const SMALLEST: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn settings_are_read_as_they_are_written() {
        let read = |text: &str| Config::parse(text, Path::new("keyward.toml"));
        let config =
            read("[audit]\non-failure = \"refuse\"\nkeep = \"90d\"\nkeep-size = \"unlimited\"\nsignatures = \"summary\"\ncopy-to = \"/run/c.sock\"").unwrap();
        let keep = Some(Duration::from_hours(24 * 90));
        let (signatures, copy_to) = (Signatures::Summary, Some(Copy::Datagram("/run/c.sock".into())));
        assert_eq!(
            config.audit,
            Audit { refuse_on_failure: true, keep, keep_size: None, signatures, copy_to }
        );
        assert_eq!(read(&config.to_effective_toml()).unwrap().audit, config.audit);
        assert_eq!(read("").unwrap().audit, Audit::default());
        assert_eq!(read(&Config::default().to_effective_toml()).unwrap().audit, Audit::default());
        for (setting, value) in [
            ("on-failure", "stop"),
            ("keep", "90"),
            ("keep", "1h"),
            ("keep-size", "1KiB"),
            ("keep-size", "-1GiB"),
            ("signatures", "none"),
            ("copy-to", "c.sock"),
        ] {
            let error = read(&format!("[audit]\n{setting} = {value:?}")).unwrap_err().to_string();
            assert!(error.contains(&format!("audit.{setting}")) && error.contains(value), "{error}");
        }
    }
}
