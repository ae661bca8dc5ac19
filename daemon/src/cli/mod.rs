//! The command line: what can be asked for, and how a failure is told.
//!
//! Results go to standard output, as tables or as JSON; a failure is one line on standard error that begins
//! with the name of the program, and a status of sysexits(3).

mod backup;
mod bench;
mod cert;
mod check_config;
mod csr;
mod doctor;
mod env;
mod failure;
mod key;
mod output;
mod passphrase;
mod private_network;
mod unit;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::ground::exit;
use crate::serve::migration;
use crate::serve::{self, Options};
use failure::Failure;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => return not_run(&error),
    };
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// Shows what was asked for instead of a command, or says in one line what is wrong with it.
fn not_run(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            exit::USAGE.into()
        }
        _ => Failure::new(exit::USAGE, one_line(&error.to_string())).tell(),
    }
}

/// The paragraphs of a message of clap that say what is wrong, without those that come with every message.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let paragraphs = message.split("\n\n").map(|lines| {
        let lines: Vec<_> = lines.lines().map(str::trim).collect();
        lines.join(" ")
    });
    let told: Vec<_> =
        paragraphs.take_while(|text| !text.starts_with("Usage:") && !text.starts_with("For more")).collect();
    format!("{}; try --help", told.join("; "))
}

/// Keeps TLS private keys out of TLS servers.
#[derive(Debug, Parser)]
#[command(name = "keyward", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(Serve),
    /// Make, import, show and change keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Attach certificates to keys and list them.
    #[command(subcommand)]
    Cert(cert::Command),
    /// Make a certificate request, signed by the key where it is.
    Csr(csr::Csr),
    /// Run crypto units.
    #[command(subcommand)]
    Unit(unit::Command),
    /// Copy the key store of the running daemon, or check such a copy
    Backup(backup::Backup),
    /// Put a copy in the place of a key store that is lost
    Restore(backup::Restore),
    /// Find the usual misconfigurations and say how to mend each.
    Doctor(doctor::Doctor),
    /// Run a command, such as nginx -t, with the environment that loads the provider.
    Env(env::Env),
    /// Measure signatures per second and their latency through the socket.
    Bench(bench::Bench),
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Key(command) => command.run(),
            Self::Cert(command) => command.run(),
            Self::Csr(csr) => csr.run(),
            Self::Unit(command) => command.run(),
            Self::Backup(backup) => backup.run(),
            Self::Restore(restore) => restore.run(),
            Self::Doctor(doctor) => doctor.run(),
            Self::Env(env) => env.run(),
            Self::Bench(bench) => bench.run(),
        }
    }
}

#[derive(Args, Debug)]
struct Serve {
    /// Configuration file [default: /etc/keyward/keyward.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the keys are stored
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Where the sockets are
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// Try things out: make a master key, and let the user who starts this do everything
    #[arg(long)]
    dev: bool,
    /// Migrate the key store of an older version, after making a copy of it, and exit
    #[arg(long, conflicts_with = "check_config")]
    migrate_store: bool,
    /// Check the configuration, print it with all defaults, and exit
    #[arg(long)]
    check_config: bool,
}

impl Serve {
    fn run(self) -> Result<(), Failure> {
        let options = Options {
            config: self.config,
            state_dir: self.state_dir,
            runtime_dir: self.runtime_dir,
            dev: self.dev,
        };
        if self.check_config {
            return check_config::run(&options);
        }
        if self.migrate_store {
            let told = migration::migrate(&options);
            return output::print(&told.map_err(|error| Failure::new(error.status(), error))?);
        }
        serve::serve(&options).map_err(|error| Failure::new(error.status(), error))
    }
}

/// Which daemon a command talks to, and how it prints.
#[derive(Args, Debug)]
struct Client {
    /// Where the sockets of the daemon are
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const RUNTIME_DIR: &str = "/run/keyward";
const STATE_DIR: &str = "/var/lib/keyward";
