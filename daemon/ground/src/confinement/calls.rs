//! Restricts system calls (seccomp(2)).
//!
//! An allow-list: a call that nobody thought of is refused, also a call of a later kernel. A call
//! that is not on the list does not exist (ENOSYS), so that a C library that knows later calls goes
//! back to earlier ones, as it does on an older kernel. A call that would lead out of the process
//! is refused (EPERM), which tells people more. No call ends the process.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::process;

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Filters the system calls of this thread and its later threads. With `tcp`, sockets for TCP can
/// be made; without, only Unix sockets.
///
/// # Errors
/// The reason why nothing is filtered.
pub(super) fn filter(tcp: bool) -> Result<(), String> {
    let install = || -> Result<(), Error> {
        let allowed =
            compile(allowed(tcp)?, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)?;
        let refused = compile(refused(tcp)?, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
        apply_filter(&allowed)?;
        // Of two filters that refuse a call, the later one gives the error.
        apply_filter(&refused)
    };
    install().map_err(|error| format!("the kernel refuses the filter: {error}"))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, Error> {
    Ok(SeccompFilter::new(rules, otherwise, matched, ARCH.try_into()?)?.try_into()?)
}

/// Calls of the daemon, of its libraries, and of the C library for them.
fn allowed(tcp: bool) -> Result<Rules, Error> {
    let mut rules: Rules =
        ALLOWED.iter().chain(ALLOWED_OF_ARCHITECTURE).map(|call| (*call, Vec::new())).collect();
    let own = u64::from(process::id());
    let mut add = |call, conditions: &[Condition]| -> Result<(), Error> {
        rules.entry(call).or_default().push(rule(conditions)?);
        Ok(())
    };
    // Threads, and no processes. There is no clone3: its flags are in memory, where no filter sees
    // them, and the C library uses clone instead.
    add(libc::SYS_clone, &[(0, Qword, MaskedEq(THREAD), THREAD)])?;
    add(libc::SYS_socket, &[(0, Dword, Eq, libc::AF_UNIX as u64)])?;
    for family in [libc::AF_INET, libc::AF_INET6].into_iter().filter(|_| tcp) {
        // Not Multipath TCP, whose connections Landlock does not see.
        for protocol in [0, libc::IPPROTO_TCP as u64] {
            let of_family = (0, Dword, Eq, family as u64);
            let stream = (1, Dword, MaskedEq(KIND), libc::SOCK_STREAM as u64);
            add(libc::SYS_socket, &[of_family, stream, (2, Dword, Eq, protocol)])?;
        }
    }
    // No memory becomes code.
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        add(call, &[(2, Dword, MaskedEq(EXEC), 0)])?;
    }
    // Signals to this process alone, as abort(3) sends one.
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        add(call, &[(0, Dword, Eq, own)])?;
    }
    // Limits are read, not set.
    add(libc::SYS_prlimit64, &[(2, Qword, Eq, 0)])?;
    for option in PRCTL_OPTIONS {
        add(libc::SYS_prctl, &[(0, Dword, Eq, *option as u64)])?;
    }
    for request in IOCTL_REQUESTS {
        add(libc::SYS_ioctl, &[(1, Dword, Eq, *request)])?;
    }
    Ok(rules)
}

/// Calls that lead out of the process, whose refusal has an error of its own.
fn refused(tcp: bool) -> Result<Rules, Error> {
    let mut rules: Rules =
        REFUSED.iter().chain(REFUSED_OF_ARCHITECTURE).map(|call| (*call, Vec::new())).collect();
    let mut add = |call, conditions: &[Condition]| -> Result<(), Error> {
        rules.entry(call).or_default().push(rule(conditions)?);
        Ok(())
    };
    add(libc::SYS_clone, &[(0, Qword, MaskedEq(THREAD), 0)])?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        add(call, &[(2, Dword, MaskedEq(EXEC), EXEC)])?;
    }
    let own = u64::from(process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        add(call, &[(0, Dword, Ne, own)])?;
    }
    // A descriptor can have the kernel send a signal to its owner (fcntl(2)).
    for command in [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX] {
        add(libc::SYS_fcntl, &[(1, Dword, Eq, command as u64)])?;
    }
    // A program of the daemon's user that another user can start would not be confined.
    for (call, mode) in WITH_A_MODE.iter().chain(WITH_A_MODE_OF_ARCHITECTURE) {
        for bit in [libc::S_ISUID, libc::S_ISGID].map(u64::from) {
            add(*call, &[(*mode, Dword, MaskedEq(bit), bit)])?;
        }
    }
    // Data with the opening of a connection, which Landlock does not see.
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        add(call, &[(flags, Dword, MaskedEq(FAST_OPEN), FAST_OPEN)])?;
    }
    let [unix, inet, inet6] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].map(|family| family as u64);
    if !tcp {
        add(libc::SYS_socket, &[(0, Dword, Ne, unix)])?;
        return Ok(rules);
    }
    add(libc::SYS_socket, &[(0, Dword, Ne, unix), (0, Dword, Ne, inet), (0, Dword, Ne, inet6)])?;
    for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
        add(libc::SYS_socket, &[(0, Dword, Ne, unix), (1, Dword, MaskedEq(KIND), kind as u64)])?;
    }
    Ok(rules)
}

/// Number of an argument, its length, and a comparison with a value.
type Condition = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

/// All conditions must hold.
fn rule(conditions: &[Condition]) -> Result<SeccompRule, Error> {
    let conditions = conditions
        .iter()
        .cloned()
        .map(|(argument, length, operator, value)| SeccompCondition::new(argument, length, operator, value));
    Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
}

const THREAD: u64 = libc::CLONE_THREAD as u64;
const EXEC: u64 = libc::PROT_EXEC as u64;
const FAST_OPEN: u64 = libc::MSG_FASTOPEN as u64;
/// Commands of fcntl(2) that the libc crate does not have for all targets.
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

/// Calls that give a file its mode, and the argument with the mode. openat2(2) has the mode in
/// memory, so it is not on the list of calls.
const WITH_A_MODE: &[(i64, u8)] =
    &[(libc::SYS_openat, 3), (libc::SYS_mkdirat, 2), (libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2)];
#[cfg(target_arch = "x86_64")]
const WITH_A_MODE_OF_ARCHITECTURE: &[(i64, u8)] =
    &[(libc::SYS_open, 2), (libc::SYS_mkdir, 1), (libc::SYS_chmod, 1)];
#[cfg(not(target_arch = "x86_64"))]
const WITH_A_MODE_OF_ARCHITECTURE: &[(i64, u8)] = &[];

/// Bits of the kind of a socket, besides its flags (socket(2)).
const KIND: u64 = 0xf;

/// Options of prctl(2): names of threads and of memory, and questions. The filters themselves need
/// PR_SET_NO_NEW_PRIVS.
const PRCTL_OPTIONS: &[i32] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_GET_DUMPABLE,
    libc::PR_GET_SECCOMP,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_SET_VMA,
];

/// Requests of ioctl(2) that the standard library uses, and the question whether a file is a
/// terminal.
const IOCTL_REQUESTS: &[u64] =
    &[libc::FIOCLEX, libc::FIONBIO, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ];

const ALLOWED: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    // Threads and time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getitimer,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettimeofday,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_seccomp,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setpriority,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_uname,
    // Facts about this process.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    // Files. Landlock says which.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_syncfs,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
    // Events and connections.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_pidfd_open,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_signalfd4,
    libc::SYS_socketpair,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
];

/// Older forms of these calls, which aarch64 never had.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OF_ARCHITECTURE: &[i64] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_signalfd,
    libc::SYS_stat,
    libc::SYS_sync_file_range,
    libc::SYS_time,
    libc::SYS_unlink,
];
/// Calls that the crate libc does not name here: renameat and sync_file_range
/// (asm-generic/unistd.h).
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OF_ARCHITECTURE: &[i64] = &[38, 84];

const REFUSED: &[i64] = &[
    // Other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_tkill,
    // Users and rights.
    libc::SYS_capset,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_personality,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setns,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    libc::SYS_unshare,
    // File systems and devices.
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_symlinkat,
    libc::SYS_umount2,
    // The kernel itself.
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_memfd_create,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    // The clock and the name of the machine.
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_OF_ARCHITECTURE: &[i64] = &[
    libc::SYS_chown,
    libc::SYS_fork,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_lchown,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_setrlimit,
    libc::SYS_symlink,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OF_ARCHITECTURE: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_do_not_contradict_each_other() {
        for tcp in [false, true] {
            let (allowed, refused) = (allowed(tcp).unwrap(), refused(tcp).unwrap());
            // A call in both is refused under conditions.
            let both = allowed.keys().filter(|call| refused.contains_key(call));
            assert!(both.clone().all(|call| !refused[call].is_empty()));
            assert_eq!(both.count(), 18);
            assert!(!allowed.contains_key(&libc::SYS_clone3));
            for rules in [allowed, refused] {
                let program = compile(rules, SeccompAction::Allow, SeccompAction::Trap).unwrap();
                // The most that the kernel takes, BPF_MAXINSNS.
                assert!(program.len() < 4096);
            }
        }
    }
}
