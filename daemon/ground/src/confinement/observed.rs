//! Measures in force, as the kernel says.

use std::net::TcpStream;
use std::{fs, io};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{DumpableBehavior, dumpable_behavior, getsid};
use rustix::thread::no_new_privs;

use super::{CONFINED, Confined};

/// One measure of the confinement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Measure {
    /// Name, such as `files`.
    pub name: &'static str,
    /// True if the kernel has the measure in force.
    pub in_force: bool,
    /// Words for people: the state, or the reason why the measure is not in force.
    pub detail: String,
}

/// Asks the kernel for every measure. The calling thread must be one that was started after the
/// confinement.
pub fn observe() -> Vec<Measure> {
    let confined = CONFINED.get();
    vec![memory(confined), dumps(), privileges(), calls(confined), files(confined), network(confined)]
}

fn memory(confined: Option<&Confined>) -> Measure {
    let (locked, unlocked) = locked_memory().unwrap_or_default();
    let detail = match confined.and_then(|confined| confined.unlocked.as_deref()) {
        _ if locked > 0 && unlocked == 0 => "all memory stays out of the swap space".into(),
        _ if locked > 0 => format!("{} KiB can be in the swap space", unlocked >> 10),
        Some(why) => format!("memory can be in the swap space: {why}"),
        None => "memory can be in the swap space".into(),
    };
    Measure { name: "memory", in_force: locked > 0 && unlocked == 0, detail }
}

/// Bytes of private memory that can be written to and are locked, and bytes that are not
/// (proc_pid_smaps(5)).
fn locked_memory() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/smaps")?;
    let (mut locked, mut unlocked) = (0, 0);
    let (mut is_secret, mut size) = (false, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Size:"), Some(kilobytes)) => size = kilobytes.parse().unwrap_or(0) << 10,
            (Some("VmFlags:"), Some(first)) if is_secret => {
                match core::iter::once(first).chain(words).any(|flag| flag == "lo") {
                    true => locked += size,
                    false => unlocked += size,
                }
            }
            (Some(range), Some(permissions)) if !range.ends_with(':') => {
                is_secret = permissions == "rw-p";
            }
            _ => {}
        }
    }
    Ok((locked, unlocked))
}

fn dumps() -> Measure {
    let in_force = dumpable_behavior().is_ok_and(|now| now == DumpableBehavior::NotDumpable);
    let detail = match in_force {
        true => "no core dumps; other processes of the same user cannot read the memory",
        false => "other processes of the same user can read the memory",
    };
    Measure { name: "dumps", in_force, detail: detail.into() }
}

fn privileges() -> Measure {
    let in_force = no_new_privs().unwrap_or(false) && all_threads_have("NoNewPrivs", "1");
    let detail = if in_force {
        "no program gives this process more rights"
    } else {
        "set-user-id programs give more rights"
    };
    Measure { name: "privileges", in_force, detail: detail.into() }
}

fn calls(confined: Option<&Confined>) -> Measure {
    // Every kernel has this harmless call, and no other filter refuses it in this way.
    let is_own_filter = getsid(None) == Err(Errno::NOSYS);
    // Mode 2 of seccomp(2) is a filter.
    let in_force = is_own_filter && all_threads_have("Seccomp", "2");
    let detail = match confined.and_then(|confined| confined.unfiltered.as_deref()) {
        _ if in_force => {
            "no new process, no debugging, no other system calls than those of the daemon".into()
        }
        Some(why) => format!("all system calls are open: {why}"),
        None => "all system calls are open".into(),
    };
    Measure { name: "calls", in_force, detail }
}

fn files(confined: Option<&Confined>) -> Measure {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let is_refused = matches!(rustix::fs::open("/", flags, Mode::empty()), Err(Errno::ACCESS));
    let detail = match confined.map(|confined| &confined.files) {
        Some(super::files::Enforced::Landlock(version)) if is_refused => {
            format!(
                "only the directories of the daemon and of its configuration (Landlock, version {version})"
            )
        }
        Some(super::files::Enforced::Nothing(why)) => format!("all files of its user: {why}"),
        _ => "all files of its user".into(),
    };
    let is_enforced = confined.is_some_and(|confined| confined.files.is_in_force());
    Measure { name: "files", in_force: is_refused && is_enforced, detail }
}

fn network(confined: Option<&Confined>) -> Measure {
    let has = |kind| {
        [AddressFamily::INET, AddressFamily::INET6]
            .iter()
            .any(|family| rustix::net::socket_with(*family, kind, SocketFlags::CLOEXEC, None).is_ok())
    };
    let (tcp, udp) = (has(SocketType::STREAM), has(SocketType::DGRAM));
    // Nobody listens at port 0, and no configuration names it.
    let restricts_ports = confined.is_some_and(|confined| confined.files.restricts_ports())
        && TcpStream::connect(("127.0.0.1", 0))
            .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let ports = confined.map(|confined| confined.needs.ports.iter().map(u16::to_string).collect::<Vec<_>>());
    let ports = ports.unwrap_or_default().join(", ");
    let (in_force, detail) = match (tcp, udp) {
        (false, false) => (true, "no new network sockets".to_owned()),
        (true, false) if restricts_ports => (true, format!("only TCP connections to the ports {ports}")),
        (true, false) => (
            false,
            "TCP connections to every port: the kernel does not restrict ports, which needs Landlock of Linux 6.7".into(),
        ),
        (_, true) => (false, "every kind of network socket".into()),
    };
    Measure { name: "network", in_force, detail }
}

/// True if every thread has this value of a field.
fn all_threads_have(field: &str, value: &str) -> bool {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return false };
    // A thread that has ended meanwhile has no file.
    let mut values = threads
        .flatten()
        .filter_map(|thread| field_of(&fs::read_to_string(thread.path().join("status")).ok()?, field));
    values.all(|found| found == value)
}

/// Value of a field of /proc/self/status (proc_pid_status(5)).
pub(super) fn own_status(field: &str) -> Option<String> {
    field_of(&fs::read_to_string("/proc/self/status").ok()?, field)
}

fn field_of(status: &str, field: &str) -> Option<String> {
    let mut fields = status.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(name, _)| *name == field).map(|(_, value)| value.trim().to_owned())
}
