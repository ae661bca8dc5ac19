//! Whether the grants let the user of a server use the key of a reference.

use std::fs;
use std::path::Path;

use keyward_proto::{Outcome, Reference, Use};

use super::Finding;
use super::reach::Person;
use crate::admin::api::{KeyView, User};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::cli::key::how_to_allow;
use crate::peers::service;

/// Asks the daemon, which decides as for each kind of handshake that the key is for: one of them is enough, for a server
/// need not have all.
pub(super) fn check(
    admin: &AdminClient,
    runtime_dir: &Path,
    person: &Person,
    pid: Option<u32>,
    reference: &Reference,
) -> Option<Finding> {
    let label = reference.label();
    let (user, name) = match pid.map(|pid| of_process(pid, person)) {
        None => (User { uid: person.uid(), gid: person.gid(), ..User::default() }, person.name().to_owned()),
        Some(Ok(known)) => known,
        Some(Err(finding)) => return Some(finding),
    };
    let access = match admin.access(label.as_str(), &user) {
        Ok(access) => access,
        // That there is no such key is told of the reference.
        Err(AdminClientError::Refused { .. }) => return None,
        Err(error) => {
            let detail = format!("not asked: {error}");
            return Some(Finding::warn(CHECK, detail, "run as root, with the daemon up"));
        }
    };
    let allowed = |allowed: bool| {
        let uses = access.uses.iter().filter(|one| one.refusal.is_none() == allowed);
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
    let refused = access.uses.first()?;
    let (wanted, refusal) = (&*refused.r#use, refused.refusal.clone().unwrap_or_default());
    // What the grants are for: any handshake where the key is for none, otherwise of the same side.
    let side = |one: &str| one.rsplit('-').next().map(str::to_owned);
    let is_near = |one: &str| refusal == Outcome::UseRefused.name() || side(one) == side(wanted);
    let mut near = HANDSHAKES.iter().map(|one| one.name()).filter(|one| is_near(one));
    let granted = near.find(|near| access.granted.iter().any(|one| one == near));
    let allow = |wanted: &str| match (admin.show(label.as_str()), wanted.parse()) {
        (Ok(key), Ok(wanted)) => how_to_allow(runtime_dir, &key, wanted),
        (Err(error), _) => format!("look at its uses: {error}"),
        (_, Err(error)) => error.to_string(),
    };
    let (why, mend) = if refusal == Outcome::NoGrant.name() {
        (
            match &access.obstacle {
                Some(obstacle) => {
                    format!("no grant covers {name} and this key; grants with unit do not hold: {obstacle}")
                }
                None => format!("no grant covers {name} and this key"),
            },
            format!(
                "add to keyward.toml and reload: [[grant]] with {user} and keys = [\"{label}\"] and uses = [\"{wanted}\"]",
                user = person.in_grant()
            ),
        )
    } else if refusal == Outcome::UseNotGranted.name() {
        let mend = format!("add {wanted} to the uses of the grant in keyward.toml and reload");
        let mend = match granted {
            Some(granted) => format!(
                "if the server needs {granted}, which the grant has and the key has not: {}; if not, {mend}",
                allow(granted)
            ),
            None => mend,
        };
        (format!("the grants of {name} do not include {wanted}"), mend)
    } else if refusal == Outcome::UseRefused.name() {
        // The key is for no handshake; a use that the grant has lets one succeed at once.
        let wanted = granted.unwrap_or(wanted);
        let mend = format!("allow it: {}", allow(wanted));
        (format!("the uses of the key do not include {wanted}"), mend)
    } else {
        (refusal, "see the log of the daemon".into())
    };
    Some(Finding::fail(CHECK, format!("{name} may not use key {label} for {may_not}: {why}"), mend))
}

/// Whether there is any key that a user may use, where no reference says which one is needed.
pub(super) fn any(admin: &AdminClient, person: &Person, pid: Option<u32>) -> Finding {
    let (user, name) = match pid.map(|pid| of_process(pid, person)) {
        None => (User { uid: person.uid(), gid: person.gid(), ..User::default() }, person.name().to_owned()),
        Some(Ok(known)) => known,
        Some(Err(finding)) => return finding,
    };
    let keys = match admin.list() {
        Ok((keys, _)) => keys,
        Err(error) => {
            let detail = format!("not asked: {error}");
            return Finding::warn(CHECK, detail, "run as root, with the daemon up");
        }
    };
    let may = |key: &&KeyView| {
        let access = admin.access(&key.label, &user);
        access.is_ok_and(|access| access.uses.iter().any(|one| one.refusal.is_none()))
    };
    let looked_at = keys.len().min(MOST_KEYS);
    let of = match keys.len() - looked_at {
        0 => String::new(),
        more => format!(", of the first {looked_at}; {more} more were not asked about"),
    };
    let allowed: Vec<_> = keys.iter().take(MOST_KEYS).filter(may).map(|key| key.label.as_str()).collect();
    match allowed.split_at(allowed.len().min(SHOWN)) {
        ([], _) if keys.is_empty() => Finding::warn(
            CHECK,
            format!("there is no key that {name} could use"),
            "make one: keyward key generate LABEL, or keyward key import LABEL --in FILE",
        ),
        ([], _) => Finding::fail(
            CHECK,
            format!("no grant lets {name} use any enabled key{of}"),
            format!(
                "add to keyward.toml and reload: [[grant]] with {} and keys = [\"LABEL\"]; to have one key looked at, name \
                 its reference: --reference FILE",
                person.in_grant()
            ),
        ),
        (shown, others) => {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            Finding::ok(CHECK, format!("{name} may use {}{more}{of}", shown.join(", ")))
        }
    }
}

/// A process of a user as the daemon would see it, with words for it. Its group and groups count if
/// it runs as that user: the first process of many servers is root's, and the workers have others.
fn of_process(pid: u32, person: &Person) -> Result<(User, String), Finding> {
    let read = |what: &str| {
        fs::read_to_string(format!("/proc/{pid}/{what}")).map_err(|error| {
            let detail = format!("cannot read /proc/{pid}/{what}: {error}");
            Finding::fail(CHECK, detail, "name a process that runs, for example of: pgrep nginx")
        })
    };
    let mut user = User { uid: person.uid(), gid: person.gid(), ..User::default() };
    let mut words = Vec::new();
    let status = read("status")?;
    match Credentials::of_status(&status) {
        Some(found) if found.uid == person.uid() => {
            words.push(format!("in groups {:?}", [&[found.gid], &found.groups[..]].concat()));
            (user.gid, user.groups) = (found.gid, Some(found.groups));
        }
        Some(found) => {
            words.push(format!("which runs as user {}, so with the groups of the group database", found.uid))
        }
        None => {}
    }
    let cgroup = read("cgroup")?;
    if let Some(obstacle) = service::obstacle() {
        words.push(format!(
            "its service is unknown here: {}",
            obstacle.replace("the daemon", "keyward doctor")
        ));
    } else {
        let found = service::of_cgroup(&cgroup);
        words.push(found.map_or("in no service of systemd".into(), |service| format!("in {service}")));
        user.service = Some(found.unwrap_or_default().to_owned());
    }
    Ok((user, format!("{} (process {pid}, {})", person.name(), words.join(", "))))
}

/// The credentials of a process, as the kernel would give them to the daemon.
pub(super) struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Credentials {
    /// Effective ids and supplementary groups, by the text of /proc/PID/status
    /// (proc_pid_status(5)).
    pub(super) fn of_status(status: &str) -> Option<Self> {
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect()
        };
        Some(Self {
            uid: *numbers("Uid")?.get(1)?,
            gid: *numbers("Gid")?.get(1)?,
            groups: numbers("Groups")?,
        })
    }

    /// The user.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// The group and the others.
    pub(super) fn groups(&self) -> (u32, &[u32]) {
        (self.gid, &self.groups)
    }
}

/// Uses of servers and clients that a grant can name, the narrowest first.
const HANDSHAKES: [Use; 6] = [
    Use::Tls13Server,
    Use::TlsServer,
    Use::Tls12Server,
    Use::Tls12DheServer,
    Use::Tls13Client,
    Use::TlsClient,
];

/// Most keys that are asked about where no reference names one.
const MOST_KEYS: usize = 100;
/// So many of those that a user may use are named.
const SHOWN: usize = 5;
pub(super) const CHECK: &str = "grant";
