//! Servers whose pick-up of new files is known: checked first, then told to read them.
//!
//! A server is found by its process, and by its configuration, which names the files of the plan.
//! It is never restarted.

use std::path::{Path, PathBuf};

use keyward::config::Server;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::processes::{Master, masters};
use super::program::run;

/// A running server that uses files of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    kind: Server,
    master: Master,
    /// Text of its configuration.
    text: String,
}

/// Servers of a kind that run on this host.
pub(crate) async fn running(kind: Server) -> Vec<Running> {
    let mut all = Vec::new();
    for master in masters(program(kind)) {
        let text = match kind {
            Server::Nginx => run(nginx(&master).arg("-T")).await,
            Server::Haproxy => haproxy_text(&master),
            Server::Apache => {
                let list = run(apache(&master).args(["-t", "-D", "DUMP_INCLUDES"])).await;
                list.map(|list| texts(&list))
            }
        };
        // A configuration that is wrong now names the files all the same, and the check says more.
        let text = text.unwrap_or_else(|_| texts_below(&directory_of(kind, &master)));
        all.push(Running { kind, master, text });
    }
    all
}

/// Directory of the configuration of a server.
fn directory_of(kind: Server, master: &Master) -> PathBuf {
    let (option, usual) = match kind {
        Server::Nginx => ("-c", "/etc/nginx/nginx.conf"),
        Server::Haproxy => ("-f", "/etc/haproxy/haproxy.cfg"),
        Server::Apache => ("-f", "/etc/apache2/apache2.conf"),
    };
    let shown = words(master);
    let file = shown.path(shown.values(option).last().copied().unwrap_or(usual));
    file.parent().map(Path::to_owned).unwrap_or_default()
}

/// Texts of the files in a directory and in those below.
fn texts_below(directory: &Path) -> String {
    let (mut text, mut left) = (String::new(), vec![(directory.to_owned(), 0)]);
    while let Some((directory, depth)) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten().take(MOST_FILES) {
            let path = entry.path();
            match path.metadata() {
                Ok(found) if found.is_dir() && depth < DEPTH => left.push((path, depth + 1)),
                Ok(found) if found.is_file() && found.len() <= LONGEST_FILE => {
                    text += &std::fs::read_to_string(path).unwrap_or_default();
                }
                _ => {}
            }
        }
    }
    text
}

/// The arguments one by one: nginx shows them as one word.
fn words(master: &Master) -> Master {
    let words = master.arguments.iter().flat_map(|word| word.split_whitespace());
    Master { arguments: words.map(str::to_owned).collect(), ..master.clone() }
}

impl Running {
    /// True if the configuration names a file below a directory.
    pub(crate) fn uses(&self, directory: &Path) -> bool {
        self.text.contains(&format!("{}/", directory.display()))
    }

    /// Process id, by which this server is told from others.
    pub(crate) fn pid(&self) -> i32 {
        self.master.pid
    }

    /// Has the server check its configuration with the new files.
    ///
    /// # Errors
    /// The words of the server.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let checked = match self.kind {
            Server::Nginx => run(nginx(&self.master).arg("-t")).await,
            Server::Haproxy => {
                run(Command::new(&self.master.program)
                    .current_dir(&self.master.directory)
                    .arg("-c")
                    .args(haproxy_files(&self.master)))
                .await
            }
            Server::Apache => run(apache(&self.master).arg("-t")).await,
        };
        checked.map(drop)
    }

    /// Has the server read the new files of some directories, with their contents for HAProxy.
    ///
    /// # Errors
    /// The words of the server, or of the system.
    pub(crate) async fn reload(&self, changed: &[(PathBuf, String)]) -> Result<(), String> {
        let signal = match self.kind {
            Server::Nginx => Signal::HUP,
            Server::Apache => Signal::USR1,
            Server::Haproxy => {
                if let Some(socket) = self.haproxy_socket() {
                    return commit(&socket, changed).await;
                }
                match self.master.arguments.iter().any(|word| word.starts_with("-W")) {
                    true => Signal::USR2,
                    false => {
                        return Err("HAProxy runs without a master process and without an administrators' socket; start it with -W, or add to its section global: stats socket PATH level admin".into());
                    }
                }
            }
        };
        let pid = Pid::from_raw(self.master.pid).ok_or("the server has ended")?;
        kill_process(pid, signal)
            .map_err(|error| format!("cannot send a signal to process {}: {error}", self.master.pid))
    }

    /// Path of a socket of HAProxy that takes certificates.
    fn haproxy_socket(&self) -> Option<PathBuf> {
        let lines = self.text.lines().map(str::trim);
        let mut sockets = lines.filter_map(|line| {
            let mut words =
                line.strip_prefix("stats ")?.trim_start().strip_prefix("socket ")?.split_whitespace();
            let path = words.next().filter(|path| path.starts_with('/'))?.to_owned();
            let words: Vec<_> = words.collect();
            words.windows(2).any(|pair| pair == ["level", "admin"]).then(|| PathBuf::from(path))
        });
        sockets.next()
    }
}

fn program(kind: Server) -> &'static str {
    match kind {
        Server::Nginx => "nginx",
        Server::Haproxy => "haproxy",
        Server::Apache => "apache2",
    }
}

/// The program of nginx with the configuration of a running one: its process shows its arguments
/// as `nginx: master process /usr/sbin/nginx -c FILE`.
fn nginx(master: &Master) -> Command {
    let shown = words(master);
    let mut command = Command::new(&master.program);
    command.current_dir(&master.directory);
    for option in ["-c", "-p", "-e"] {
        if let Some(value) = shown.values(option).last() {
            command.arg(option).arg(shown.path(value));
        }
    }
    // -g has spaces in its value, which ends at the next option.
    if let Some(at) = shown.arguments.iter().position(|word| word == "-g") {
        let value: Vec<_> = shown
            .arguments
            .iter()
            .skip(at + 1)
            .take_while(|word| !["-c", "-p", "-e"].contains(&word.as_str()))
            .cloned()
            .collect();
        command.arg("-g").arg(value.join(" "));
    }
    command
}

fn apache(master: &Master) -> Command {
    let mut command = Command::new(&master.program);
    command.current_dir(&master.directory);
    for option in ["-f", "-d"] {
        if let Some(value) = master.values(option).last() {
            command.arg(option).arg(master.path(value));
        }
    }
    for definition in master.values("-D") {
        command.arg("-D").arg(definition);
    }
    // Debian's apache2ctl reads these from a file (envvars).
    command.envs(variables(master.pid));
    command
}

/// Environment of a process, for the variables in its configuration.
fn variables(pid: i32) -> Vec<(String, String)> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter_map(|word| str::from_utf8(word).ok());
    words
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Texts of the files in a list of Apache: lines that end in a path.
fn texts(list: &str) -> String {
    let paths =
        list.lines().filter_map(|line| line.split_whitespace().last()).filter(|path| path.starts_with('/'));
    paths.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

fn haproxy_files(master: &Master) -> Vec<String> {
    let files = master.values("-f");
    files.into_iter().flat_map(|file| ["-f".to_owned(), master.path(file).display().to_string()]).collect()
}

fn haproxy_text(master: &Master) -> Result<String, String> {
    let read = |file: &&str| {
        let path = master.path(file);
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    master.values("-f").iter().map(read).collect()
}

/// Exchanges certificates over the socket of HAProxy. A file that HAProxy does not use is left out.
async fn commit(socket: &Path, changed: &[(PathBuf, String)]) -> Result<(), String> {
    let known = ask(socket, "show ssl cert\n").await?;
    for (directory, pem) in changed {
        let prefix = format!("{}/", directory.display());
        for file in known.lines().map(str::trim).filter(|line| line.starts_with(&prefix)) {
            let answer = ask(socket, &format!("set ssl cert {file} <<\n{pem}\n")).await?;
            if !answer.contains("Transaction created") && !answer.contains("Transaction updated") {
                return Err(format!("HAProxy did not take {file}: {}", answer.trim()));
            }
            let answer = ask(socket, &format!("commit ssl cert {file}\n")).await?;
            if !answer.contains("Success") {
                let _ = ask(socket, &format!("abort ssl cert {file}\n")).await;
                return Err(format!("HAProxy did not take {file}: {}", answer.trim()));
            }
        }
    }
    Ok(())
}

async fn ask(socket: &Path, command: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("the socket {} of HAProxy: {error}", socket.display());
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(command.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let limited = tokio::time::timeout(core::time::Duration::from_secs(10), exchange).await;
    limited.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(failed)
}

/// Limits of a configuration that is read without the help of the server: files of a directory,
/// directories below each other, and bytes of a file (1 MiB).
const MOST_FILES: usize = 1000;
const DEPTH: usize = 3;
const LONGEST_FILE: u64 = 1 << 20;
