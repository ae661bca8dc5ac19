//! `keyward unit`: the units of a daemon, the owners of its embedded unit, and the software crypto
//! unit as a server.

mod administrators;
mod ceremony;
mod compare;
mod control_points;
mod encrypted;
mod issue;
mod list;
mod parts;
mod possible;
mod registers;
mod serve;
mod show;
mod sign;
mod signers;
mod signing_program;
mod signing_service;

use clap::Subcommand;

use super::client::Client;
use super::failure::Failure;
use serve::Serve;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the units of the daemon and their health
    List(#[command(flatten)] Client),
    /// Run the software crypto unit as a GREP11 server
    Serve(Box<Serve>),
    /// Show who owns the embedded unit, and the state of its master keys
    Status(#[command(flatten)] Client),
    /// Guide people through the ceremony of a master key, on one terminal
    Ceremony(ceremony::Ceremony),
    /// Compare the embedded unit with the units of other machines
    Compare(compare::Compare),
    /// Own a unit that nobody owns: name its administrators and thresholds; root only
    Claim(administrators::Claim),
    /// Make the key of an administrator; add, remove and list administrators
    #[command(subcommand)]
    Admin(administrators::Command),
    /// Set how many administrators must sign
    Threshold(administrators::SetThresholds),
    /// Show the control points of a unit that serves GREP11, or set them
    ControlPoints(control_points::ControlPoints),
    /// Make, show or encrypt a part of a master key; make the key of an owner of shares
    #[command(subcommand)]
    Part(parts::Command),
    /// Print the key to which owners encrypt their parts on machines of their own
    Importer(encrypted::ShowImporter),
    /// Load the new register: from parts, from shares, or with shares that the unit makes
    Load(registers::Load),
    /// Agree to the master key in the new register
    Commit(registers::Commit),
    /// Put the master key in the new register in force
    Activate(registers::Activate),
    /// Empty a register
    Clear(registers::Clear),
    /// Erase the unit: it has no master key and no owners then
    Zeroize(registers::Zeroize),
    /// Wrap the keys by the committed master key, before it is activated
    Rotate(registers::Rotate),
    /// Write the files of the shares that the unit has made
    Shares(registers::Shares),
    /// Take the master keys out of the memory of the unit
    Seal(parts::Seal),
    /// Bring the unit a part or a share, to load its new register or after a start
    Unseal(parts::Unseal),
    /// Sign commands in a file
    Sign(sign::Sign),
    /// Send signed commands to the unit
    Send(sign::Send),
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(client) => list::list(&client),
            Self::Serve(serve) => serve.run(),
            Self::Status(client) => show::show(&client),
            Self::Ceremony(ceremony) => ceremony.run(),
            Self::Compare(compare) => compare.run(),
            Self::Claim(claim) => claim.run(),
            Self::Admin(command) => command.run(),
            Self::Threshold(set) => set.run(),
            Self::ControlPoints(control_points) => control_points.run(),
            Self::Part(command) => command.run(),
            Self::Importer(show) => show.run(),
            Self::Load(load) => load.run(),
            Self::Commit(commit) => commit.run(),
            Self::Activate(activate) => activate.run(),
            Self::Clear(clear) => clear.run(),
            Self::Zeroize(zeroize) => zeroize.run(),
            Self::Rotate(rotate) => rotate.run(),
            Self::Shares(shares) => shares.run(),
            Self::Seal(seal) => seal.run(),
            Self::Unseal(unseal) => unseal.run(),
            Self::Sign(sign) => sign.run(),
            Self::Send(send) => send.run(),
        }
    }
}
