//! What a server is told by its environment: which openssl.cnf to read, by what nginx.conf passes on and by what a process
//! has, where the socket is, and what it sees of the files of the machine.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::reach::{CHROOT, Told};
use super::settings::read_text;
use super::{Finding, openssl};

/// Looks whether an nginx.conf passes `OPENSSL_CONF` on. nginx loads keys before it makes its workers, which inherit
/// what is loaded; a new binary, for an upgrade, inherits nothing but the environment that is passed on.
pub(super) fn nginx(nginx_conf: &Path, openssl_conf: Option<&Path>) -> Finding {
    const CHECK: &str = "nginx.conf";
    let path = nginx_conf.display();
    match read_text(nginx_conf) {
        Ok(text) => passes_on(nginx_conf, &text, openssl_conf),
        Err(error) => {
            let detail = format!("cannot read {path}: {error}");
            Finding::fail(CHECK, detail, "name the file that nginx -T shows first")
        }
    }
}

/// The same for the text of such a file, or of all files of a configuration.
pub(super) fn passes_on(nginx_conf: &Path, text: &str, openssl_conf: Option<&Path>) -> Finding {
    const CHECK: &str = "nginx.conf";
    let path = nginx_conf.display();
    let directives = directives(text);
    let passed = |words: &Vec<String>| match words.as_slice() {
        [env, variable] if env == "env" => variable.strip_prefix(VARIABLE).map(str::to_owned),
        _ => None,
    };
    let mend = format!("put env {VARIABLE}; at the top of {path}, outside of all braces");
    match directives.iter().find_map(passed).filter(|rest| rest.is_empty() || rest.starts_with('=')) {
        Some(rest) => match rest.strip_prefix('=') {
            None => Finding::ok(CHECK, format!("{path} passes {VARIABLE} on")),
            Some(value) if openssl_conf.is_some_and(|conf| !same(conf, Path::new(value))) => {
                let detail = format!("{path} sets {VARIABLE} to {value}, which is another file");
                Finding::fail(CHECK, detail, mend)
            }
            Some(value) => Finding::warn(
                CHECK,
                format!(
                    "{path} sets {VARIABLE} to {value} for workers and new binaries, not for nginx itself, which has \
                     loaded OpenSSL by then"
                ),
                format!("set {SERVICE}={value} for the service of nginx, and {mend}"),
            ),
        },
        None => {
            let has_includes =
                directives.iter().any(|words| words.first().is_some_and(|one| one == "include"));
            let unread = if has_includes && !text.starts_with("# configuration file ") {
                "; include is not followed"
            } else {
                ""
            };
            Finding::warn(
                CHECK,
                format!(
                    "{path} does not pass {VARIABLE} on: nginx clears the environment, so workers are without it, and a \
                     new binary (USR2) cannot load the keys{unread}"
                ),
                mend,
            )
        }
    }
}

/// Looks whether a process has `OPENSSL_CONF` in its environment, and has the provider loaded.
pub(super) fn process(pid: u32, openssl_conf: Option<&Path>) -> Finding {
    const CHECK: &str = "process";
    let environment = match read(pid, "environ") {
        Ok(environment) => environment,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            if geteuid().is_root() {
                let detail =
                    format!("the kernel does not show the environment of process {pid}, not even to root");
                let mend = "if this is a container, run keyward doctor outside; if not, name the process of a server";
                return Finding::warn(CHECK, detail, mend);
            }
            let detail = format!("this user may not see the environment of process {pid}");
            return Finding::warn(CHECK, detail, "run keyward doctor as root");
        }
        Err(error) => {
            let detail = format!("cannot see the environment of process {pid}: {error}");
            return Finding::fail(CHECK, detail, "name a process that runs, for example of: pgrep nginx");
        }
    };
    let maps = read(pid, "maps").unwrap_or_default();
    let maps = String::from_utf8_lossy(&maps);
    let provider = loaded(&maps);
    let has = match &provider {
        Some(provider) => format!("it has loaded {provider}"),
        None => "it has not loaded keyward".to_owned(),
    };
    // Which is for everything on the machine, as a finding of its own tells: no service is to be given it.
    let of_system = openssl_conf.is_some_and(openssl::is_of_system);
    let file = openssl_conf
        .filter(|_| !of_system)
        .map_or(openssl::CONF.to_owned(), |conf| conf.display().to_string());
    let mend = format!(
        "set {SERVICE}={file} for the service, and restart it: OpenSSL reads its configuration once, at the start"
    );
    let environment = String::from_utf8_lossy(&environment);
    let mut variables = environment.split('\0').filter_map(|variable| variable.split_once('='));
    if let Some((_, value)) = variables.clone().find(|(name, _)| *name == VARIABLE) {
        let detail = format!("process {pid} has {VARIABLE}={value}; {has}");
        return match openssl_conf {
            Some(conf) if !same(conf, Path::new(value)) => {
                let mend = match of_system {
                    true => format!("look at that one instead: keyward doctor --openssl-conf {value}"),
                    false => mend,
                };
                Finding::fail(CHECK, format!("{detail}; that is not {}", conf.display()), mend)
            }
            _ if provider.is_none() => Finding::warn(CHECK, detail, mend),
            _ => Finding::ok(CHECK, detail),
        };
    }
    // nginx puts its title there, and blanks behind it.
    let overwritten = variables.next().is_none();
    let detail = match overwritten {
        true => format!("process {pid} has written over its environment, as nginx does; {has}"),
        false => format!("process {pid} has no {VARIABLE}; {has}"),
    };
    match provider {
        None => Finding::fail(CHECK, detail, mend),
        Some(_) if overwritten || of_system => Finding::ok(CHECK, detail),
        Some(_) => Finding::warn(CHECK, format!("{detail}, by another configuration"), mend),
    }
}

/// Where `KEYWARD_SOCKET` has the provider look for the socket, whatever openssl.cnf says: that of a process or, where none
/// is named, our own. That a process cannot be looked at is told by [`process`].
pub(super) fn socket(pid: Option<u32>) -> Option<Told> {
    let (socket, source) = match pid {
        None => (env::var(SOCKET).ok()?, format!("{SOCKET} of this environment")),
        Some(pid) => (variable(pid, SOCKET)?, format!("{SOCKET} of process {pid}")),
    };
    Some(Told { socket, setting: SOCKET, source })
}

/// The openssl.cnf that a process has been told to read, if it is a file whose name says where it is.
pub(super) fn openssl_conf(pid: u32) -> Option<PathBuf> {
    variable(pid, VARIABLE).map(PathBuf::from).filter(|path| path.is_absolute() && path.is_file())
}

/// The chroot that a process has gone into; `None` if its root is ours, or cannot be looked at, which [`process`] tells.
///
/// # Errors
/// As a finding, that it sees other files than we do, where no path of ours leads.
pub(super) fn chroot(pid: u32) -> Option<Result<PathBuf, Finding>> {
    let link = PathBuf::from(format!("/proc/{pid}/root"));
    let (root, path) = (fs::metadata(&link).ok()?, fs::read_link(&link).ok()?);
    let is_root = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (root.dev(), root.ino()))
    };
    if is_root(Path::new("/")) {
        return None;
    }
    // With mounts of its own, as in a container, its root has another name there, or none here.
    Some(is_root(&path).then_some(path).ok_or_else(|| {
        let detail = format!("process {pid} sees other files than we do, as in a container");
        Finding::warn(CHROOT, detail, "run keyward doctor in there, or say where its root is: --chroot DIR")
    }))
}

/// A variable of the environment that a process was started with.
fn variable(pid: u32, name: &str) -> Option<String> {
    let environment = read(pid, "environ").ok()?;
    let environment = String::from_utf8_lossy(&environment);
    let mut variables = environment.split('\0').filter_map(|variable| variable.split_once('='));
    variables.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}

/// The file of our provider among those that a process has mapped (proc_pid_maps(5)).
pub(super) fn loaded(maps: &str) -> Option<&str> {
    let mut files = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    files.find(|file| {
        let name = file.rsplit('/').next().unwrap_or_default();
        name.contains("keyward") && name.contains(".so")
    })
}

/// What the kernel tells of a process.
pub(super) fn read(pid: u32, what: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{what}"))?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether two paths lead to one file.
fn same(one: &Path, other: &Path) -> bool {
    one == other
        || fs::canonicalize(one).is_ok_and(|one| fs::canonicalize(other).is_ok_and(|other| one == other))
}

/// The directives of an nginx.conf that stand outside of all braces, word by word.
fn directives(text: &str) -> Vec<Vec<String>> {
    let outside = all_directives(text).0.into_iter().filter(|one| one.within.is_empty());
    outside.map(|one| one.words).collect()
}

/// A directive of an nginx.conf.
pub(super) struct Directive {
    pub(super) words: Vec<String>,
    /// The blocks around it, the outermost first, by their places among all blocks of the file.
    pub(super) within: Vec<usize>,
}

/// All directives of an nginx.conf, and the words before the brace of each block.
pub(super) fn all_directives(text: &str) -> (Vec<Directive>, Vec<Vec<String>>) {
    let (mut found, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    let (mut blocks, mut within) = (Vec::new(), Vec::new());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => word.extend(rest.next()),
            '#' if word.is_empty() => {
                rest.find(|c| *c == '\n');
            }
            '"' | '\'' if word.is_empty() => {
                while let Some(inner) = rest.next().filter(|inner| *inner != c) {
                    word.extend(if inner == '\\' { rest.next() } else { Some(inner) });
                }
            }
            // A variable, as in ${name}.
            '{' if word.ends_with('$') => {
                rest.find(|c| *c == '}');
            }
            ';' | '{' | '}' => {
                words.extend(Some(core::mem::take(&mut word)).filter(|word| !word.is_empty()));
                let words = core::mem::take(&mut words);
                match c {
                    ';' => found.push(Directive { words, within: within.clone() }),
                    '{' => {
                        within.push(blocks.len());
                        blocks.push(words);
                    }
                    _ => drop(within.pop()),
                }
            }
            c if c.is_whitespace() => {
                words.extend(Some(core::mem::take(&mut word)).filter(|word| !word.is_empty()));
            }
            c => word.push(c),
        }
    }
    (found, blocks)
}

pub(super) const OPENSSL_CONF: &str = "OPENSSL_CONF";
const VARIABLE: &str = OPENSSL_CONF;
pub(super) const SOCKET: &str = "KEYWARD_SOCKET";
/// What a service of systemd needs, without its value.
const SERVICE: &str = "Environment=OPENSSL_CONF";
/// Most that is read of what the kernel tells, in bytes (4 MiB).
const LONGEST: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn directives_of_nginx_outside_of_braces() {
        let text = "user www-data; # env A;\nenv 'OPENSSL_CONF';env \"B=a;b\" ;\n\
                    http { env C; server { set $x ${y}; return 200 \"}\"; } }\nenv D;events{}env\nE;\n";
        let expected: [&[&str]; 5] = [
            &["user", "www-data"],
            &["env", "OPENSSL_CONF"],
            &["env", "B=a;b"],
            &["env", "D"],
            &["env", "E"],
        ];
        assert_eq!(directives(text), expected);
    }

    #[test]
    fn the_provider_among_what_is_mapped() {
        let maps = "7f00-7f01 r--p 00000000 fe:00 1  /usr/lib/libcrypto.so.3\n7f01-7f02 rw-p 00000000 00:00 0\n\
                    7f02-7f03 r-xp 00000000 fe:00 2  /usr/lib/ossl-modules/keyward.so\n";
        assert_eq!(loaded(maps), Some("/usr/lib/ossl-modules/keyward.so"));
        assert_eq!(loaded("7f00-7f01 r--p 0 fe:00 1  /home/keyward/server\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[ -~\n\\\\\"'{};#$]{0,200}") {
            directives(&text);
        }
    }
}
