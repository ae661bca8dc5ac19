//! The administrators of the embedded unit.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keyward_unit::administration::{
    AdministratorKey, ClaimSecret, Instruction, Person, PersonName, Thresholds,
};

use super::issue::{Issue, new_passphrase_of, person, public_line, public_path, refuse_existing, write_new};
use super::signers::External;
use crate::admin::client::AdminClient;
use crate::admin::unit_view::{ClaimView, OwnedUnitView, PersonView};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json, print_table, table, warn};
use crate::cli::passphrase;
use crate::ground::exit;
use crate::ground::text::quoted;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Make the key of an administrator in a file that a passphrase encrypts
    New(New),
    /// Write the public file of an administrator whose key a program or a service has
    Public(Public),
    /// Add an administrator
    Add(Add),
    /// Remove an administrator
    Remove(Remove),
    /// List the administrators
    List(#[command(flatten)] Client),
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::New(new) => new.run(),
            Self::Public(public) => public.run(),
            Self::Add(add) => add.run(),
            Self::Remove(remove) => remove.run(),
            Self::List(client) => list(&client),
        }
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct New {
    /// File to make; FILE.pub gets the public key
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name of the administrator: letters, digits, and . _ @ -
    #[arg(long)]
    name: PersonName,
    #[command(flatten)]
    passphrase: passphrase::Source,
}

impl New {
    fn run(self) -> Result<(), Failure> {
        let person = make(&self.file, self.name, &self.passphrase)?;
        print(&format!(
            "made the key of {}, {}\nkeep {} and its passphrase; give {} to the others\n",
            person.name,
            person.key.ski(),
            quoted(&self.file),
            quoted(&public_path(&self.file))
        ))
    }
}

/// Makes the key of an administrator in a file, and the public file beside it.
pub(super) fn make(
    file: &Path,
    name: PersonName,
    passphrase: &passphrase::Source,
) -> Result<Person, Failure> {
    refuse_existing(file)?;
    refuse_existing(&public_path(file))?;
    let passphrase = new_passphrase_of(file, passphrase)?;
    let failed = |error| Failure::new(exit::OS, error);
    let key = AdministratorKey::generate(name).map_err(failed)?;
    write_new(file, key.to_file(&passphrase).map_err(failed)?.as_bytes(), 0o600)?;
    write_new(&public_path(file), public_line(key.person()).as_bytes(), 0o644)?;
    Ok(key.person().clone())
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Public {
    /// File to make, such as NAME.pub
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name of the administrator: letters, digits, and . _ @ -
    #[arg(long)]
    name: PersonName,
    #[command(flatten)]
    external: External,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Public {
    fn run(self) -> Result<(), Failure> {
        refuse_existing(&self.file)?;
        let person = Person { name: self.name, key: self.external.public_key()? };
        write_new(&self.file, public_line(&person).as_bytes(), 0o644)?;
        let ski = person.key.ski().to_string();
        if self.json {
            return print_json(&PersonView { name: person.name.to_string(), ski });
        }
        print(&format!(
            "wrote the public key of {}, {ski}\ngive {} to the others\n",
            person.name,
            quoted(&self.file)
        ))
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Add {
    /// Public file (.pub) of the administrator
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    issue: Issue,
}

impl Add {
    fn run(self) -> Result<(), Failure> {
        let person = person(&self.file)?;
        let name = person.name.clone();
        let attempt = format!("cannot add the administrator {name}");
        let done = self.issue.issue(&attempt, |_| Ok(Instruction::AddAdministrator(person)))?;
        self.issue.report(&done, &format!("added the administrator {name}"))
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Remove {
    /// Name of the administrator, or the identity in 64 hexadecimal digits
    #[arg(value_name = "NAME")]
    who: String,
    #[command(flatten)]
    issue: Issue,
}

impl Remove {
    fn run(self) -> Result<(), Failure> {
        let who = self.who.clone();
        let attempt = format!("cannot remove the administrator {who}");
        let done = self.issue.issue(&attempt, |unit| {
            let removal = removal_of(unit, &who)?;
            warn_of_deadlock(unit.administrators.len().saturating_sub(1), unit.signature_threshold);
            Ok(removal)
        })?;
        self.issue.report(&done, &format!("removed the administrator {who}"))
    }
}

/// The removal of the administrator with this name or this identity.
fn removal_of(unit: &OwnedUnitView, who: &str) -> Result<Instruction, Failure> {
    let known = unit.administrators.iter().find(|person| person.name == who || person.ski == who);
    let removal = known.and_then(|person| {
        let (ski, name) = (person.ski.parse().ok()?, person.name.parse().ok()?);
        Some(Instruction::RemoveAdministrator { ski, name })
    });
    removal.ok_or_else(|| {
        Failure::new(
            exit::NO_INPUT,
            format_args!("there is no such administrator; see: keyward unit admin list"),
        )
    })
}

fn list(client: &Client) -> Result<(), Failure> {
    let unit = AdminClient::new(&client.runtime_dir)
        .and_then(|admin| admin.unit())
        .map_err(|error| Failure::from(error).while_trying("cannot list the administrators"))?;
    if client.json {
        return print_json(&unit.administrators);
    }
    let mut rows = table(&["NAME", "IDENTITY"]);
    for person in &unit.administrators {
        rows.add_row([&person.name, &person.ski]);
    }
    print_table(&rows)
}

#[derive(Args, Debug)]
pub(in crate::cli) struct SetThresholds {
    #[command(flatten)]
    thresholds: BothThresholds,
    #[command(flatten)]
    issue: Issue,
}

#[derive(Args, Clone, Copy, Debug)]
struct BothThresholds {
    /// Number of administrators who must sign most commands
    #[arg(long = "signatures", value_name = "N")]
    signature: u8,
    /// Number of administrators who must sign the removal of one
    #[arg(long = "revocation", value_name = "N")]
    revocation: u8,
}

impl From<BothThresholds> for Thresholds {
    fn from(BothThresholds { signature, revocation }: BothThresholds) -> Self {
        Self { signature, revocation }
    }
}

impl SetThresholds {
    pub(super) fn run(self) -> Result<(), Failure> {
        let thresholds: Thresholds = self.thresholds.into();
        let done = self.issue.issue("cannot set the thresholds", |unit| {
            warn_of_deadlock(unit.administrators.len(), thresholds.signature);
            Ok(Instruction::SetThresholds(thresholds))
        })?;
        self.issue.report(&done, "set the thresholds")
    }
}

/// Warns if the loss of one administrator leaves too few for the most commands. Each way out needs
/// as many signatures: another administrator, and other thresholds. The removal of the lost one
/// leaves fewer than the thresholds, so the unit refuses it.
fn warn_of_deadlock(administrators: usize, signatures: u8) {
    if administrators == usize::from(signatures) {
        warn(format_args!(
            "all {administrators} administrators must sign: if one of them is lost, nobody can change the administrators, the thresholds or the master key any more; take at least one administrator more than must sign"
        ));
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Claim {
    /// Print the claim secret of the unit, and end
    #[arg(long, conflicts_with_all = ["administrators", "out"])]
    show: bool,
    /// Public file (.pub) of an administrator; the option is repeated for each
    #[arg(long = "admin", value_name = "FILE", required_unless_present = "show")]
    administrators: Vec<PathBuf>,
    /// Number of administrators who must sign most commands
    #[arg(long = "signatures", value_name = "N", required_unless_present = "show")]
    signature: Option<u8>,
    /// Number of administrators who must sign the removal of one
    #[arg(long = "revocation", value_name = "N", required_unless_present = "show")]
    revocation: Option<u8>,
    #[command(flatten)]
    issue: Issue,
}

impl Claim {
    pub(super) fn run(self) -> Result<(), Failure> {
        let attempt = if self.show { "cannot show the claim secret" } else { "cannot claim the unit" };
        let secret = self.issue.admin()?.claim_secret();
        let here = &self.issue.client.runtime_dir;
        let secret = secret.map_err(|error| Failure::from(error).while_trying(attempt).at(here))?;
        if self.show {
            return match secret {
                secret if self.issue.client.json => print_json(&ClaimView { secret }),
                Some(secret) => print(&format!("{secret}\n")),
                None => print("somebody owns the unit, so there is no claim secret any more\n"),
            };
        }
        let administrators = self.administrators.iter().map(|path| person(path));
        let administrators = administrators.collect::<Result<Vec<_>, _>>()?;
        let secret = secret.map(|secret| ClaimSecret::from_text(&secret));
        let thresholds = Thresholds {
            signature: self.signature.unwrap_or_default(),
            revocation: self.revocation.unwrap_or_default(),
        };
        let number = administrators.len();
        let claim = Instruction::Claim { administrators, thresholds };
        let done = self.issue.issue_with(attempt, secret.as_ref(), |_| {
            warn_of_deadlock(number, thresholds.signature);
            Ok(claim)
        })?;
        self.issue.report(&done, "the unit has owners now")
    }
}
