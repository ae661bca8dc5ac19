//! `keyward protect`: moves the keys of a server into the daemon, and its configuration to
//! references.
//!
//! [`nginx`], [`haproxy`] and [`apache`] read the configuration of a [`running`] server and make a
//! [`plan`]. [`keys`] has the keys of the plan, and [`grants`] the permission to use them.
//! [`journal`] has every file as it was, so that the change is whole or undone, also after `kill
//! -9`. The steps are in [`change`].

mod apache;
mod change;
mod grants;
mod haproxy;
pub(super) mod health;
mod journal;
mod keys;
mod nginx;
mod plan;
mod running;
mod tls;
mod users;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::client::{Client, RUNTIME_DIR};
use super::doctor;
use super::failure::Failure;
use super::key::confirmed;
use super::output::{self, print, print_json};
use crate::admin::client::AdminClient;
use crate::ground::text::quoted;
use crate::ground::{exit, hardening};
use crate::serve::DEFAULT_CONFIG;
use crate::servers::processes;
use apache::Apache;
use change::Change;
use haproxy::Haproxy;
use journal::Journal;
use nginx::Nginx;
use plan::Plan;
use running::{Running, Stopped};

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
    /// Put everything back as it was; NAME chooses one of several servers, also a stopped one
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    undo: Option<String>,
    /// Remove the key files, which the server does not need any more: there is no way back
    #[arg(long, conflicts_with_all = ["undo", "dry_run"])]
    remove_key_files: bool,
    /// Remove the key files without a question
    #[arg(long, requires = "remove_key_files")]
    yes: bool,
    /// Restart a server that needs that, without a question
    #[arg(long)]
    restart: bool,
    /// Go on without a question if no handshake can be compared
    #[arg(long)]
    unchecked: bool,
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
    #[arg(long, value_name = "FILE", default_value = OPENSSL_CONF)]
    openssl_conf: PathBuf,
    /// Configuration file of the daemon; beside it are the grants (keyward.d) and the former files
    /// (protected)
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Directory for the drop-in of the service
    #[arg(long, value_name = "DIR", default_value = SYSTEMD_DIR)]
    systemd_dir: PathBuf,
    #[command(flatten)]
    client: Client,
}

/// A server whose configuration is known here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Server {
    Nginx,
    Haproxy,
    Apache,
}

impl Server {
    /// The word for the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
        }
    }

    /// The name for people.
    fn title(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Apache => "Apache",
        }
    }

    /// A site with a key, for people.
    fn site(self) -> &'static str {
        match self {
            Self::Nginx => "server of nginx with a key",
            Self::Haproxy => "certificate of HAProxy",
            Self::Apache => "virtual host of Apache with a key",
        }
    }

    /// File name of the program.
    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache2",
        }
    }

    /// Finds the server that runs on this host.
    ///
    /// # Errors
    /// [`Failure`] if none runs ([`exit::UNAVAILABLE`]), or if several run and none is named.
    fn find(self, pid: Option<i32>) -> Result<Box<dyn Running>, Failure> {
        Ok(match self {
            Self::Nginx => Box::new(Nginx::find(pid)?),
            Self::Haproxy => Box::new(Haproxy::find(pid)?),
            Self::Apache => Box::new(Apache::find(pid)?),
        })
    }

    /// The servers of this kind that run.
    fn running(self) -> Vec<Box<dyn Running>> {
        let masters = processes::masters(self.program()).into_iter();
        masters.filter_map(|master| self.find(Some(master.pid)).ok()).collect()
    }
}

impl Protect {
    pub(super) fn run(self) -> Result<(), Failure> {
        hardening::harden().map_err(|error| {
            Failure::new(exit::OS, format_args!("cannot keep the keys out of core dumps: {error}"))
        })?;
        let title = self.server.title();
        if !rustix::process::geteuid().is_root() {
            let reason = format_args!(
                "cannot change the configuration of {title} as this user: run this command as root"
            );
            return Err(Failure::new(exit::NO_PERMISSION, reason));
        }
        let admin = AdminClient::new(&self.client.runtime_dir)?;
        let attempt = match self.undo.is_some() {
            true => format!("cannot put {title} back as it was"),
            false => format!("cannot protect {title}"),
        };
        self.carry_out(&admin).map_err(|failure| failure.while_trying(attempt))
    }

    fn carry_out(&self, admin: &AdminClient) -> Result<(), Failure> {
        doctor::check_owners(&self.openssl_conf).map_err(|foreign| {
            let reason = format_args!("it would run code of other users as root: {foreign}");
            Failure::new(exit::NO_PERMISSION, reason)
        })?;
        let server = self.find(admin)?;
        let journal = Journal::open(&self.journals().join(server.name()));
        let mut journal = journal.map_err(|failure| failure.while_trying("nothing was changed"))?;
        let mut change = Change { options: self, admin, server: &*server, journal: &mut journal };
        if self.undo.is_some() {
            change.undo()?;
            self.note_stopped();
            return Ok(());
        }
        if !self.dry_run {
            change.recover()?;
        }
        if self.remove_key_files {
            return change.remove_key_files();
        }
        // Another master may have come meanwhile.
        let server = self.server.find(self.pid.filter(|_| server.is_alive()))?;
        change.server = &*server;
        self.check_provider()?;
        let plan = server.plan(self, admin)?;
        if plan.is_empty() {
            self.report_nothing(admin, &plan)?;
            if !plan.granted.is_empty() && !self.dry_run {
                change.grant(&plan)?;
            }
            return self.attach_present(admin, &plan);
        }
        self.check_other_servers(server.pid(), &plan)?;
        match (self.dry_run, self.client.json) {
            (true, true) => return print_json(&plan.json()),
            (true, false) => return print(&format!("{}\nNothing was changed (--dry-run).\n", plan.text())),
            (false, false) => print(&plan.text())?,
            (false, true) => {}
        }
        if plan.restarts && !self.restart {
            self.ask_for_restart()?;
        }
        change.make(&plan)?;
        self.attach_present(admin, &plan)?;
        match self.client.json {
            true => print_json(&plan.json()),
            false => Ok(()),
        }
    }

    /// Finds the server. An interrupted run may have left it between end and start. Files can be
    /// put back also while it does not run.
    fn find(&self, admin: &AdminClient) -> Result<Box<dyn Running>, Failure> {
        if let Some(name) = self.undo.as_deref().filter(|name| !name.is_empty()) {
            return self.find_by_name(name);
        }
        let mut found = self.server.find(self.pid);
        let is_missing = |found: &Result<_, Failure>| {
            found.as_ref().is_err_and(|failure: &Failure| failure.status() == exit::UNAVAILABLE)
        };
        if self.pid.is_some() {
            return found;
        }
        let stopped = self.stopped();
        if is_missing(&found)
            && let [(name, _)] = stopped.as_slice()
        {
            let mut journal = Journal::open(&self.journals().join(name))?;
            let server = Stopped::new(self.server, name.clone());
            let change = Change { options: self, admin, server: &server, journal: &mut journal };
            if change.is_interrupted() {
                running::wait(|| {
                    found = self.server.find(None);
                    !is_missing(&found)
                });
            }
        }
        // A server that runs, and was not changed, is not the one to put back.
        let is_other = |server: &dyn Running| !self.journals().join(server.name()).exists();
        let is_stopped = is_missing(&found) || found.as_ref().is_ok_and(|server| is_other(&**server));
        match (self.undo.is_some() && is_stopped, stopped.as_slice()) {
            (false, _) | (true, []) => found,
            (true, [(name, _)]) => Ok(Box::new(Stopped::new(self.server, name.clone()))),
            (true, several) => {
                let ways: Vec<_> = several.iter().map(|one| self.way_back_of(one)).collect();
                let title = self.server.title();
                let reason = format_args!("several {title} were changed and do not run: {}", ways.join(", "));
                Err(Failure::new(exit::USAGE, reason))
            }
        }
    }

    /// The server with the journal of this name.
    fn find_by_name(&self, name: &str) -> Result<Box<dyn Running>, Failure> {
        let running = self.server.running();
        if let Some(server) = running.into_iter().find(|server| server.name() == name) {
            return Ok(server);
        }
        let journals = self.journals();
        let mut known = journal::all(&journals, self.server.name());
        match known.any(|(known, _)| known == name) {
            true => Ok(Box::new(Stopped::new(self.server, name.to_owned()))),
            false => {
                let reason = format_args!("{} has no changes of a server {name}", journals.display());
                Err(Failure::new(exit::NO_INPUT, reason))
            }
        }
    }

    /// Names of the servers of this kind that were changed, and do not run, each with a file that
    /// was changed.
    fn stopped(&self) -> Vec<(String, Option<PathBuf>)> {
        let running: BTreeSet<_> = self.server.running().iter().map(|server| server.name()).collect();
        journal::all(&self.journals(), self.server.name())
            .filter(|(name, _)| !running.contains(name))
            .collect()
    }

    /// Says that other servers of this kind are still changed, which do not run.
    fn note_stopped(&self) {
        for one in self.stopped() {
            output::note(format_args!(
                "another {} was changed, and does not run; {}",
                self.server.title(),
                self.way_back_of(&one)
            ));
        }
    }

    /// How to go back with a server that does not run.
    fn way_back_of(&self, (name, file): &(String, Option<PathBuf>)) -> String {
        let file = file.as_ref().map(|file| format!(" with {}", file.display())).unwrap_or_default();
        format!("back{file}: {}", self.command(&format!("--undo={name}")))
    }

    /// Checks that the server could load the provider. The check of a server itself may read no
    /// keys, or name no cause.
    fn check_provider(&self) -> Result<(), Failure> {
        match doctor::faults_of_openssl_conf(&self.openssl_conf).first() {
            None => Ok(()),
            Some(fault) => {
                let title = self.server.title();
                let reason = format_args!(
                    "{title} could not load the provider, which the package keyward-openssl has: {fault}"
                );
                Err(Failure::new(exit::CONFIG, reason))
            }
        }
    }

    /// Reports a plan without keys.
    fn report_nothing(&self, admin: &AdminClient, plan: &Plan) -> Result<(), Failure> {
        let title = self.server.title();
        if self.client.json {
            print_json(&plan.json())?;
        } else {
            let what = match plan.keys.references.is_empty() {
                true => format!("no server of {title} has a key in a file that this command can move"),
                false => format!("every key of {title} is in the daemon already"),
            };
            let missing = plan.missing_grants();
            let notes: String = plan.notes.iter().map(|note| format!("\nNote: {note}\n")).collect();
            print(&format!("{}\n{what}\n{missing}{notes}", plan.server))?;
        }
        for path in plan.keys.references.keys() {
            let Some(reference) = keys::reference(path) else { continue };
            let key = admin.show(reference.label().as_str())?;
            let has_key = key.public_key(reference.version()).is_some_and(|spki| spki == reference.spki());
            if key.state != "enabled" || !has_key {
                let reason = format_args!(
                    "key {} of {} does not sign in the daemon now: see keyward key show {0}",
                    key.label,
                    path.display()
                );
                return Err(Failure::new(exit::CONFIG, reason));
            }
        }
        Ok(())
    }

    /// Attaches the certificates that the server reads to the keys that were in the daemon before:
    /// a renewal with the same key has given the server other ones.
    fn attach_present(&self, admin: &AdminClient, plan: &Plan) -> Result<(), Failure> {
        for (path, present) in plan.keys.references.iter().filter(|_| !self.dry_run) {
            let Some(certificate) = &present.certificate else { continue };
            if let Some(label) = keys::attach_present(admin, path, certificate)? {
                self.done(&format!("key {label} has the certificate of {}", certificate.display()));
            }
        }
        Ok(())
    }

    /// Asks whether the server may restart.
    fn ask_for_restart(&self) -> Result<(), Failure> {
        let title = self.server.title();
        let question =
            format!("{title} restarts once, and takes no connections for a moment. Type restart to go on: ");
        ask(&question, "restart", &format!("{title} must restart once, which --restart allows"))
    }

    /// Asks whether key files may go.
    fn ask_for_removal(&self, files: &[&Path]) -> Result<(), Failure> {
        let files: String = files.iter().map(|path| format!("  {}\n", quoted(path))).collect();
        let question =
            format!("There is no way back after the removal of these files:\n{files}Type remove to go on: ");
        ask(&question, "remove", "there is no way back after the removal of key files, which --yes allows")
    }

    /// Asks whether the server may change although no handshake shows that it works then.
    fn ask_for_unchecked(&self) -> Result<(), Failure> {
        let question = "No handshake can be compared, so nobody sees whether the change works. Type unchecked to go on: ";
        ask(question, "unchecked", "no handshake can be compared; --unchecked goes on all the same")
    }

    /// True if the command is about a server with one of these names.
    fn wants(&self, names: &[String]) -> bool {
        self.site.is_empty() || self.site.iter().any(|site| names.contains(site))
    }

    /// How to go back, for the notes of a plan.
    fn way_back(&self) -> String {
        format!(
            "the key files stay, until {}; back: {}",
            self.command("--remove-key-files"),
            self.command("--undo")
        )
    }

    /// Directory of the journals.
    fn journals(&self) -> PathBuf {
        health::journals(&self.config)
    }

    /// The command for the same server with another option.
    fn command(&self, option: &str) -> String {
        let mut command = format!("keyward protect {} {option}", self.server.name());
        for (name, path, usual) in [
            ("--runtime-dir", &self.client.runtime_dir, RUNTIME_DIR),
            ("--config", &self.config, DEFAULT_CONFIG),
            ("--openssl-conf", &self.openssl_conf, OPENSSL_CONF),
            ("--systemd-dir", &self.systemd_dir, SYSTEMD_DIR),
        ] {
            if *path != Path::new(usual) {
                command += &format!(" {name} {}", quoted(path));
            }
        }
        command
    }

    /// Says that a step is done.
    fn done(&self, step: &str) {
        if !self.client.json {
            eprintln!("ok  {step}");
        }
    }
}

/// Asks a person at the terminal for a word. Without the word, nothing is changed, for this reason.
fn ask(question: &str, word: &str, reason: &str) -> Result<(), Failure> {
    match io::stdin().is_terminal() && confirmed(question, word)? {
        true => Ok(()),
        false => Err(Failure::new(exit::USAGE, format_args!("nothing was changed: {reason}"))),
    }
}

/// The openssl.cnf of the package.
const OPENSSL_CONF: &str = "/etc/keyward/openssl.cnf";
/// Directory of the drop-ins of an administrator (systemd.unit(5)).
const SYSTEMD_DIR: &str = "/etc/systemd/system";
