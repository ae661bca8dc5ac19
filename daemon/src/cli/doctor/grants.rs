//! Whether the grants let the user of a server use the key of a reference.

use std::path::Path;

use keyward_proto::{Outcome, Reference};

use super::Finding;
use super::reach::Person;
use crate::admin_client::{AdminClient, AdminClientError};
use crate::cli::key::how_to_allow;

/// Asks the daemon, which decides as for each kind of handshake that the key is for: one of them is enough, for a server
/// need not have all.
pub(super) fn check(
    admin: &AdminClient,
    admin_socket: &Path,
    person: &Person,
    reference: &Reference,
) -> Option<Finding> {
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
    let allowed = |allowed: bool| {
        let uses = access.iter().filter(|one| one.refusal.is_none() == allowed);
        let named = uses.map(|one| match &one.service {
            Some(service) => format!("{} (in {service} alone)", one.r#use),
            None => one.r#use.clone(),
        });
        named.collect::<Vec<_>>().join(", ")
    };
    let (may, may_not) = (allowed(true), allowed(false));
    if !may.is_empty() {
        let but = if may_not.is_empty() { String::new() } else { format!(", not for {may_not}") };
        return Some(Finding::ok(CHECK, format!("{name} may use key {label} for {may}{but}")));
    }
    let refused = access.first()?;
    let (wanted, refusal) = (&*refused.r#use, refused.refusal.clone().unwrap_or_default());
    let (why, mend) = if refusal == Outcome::NoGrant.name() {
        (
            format!("no grant covers {name} and this key"),
            format!(
                "add to keyward.toml and reload: [[grant]] with user = \"{name}\" and keys = [\"{label}\"] and uses = \
                 [\"{wanted}\"]"
            ),
        )
    } else if refusal == Outcome::UseNotGranted.name() {
        (
            format!("the grants of {name} do not include {wanted}"),
            format!("add {wanted} to the uses of the grant in keyward.toml and reload"),
        )
    } else if refusal == Outcome::UseRefused.name() {
        let mend = match (admin.show(label.as_str()), wanted.parse()) {
            (Ok(key), Ok(wanted)) => format!("allow it: {}", how_to_allow(admin_socket, &key, wanted)),
            (Err(error), _) => format!("look at its uses: {error}"),
            (_, Err(error)) => error.to_string(),
        };
        (format!("the uses of the key do not include {wanted}"), mend)
    } else {
        (refusal, "see the log of the daemon".into())
    };
    Some(Finding::fail(CHECK, format!("{name} may not use key {label} for {may_not}: {why}"), mend))
}

pub(super) const CHECK: &str = "grant";
