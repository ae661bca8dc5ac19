//! The only unsafe code of the client: descriptors that lay in the pool as plain numbers become owned again, and
//! what only libc offers.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::net::sockopt::socket_cookie;

/// Owns again a descriptor that this very process put into a slot of the pool.
pub(crate) fn take_back(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the slot got the number from `into_raw_fd` in this process, and the one thread that claimed
    // the slot is the only one to turn it back.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Closes this process's copy of a descriptor that a fork brought along in a slot of the pool.
///
/// The child may have closed it already and opened something else under its number; the cookie, which the
/// kernel gives to each socket once (SO_COOKIE, socket(7)), tells. If in doubt it stays open.
pub(crate) fn close_inherited(descriptor: RawFd, cookie: u64) {
    // SAFETY: a number that is not open gives an error from the kernel, not undefined behaviour; the borrow
    // ends before anything in this function closes it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    if cookie != 0 && socket_cookie(borrowed) == Ok(cookie) {
        // SAFETY: the cookie proves that the number still means the socket that the slot owned before the
        // fork, and the claimed slot makes this thread its only user.
        drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    }
}

/// The processor that this thread runs on, for now (sched_getcpu(3)).
///
/// From libc, which has found out at its start how to ask without entering the kernel; rustix would parse the
/// vDSO in the middle of a host program, and crash where that is hidden, as under valgrind.
pub(crate) fn processor() -> u32 {
    // SAFETY: the function takes nothing and touches no memory of ours.
    let processor = unsafe { libc::sched_getcpu() };
    u32::try_from(processor).unwrap_or(0)
}
