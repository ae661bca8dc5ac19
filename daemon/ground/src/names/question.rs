//! Questions about names as lines of text, and the answers of the system.

use core::fmt;
use core::str::FromStr;
use std::ffi::CString;
use std::io;
use std::net::ToSocketAddrs;

use nix::unistd::{self, getgrouplist};

/// A question about a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Question {
    AddressesOf(String),
    GroupById(u32),
    GroupByName(String),
    GroupsOf(String, u32),
    UserById(u32),
    UserByName(String),
}

impl Question {
    /// True for a name that no user, group or host can have, and that would not fit in a line.
    pub(super) fn is_about_nobody(&self) -> bool {
        match self {
            Self::AddressesOf(name) | Self::GroupByName(name) | Self::UserByName(name) => is_unusable(name),
            Self::GroupsOf(name, _) => is_unusable(name),
            Self::GroupById(_) | Self::UserById(_) => false,
        }
    }

    /// Asks the system. Returns the fields of an entry; `None` if there is no entry.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn answer(&self) -> io::Result<Option<Vec<String>>> {
        Ok(match self {
            Self::AddressesOf(host) => {
                let found = (host.as_str(), 0).to_socket_addrs()?;
                Some(found.map(|address| address.ip().to_string()).collect())
            }
            Self::GroupById(gid) => unistd::Group::from_gid((*gid).into())?.map(fields_of_group),
            Self::GroupByName(name) => unistd::Group::from_name(name)?.map(fields_of_group),
            Self::GroupsOf(name, gid) => {
                let groups = getgrouplist(&CString::new(name.as_str())?, (*gid).into())?;
                Some(groups.into_iter().map(|group| group.to_string()).collect())
            }
            Self::UserById(uid) => unistd::User::from_uid((*uid).into())?.map(fields_of_user),
            Self::UserByName(name) => unistd::User::from_name(name)?.map(fields_of_user),
        })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressesOf(host) => write!(f, "host\t{host}"),
            Self::GroupById(gid) => write!(f, "gid\t{gid}"),
            Self::GroupByName(name) => write!(f, "group\t{name}"),
            Self::GroupsOf(name, gid) => write!(f, "groups\t{name}\t{gid}"),
            Self::UserById(uid) => write!(f, "uid\t{uid}"),
            Self::UserByName(name) => write!(f, "user\t{name}"),
        }
    }
}

impl FromStr for Question {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let fields: Vec<_> = line.split('\t').collect();
        let number = |text: &str| text.parse().map_err(drop);
        match *fields {
            ["host", host] => Ok(Self::AddressesOf(host.into())),
            ["gid", gid] => Ok(Self::GroupById(number(gid)?)),
            ["group", name] => Ok(Self::GroupByName(name.into())),
            ["groups", name, gid] => Ok(Self::GroupsOf(name.into(), number(gid)?)),
            ["uid", uid] => Ok(Self::UserById(number(uid)?)),
            ["user", name] => Ok(Self::UserByName(name.into())),
            _ => Err(()),
        }
    }
}

/// Formats an answer as a line.
pub(super) fn format_answer(answer: io::Result<Option<Vec<String>>>) -> String {
    match answer {
        Ok(Some(fields)) => {
            let fields = fields.iter().filter(|field| !field.contains(['\t', '\n']));
            fields.fold("found".into(), |line, field| line + "\t" + field)
        }
        Ok(None) => "none".into(),
        Err(error) => format!("error\t{}", error.to_string().replace(['\t', '\n'], " ")),
    }
}

/// Parses an answer.
///
/// # Errors
/// The error of the system, or an error for a line that is no answer.
pub(super) fn parse_answer(line: &str) -> io::Result<Option<Vec<String>>> {
    let mut fields = line.split('\t').map(str::to_owned);
    match fields.next().as_deref() {
        Some("found") => Ok(Some(fields.collect())),
        Some("none") => Ok(None),
        Some("error") => Err(io::Error::other(fields.next().unwrap_or_default())),
        _ => Err(super::unexpected()),
    }
}

fn fields_of_user(user: unistd::User) -> Vec<String> {
    vec![user.uid.to_string(), user.gid.to_string(), user.name]
}

fn fields_of_group(group: unistd::Group) -> Vec<String> {
    [group.gid.to_string(), group.name].into_iter().chain(group.mem).collect()
}

fn is_unusable(name: &str) -> bool {
    name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control)
}

/// Longest name, in bytes. The name of a host has at most 253 (RFC 1035, 2.3.4), and that of a user
/// 256 (useradd(8)).
const LONGEST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_survive_their_line() {
        for question in [
            Question::AddressesOf("hsm.example".into()),
            Question::GroupById(7),
            Question::GroupByName("domain users".into()),
            Question::GroupsOf("al".into(), 8),
            Question::UserById(9),
            Question::UserByName("CORP\\al".into()),
        ] {
            assert_eq!(question.to_string().parse(), Ok(question.clone()));
            assert!(!question.is_about_nobody());
        }
        assert_eq!("uid\t-1".parse::<Question>(), Err(()));
        assert!(Question::UserByName("a\nb".into()).is_about_nobody());
        let fields = vec!["7".to_owned(), "domain users".to_owned()];
        assert_eq!(parse_answer(&format_answer(Ok(Some(fields.clone())))).unwrap(), Some(fields));
        assert_eq!(parse_answer(&format_answer(Ok(None))).unwrap(), None);
        let failed = parse_answer(&format_answer(Err(io::Error::other("a\nb")))).unwrap_err();
        assert_eq!(failed.to_string(), "a b");
        assert!(parse_answer("").is_err());
    }
}
