//! The server of the openssl program.

use super::Site;
use crate::Daemon;
use crate::tool::Process;

/// `openssl s_server`, which answers every request with a page about the connection.
#[derive(Debug)]
pub struct SServer {
    _process: Process,
}

impl SServer {
    /// Starts it for one site, and waits until that is open.
    pub fn start(daemon: &Daemon, site: &Site) -> Self {
        let mut command = daemon.openssl(&["s_server", "-www", "-quiet", "-num_tickets", "0"]);
        command.arg("-accept").arg(site.address.to_string());
        command.arg("-cert").arg(&site.certificate).arg("-key").arg(&site.key);
        let process = Process::start(&mut command, &daemon.path("s_server.log"));
        site.wait_until_open();
        Self { _process: process }
    }
}
