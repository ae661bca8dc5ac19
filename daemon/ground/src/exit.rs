//! Exit statuses, from sysexits(3).

/// The command line makes no sense.
pub const USAGE: u8 = 64;
/// A file holds something else than it should.
pub const DATA: u8 = 65;
/// A file or key that was named does not exist.
pub const NO_INPUT: u8 = 66;
/// The daemon cannot be reached, or no unit by the daemon.
pub const UNAVAILABLE: u8 = 69;
/// A fault of the program itself.
pub const SOFTWARE: u8 = 70;
/// The system lacks something.
pub const OS: u8 = 71;
/// What is to be made exists already, or has no place.
pub const CANNOT_CREATE: u8 = 73;
/// Reading or writing failed.
pub const IO: u8 = 74;
/// Not allowed.
pub const NO_PERMISSION: u8 = 77;
/// The configuration, or what it leads to, is wrong.
pub const CONFIG: u8 = 78;
