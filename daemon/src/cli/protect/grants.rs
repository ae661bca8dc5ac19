//! The drop-in of the daemon that grants the keys to the server, and to nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use keyward_proto::Use;
use toml::Value;

use super::Protect;
use super::keys;
use super::plan::{NewFile, Plan, uses};
use super::running::Running;
use crate::admin::api::User;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::config;
use crate::peers::service;

/// Adds the drop-in to a plan: one grant for each set of uses, for the user of the workers in their
/// service. It is for the keys that move, and for those of references that the workers may not use.
pub(super) fn add(plan: &mut Plan, options: &Protect, server: &dyn Running, admin: &AdminClient) {
    let planned = plan.keys.planned.iter().map(|key| (key.label.to_string(), key.uses.clone()));
    plan.granted = planned.collect();
    for (label, uses) in missing_of_references(plan, server, admin) {
        plan.granted.entry(label).or_default().extend(uses);
    }
    if plan.granted.is_empty() {
        return;
    }
    let mut by_uses: BTreeMap<&BTreeSet<Use>, BTreeSet<&String>> = BTreeMap::new();
    for (label, uses) in &plan.granted {
        by_uses.entry(uses).or_default().insert(label);
    }
    let path = config::drop_in_directory(&options.config).join(format!("{}.toml", server.name()));
    // A second run adds sites, and keeps the grants of the first.
    let before = fs::read_to_string(&path).ok();
    if let Some(before) = &before {
        plan.texts.insert(path.clone(), before.clone());
    }
    let (title, name) = (options.server.title(), options.server.name());
    let mut text = before.unwrap_or_else(|| {
        format!(
            "# Grants of {title}. Written by keyward protect {name}; keyward protect {name} --undo removes the file.\n"
        )
    });
    let workers = server.workers();
    let list = |all: Vec<String>| Value::from(all).to_string();
    let who = workers.user().map_or_else(
        || format!("uid = {}", workers.uid),
        |user| format!("user = {}", Value::from(user.name)),
    );
    let unit = workers.service.as_ref().map(|unit| format!("unit = {}\n", Value::from(unit.as_str())));
    for (uses, labels) in by_uses {
        text += &format!(
            "\n[[grant]]\n{who}\n{}keys = {}\nuses = {}\n",
            unit.clone().unwrap_or_default(),
            list(labels.into_iter().cloned().collect()),
            list(uses.iter().map(|one| one.name().to_owned()).collect()),
        );
    }
    plan.new_files.insert(path, NewFile::Text(text));
    if plan.is_empty() && workers.service.is_none() && service::obstacle().is_none() {
        plan.notes.push(format!(
            "{title} runs in no service of systemd, so the grants are for each process of {}",
            workers.user_name()
        ));
    }
    let all: BTreeSet<Use> = plan.granted.values().flatten().copied().collect();
    plan.steps.push(format!("the daemon reloads, and grants {} to {}", uses(&all), workers.user_name()));
}

/// Uses that the workers may not make of the keys of references, by label.
fn missing_of_references(
    plan: &Plan,
    server: &dyn Running,
    admin: &AdminClient,
) -> BTreeMap<String, BTreeSet<Use>> {
    let mut all: BTreeMap<String, BTreeSet<Use>> = BTreeMap::new();
    for (path, present) in &plan.keys.references {
        let Some(reference) = keys::reference(path) else { continue };
        let label = reference.label().as_str();
        // A key that the daemon does not have needs more than a grant.
        let Ok(key) = admin.show(label) else { continue };
        let Ok((mut missing, _)) = missing(admin, server, label, &present.uses) else { continue };
        // A use that the key does not have needs more, too.
        missing.retain(|one| covers(&key.uses, *one));
        if !missing.is_empty() {
            all.entry(label.to_owned()).or_default().extend(missing);
        }
    }
    all
}

/// Uses of these that no grant allows the workers of a server for a key, and the reason why the
/// daemon cannot tell services apart, if there is one.
///
/// # Errors
/// [`AdminClientError`] if the daemon does not answer, or does not have the key.
pub(super) fn missing(
    admin: &AdminClient,
    server: &dyn Running,
    label: &str,
    uses: &BTreeSet<Use>,
) -> Result<(BTreeSet<Use>, Option<String>), AdminClientError> {
    let workers = server.workers();
    let service = Some(workers.service.clone().unwrap_or_default());
    let user = User { uid: workers.uid, gid: workers.gid, groups: None, service };
    let access = admin.access(label, &user)?;
    let missing = uses.iter().filter(|one| !covers(&access.granted, **one)).copied().collect();
    Ok((missing, access.obstacle))
}

/// True if one of these names of uses allows a use.
fn covers(names: &[String], one: Use) -> bool {
    let wider: &[Use] = match one {
        Use::Tls13Server => &[Use::TlsServer, Use::Any],
        Use::RsaKeyExchange => &[],
        _ => &[Use::Any],
    };
    wider.iter().chain([&one]).any(|wide| names.iter().any(|name| name == wide.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_uses_allow_narrower_ones() {
        let names = |uses: &[Use]| uses.iter().map(|one| one.name().to_owned()).collect::<Vec<_>>();
        assert!(covers(&names(&[Use::TlsServer]), Use::Tls13Server));
        assert!(covers(&names(&[Use::Any]), Use::Tls12Server));
        assert!(!covers(&names(&[Use::Tls13Server]), Use::TlsServer));
        assert!(!covers(&names(&[Use::Any]), Use::RsaKeyExchange));
    }
}
