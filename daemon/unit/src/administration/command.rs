//! Commands of administrators, as the text that they sign.
//!
//! ```text
//! keyward unit command 1
//! unit: 6f1d…                         identity of the unit, 32 hexadecimal digits
//! counter: 12                         place in the order of all commands of the unit
//! expires: 2026-12-24T12:00:00Z
//! command: commit
//! pattern: 491176b0…                  the fields of the command
//! ```
//!
//! A person can read the text before signing. Each command has exactly one text: a text is accepted
//! only if it is the text that this module writes for the command.

use core::fmt::{self, Write};
use core::str::FromStr;
use core::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::part::PARTS;
use super::pattern::Pattern;
use super::person::{Person, PersonKey, PersonName, Ski};
use super::shares::{MAX_SHARES, is_number_of_shares};
use crate::profile::Profile;

/// The identity of a unit: 16 random bytes.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct UnitId(pub(crate) [u8; UnitId::LENGTH]);

impl UnitId {
    pub(crate) const LENGTH: usize = 16;
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitId({self})")
    }
}

impl FromStr for UnitId {
    type Err = InvalidCommand;

    /// Reads the output of `Display`.
    fn from_str(text: &str) -> Result<Self, InvalidCommand> {
        let mut id = [0; Self::LENGTH];
        match base16ct::lower::decode(text, &mut id) {
            Ok(bytes) if bytes.len() == Self::LENGTH => Ok(Self(id)),
            _ => Err(InvalidCommand::Field("unit")),
        }
    }
}

/// One of the two registers of a unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RegisterName {
    /// The master key in force.
    Current,
    /// The master key that will be in force.
    New,
}

impl RegisterName {
    /// Name in commands and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::New => "new",
        }
    }
}

/// Numbers of signatures that commands need.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Thresholds {
    /// For most commands.
    pub signature: u8,
    /// To remove an administrator.
    pub revocation: u8,
}

/// The effect that a command has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Instruction {
    /// Makes the new master key the current one.
    Activate(Pattern),
    /// Adds an administrator.
    AddAdministrator(Person),
    /// Gives a unit that nobody owns its administrators and thresholds.
    Claim {
        /// The administrators.
        administrators: Vec<Person>,
        /// Their thresholds.
        thresholds: Thresholds,
    },
    /// Empties a register that has the master key of this pattern.
    Clear(RegisterName, Pattern),
    /// Agrees to the master key in the new register.
    Commit(Pattern),
    /// Has the unit make a new master key, and split it among owners.
    GenerateShares {
        /// Number of shares that make the key.
        needed: u8,
        /// The owners of shares 1, 2, and so on.
        owners: Vec<Person>,
    },
    /// Loads the new register from parts.
    LoadParts(Vec<Pattern>),
    /// Loads the new register from shares.
    LoadShares {
        /// Number of shares that make the key.
        needed: u8,
        /// Indexes and patterns of all shares, in the order of the indexes.
        shares: Vec<(u8, Pattern)>,
    },
    /// Removes an administrator.
    RemoveAdministrator {
        /// The identity.
        ski: Ski,
        /// The name, which the people who sign know.
        name: PersonName,
    },
    /// Sets the control points of a unit that serves GREP11.
    SetControlPoints(Profile),
    /// Sets both thresholds.
    SetThresholds(Thresholds),
    /// Erases the unit.
    Zeroize,
}

impl Instruction {
    /// Name in commands and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Activate(_) => "activate",
            Self::AddAdministrator(_) => "add-administrator",
            Self::Claim { .. } => "claim",
            Self::Clear(..) => "clear",
            Self::Commit(_) => "commit",
            Self::GenerateShares { .. } => "generate-shares",
            Self::LoadParts(_) => "load-parts",
            Self::LoadShares { .. } => "load-shares",
            Self::RemoveAdministrator { .. } => "remove-administrator",
            Self::SetControlPoints(_) => "set-control-points",
            Self::SetThresholds(_) => "set-thresholds",
            Self::Zeroize => "zeroize",
        }
    }
}

/// A command for one unit, for one place in the order of its commands, and for some time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Command {
    /// The unit.
    pub unit: UnitId,
    /// Place in the order of all commands of the unit: one more than the last command.
    pub counter: u64,
    /// Second since 1970 from which on the unit refuses the command.
    pub expires: u64,
    /// The effect of the command.
    pub instruction: Instruction,
}

impl Command {
    /// The people whom the command names.
    pub fn people(&self) -> &[Person] {
        match &self.instruction {
            Instruction::AddAdministrator(person) => core::slice::from_ref(person),
            Instruction::Claim { administrators, .. } => administrators,
            Instruction::GenerateShares { owners, .. } => owners,
            _ => &[],
        }
    }

    /// The text that administrators sign.
    pub fn to_text(&self) -> String {
        let expires = UNIX_EPOCH + Duration::from_secs(self.expires.min(LAST_SECOND));
        let mut text = format!(
            "{FIRST_LINE}\nunit: {}\ncounter: {}\nexpires: {}\ncommand: {}\n",
            self.unit,
            self.counter,
            humantime::format_rfc3339_seconds(expires),
            self.instruction.name()
        );
        // Writing to a string cannot fail.
        let _ = self.write_fields(&mut text);
        text
    }

    fn write_fields(&self, text: &mut String) -> fmt::Result {
        let thresholds = |text: &mut String, thresholds: &Thresholds| {
            writeln!(text, "signature-threshold: {}", thresholds.signature)?;
            writeln!(text, "revocation-threshold: {}", thresholds.revocation)
        };
        match &self.instruction {
            Instruction::Activate(pattern) | Instruction::Commit(pattern) => {
                writeln!(text, "pattern: {pattern}")
            }
            Instruction::AddAdministrator(person) => write_person(text, "administrator", person),
            Instruction::Claim { administrators, thresholds: both } => {
                thresholds(text, both)?;
                administrators.iter().try_for_each(|person| write_person(text, "administrator", person))
            }
            Instruction::Clear(register, pattern) => {
                writeln!(text, "register: {}\npattern: {pattern}", register.name())
            }
            Instruction::GenerateShares { needed, owners } => {
                writeln!(text, "needed: {needed}")?;
                owners.iter().try_for_each(|owner| write_person(text, "owner", owner))
            }
            Instruction::LoadParts(parts) => {
                parts.iter().try_for_each(|pattern| writeln!(text, "part: {pattern}"))
            }
            Instruction::LoadShares { needed, shares } => {
                writeln!(text, "needed: {needed}")?;
                shares.iter().try_for_each(|(index, pattern)| writeln!(text, "share: {index} {pattern}"))
            }
            Instruction::RemoveAdministrator { ski, name } => {
                writeln!(text, "administrator: {name} {ski}")
            }
            Instruction::SetControlPoints(profile) => writeln!(text, "profile: {profile}"),
            Instruction::SetThresholds(both) => thresholds(text, both),
            Instruction::Zeroize => Ok(()),
        }
    }

    /// Reads the output of [`Self::to_text`].
    ///
    /// # Errors
    /// [`InvalidCommand`] names the field that is missing or wrong.
    pub fn from_text(text: &str) -> Result<Self, InvalidCommand> {
        if text.len() > MAX_TEXT {
            return Err(InvalidCommand::Long);
        }
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(InvalidCommand::NoCommand);
        }
        let mut fields = Fields(lines.map(|line| line.split_once(": ").unwrap_or((line, ""))).collect());
        let command = Self {
            unit: fields.one("unit")?.parse()?,
            counter: fields.number("counter")?,
            expires: fields.time("expires")?,
            instruction: fields.instruction()?,
        };
        // The rest are lines that nobody asked for, and other ways to write the same.
        match command.to_text() == text {
            true => Ok(command),
            false => Err(InvalidCommand::OtherForm),
        }
    }
}

fn write_person(text: &mut String, field: &str, person: &Person) -> fmt::Result {
    writeln!(text, "{field}: {} {}", person.name, STANDARD.encode(person.key.to_spki()))
}

/// The lines of a command that are not read yet, as names and values.
struct Fields<'t>(std::collections::VecDeque<(&'t str, &'t str)>);

impl<'t> Fields<'t> {
    /// The value of the next line, which has this name.
    fn one(&mut self, name: &'static str) -> Result<&'t str, InvalidCommand> {
        self.next_of(name).ok_or(InvalidCommand::Field(name))
    }

    fn next_of(&mut self, name: &str) -> Option<&'t str> {
        self.0.pop_front_if(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The values of all next lines with this name.
    fn all<T>(
        &mut self,
        name: &'static str,
        most: usize,
        parse: impl Fn(&'t str) -> Option<T>,
    ) -> Result<Vec<T>, InvalidCommand> {
        let mut values = Vec::new();
        while let Some(value) = self.next_of(name) {
            values.push(parse(value).filter(|_| values.len() < most).ok_or(InvalidCommand::Field(name))?);
        }
        Ok(values)
    }

    fn number<T: FromStr>(&mut self, name: &'static str) -> Result<T, InvalidCommand> {
        self.one(name)?.parse().map_err(|_| InvalidCommand::Field(name))
    }

    fn time(&mut self, name: &'static str) -> Result<u64, InvalidCommand> {
        let time = humantime::parse_rfc3339(self.one(name)?).ok();
        let time = time.and_then(|time: SystemTime| time.duration_since(UNIX_EPOCH).ok());
        time.map(|since| since.as_secs()).ok_or(InvalidCommand::Field(name))
    }

    fn pattern(&mut self) -> Result<Pattern, InvalidCommand> {
        self.number("pattern")
    }

    fn thresholds(&mut self) -> Result<Thresholds, InvalidCommand> {
        let signature = self.number("signature-threshold")?;
        Ok(Thresholds { signature, revocation: self.number("revocation-threshold")? })
    }

    fn persons(&mut self, name: &'static str, most: usize) -> Result<Vec<Person>, InvalidCommand> {
        self.all(name, most, |value| {
            let (name, key) = value.split_once(' ')?;
            let key = PersonKey::from_spki(&STANDARD.decode(key).ok()?).ok()?;
            Some(Person { name: name.parse().ok()?, key })
        })
    }

    fn needed(&mut self) -> Result<u8, InvalidCommand> {
        let needed = self.number("needed")?;
        is_number_of_shares(needed).then_some(needed).ok_or(InvalidCommand::Field("needed"))
    }

    fn instruction(&mut self) -> Result<Instruction, InvalidCommand> {
        Ok(match self.one("command")? {
            "activate" => Instruction::Activate(self.pattern()?),
            "add-administrator" => {
                let person = self.persons("administrator", 1)?.pop();
                Instruction::AddAdministrator(person.ok_or(InvalidCommand::Field("administrator"))?)
            }
            "claim" => Instruction::Claim {
                thresholds: self.thresholds()?,
                administrators: self.persons("administrator", MAX_ADMINISTRATORS)?,
            },
            "clear" => {
                let register = match self.one("register")? {
                    "current" => RegisterName::Current,
                    "new" => RegisterName::New,
                    _ => return Err(InvalidCommand::Field("register")),
                };
                Instruction::Clear(register, self.pattern()?)
            }
            "commit" => Instruction::Commit(self.pattern()?),
            "generate-shares" => {
                let needed = self.needed()?;
                let owners = self.persons("owner", usize::from(MAX_SHARES))?;
                // One person with two shares would be a quorum alone.
                let are_different = owners.iter().enumerate().all(|(place, owner)| {
                    owners[..place].iter().all(|other| other.name != owner.name && other.key != owner.key)
                });
                check(owners.len() >= usize::from(needed) && are_different, "owner")?;
                Instruction::GenerateShares { needed, owners }
            }
            "load-parts" => {
                let parts = self.all("part", *PARTS.end(), |value| value.parse::<Pattern>().ok())?;
                check(PARTS.contains(&parts.len()) && are_different(&parts), "part")?;
                Instruction::LoadParts(parts)
            }
            "load-shares" => {
                let needed = self.needed()?;
                let shares = self.all("share", usize::from(MAX_SHARES), |value| {
                    let (index, pattern) = value.split_once(' ')?;
                    let index = index.parse().ok().filter(|index| (1..=MAX_SHARES).contains(index))?;
                    Some((index, pattern.parse::<Pattern>().ok()?))
                })?;
                let patterns: Vec<_> = shares.iter().map(|(_, pattern)| *pattern).collect();
                let are_in_order = shares.is_sorted_by(|(one, _), (next, _)| one < next);
                let are_enough = shares.len() >= usize::from(needed);
                check(are_in_order && are_enough && are_different(&patterns), "share")?;
                Instruction::LoadShares { needed, shares }
            }
            "remove-administrator" => {
                let removed = self.all("administrator", 1, |value| {
                    let (name, ski) = value.split_once(' ')?;
                    Some((name.parse().ok()?, ski.parse().ok()?))
                })?;
                let removed = removed.into_iter().next();
                let (name, ski) = removed.ok_or(InvalidCommand::Field("administrator"))?;
                Instruction::RemoveAdministrator { ski, name }
            }
            "set-control-points" => Instruction::SetControlPoints(self.number("profile")?),
            "set-thresholds" => Instruction::SetThresholds(self.thresholds()?),
            "zeroize" => Instruction::Zeroize,
            _ => return Err(InvalidCommand::Field("command")),
        })
    }
}

fn check(holds: bool, field: &'static str) -> Result<(), InvalidCommand> {
    if holds { Ok(()) } else { Err(InvalidCommand::Field(field)) }
}

fn are_different(patterns: &[Pattern]) -> bool {
    patterns.iter().enumerate().all(|(place, pattern)| !patterns[..place].contains(pattern))
}

/// A text that is not a command. The errors quote nothing of the text.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum InvalidCommand {
    /// A field is missing, in another place, or has a wrong value.
    #[error("the field {0} of the command is missing, in another place, or wrong")]
    Field(&'static str),
    /// The text is too long.
    #[error("the command is longer than {MAX_TEXT} bytes")]
    Long,
    /// The text does not begin as a command does.
    #[error("not a command: the first line must be {FIRST_LINE:?}")]
    NoCommand,
    /// The text has further lines, or the same in another form.
    #[error("the command has further lines, or is not in the form in which commands are written")]
    OtherForm,
}

/// Most administrators of a unit, as of EP11 units.
pub const MAX_ADMINISTRATORS: usize = 8;

/// First line of each command.
pub(crate) const FIRST_LINE: &str = "keyward unit command 1";

/// Longest text of a command, in bytes. A split among 16 owners has some 4,300.
pub(crate) const MAX_TEXT: usize = 8192;

/// The last second of the year 9999, after which RFC 3339 has no times.
const LAST_SECOND: u64 = 253_402_300_799;

#[cfg(test)]
pub(crate) mod tests;
