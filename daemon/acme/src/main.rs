//! `keyward-acme`: carries the messages of the daemon to authorities that issue certificates.
//!
//! The agent has a network and no keys. The daemon decides what is due, and builds and signs each
//! message ([`keyward_plans`]). The agent finds the next step of an order ([`order`]), puts answers
//! to challenges in place ([`challenge`]), and brings the chain to the daemon. All progress is at
//! the daemon, so an agent that is killed goes on where it was.

mod agent;
mod challenge;
mod failure;
mod http;
mod order;
mod program;
mod server;
mod window;
mod zone;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use keyward_ground::log::Log;

/// Renews certificates whose keys the daemon holds
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory with the sockets of the daemon
    #[arg(long, value_name = "DIR", default_value = "/run/keyward")]
    runtime_dir: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _log = Log::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            runtime.block_on(agent::run(&arguments.runtime_dir));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("keyward-acme: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
