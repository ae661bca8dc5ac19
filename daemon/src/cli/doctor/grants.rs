//! Grants: whether the user of a server may use a key.

use std::fs;
use std::path::Path;

use keyward_proto::{Outcome, Reference, Use};

use super::account::Account;
use super::finding::Finding;
use super::proc::Credentials;
use crate::admin::api::{AccessView, KeyView, User};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::cli::key::{for_daemon, how_to_allow};
use crate::peers::service;

/// Asks the daemon whether a user may use the key of a reference, for each kind of handshake that
/// the key is for. One allowed use is enough, since a server need not have all.
pub(super) fn check(
    admin: &AdminClient,
    runtime_dir: &Path,
    account: &Account,
    pid: Option<u32>,
    reference: &Reference,
) -> Option<Finding> {
    let label = reference.label();
    let (user, name) = match user_and_name(account, pid) {
        Ok(known) => known,
        Err(finding) => return Some(finding),
    };
    let access = match admin.access(label.as_str(), &user) {
        Ok(access) => access,
        // The check of the reference reports an unknown key.
        Err(AdminClientError::Refused { .. }) => return None,
        Err(error) => return Some(not_asked(&error)),
    };
    let (allowed, refused) = (named_uses(&access, true), named_uses(&access, false));
    if !allowed.is_empty() {
        let except = if refused.is_empty() { String::new() } else { format!(", not for {refused}") };
        return Some(Finding::ok(CHECK, format!("{name} may use key {label} for {allowed}{except}")));
    }
    let first = access.uses.first()?;
    let (wanted, refusal) = (&*first.r#use, first.refusal.clone().unwrap_or_default());
    // A use that the grants have: of any handshake if the key is for none, otherwise of the same
    // side (server or client).
    let side = |one: &str| one.rsplit('-').next().map(str::to_owned);
    let is_near = |one: &str| refusal == Outcome::UseRefused.name() || side(one) == side(wanted);
    let mut near = HANDSHAKES.iter().map(|one| one.name()).filter(|one| is_near(one));
    let granted = near.find(|near| access.granted.iter().any(|one| one == near));
    let allow = |wanted: &str| match (admin.show(label.as_str()), wanted.parse()) {
        (Ok(key), Ok(wanted)) => how_to_allow(runtime_dir, &key, wanted),
        (Err(error), _) => format!("look at its uses: {error}"),
        (_, Err(error)) => error.to_string(),
    };
    let of_service = || service_with_grant(admin, label.as_str(), &user, wanted);
    let (why, fix) = if refusal == Outcome::NoGrant.name()
        && let Some(service) = of_service()
    {
        (
            format!("its grant is for {service}, and the process runs outside of that service"),
            format!("stop the server, and start it as a service: systemctl start {service}"),
        )
    } else if refusal == Outcome::NoGrant.name() {
        (
            match &access.obstacle {
                Some(obstacle) => {
                    format!("no grant covers {name} and this key; grants with unit do not work: {obstacle}")
                }
                None => format!("no grant covers {name} and this key"),
            },
            format!(
                "add to keyward.toml and reload: [[grant]] with {who} and keys = [\"{label}\"] and uses = [\"{wanted}\"]{unit}",
                who = account.grant_line(),
                unit = unit_line(&user)
            ),
        )
    } else if refusal == Outcome::UseNotGranted.name() {
        let add = format!("add {wanted} to the uses of the grant in keyward.toml and reload");
        let fix = match granted {
            Some(granted) => format!(
                "if the server needs {granted}, which the grant has and the key lacks: {}; otherwise {add}",
                allow(granted)
            ),
            None => add,
        };
        (format!("the grants of {name} do not include {wanted}"), fix)
    } else if refusal == Outcome::UseRefused.name() {
        // The key is for no handshake. With a use that the grant has, a handshake works at once.
        let wanted = granted.unwrap_or(wanted);
        (format!("the uses of the key do not include {wanted}"), format!("allow it: {}", allow(wanted)))
    } else if refusal == Outcome::KeyDisabled.name() {
        let fix = for_daemon(format!("keyward key show {label}"), runtime_dir);
        ("the key does not sign now".into(), format!("look at its state: {fix}"))
    } else {
        (refusal, "see the log of the daemon".into())
    };
    Some(Finding::fail(CHECK, format!("{name} may not use key {label} for {refused}: {why}"), fix))
}

/// The service in which a user would have a grant for a use of a key, outside of which a process
/// of that user runs.
fn service_with_grant(admin: &AdminClient, label: &str, user: &User, wanted: &str) -> Option<String> {
    user.service.as_ref()?;
    let anywhere = User { service: None, ..user.clone() };
    let access = admin.access(label, &anywhere).ok()?;
    access.uses.into_iter().find(|one| one.r#use == wanted && one.refusal.is_none())?.service
}

/// The end of a grant for the service of a process, as `keyward protect` limits its grants.
fn unit_line(user: &User) -> String {
    let service = user.service.as_ref().filter(|service| !service.is_empty());
    service.map(|service| format!(" and unit = {service:?}")).unwrap_or_default()
}

/// True if a user may use a key for a kind of handshake. False also if the daemon does not say so.
pub(super) fn allows(
    admin: &AdminClient,
    account: &Account,
    pid: Option<u32>,
    label: &str,
    wanted: Use,
) -> bool {
    let access = user_and_name(account, pid).ok().and_then(|(user, _)| admin.access(label, &user).ok());
    let of_use = access.and_then(|access| access.uses.into_iter().find(|one| one.r#use == wanted.name()));
    of_use.is_some_and(|one| one.refusal.is_none())
}

/// Checks that a user may use any key, where no reference names the key.
pub(super) fn check_any(
    admin: &AdminClient,
    runtime_dir: &Path,
    account: &Account,
    pid: Option<u32>,
) -> Finding {
    let (user, name) = match user_and_name(account, pid) {
        Ok(known) => known,
        Err(finding) => return finding,
    };
    let keys = match admin.list() {
        Ok((keys, _)) => keys,
        Err(error) => return not_asked(&error),
    };
    let may = |key: &&KeyView| {
        let access = admin.access(&key.label, &user);
        access.is_ok_and(|access| access.uses.iter().any(|one| one.refusal.is_none()))
    };
    let checked = keys.len().min(MOST_KEYS);
    let of = match keys.len() - checked {
        0 => String::new(),
        more => format!(", of the first {checked}; {more} more were not checked"),
    };
    let allowed: Vec<_> = keys.iter().take(MOST_KEYS).filter(may).map(|key| key.label.as_str()).collect();
    match allowed.split_at(allowed.len().min(SHOWN)) {
        ([], _) if keys.is_empty() => Finding::warn(
            CHECK,
            format!("there is no key that {name} could use"),
            format!(
                "make one: {}, or {}",
                for_daemon("keyward key generate LABEL --type TYPE".into(), runtime_dir),
                for_daemon("keyward key import LABEL --in FILE".into(), runtime_dir)
            ),
        ),
        ([], _) => Finding::fail(
            CHECK,
            format!("no grant lets {name} use any enabled key{of}"),
            format!(
                "add to keyward.toml and reload: [[grant]] with {} and keys = [\"LABEL\"]; to check one key, name its \
                 reference: --reference FILE",
                account.grant_line()
            ),
        ),
        (shown, others) => {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            Finding::ok(CHECK, format!("{name} may use {}{more}{of}", shown.join(", ")))
        }
    }
}

fn not_asked(error: &AdminClientError) -> Finding {
    Finding::warn(
        CHECK,
        format!("the daemon was not asked: {error}"),
        "run keyward doctor as root while the daemon runs",
    )
}

/// The uses that are allowed, or those that are refused, as text.
fn named_uses(access: &AccessView, is_allowed: bool) -> String {
    let uses = access.uses.iter().filter(|one| one.refusal.is_none() == is_allowed);
    let named = uses.map(|one| match &one.service {
        Some(service) => format!("{} (only in {service})", one.r#use),
        None => one.r#use.clone(),
    });
    named.collect::<Vec<_>>().join(", ")
}

/// A user as the daemon would see it, and a name for messages; with `pid`, as that process.
fn user_and_name(account: &Account, pid: Option<u32>) -> Result<(User, String), Finding> {
    match pid {
        None => Ok((User { uid: account.uid, gid: account.gid, ..User::default() }, account.name.clone())),
        Some(pid) => user_of_process(pid, account),
    }
}

/// A process of a user as the daemon would see it, and a name for messages. The groups of the
/// process count only if it runs as that user: the first process of many servers runs as root, and
/// its workers have other groups.
fn user_of_process(pid: u32, account: &Account) -> Result<(User, String), Finding> {
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|error| {
            let detail = format!("cannot read /proc/{pid}/{file}: {error}");
            Finding::fail(CHECK, detail, "name a running process, for example one of: pgrep nginx")
        })
    };
    let mut user = User { uid: account.uid, gid: account.gid, ..User::default() };
    let mut words = Vec::new();
    let status = read("status")?;
    match Credentials::of_status(&status) {
        Some(found) if found.uid == account.uid => {
            words.push(format!("in groups {:?}", [&[found.gid], &found.groups[..]].concat()));
            (user.gid, user.groups) = (found.gid, Some(found.groups));
        }
        Some(found) => words.push(format!(
            "which runs as user {}, so with the groups of {} in the group database",
            found.uid, account.name
        )),
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
    Ok((user, format!("{} (process {pid}, {})", account.name, words.join(", "))))
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

/// Maximum number of keys that are checked where no reference names the key.
const MOST_KEYS: usize = 100;
/// Maximum number of allowed keys that a finding names.
const SHOWN: usize = 5;
pub(super) const CHECK: &str = "grant";
