//! Keeps the memory of the process out of the swap space (mlockall(2)).

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::observed::own_status;

/// Locks all memory that the process has and will have. Pages that the process does not touch take
/// no memory.
///
/// # Errors
/// The reason why nothing is locked. With a limit, a later allocation could fail, and the daemon
/// with it.
pub(super) fn lock() -> Result<(), String> {
    if !may_lock_everything() {
        return Err(
            "the limit of locked memory is too low; with systemd, LimitMEMLOCK=infinity lifts it".into()
        );
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(flags).map_err(|error| format!("the kernel refuses it: {error}"))
}

fn may_lock_everything() -> bool {
    let limit = getrlimit(Resource::Memlock);
    if limit.maximum.is_none() {
        return limit.current.is_none()
            || setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_ok();
    }
    // For a process with this capability, there is no limit (capabilities(7)).
    let capabilities = own_status("CapEff").and_then(|digits| u64::from_str_radix(&digits, 16).ok());
    capabilities.is_some_and(|capabilities| capabilities & (1 << CAP_IPC_LOCK) != 0)
}

/// Number of the capability in capabilities(7), linux/capability.h.
const CAP_IPC_LOCK: u32 = 14;
