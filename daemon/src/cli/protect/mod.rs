//! `keyward protect`: moves the keys of a server into the daemon, and its configuration to
//! references.
//!
//! [`nginx`] reads the configuration and makes a [`plan`]. [`keys`] has the keys of the plan.
//! [`journal`] has every file as it was, so that the change is whole or undone, also after `kill
//! -9`. The steps are in [`change`].

mod change;
mod journal;
mod key_file;
mod keys;
mod nginx;
mod plan;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::client::Client;
use super::failure::Failure;
use super::output::{print, print_json};
use crate::admin::client::AdminClient;
use crate::ground::{exit, hardening};
use crate::serve::DEFAULT_CONFIG;
use journal::Journal;
use nginx::Nginx;

/// Key files stay where they are, and no private key is copied.
#[derive(Args, Debug)]
pub(super) struct Protect {
    /// Server whose keys move
    #[arg(value_enum, value_name = "SERVER")]
    server: Server,
    /// Only the keys of servers with this name; the option may be repeated [default: all]
    #[arg(long, value_name = "NAME")]
    site: Vec<String>,
    /// Show the plan, and change nothing
    #[arg(long, conflicts_with = "undo")]
    dry_run: bool,
    /// Put everything back as it was
    #[arg(long)]
    undo: bool,
    /// Remove the key files, which the server does not need any more: there is no way back
    #[arg(long, conflicts_with_all = ["undo", "dry_run"])]
    remove_key_files: bool,
    /// Process id of the server, if several run
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// Grant DHE of TLS 1.2 too, for a server with a group of RFC 7919 of its own
    #[arg(long)]
    with_dhe: bool,
    /// Grant the RSA key exchange of TLS 1.2 too, for RSA keys
    #[arg(long)]
    with_rsa_key_exchange: bool,
    /// The openssl.cnf that activates the provider
    #[arg(long, value_name = "FILE", default_value = "/etc/keyward/openssl.cnf")]
    openssl_conf: PathBuf,
    /// Configuration file of the daemon; the grants go to a drop-in beside it
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Directory for the files as they were
    #[arg(long, value_name = "DIR", default_value = "/etc/keyward/protected")]
    journal: PathBuf,
    /// Directory for the drop-in of the service
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    systemd_dir: PathBuf,
    #[command(flatten)]
    client: Client,
}

/// A server whose configuration is known here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Server {
    Nginx,
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
        }
    }
}

impl Protect {
    pub(super) fn run(self) -> Result<(), Failure> {
        hardening::harden().map_err(|error| {
            Failure::new(exit::OS, format_args!("cannot keep the keys out of core dumps: {error}"))
        })?;
        let server = self.server.name();
        if !rustix::process::geteuid().is_root() {
            let reason = format_args!(
                "cannot change the configuration of {server} as this user: run this command as root"
            );
            return Err(Failure::new(exit::NO_PERMISSION, reason));
        }
        let admin = AdminClient::new(&self.client.runtime_dir)?;
        let attempt = match self.undo {
            true => format!("cannot put {server} back as it was"),
            false => format!("cannot protect {server}"),
        };
        self.carry_out(&admin).map_err(|failure| failure.while_trying(attempt))
    }

    fn carry_out(&self, admin: &AdminClient) -> Result<(), Failure> {
        let nginx = Nginx::find(self.pid)?;
        let mut journal = Journal::open(&self.journal.join(nginx.name()))?;
        if self.undo {
            return change::undo(self, admin, journal, &nginx);
        }
        if !self.dry_run {
            change::recover(self, admin, &mut journal, &nginx)?;
        }
        if self.remove_key_files {
            return change::remove_key_files(self, admin, &mut journal, &nginx);
        }
        // Another master may have come meanwhile.
        let nginx = Nginx::find(self.pid.filter(|_| nginx.master.signal(None).is_ok()))?;
        let (plan, texts) = nginx.plan(self, admin)?;
        if plan.is_empty() {
            let text = match plan.keys.references.is_empty() {
                true => "no server of nginx has a key in a file\n",
                false => "every key of nginx is in the daemon already\n",
            };
            return print(&format!("{}\n{text}", plan.server));
        }
        match (self.dry_run, self.client.json) {
            (true, true) => return print_json(&plan.json()),
            (true, false) => return print(&format!("{}\nNothing was changed (--dry-run).\n", plan.text())),
            (false, false) => print(&plan.text())?,
            (false, true) => {}
        }
        change::make(self, admin, &mut journal, &nginx, &plan, &texts.into_iter().collect())?;
        match self.client.json {
            true => print_json(&plan.json()),
            false => Ok(()),
        }
    }

    /// True if the command is about a server with one of these names.
    fn wants(&self, names: &[String]) -> bool {
        self.site.is_empty() || self.site.iter().any(|site| names.contains(site))
    }

    /// Says that a step is done.
    fn done(&self, step: &str) {
        if !self.client.json {
            eprintln!("ok  {step}");
        }
    }
}
