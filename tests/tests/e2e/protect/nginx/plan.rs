//! The plan of `keyward protect nginx`, and its checks before the change.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use keyward_tests::tool::{children, fail, run, stderr, succeed, wait_for};
use keyward_tests::{free_port, has_root};

use super::super::Scene as _;
use super::Scene;

/// A plan says that it does not compare every one of many sites.
#[test]
fn a_plan_says_how_many_of_many_sites_are_compared() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let site = |number: usize| {
        format!(
            "server {{ listen {} ssl; server_name {number:03}.example; ssl_certificate ssl/wild.crt; ssl_certificate_key ssl/wild.key; }}\n",
            scene.addresses[0]
        )
    };
    fs::write(scene.path("sites/many"), (0..600).map(site).collect::<String>()).unwrap();
    succeed(&mut scene.nginx(&["-s", "reload"]));
    let plan = succeed(&mut scene.protect(&["--dry-run"]));
    let words = "2000 handshakes show the same certificates as before, at 500 of 603 listeners, with one for each key; the others are not compared\n";
    let said = plan.lines().find(|line| line.contains("handshakes show")).unwrap_or_default();
    assert!(plan.contains(words), "{said}");
}

/// One site of several that share a key keeps what the others need. A snippet that another nginx
/// reads is left alone.
#[test]
fn a_shared_snippet_gets_the_uses_of_all_its_sites() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let [first, second] = scene.addresses;
    fs::write(scene.path("snippet"), "ssl_certificate ssl/shop.crt; ssl_certificate_key ssl/shop.key;\n")
        .unwrap();
    for (name, address, protocols) in
        [("shop", first, "TLSv1.3"), ("wild", first, "TLSv1.3"), ("zmail", second, "TLSv1.2")]
    {
        let text = format!(
            "server {{ listen {address} ssl; server_name {name}.example; ssl_protocols {protocols}; include snippet; }}\n"
        );
        fs::remove_file(scene.path("sites").join(name)).unwrap();
        fs::write(scene.path("sites").join(name), text).unwrap();
    }
    scene.reload();
    let plan = succeed(&mut scene.protect(&["--dry-run", "--site", "shop.example"]));
    assert!(
        plan.contains("(p256, tls12-server, tls13-server)")
            || plan.contains("(p256, tls13-server, tls12-server)"),
        "{plan}"
    );
    assert_eq!(plan.matches("snippet, line 1").count(), 1, "{plan}");
    let text = fs::read_to_string(scene.path("nginx.conf")).unwrap();
    let site = format!("server {{ listen 127.0.0.1:{} ssl; include snippet; }}", free_port());
    let conf = scene.path("other.conf");
    fs::write(&conf, text.replace("include sites/*;", &site).replace("nginx.pid", "other.pid")).unwrap();
    let mut other = Command::new("/usr/sbin/nginx");
    other.arg("-p").arg(&scene.home).arg("-c").arg(&conf).arg("-e").arg(scene.path("error.log"));
    succeed(other.env_remove("OPENSSL_CONF"));
    let pid = wait_for("the other nginx", || {
        let pid = fs::read_to_string(scene.path("other.pid")).ok()?.trim().to_owned();
        let children = pid.parse().ok().map(children)?;
        (!children.is_empty()).then_some(pid)
    });
    let before = scene.contents();
    let (_, words) = fail(&mut scene.protect(&[]));
    let snippet = scene.path("snippet");
    let expected =
        format!("nginx (process {pid}) uses {} too, and could not use a reference", snippet.display());
    assert!(words.contains(&expected), "{words}");
    assert!(scene.contents() == before);
}

/// A key that the daemon has, and that does not sign: no handshake may be lost to find out. The
/// same is true for a provider that is not installed.
#[test]
fn a_plan_refuses_what_could_not_work() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let before = scene.files();
    let mut import = scene.daemon.keyward(&["key", "import", "own"]);
    succeed(import.arg("--in").arg(scene.path("ssl/wild.key")));
    succeed(&mut scene.daemon.keyward(&["key", "disable", "own"]));
    for words in [&["--dry-run"][..], &[]] {
        let (_, said) = fail(&mut scene.protect(words));
        assert!(
            said.contains("ssl/wild.key is key own of the daemon, which is disabled")
                && said.contains("keyward key enable own, and run this command again"),
            "{said}"
        );
    }
    succeed(&mut scene.daemon.keyward(&["key", "enable", "own"]));
    let conf = scene.path("broken.cnf");
    let text = fs::read_to_string(scene.daemon.openssl_conf()).unwrap();
    fs::write(&conf, text.replace("keyward.so", "missing.so")).unwrap();
    let (_, said) = fail(&mut scene.protect_by(&scene.daemon.path("keyward.toml"), &conf, &["--dry-run"]));
    assert!(
        said.contains("nginx could not load the provider, which the package keyward-openssl has"),
        "{said}"
    );
    fs::remove_file(conf).unwrap();
    fs::remove_dir_all(scene.daemon.path("protected")).ok();
    assert_eq!(scene.files(), before);
    // A file that nginx has not read yet takes effect with the change.
    let plan = succeed(&mut scene.protect(&["--dry-run"]));
    assert!(!plan.contains("files were changed since"), "{plan}");
    let site = scene.path("sites/wild");
    let text = fs::read_to_string(&site).unwrap();
    fs::write(&site, text + "# An edit.\n").unwrap();
    let plan = succeed(&mut scene.protect(&["--dry-run"]));
    let expected = format!(
        "files were changed since nginx has read them, and take effect with this change: {}\n",
        site.display()
    );
    assert!(plan.contains(&expected), "{plan}");
}

/// Listeners of a Unix socket, and behind a proxy that names its clients, are compared. A change
/// that nobody compares needs a yes.
#[test]
fn listeners_behind_a_proxy_are_compared_and_hidden_ones_are_asked_about() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let socket = scene.path("wild.sock");
    let pair = "ssl_certificate ssl/wild.crt; ssl_certificate_key ssl/wild.key;";
    for name in ["shop", "zmail"] {
        fs::remove_file(scene.path("sites").join(name)).unwrap();
    }
    let site = format!(
        "server {{ listen {address} ssl proxy_protocol; listen unix:{} ssl; server_name www.wild.example; {pair} }}\n",
        socket.display()
    );
    fs::write(scene.path("sites/wild"), &site).unwrap();
    scene.reload();
    let done = run(&mut scene.protect(&[]));
    let words = stderr(&done);
    assert!(done.status.success(), "{words}");
    // TLS 1.2 and 1.3 at each of the two.
    assert!(words.contains("ok  4 handshakes show the same certificates as before"), "{words}");
    assert!(!words.contains("no handshake shows"), "{words}");
    succeed(&mut scene.protect(&["--undo"]));
    // A name that is a pattern, behind a server that refuses all others.
    let hidden = format!(
        "server {{ listen {address} ssl default_server; ssl_reject_handshake on; }}\n\
         server {{ listen {address} ssl; server_name ~^w+; {pair} }}\n"
    );
    fs::write(scene.path("sites/wild"), &hidden).unwrap();
    fs::remove_file(&socket).ok();
    scene.reload();
    let hidden = scene.contents();
    let (_, words) = fail(scene.protect(&[]).stdin(Stdio::null()));
    assert!(
        words.contains("no handshake shows a certificate of the key in ")
            && words.contains("nothing was changed: no handshake can be compared; --unchecked goes on"),
        "{words}"
    );
    assert_eq!(scene.contents(), hidden);
    let done = run(&mut scene.protect(&["--unchecked"]));
    let words = stderr(&done);
    assert!(done.status.success() && words.contains("ok  no handshake can be compared"), "{words}");
    succeed(&mut scene.protect(&["--undo"]));
    assert_eq!(scene.contents(), hidden);
}

/// A renewal with the same key gives the key another certificate. One with a new key is named, with
/// the way out.
#[test]
fn certificates_that_were_renewed_on_the_disk_are_attached() {
    if !has_root() {
        return;
    }
    let scene = Scene::start();
    let ssl = scene.path("ssl");
    let attached = |label: &str| {
        let key = succeed(&mut scene.daemon.keyward(&["key", "show", label, "--json"]));
        let key: serde_json::Value = serde_json::from_str(&key).unwrap();
        key["versions"][0]["certificate"]["fingerprint"].as_str().map(str::to_owned)
    };
    let renew = |key: &str, certificate: &str| {
        let public = ["pkey", "-in", key, "-pubout", "-out", "public"];
        succeed(Command::new("openssl").args(public).current_dir(&ssl));
        let extensions = "subjectAltName=DNS:*.wild.example\n";
        let renewed = scene.pki.certify_with_extensions(&ssl.join("public"), extensions, 2);
        fs::rename(renewed, ssl.join(certificate)).unwrap();
    };
    // The daemon has one of the keys before, without a certificate.
    let mut import = scene.daemon.keyward(&["key", "import", "own"]);
    succeed(import.arg("--in").arg(ssl.join("wild.key")));
    assert_eq!(attached("own"), None);
    succeed(&mut scene.protect(&[]));
    let first = attached("own").expect("the certificate of the site");
    let again = run(&mut scene.protect(&[]));
    assert!(!stderr(&again).contains("has the certificate of"), "{}", stderr(&again));
    renew("wild.key", "wild.crt");
    scene.reload();
    let dry = run(&mut scene.protect(&["--dry-run"]));
    assert!(dry.status.success() && attached("own").as_ref() == Some(&first));
    let again = run(&mut scene.protect(&[]));
    let words = stderr(&again);
    assert!(again.status.success() && words.contains("key own has the certificate of "), "{words}");
    assert_ne!(attached("own"), Some(first));
    // A renewal with a new key: nginx refuses the reference, and the command says what to do.
    let new = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "wild.key"];
    succeed(Command::new("openssl").args(new).current_dir(&ssl));
    renew("wild.key", "wild.crt");
    let (_, words) = fail(&mut scene.protect(&[]));
    let (key, reference) = (ssl.join("wild.key"), ssl.join("wild.key.keyward.pem"));
    let way_out = format!(
        "keyward key import own --new-version --in {} && keyward key reference own > {}",
        key.display(),
        reference.display()
    );
    assert!(words.contains(&way_out), "{words}");
    let mut import = scene.daemon.keyward(&["key", "import", "own", "--new-version"]);
    succeed(import.arg("--in").arg(&key));
    fs::write(&reference, succeed(&mut scene.daemon.keyward(&["key", "reference", "own"]))).unwrap();
    scene.reload();
    let handshake = &scene.handshakes()[1];
    wait_for("the new certificate", || handshake.make().ok().map(drop));
    let again = run(&mut scene.protect(&[]));
    assert!(stderr(&again).contains("key own has the certificate of "), "{}", stderr(&again));
}
