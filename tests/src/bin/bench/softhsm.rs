//! nginx with its key in SoftHSM2, through the PKCS #11 engine of OpenSSL: the packages `softhsm2`
//! and `libengine-pkcs11-openssl` of Debian, which anybody could take instead of Keyward.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::server::Site;
use keyward_tests::tool::{Process, children, succeed, wait_for};
use keyward_tests::{Daemon, is_root};

/// A token with keys.
pub(crate) struct SoftHsm {
    directory: PathBuf,
}

/// nginx with one worker.
pub(crate) struct Running {
    process: Process,
}

impl SoftHsm {
    /// Makes a token; `None` if the packages are not installed.
    pub(crate) fn new(daemon: &Daemon) -> Option<Self> {
        if ![MODULE, ENGINE].iter().all(|file| Path::new(file).exists()) {
            return None;
        }
        let hsm = Self { directory: daemon.path("softhsm") };
        fs::create_dir_all(hsm.path("tokens")).expect("a directory");
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            hsm.path("tokens").display()
        );
        fs::write(hsm.path("softhsm2.conf"), text).expect("softhsm2.conf");
        let text = format!(
            "openssl_conf = init\n[init]\nengines = engines\n[engines]\npkcs11 = pkcs11\n[pkcs11]\n\
             engine_id = pkcs11\nMODULE_PATH = {MODULE}\ninit = 1\n"
        );
        fs::write(hsm.path("openssl.cnf"), text).expect("openssl.cnf");
        succeed(hsm.util().args(["--init-token", "--free", "--label", TOKEN, "--so-pin", PIN, "--pin", PIN]));
        Some(hsm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn util(&self) -> Command {
        let mut command = Command::new("softhsm2-util");
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command
    }

    /// Imports a key file, and starts nginx on the address of `site`, with the certificate of
    /// `site`.
    pub(crate) fn start(&self, name: &str, key: &Path, site: &Site) -> Running {
        let mut import = self.util();
        import.args(["--token", TOKEN, "--label", name, "--id", &hex(name), "--pin", PIN, "--import"]);
        succeed(import.arg(key));
        if is_root() {
            succeed(Command::new("chown").args(["-R", "www-data"]).arg(self.path("tokens")));
        }
        let user = if is_root() { "user www-data;" } else { "" };
        let path = |suffix: &str| self.path(&format!("nginx-{name}{suffix}"));
        fs::create_dir_all(path("")).expect("a directory");
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {}/{kind}; ", path("").display()))
            .collect();
        let text = format!(
            "{user} daemon off; worker_processes 1; pid {pid}; error_log {log};\n\
             env OPENSSL_CONF; env SOFTHSM2_CONF;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; {temp}\n\
             ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets off;\n\
             ssl_ecdh_curve X25519:prime256v1:secp384r1:secp521r1;\n\
             server {{ listen {address} ssl backlog=1024; ssl_certificate {certificate};\n\
             ssl_certificate_key \"engine:pkcs11:pkcs11:token={TOKEN};object={name};type=private;pin-value={PIN}\";\n\
             location / {{ return 200 \"served\\n\"; }} }} }}\n",
            pid = path(".pid").display(),
            log = path(".error").display(),
            address = site.address,
            certificate = site.certificate.display(),
        );
        fs::write(path(".conf"), text).expect("the configuration of nginx");
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(path("")).arg("-c").arg(path(".conf")).arg("-e").arg(path(".error"));
        command.env("OPENSSL_CONF", self.path("openssl.cnf"));
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        let process = Process::start(&mut command, &path(".log"));
        let running = Running { process };
        site.wait_until_open();
        wait_for("the worker of nginx", || (running.workers().len() == 1).then_some(()));
        running
    }
}

impl Running {
    /// Process ids of the workers.
    pub(crate) fn workers(&self) -> Vec<u32> {
        children(self.process.id())
    }
}

fn hex(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const ENGINE: &str = "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so";
const TOKEN: &str = "bench";
/// The token lives as long as the benchmark.
const PIN: &str = "1234";
