//! Pebble, the test authority of Let's Encrypt (RFC 8555). It sends challenges, and certifies
//! clients that answer them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::tool::{Process, run, wait_for};
use crate::{Pki, free_port};

/// An authority that finds every name on this machine.
#[derive(Debug)]
pub struct Pebble {
    _names: Process,
    _authority: Process,
    pki: Pki,
    port: u16,
    directory: String,
    /// Port at which records of the DNS are set.
    records: u16,
    challenges: u16,
    issued: Pki,
}

impl Pebble {
    /// Starts pebble in a directory, and waits until it answers.
    pub fn start(home: &Path) -> Self {
        // By default pebble refuses one nonce in twenty, to test whether clients try again. certbot
        // tries again only once.
        Self::start_with(home, 0, 90 * 24 * 3600)
    }

    /// Starts pebble so that it looks names up at a server of the DNS on this port.
    pub fn start_asking(home: &Path, dns: u16) -> Self {
        Self::start_with_names(home, 0, 90 * 24 * 3600, Some(dns))
    }

    /// Starts pebble so that it refuses some nonces of a hundred, and its certificates are valid
    /// for some seconds.
    pub fn start_with(home: &Path, refused_nonces: u32, validity: u64) -> Self {
        Self::start_with_names(home, refused_nonces, validity, None)
    }

    fn start_with_names(home: &Path, refused_nonces: u32, validity: u64, names_at: Option<u16>) -> Self {
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
            "certificateValidityPeriod": validity,
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
            .env("PEBBLE_WFE_NONCEREJECT", refused_nonces.to_string())
            .env("PEBBLE_VA_NOSLEEP", "1")
            .arg("-config")
            .arg(home.join("pebble.json"));
        let dns = names_at.unwrap_or(dns);
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
            pki,
            port,
            directory: format!("https://localhost:{port}/dir"),
            records: mock,
            challenges,
            issued: Pki::elsewhere(home.join("issued")),
        }
    }

    /// A program for dns-01: `present NAME VALUE` and `cleanup NAME VALUE`.
    pub fn dns_hook(&self, path: &Path) {
        let script = format!(
            "#!/bin/sh -e\nif [ \"$1\" = present ]; then what=set-txt value=\", \\\"value\\\": \\\"$3\\\"\"; else what=clear-txt value=; fi\n\
             exec curl --silent --fail --data \"{{\\\"host\\\": \\\"$2\\\"$value}}\" \"http://127.0.0.1:{}/$what\"\n",
            self.records
        );
        fs::write(path, script).expect("the hook");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    /// certbot with this authority. It keeps all its files in `home`.
    pub fn certbot(&self, home: &Path) -> Command {
        let mut command = Command::new("certbot");
        command
            .args(["--non-interactive", "--server", &self.directory])
            .env("REQUESTS_CA_BUNDLE", self.pki.ca());
        for (option, name) in [("--config-dir", "letsencrypt"), ("--work-dir", "work"), ("--logs-dir", "log")]
        {
            command.arg(option).arg(home.join(name));
        }
        command
    }

    /// The section of the authority in keyward.toml.
    pub fn section(&self) -> String {
        format!("[ca.pebble]\ndirectory = {:?}\nroot = {:?}\n", self.directory, self.pki.ca())
    }

    /// Port to which pebble sends challenges over HTTP.
    pub fn challenges(&self) -> u16 {
        self.challenges
    }

    /// Port of the authority.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority that certifies the server of pebble.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Address of the authority for clients.
    pub fn issued(&self) -> &Pki {
        &self.issued
    }
}
