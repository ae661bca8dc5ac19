//! The only unsafe code of the client: turning descriptors that the pool kept as numbers into owned
//! descriptors again, and one function of libc.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::net::sockopt::socket_cookie;

/// Takes a descriptor from a slot of the pool, if its number still stands for the socket that was
/// put there.
///
/// The process may have closed the descriptor and opened another file under its number: a host that
/// closes all descriptors it does not know, or a child after a fork. The cookie tells the
/// difference: the kernel gives each socket its own (SO_COOKIE, socket(7)). In doubt the descriptor
/// stays open, and is used no more.
pub(crate) fn take_back(descriptor: RawFd, cookie: u64) -> Option<OwnedFd> {
    // SAFETY: for a number that is not open the kernel returns an error, which is no undefined
    // behaviour; the borrow ends before anything in this function closes the descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    if socket_cookie(borrowed) != Ok(cookie) {
        return None;
    }
    // SAFETY: the cookie proves that the number still stands for the socket that the slot owns, and
    // only the thread that claimed the slot takes the socket back.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Number of the processor that this thread runs on at the moment (sched_getcpu(3)).
///
/// libc finds out at its start how to ask without a system call. rustix would parse the vDSO in the
/// middle of a host program, and would crash if the vDSO is hidden, as under valgrind.
pub(crate) fn processor() -> u32 {
    // SAFETY: the function takes nothing and touches no memory of ours.
    let processor = unsafe { libc::sched_getcpu() };
    u32::try_from(processor).unwrap_or(0)
}
