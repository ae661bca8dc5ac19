//! The owners of a unit: administrators who sign commands, and a master key that is made of parts.
//!
//! A unit is owned by *administrators*. They sign commands, and most commands need several of them.
//! The master key is put together from *parts* or *shares*, which other people own. The unit has
//! two *registers*: the master key in force, and the one that will be in force.
//!
//! [`State`] is all of this without secrets of the owners, and is kept in a file. [`State::apply`]
//! has the rules. [`Command`] is the text that administrators sign, and [`SignedCommand`] the text
//! with their signatures. [`Custodian`] keeps the state and the [`Unit`](crate::Unit) in step.

mod command;
mod custodian;
mod file_kind;
mod importer;
mod keeping;
mod part;
mod passphrase;
mod pattern;
mod people_files;
mod person;
mod register;
mod rules;
mod sealed_box;
mod shares;
mod signed;
mod state;

pub use command::{
    Command, Instruction, InvalidCommand, MAX_ADMINISTRATORS, RegisterName, Thresholds, UnitId,
};
pub use custodian::{Custodian, Custody, CustodyError, Done, HANDED_OVER, StateFile, Taken, Unawaited};
pub use file_kind::InvalidFile;
pub use importer::{Aim, Importer, InvalidImporter, OwnerKey, Piece};
pub use keeping::KeepingSecret;
pub use part::{PARTS, Part};
pub use pattern::{InvalidPattern, Pattern};
pub use people_files::{
    AdministratorKey, ShareFile, check_piece, part_from_file, part_to_file, pattern_of_part_file, piece_of,
};
pub use person::{InvalidPersonKey, InvalidPersonName, InvalidSki, Person, PersonKey, PersonName, Ski};
pub use register::{Contents, Origin, Register, SealedShare};
pub use rules::{Effect, LONGEST_LIFE, Refusal, Surroundings};
pub use shares::{MAX_SHARES, Share};
pub use signed::{ClaimSecret, InvalidSigned, MAX_BUNDLE, SignatureFault, SignedCommand};
pub use state::{InvalidState, MAX_STATE, State, can_own};
