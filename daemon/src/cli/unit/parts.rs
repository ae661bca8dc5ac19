//! Parts of a master key, and shares, on the machines of their owners.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keyward_unit::administration::{
    Aim, Importer, InvalidImporter, OwnerKey, Part, Pattern, Person, PersonName, Piece, Ski, check_piece,
    part_to_file, pattern_of_part_file, piece_of,
};

use super::encrypted::{Encrypt, EncryptedPart};
use super::issue::{
    new_passphrase_of, passphrase_of, public_line, public_path, read, refuse_existing, write_new,
};
use crate::admin::client::AdminClient;
use crate::admin::unit_view::TakenView;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::cli::passphrase;
use crate::ground::exit;
use crate::ground::hardening;
use crate::ground::text::quoted;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Make a part of a master key in a file that a passphrase encrypts, and print its pattern
    New(New),
    /// Print the pattern of a part
    Show(Show),
    /// Make the key of an owner of shares
    Owner(New),
    /// Encrypt a part or a share to a unit, on a machine without a daemon
    Encrypt(Encrypt),
    /// Check that the passphrase opens a part, or a share with the key of its owner
    Check(Check),
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::New(new) => new.part(),
            Self::Show(show) => show.run(),
            Self::Owner(new) => new.owner(),
            Self::Encrypt(encrypt) => encrypt.run(),
            Self::Check(check) => check.run(),
        }
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct New {
    /// File to make
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name of the owner: letters, digits, and . _ @ -
    #[arg(long)]
    name: PersonName,
    #[command(flatten)]
    passphrase: passphrase::Source,
}

impl New {
    fn part(self) -> Result<(), Failure> {
        let pattern = make_part(&self.file, &self.name, &self.passphrase)?;
        print(&format!(
            "made a part of {}; its pattern is\n{pattern}\nkeep {} and its passphrase; give the pattern to the administrators\n",
            self.name,
            quoted(&self.file)
        ))
    }

    fn owner(self) -> Result<(), Failure> {
        let person = make_owner(&self.file, self.name, &self.passphrase)?;
        print(&format!(
            "made the key of {}, {}\nkeep {} and its passphrase; give {} to the administrators\n",
            person.name,
            person.key.ski(),
            quoted(&self.file),
            quoted(&public_path(&self.file))
        ))
    }
}

/// Makes a part in a file. Returns the pattern.
pub(super) fn make_part(
    file: &Path,
    name: &PersonName,
    passphrase: &passphrase::Source,
) -> Result<Pattern, Failure> {
    protect()?;
    refuse_existing(file)?;
    let passphrase = new_passphrase_of(file, passphrase)?;
    let failed = |error| Failure::new(exit::OS, error);
    let part = Part::generate().map_err(failed)?;
    let text = part_to_file(&part, name, &passphrase).map_err(failed)?;
    write_new(file, text.as_bytes(), 0o600)?;
    Ok(part.pattern())
}

/// Makes the key of an owner of shares in a file, and the public file beside it.
pub(super) fn make_owner(
    file: &Path,
    name: PersonName,
    passphrase: &passphrase::Source,
) -> Result<Person, Failure> {
    protect()?;
    refuse_existing(file)?;
    refuse_existing(&public_path(file))?;
    let passphrase = new_passphrase_of(file, passphrase)?;
    let failed = |error| Failure::new(exit::OS, error);
    let key = OwnerKey::generate().map_err(failed)?;
    write_new(file, key.to_file(&name, &passphrase).map_err(failed)?.as_bytes(), 0o600)?;
    let person = Person { name, key: key.public() };
    write_new(&public_path(file), public_line(&person).as_bytes(), 0o644)?;
    Ok(person)
}

/// Opens a file with the key of an owner of shares: the owner knows the passphrase.
pub(super) fn open_owner(file: &Path, passphrase: &passphrase::Source) -> Result<(), Failure> {
    let key = OwnerKey::from_file(&read(file)?, &passphrase_of(file, passphrase)?);
    key.map(drop)
        .map_err(|error| Failure::new(exit::DATA, format_args!("cannot open {}: {error}", file.display())))
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Show {
    /// File of the part
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let found = pattern_of_part_file(&read(&self.file)?);
        let (owner, pattern) = found.map_err(|error| {
            Failure::new(exit::DATA, format_args!("cannot read {}: {error}", self.file.display()))
        })?;
        print(&format!("{pattern} {owner}\n"))
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Check {
    /// File of the part, or of the share with --owner-key
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// File with the key of the owner of the share
    #[arg(long, value_name = "FILE")]
    owner_key: Option<PathBuf>,
    #[command(flatten)]
    passphrase: passphrase::Source,
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let Self { file, owner_key, passphrase } = &self;
        let piece = PieceFile { file, owner_key: owner_key.as_deref(), passphrase }.open();
        let piece =
            piece.map_err(|failure| failure.while_trying(format_args!("cannot open {}", file.display())))?;
        print(&format!("the passphrase opens {}; its pattern is\n{}\n", file.display(), piece.pattern()))
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Unseal {
    /// File of the part, or of the share with --owner-key
    #[arg(value_name = "FILE", required_unless_present = "encrypted")]
    file: Option<PathBuf>,
    /// Bring a part that its owner has encrypted elsewhere: output of keyward unit part encrypt
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["file", "load", "owner_key", "unit_key", "passphrase_file", "passphrase_fd"]
    )]
    encrypted: Option<PathBuf>,
    /// Bring the part to load the new register, as agreed in a ceremony; without this option, the
    /// unit takes the part only for a master key that it has had before
    #[arg(long)]
    load: bool,
    /// File with the key of the owner of the share
    #[arg(long, value_name = "FILE")]
    owner_key: Option<PathBuf>,
    /// Fingerprint of the key of the unit, as you know it since the claim: 64 hexadecimal digits
    #[arg(long, value_name = "FINGERPRINT", required_unless_present = "encrypted")]
    unit_key: Option<Ski>,
    #[command(flatten)]
    passphrase: passphrase::Source,
    #[command(flatten)]
    client: Client,
}

impl Unseal {
    pub(super) fn run(self) -> Result<(), Failure> {
        let here = &self.client.runtime_dir;
        let taken = self.bring(&AdminClient::new(here)?).map_err(|failure| failure.at(here))?;
        if self.client.json {
            return print_json(&taken);
        }
        let TakenView { register, pattern, missing } = &taken;
        print(&match missing {
            0 => format!("took {pattern}; the unit has the master key of the {register} register\n"),
            1 => format!("took {pattern}; 1 more is missing for the {register} register\n"),
            more => format!("took {pattern}; {more} more are missing for the {register} register\n"),
        })
    }

    fn bring(&self, admin: &AdminClient) -> Result<TakenView, Failure> {
        if let Some(path) = &self.encrypted {
            let send = || Ok(admin.unit_part(&EncryptedPart::read(path)?.0)?);
            return send().map_err(|failure| cannot_bring(path, failure));
        }
        let (Some(file), Some(unit_key)) = (&self.file, self.unit_key) else {
            return Err(Failure::new(exit::USAGE, "name the file of the part, and the unit with --unit-key"));
        };
        let owner_key = self.owner_key.as_deref();
        PieceFile { file, owner_key, passphrase: &self.passphrase }.bring(admin, unit_key, aim(self.load))
    }
}

/// Purpose for which an owner brings a part.
pub(super) fn aim(is_load: bool) -> Aim {
    if is_load { Aim::Load } else { Aim::Unseal }
}

fn cannot_bring(path: &Path, failure: Failure) -> Failure {
    failure.while_trying(format_args!("cannot bring the unit {}", path.display()))
}

/// The importer key in a text, if the unit with the fingerprint `unit_key` has signed it. Comes
/// before the passphrase is asked for: the part never leaves for another unit.
pub(super) fn verified(text: &str, unit_key: Ski) -> Result<Importer, Failure> {
    Importer::read(text, unit_key).map_err(|error| {
        let is_text = matches!(error, InvalidImporter::Text);
        Failure::new(if is_text { exit::DATA } else { exit::NO_PERMISSION }, error)
    })
}

/// A part in a file, or a share with the key of its owner.
pub(super) struct PieceFile<'f> {
    pub(super) file: &'f Path,
    pub(super) owner_key: Option<&'f Path>,
    pub(super) passphrase: &'f passphrase::Source,
}

impl PieceFile<'_> {
    /// Gives the unit the part or share. `unit_key` is the fingerprint of the unit as its owners
    /// know it.
    pub(super) fn bring(&self, admin: &AdminClient, unit_key: Ski, aim: Aim) -> Result<TakenView, Failure> {
        let bring = || {
            let importer = verified(&admin.importer()?, unit_key)?;
            let (_, part) = self.encrypt(&importer, aim)?;
            Ok(admin.unit_part(&part.0)?)
        };
        bring().map_err(|failure| cannot_bring(self.file, failure))
    }

    /// Encrypts the part or share to a unit. Returns the pattern, too.
    pub(super) fn encrypt(&self, importer: &Importer, aim: Aim) -> Result<(Pattern, EncryptedPart), Failure> {
        let piece = self.open()?;
        let sealed = importer.seal(&piece, aim).map_err(|error| Failure::new(exit::OS, error))?;
        Ok((piece.pattern(), EncryptedPart(sealed)))
    }

    /// Opens the part or share with its passphrase.
    fn open(&self) -> Result<Piece, Failure> {
        protect()?;
        let text = read(self.file)?;
        let owner_key = self.owner_key.map(read).transpose()?;
        check_piece(&text, owner_key.as_ref().map(|key| key.as_str()))
            .map_err(|error| Failure::new(exit::DATA, error))?;
        let secret = self.owner_key.unwrap_or(self.file);
        let passphrase = passphrase_of(secret, self.passphrase)?;
        let piece = piece_of(&text, owner_key.as_ref().map(|key| key.as_str()), &passphrase);
        piece.map_err(|error| Failure::new(exit::DATA, error))
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Seal {
    #[command(flatten)]
    client: Client,
}

impl Seal {
    pub(super) fn run(self) -> Result<(), Failure> {
        let here = &self.client.runtime_dir;
        let sealed = AdminClient::new(here)
            .and_then(|admin| admin.seal_unit())
            .map_err(|error| Failure::from(error).while_trying("cannot seal the unit").at(here))?;
        match self.client.json {
            true => print_json(&sealed),
            false => print(
                "the unit is sealed; handshakes with its keys fail until its owners bring their parts\n",
            ),
        }
    }
}

/// Keeps the part out of core dumps and away from debuggers.
pub(super) fn protect() -> Result<(), Failure> {
    hardening::harden().map_err(|error| {
        Failure::new(exit::OS, format_args!("cannot keep the part out of core dumps: {error}"))
    })
}
