//! A copy of this machine, in which a test may install software as pages tell administrators.

use std::path::Path;
use std::process::{Command, Output};

use crate::cgroup::Cgroups;
use crate::{has_root, leave_out, target, tool};

/// Runs a shell script in a copy of this machine, in the directory of the source. The script ends
/// at the first command that fails. Its changes, mounts and processes disappear at its end. Its
/// `/run` is empty at the start, and its network is a separate loopback. Returns `None`, and
/// reports the test as left out, if the kernel does not allow the copy: without root, and in most
/// containers.
#[track_caller]
pub fn run_in_copy(script: &str) -> Option<Output> {
    if !has_root() {
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the source");
    let scratch = crate::scratch();
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", COPY, "sh"]);
    shell.arg(scratch.path()).arg(&source).arg(script);
    let output = tool::run(&mut shell);
    if output.status.code() == Some(NO_COPY) {
        leave_out("needs an overlay of this machine, which cannot be mounted here");
        return None;
    }
    Some(output)
}

/// Runs tests/debian/scenario in a clean Debian, which `tests/debian/build` has made, with packages
/// from a directory and a small systemctl. Each service has a control group of its own, as systemd
/// makes them. Otherwise like [`run_in_copy`].
#[track_caller]
pub fn run_in_debian(packages: &Path) -> Option<Output> {
    if !has_root() {
        return None;
    }
    let Some(groups) = Cgroups::mount() else {
        leave_out("needs the hierarchy of control groups");
        return None;
    };
    // A slice of its own, below which the services have their names: another run, or nginx of this
    // machine, has its groups elsewhere.
    let name = format!("system.slice/system-test{}.slice", std::process::id());
    groups.group(&name);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian").canonicalize().expect("the tests");
    let scratch = crate::scratch();
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", DEBIAN, "sh"]);
    shell.arg(scratch.path()).arg(target().join("debian-root")).arg(&tests).arg(packages).arg(&name);
    let output = tool::run(&mut shell);
    drop(groups);
    if output.status.code() == Some(NO_COPY) {
        leave_out("needs a root of its own with an overlay, which cannot be mounted here");
        return None;
    }
    Some(output)
}

/// Exit status of the script if it cannot make the copy.
const NO_COPY: i32 = 93;

/// A copy of the root contains no other file systems, so the necessary file systems are added.
const COPY: &str = r#"
set -eu
trap 'exit 93' EXIT
here=$1 source=$2
ip link set lo up
mount -t tmpfs tmpfs "$here"
mkdir "$here/changes" "$here/work" "$here/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$here/changes,workdir=$here/work" "$here/root"
mkdir -p "$here/root$source"
mount --bind "$source" "$here/root$source"
mount --rbind /dev "$here/root/dev"
mount -t proc proc "$here/root/proc"
mount -t tmpfs -o mode=755 tmpfs "$here/root/run"
trap - EXIT
exec chroot "$here/root" sh -eu -c "cd '$source' && $3"
"#;

/// A clean Debian with its own root, and the hierarchy of control groups of this machine.
const DEBIAN: &str = r#"
set -eu
trap 'exit 93' EXIT
here=$1 debian=$2 tests=$3 packages=$4
export SLICE=$5
ip link set lo up
mount -t tmpfs tmpfs "$here"
mkdir "$here/changes" "$here/work" "$here/root"
mount -t overlay overlay -o "lowerdir=$debian,upperdir=$here/changes,workdir=$here/work" "$here/root"
mkdir -p "$here/root/test" "$here/root/packages" "$here/root/sys/fs/cgroup"
mount --bind "$tests" "$here/root/test"
mount --bind "$packages" "$here/root/packages"
mount --rbind /dev "$here/root/dev"
mount -t proc proc "$here/root/proc"
mount -t cgroup2 none "$here/root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$here/root/run"
mkdir -p "$here/root/run/systemd/system"
trap - EXIT
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cp "$here/root/test/systemctl" "$here/root/usr/bin/systemctl"
exec chroot "$here/root" sh -eu -c '
	systemctl --manager >/var/log/manager.log 2>&1 &
	until [ -S /run/systemd/private ]; do sleep 0.02; done
	/test/scenario || { tail -n 20 /var/log/manager.log /var/log/*.service.log >&2; exit 1; }
'
"#;
