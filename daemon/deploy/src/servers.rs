//! Servers whose pick-up of new files is known: checked first, then told to read them.
//!
//! A server is found by its process, and by its configuration, which names the files of the plan.
//! It is never restarted.

use core::time::Duration;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keyward::config::Server;
use keyward::servers::apache;
use keyward::servers::haproxy;
use keyward::servers::nginx;
use keyward::servers::processes::{Master, environment, masters};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::files;
use super::program::run;

/// A running server that may use files of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    kind: Server,
    master: Master,
    /// Text of its configuration.
    text: String,
    /// Files of certificates that HAProxy has, as its socket lists them.
    known: Vec<String>,
}

/// Servers of a kind that run on this host.
pub(crate) async fn running(kind: Server) -> Vec<Running> {
    let mut all = Vec::new();
    // A server that starts just now is ended by the signal, and reads the new files by itself.
    for master in masters(program(kind)).into_iter().filter(|master| master.heeds(signal_of(kind, master))) {
        let text = match kind {
            Server::Nginx => run(Command::from(nginx::command(&master)).arg("-T")).await,
            Server::Haproxy => haproxy_text(&master),
            Server::Apache => {
                let list = run(Command::from(apache::command(&master, &environment(master.pid))).args([
                    "-t",
                    "-D",
                    "DUMP_INCLUDES",
                ]))
                .await;
                list.map(|list| texts(&list))
            }
        };
        // A configuration that is wrong now names the files all the same, and the check says more.
        let text = text.unwrap_or_else(|_| texts_below(&directory_of(kind, &master)));
        let mut running = Running { kind, master, text, known: Vec::new() };
        if let Some(socket) = running.haproxy_socket().filter(|_| kind == Server::Haproxy) {
            let known = ask(&socket, "show ssl cert\n").await.unwrap_or_default();
            let names = known.lines().map(|line| line.trim().trim_start_matches('*'));
            let is_name = |line: &&str| !line.is_empty() && !line.starts_with('#');
            running.known = names.filter(is_name).map(str::to_owned).collect();
        }
        all.push(running);
    }
    all
}

/// Directory of the configuration of a server.
fn directory_of(kind: Server, master: &Master) -> PathBuf {
    // A relative path counts from the prefix of nginx, and from the server root of Apache.
    let (option, usual, base, usual_base) = match kind {
        Server::Nginx => ("-c", "/etc/nginx/nginx.conf", "-p", "/usr/share/nginx"),
        Server::Haproxy => ("-f", "/etc/haproxy/haproxy.cfg", "-C", "."),
        Server::Apache => ("-f", "/etc/apache2/apache2.conf", "-d", "/etc/apache2"),
    };
    let shown = nginx::words(master);
    let base = shown.path(shown.values(base).last().copied().unwrap_or(usual_base));
    let file = base.join(shown.values(option).last().copied().unwrap_or(usual));
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
                Ok(found) if found.is_file() => {
                    text += &files::read(&path, LONGEST_FILE).unwrap_or_default();
                }
                _ => {}
            }
        }
    }
    text
}

impl Running {
    /// True if the server uses a file of a directory.
    pub(crate) fn uses(&self, directory: &Path) -> bool {
        // HAProxy itself knows best. It reads files that were named since only at a reload.
        if !files_below(&self.known, directory).is_empty() {
            return true;
        }
        let prefix = format!("{}/", directory.display());
        let lines = || self.text.lines().map(|line| line.split('#').next().unwrap_or_default());
        if lines().any(|line| line.contains(&prefix)) {
            return true;
        }
        // HAProxy joins a relative path to crt-base.
        let bases = lines().filter_map(|line| line.trim().strip_prefix("crt-base "));
        let mut relative = bases.filter_map(|base| directory.strip_prefix(base.trim()).ok());
        relative.any(|relative| {
            let prefix = format!("{}/", relative.display());
            lines().flat_map(str::split_whitespace).any(|word| word.starts_with(&prefix))
        })
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
            Server::Nginx => run(Command::from(nginx::command(&self.master)).arg("-t")).await,
            Server::Haproxy => {
                run(Command::new(&self.master.program)
                    .current_dir(&self.master.directory)
                    .arg("-c")
                    .args(haproxy::arguments(&self.master)))
                .await
            }
            Server::Apache => {
                run(Command::from(apache::command(&self.master, &environment(self.master.pid))).arg("-t"))
                    .await
            }
        };
        checked.map(drop)
    }

    /// True for HAProxy, which may still refuse the files when it reads them.
    pub(crate) fn can_refuse(&self) -> bool {
        self.kind == Server::Haproxy
    }

    pub(crate) fn kind(&self) -> Server {
        self.kind
    }

    /// Has the server read the new files of some directories, with their contents for HAProxy.
    /// Returns the result for each directory: the words of the server, or of the system.
    pub(crate) async fn reload(&self, changed: &[(PathBuf, String)]) -> Vec<Result<(), String>> {
        let signal = signal_of(self.kind, &self.master);
        let socket = self.haproxy_socket().filter(|_| self.kind == Server::Haproxy);
        let is_known = |directory: &Path| !files_below(&self.known, directory).is_empty();
        let mut signalled = None;
        let mut results = Vec::new();
        let mut is_silent = false;
        for (directory, pem) in changed {
            results.push(match socket.as_ref().filter(|_| is_known(directory)) {
                Some(_) if is_silent => Err("HAProxy does not answer at its socket".to_owned()),
                Some(socket) => {
                    let committed = commit(socket, &self.known, directory, pem).await;
                    is_silent = committed.as_ref().is_err_and(|error| error.contains(SILENT));
                    committed
                }
                None => signalled.get_or_insert_with(|| self.signal(signal)).clone(),
            });
        }
        results
    }

    /// Has the server read all its files.
    fn signal(&self, signal: Signal) -> Result<(), String> {
        if self.kind == Server::Haproxy && !haproxy::has_master_process(&self.master) {
            let reason = match self.known.is_empty() {
                true => {
                    "HAProxy runs without a master process and without an administrators' socket; start it with -W, or add to its section global: stats socket PATH level admin"
                }
                false => {
                    "HAProxy was started before its configuration named the files, and runs without a master process (-W): reload it once"
                }
            };
            return Err(reason.into());
        }
        let sent = self.master.signal(Some(signal));
        sent.map_err(|error| format!("cannot send a signal to process {}: {error}", self.master.pid))
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

/// The signal by which a server reads its files. Without a master process, HAProxy has none, and is
/// known by a signal that it heeds in each form.
fn signal_of(kind: Server, master: &Master) -> Signal {
    match kind {
        Server::Nginx => Signal::HUP,
        Server::Apache => Signal::USR1,
        Server::Haproxy if haproxy::has_master_process(master) => Signal::USR2,
        Server::Haproxy => Signal::TERM,
    }
}

fn program(kind: Server) -> &'static str {
    match kind {
        Server::Nginx => "nginx",
        Server::Haproxy => "haproxy",
        Server::Apache => "apache2",
    }
}

/// Texts of the files in a list of Apache: lines that end in a path.
fn texts(list: &str) -> String {
    let paths =
        list.lines().filter_map(|line| line.split_whitespace().last()).filter(|path| path.starts_with('/'));
    paths.filter_map(|path| files::read(Path::new(path), LONGEST_FILE).ok()).collect()
}

fn haproxy_text(master: &Master) -> Result<String, String> {
    let mut text = String::new();
    for file in haproxy::arguments(master).iter().filter(|word| *word != "-f") {
        let path = Path::new(file);
        match path.is_dir() {
            true => text += &texts_below(path),
            false => {
                let read = files::read(path, LONGEST_FILE);
                text += &read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            }
        }
    }
    // Lists of certificates have the names of files.
    let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
    for pair in words.windows(2).filter(|pair| pair[0] == "crt-list").take(MOST_FILES) {
        text += &files::read(&haproxy::path(master, &pair[1]), LONGEST_FILE).unwrap_or_default();
    }
    Ok(text)
}

/// Files of a plan among those that HAProxy has. A process that lists other names has the file of a
/// plan a few times at most.
fn files_below<'k>(known: &'k [String], directory: &Path) -> BTreeSet<&'k str> {
    const NAMES: [&str; 5] = ["fullchain.pem", "cert.pem", "chain.pem", "key.pem", "combined.pem"];
    let is_file = |name: &&str| NAMES.iter().any(|file| Path::new(name) == directory.join(file));
    known.iter().map(String::as_str).filter(is_file).collect()
}

/// Exchanges the certificate of a directory over the socket of HAProxy.
async fn commit(socket: &Path, known: &[String], directory: &Path, pem: &str) -> Result<(), String> {
    for file in files_below(known, directory) {
        let answer = ask(socket, &format!("set ssl cert {file} <<\n{pem}\n")).await?;
        if !answer.contains("Transaction created") && !answer.contains("Transaction updated") {
            return Err(format!("HAProxy did not take {file}: {}", answer.trim()));
        }
        let answer = ask(socket, &format!("commit ssl cert {file}\n")).await;
        if !answer.as_ref().is_ok_and(|answer| answer.contains("Success")) {
            let _ = ask(socket, &format!("abort ssl cert {file}\n")).await;
            return Err(format!("HAProxy did not take {file}: {}", answer?.trim()));
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
    let limited = timeout(COMMIT, exchange).await;
    limited.map_err(|_| format!("HAProxy {SILENT} {} seconds", COMMIT.as_secs()))?.map_err(failed)
}

/// Longest time for one command at the socket of HAProxy.
const COMMIT: Duration = Duration::from_secs(10);
/// Words about a socket of HAProxy that does not answer.
const SILENT: &str = "did not answer at its socket within";
/// Limits of a configuration that is read without the help of the server: files of a directory,
/// directories below each other, and bytes of a file (1 MiB).
const MOST_FILES: usize = 1000;
const DEPTH: usize = 3;
const LONGEST_FILE: u64 = 1 << 20;
