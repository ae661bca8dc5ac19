//! The registers of the embedded unit.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use keyward_unit::administration::{Instruction, MAX_SHARES, PARTS, Pattern, RegisterName, ShareFile};
use serde_json::json;

use super::issue::{Issue, person, read, write_shares};
use crate::admin::client::AdminClient;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::key::rewrap::rewrap_all;
use crate::cli::key::{confirmed, for_daemon};
use crate::cli::output::{print, print_json};
use crate::config::EMBEDDED;
use crate::ground::exit;

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("from").required(true).args(["parts", "shares", "owners"]))]
pub(in crate::cli) struct Load {
    /// Pattern of a part; the option is repeated for each of the 2 or 3 parts
    #[arg(long = "part", value_name = "PATTERN")]
    parts: Vec<Pattern>,
    /// File of a share that a unit has made before; the option is repeated for each share
    #[arg(long = "share", value_name = "FILE")]
    shares: Vec<PathBuf>,
    /// Public file (.pub) of an owner: the unit makes the master key, and a share for each owner
    #[arg(long = "owner", value_name = "FILE", requires = "needed")]
    owners: Vec<PathBuf>,
    /// Number of shares that make the master key
    #[arg(long, value_name = "K", requires = "owners")]
    needed: Option<u8>,
    /// Directory for the files of the shares that the unit makes
    #[arg(long, value_name = "DIR", default_value = ".")]
    shares_dir: PathBuf,
    #[command(flatten)]
    issue: Issue,
}

impl Load {
    pub(super) fn run(self) -> Result<(), Failure> {
        let instruction = self.instruction().map_err(|failure| failure.while_trying(LOAD))?;
        let done = self.issue.issue(LOAD, |_| Ok(instruction))?;
        for command in &done.done {
            write_shares(&self.shares_dir, &command.shares, &self.issue.client)?;
        }
        self.issue.report(&done, &self.told())
    }

    fn told(&self) -> String {
        if !self.owners.is_empty() {
            return "the unit has made a master key; each owner keeps the file OWNER.share".into();
        }
        let unseal = |more: &str| {
            let unseal = format!("keyward unit unseal FILE --load {more}--unit-key FINGERPRINT");
            for_daemon(unseal, &self.issue.client.runtime_dir)
        };
        match self.shares.len() {
            0 => format!("the unit waits for the parts\neach owner runs: {}", unseal("")),
            count => format!(
                "the unit waits for the shares\neach owner runs: {}\nonly these {count} shares open the unit from now on; name the files of all owners",
                unseal("--owner-key KEY ")
            ),
        }
    }

    fn instruction(&self) -> Result<Instruction, Failure> {
        if !self.parts.is_empty() {
            if !PARTS.contains(&self.parts.len()) || has_twice(&self.parts) {
                return usage("2 or 3 different parts are needed: --part PATTERN for each");
            }
            return Ok(Instruction::LoadParts(self.parts.clone()));
        }
        if let Some(needed) = self.needed.filter(|_| !self.owners.is_empty()) {
            let owners = self.owners.iter().map(|path| person(path)).collect::<Result<Vec<_>, _>>()?;
            let names: Vec<_> = owners.iter().map(|owner| &owner.name).collect();
            let keys: Vec<_> = owners.iter().map(|owner| owner.key).collect();
            if has_twice(&names) || has_twice(&keys) {
                return usage("each owner gets one share: name different people with --owner");
            }
            if !(2..=owners.len()).contains(&usize::from(needed)) || owners.len() > usize::from(MAX_SHARES) {
                return usage(format_args!(
                    "2 to {MAX_SHARES} owners are needed, and --needed from 2 to the number of owners"
                ));
            }
            return Ok(Instruction::GenerateShares { needed, owners });
        }
        let mut shares = Vec::new();
        let mut needed = 0;
        for path in &self.shares {
            let file = ShareFile::from_text(&read(path)?).map_err(|error| {
                Failure::new(exit::DATA, format_args!("cannot read {}: {error}", path.display()))
            })?;
            needed = file.share.needed;
            shares.push((file.share.index, file.share.pattern));
        }
        shares.sort_unstable();
        let patterns: Vec<_> = shares.iter().map(|(_, pattern)| *pattern).collect();
        if has_twice(&patterns) || shares.len() < usize::from(needed) {
            return usage(format_args!(
                "at least {needed} different shares are needed, and better those of all owners: --share FILE for each"
            ));
        }
        Ok(Instruction::LoadShares { needed, shares })
    }
}

fn usage<T>(reason: impl core::fmt::Display) -> Result<T, Failure> {
    Err(Failure::new(exit::USAGE, reason))
}

fn has_twice<T: PartialEq>(items: &[T]) -> bool {
    items.iter().enumerate().any(|(place, item)| items[..place].contains(item))
}

const LOAD: &str = "cannot load the new register";

#[derive(Args, Debug)]
pub(in crate::cli) struct Commit {
    /// Pattern of the master key in the new register
    #[arg(value_name = "PATTERN")]
    pattern: Pattern,
    #[command(flatten)]
    issue: Issue,
}

impl Commit {
    pub(super) fn run(self) -> Result<(), Failure> {
        let done =
            self.issue.issue("cannot commit the master key", |_| Ok(Instruction::Commit(self.pattern)))?;
        self.issue.report(&done, "the master key in the new register is committed")
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Activate {
    /// Pattern of the master key in the new register
    #[arg(value_name = "PATTERN")]
    pattern: Pattern,
    #[command(flatten)]
    issue: Issue,
}

impl Activate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let done = self
            .issue
            .issue("cannot activate the master key", |_| Ok(Instruction::Activate(self.pattern)))?;
        self.issue.report(&done, "the master key is in force")
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Current,
    New,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Clear {
    /// Register to empty
    #[arg(value_name = "REGISTER")]
    register: Which,
    /// Pattern of the master key in the register
    #[arg(value_name = "PATTERN")]
    pattern: Pattern,
    /// Clear the current register without a question: all handshakes with its keys fail then
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    issue: Issue,
}

impl Clear {
    pub(super) fn run(self) -> Result<(), Failure> {
        let register = match self.register {
            Which::Current => RegisterName::Current,
            Which::New => RegisterName::New,
        };
        let done = self.issue.issue("cannot clear the register", |_| {
            if register == RegisterName::Current {
                let again = format!("clear current {} --yes", self.pattern);
                confirm_end(&self.issue, self.yes, "clear current", &again)?;
            }
            Ok(Instruction::Clear(register, self.pattern))
        })?;
        self.issue.report(&done, &format!("the {} register is empty", register.name()))
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Zeroize {
    /// Erase the unit without a question
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    issue: Issue,
}

impl Zeroize {
    pub(super) fn run(self) -> Result<(), Failure> {
        let done = self.issue.issue("cannot zeroize the unit", |_| {
            confirm_end(&self.issue, self.yes, "zeroize", "zeroize --yes")?;
            Ok(Instruction::Zeroize)
        })?;
        self.issue.report(&done, "the unit is erased: it has no master key, and nobody owns it")
    }
}

/// Asks before a command takes the master key in force away. Elsewhere than on a terminal, such a
/// command needs `--yes`. A command for a file changes nothing yet.
fn confirm_end(issue: &Issue, yes: bool, what: &str, again: &str) -> Result<(), Failure> {
    if yes || issue.is_for_others() {
        return Ok(());
    }
    let keys = issue.admin()?.status()?.keys;
    let s = if keys == 1 { "" } else { "s" };
    let loss = format!(
        "the unit loses its master key at once, and handshakes with its keys fail (the key store has {keys} key{s}); only the parts or shares of this master key bring them back: keep them"
    );
    if !io::stdin().is_terminal() {
        let again = for_daemon(format!("keyward unit {again} --key FILE"), &issue.client.runtime_dir);
        return usage(format_args!(
            "there is no terminal to ask on, and {loss}; if you want that, run: {again}"
        ));
    }
    match confirmed(&format!("Careful: {loss}.\nType {what} to go on: "), what)? {
        true => Ok(()),
        false => usage("nothing was done"),
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Rotate {
    /// Give up a change of a unit without owners; with owners, clear the new register instead
    #[arg(long, conflicts_with = "finish")]
    abandon: bool,
    /// Finish the change of a unit without owners that serves GREP11, when all its clients have
    /// rewrapped their keys
    #[arg(long)]
    finish: bool,
    /// Confirm that each client of a unit that serves GREP11 has rewrapped its keys
    #[arg(long, requires = "finish")]
    yes: bool,
    #[command(flatten)]
    client: Client,
}

impl Rotate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let here = &self.client.runtime_dir;
        let failed = |error| Failure::from(error).while_trying("cannot change the master key").at(here);
        let admin = AdminClient::new(&self.client.runtime_dir)?;
        if self.abandon {
            admin.give_up_rotation().map_err(failed)?;
            return match self.client.json {
                true => print_json(&json!({ "abandoned": true })),
                false => print("the change of the master key is given up\n"),
            };
        }
        let unit = match self.finish {
            true => admin.unit().map_err(failed)?,
            false => admin.prepare_rotation().map_err(failed)?,
        };
        if self.finish && !self.yes && !unit.owned && unit.serves_grep11 {
            return Err(unconfirmed(&self.client));
        }
        let (keys, wrapped) = rotate(&admin).map_err(|failure| failure.at(here))?;
        let ends_here = !unit.owned && (self.finish || !unit.serves_grep11);
        let finished = ends_here.then(|| admin.finish_rewrap(EMBEDDED)).transpose().map_err(failed)?;
        if self.client.json {
            return print_json(&json!({ "keys": keys, "wrapped": wrapped, "finished": finished }));
        }
        let next = match finished {
            Some(finished) => format!(
                "the master key {} is in force; keep a new copy of the state of the unit\n",
                finished.wkid
            ),
            None => {
                let rewrap = match unit.serves_grep11 {
                    true => {
                        "each daemon that uses this unit rewraps its keys: keyward key rewrap --backend NAME; then "
                    }
                    false => "next, ",
                };
                let finish = match &unit.new.pattern {
                    Some(pattern) if unit.owned => format!("keyward unit activate {pattern} --key FILE"),
                    _ => "keyward unit rotate --finish --yes".into(),
                };
                let finish = for_daemon(finish, &self.client.runtime_dir);
                format!("{rewrap}put the new master key in force: {finish}\n")
            }
        };
        let keys = match keys {
            1 => "1 key is".to_owned(),
            keys => format!("{keys} keys are"),
        };
        print(&format!("{keys} wrapped by the new master key, {wrapped} of the versions now\n{next}"))
    }
}

fn unconfirmed(client: &Client) -> Failure {
    let finish = for_daemon("keyward unit rotate --finish --yes".into(), &client.runtime_dir);
    Failure::new(
        exit::USAGE,
        format_args!(
            "cannot finish the change of the master key: each client of the unit must have rewrapped its keys first, with: keyward key rewrap --backend NAME; the former master key is gone afterwards, and keys that only it unwraps are lost; if all clients are done, run: {finish}"
        ),
    )
}

/// Wraps the keys by the committed master key. Returns the number of keys, and the number of their
/// versions that were not wrapped by it before.
pub(super) fn rotate(admin: &AdminClient) -> Result<(u64, u64), Failure> {
    rewrap_all(admin, EMBEDDED)
        .map_err(|error| Failure::from(error).while_trying("cannot wrap the keys by the new master key"))
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Shares {
    /// Directory for the files of the shares
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    client: Client,
}

impl Shares {
    pub(super) fn run(self) -> Result<(), Failure> {
        let failed = |failure: Failure| failure.while_trying("cannot write the shares");
        let unit = AdminClient::new(&self.client.runtime_dir)
            .and_then(|admin| admin.unit())
            .map_err(|error| failed(error.into()))?;
        // The shares of the master key that will be in force, or else of the one that is.
        let shares = if unit.new.shares.is_empty() { unit.current.shares } else { unit.new.shares };
        if shares.is_empty() {
            return Err(failed(Failure::new(exit::NO_INPUT, "the unit has made no shares")));
        }
        write_shares(&self.dir, &shares, &self.client).map_err(failed)?;
        if self.client.json {
            return print_json(&shares);
        }
        print(&shares.iter().map(|share| format!("wrote {}.share\n", share.owner)).collect::<String>())
    }
}
