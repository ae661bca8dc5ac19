//! `keyward backup` and `keyward restore`: copies of the key store, and the recovery file.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{Client, RUNTIME_DIR, STATE_DIR};
use super::failure::Failure;
use super::output::{print, print_json, time};
use super::service_files::{self, Credential};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::purge_view::RecoveryNote;
use crate::admin::status_view::StatusView;
use crate::config::Embedded;
use crate::ground::exit;
use crate::ground::master_key;
use crate::ground::opening::Opening;
use crate::ground::text::quoted;
use crate::renewal::Renewals;
use crate::serve::backup::{self, BackupError};
use crate::serve::{DEFAULT_CONFIG, Options};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Backup {
    #[command(subcommand)]
    command: Option<Command>,
    /// File for the copy; it must not exist yet
    #[arg(value_name = "FILE", required_unless_present = "recovery")]
    file: Option<PathBuf>,
    /// Write only the secrets that wrap the keys of the store, to a recovery file that must not
    /// exist yet
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    recovery: Option<PathBuf>,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that a copy is complete and opens with the master key; needs no daemon
    Check(Check),
}

#[derive(Args, Debug)]
struct Check {
    /// The copy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Recovery file that belongs to the copy [default: the secrets in the state directory]
    #[arg(long, value_name = "FILE")]
    recovery: Option<PathBuf>,
    /// File of the master key to try [default: the file in the configuration, or the one that the
    /// service passes to the daemon]
    #[arg(long, value_name = "FILE")]
    master_key: Option<PathBuf>,
    /// Configuration file [default: /etc/keyward/keyward.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory with the secrets of the store, and with the master key of --dev
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct Restore {
    /// The copy [default: only the secrets in the recovery file are put back]
    #[arg(value_name = "FILE", required_unless_present = "recovery")]
    file: Option<PathBuf>,
    /// Recovery file, if the state directory does not have the secrets of the store
    #[arg(long, value_name = "FILE")]
    recovery: Option<PathBuf>,
    /// Directory for the key store; for a copy, it must not have a key store with keys
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    #[command(flatten)]
    client: Client,
}

impl Backup {
    pub(super) fn run(self) -> Result<(), Failure> {
        match (self.command, self.file, self.recovery) {
            (Some(Command::Check(check)), ..) => check.run(),
            (None, Some(file), _) => make(&file, &self.client),
            (None, None, Some(recovery)) => make_recovery(&recovery, &self.client),
            (None, None, None) => Ok(()),
        }
    }
}

/// Makes a new file for its owner alone, and has it filled. An incomplete file does not remain.
fn fill<T>(
    file: &Path,
    attempt: &str,
    fill: impl FnOnce(&mut File) -> Result<T, AdminClientError>,
) -> Result<T, Failure> {
    let failed = |error: AdminClientError| Failure::from(error).while_trying(attempt);
    let unwritten = |reason| Failure::new(exit::CANNOT_CREATE, format_args!("{attempt}: {reason}"));
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut made = opened.map_err(|reason| match reason.kind() {
        std::io::ErrorKind::AlreadyExists => unwritten(std::io::Error::other("the file exists already")),
        _ => unwritten(reason),
    })?;
    let filled = fill(&mut made).map_err(failed).and_then(|filled| {
        made.sync_all().and_then(|()| sync_directory_of(file)).map_err(unwritten)?;
        Ok(filled)
    });
    filled.inspect_err(|_| drop(fs::remove_file(file)))
}

fn make_recovery(file: &Path, client: &Client) -> Result<(), Failure> {
    let attempt = format!("cannot write the recovery file {}", file.display());
    let admin =
        AdminClient::new(&client.runtime_dir).map_err(|error| Failure::from(error).while_trying(&attempt))?;
    fill(file, &attempt, |made| admin.recovery(made))?;
    // The daemon warns until a whole file is on a disk.
    let written = backup::read_recovery(file).map_err(|error| failure(error).while_trying(&attempt))?;
    let (secret, has_old) = (written.in_force.0.to_string(), written.old.is_some());
    let note = RecoveryNote { secret: secret.clone(), has_old };
    let status = admin.note_recovery(&note).and_then(|_| admin.status()).map_err(|error| {
        let attempt = format!("the recovery file {} is written, but cannot tell the daemon", file.display());
        Failure::from(error).while_trying(attempt)
    })?;
    // A purge that waits for its round needs another secret, which no file has yet.
    let is_final = !has_old && status.purges.is_none_or(|purges| purges.r#final);
    if client.json {
        return print_json(&json!({ "file": file, "secret": secret, "final": is_final }));
    }
    let mut text = format!(
        "the secret {secret} of the key store is written to {}\nCopies of the key store from now on open with this file and the master key: keep the three apart. Destroy older recovery files.\n",
        file.display()
    );
    if !is_final {
        text += "A purge is not final, so the file has the secret that brings the purged key back from old copies. When the purge is final (keyward status), make another recovery file, and destroy this one.\n";
    }
    print(&text)
}

fn make(file: &Path, client: &Client) -> Result<(), Failure> {
    let attempt = format!("cannot copy the key store to {}", file.display());
    let admin =
        AdminClient::new(&client.runtime_dir).map_err(|error| Failure::from(error).while_trying(&attempt))?;
    let (before, keys, status) = fill(file, &attempt, |copy| {
        let before = admin.status()?;
        let keys = admin.backup(copy)?;
        Ok((before, keys, admin.status()?))
    })?;
    let secret_of = |status: &StatusView| status.recovery.as_ref().map(|recovery| recovery.secret.clone());
    // If it changed meanwhile, the copy may need either.
    let secret = secret_of(&status).filter(|_| secret_of(&before) == secret_of(&status));
    let is_final =
        [&before, &status].iter().all(|one| one.purges.as_ref().is_none_or(|purges| purges.r#final));
    let master_key = status.backends.iter().find(|backend| backend.name == crate::config::EMBEDDED);
    let master_key = master_key.and_then(|backend| backend.wkid.clone());
    if client.json {
        return print_json(&json!({
            "file": file,
            "keys": keys,
            "master_key": master_key,
            "has_recovery": secret.is_some() && status.recovery.as_ref().is_some_and(|one| one.current),
            "secret": secret,
            "final": is_final,
        }));
    }
    // An error means that all keys are at remote units.
    let unit = admin.unit().ok();
    let of_owners = unit.as_ref().filter(|unit| unit.current.needed.is_some_and(|needed| needed > 0));
    let needed = match master_key {
        Some(name) => match of_owners {
            Some(unit) => format!(
                "opens with the master key {name}. Its owners have it: {} of {} parts, whose patterns are:{}\nKeep these parts as long as the copy.",
                unit.current.needed.unwrap_or_default(),
                unit.current.parts.len(),
                unit.current.parts.iter().map(|part| format!("\n    {part}")).collect::<String>()
            ),
            None => format!("opens with the master key {name}: keep that key in another place"),
        },
        None => "opens with the store key: keep that key in another place".into(),
    };
    let mut advice = String::new();
    if unit.is_some() {
        let directory = status.state_dir.join("unit");
        advice += &format!("Also keep a copy of the state of the unit: {}\n", quoted(&directory));
    }
    if admin.plans().is_ok_and(|plans| !plans.is_empty()) {
        advice += &format!(
            "Also keep a copy of the progress of renewals, which knows compromised keys and revoked certificates: {}\n",
            quoted(&status.state_dir.join(Renewals::FILE))
        );
    }
    if !is_final {
        advice += "A purge is not final, so the copy may need two secrets, of which one is erased soon: when the purge is final (keyward status), make another copy\n";
    }
    if status.recovery.as_ref().is_some_and(|recovery| !recovery.current) {
        advice += "The copy opens with a recovery file only, which is not made yet: keyward backup --recovery FILE\n";
    } else if status.recovery.is_some() {
        advice += "The copy also needs the recovery file of the key store: keep the two apart\n";
    }
    if unit.is_none_or(|unit| unit.opening != Opening::Owners.name()) {
        let state_dir = match status.state_dir == Path::new(STATE_DIR) {
            true => String::new(),
            false => format!(" --state-dir {}", quoted(&status.state_dir)),
        };
        let config = status.config_file.filter(|file| file != Path::new(DEFAULT_CONFIG));
        let config = config.map(|file| format!(" --config {}", quoted(&file))).unwrap_or_default();
        advice += &format!(
            "To check that the key opens the copy: keyward backup check {}{state_dir}{config}\n",
            quoted(file)
        );
    }
    print(&format!("{keys} keys copied to {}, which {needed}\n{advice}", file.display()))
}

/// Puts the files that the service passes to the daemon as credentials into the configuration,
/// unless the configuration names a secret. Returns the credential that only systemd decrypts, if
/// there is one.
fn name_credentials(embedded: &mut Embedded, passed: Vec<Credential>) -> Option<Credential> {
    let Embedded { master_key, unseal_key, unseal_passphrase, .. } = embedded;
    if master_key.is_some() || unseal_key.is_some() || unseal_passphrase.is_some() {
        return None;
    }
    let mut encrypted = None;
    for credential in passed {
        let setting = match &*credential.name {
            master_key::CREDENTIAL => &mut *master_key,
            master_key::UNSEAL_CREDENTIAL => &mut *unseal_key,
            master_key::PASSPHRASE_CREDENTIAL => &mut *unseal_passphrase,
            _ => continue,
        };
        match credential.is_encrypted {
            true => encrypted = Some(credential),
            // A file that is not there counts as a credential that is not passed (systemd.exec(5)).
            false => *setting = Some(credential.file).filter(|file| file.exists()),
        }
    }
    encrypted
}

fn sync_directory_of(file: &Path) -> std::io::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let is_of_service = self.state_dir == Path::new(STATE_DIR);
        let options = Options {
            config: self.config,
            state_dir: self.state_dir,
            runtime_dir: RUNTIME_DIR.into(),
            dev: false,
            unit: None,
        };
        let mut config = options.read_config().map_err(|error| Failure::new(exit::CONFIG, error))?;
        let encrypted = match self.master_key {
            Some(file) => {
                config.embedded.master_key = Some(file);
                None
            }
            None if is_of_service => {
                name_credentials(&mut config.embedded, service_files::credentials(Path::new("/")))
            }
            None => None,
        };
        let recovery = self.recovery.as_deref();
        let checked = backup::check(&self.file, recovery, &options, config);
        let checked = checked.map_err(|error| match (&error, &encrypted) {
            (BackupError::Owners(_), Some(credential)) => {
                let copy = self.file.canonicalize().unwrap_or_else(|_| self.file.clone());
                failure(BackupError::Encrypted(copy, credential.name.clone(), credential.file.clone()))
            }
            _ => failure(error),
        })?;
        if self.json {
            return print_json(&checked);
        }
        let mut text = format!("{} is complete: {} keys", self.file.display(), checked.keys);
        text +=
            &checked.made.map(|made| format!(", in a store created at {}", time(made))).unwrap_or_default();
        text += "\n";
        if let Some(name) = checked.master_key {
            text += &format!("{} private keys open with the master key {name}\n", checked.unwrapped);
        }
        if let Some(directory) = &checked.unit {
            text += &format!(
                "this also needs the state of the unit, which was read from {}: keep a copy of that directory, too\n",
                directory.display()
            );
        }
        if let Some(directory) = &checked.secrets {
            text += &format!(
                "this also needs the secret of the key store, which was read from {}: on another machine, it opens with a recovery file of its time; to check one, add --recovery FILE\n",
                directory.display()
            );
        }
        for (backend, keys) in checked.remote {
            text += &format!(
                "{keys} keys are at backend {backend}: the master key of its units was not checked\n"
            );
        }
        print(&text)
    }
}

impl Restore {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { file, recovery, state_dir, client } = self;
        let what = file.as_ref().map_or("secrets".into(), |file| file.display().to_string());
        let attempt = format!("cannot restore {what} to {}", state_dir.display());
        // A running daemon would keep using the store that it has open.
        let status = AdminClient::new(&client.runtime_dir).and_then(|admin| admin.status());
        let absolute = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if status.is_ok_and(|status| absolute(&status.state_dir) == absolute(&state_dir)) {
            return Err(Failure::new(
                exit::UNAVAILABLE,
                format_args!(
                    "{attempt}: the daemon is running; stop it: systemctl stop keyward.socket keyward-admin.socket keyward.service"
                ),
            ));
        }
        let restored = match (&file, &recovery) {
            (Some(file), recovery) => backup::restore(file, recovery.as_deref(), &state_dir),
            (None, Some(recovery)) => backup::restore_secrets(recovery, &state_dir),
            (None, None) => return Ok(()),
        };
        let restored = restored.map_err(|error| failure(error).while_trying(&attempt))?;
        if client.json {
            return print_json(&json!({ "file": restored }));
        }
        if file.is_none() {
            return print(&format!("the secrets of {} are in place. Start the daemon\n", restored.display()));
        }
        print(&format!(
            "{} is restored. Start the daemon, then check its keys (keyward key list): each key is as it was when the copy was made, so keys that were disabled, compromised or deleted since are enabled again, and dates and the rule of two users that were set since are missing. Certificates that renew themselves also need {} of the same time or later\n",
            restored.display(),
            quoted(&state_dir.join(Renewals::FILE))
        ))
    }
}

fn failure(error: BackupError) -> Failure {
    let status = match &error {
        BackupError::Copy(..) | BackupError::Empty(_) | BackupError::Recovery(..) => exit::DATA,
        BackupError::InTheWay(_) | BackupError::Scratch(..) | BackupError::Write(..) => exit::CANNOT_CREATE,
        BackupError::Encrypted(..)
        | BackupError::MasterKey(..)
        | BackupError::Owners(_)
        | BackupError::State(..)
        | BackupError::Secret(..) => exit::CONFIG,
        BackupError::NoStore(..) | BackupError::Read(..) | BackupError::SecretFile(..) => exit::NO_INPUT,
        BackupError::Serve(error) => error.status(),
    };
    Failure::new(status, error)
}
