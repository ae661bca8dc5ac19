//! A reference: its file, and its key in the daemon.

use std::path::Path;

use hyper::StatusCode;
use keyward_proto::Reference;

use super::account::Account;
use super::expiry;
use super::files::read_text;
use super::finding::Finding;
use crate::admin::api::KeyView;
use crate::admin::client::AdminClientError;
use crate::cli::key::for_daemon;
use crate::ground::text::quoted;

/// Reads the reference in a file, which may also contain certificates.
///
/// # Errors
/// A finding, if the file cannot be read or holds no valid reference.
pub(super) fn read(path: &Path) -> Result<Reference, Finding> {
    let shown = path.display();
    let text = read_text(path)
        .map_err(|error| Finding::fail(CHECK, format!("cannot read {shown}: {error}"), AGAIN))?;
    let Some(start) = text.find(BEGIN) else {
        return Err(match holds_private_key(&text) {
            true => Finding::fail(
                CHECK,
                format!("{shown} holds a private key, not a reference to one"),
                format!(
                    "import the key: keyward key import LABEL --in {}; then make the reference: keyward key \
                     reference LABEL > FILE",
                    quoted(path)
                ),
            ),
            false => Finding::fail(CHECK, format!("{shown} holds no reference"), AGAIN),
        });
    };
    parse(&text[start..]).map_err(|error| Finding::fail(CHECK, format!("{shown}: {error}"), AGAIN))
}

/// Parses the reference at the beginning of a text.
pub(super) fn parse(text: &str) -> Result<Reference, String> {
    const END: &str = "-----END KEYWARD KEY-----";
    let block = text.find(END).map_or(text, |end| &text[..end + END.len()]);
    Reference::from_pem(block).map_err(|error| error.to_string())
}

/// True if a text holds a private key of any kind in PEM.
pub(super) fn holds_private_key(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with("PRIVATE KEY-----"))
}

/// Warns if the user of a server cannot read the file of a reference. A server that loads its keys
/// as root, before it changes to that user, can read it.
pub(super) fn check_readable(account: &Account, path: &Path) -> Option<Finding> {
    let reason = account.cannot_read(path)?;
    Some(Finding::warn(
        CHECK,
        format!(
            "{reason}: a server that loads keys as that user fails, such as stunnel, or lighttpd on reload"
        ),
        format!(
            "let everyone read {}, which holds no secret: chmod a+r, and a+x for its directories",
            path.display()
        ),
    ))
}

/// Reports that a check needs the reference, which could not be read.
pub(super) fn missing(check: &'static str) -> Finding {
    Finding::warn(check, "not checked without the reference", "fix the reference first")
}

/// Compares a reference with its key in the daemon. `certified` is the public key of the
/// certificate that the server uses with the reference.
pub(super) fn check_key(
    key: &Result<KeyView, AdminClientError>,
    reference: &Reference,
    certified: Option<&[u8]>,
    runtime_dir: &Path,
) -> Finding {
    let (label, version) = (reference.label(), reference.version());
    let command = |command: String| for_daemon(command, runtime_dir);
    let make = format!("{} > FILE", command(format!("keyward key reference {label}")));
    let again = format!("make it again: {make}");
    let key = match key {
        Ok(key) => key,
        Err(error) => return not_found(error),
    };
    if key.state != "enabled" {
        return Finding::fail(
            CHECK,
            format!("key {label} is {}", key.state),
            match &*key.state {
                "disabled" => format!(
                    "ask who disabled it, and why; then: {}",
                    command(format!("keyward key enable {label}"))
                ),
                "deleted" => format!(
                    "ask who deleted it, and why; then: {}",
                    command(format!("keyward key restore {label}"))
                ),
                _ => format!("see why: {}", command(format!("keyward key show {label}"))),
            },
        );
    }
    if key.public_key(version).as_deref() != Some(reference.spki()) {
        return Finding::fail(CHECK, format!("key {label} of the daemon has another public key"), again);
    }
    let present = format!("the daemon has key {label} version {version}");
    let newer = key.current;
    if newer == version {
        return Finding::ok(CHECK, present);
    }
    let first = format!(
        "first get a certificate for version {newer} ({}), then install it together with its reference: {make}",
        expiry::how_to_request(Some(key), label.as_str(), runtime_dir)
    );
    match certified {
        // With a reference to another version than its certificate, the server does not start.
        Some(spki) if spki == reference.spki() => Finding::ok(
            CHECK,
            format!("{present}, and the certificate is for it; version {newer} is newer: {first}"),
        ),
        Some(spki) if key.public_key(newer).as_deref() == Some(spki) => Finding::warn(
            CHECK,
            format!("key {label} has a newer version {newer}, and the certificate is for the newer one"),
            again,
        ),
        _ => Finding::warn(CHECK, format!("key {label} has a newer version {newer}"), first),
    }
}

fn not_found(error: &AdminClientError) -> Finding {
    match error {
        AdminClientError::Refused { status: StatusCode::NOT_FOUND, reason } => {
            Finding::fail(CHECK, reason, MISSING_KEY)
        }
        AdminClientError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, reason } => {
            Finding::fail(CHECK, reason, "find out who wrote to the key store before anything else")
        }
        AdminClientError::Refused { reason, .. } => Finding::fail(CHECK, reason, "see the log of the daemon"),
        error => Finding::warn(
            CHECK,
            format!("not compared: {error}"),
            "run keyward doctor as root while the daemon runs",
        ),
    }
}

pub(super) const CHECK: &str = "reference";
pub(super) const BEGIN: &str = "-----BEGIN KEYWARD KEY-----";
/// Fix for a file without a valid reference.
pub(super) const AGAIN: &str = "make it again: keyward key reference LABEL > FILE";
/// Fix for a label that the daemon does not have.
pub(super) const MISSING_KEY: &str = "generate or import the key, or name another one";
