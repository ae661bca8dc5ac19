//! Accounts at authorities, and what an owner chooses there: profiles, chains and revocation.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_tests::AcmeProxy;

use super::*;

fn with_dns(daemon: &Daemon, pebble: &Pebble) -> String {
    let hook = daemon.path("dns-hook");
    pebble.dns_hook(&hook);
    format!("ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-hook = [{hook:?}]\n")
}

/// The authority has lost the account. The next attempt makes another one.
#[test]
fn an_account_that_is_gone_is_made_again() {
    let mut scene = Scene::start(Settings::default(), with_dns);
    scene.start_agent();
    let before = scene.renewed(&json!({}));
    scene.pebble.restart();
    scene.ask();
    let after = scene.renewed(&before);
    assert_eq!(after["failures"], 0);
    // In the middle of an order, too: the order is gone with the account.
    let hook = fs::read_to_string(scene.daemon.path("dns-hook")).unwrap();
    fs::write(scene.daemon.path("dns-hook"), "#!/bin/sh\nexit 1\n").unwrap();
    scene.ask();
    scene.failing("dns-hook");
    scene.pebble.restart();
    fs::write(scene.daemon.path("dns-hook"), hook).unwrap();
    scene.ask();
    scene.renewed(&after);
}

/// The authority wants an account that the owner has already (RFC 8555, 7.3.4).
#[test]
fn an_account_is_bound_to_that_of_the_owner() {
    let binding = Some(("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"));
    let mut scene = Scene::prepare(Daemon::prepare(""), Settings { binding, ..Settings::default() });
    let key = scene.daemon.path("mac.key");
    let section = format!("{}binding-id = \"kid-1\"\nbinding-key = {key:?}\n", scene.pebble.section());
    scene.configure(&section, &with_dns(&scene.daemon, &scene.pebble));
    let write = |text: &str| {
        program(&key, "");
        fs::write(&key, text).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("not base64url!\n");
    scene.daemon.resume();
    // The doctor finds it before the authority does.
    let doctor = |scene: &Scene| {
        let output = keyward_tests::tool::run(&mut scene.daemon.keyward(&["doctor"]));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = doctor(&scene);
    assert!(
        told.contains("no account at pebble: the MAC key in") && told.contains("not in base64url"),
        "{told}"
    );
    write("AAAAZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n");
    scene.start_agent();
    scene.wait("a refusal of the authority", |plan| plan["state"] == "failing");
    write("zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n");
    scene.ask();
    scene.renewed(&json!({}));
    assert!(!doctor(&scene).contains("no account at pebble"));
}

/// Serial number of the certificate of a plan. The id in ARI ends with the number in base64url.
fn serial_of(plan: &Value) -> String {
    let id = plan["certificate"]["id"].as_str().unwrap().split_once('.').unwrap().1.to_owned();
    URL_SAFE_NO_PAD.decode(id).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The authority does not revoke a certificate at once. It revokes that one later, and not the one
/// that has replaced it.
#[test]
fn a_revocation_that_comes_late_is_for_the_same_certificate() {
    let mut scene = Scene::prepare(Daemon::prepare(""), Settings::default());
    let proxy = AcmeProxy::start(&scene.pebble);
    scene.configure(&proxy.section(), &with_dns(&scene.daemon, &scene.pebble));
    scene.daemon.resume();
    scene.start_agent();
    let first = scene.renewed(&json!({}));
    proxy.refuse_revocations(Some("serverInternal"));
    let revoke = ["cert", "revoke", "shop", "--reason", "key-compromise", "--yes"];
    succeed(&mut scene.daemon.keyward(&revoke));
    scene.failing("the test wants serverInternal");
    let told = succeed(&mut scene.daemon.keyward(&["cert", "status", "shop"]));
    assert!(told.contains("revocation  asked for, and not done yet"), "{told}");
    scene.ask();
    let second = scene.wait("a new certificate", |plan| {
        plan["certificate"]["fingerprint"] != first["certificate"]["fingerprint"]
    });
    assert_eq!(second["certificate"]["version"], 2, "another key");
    proxy.refuse_revocations(None);
    scene.ask();
    scene.wait("the revocation", |plan| plan["has_revocation"] == false);
    assert_eq!(scene.pebble.status(&serial_of(&first)), "Revoked");
    assert_eq!(scene.pebble.status(&serial_of(&second)), "Valid");
    // A person changes her mind.
    proxy.refuse_revocations(Some("serverInternal"));
    succeed(&mut scene.daemon.keyward(&["cert", "revoke", "shop", "--yes"]));
    scene.failing("the test wants serverInternal");
    succeed(&mut scene.daemon.keyward(&["cert", "revoke", "shop", "--cancel"]));
    let kept = scene.wait("the end", |plan| plan["state"] == "valid");
    assert_eq!((&kept["has_revocation"], &kept["last_error"]), (&json!(false), &Value::Null));
}

/// The authority certifies a key while a person calls the key compromised. The next order does not
/// wait for that, and the certificate is revoked as soon as the agent finds it.
#[test]
fn the_certificate_of_an_order_for_a_compromised_key_is_revoked() {
    let mut scene = Scene::prepare(Daemon::prepare(""), Settings::default());
    let proxy = AcmeProxy::start(&scene.pebble);
    scene.configure(&proxy.section(), &with_dns(&scene.daemon, &scene.pebble));
    scene.daemon.resume();
    scene.start_agent();
    scene.renewed(&json!({}));
    proxy.set_slow(true);
    scene.ask();
    wait_for("the certificate at the authority", || (proxy.delayed() > 0).then_some(()));
    scene.agent = None;
    succeed(&mut scene.daemon.keyward(&["cert", "revoke", "shop", "--reason", "key-compromise", "--yes"]));
    let waiting = scene.plan()["revocations"].clone();
    let order = waiting.as_array().unwrap().iter().find(|one| one["order"].is_string());
    let order = order.unwrap_or_else(|| panic!("no order in {waiting}"));
    assert!(order["order"].as_str().unwrap().contains("/my-order/"), "{order}");
    let told = succeed(&mut scene.daemon.keyward(&["cert", "status", "shop"]));
    assert!(told.contains("was for a compromised key"), "{told}");
    proxy.set_slow(false);
    scene.start_agent();
    scene.wait("both revocations", |plan| plan["revocations"] == json!([]));
    assert_eq!(scene.records("revoke"), 2);
    let renewed = scene.wait("another key", |plan| plan["state"] == "valid");
    assert_eq!((&renewed["certificate"]["version"], scene.orders()), (&json!(2), 3));
}

/// The plan gets another authority while an order is under way at the one before.
#[test]
fn another_authority_begins_anew() {
    let mut scene = Scene::prepare(Daemon::prepare(""), Settings::default());
    let proxy = AcmeProxy::start(&scene.pebble);
    let other = proxy.section().replace("[ca.pebble]", "[ca.other]");
    let plan = with_dns(&scene.daemon, &scene.pebble);
    let hook = fs::read_to_string(scene.daemon.path("dns-hook")).unwrap();
    fs::write(scene.daemon.path("dns-hook"), "#!/bin/sh\nexit 1\n").unwrap();
    scene.configure(&format!("{}{other}", scene.pebble.section()), &plan);
    scene.daemon.resume();
    scene.start_agent();
    scene.failing("dns-hook");
    fs::write(scene.daemon.path("dns-hook"), hook).unwrap();
    let text = fs::read_to_string(scene.daemon.path("keyward.toml")).unwrap();
    let text = text.replace("ca = \"pebble\"", "ca = \"other\"");
    fs::write(scene.daemon.path("keyward.toml"), text).unwrap();
    scene.daemon.reload();
    scene.ask();
    scene.renewed(&json!({}));
}

/// A certificate is revoked, and renewed. A compromised key gets no other certificate.
#[test]
fn a_revoked_certificate_is_replaced() {
    let mut scene = Scene::start(Settings::default(), with_dns);
    scene.start_agent();
    let first = scene.renewed(&json!({}));
    let revoke = |reason: &str| {
        succeed(&mut scene.daemon.keyward(&["cert", "revoke", "shop", "--reason", reason, "--yes"]));
    };
    let (_, told) = keyward_tests::tool::fail(&mut scene.daemon.keyward(&["cert", "revoke", "shop"]));
    assert!(told.contains("was not revoked"), "{told}");
    revoke("superseded");
    let second = scene.renewed(&first);
    assert_eq!(scene.pebble.status(&serial_of(&first)), "Revoked");
    assert_eq!(second["certificate"]["version"], 1);
    revoke("key-compromise");
    let third = scene.renewed(&second);
    assert_eq!(scene.pebble.status(&serial_of(&second)), "Revoked");
    assert_eq!(third["certificate"]["version"], 2, "another key");
    assert_eq!(scene.pebble.status(&serial_of(&third)), "Valid");
    // A person asks for another key.
    succeed(&mut scene.daemon.keyward(&["cert", "renew", "shop", "--now", "--new-key"]));
    assert_eq!(scene.renewed(&third)["certificate"]["version"], 3);
}

/// The authority has several profiles, and several chains.
#[test]
fn the_owner_chooses_profile_and_chain() {
    let mut scene = Scene::prepare(Daemon::prepare(""), Settings { alternates: 2, ..Settings::default() });
    let proxy = AcmeProxy::start(&scene.pebble);
    let wanted = scene.pebble.root_name(1);
    assert_ne!(wanted, scene.pebble.root_name(0));
    let plan = with_dns(&scene.daemon, &scene.pebble);
    let more = format!("profile = \"shortlived\"\npreferred-chain = {wanted:?}\n");
    scene.configure(&proxy.section(), &(plan + &more));
    scene.daemon.resume();
    scene.start_agent();
    let first = scene.renewed(&json!({}));
    assert_eq!(proxy.profiles(), ["shortlived"]);
    let issuer = |scene: &Scene| {
        let (status, text) = scene.daemon.get("/v1/plans/shop/files");
        assert_eq!(status, 200);
        let files: Value = serde_json::from_str(&text).unwrap();
        let chain = scene.daemon.path("chain.pem");
        let text = files["chain"].as_str().unwrap();
        // The last certificate of the chain.
        fs::write(&chain, &text[text.rfind("-----BEGIN").unwrap()..]).unwrap();
        let mut show = Command::new("openssl");
        succeed(show.args(["x509", "-noout", "-issuer", "-in"]).arg(chain))
    };
    assert!(issuer(&scene).contains(&wanted), "{}", issuer(&scene));
    // A chain that the authority does not have: its first one is taken, and the log says it.
    let text = fs::read_to_string(scene.daemon.path("keyward.toml")).unwrap();
    fs::write(scene.daemon.path("keyward.toml"), text.replace(&wanted, "No such root")).unwrap();
    scene.daemon.reload();
    scene.ask();
    let second = scene.renewed(&first);
    assert!(issuer(&scene).contains(&scene.pebble.root_name(0)), "{}", issuer(&scene));
    assert_eq!(scene.daemon.logged(&["no chain with this root", "No such root"]), 1);
    // A profile that the authority does not have.
    proxy.refuse_order(400, None, "invalidProfile");
    scene.ask();
    let failing = scene.failing("the test wants invalidProfile");
    assert!(failing["due"].as_u64().unwrap() > now() + 80_000, "a person must correct it: {failing}");
    assert_eq!(failing["certificate"], second["certificate"]);
}
