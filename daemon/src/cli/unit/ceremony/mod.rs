//! `keyward unit ceremony`: the people at one table make a master key, or change it.
//!
//! The state of the unit decides which step is next. So a ceremony that is interrupted goes on
//! where it was, also on another terminal. Each step uses the functions of the single verbs.

mod agree;
mod bring;
mod claim;
mod dialogue;
mod load;
mod notes;
mod orders;
mod people;
mod picture;
mod record;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use keyward_unit::administration::Ski;

use self::dialogue::{agreed, compared, say, step};
use self::notes::Notes;
use super::parts::protect;
use crate::admin::client::AdminClient;
use crate::admin::unit_view::{AwaitedView, OwnedUnitView};
use crate::cli::client::RUNTIME_DIR;
use crate::cli::failure::Failure;
use crate::cli::key::for_daemon;
use crate::cli::passphrase::Source;
use crate::ground::exit;
use crate::ground::opening::described;

/// Asks people at one table for names, files and passphrases. After an interruption, such as
/// Ctrl-C, the same command goes on where the ceremony was.
#[derive(Args, Debug)]
pub(in crate::cli) struct Ceremony {
    /// File for the record, which the people sign [default: ceremony-UNIT-DATE.txt]
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Directory of the daemon's sockets
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
}

impl Ceremony {
    pub(super) fn run(self) -> Result<(), Failure> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(Failure::new(
                exit::USAGE,
                "a ceremony needs a terminal; for scripts, there is a command for each step: keyward unit --help",
            ));
        }
        protect()?;
        let failed = |failure: Failure| failure.while_trying("cannot begin the ceremony");
        let admin = AdminClient::new(&self.runtime_dir)?;
        let unit = admin.unit().map_err(|error| failed(error.into()))?;
        let record = record::file(self.record, &unit).map_err(failed)?;
        let notes = Notes::open(&unit).map_err(failed)?;
        let unit_key = unit.unit_key.parse().map_err(|error| failed(Failure::new(exit::SOFTWARE, error)))?;
        let mut session = Session { admin, notes, unit_key, passphrase: Source::default() };
        let again = for_daemon("keyward unit ceremony".into(), &self.runtime_dir);
        let stopped = |failure: Failure| {
            failure.while_trying(format_args!("the ceremony has stopped, and goes on with: {again}"))
        };
        session.greet(&unit).map_err(stopped)?;
        match session.go().map_err(stopped)? {
            None => {
                session.notes.remove()?;
                say("The master key stays as it is.")
            }
            Some(unit) => {
                session.write_record(&record, &unit)?;
                say(format_args!(
                    "\nThe master key is in force. The record is in\n{}:\nprint it, and sign it. Owners and administrators take their directories home:\nmove the files that are on the disk of this machine to a medium of their owner.\nWithout the parts or shares, nobody can restore the master key.\nThe unit is opened {}.",
                    record.display(),
                    described(&unit.opening)
                ))
            }
        }
    }
}

/// A ceremony on this terminal.
struct Session {
    admin: AdminClient,
    notes: Notes,
    /// The key of the unit, which the people have compared.
    unit_key: Ski,
    /// Each person types a passphrase on the terminal.
    passphrase: Source,
}

/// The step that the state of the unit asks for.
#[derive(Debug)]
enum Step<'u> {
    Activate,
    /// A register waits for parts.
    Bring(&'u AwaitedView),
    /// There is a master key, and people may change it.
    Change,
    Claim,
    /// The master key in the new register would open no key of the key store.
    ClearNew,
    Commit,
    End,
    Load,
}

impl Session {
    fn greet(&self, unit: &OwnedUnitView) -> Result<(), Failure> {
        say("You can stop with Ctrl-C at any time. The same command goes on later.")?;
        step("The unit", "everybody")?;
        say(format_args!(
            "Everybody writes the unit key down, or compares all its digits with the paper\nof the last time. Owners need it each time they bring a part.\n\nunit      {}\nunit key  {}",
            unit.unit, unit.unit_key
        ))?;
        compared("One of you", "the unit key", &unit.unit_key)
    }

    /// Goes from step to step. Returns the unit with its new master key, or `None` if the people
    /// change nothing.
    fn go(&mut self) -> Result<Option<OwnedUnitView>, Failure> {
        loop {
            let unit = self.unit()?;
            if unit.owned {
                self.show(&unit)?;
            }
            match next(&unit, self.notes.agreed.as_deref()) {
                Step::Activate => self.activate(&unit)?,
                Step::ClearNew => self.clear_new(&unit)?,
                Step::Bring(awaited) => {
                    if awaited.register == "new" {
                        self.hand_out(&unit.new.shares)?;
                    }
                    self.bring(&unit, awaited)?;
                }
                Step::Change => match agreed("\nThe unit has a master key in force. Change it?")? {
                    true => self.load(&unit)?,
                    false => return Ok(None),
                },
                Step::Claim => self.claim()?,
                Step::Commit => {
                    self.hand_out(&unit.new.shares)?;
                    self.commit(&unit)?;
                }
                Step::End => return Ok(Some(unit)),
                Step::Load => self.load(&unit)?,
            }
        }
    }

    /// The unit as it is now. It is the one whose key the people have compared.
    fn unit(&self) -> Result<OwnedUnitView, Failure> {
        let unit = self.admin.unit()?;
        match unit.unit_key == self.unit_key.to_string() {
            true => Ok(unit),
            false => Err(Failure::new(
                exit::NO_PERMISSION,
                "the unit has another key than at the beginning of the ceremony: it was erased or replaced",
            )),
        }
    }
}

/// The next step. `agreed` is the pattern of the master key that this ceremony puts in force.
fn next<'u>(unit: &'u OwnedUnitView, agreed: Option<&str>) -> Step<'u> {
    if !unit.owned {
        return Step::Claim;
    }
    if let Some(awaited) = unit.awaited.first() {
        return Step::Bring(awaited);
    }
    if unit.store_needs.is_some() && unit.new.wkid.is_some() && unit.new.wkid != unit.store_needs {
        return Step::ClearNew;
    }
    match (unit.new.state.as_str(), unit.current.pattern.as_deref()) {
        ("uncommitted", _) => Step::Commit,
        ("committed", _) => Step::Activate,
        (_, None) => Step::Load,
        (_, current) if current == agreed => Step::End,
        (_, Some(_)) => Step::Change,
    }
}
