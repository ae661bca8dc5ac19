//! Names that the DNS validates, and certificates that others renew.

use keyward_tests::{Knot, Pki};

use super::*;

/// dns-01 by an update of the zone, as RFC 2136 has it, also for a wildcard.
#[test]
fn an_update_of_the_zone_validates_the_names() {
    let daemon = Daemon::prepare("");
    let knot = Knot::start(&daemon.path("knot"));
    let mut scene = Scene::prepare(daemon, Settings { dns: Some(knot.port()), ..Settings::default() });
    scene.daemon.configure_more(&format!("{}{}", role(), scene.pebble.section()));
    scene.daemon.resume();
    let [server, key] = [format!("127.0.0.1:{}", knot.port()), knot.key().display().to_string()];
    let mut plan = scene.daemon.keyward(&["cert", "plan", "shop", "--ca", "pebble"]);
    plan.args(["--names", "shop.example", "*.shop.example", "--dns-server", &server, "--dns-key", &key]);
    succeed(plan.arg("--config").arg(scene.daemon.path("keyward.toml")));
    scene.start_agent();
    scene.renewed(&json!({}));
}

/// http-01 by files below a directory that a server shows. They are gone at the end.
#[test]
fn files_in_a_webroot_validate_the_names() {
    let mut scene = Scene::start(Settings::default(), |daemon, _| {
        let webroot = daemon.path("www");
        fs::create_dir(&webroot).unwrap();
        format!("ca = \"pebble\"\nwebroot = {webroot:?}\nhook = [\"/bin/true\"]\n")
    });
    scene.start_deployer();
    let root = scene.daemon.path("www");
    let challenges = scene.pebble.challenges();
    let directives =
        format!("listen 127.0.0.1:{challenges}; location /.well-known/ {{ root {}; }}", root.display());
    let _nginx = Nginx::start_with_directives(&scene.daemon, std::slice::from_ref(&scene.site), &directives);
    scene.start_agent();
    scene.renewed(&json!({}));
    let left = fs::read_dir(root.join(".well-known/acme-challenge")).unwrap().count();
    assert_eq!(left, 0);
    // A key that signs nothing is said long before the renewal.
    succeed(&mut scene.daemon.keyward(&["key", "disable", "shop"]));
    assert_eq!(scene.plan()["state"], "failing");
    let check = keyward_tests::tool::run(&mut scene.daemon.keyward(&["cert", "check"]));
    let told = String::from_utf8(check.stdout).unwrap();
    assert!(told.contains("plan shop: shop: the key is disabled"), "{told}");
    succeed(&mut scene.daemon.keyward(&["key", "enable", "shop"]));
    assert_eq!(scene.plan()["state"], "valid");
}

/// Certificates that somebody else renews, in a file and at a listener, are watched too.
#[test]
fn certificates_of_others_are_watched() {
    let directory = keyward_tests::scratch();
    let pki = Pki::new(directory.path());
    let (certificate, key) = pki.leaf("mail");
    let combined = directory.path().join("mail.pem");
    let text = [&key, &certificate].map(|path| fs::read_to_string(path).unwrap()).concat();
    fs::write(&combined, text).unwrap();
    let pipe = directory.path().join("pipe.pem");
    succeed(Command::new("mkfifo").arg(&pipe));
    let listener = keyward_tests::free_port();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{listener}"), "-cert"]);
    let _server = Process::start(
        server.arg(&certificate).arg("-key").arg(&key),
        &directory.path().join("s_server.log"),
    );
    wait_for("the server", || std::net::TcpStream::connect(("127.0.0.1", listener)).ok());
    let daemon = Daemon::start_with(&format!(
        "[[watch]]\nname = \"file\"\nfile = {combined:?}\n[[watch]]\nname = \"listener\"\nlistener = \"127.0.0.1:{listener}\"\n\
         server-name = \"localhost\"\n[[watch]]\nname = \"gone\"\nfile = \"/nonexistent.pem\"\n\
         [[watch]]\nname = \"pipe\"\nfile = {pipe:?}\n"
    ));
    let watched = || -> Vec<Value> {
        let text = succeed(&mut daemon.keyward(&["cert", "watched", "--json"]));
        serde_json::from_str(&text).unwrap()
    };
    let unseen = watched();
    assert!(
        unseen.iter().all(|one| one["problem"].as_str().unwrap().contains("has not looked")),
        "{unseen:?}"
    );
    let mut deployer = Command::new(built("keyward-deploy"));
    deployer.arg("--runtime-dir").arg(daemon.path("run")).arg("--config").arg(daemon.path("keyward.toml"));
    deployer.arg("--live").arg(daemon.path("live"));
    let _deployer = Process::start(&mut deployer, &daemon.path("deployer.log"));
    let seen = wait_for("a look", || Some(watched()).filter(|all| all[0]["validity"].is_array()));
    assert_eq!(seen[0]["validity"], seen[1]["validity"]);
    assert!(seen[0]["names"].as_array().unwrap().contains(&json!("localhost")), "{seen:?}");
    assert!(seen[2]["problem"].as_str().unwrap().contains("/nonexistent.pem: No such file"), "{seen:?}");
    assert!(seen[3]["problem"].as_str().unwrap().contains("it is not a regular file"), "{seen:?}");
    let until = seen[0]["validity"][1].as_u64().unwrap() as f64;
    let name = "keyward_watched_certificate_not_after_timestamp_seconds";
    assert_eq!(daemon.metric(name, &["watch=\"listener\""]), until);
    let told = succeed(&mut daemon.keyward(&["cert", "watched"]));
    assert!(told.contains("localhost") && told.contains("No such file"), "{told}");
    // Its end is near: the command for monitoring says it.
    let check = keyward_tests::tool::run(&mut daemon.keyward(&["cert", "check", "--within", "100%"]));
    let told = String::from_utf8(check.stdout).unwrap();
    assert!(
        told.contains("listener, which others renew: expires") && told.contains("gone, which others renew"),
        "{told}"
    );
    assert_eq!(check.status.code(), Some(2));
}

/// A program takes its time, and meanwhile the deployer looks at the server.
#[test]
fn a_program_that_takes_its_time_is_waited_for() {
    let mut scene = Scene::start(Settings::default(), |daemon, _| {
        let [issuer, home, begun, go] = ["issue", "ca", "begun", "go"].map(|name| daemon.path(name));
        fs::create_dir(&home).unwrap();
        let pki = Pki::new(&home);
        let script = format!(
            "cat >{0}/csr; touch {1}; until [ -e {2} ]; do sleep 0.02; done; openssl x509 -req -in {0}/csr -CA {3} -CAkey {0}/ca.key -days 5 -copy_extensions copy 2>{0}/log",
            home.display(),
            begun.display(),
            go.display(),
            pki.ca().display()
        );
        program(&issuer, &script);
        format!("issue = [{issuer:?}]\nhook = [\"/bin/true\"]\n")
    });
    let [begun, go] = ["begun", "go"].map(|name| scene.daemon.path(name));
    fs::write(&go, "").unwrap();
    scene.start_deployer();
    scene.start_agent();
    let first = scene.renewed(&json!({}));
    scene.wait("the deployment", |plan| {
        plan["deployed"]["certificate"] == first["certificate"]["fingerprint"]
    });
    fs::remove_file(&go).unwrap();
    fs::remove_file(&begun).unwrap();
    scene.ask();
    wait_for("the program", || begun.exists().then_some(()));
    // Another configuration has the deployer look at once. Times are in whole seconds.
    let looked = scene.plan()["looked_at"].as_u64().unwrap();
    wait_for("a look", || {
        scene.change_plan("# A comment.\n");
        (scene.plan()["looked_at"].as_u64().unwrap() > looked + 1).then_some(())
    });
    fs::write(&go, "").unwrap();
    scene.renewed(&first);
}
