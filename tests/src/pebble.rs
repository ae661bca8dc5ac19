//! Pebble, the test authority of Let's Encrypt (RFC 8555). It sends challenges, and certifies
//! clients that answer them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool::{Process, run, succeed, wait_for};
use crate::{Pki, free_port};

/// Settings of an authority.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Nonces of a hundred that are refused.
    pub refused_nonces: u32,
    /// Seconds for which certificates are valid.
    pub validity: u64,
    /// Port of the server of the DNS that is asked for names; none for one that finds every name on
    /// this machine.
    pub dns: Option<u16>,
    /// Key id and MAC key, in base64url, that each account must be bound to.
    pub binding: Option<(&'static str, &'static str)>,
    /// Number of chains beside the first one, each with a root of its own.
    pub alternates: u32,
}

impl Default for Settings {
    fn default() -> Self {
        // By default pebble refuses one nonce in twenty, to test whether clients try again. certbot
        // tries again only once.
        Self { refused_nonces: 0, validity: 90 * 24 * 3600, dns: None, binding: None, alternates: 0 }
    }
}

/// An authority that finds every name on this machine.
#[derive(Debug)]
pub struct Pebble {
    _names: Process,
    authority: Option<Process>,
    settings: Settings,
    home: PathBuf,
    management: u16,
    /// Port of the server of the DNS that the authority asks.
    dns: u16,
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
        Self::start_with(home, Settings::default())
    }

    /// Starts pebble with other settings; see [`Pebble::start`].
    pub fn start_with(home: &Path, settings: Settings) -> Self {
        fs::create_dir_all(home.join("issued")).expect("directories");
        let pki = Pki::new(home);
        let (certificate, key) = pki.leaf("pebble");
        let [port, management, dns, mock, challenges] = [(); 5].map(|()| free_port());
        let mut conf = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": challenges,
            "certificateValidityPeriod": settings.validity,
        }});
        if let Some((kid, mac_key)) = settings.binding {
            conf["pebble"]["externalAccountBindingRequired"] = true.into();
            conf["pebble"]["externalAccountMACKeys"] = serde_json::json!({ kid: mac_key });
        }
        fs::write(home.join("pebble.json"), conf.to_string()).expect("pebble.json");
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names.args(["-dns01", &format!("127.0.0.1:{dns}"), "-management", &format!("127.0.0.1:{mock}")]);
        let names = Process::start(&mut names, &home.join("names.log"));
        let mut pebble = Self {
            _names: names,
            authority: None,
            home: home.to_owned(),
            management,
            dns: settings.dns.unwrap_or(dns),
            settings,
            pki,
            port,
            directory: format!("https://localhost:{port}/dir"),
            records: mock,
            challenges,
            issued: Pki::elsewhere(home.join("issued")),
        };
        pebble.restart();
        pebble
    }

    /// Starts the authority again, and waits until it answers. It has lost its accounts and its
    /// orders, and has another root.
    pub fn restart(&mut self) {
        drop(self.authority.take());
        let mut authority = Command::new("pebble");
        // Pebble sends new challenges for each order, without a pause.
        authority
            .env("PEBBLE_AUTHZREUSE", "0")
            .env("PEBBLE_WFE_NONCEREJECT", self.settings.refused_nonces.to_string())
            .env("PEBBLE_ALTERNATE_ROOTS", self.settings.alternates.to_string())
            .env("PEBBLE_VA_NOSLEEP", "1")
            .arg("-config")
            .arg(self.home.join("pebble.json"));
        authority.args(["-strict", "-dnsserver", &format!("127.0.0.1:{}", self.dns)]);
        self.authority = Some(Process::start(&mut authority, &self.home.join("pebble.log")));
        let root = wait_for("pebble", || {
            Some(run(&mut self.ask("roots/0"))).filter(|output| output.status.success())
        });
        fs::write(self.home.join("issued/ca.pem"), root.stdout).expect("the root");
    }

    /// Asks the managers' port of the authority, which only the tests know.
    fn ask(&self, path: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--cacert"]).arg(self.pki.ca());
        curl.arg(format!("https://localhost:{}/{path}", self.management));
        curl
    }

    /// Common name of the root of a chain; 0 is the first chain.
    pub fn root_name(&self, number: u32) -> String {
        let file = self.home.join(format!("root-{number}.pem"));
        fs::write(&file, succeed(&mut self.ask(&format!("roots/{number}")))).expect("the root");
        let mut show = Command::new("openssl");
        let text =
            succeed(show.args(["x509", "-noout", "-subject", "-nameopt", "multiline", "-in"]).arg(file));
        let line = text.lines().find(|line| line.contains("commonName")).expect("a common name");
        line.rsplit("= ").next().expect("a name").to_owned()
    }

    /// Status of a certificate by its serial number in hexadecimal digits: `Valid` or `Revoked`.
    pub fn status(&self, serial: &str) -> String {
        let text = succeed(&mut self.ask(&format!("cert-status-by-serial/{serial}")));
        let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        status["Status"].as_str().expect("a status").to_owned()
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
