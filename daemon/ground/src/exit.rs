//! Exit statuses, from sysexits(3).

/// The command line is wrong.
pub const USAGE: u8 = 64;
/// The contents of a file are wrong.
pub const DATA: u8 = 65;
/// A named file or key does not exist.
pub const NO_INPUT: u8 = 66;
/// The daemon cannot be reached, or the daemon reaches no unit.
pub const UNAVAILABLE: u8 = 69;
/// A bug of the program.
pub const SOFTWARE: u8 = 70;
/// The system refused a resource or a call.
pub const OS: u8 = 71;
/// A file or key cannot be made, or exists already.
pub const CANNOT_CREATE: u8 = 73;
/// Reading or writing failed.
pub const IO: u8 = 74;
/// A key is in use, or a user has carried out too many acts; try again later.
pub const IN_USE: u8 = 75;
/// A permission is missing.
pub const NO_PERMISSION: u8 = 77;
/// The configuration is wrong, or names a file that cannot be used.
pub const CONFIG: u8 = 78;
