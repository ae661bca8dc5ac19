//! Whether the grants let the user of a server use the key of a reference.

use std::path::Path;

use keyward_proto::{Outcome, Reference, Use};

use super::Finding;
use super::reach::Person;
use crate::admin_client::{AdminClient, AdminClientError};
use crate::cli::key::how_to_allow;

/// Asks the daemon, which decides as for a handshake.
pub(super) fn check(
    admin: &AdminClient,
    admin_socket: &Path,
    person: &Person,
    reference: &Reference,
) -> Option<Finding> {
    const CHECK: &str = "grant";
    let (label, name) = (reference.label(), person.name());
    let access = match admin.access(label.as_str(), person.uid(), person.gid()) {
        Ok(access) => access,
        // That there is no such key is told of the reference.
        Err(AdminClientError::Refused { .. }) => return None,
        Err(error) => {
            let detail = format!("not asked: {error}");
            return Some(Finding::warn(CHECK, detail, "run as root, with the daemon up"));
        }
    };
    let Some(refusal) = access.refusal else {
        return Some(Finding::ok(CHECK, format!("{name} may use key {label} for TLS servers")));
    };
    let (why, mend) = if refusal == Outcome::NoGrant.name() {
        (
            format!("no grant covers {name} and this key"),
            format!(
                "add to keyward.toml and reload: [[grant]] with user = \"{name}\" and keys = [\"{label}\"]"
            ),
        )
    } else if refusal == Outcome::UseNotGranted.name() {
        (
            format!("the grants of {name} do not include tls-server"),
            "add tls-server to the uses of the grant in keyward.toml and reload".into(),
        )
    } else if refusal == Outcome::UseRefused.name() {
        let mend = match admin.show(label.as_str()) {
            Ok(key) => format!("allow it: {}", how_to_allow(admin_socket, &key, Use::TlsServer)),
            Err(error) => format!("look at its uses: {error}"),
        };
        ("the uses of the key do not include tls-server".into(), mend)
    } else {
        (refusal, "see the log of the daemon".into())
    };
    Some(Finding::fail(CHECK, format!("{name} may not use key {label} for TLS servers: {why}"), mend))
}
