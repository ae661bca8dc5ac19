//! `keyward unit compare`: whether units are interchangeable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::admin::client::AdminClient;
use crate::admin::unit_view::{OwnedUnitView, RegisterView};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::input::read_input;
use crate::cli::output::{print, print_json, print_table, table, warn};
use crate::ground::exit;
use crate::ground::opening::described;

/// Exits with 0 if the units have the same administrators, thresholds and registers, 1 if they
/// differ.
#[derive(Args, Debug)]
pub(in crate::cli) struct Compare {
    /// Output of `keyward unit status --json` of another machine, or - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    client: Client,
}

impl Compare {
    pub(super) fn run(self) -> Result<(), Failure> {
        let failed = |failure: Failure| failure.while_trying("cannot compare the units");
        let here = AdminClient::new(&self.client.runtime_dir)
            .and_then(|admin| admin.unit())
            .map_err(|error| failed(error.into()).at(&self.client.runtime_dir))?;
        let mut units = vec![Compared::of(HERE.into(), here)];
        for file in &self.files {
            let unit = read_unit(file).map_err(failed)?;
            units.push(Compared::of(file.display().to_string(), unit));
        }
        let differences = differences(&units);
        warn_of_copies(&units);
        if self.client.json {
            let same = differences.is_empty();
            print_json(&serde_json::json!({ "same": same, "differences": differences, "units": units }))?;
        } else {
            print_units(&units)?;
            print(&differences.iter().map(Difference::to_text).collect::<String>())?;
        }
        if differences.is_empty() { Ok(()) } else { Err(Failure::silent(DIFFERENT)) }
    }
}

fn read_unit(file: &Path) -> Result<OwnedUnitView, Failure> {
    serde_json::from_slice(&read_input(file)?).map_err(|_| {
        Failure::new(
            exit::DATA,
            format_args!(
                "cannot read {}: it is not the output of: keyward unit status --json",
                file.display()
            ),
        )
    })
}

/// A unit, as far as it is compared.
#[derive(Debug, Serialize)]
struct Compared {
    /// File of the unit, or [`HERE`].
    from: String,
    unit: String,
    owned: bool,
    sealed: bool,
    /// The way in which the unit gets its master key after a start.
    opening: String,
    control_points: String,
    signature_threshold: u8,
    revocation_threshold: u8,
    /// Names of the administrators by their identities. People may be named differently.
    administrators: BTreeMap<String, String>,
    current: Compartment,
    new: Compartment,
}

/// A register, as far as it is compared.
#[derive(Debug, Serialize)]
struct Compartment {
    state: String,
    pattern: Option<String>,
    /// Number of parts or shares that make the master key; 0 without owners.
    needed: Option<usize>,
    /// Number of parts or shares.
    parts: usize,
}

impl Compared {
    fn of(from: String, unit: OwnedUnitView) -> Self {
        let administrators = unit.administrators.into_iter().map(|person| (person.ski, person.name));
        Self {
            from,
            unit: unit.unit,
            owned: unit.owned,
            sealed: unit.sealed,
            opening: unit.opening,
            control_points: unit.control_points,
            signature_threshold: unit.signature_threshold,
            revocation_threshold: unit.revocation_threshold,
            administrators: administrators.collect(),
            current: unit.current.into(),
            new: unit.new.into(),
        }
    }

    /// The facts that interchangeable units have in common, with their names.
    fn facts(&self) -> [(&'static str, String); 7] {
        let owned = if self.owned { "owned" } else { "not owned" };
        let thresholds = format!("{} and {}", self.signature_threshold, self.revocation_threshold);
        let identities = self.administrators.keys().map(String::as_str).collect::<Vec<_>>();
        [
            ("owned", owned.into()),
            ("opened", described(&self.opening).into()),
            ("control points", self.control_points.clone()),
            ("thresholds", thresholds),
            ("administrators", identities.join(", ")),
            ("current register", self.current.to_text()),
            ("new register", self.new.to_text()),
        ]
    }
}

impl From<RegisterView> for Compartment {
    fn from(RegisterView { state, pattern, needed, parts, .. }: RegisterView) -> Self {
        Self { state, pattern, needed, parts: parts.len() }
    }
}

impl Compartment {
    fn to_text(&self) -> String {
        let Some(pattern) = &self.pattern else { return self.state.clone() };
        let parts = match (self.needed, self.parts) {
            (Some(0) | None, _) => "no owners have parts of it".into(),
            (Some(needed), parts) => format!("{needed} of {parts} parts or shares make it"),
        };
        format!("{}, {pattern}, {parts}", self.state)
    }
}

/// A fact that differs between this machine and another.
#[derive(Debug, Serialize)]
struct Difference {
    /// File of the other unit.
    from: String,
    fact: &'static str,
    here: String,
    there: String,
}

impl Difference {
    fn to_text(&self) -> String {
        let Self { from, fact, here, there } = self;
        // The numbers of 64 digits get lines of their own: people compare them.
        let value = |of: &str, text: &str| match text {
            "" => format!("  {of}: none\n"),
            text if text.len() < DIGITS => format!("  {of}: {text}\n"),
            text => {
                let items = text.split(", ").map(|item| format!("    {item}\n"));
                format!("  {of}:\n{}", items.collect::<String>())
            }
        };
        format!("{from} differs in: {fact}\n{}{}", value(HERE, here), value(from, there))
    }
}

/// Each difference between the first unit and another.
fn differences(units: &[Compared]) -> Vec<Difference> {
    let Some((first, others)) = units.split_first() else { return Vec::new() };
    let pairs = others.iter().flat_map(|other| {
        let facts = first.facts().into_iter().zip(other.facts());
        facts.map(|((fact, here), (_, there))| Difference { from: other.from.clone(), fact, here, there })
    });
    pairs.filter(|difference| difference.here != difference.there).collect()
}

/// Warns of a file that is of the unit of this machine, or of the unit of another file.
fn warn_of_copies(units: &[Compared]) {
    for (place, unit) in units.iter().enumerate() {
        if let Some(same) = units.iter().take(place).find(|other| other.unit == unit.unit) {
            warn(format_args!(
                "{} and {} are of one unit, not of two; if two machines run with copies of one state directory, end one: a command that is signed for one is carried out by both",
                same.from, unit.from
            ));
        }
    }
}

fn print_units(units: &[Compared]) -> Result<(), Failure> {
    let mut rows = table(&["UNIT", "STATE", "QUORUM", "ADMINISTRATORS", "CURRENT", "NEW"]);
    for unit in units {
        let people = unit.administrators.iter().map(|(ski, name)| format!("{} {name}", short(ski)));
        let state = match (unit.owned, unit.sealed) {
            (false, _) => "not owned",
            (true, true) => "sealed",
            (true, false) => "open",
        };
        rows.add_row([
            format!("{}\n{}", unit.from, short(&unit.unit)),
            state.into(),
            format!("{}, {}", unit.signature_threshold, unit.revocation_threshold),
            people.collect::<Vec<_>>().join("\n"),
            cell(&unit.current),
            cell(&unit.new),
        ]);
    }
    print_table(&rows)
}

fn cell(register: &Compartment) -> String {
    match &register.pattern {
        Some(pattern) => format!("{}\n{}", register.state, short(pattern)),
        None => register.state.clone(),
    }
}

/// The first eight digits, for a table. The comparison is of all digits.
fn short(digits: &str) -> String {
    digits.chars().take(8).collect()
}

/// The unit that the command reaches.
const HERE: &str = "this machine";
/// Length of an identity or a pattern, in digits.
const DIGITS: usize = 64;
/// Exit status if the units differ.
const DIFFERENT: u8 = 1;
