//! Names of users and groups, and their numbers.

use crate::ground::names;

/// The id of the user that a section names by name or by number. `None` if it names none.
pub(super) fn user(name: Option<String>, uid: Option<u32>) -> Result<Option<u32>, String> {
    match (name, uid) {
        (Some(_), Some(_)) => Err("name the user by user or by uid, not by both".into()),
        (Some(name), None) => uid_of(&name).map(Some),
        // The number stands for no user in every call of the kernel (setreuid(2)).
        (None, Some(u32::MAX)) => Err(format!("uid {} is nobody's", u32::MAX)),
        (None, uid) => Ok(uid),
    }
}

fn uid_of(user: &str) -> Result<u32, String> {
    match names::user_by_name(user) {
        Ok(Some(user)) => Ok(user.uid),
        Ok(None) => Err(format!("there is no user {user:?} on this machine")),
        Err(error) => Err(format!("cannot look up user {user:?}: {}", error)),
    }
}

/// The id of a group.
pub(super) fn gid_of(group: &str) -> Result<u32, String> {
    match names::group_by_name(group) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!("there is no group {group:?} on this machine")),
        Err(error) => Err(format!("cannot look up group {group:?}: {}", error)),
    }
}

/// The name of a group, or else its number.
pub(super) fn group_name(gid: u32) -> String {
    names::group_by_id(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}
