//! `keyward env`: the environment in which a program on OpenSSL loads the provider.
//!
//! Servers have this environment from their service. A tool that reads their configuration from a
//! shell, such as `nginx -t`, does not. It fails at each reference with an error that does not
//! mention keyward.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::{io, process};

use clap::Args;
use rustix::fs::{Mode, OFlags};

use super::doctor;
use super::failure::Failure;
use super::output;
use crate::ground::exit;
use crate::ground::text::quoted;
use crate::peers;

#[derive(Args, Debug)]
pub(super) struct Env {
    /// The openssl.cnf that activates the provider [default: the file in OPENSSL_CONF, or
    /// /etc/keyward/openssl.cnf]
    #[arg(long, value_name = "FILE")]
    openssl_conf: Option<PathBuf>,
    /// Directory of the daemon's sockets, if the openssl.cnf names another one
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Command to run, with its arguments; without a command, print the environment for a shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Env {
    pub(super) fn run(self) -> Result<(), Failure> {
        let conf = self.openssl_conf.or_else(conf_of_environment).unwrap_or_else(|| CONF.into());
        let mut variables = vec![("OPENSSL_CONF", absolute(&conf)?)];
        // OpenSSL ignores a file that it cannot read.
        let attempt = "cannot load the provider; name an openssl.cnf with --openssl-conf";
        open(&conf).map_err(|reason| Failure::reading(&conf, &reason).while_trying(attempt))?;
        doctor::check_owners(&conf).map_err(|foreign| {
            let attempt =
                format!("cannot use {}, because it would run code of other users as root", conf.display());
            Failure::new(exit::NO_PERMISSION, foreign).while_trying(attempt)
        })?;
        doctor::faults_of_openssl_conf(&conf).into_iter().for_each(output::warn);
        if let Some(runtime_dir) = self.runtime_dir {
            variables.push(("KEYWARD_SOCKET", absolute(&runtime_dir)?.join(peers::SOCKET)));
        }
        let Some((program, arguments)) = self.command.split_first() else {
            let lines = variables.iter().map(|(name, path)| format!("export {name}={}\n", quoted(path)));
            return output::print(&lines.collect::<String>());
        };
        let reason = process::Command::new(program).args(arguments).envs(variables).exec();
        let status = match reason.kind() {
            io::ErrorKind::NotFound => exit::NO_INPUT,
            io::ErrorKind::PermissionDenied => exit::NO_PERMISSION,
            _ => exit::OS,
        };
        Err(Failure::new(status, format_args!("cannot run {}: {reason}", Path::new(program).display())))
    }
}

/// Opens a file without waiting for the other end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    let file = File::from(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    let kind = file.metadata()?.file_type();
    match kind.is_file() || kind.is_char_device() {
        true => Ok(file),
        false => Err(io::Error::other("not a file")),
    }
}

fn conf_of_environment() -> Option<PathBuf> {
    env::var_os("OPENSSL_CONF").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Makes a path absolute, since a program may change its directory before it reads the file.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|reason| Failure::new(exit::USAGE, format_args!("cannot use {}: {reason}", path.display())))
}

/// Path of the installed openssl.cnf (README, section Install).
const CONF: &str = "/etc/keyward/openssl.cnf";
