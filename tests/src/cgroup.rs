//! Control groups of version 2, as systemd makes them for services and users.

use std::cell::RefCell;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The hierarchy of this machine, and the groups of the test, which are removed when this value is
/// dropped.
#[derive(Debug)]
pub struct Cgroups {
    /// A mount outside of every directory, so it disappears with the process however the test ends.
    mount: OwnedFd,
    made: RefCell<Vec<PathBuf>>,
}

impl Cgroups {
    /// Mounts the hierarchy. `None` if the kernel does not allow that.
    pub fn mount() -> Option<Self> {
        let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        fsconfig_create(&context).ok()?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()?;
        Some(Self { mount, made: RefCell::default() })
    }

    /// Directory of a group. Makes missing groups on the path. Other processes of root can also use
    /// the group.
    pub fn group(&self, path: &str) -> PathBuf {
        let mut directory =
            PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.mount.as_raw_fd()));
        for name in Path::new(path) {
            directory.push(name);
            if !directory.exists() {
                fs::create_dir(&directory).expect("a control group");
                self.made.borrow_mut().push(directory.clone());
            }
        }
        directory
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for directory in self.made.borrow().iter().rev() {
            let _ = fs::write(directory.join("cgroup.kill"), "1");
            remove(directory, Instant::now() + Duration::from_secs(5));
        }
    }
}

/// Removes a group and the groups below it, which others have made.
fn remove(group: &Path, patience: Instant) {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    below.filter(|entry| entry.path().is_dir()).for_each(|entry| remove(&entry.path(), patience));
    // A killed process stays for a moment.
    while fs::remove_dir(group).is_err() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
}
