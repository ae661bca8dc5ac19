//! Names of users, groups and hosts, as the system knows them (nsswitch.conf(5)).
//!
//! The files behind these names, such as /etc/passwd, are replaced when they change, and libraries
//! of the system may ask a directory service. A confined process may not read all of /etc. So it
//! asks its [`helper`], a process without secrets. Without a helper, the process asks the system
//! itself.

mod helper;
mod question;

use core::net::IpAddr;
use std::io;

pub use helper::{answer_questions, problem, start_helper, start_reader};
use question::Question;

/// An entry of the user database (passwd(5)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Id of the user's own group.
    pub gid: u32,
    /// Name.
    pub name: String,
}

/// An entry of the group database (group(5)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// Group id.
    pub gid: u32,
    /// Name.
    pub name: String,
    /// Names of the users that the entry lists.
    pub members: Vec<String>,
}

/// The user with a name, if there is one.
///
/// # Errors
/// The database cannot be read.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    user(&Question::UserByName(name.into()))
}

/// The user with an id, if there is one.
///
/// # Errors
/// The database cannot be read.
pub fn user_by_id(uid: u32) -> io::Result<Option<User>> {
    user(&Question::UserById(uid))
}

/// The group with a name, if there is one.
///
/// # Errors
/// The database cannot be read.
pub fn group_by_name(name: &str) -> io::Result<Option<Group>> {
    group(&Question::GroupByName(name.into()))
}

/// The group with an id, if there is one.
///
/// # Errors
/// The database cannot be read.
pub fn group_by_id(gid: u32) -> io::Result<Option<Group>> {
    group(&Question::GroupById(gid))
}

/// Ids of the groups of a process of a user whose own group is `gid` (getgrouplist(3)).
///
/// # Errors
/// The database cannot be read.
pub fn groups_of(user: &str, gid: u32) -> io::Result<Vec<u32>> {
    let Some(fields) = helper::ask(&Question::GroupsOf(user.into(), gid))? else { return Ok(Vec::new()) };
    fields.iter().map(|field| number(field)).collect()
}

/// Addresses of a host. A helper knows only the hosts that it was started with.
///
/// # Errors
/// The name is not known, or the system cannot find out.
pub fn addresses_of(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let fields = helper::ask(&Question::AddressesOf(host.into()))?.unwrap_or_default();
    fields.iter().map(|field| field.parse().map_err(|_| unexpected())).collect()
}

fn user(question: &Question) -> io::Result<Option<User>> {
    let Some(fields) = helper::ask(question)? else { return Ok(None) };
    let [uid, gid, name] = &*fields else { return Err(unexpected()) };
    Ok(Some(User { uid: number(uid)?, gid: number(gid)?, name: name.clone() }))
}

fn group(question: &Question) -> io::Result<Option<Group>> {
    let Some(fields) = helper::ask(question)? else { return Ok(None) };
    let [gid, name, members @ ..] = &*fields else { return Err(unexpected()) };
    Ok(Some(Group { gid: number(gid)?, name: name.clone(), members: members.to_vec() }))
}

fn number(field: &str) -> io::Result<u32> {
    field.parse().map_err(|_| unexpected())
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "unexpected answer about a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_root_and_this_machine() {
        let root = user_by_id(0).unwrap().unwrap();
        assert_eq!(user_by_name(&root.name).unwrap(), Some(root.clone()));
        let group = group_by_id(root.gid).unwrap().unwrap();
        assert_eq!(group_by_name(&group.name).unwrap(), Some(group));
        assert!(groups_of(&root.name, root.gid).unwrap().contains(&root.gid));
        assert!(addresses_of("localhost").unwrap().iter().all(IpAddr::is_loopback));
        assert_eq!(addresses_of("::1").unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn nobody_has_an_unknown_name() {
        assert_eq!(user_by_name("no such user").unwrap(), None);
        assert_eq!(group_by_name("no\nsuch\tgroup").unwrap(), None);
        assert_eq!(user_by_id(u32::MAX - 1).unwrap(), None);
        assert!(addresses_of("no.such.host.invalid").is_err());
    }
}
