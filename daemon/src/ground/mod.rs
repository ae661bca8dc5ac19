//! What the daemon and the command line stand on: [`ownership`] says which files and directories
//! they may rely on, [`text`] what may be shown, [`hardening`] gives up what no process here needs,
//! [`panics`] keeps those of a library from being told, [`renewed`] reads files again that have
//! changed.

pub(crate) mod hardening;
pub(crate) mod ownership;
pub(crate) mod panics;
pub(crate) mod renewed;
pub(crate) mod text;
