//! The drop-in of the daemon that grants the keys to the server, and to nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use keyward_proto::Use;
use toml::Value;

use super::Protect;
use super::plan::{NewFile, Plan, uses};
use super::running::Running;
use crate::config;

/// Adds the drop-in to a plan: one grant for each set of uses, for the user of the workers in their
/// service.
pub(super) fn add(plan: &mut Plan, options: &Protect, server: &dyn Running) {
    let mut by_uses: BTreeMap<BTreeSet<Use>, BTreeSet<String>> = BTreeMap::new();
    for key in &plan.keys.planned {
        by_uses.entry(key.uses.clone()).or_default().insert(key.label.to_string());
    }
    let path = config::drop_in_directory(&options.config).join(format!("{}.toml", server.name()));
    // A second run adds sites, and keeps the grants of the first.
    let before = fs::read_to_string(&path).ok();
    if let Some(before) = &before {
        plan.texts.insert(path.clone(), before.clone());
    }
    let mut text = before.unwrap_or_else(|| {
        let (title, name) = (options.server.title(), options.server.name());
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
            list(labels.into_iter().collect()),
            list(uses.iter().map(|one| one.name().to_owned()).collect()),
        );
    }
    plan.new_files.insert(path, NewFile::Text(text));
    let all: BTreeSet<Use> = plan.keys.planned.iter().flat_map(|key| key.uses.iter().copied()).collect();
    plan.steps.push(format!("the daemon reloads, and grants {} to {}", uses(&all), workers.user_name()));
}
