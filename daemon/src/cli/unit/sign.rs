//! Commands in files: signing them, and sending them together.

use std::path::PathBuf;

use clap::Args;
use keyward_unit::administration::{Command, SignedCommand};

use super::issue::{read, rewrite, write_shares};
use super::signers::Signers;
use crate::admin::client::AdminClient;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::ground::exit;

#[derive(Args, Debug)]
pub(in crate::cli) struct Sign {
    /// File with one or more commands
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    signers: Signers,
}

impl Sign {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.signers.is_empty() {
            let reason = "name the key that signs, with --key, --signer or --signing-service";
            return Err(Failure::new(exit::USAGE, reason));
        }
        let mut commands = commands_in(&self.file)?;
        for command in &commands {
            // The administrator sees what is signed before a passphrase or a PIN is asked for.
            print(&shown(command.command()))?;
        }
        let keys = self.signers.sign(&mut commands, None)?;
        rewrite(&self.file, &commands.iter().map(SignedCommand::to_text).collect::<String>())?;
        let file = self.file.display();
        print(&keys.iter().map(|key| format!("signed {file} with {key}\n")).collect::<String>())
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Send {
    /// Files with signed commands; copies of one command are put together
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Directory for the files of the shares that the unit makes
    #[arg(long, value_name = "DIR", default_value = ".")]
    shares_dir: PathBuf,
    #[command(flatten)]
    client: Client,
}

impl Send {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut commands: Vec<SignedCommand> = Vec::new();
        for file in &self.files {
            for command in commands_in(file)? {
                if !commands.iter_mut().any(|known| known.merge(command.clone())) {
                    commands.push(command);
                }
            }
        }
        commands.sort_by_key(|command| command.command().counter);
        let text = commands.iter().map(SignedCommand::to_text).collect();
        let done = AdminClient::new(&self.client.runtime_dir)
            .and_then(|admin| admin.unit_commands(text))
            .map_err(|error| {
                Failure::from(error).while_trying("cannot send the commands").at(&self.client.runtime_dir)
            })?;
        for command in &done.done {
            write_shares(&self.shares_dir, &command.shares, &self.client)?;
        }
        if self.client.json {
            return print_json(&done);
        }
        let lines =
            done.done.iter().map(|command| format!("{}: {} done\n", command.counter, command.command));
        print(&lines.collect::<String>())
    }
}

/// The text of a command, as administrators see it before they sign, with the identity of each
/// person whose key the text has.
pub(super) fn shown(command: &Command) -> String {
    let people = command.people().iter();
    let people = people.map(|person| format!("  {} is {}\n", person.name, person.key.ski()));
    command.to_text() + &people.collect::<String>()
}

fn commands_in(path: &std::path::Path) -> Result<Vec<SignedCommand>, Failure> {
    SignedCommand::read_all(&read(path)?)
        .map_err(|error| Failure::new(exit::DATA, format_args!("cannot read {}: {error}", path.display())))
}
