//! The bodies of the fuzz targets: every decoder of Keyward that reads bytes from others, and the
//! properties that must hold for each input.
//!
//! tests/fuzz gives the bodies to libFuzzer. tests/replay.rs runs them on known inputs with the
//! stable toolchain.

#![forbid(unsafe_code)]
// A body that cannot set up its scene cannot check anything.
#![allow(clippy::expect_used)]

pub mod blob;
pub mod certificate;
pub mod config;
pub mod foreign_key;
pub mod frame;
pub mod grep11_request;
pub mod grep11_state;
pub mod grep11_template;
pub mod grep11_unwrap;
pub mod import;
pub mod purpose;
pub mod record;
pub mod recovery;
pub mod reference;
pub mod starter;
pub mod unit_command;
pub mod unit_importer;
pub mod unit_state;

mod scene;

/// A body, which panics on an input that breaks its decoder.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("blob", blob::run),
    ("certificate", certificate::run),
    ("config", config::run),
    ("foreign_key", foreign_key::run),
    ("frame", frame::run),
    ("grep11_request", grep11_request::run),
    ("grep11_state", grep11_state::run),
    ("grep11_template", grep11_template::run),
    ("grep11_unwrap", grep11_unwrap::run),
    ("import", import::run),
    ("purpose", purpose::run),
    ("record", record::run),
    ("recovery", recovery::run),
    ("reference", reference::run),
    ("starter", starter::run),
    ("unit_command", unit_command::run),
    ("unit_importer", unit_importer::run),
    ("unit_state", unit_state::run),
];
