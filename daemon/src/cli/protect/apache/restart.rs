//! The restart of Apache: by its service, or by its own arguments.

use core::time::Duration;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::super::running::{LIMIT, Workers, wait, wait_for};
use super::super::{Protect, Server};
use crate::cli::failure::Failure;
use crate::cli::program;
use crate::ground::exit;
use crate::servers::processes::{self, Master};

/// Checks that Apache can be started again in the same way.
///
/// # Errors
/// [`Failure`] if another program has started it, as in a container.
pub(super) fn check(master: &Master, workers: &Workers, options: &Protect) -> Result<(), Failure> {
    let in_foreground = master.arguments.iter().any(|word| {
        ["FOREGROUND", "NO_DETACH", "ONE_PROCESS", "DEBUG"]
            .iter()
            .any(|name| word.trim_start_matches("-D") == *name)
            || word == "-X"
    });
    if workers.service.is_some() || !in_foreground {
        return Ok(());
    }
    Err(Failure::new(
        exit::CONFIG,
        format_args!(
            "Apache (process {}) runs in the foreground, as in a container, so its starter must start it again: with OPENSSL_CONF={} in its environment; then run this command again",
            master.pid,
            options.openssl_conf.display()
        ),
    ))
}

/// Restarts Apache, or starts an Apache that has ended. Returns the time during which nothing took
/// connections.
///
/// # Errors
/// [`Failure`] if Apache does not come up.
pub(super) fn restart(
    master: &Master,
    workers: &Workers,
    environment: &[(String, String)],
    limits: &[String; 5],
    openssl_conf: Option<&Path>,
) -> Result<Duration, Failure> {
    let begin = Instant::now();
    if let Some(service) = &workers.service {
        let restarted = program::run("systemctl", &["restart", service], b"");
        restarted.map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
    } else {
        // A process of its own does both steps: the server comes up again, whatever happens to this
        // command meanwhile.
        let mut shell = Command::new("/bin/sh");
        let old = if master.signal(None).is_ok() { master.pid.to_string() } else { String::new() };
        shell.args(["-c", RESTART, "sh"]).args(limits).arg(old).arg(&master.program);
        shell.args(master.arguments.iter().skip(1).filter(|word| !word.is_empty()));
        shell.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        shell.current_dir(&master.directory).stdin(Stdio::null());
        // Ctrl-C must not stop it between the steps.
        shell.process_group(0);
        if let Some(file) = openssl_conf {
            shell.env("OPENSSL_CONF", file);
        }
        let mut child = shell
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| Failure::new(exit::OS, format_args!("cannot start Apache: {error}")))?;
        let mut ended = Ok(None);
        wait_for(LONGEST_RESTART, || {
            ended = child.try_wait();
            !matches!(ended, Ok(None))
        });
        let reason = match ended.map_err(|error| Failure::new(exit::OS, error))? {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("Apache did not start ({status}); its error log says why")),
            None => {
                let seconds = LONGEST_RESTART.as_secs();
                Some(format!("Apache did not start within {seconds} seconds (process {})", child.id()))
            }
        };
        if let Some(reason) = reason {
            return Err(Failure::new(exit::UNAVAILABLE, reason));
        }
    }
    let is_up = || {
        successor(master)
            .is_some_and(|new| processes::takes_connections(new.pid) && !processes::children(&new).is_empty())
    };
    match wait(is_up) {
        true => Ok(begin.elapsed()),
        false => {
            let reason = format_args!(
                "Apache did not come up within {} seconds; its error log says why",
                LIMIT.as_secs()
            );
            Err(Failure::new(exit::UNAVAILABLE, reason))
        }
    }
}

/// Umask of a process, and its soft and hard limits of core dumps and of open files, in the words
/// of a shell. This process has stricter ones, which a server must not inherit.
pub(super) fn limits(pid: i32) -> [String; 5] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.map_or("0022", str::trim).to_owned();
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let of = |name: &str, usual: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let mut words = line.unwrap_or_default().split_whitespace().map(str::to_owned);
        [words.next(), words.next()].map(|word| word.unwrap_or_else(|| usual.to_owned()))
    };
    let ([core, most_core], [files, most_files]) =
        (of("Max core file size", "0"), of("Max open files", "1024"));
    // A shell counts core dumps in blocks of 512 bytes.
    let blocks = |bytes: String| bytes.parse::<u64>().map_or(bytes, |bytes| (bytes / 512).to_string());
    [umask, blocks(core), blocks(most_core), files, most_files]
}

/// Another Apache with the same configuration, which runs.
pub(super) fn successor(old: &Master) -> Option<Master> {
    let is_like = |new: &Master| ["-f", "-d"].iter().all(|option| new.values(option) == old.values(option));
    let mut masters = processes::masters(Server::Apache.program()).into_iter();
    masters.find(|new| new.pid != old.pid && is_like(new))
}

/// Longest time of a restart: half of it to end, and the rest to start.
const LONGEST_RESTART: Duration = Duration::from_secs(60);

/// Ends a process, if one is named, and then runs the program behind it with its arguments. A
/// process that has ended stays as a zombie (Z in proc(5)) while nobody reaps it, as in many
/// containers. After 30 seconds the program runs in any case.
const RESTART: &str = r#"
umask "$1"
{ ulimit -H -c "$3" && ulimit -S -c "$2"; } 2>/dev/null ||
    echo "note: this command may not set the former limit of core dumps (ulimit -c) for Apache" >&2
{ ulimit -H -n "$5" && ulimit -S -n "$4"; } 2>/dev/null ||
    echo "note: this command may not set the former limit of open files (ulimit -n) for Apache" >&2
shift 5
if [ -n "$1" ]; then
    kill -TERM "$1"
    rounds=0
    while grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null && [ $rounds -lt 1500 ]; do
        sleep 0.02
        rounds=$((rounds + 1))
    done
fi
shift
exec "$@"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    /// Many a first process of a container reaps no other process.
    #[test]
    fn a_process_that_nobody_reaps_has_ended() {
        let mut old = Command::new("sleep").arg("600").spawn().unwrap();
        let begin = Instant::now();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", RESTART, "sh"]).args(limits(old.id().cast_signed())).arg(old.id().to_string());
        let restarted = shell.args(["/bin/echo", "started"]).output().unwrap();
        assert_eq!(String::from_utf8(restarted.stdout).unwrap(), "started\n");
        assert!(restarted.stderr.is_empty() && begin.elapsed() < Duration::from_secs(15));
        assert_eq!(old.wait().unwrap().code(), None, "ended by a signal");
    }
}
