//! A server on rustls.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::server::ResolvesServerCert;
use rustls::{ServerConfig, ServerConnection, Stream};

use super::{Page, Server, Site};
use crate::tool::{Process, as_user, wait_for};
use crate::{Daemon, built, is_root};

/// The program `rustls-server`.
#[derive(Debug)]
pub struct Rustls {
    process: Process,
    log: PathBuf,
}

impl Rustls {
    /// Starts the server with two workers, as www-data if the tests run as root, and waits until
    /// every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        let command = command(daemon, sites, 2);
        Self::start_command(daemon, sites, if is_root() { as_user("www-data", &command) } else { command })
    }

    /// Starts the server with one worker, as the user of the tests, who can read plain keys.
    pub fn start_single(daemon: &Daemon, site: &Site) -> Self {
        let sites = std::slice::from_ref(site);
        Self::start_command(daemon, sites, command(daemon, sites, 1))
    }

    fn start_command(daemon: &Daemon, sites: &[Site], mut command: Command) -> Self {
        let log = super::directory(daemon, "rustls", sites).join("output.log");
        let process = Process::start(&mut command, &log);
        for site in sites {
            site.wait_until_open();
        }
        Self { process, log }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Server for Rustls {
    fn page(&self) -> Page {
        Page::read("rustls")
    }

    /// rustls knows the schemes of these types in TLS 1.3 only.
    fn can_use(&self, key_type: &str, version: &str) -> bool {
        version == "1.3" || !(key_type.starts_with("rsa-pss") || key_type.starts_with("ml-dsa"))
    }

    fn log(&self) -> String {
        super::read_log(&self.log)
    }
}

fn command(daemon: &Daemon, sites: &[Site], workers: usize) -> Command {
    // A copy that the server's user can reach, wherever the build directory is.
    let program = daemon.path("rustls-server");
    if !program.exists() {
        fs::copy(built("rustls-server"), &program).expect("the program");
    }
    let mut command = Command::new(program);
    command.arg(workers.to_string()).env("KEYWARD_SOCKET", daemon.socket());
    for site in sites {
        command.arg(site.address.to_string()).arg(&site.certificate).arg(&site.key);
        command.arg(site.client_ca.clone().unwrap_or_else(|| "-".into()));
    }
    command
}

/// A server on rustls in this process, without a runtime: one connection after the other, with one
/// page each.
#[derive(Debug)]
pub struct RustlsThread {
    address: SocketAddr,
    failures: Arc<Mutex<Vec<io::Error>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RustlsThread {
    /// Starts the server with its certificates.
    pub fn start(resolver: Arc<dyn ResolvesServerCert>) -> Self {
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (failures, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (failures, stop) = (Arc::<Mutex<Vec<io::Error>>>::clone(&failures), Arc::clone(&stop));
            move || {
                while let Ok((socket, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(error) = serve(&config, socket) {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                    }
                }
            }
        });
        Self { address, failures, stop, thread: Some(thread) }
    }

    /// Address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next failure.
    pub fn failure(&self) -> io::Error {
        wait_for("a failure of the server", || {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            (!failures.is_empty()).then(|| failures.remove(0))
        })
    }
}

impl Drop for RustlsThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(config: &Arc<ServerConfig>, mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut stream = Stream::new(&mut connection, &mut socket);
    let _ = stream.read(&mut [0; 64])?;
    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nserved\n")
}
