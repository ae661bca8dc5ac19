//! The status page in a real browser. Its pictures are in `target/status-page` after the test.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyward_client::{Address, Client, Input, Label};
use keyward_proto::Scheme;
use keyward_tests::browser::{Browser, forward};
use keyward_tests::tool::succeed;
use keyward_tests::{Daemon, Pki, target};
use serde_json::Value;

/// Message that a server signs in TLS 1.3.
fn certificate_verify() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &[7; 32]].concat()
}

fn client(daemon: &Daemon) -> Client {
    Client::new(Address::try_from(daemon.socket().as_path()).unwrap(), Duration::from_secs(10))
}

fn picture(state: &str, width: u32, is_dark: bool) -> PathBuf {
    let scheme = if is_dark { "dark" } else { "light" };
    target().join(format!("status-page/{state}-{width}-{scheme}.png"))
}

/// Opens the page in each width and scheme, and looks for faults that a person would see.
fn look_at(browser: &mut Browser, state: &str, port: u16) {
    for width in [400, 1400] {
        for is_dark in [false, true] {
            browser.show_as(width, is_dark);
            let (status, complaints) = browser.open(&format!("http://localhost:{port}/"));
            assert_eq!((status, complaints), (200, Vec::new()), "{state}");
            let widths = browser.evaluate("[document.documentElement.scrollWidth, window.innerWidth]");
            assert_eq!(widths, serde_json::json!([width, width]), "{state}: nothing is beside the window");
            // The style is in force: the policy admits it.
            let ground = browser.evaluate("getComputedStyle(document.body).backgroundColor");
            let expected = if is_dark { "rgb(20, 23, 26)" } else { "rgb(250, 249, 246)" };
            assert_eq!(ground, expected);
            assert_eq!(browser.evaluate("document.scripts.length + document.images.length"), 0);
            let height = if width == 400 { 5000 } else { 3600 };
            browser.screenshot(&picture(state, width, is_dark), height);
        }
    }
}

/// A key with a certificate of this name, which is valid for this many days.
fn certify(daemon: &Daemon, pki: &Pki, label: &str, name: &str, days: i32) {
    daemon.generate(label, "p256");
    let reference = daemon.reference(label);
    let certificate = pki.certify_as(daemon, &reference, name, days);
    let words = ["cert", "attach", label, "--in", certificate.to_str().unwrap()];
    succeed(&mut daemon.keyward(&words));
}

#[test]
fn a_new_daemon_says_what_to_do() {
    let daemon = Daemon::start();
    let port = forward(&daemon.path("run/admin.sock"));
    let mut browser = Browser::start(daemon.directory());
    look_at(&mut browser, "empty", port);
    let text = browser.evaluate("document.body.innerText");
    let text = text.as_str().unwrap();
    for words in ["There is no key yet.", "Development mode", "keyward cert plan NAME"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // A page at another name that points here, as in DNS rebinding.
    let (status, _) = browser.open(&format!("http://keys.localhost:{port}/"));
    assert_eq!(status, 421);
    assert!(browser.evaluate("document.body.innerText").as_str().unwrap().contains("keys.localhost"));
    // A page of this machine at another port or name is another site.
    browser.open(&format!("http://localhost:{port}/live"));
    for (method, path) in
        [("GET", "/v1/keys"), ("GET", "/"), ("POST", "/v1/reload"), ("POST", "/v1/unit/seal")]
    {
        assert_eq!(
            browser.request(method, &format!("http://127.0.0.1:{port}{path}")),
            403,
            "{method} {path}"
        );
    }
    assert_eq!(browser.request("GET", &format!("http://localhost:{port}/v1/keys")), 200, "the same site");
    assert_eq!(
        browser.request("POST", &format!("http://localhost:{port}/v1/reload")),
        403,
        "no page does this"
    );
    assert_eq!(daemon.logged(&["configuration reloaded"]), 0);
}

#[test]
fn a_daemon_that_cannot_sign_says_so_first() {
    let mut daemon = Daemon::prepare_for_owners("");
    daemon.resume();
    let port = forward(&daemon.path("run/admin.sock"));
    let mut browser = Browser::start(daemon.directory());
    look_at(&mut browser, "without-master-key", port);
    let text = browser.evaluate("document.querySelector('main').innerText");
    let text = text.as_str().unwrap();
    let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words}: {text}"));
    let order = ["To do", "has no master key yet", "✗ not possible", "✗ cannot sign", "✗ none"];
    assert!(order.map(place).is_sorted(), "{text}");
}

#[test]
fn ten_thousand_keys_fit_on_a_page_that_the_keyboard_can_use() {
    let daemon = Daemon::start_with(
        "[[certificate]]\nname = \"wiki\"\nkey = \"wiki\"\nnames = [\"wiki.example\"]\nissue = [\"/bin/false\"]\n\
         [[certificate]]\nname = \"new-site\"\nnames = [\"new.example\", \"www.new.example\"]\nissue = [\"/bin/false\"]\n",
    );
    let pki = Pki::new(daemon.directory());
    for (label, name, days) in [
        ("shop", "shop.example", 1),
        ("mail", "mail.example", 90),
        ("wiki", "wiki.example", 365),
        ("old", "old.example", -1),
        ("markup", "<img src=x onerror=alert(1)>.example", 30),
    ] {
        certify(&daemon, &pki, label, name, days);
    }
    let more = many_keys(&daemon);
    daemon.generate("off", "p384");
    succeed(&mut daemon.keyward(&["key", "disable", "off"]));
    let sign = |label: &str, message: &[u8]| {
        client(&daemon).sign(
            &label.parse::<Label>().unwrap(),
            Scheme::EcdsaSecp256r1Sha256,
            Input::Message(message),
        )
    };
    for label in ["shop", "mail", "site-00042.example"] {
        sign(label, &certificate_verify()).unwrap();
    }
    for (label, message) in [
        ("shop", &b"no handshake"[..]),
        ("off", &certificate_verify()),
        ("off", &certificate_verify()),
        ("no-such-key", &certificate_verify()),
    ] {
        assert!(sign(label, message).is_err(), "{label}");
    }

    // The page does not hold signatures up.
    let is_over = AtomicBool::new(false);
    let (slowest, signatures) = thread::scope(|scope| {
        let signer = scope.spawn(|| {
            let (mut slowest, mut signatures) = (Duration::ZERO, 0);
            while !is_over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                sign("shop", &certificate_verify()).unwrap();
                (slowest, signatures) = (slowest.max(begin.elapsed()), signatures + 1);
            }
            (slowest, signatures)
        });
        for _ in 0..20 {
            let (status, page) = daemon.get("/");
            assert!(status == 200 && page.len() < 1 << 20, "{status}, {} bytes", page.len());
        }
        is_over.store(true, Ordering::Relaxed);
        signer.join().unwrap()
    });
    println!("{signatures} signatures while 20 pages were made, the slowest took {slowest:?}");
    assert!(signatures > 20 && slowest < Duration::from_secs(1), "{signatures}, {slowest:?}");

    let port = forward(&daemon.path("run/admin.sock"));
    let mut browser = Browser::start(daemon.directory());
    look_at(&mut browser, "many", port);
    let text = browser.evaluate("document.body.innerText");
    let text = text.as_str().unwrap();
    let rest = format!("and {} more: keyward key list", grouped(more + 6 - 25));
    for words in ["✗ no certificate yet", "✗ expired", "use-refused", "unknown-key", &rest] {
        assert!(text.contains(words), "{words}: {text}");
    }
    use_keyboard(&mut browser, port);
}

/// Reaches the content and the tables without a mouse.
fn use_keyboard(browser: &mut Browser, port: u16) {
    browser.show_as(400, false);
    browser.open(&format!("http://localhost:{port}/"));
    browser.press("Tab");
    let skip = browser.evaluate(
        "[document.activeElement.className, document.activeElement.getBoundingClientRect().left >= 0]",
    );
    assert_eq!(skip, serde_json::json!(["skip", true]), "the first stop is the link, and can be seen");
    browser.press("Enter");
    assert_eq!(browser.evaluate("location.hash"), "#main");
    // The tiles, then the first table.
    let is_table = "document.activeElement.getAttribute('role') == 'region'";
    let stops = (0..10).take_while(|_| {
        browser.press("Tab");
        browser.evaluate(is_table) != Value::Bool(true)
    });
    assert_eq!(stops.count(), 5, "one stop for each tile");
    assert_eq!(browser.evaluate("document.activeElement.getAttribute('aria-labelledby')"), "certificates");
    assert_eq!(browser.evaluate("getComputedStyle(document.activeElement).outlineStyle"), "solid");
    assert_eq!(browser.evaluate("document.activeElement.scrollLeft"), 0);
    browser.press("ArrowRight");
    keyward_tests::tool::wait_for("the table to scroll", || {
        (browser.evaluate("document.activeElement.scrollLeft").as_f64()? > 0.0).then_some(())
    });
    // Titles go down one level at a time, and each table has titles of columns and rows.
    let titles = browser.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(one => one.tagName)");
    let titles: Vec<_> = titles.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert!(titles[0] == "H1" && titles[1..].iter().all(|one| *one == "H2"), "{titles:?}");
    let without = "[...document.querySelectorAll('table')].filter(one => !one.querySelector('th[scope=col]') || !one.querySelector('th[scope=row]')).length";
    assert_eq!(browser.evaluate(without), 0);
    assert_eq!(browser.evaluate("document.querySelectorAll('th:not([scope])').length"), 0);
}

/// Makes keys until there are some 10,000, by several connections. A user may carry out 10,000 acts
/// at once.
fn many_keys(daemon: &Daemon) -> u64 {
    const EACH: u64 = 1240;
    let worker = |number: u64| {
        let config: String = (number * EACH..(number + 1) * EACH)
            .map(|key| {
                format!(
                    "next\nsilent\nfail\nunix-socket = {:?}\nurl = \"http://localhost/v1/keys\"\ndata = \"{{\\\"label\\\": \\\"site-{key:05}.example\\\", \\\"type\\\": \\\"p256\\\", \\\"uses\\\": [\\\"tls-server\\\"]}}\"\noutput = \"/dev/null\"\n",
                    daemon.path("run/admin.sock")
                )
            })
            .collect();
        let file = daemon.path(&format!("keys-{number}.curl"));
        fs::write(&file, config).unwrap();
        succeed(std::process::Command::new("curl").arg("--config").arg(&file));
    };
    thread::scope(|scope| (0..8).for_each(|number| drop(scope.spawn(move || worker(number)))));
    8 * EACH
}

/// A number as the page shows it.
fn grouped(number: u64) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}
