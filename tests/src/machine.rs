//! A copy of this machine, in which a test may install software as pages tell administrators.

use std::path::Path;
use std::process::{Command, Output};

use crate::{has_root, leave_out, tool};

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
