//! Pebble, the test authority of Let's Encrypt (RFC 8555). It sends challenges, and certifies
//! clients that answer them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool::{Process, run, wait_for};
use crate::{Pki, free_port};

/// An authority that finds every name on this machine.
#[derive(Debug)]
pub struct Pebble {
    _names: Process,
    _authority: Process,
    tls: PathBuf,
    directory: String,
    challenges: u16,
    issued: Pki,
}

impl Pebble {
    /// Starts pebble in a directory, and waits until it answers.
    pub fn start(home: &Path) -> Self {
        fs::create_dir_all(home.join("issued")).expect("directories");
        let pki = Pki::new(home);
        let (certificate, key) = pki.leaf("pebble");
        let [port, management, dns, mock, challenges] = [(); 5].map(|()| free_port());
        let conf = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": challenges,
        }});
        fs::write(home.join("pebble.json"), conf.to_string()).expect("pebble.json");
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names.args(["-dns01", &format!("127.0.0.1:{dns}"), "-management", &format!("127.0.0.1:{mock}")]);
        let names = Process::start(&mut names, &home.join("names.log"));
        let mut authority = Command::new("pebble");
        // Pebble sends new challenges for each order, without a pause.
        authority
            .env("PEBBLE_AUTHZREUSE", "0")
            // By default pebble refuses one nonce in twenty, to test whether clients try again.
            // certbot tries again only once.
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .env("PEBBLE_VA_NOSLEEP", "1")
            .arg("-config")
            .arg(home.join("pebble.json"));
        authority.args(["-strict", "-dnsserver", &format!("127.0.0.1:{dns}")]);
        let authority = Process::start(&mut authority, &home.join("pebble.log"));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--cacert"]).arg(pki.ca());
        curl.arg(format!("https://localhost:{management}/roots/0"));
        let root = wait_for("pebble", || Some(run(&mut curl)).filter(|output| output.status.success()));
        fs::write(home.join("issued/ca.pem"), root.stdout).expect("the root");
        Self {
            _names: names,
            _authority: authority,
            tls: pki.ca(),
            directory: format!("https://localhost:{port}/dir"),
            challenges,
            issued: Pki::elsewhere(home.join("issued")),
        }
    }

    /// certbot with this authority. It keeps all its files in `home`.
    pub fn certbot(&self, home: &Path) -> Command {
        let mut command = Command::new("certbot");
        command.args(["--non-interactive", "--server", &self.directory]).env("REQUESTS_CA_BUNDLE", &self.tls);
        for (option, name) in [("--config-dir", "letsencrypt"), ("--work-dir", "work"), ("--logs-dir", "log")]
        {
            command.arg(option).arg(home.join(name));
        }
        command
    }

    /// Port to which pebble sends challenges over HTTP.
    pub fn challenges(&self) -> u16 {
        self.challenges
    }

    /// Address of the authority for clients.
    pub fn issued(&self) -> &Pki {
        &self.issued
    }
}
