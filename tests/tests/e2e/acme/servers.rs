//! Certificates at servers: nobody loses a handshake.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use keyward_tests::server::RustlsThread;
use keyward_tests::tool::fail;
use keyward_tests::{Apache, Haproxy, Pki};

use super::*;

/// Servers with four renewals, two of them with a new key, under load. Meanwhile, another server
/// has certificates of a minute, and no moment without a valid one.
#[test]
fn servers_renew_without_losing_a_handshake_while_another_has_certificates_of_a_minute() {
    // Half of the nonces are refused.
    let settings = Settings { refused_nonces: 50, validity: 60, ..Settings::default() };
    let (mut scene, nginx) = Scene::with_nginx(settings);
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["is_served"] == true);
    await_new_workers(&nginx);
    let handshake = scene.handshake();
    let is_over = Arc::new(AtomicBool::new(false));
    let (begin, ends) = (Instant::now(), Arc::clone(&is_over));
    let least = Duration::from_secs(if is_long() { 600 } else { 120 });
    let watcher = thread::spawn(move || {
        let mut seen = BTreeSet::new();
        while begin.elapsed() < least || !ends.load(Ordering::Relaxed) {
            // The client checks the dates.
            handshake.make().unwrap_or_else(|error| panic!("after {:?}: {error}", begin.elapsed()));
            seen.insert(handshake.certificate().unwrap().to_vec());
            thread::sleep(Duration::from_millis(100));
        }
        seen.len()
    });
    nginx_gets_its_first_certificate_and_four_renewals();
    haproxy_takes_new_keys_over_its_socket_and_by_a_reload();
    apache_reloads();
    rustls_takes_what_a_program_has_issued();
    is_over.store(true, Ordering::Relaxed);
    let seen = watcher.join().expect("no gap");
    // Each is renewed at half of its life, and spread by a hundredth of it.
    assert!(seen >= usize::try_from(least.as_secs()).unwrap() / 35, "{seen} certificates in {least:?}");
}

/// A worker of before may still take a connection, and shows the placeholder.
fn await_new_workers(nginx: &Nginx) {
    wait_for("the workers of before to end", || (nginx.workers().len() == 2).then_some(()));
}

fn nginx_gets_its_first_certificate_and_four_renewals() {
    let (mut scene, nginx) = Scene::with_nginx(Settings { refused_nonces: 20, ..Settings::default() });
    assert_eq!(scene.plan()["state"], "none");
    scene.start_agent();
    let first = scene.wait("the first certificate", |plan| plan["is_served"] == true);
    assert_eq!((&first["certificate"]["version"], &first["state"]), (&json!(1), &json!("valid")));
    await_new_workers(&nginx);
    let load = Load::start(&scene.handshake(), 1);
    for _ in 0..2 {
        assert_eq!(scene.renew()["certificate"]["version"], 1);
    }
    scene.change_plan("new-key = true\n");
    for version in [2, 3] {
        assert_eq!(scene.renew()["certificate"]["version"], version);
        let key = succeed(&mut scene.daemon.keyward(&["key", "show", "shop", "--json"]));
        let key: Value = serde_json::from_str(&key).unwrap();
        assert_eq!(key["current"], version, "the version is current when it is served");
    }
    assert_none_failed(load);
    let names: BTreeSet<_> =
        fs::read_dir(scene.live()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "the link, and two generations: {names:?}");
    let told = succeed(&mut scene.daemon.keyward(&["cert", "status", "shop"]));
    assert!(told.contains("accounturi=https://localhost:") && told.contains("served      yes"), "{told}");
    assert!(succeed(&mut scene.daemon.keyward(&["cert", "check"])).contains("none about to expire"));
    let (status, _) = fail(&mut scene.daemon.keyward(&["cert", "check", "--within", "100%"]));
    assert_eq!(status.code(), Some(2));

    // The metrics have names of their own.
    let until = scene.plan()["certificate"]["not_after"].as_u64().unwrap() as f64;
    let listener = format!("listener=\"{}\"", scene.site.address);
    for (name, labels) in [
        ("certificate_not_after_timestamp_seconds", vec!["key=\"shop\"", "version=\"3\""]),
        ("certificate_served_not_after_timestamp_seconds", vec!["plan=\"shop\"", &listener]),
    ] {
        assert_eq!(scene.daemon.metric(&format!("keyward_{name}"), &labels), until, "{name}");
    }
    let success = scene.daemon.metric("keyward_acme_last_success_timestamp_seconds", &["ca=\"pebble\""]);
    assert!(success > now() as f64 - 60.0, "{success}");

    // A server that refuses its configuration keeps the old files.
    let conf = scene.daemon.path(&format!("nginx-{}/nginx.conf", scene.site.address.port()));
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nnonsense;\n")).unwrap();
    let before = fs::read_link(scene.live().join("shop")).unwrap();
    scene.ask();
    let refused = scene.wait("the refusal", |plan| plan["deployed"]["problem"].is_string());
    let problem = refused["deployed"]["problem"].as_str().unwrap();
    assert!(problem.contains("the old ones are in use again") && problem.contains("nonsense"), "{problem}");
    assert_eq!(fs::read_link(scene.live().join("shop")).unwrap(), before);
    scene.handshake().make().unwrap();
    fail(&mut scene.daemon.keyward(&["cert", "check"]));
}

fn haproxy_takes_new_keys_over_its_socket_and_by_a_reload() {
    let (mut scene, told) = Scene::planned(Settings::default(), &["--for", "haproxy", "--new-key"]);
    scene.site.certificate = scene.live().join("shop/combined.pem");
    scene.start_deployer();
    let answer = line_of(&told, "http-request ");
    let challenges = format!("frontend challenges\nbind 127.0.0.1:{}\n{answer}\n", scene.pebble.challenges());
    let socket = format!("stats socket {} level admin\n", scene.daemon.path("haproxy.sock").display());
    let haproxy = Haproxy::start_deployed(&scene.daemon, &scene.site, &socket, &challenges);
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["is_served"] == true);
    let load = Load::start(&scene.handshake(), 1);
    for version in [2, 3] {
        assert_eq!(scene.renew()["certificate"]["version"], version);
    }
    assert_none_failed(load);
    let workers = haproxy.workers();
    // Without a socket, the master starts a new worker.
    drop(haproxy);
    let haproxy = Haproxy::start_deployed(&scene.daemon, &scene.site, "", &challenges);
    let before = haproxy.workers();
    assert_ne!(before, workers);
    let load = Load::start(&scene.handshake(), 1);
    for version in [4, 5] {
        assert_eq!(scene.renew()["certificate"]["version"], version);
    }
    assert_none_failed(load);
    assert_ne!(haproxy.workers(), before, "it has new workers");
}

fn apache_reloads() {
    let (mut scene, told) = Scene::planned(Settings::default(), &["--for", "apache"]);
    scene.start_deployer();
    let block = told.split("needs the module rewrite:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let challenges = format!(
        "LoadModule rewrite_module /usr/lib/apache2/modules/mod_rewrite.so\nListen 127.0.0.1:{0}\n<VirtualHost *:{0}>\n{block}\n</VirtualHost>\n",
        scene.pebble.challenges()
    );
    let _apache = Apache::start_with(&scene.daemon, std::slice::from_ref(&scene.site), "event", &challenges);
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["is_served"] == true);
    let load = Load::start(&scene.handshake().asking_for("www.shop.example"), 1);
    for _ in 0..2 {
        scene.renew();
    }
    scene.change_plan("new-key = true\n");
    for version in [2, 3] {
        assert_eq!(scene.renew()["certificate"]["version"], version);
    }
    assert_none_failed(load);
}

/// A private authority: a program that signs with openssl. A server on rustls takes new
/// certificates from the daemon.
fn rustls_takes_what_a_program_has_issued() {
    let mut scene = Scene::start(Settings::default(), |daemon, _| {
        let issuer = daemon.path("issue");
        let home = daemon.path("ca");
        fs::create_dir(&home).unwrap();
        let pki = Pki::new(&home);
        let script = format!(
            "cat >{0}/csr; openssl x509 -req -in {0}/csr -CA {1} -CAkey {2} -days 5 -copy_extensions copy 2>{0}/log",
            home.display(),
            pki.ca().display(),
            home.join("ca.key").display()
        );
        program(&issuer, &script);
        let told = daemon.path("told");
        format!("new-key = true\nissue = [{issuer:?}]\nnotify = [\"/usr/bin/tee\", \"-a\", {told:?}]\n")
    });
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["state"] == "valid");
    let resolver = scene.daemon.for_rustls().follow("shop").unwrap();
    let server = RustlsThread::start(resolver as _);
    let pki = Pki::elsewhere(scene.daemon.path("ca"));
    let handshake = Handshake::new(&pki, server.address()).asking_for("shop.example");
    wait_for("a handshake", || handshake.make().ok());
    let load = Load::start(&handshake, 1);
    let renew = |version: u32| {
        let (before, old) = (handshake.certificate().unwrap(), scene.plan());
        scene.ask();
        assert_eq!(scene.renewed(&old)["certificate"]["version"], version);
        let begin = Instant::now();
        wait_for("the new certificate", || (handshake.certificate().unwrap() != before).then_some(()));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    };
    [2, 3].into_iter().for_each(renew);
    // The key is kept from now on.
    let text = fs::read_to_string(scene.daemon.path("keyward.toml")).unwrap();
    fs::write(scene.daemon.path("keyward.toml"), text.replace("new-key = true", "new-key = false")).unwrap();
    scene.daemon.reload();
    [3, 3].into_iter().for_each(renew);
    assert_none_failed(load);
    // A program that fails is repeated later, and the reason is said.
    program(&scene.daemon.path("issue"), "echo 'the signer is on holiday' >&2; exit 3");
    scene.ask();
    scene.failing("the signer is on holiday");
    let failures = scene.daemon.metric("keyward_acme_failures_total", &["error=\"program\""]);
    assert_eq!(failures, 1.0);
    wait_for("the notification", || {
        let told = fs::read_to_string(scene.daemon.path("told")).unwrap_or_default();
        (told.contains("\"state\":\"failing\"") && told.contains("on holiday")).then_some(())
    });
}
