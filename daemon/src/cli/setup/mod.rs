//! `keyward setup`: chooses how the unit of a new installation gets its master key after a start,
//! and starts the service. No file with a secret is ever overwritten.
//!
//! Each step finds the work of an earlier run done, so that an interrupted setup can be repeated:
//! first the file with the secret, then its copy for another place, then the file that names it to
//! the daemon, then the start.

mod choice;
mod chroot;
mod configuration;
mod credential;
mod drop_in;
mod files;
mod found;
mod next_start;
mod opens;
mod place;
mod report;
mod secret;
mod service;

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::client::{Client, STATE_DIR};
use super::failure::Failure;
use super::key::for_daemon;
use super::{output, service_files};
use crate::ground::exit;
use crate::ground::hardening;
use crate::ground::ownership;
use crate::keys::KeyStore;
use crate::peers;
use choice::{Choice, Way};
use found::Found;
pub(super) use next_start::fault_of_secret;
use place::Place;
use report::Report;

/// On a terminal, the command explains the choices and asks. An existing installation keeps its
/// key file.
#[derive(Args, Debug)]
pub(super) struct Setup {
    /// Way in which the unit gets its master key after each start [default: ask on the terminal]
    #[arg(long, value_enum, value_name = "CHOICE")]
    unseal: Option<Choice>,
    /// Configuration file [default: keyward.toml in DIR]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the configuration and the secret
    #[arg(long, value_name = "DIR", default_value = DIR)]
    dir: PathBuf,
    /// Directory of the key store
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// With credential: file for a copy of the secret, on another medium
    #[arg(long, value_name = "FILE")]
    recovery: Option<PathBuf>,
    /// With credential: encrypt it with the key of the host only, although there is a TPM
    #[arg(long)]
    without_tpm: bool,
    /// With passphrase: existing file with the passphrase [default: make one in DIR]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Ask nothing
    #[arg(long)]
    yes: bool,
    /// Do not start the service
    #[arg(long)]
    no_start: bool,
    #[command(flatten)]
    client: Client,
}

/// True if the service is installed, and nobody has set it up or given it a key store: the daemon
/// would start without a master key. `root` is the root directory.
pub(super) fn is_due(root: &Path) -> bool {
    let store = root.join(STATE_DIR.trim_start_matches('/')).join(KeyStore::FILE);
    // A store that this user may not look for may be there.
    let has_no_store = store.try_exists().is_ok_and(|is_there| !is_there);
    has_no_store && !service_files::read(root).is_empty() && drop_in::configured(root).is_none()
}

impl Setup {
    pub(super) fn run(self) -> Result<(), Failure> {
        hardening::harden()
            .map_err(|error| Failure::new(exit::OS, format_args!("cannot protect this process: {error}")))?;
        let place = Place::new(&self.dir, self.config.as_deref(), &self.state_dir, &self.client.runtime_dir)?;
        if place.has_systemd && !rustix::process::geteuid().is_root() {
            let reason = "cannot set up the service as this user: run keyward setup as root";
            return Err(Failure::new(exit::NO_PERMISSION, reason));
        }
        let found = Found::look(&place)?;
        let way = found.decide(&place, self.unseal, self.passphrase_file.as_deref(), || self.ask())?;
        let file = match &found.configured {
            Some(configured) => configured.secret.clone(),
            None => self.passphrase_file.as_deref().and_then(absolute).or_else(|| way.file(&place.dir)),
        };
        let recovery = self.check(&place, &found, way)?;
        let is_there = file.as_deref().map(|file| found.check(&place, way, file)).transpose()?;
        place.prepare()?;
        let mut report = Report::new(way);
        match &found.configured {
            Some(configured) => {
                report.secret = configured.secret.clone();
                report.configured_by = Some(configured.by.clone());
                match (&file, &recovery) {
                    // As after an installation by a program that copies the configuration only.
                    (Some(file), _) if is_there == Some(false) => {
                        let owner = found.owner_of_secret(&place);
                        self.make_secret(owner, way, file, recovery.as_deref(), &mut report)?;
                    }
                    (Some(file), Some(copy)) => keep_copy(copy, &decrypted(file)?, &mut report)?,
                    _ => {}
                }
            }
            None => self.configure(&place, &found, way, file, recovery.as_deref(), &mut report)?,
        }
        if let (Some(copy), Some(file)) = (&report.recovery, &report.secret) {
            report.restore = Some(credential::restoring(copy, file, report.bound_to));
        }
        if configuration::make_first(&place.config)? {
            report.made.push(place.config.clone());
        }
        if place.has_systemd && !place.runtime_dir.join(peers::SOCKET).exists() {
            report.made.extend(chroot::add_socket(Path::new("/"))?);
        }
        for file in found.left_over(&place, way) {
            output::note(format_args!(
                "nothing uses {}, which is of another choice: remove it",
                file.display()
            ));
        }
        // What was made is reported even if the service does not start.
        let started = self.start(&place, way, &mut report);
        report.print(self.client.json)?;
        started
    }

    fn ask(&self) -> Result<Choice, Failure> {
        if self.asks() {
            return choice::ask();
        }
        Err(Failure::new(
            exit::USAGE,
            "cannot ask how the unit gets its master key: name the choice with --unseal owners, credential, passphrase or unprotected; on a terminal, keyward setup explains them",
        ))
    }

    fn asks(&self) -> bool {
        !self.yes && choice::is_on_terminal()
    }

    /// Checks the options for the way, before anything is made. Returns the path of the recovery
    /// copy.
    fn check(&self, place: &Place, found: &Found, way: Way) -> Result<Option<PathBuf>, Failure> {
        let usage = |reason: &str| Err(Failure::new(exit::USAGE, reason));
        if way == Way::Credential && !place.has_systemd {
            return usage(
                "cannot use a credential: systemd does not run here, and only systemd decrypts credentials; choose owners, passphrase or unprotected",
            );
        }
        if way != Way::Credential && (self.recovery.is_some() || self.without_tpm) {
            return usage("--recovery and --without-tpm are for --unseal credential only");
        }
        if let Some(named) = &self.passphrase_file {
            let in_force = found.configured.as_ref().and_then(|configured| configured.secret.as_deref());
            if way != Way::Passphrase {
                return usage("--passphrase-file is for --unseal passphrase only");
            }
            if in_force.is_some_and(|in_force| Some(in_force) != absolute(named).as_deref()) {
                return usage("--passphrase-file names another file than the one in force");
            }
            secret::check(way, named, found.owner_of_secret(place))?;
            secret::warn_of_short(named);
        }
        let apart_from = [place.dir.as_path(), &place.state_dir];
        self.recovery.as_ref().map(|copy| secret::check_place(copy, &apart_from)).transpose()
    }

    /// Makes the secret, and names it to the daemon.
    fn configure(
        &self,
        place: &Place,
        found: &Found,
        way: Way,
        file: Option<PathBuf>,
        recovery: Option<&Path>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        if let Some(file) = &file
            && !found.has(way)
            && self.passphrase_file.is_none()
        {
            self.make_secret(found.owner_of_secret(place), way, file, recovery, report)?;
        } else if let (Some(copy), Some(file)) = (recovery, &file) {
            keep_copy(copy, &decrypted(file)?, report)?;
        }
        report.secret.clone_from(&file);
        if place.has_systemd {
            let drop_in = drop_in::make(Path::new("/"), way, file.as_deref())?;
            report.made.push(drop_in.clone());
            report.configured_by = Some(drop_in);
        } else if let Some(file) = &file {
            configuration::make_first(&place.config)?;
            report.line = Some(configuration::name_secret(&place.config, way, file)?);
            report.made.push(place.config.clone());
            report.configured_by = Some(place.config.clone());
        }
        Ok(())
    }

    fn make_secret(
        &self,
        owner: Option<u32>,
        way: Way,
        file: &Path,
        recovery: Option<&Path>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let made = if way == Way::Passphrase { secret::new_passphrase()? } else { secret::unseal_key()? };
        report.made.push(file.to_owned());
        if way != Way::Credential {
            files::make(file, &secret::line(&made), 0o600, owner)?;
            output::note(format_args!(
                "keep a copy of {} in another place: it opens the keys",
                file.display()
            ));
            return Ok(());
        }
        report.bound_to = Some(credential::make(file, &made, self.without_tpm)?);
        match recovery {
            Some(copy) => keep_copy(copy, &made, report),
            None => self.offer_copy(&made),
        }
    }

    /// Shows the secret of a credential once, if a person wants that.
    fn offer_copy(&self, secret: &str) -> Result<(), Failure> {
        if self.asks() {
            let question = "If this machine dies, only a copy of its secret opens a backup of the keys.\nShow the secret now, for you to write down? [yes/no] ";
            if choice::answer_to(question)? == "yes" {
                eprintln!("{secret}");
                return Ok(());
            }
        }
        output::warn(
            "there is no recovery copy: if the TPM, the mainboard or the disk dies, backups of the keys cannot be opened; make a copy with: keyward setup --recovery FILE",
        );
        Ok(())
    }

    fn start(&self, place: &Place, way: Way, report: &mut Report) -> Result<(), Failure> {
        match (place.has_systemd, self.no_start) {
            (true, false) => {
                service::start(place, way)?;
                report.started = true;
            }
            (true, true) => report.next.push(service::COMMAND.into()),
            (false, _) => report.next.push(place.command()),
        }
        if way == Way::Owners {
            // A unit that has owners already waits for their parts.
            let next = match opens::is_claimed(&place.state_dir) {
                true => "keyward unit unseal FILE --unit-key FINGERPRINT",
                false => "keyward unit ceremony",
            };
            report.next.push(for_daemon(next.into(), &place.runtime_dir));
        }
        Ok(())
    }
}

fn absolute(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path).ok()
}

/// The secret of a credential that this machine can decrypt.
fn decrypted(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let encrypted = File::open(file).and_then(ownership::read_all);
    let encrypted = encrypted.map_err(|reason| Failure::reading(file, &reason))?;
    credential::decrypt(&encrypted)
}

fn keep_copy(copy: &Path, secret: &str, report: &mut Report) -> Result<(), Failure> {
    if secret::write_copy(copy, secret)? {
        report.made.push(copy.to_owned());
    }
    report.recovery = Some(copy.to_owned());
    Ok(())
}

const DIR: &str = "/etc/keyward";
