//! HAProxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::{Page, Server, Site};
use crate::tool::{Process, wait_for};
use crate::{Daemon, is_root};

/// HAProxy as Debian runs it: a master and a worker. The worker has its own user if the tests run
/// as root.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
    log: PathBuf,
}

/// Files of a site: certificate and reference.
#[derive(Clone, Copy, Debug)]
pub enum Files {
    /// In one file, the reference first.
    Combined,
    /// In one file, the certificate first.
    CertificateFirst,
    /// In the file of the certificate, which somebody else has written, the reference first.
    Deployed,
    /// In two files, the second with the name of the first and `.key`.
    Split,
}

impl Haproxy {
    /// Starts HAProxy with certificate and reference of each site in one file, and waits until all
    /// sites are open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_from(daemon, sites, Files::Combined)
    }

    /// Starts HAProxy with certificate and reference in such files; see [`Haproxy::start`].
    pub fn start_from(daemon: &Daemon, sites: &[Site], files: Files) -> Self {
        Self::start_with(daemon, sites, files, "", &daemon.socket())
    }

    /// Starts HAProxy with the files that a deployer has written, more lines for its section
    /// `global`, and more sections; see [`Haproxy::start`].
    pub fn start_deployed(daemon: &Daemon, site: &Site, global: &str, more: &str) -> Self {
        let sites = std::slice::from_ref(site);
        Self::start_with_sections(daemon, sites, Files::Deployed, [global, "", more], &daemon.socket())
    }

    /// Starts HAProxy with one thread, which continues with other handshakes while one handshake
    /// waits for its signature; see [`Haproxy::start`].
    pub fn start_asynchronous(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_asynchronous_with(daemon, sites, "", "")
    }

    /// Starts HAProxy with more lines for its sections `global` and `defaults`; see
    /// [`Haproxy::start_asynchronous`].
    pub fn start_asynchronous_with(daemon: &Daemon, sites: &[Site], global: &str, defaults: &str) -> Self {
        let page = Page::read("haproxy");
        let block = page.block("ssl-mode-async").trim();
        let page = block.strip_prefix("global\n").expect("a section global");
        let global = format!("nbthread 1\n{page}\n{global}");
        Self::start_with_sections(daemon, sites, Files::Combined, [&global, defaults, ""], &daemon.socket())
    }

    /// Starts HAProxy with TLS 1.2 only, as the page says; see [`Haproxy::start`].
    pub fn start_with_tls12_alone(daemon: &Daemon, sites: &[Site]) -> Self {
        let option = "ssl-default-bind-options ssl-max-ver TLSv1.2\n";
        Self::start_with(daemon, sites, Files::Combined, option, &daemon.socket())
    }

    /// The process id of the master.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process ids of the workers.
    pub fn workers(&self) -> Vec<u32> {
        wait_for("workers of HAProxy", || {
            Some(crate::tool::children(self.process.id())).filter(|workers| !workers.is_empty())
        })
    }

    /// Starts HAProxy in a chroot, in which the daemon has the socket that the page names; see
    /// [`Haproxy::start`].
    pub fn start_in_chroot(daemon: &Daemon, sites: &[Site], root: &Path) -> Self {
        Self::start_in_chroot_with(daemon, sites, root, SOCKET_IN_CHROOT)
    }

    /// Starts HAProxy in a chroot, with another address of the daemon; see
    /// [`Haproxy::start_in_chroot`]. The certificate comes first in its file, as older versions of
    /// the page said.
    pub fn start_in_chroot_with(daemon: &Daemon, sites: &[Site], root: &Path, socket: &str) -> Self {
        let chroot = format!("chroot {}\n", root.display());
        Self::start_with(daemon, sites, Files::CertificateFirst, &chroot, Path::new(socket))
    }

    fn start_with(daemon: &Daemon, sites: &[Site], files: Files, global: &str, socket: &Path) -> Self {
        Self::start_with_sections(daemon, sites, files, [global, "", ""], socket)
    }

    fn start_with_sections(
        daemon: &Daemon,
        sites: &[Site],
        files: Files,
        [global, defaults, more]: [&str; 3],
        socket: &Path,
    ) -> Self {
        let directory = super::directory(daemon, "haproxy", sites);
        let page = Page::read("haproxy");
        let user = if is_root() { "user haproxy\ngroup haproxy\n" } else { "" };
        let mut text = format!(
            "global\n{user}{global}log stdout format raw local0\ndefaults\n{defaults}mode http\nlog global\noption httplog\n\
             timeout client 10s\ntimeout server 10s\ntimeout connect 1s\n"
        );
        for (number, site) in sites.iter().enumerate() {
            let file = match files {
                Files::Deployed => site.certificate.clone(),
                _ => directory.join(format!("{number}.pem")),
            };
            files.write(site, &file);
            let places: [(&str, &dyn std::fmt::Display); 2] =
                [(":443 ", &format_args!("{} ", site.address)), ("/etc/haproxy/shop.pem", &file.display())];
            let frontend = page.filled("frontend", &places);
            text.push_str(&frontend.replace("frontend shop", &format!("frontend shop{number}")));
            text.push_str("http-request return status 200 content-type text/plain string served\n");
        }
        text.push_str(more);
        let path = directory.join("haproxy.cfg");
        fs::write(&path, text).expect("haproxy.cfg");
        let mut command = Command::new("haproxy");
        command.args(["-W", "-db", "-f"]).arg(&path);
        page.set_environment(
            &mut command,
            &[
                ("/etc/keyward/openssl.cnf", &daemon.openssl_conf().display()),
                (SOCKET_IN_CHROOT, &socket.display()),
            ],
        );
        let log = directory.join("output.log");
        let process = Process::start(&mut command, &log);
        let haproxy = Self { process, log };
        wait_for("HAProxy to heed signals", || haproxy.heeds(Signal::USR2).then_some(()));
        for site in sites {
            site.wait_until_open();
        }
        haproxy
    }

    /// True if the master has a handler for a signal. The master ignores some signals for a while,
    /// even after it has reported that it is ready. The mask is in hexadecimal (proc(5), SigCgt).
    fn heeds(&self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
    }
}

impl Server for Haproxy {
    fn page(&self) -> Page {
        Page::read("haproxy")
    }

    fn log(&self) -> String {
        super::read_log(&self.log)
    }

    /// Starts a new worker, and waits until the old worker is gone.
    fn reload(&self) {
        let ends = self.logged("Former worker");
        self.process.signal(Signal::USR2);
        wait_for("a new worker of HAProxy", || (self.logged("Former worker") > ends).then_some(()));
    }
}

impl Files {
    fn write(self, site: &Site, file: &Path) {
        let [certificate, reference] =
            [&site.certificate, &site.key].map(|path| fs::read_to_string(path).expect("PEM"));
        let text = match self {
            Self::Combined => reference + &certificate,
            Self::CertificateFirst => certificate + &reference,
            Self::Deployed => return,
            Self::Split => {
                fs::write(file.with_extension("pem.key"), reference).expect("the reference");
                certificate
            }
        };
        fs::write(file, text).expect("the certificate");
    }
}

/// The daemon's socket as HAProxy sees it on its page.
const SOCKET_IN_CHROOT: &str = "/keyward.sock";
