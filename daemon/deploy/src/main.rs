//! `keyward-deploy`: brings the certificates of plans to the servers of this host, as root.
//!
//! The daemon gives chains and references. Everything else comes from keyward.toml, which only root
//! can write: the servers, the hooks and the listeners. So a daemon in the wrong hands runs no
//! program here, and writes nothing but certificates and references ([`live`]).
//!
//! The deployer connects to nothing but the daemon, the sockets of HAProxy and the listeners of
//! this host.

mod deployer;
mod files;
mod live;
mod program;
mod servers;
mod watched;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use keyward_ground::log::Log;

/// Brings renewed certificates to the servers of this host
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file of the daemon, with the plans
    #[arg(long, value_name = "FILE", default_value = "/etc/keyward/keyward.toml")]
    config: PathBuf,
    /// Directory with the sockets of the daemon
    #[arg(long, value_name = "DIR", default_value = "/run/keyward")]
    runtime_dir: PathBuf,
    /// Directory for the files of the servers
    #[arg(long, value_name = "DIR", default_value = "/etc/keyward/live")]
    live: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _log = Log::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            runtime.block_on(deployer::run(&arguments.config, &arguments.runtime_dir, &arguments.live));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("keyward-deploy: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
