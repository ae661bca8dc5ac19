//! System calls that no library wraps.

#![allow(unsafe_code, reason = "SO_PEERGROUPS is neither in rustix nor in nix")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Supplementary groups of the process that has connected, at the time of the connection
/// (SO_PEERGROUPS, Linux 4.13).
///
/// # Errors
/// The system call fails, or the process has more than [`MAX_GROUPS`] groups, which take long to
/// copy.
pub(super) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; USUAL_GROUPS];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut length = libc::socklen_t::try_from(room).unwrap_or(libc::socklen_t::MAX);
        let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
        let buffer: *mut libc::gid_t = groups.as_mut_ptr();
        let (descriptor, size) = (socket.as_raw_fd(), &raw mut length);
        // SAFETY: `buffer` points to `length` bytes that nothing else uses until the call returns,
        // and the kernel writes no more than `length` bytes. Any bytes are valid group ids.
        let got = unsafe { libc::getsockopt(descriptor, level, option, buffer.cast(), size) };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        if got == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // With ERANGE, the kernel sets `length` to the size that it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// First size of the buffer: more groups than most processes have.
const USUAL_GROUPS: usize = 32;

/// Maximum number of groups of a process. NFS transmits 16, and most directories give a user fewer
/// than 1,000.
const MAX_GROUPS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_groups_of_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut found = peer_groups(one.as_fd()).unwrap();
        let mut own: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        found.sort_unstable();
        own.sort_unstable();
        assert_eq!(found, own);
    }
}
