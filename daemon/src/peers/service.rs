//! The systemd service of a peer, from its cgroup (cgroups(7), version 2).
//!
//! systemd keeps the services of the system below `system.slice`, each in a cgroup with its name,
//! and moves nothing else there. Users can make cgroups with any name below `user.slice`, and
//! services with delegation can below their own cgroup. So only the path from the root to the first
//! service counts.
//!
//! A pidfd holds the process while its path is read. SO_PEERPIDFD (kernel 6.5) gives the pidfd of
//! the process that has connected. Older kernels only give the process id: if a peer ends right
//! after it has connected, and its id is then given to a process of a service, the peer is taken
//! for that process.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, LazyLock};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Service of the process that has connected. `None` if it runs in no service, or if its service
/// cannot be found out.
pub(super) fn of_peer(socket: &impl AsFd, pid: i32) -> Option<Arc<str>> {
    if obstacle().is_some() {
        return None;
    }
    let process = match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(process) => process,
        Err(Errno::ENOPROTOOPT) => pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?,
        // The process has ended, and kernels before 6.16 give no descriptor for it.
        Err(_) => return None,
    };
    let mut text = String::new();
    File::open(format!("/proc/{pid}/cgroup")).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    // A process that is alive after the reading still had its id during the reading.
    is_alive(&process).then(|| of_cgroup(&text).map(Arc::from)).flatten()
}

/// Reason why this system cannot tell services apart. `None` if it can.
pub(crate) fn obstacle() -> Option<&'static str> {
    static OBSTACLE: LazyLock<Option<&'static str>> = LazyLock::new(|| {
        let namespace = fs::metadata("/proc/self/ns/cgroup").map(|found| found.ino());
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        match namespace {
            // Process 1 belongs to another user, so its path is as visible as that of any peer.
            Ok(FIRST_NAMESPACE) if path(&own).is_some() => match fs::read_to_string("/proc/1/cgroup") {
                Ok(first) if path(&first).is_some() => None,
                Ok(_) => Some("this system has no cgroup v2"),
                Err(_) => {
                    Some("/proc hides processes of other users (hidepid, or ProtectProc in the service)")
                }
            },
            Ok(FIRST_NAMESPACE) => Some("this system has no cgroup v2"),
            _ => Some("the daemon runs in a cgroup namespace, as in a container"),
        }
    });
    *OBSTACLE
}

/// Service of a process with this text in /proc/PID/cgroup.
pub(crate) fn of_cgroup(text: &str) -> Option<&str> {
    service(path(text)?)
}

/// Path in the hierarchy of version 2: the line with number 0 and without controllers.
fn path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// First service on a path below `system.slice`, with only slices between them.
fn service(path: &str) -> Option<&str> {
    let mut below = path.strip_prefix("/system.slice/")?.split('/');
    below.find(|part| !part.ends_with(".slice")).filter(|part| part.ends_with(".service"))
}

fn is_alive(process: &OwnedFd) -> bool {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
}

/// Number of the first cgroup namespace of a system (PROC_CGROUP_INIT_INO in the kernel's
/// include/linux/proc_ns.h).
const FIRST_NAMESPACE: u64 = 0xefff_fffb;

/// Maximum number of bytes that are read of /proc/PID/cgroup. A path has at most 4,096 bytes, and
/// there are some 15 hierarchies.
const MAX_FILE: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process;

    use super::*;

    #[test]
    fn the_first_service_below_the_slice_of_the_system() {
        for (path, expected) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-app.slice/app@1.service", Some("app@1.service")),
            ("/system.slice/php-fpm.service/nginx.service", Some("php-fpm.service")),
            ("/system.slice/php-fpm.service/a/b", Some("php-fpm.service")),
            ("/system.slice/run-1.scope/nginx.service", None),
            ("/system.slice/docker-1.scope/system.slice/nginx.service", None),
            ("/system.slice/x/nginx.service", None),
            ("/system.slice", None),
            ("/system.slice/", None),
            ("/user.slice/user-33.slice/user@33.service/nginx.service", None),
            ("/user.slice/system.slice/nginx.service", None),
            ("/../system.slice/nginx.service", None),
            ("/nginx.service", None),
            ("system.slice/nginx.service", None),
            ("/", None),
        ] {
            assert_eq!(service(path), expected, "{path}");
        }
    }

    #[test]
    fn the_path_is_that_of_version_2() {
        let hybrid = "9:name=systemd:/system.slice/a.service\n1:cpu:/x\n0::/system.slice/b.service\n";
        assert_eq!(path(hybrid), Some("/system.slice/b.service"));
        assert_eq!(path("1:cpu:/system.slice/a.service\n"), None);
    }

    #[test]
    fn a_process_is_alive_until_it_ends() {
        let (one, _other) = UnixStream::pair().unwrap();
        let own = i32::try_from(process::id()).unwrap();
        // Tests run in no service.
        assert_eq!(of_peer(&one, own), None);
        let mut child = process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let held = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&held));
        assert!(is_alive(&pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap()));
    }
}
