//! The examples of keyward-rustls, as its README shows them.

#![allow(clippy::unwrap_used, reason = "bodies of tests")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use keyward_tests::client::{WISHES, curl_command};
use keyward_tests::tool::{Process, succeed, wait_for};
use keyward_tests::{Daemon, Pki, built, free_port};

/// A daemon whose keys have certificates.
fn scene(labels: &[(&str, &str)]) -> (Daemon, Pki) {
    let daemon = Daemon::start();
    daemon.configure_more("[[grant]]\nuser = \"root\"\nkeys = [\"*\"]\nuses = [\"tls-client\"]\n");
    daemon.reload();
    let pki = Pki::new(daemon.directory());
    for (label, usage) in labels {
        daemon.generate_for(label, "p256", usage);
        let chain = pki.certify(&daemon, &daemon.reference(label));
        succeed(&mut daemon.keyward(&["cert", "attach", label, "--in", chain.to_str().unwrap()]));
    }
    (daemon, pki)
}

fn example(daemon: &Daemon, name: &str) -> Command {
    let mut command = Command::new(built(&format!("examples/{name}")));
    command.env("KEYWARD_SOCKET", daemon.socket());
    command
}

#[test]
fn https() {
    let (daemon, pki) = scene(&[("shop", "tls-server")]);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut https = example(&daemon, "https");
    let _server = Process::start(https.args(["shop", &address.to_string()]), &daemon.path("https.log"));
    let page = wait_for("a page", || {
        let output = curl_command(&pki, address, WISHES[3]).output().unwrap();
        output.status.success().then_some(output.stdout)
    });
    assert_eq!(page, b"served\n");
}

#[test]
fn mutual_tls() {
    let (daemon, pki) = scene(&[("shop", "tls-server"), ("robot", "tls-client")]);
    let text = succeed(example(&daemon, "mutual_tls").args(["shop", "robot"]).arg(pki.ca()));
    assert_eq!(text, "hello, client\n");
    let signed = |purpose| daemon.logged(&["outcome=done", purpose]);
    assert_eq!((signed("purpose=tls13-server"), signed("purpose=tls13-client")), (1, 1));
}

#[test]
fn the_readme_shows_them_as_they_are() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../provider/rustls");
    let readme = fs::read_to_string(home.join("README.md")).unwrap();
    for name in ["https", "mutual_tls"] {
        let program = fs::read_to_string(home.join("examples").join(name).with_extension("rs")).unwrap();
        let (_, body) = program.split_once('\n').unwrap();
        assert!(readme.contains(body), "the README has another {name}.rs");
    }
}
