//! The status page: who gets it, and what a browser is told about it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Outcome;
use sha2::{Digest, Sha256};

use crate::fixture::{Daemon, certificate_verify, has_root};
use crate::users::{ALICE, MALLORY, as_user};

/// An answer of the administrators' socket.
struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request with these headers.
fn ask(daemon: &Daemon, line: &str, headers: &[&str]) -> Answer {
    let mut stream = UnixStream::connect(daemon.path("run/admin.sock")).unwrap();
    let headers = headers.join("\r\n");
    let request = format!("{line} HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n{headers}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

const BROWSER: [&str; 2] = ["host: localhost:8463", "accept: text/html,application/xhtml+xml,*/*;q=0.8"];

#[test]
fn the_page_runs_and_sends_nothing() {
    let daemon = Daemon::dev("");
    let page = ask(&daemon, "GET /", &BROWSER);
    assert_eq!(page.status, 200, "{}", page.body);
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), Some(value), "{}", page.head);
    }
    assert_eq!(page.header("set-cookie"), None);
    let (_, rest) = page.body.split_once("<style>").unwrap();
    let (style, rest) = rest.split_once("</style>").unwrap();
    let hash = STANDARD.encode(Sha256::digest(style)).to_ascii_lowercase();
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(page.header("content-security-policy"), Some(policy.as_str()));
    assert!(!rest.contains("<style") && !rest.contains("<script") && !rest.contains("<form"));
    assert!(rest.contains("Development mode"), "{rest}");
    let head = ask(&daemon, "HEAD /", &BROWSER);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-security-policy"), Some(policy.as_str()));
}

#[test]
fn only_a_get_for_this_server_is_answered() {
    let daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        let answer = ask(&daemon, &format!("{method} /"), &BROWSER);
        assert_eq!(answer.status, 404, "{method}: {}", answer.body);
    }
    for host in ["shop.example", "shop.example:8463", "localhost.shop.example", "192.0.2.1:8463"] {
        for path in ["/", "/v1/keys", "/metrics", "/nothing"] {
            let answer = ask(&daemon, &format!("GET {path}"), &[&format!("host: {host}")]);
            assert!(answer.status == 421 && answer.body.contains("localhost"), "{host}: {}", answer.body);
        }
    }
    for host in ["localhost", "127.0.0.1:8463", "[::1]:8463"] {
        assert_eq!(ask(&daemon, "GET /", &[&format!("host: {host}")]).status, 200, "{host}");
    }
    // A form and a script of another site, behind a tunnel.
    for headers in [
        &["host: localhost:8463", "origin: https://shop.example"][..],
        &["host: localhost:8463", "sec-fetch-site: cross-site", "sec-fetch-mode: navigate"],
    ] {
        let answer = ask(&daemon, "POST /v1/keys/shop/compromise", headers);
        assert!(answer.status == 403 && answer.body.contains("web page"), "{}", answer.body);
    }
    let script = ["host: localhost:8463", "sec-fetch-site: cross-site", "sec-fetch-mode: no-cors"];
    assert_eq!(ask(&daemon, "GET /v1/keys", &script).status, 403);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done, "not compromised");
}

#[test]
fn a_user_without_a_role_learns_how_to_get_one() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    daemon.new_master_key();
    let role = format!("[[role]]\nrole = \"viewer\"\nuid = {ALICE}\n");
    daemon.configure(&(daemon.production_configuration(&[("*", "tls-server")]) + &role));
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    daemon.start(&[]);
    daemon.succeed(&["key", "generate", "secret-label", "--type", "p256"]);
    let viewer = as_user(ALICE, || ask(&daemon, "GET /", &BROWSER));
    assert!(viewer.status == 200 && viewer.body.contains("secret-label"), "{}", viewer.body);
    let other = as_user(MALLORY, || ask(&daemon, "GET /", &BROWSER));
    assert_eq!((other.status, other.header("content-type")), (403, Some("text/html; charset=utf-8")));
    assert!(other.header("content-security-policy").unwrap().contains("default-src 'none'"));
    for words in ["<!DOCTYPE html>", "user id 7001 has no role", "[[role]]", "uid = 7001", "keyward.toml"] {
        assert!(other.body.contains(words), "{words}: {}", other.body);
    }
    assert!(!other.body.contains("secret-label"));
    // A program gets the error that other routes have.
    let program = as_user(MALLORY, || ask(&daemon, "GET /", &["host: localhost", "accept: */*"]));
    assert!(program.status == 403 && program.body.starts_with(r#"{"error":"\"page\" needs the role"#));
}

#[test]
fn the_page_shows_uses_and_refusals() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::production(&[("*", "tls-server")]);
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    for label in ["shop", "off"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.succeed(&["key", "disable", "off"]);
    let page = || ask(&daemon, "GET /", &BROWSER).body;
    assert!(page().contains("has refused no request"));
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    for _ in 0..3 {
        assert_eq!(daemon.outcome("off", &certificate_verify()), Outcome::KeyDisabled);
    }
    assert_eq!(daemon.outcome("shop", b"no handshake"), Outcome::UseRefused);
    let refused = as_user(MALLORY, || daemon.outcome("shop", &certificate_verify()));
    assert_eq!(refused, Outcome::NoGrant);
    // The page is made once a second at most.
    let begin = Instant::now();
    let page = loop {
        let page = page();
        if page.contains("no-grant") && page.contains("root (0)") {
            break page;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{page}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let section = |id: &str| {
        let rest = page.split_once(&format!("<section aria-labelledby=\"{id}\">")).unwrap().1;
        rest.split_once("</section>").unwrap().0
    };
    let row = |id: &str, words: &str| {
        let row = section(id).split("<tr>").find(|row| row.contains(words));
        row.unwrap_or_else(|| panic!("{words} in {}", section(id)))
    };
    let shop = row("keys", "\">shop</th>");
    assert!(shop.contains("✓ yes") && shop.contains("root (0)") && shop.contains(">now<"), "{shop}");
    assert!(row("keys", "\">off</th>").contains("disabled"));
    assert!(row("refusals", "key-disabled").contains("<td class=\"number\">3</td>"));
    assert!(row("refusals", "use-refused").contains("key set-uses shop"));
    assert!(row("refusals", "no-grant").contains("user 7001"));
    assert!(section("units").contains("✓ that of the keys"), "{}", section("units"));
    assert!(section("version").contains(env!("CARGO_PKG_VERSION")) && !page.contains("Development mode"));
    assert!(page.contains("keyward backup --recovery FILE"), "the next step");
}
