//! The command line.
//!
//! Results go to standard output, as tables or as JSON. A failure is one line on standard error
//! that begins with the name of the program, and an exit status of sysexits(3).

mod altered;
mod audit;
mod backup;
mod bench;
mod cert;
mod chain_warnings;
mod check_config;
mod client;
mod csr;
mod doctor;
mod env;
mod failure;
mod generate_docs;
#[cfg(test)]
mod golden;
mod input;
mod key;
mod output;
mod passphrase;
mod private_network;
mod program;
mod protect;
mod reload;
mod remarks;
mod service_files;
mod setup;
mod status;
mod unit;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::ground::{exit, names};
use crate::serve::migration;
use crate::serve::{self, Options};
use client::{RUNTIME_DIR, STATE_DIR};
use failure::Failure;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => return report_parse_error(&error),
    };
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints the help or the version, or an error of the command line in one line.
fn report_parse_error(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            exit::USAGE.into()
        }
        _ => Failure::new(exit::USAGE, one_line(&error.to_string())).report(),
    }
}

/// The error of a clap message in one line, without the paragraphs that every message has.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let paragraphs = message.split("\n\n").map(|lines| {
        let lines: Vec<_> = lines.lines().map(str::trim).collect();
        lines.join(" ")
    });
    let errors: Vec<_> =
        paragraphs.take_while(|text| !text.starts_with("Usage:") && !text.starts_with("For more")).collect();
    format!("{}; try --help", errors.join("; "))
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
    /// Run the daemon
    Serve(Serve),
    /// Choose how the unit gets its master key, and start the service
    Setup(setup::Setup),
    /// Move the keys of a server into the daemon, and its configuration to references
    Protect(protect::Protect),
    /// Make, import, show and change keys
    #[command(subcommand)]
    Key(key::Command),
    /// Attach certificates to keys, and list them
    #[command(subcommand)]
    Cert(cert::Command),
    /// Make a certificate request, signed in the crypto unit
    Csr(csr::Csr),
    /// Run and list crypto units
    #[command(subcommand)]
    Unit(unit::Command),
    /// Read, follow and verify the audit trail
    #[command(subcommand)]
    Audit(audit::Command),
    /// Copy the key store of the running daemon, or check such a copy
    Backup(backup::Backup),
    /// Restore a lost key store from a copy
    Restore(backup::Restore),
    /// Show the state of the daemon on one screen, and as an exit status for cron
    ///
    /// Exits with 0 if all is well; 1 if there is a problem, such as a certificate that should be
    /// renewed by now, or nobody knows whether there is one; 2 if keys cannot sign. A status from
    /// 64 on means that there was no answer: 69 if no daemon runs, 77 if the user has no role.
    Status(status::Status),
    /// Have the running daemon read its configuration again
    Reload(reload::Reload),
    /// Find common misconfigurations, and say how to fix each
    Doctor(doctor::Doctor),
    /// Run a command, such as nginx -t, with the environment that loads the provider
    Env(env::Env),
    /// Measure signatures per second and their latency, through the socket
    Bench(bench::Bench),
    /// Write the manual pages and the completions for shells, for a package
    #[command(hide = true)]
    GenerateDocs(generate_docs::GenerateDocs),
    /// Look up names of users, groups and hosts for a confined daemon, which starts this
    #[command(hide = true)]
    Names { hosts: Vec<String> },
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Setup(setup) => setup.run(),
            Self::Protect(protect) => protect.run(),
            Self::Key(command) => command.run(),
            Self::Cert(command) => command.run(),
            Self::Csr(csr) => csr.run(),
            Self::Unit(command) => command.run(),
            Self::Audit(command) => command.run(),
            Self::Backup(backup) => backup.run(),
            Self::Restore(restore) => restore.run(),
            Self::Status(status) => status.run(),
            Self::Reload(reload) => reload.run(),
            Self::Doctor(doctor) => doctor.run(),
            Self::Env(env) => env.run(),
            Self::Bench(bench) => bench.run(),
            Self::GenerateDocs(docs) => docs.run(CommandLine::command()),
            Self::Names { hosts } => names::answer_questions(&hosts)
                .map_err(|error| Failure::new(exit::OS, format_args!("cannot look up names: {error}"))),
        }
    }
}

#[derive(Args, Debug)]
struct Serve {
    /// Configuration file [default: /etc/keyward/keyward.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the key store
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Directory of the sockets
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// Development mode: make a master key, and let the user who starts the daemon do everything
    #[arg(long)]
    dev: bool,
    /// Migrate the key store of an older version, or permit the next start to do it, and exit
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
            unit: None,
        };
        if self.check_config {
            return check_config::run(&options);
        }
        if self.migrate_store {
            let migrated = migration::migrate(&options);
            return output::print(&migrated.map_err(|error| Failure::new(error.status(), error))?);
        }
        served(&options)
    }
}

/// Runs the daemon. The daemon itself has printed why it failed.
fn served(options: &Options) -> Result<(), Failure> {
    match serve::serve(options) {
        Ok(0) => Ok(()),
        Ok(status) => Err(Failure::silent(status)),
        Err(error) => Err(Failure::new(error.status(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_for_a_grep11_server_need_each_other() {
        for (arguments, is_valid) in [
            ("", true),
            ("--backend hsm", true),
            ("--grep11 unit:9876 --plaintext --calls 4", true),
            ("--grep11 unit:9876 --tls-ca ca.pem --tls-cert a.pem --tls-key a.key --token-file t", true),
            ("--grep11 unit:9876", false),
            ("--grep11 unit:9876 --plaintext --tls-ca ca.pem", false),
            ("--grep11 unit:9876 --plaintext --backend hsm", false),
            ("--grep11 unit:9876 --tls-ca ca.pem --tls-cert a.pem", false),
            ("--plaintext", false),
            ("--calls 4", false),
        ] {
            let words = ["keyward", "bench"].into_iter().chain(arguments.split_whitespace());
            assert_eq!(CommandLine::try_parse_from(words).is_ok(), is_valid, "{arguments}");
        }
    }
}
