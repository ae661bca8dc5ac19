//! Knot, a server of the DNS, with a zone that a key may update (RFC 2136).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::free_port;
use crate::tool::{Process, run, wait_for};

/// A server of the zone `shop.example`.
#[derive(Debug)]
pub struct Knot {
    _process: Process,
    port: u16,
    key: PathBuf,
}

impl Knot {
    /// Starts knot in a directory, and waits until it answers.
    pub fn start(home: &Path) -> Self {
        fs::create_dir_all(home).expect("a directory");
        let (port, key) = (free_port(), home.join("tsig.key"));
        // Base64 of any 32 bytes.
        let secret = "a2V5d2FyZCB0ZXN0cyB1cGRhdGUgb2YgYSB6b25lISE=";
        fs::write(&key, format!("key \"acme\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n"))
            .expect("the key");
        let zone = "$TTL 60\n@ SOA ns.shop.example. admin.shop.example. 1 60 60 600 60\n@ NS ns\nns A 127.0.0.1\n@ A 127.0.0.1\nwww A 127.0.0.1\n";
        fs::write(home.join("shop.example.zone"), zone).expect("the zone");
        let conf = format!(
            "server:\n    rundir: \"{0}\"\n    listen: 127.0.0.1@{port}\ndatabase:\n    storage: \"{0}\"\nlog:\n  - target: stdout\n    any: info\n\
             key:\n  - id: acme\n    algorithm: hmac-sha256\n    secret: {secret}\n\
             acl:\n  - id: update\n    key: acme\n    action: update\n    update-type: TXT\n\
             zone:\n  - domain: shop.example\n    storage: \"{0}\"\n    file: shop.example.zone\n    acl: update\n",
            home.display()
        );
        fs::write(home.join("knot.conf"), conf).expect("knot.conf");
        let mut command = Command::new("/usr/sbin/knotd");
        command.arg("-c").arg(home.join("knot.conf"));
        let process = Process::start(&mut command, &home.join("knot.log"));
        let mut ask = Command::new("dig");
        ask.args([
            "+short",
            "+time=1",
            "+tries=1",
            "@127.0.0.1",
            "-p",
            &port.to_string(),
            "ns.shop.example",
            "A",
        ]);
        wait_for("knot", || run(&mut ask).stdout.starts_with(b"127.0.0.1").then_some(()));
        Self { _process: process, port, key }
    }

    /// Port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// File with the key that may update TXT records of the zone, for nsupdate.
    pub fn key(&self) -> &Path {
        &self.key
    }
}
