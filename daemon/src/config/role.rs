//! `[[role]]`: the administrative roles of users and groups.

use serde::{Deserialize, Serialize};

use super::error::InvalidSetting;
use super::names::{gid_of, group_name, user};
use crate::ground::names;
use crate::ground::ownership::{Name, SERVICE};
use crate::policy::authorise::Peer;
use crate::policy::roles::{GivenRole, Holder, Role, Roles};

/// A section `[[role]]` as text.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRole {
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
}

impl RawRole {
    /// The text of a checked role.
    pub(super) fn of(given: &GivenRole) -> Self {
        let (uid, group) = match given.to {
            Holder::User(uid) => (Some(uid), None),
            Holder::Group(gid) => (None, Some(group_name(gid))),
        };
        Self { role: given.role.name().to_owned(), user: None, group, uid }
    }

    /// Checks the role. `number` is its place in the file, from 1.
    pub(super) fn check(self, number: usize) -> Result<GivenRole, InvalidSetting> {
        let wrong = |reason: String| InvalidSetting::new(format!("role number {number}"), reason);
        let role = Role::of_name(&self.role).ok_or_else(|| {
            let known = Role::ALL.map(Role::name).join(", ");
            wrong(format!("{:?} is no role; the roles are {known}", self.role))
        })?;
        let uid = user(self.user, self.uid).map_err(wrong)?;
        let gid = self.group.map(|group| gid_of(&group)).transpose().map_err(wrong)?;
        let to = match (uid, gid) {
            (Some(uid), None) => Holder::User(uid),
            (None, Some(gid)) => Holder::Group(gid),
            (None, None) => return Err(wrong("name one of user, uid and group".into())),
            (Some(_), Some(_)) => {
                return Err(wrong(
                    "name a user or a group, not both; each of several [[role]] gives the role to one".into(),
                ));
            }
        };
        Ok(GivenRole { role, to })
    }
}

/// Checks that nobody is manager and purger if roles are separated. Users of a group are those of
/// the group database now. The daemon looks at the groups of a process again at each request.
pub(super) fn check_separation(roles: Roles) -> Result<Roles, InvalidSetting> {
    let wrong = |reason: String| InvalidSetting::new("separation", reason);
    if !roles.separation() {
        return Ok(roles);
    }
    let built_in = managers();
    for given in roles.iter() {
        if let Holder::Group(gid) = given.to {
            let member = Peer { uid: u32::MAX, gid, ..Peer::default() };
            if roles.of(&member, false, true).is_separated() {
                return Err(wrong(format!(
                    "the group {} is both manager and purger; name it for one of the two roles",
                    group_name(gid)
                )));
            }
        }
    }
    let users = roles.iter().flat_map(|given| match given.to {
        Holder::User(uid) => vec![uid],
        Holder::Group(gid) => members(gid),
    });
    for uid in built_in.iter().copied().chain(users) {
        let is_manager = built_in.contains(&uid);
        if roles.of(&process_of(uid), is_manager, true).is_separated() {
            let always =
                if is_manager { " (root and the user of the daemon are always manager)" } else { "" };
            return Err(wrong(format!(
                "{} is both manager and purger{always}; give one of the two roles to somebody else, also by group",
                Name(uid)
            )));
        }
    }
    Ok(roles)
}

/// Users that are manager whatever the configuration says: root, and the user of the daemon. That
/// user is the user of this process, or the user of the service if root checks the configuration.
fn managers() -> Vec<u32> {
    let service = names::user_by_name(SERVICE).ok().flatten().map(|user| user.uid);
    [Some(0), Some(rustix::process::geteuid().as_raw()), service].into_iter().flatten().collect()
}

/// Users whom the group database lists as members of a group. A user whose own group it is, is not
/// in that list.
fn members(gid: u32) -> Vec<u32> {
    let names = names::group_by_id(gid).ok().flatten().map(|group| group.members).unwrap_or_default();
    names.iter().filter_map(|name| Some(names::user_by_name(name).ok()??.uid)).collect()
}

/// A process of a user, with the groups of the group database.
fn process_of(uid: u32) -> Peer {
    let Some(user) = names::user_by_id(uid).ok().flatten() else {
        // No group has a user without a name.
        return Peer { uid, gid: u32::MAX, ..Peer::default() };
    };
    let groups = names::groups_of(&user.name, user.gid).unwrap_or_default().into();
    Peer { uid, gid: user.gid, groups, ..Peer::default() }
}
