//! The server of the openssl program.

use super::Site;
use crate::tool::Process;
use crate::{Daemon, OpenSsl};

/// `openssl s_server`, which answers every request with a page about the connection.
#[derive(Debug)]
pub struct SServer {
    _process: Process,
}

impl SServer {
    /// Starts the server for one site, and waits until the site is open.
    pub fn start(daemon: &Daemon, site: &Site) -> Self {
        Self::start_of(daemon, site, OpenSsl::System, &[])
    }

    /// Starts the server of an OpenSSL, with more arguments; see [`SServer::start`].
    pub fn start_of(daemon: &Daemon, site: &Site, openssl: OpenSsl, more: &[&str]) -> Self {
        let mut command = daemon.openssl_of(openssl, &["s_server", "-www", "-quiet", "-num_tickets", "0"]);
        command.args(more);
        command.arg("-accept").arg(site.address.to_string());
        command.arg("-cert").arg(&site.certificate).arg("-key").arg(&site.key);
        let process = Process::start(&mut command, &daemon.path("s_server.log"));
        site.wait_until_open();
        Self { _process: process }
    }
}
