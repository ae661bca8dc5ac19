//! The record of a ceremony, which the people sign by hand. The record has no secret.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::super::issue::write_new;
use super::Session;
use super::notes::{Noted, Notes};
use crate::admin::status_view::StatusView;
use crate::admin::trail_view::AuditView;
use crate::admin::unit_view::OwnedUnitView;
use crate::cli::failure::Failure;
use crate::cli::output::time;
use crate::ground::exit;
use crate::ground::opening::described;
use crate::keys::now;

/// The file of the record: `chosen`, or a new one in the working directory that names the unit and
/// the day.
///
/// # Errors
/// A [`Failure`] if the chosen file is there: a record is not overwritten.
pub(super) fn file(chosen: Option<PathBuf>, unit: &OwnedUnitView) -> Result<PathBuf, Failure> {
    let day = time(now());
    let day = day.split('T').next().unwrap_or(&day);
    let Some(path) = chosen else {
        let name = |number: u32| match number {
            1 => PathBuf::from(format!("ceremony-{}-{day}.txt", unit.unit)),
            _ => PathBuf::from(format!("ceremony-{}-{day}-{number}.txt", unit.unit)),
        };
        return Ok((1..).map(name).find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| name(1)));
    };
    match path.symlink_metadata() {
        Err(_) => Ok(path),
        Ok(_) => Err(Failure::new(
            exit::CANNOT_CREATE,
            format_args!(
                "cannot write the record {}: the file exists; name another one with --record",
                path.display()
            ),
        )),
    }
}

impl Session {
    /// Writes the record, and removes the notes.
    pub(super) fn write_record(&self, path: &Path, unit: &OwnedUnitView) -> Result<(), Failure> {
        // Not every caller may see the state of the daemon.
        let status = self.admin.status().ok();
        write_new(path, text(unit, &self.notes, status.as_ref(), now()).as_bytes(), 0o644)?;
        self.notes.remove()
    }
}

fn text(unit: &OwnedUnitView, notes: &Notes, status: Option<&StatusView>, now: u64) -> String {
    let daemon = status.map(|status| format!(", daemon {}", status.version)).unwrap_or_default();
    let mut text = format!(
        "Record of the ceremony of a crypto unit\n\nDate (UTC)  {}\nUnit        {}\nUnit key    {}\nSoftware    keyward {}{daemon}\n",
        time(now),
        unit.unit,
        unit.unit_key,
        env!("CARGO_PKG_VERSION")
    );
    text += &format!("Opened      {}\n", described(&unit.opening));
    text += &format!(
        "\nAdministrators: {} sign, {} sign the removal of one\n",
        unit.signature_threshold, unit.revocation_threshold
    );
    unit.administrators.iter().for_each(|person| text += &row(&person.name, &person.ski));
    text += &master_key(unit, notes);
    text += &commands(unit, notes);
    text += &status.and_then(|status| status.audit.as_ref()).map(trail).unwrap_or_default();
    text + &signatures(unit, notes)
}

fn master_key(unit: &OwnedUnitView, notes: &Notes) -> String {
    let register = &unit.current;
    let needed = register.needed.unwrap_or_default();
    let mut text = format!(
        "\nMaster key in force\n{}\n{}\nOwners: {needed} of {} make the master key\n",
        row("pattern", register.pattern.as_deref().unwrap_or("none")).trim_end(),
        row("in backups", register.wkid.as_deref().unwrap_or("none")).trim_end(),
        register.parts.len()
    );
    for pattern in &register.parts {
        text += &row(notes.owners.get(pattern).map_or("(not known)", String::as_str), pattern);
    }
    text
}

fn commands(unit: &OwnedUnitView, notes: &Notes) -> String {
    let mut text = "\nCommands\n".to_owned();
    if notes.first > 1 {
        text += &format!("  before {}: the audit trail has them\n", notes.first);
    }
    for counter in notes.first..unit.next_counter {
        text += &match notes.commands.iter().find(|noted| noted.counter == counter) {
            Some(Noted { command, time: at, signers, .. }) => {
                format!("  {counter:<4} {}  {command:16} signed by {}\n", time(*at), signers.join(", "))
            }
            None => format!("  {counter:<4} not of this terminal: the audit trail has it\n"),
        };
    }
    text
}

fn trail(audit: &AuditView) -> String {
    let mut text = format!("\nAudit trail\n  last record {}\n", audit.last);
    if let Some(head) = &audit.checkpoint {
        text +=
            &format!("  signed to   {}, at {}, with the hash\n  {}\n", head.through, head.time, head.hash);
    }
    text
}

fn signatures(unit: &OwnedUnitView, notes: &Notes) -> String {
    let mut text = "\nWe were there, and have compared the patterns above with our papers.\n".to_owned();
    let administrators = unit.administrators.iter().map(|person| person.name.as_str());
    let owners = unit.current.parts.iter().filter_map(|pattern| notes.owners.get(pattern));
    let names: BTreeSet<&str> = administrators.chain(owners.map(String::as_str)).collect();
    for name in names.into_iter().chain(["name"; WITNESSES]) {
        text += &format!("\n\n{}\n{name:30} signature{:26}date\n", "_".repeat(78), "");
    }
    text
}

fn row(name: &str, digits: &str) -> String {
    format!("  {name:12} {digits}\n")
}

/// Number of lines for others who were there, such as root and witnesses.
const WITNESSES: usize = 2;
