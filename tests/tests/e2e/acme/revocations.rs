//! Revocations that people ask for, and certificates that are revoked.

use keyward_tests::tool::fail;

use super::by_hand::{ByHand, NEVER_SERVED};
use super::*;

/// The renewal goes its own way, whatever becomes of a revocation.
#[test]
fn a_revocation_that_fails_stops_no_renewal() {
    let agent = ByHand::start(NEVER_SERVED);
    let first = agent.renew();
    let due = agent.plan()["due"].clone();
    agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    agent.revocation();
    agent.not_revoked("rateLimited", Some(604_800));
    let plan = agent.plan();
    assert_eq!(
        (&plan["due"], &plan["state"], &plan["last_error"]),
        (&due, &json!("failing"), &json!("the test"))
    );
    // Another key does not wait for the authority.
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    agent.revocation();
    agent.not_revoked("unauthorized", None);
    assert_ne!(agent.renew(), first);
    agent.revocation();
    agent.report(json!("revoked"));
    agent.report(json!("end"));
    assert_eq!(agent.plan()["state"], "valid");
    // The certificate that was revoked comes back with its names, and is not called valid.
    let config = agent.scene.daemon.path("keyward.toml");
    let text = fs::read_to_string(&config).unwrap();
    let names = |to: &str| {
        fs::write(&config, text.replace("names = [\"shop.example\", \"www.shop.example\"]", to)).unwrap();
        agent.scene.daemon.reload();
    };
    agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    agent.revocation();
    agent.report(json!("revoked"));
    agent.report(json!("end"));
    names("names = [\"shop.example\"]");
    agent.renew();
    assert_eq!(agent.plan()["state"], "valid");
    names("names = [\"shop.example\", \"www.shop.example\"]");
    assert_eq!(agent.plan()["state"], "due");
}

/// The authority revokes the certificates that people name, each with the reason that they name,
/// and the daemon does not call a certificate valid that the authority has revoked.
#[test]
fn revocations_are_those_that_people_ask_for() {
    let agent = ByHand::start("");
    agent.renew();
    let first = agent.fingerprint();
    let revoke = |reason: &str| agent.cert(&["revoke", "shop", "--reason", reason, "--yes"]);
    revoke("superseded");
    assert_eq!(agent.revocation(), (first.clone(), 4));
    // Another reason for the same certificate, before the end of that attempt.
    revoke("key-compromise");
    agent.report(json!("revoked"));
    assert_eq!(agent.plan()["has_revocation"], true, "with the other reason");
    agent.report(json!("end"));
    assert_eq!(agent.revocation(), (first.clone(), 1));
    agent.not_revoked("serverInternal", None);
    // The plan is renewed meanwhile, and the new certificate is to be revoked, too.
    agent.cert(&["renew", "shop", "--now"]);
    agent.renew();
    let second = agent.fingerprint();
    assert_ne!(second, first);
    revoke("superseded");
    let mut revoked = Vec::new();
    for _ in 0..2 {
        revoked.push(agent.revocation());
        agent.not_revoked("serverInternal", None);
    }
    // One that fails does not keep the other waiting.
    revoked.sort();
    let mut expected = [(first.clone(), 1), (second.clone(), 4)];
    expected.sort();
    assert_eq!(revoked, expected);
    // A certificate that was replaced needs no renewal when it is revoked.
    let third = {
        agent.cert(&["renew", "shop", "--now"]);
        agent.renew();
        agent.fingerprint()
    };
    // The authority of these two is not the one of the plan any more.
    agent.scene.daemon.configure_more("[ca.other]\ndirectory = \"https://other.example/dir\"\n");
    let config = agent.scene.daemon.path("keyward.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("ca = \"pebble\"", "ca = \"other\"")).unwrap();
    agent.scene.daemon.reload();
    let told = succeed(&mut agent.scene.daemon.keyward(&["cert", "status", "shop"]));
    assert!(told.contains("waits for the authority at https://localhost"), "{told}");
    // Also one that is asked for now is for the authority that has issued the certificate.
    revoke("unspecified");
    let (status, answer) = agent.post(
        "message",
        json!({ "step": "revoke", "url": "https://other.example/x", "nonce": "a" }).to_string().as_bytes(),
    );
    assert!(status == 409, "{status} {answer}");
    fs::write(&config, text).unwrap();
    agent.scene.daemon.reload();
    let mut done = Vec::new();
    for left in [2, 1, 0] {
        let (certificate, _) = agent.revocation();
        agent.report(json!("revoked"));
        agent.report(json!("end"));
        assert_eq!(agent.plan()["has_revocation"], left > 0);
        let is_present = certificate == third;
        done.push(certificate);
        let state = if is_present { "due" } else { "valid" };
        assert!(agent.plan()["state"] == state || done.contains(&third), "{}", agent.plan());
    }
    assert!(done.contains(&third) && done.contains(&first) && done.contains(&second));
}

/// A certificate that the authority may have revoked is not called valid, also if a person gives
/// the revocation up.
#[test]
fn a_revocation_that_may_have_happened_is_not_given_up() {
    let agent = ByHand::start("");
    agent.renew();
    let cancel = || succeed(&mut agent.scene.daemon.keyward(&["cert", "revoke", "shop", "--cancel"]));
    let (_, words) = fail(&mut agent.scene.daemon.keyward(&["cert", "revoke", "shop", "--cancel"]));
    assert!(words.contains("no revocation of a certificate of the plan shop waits"), "{words}");
    let revoke = || agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    // Nobody has the message.
    revoke();
    assert!(cancel().contains("is not revoked"));
    // The authority has refused it.
    revoke();
    agent.revocation();
    agent.not_revoked("unauthorized", None);
    assert!(cancel().contains("is not revoked"));
    assert_eq!(agent.plan()["state"], "valid");
    // Nobody knows, whatever the authority says to later messages, and whoever asks again.
    revoke();
    agent.revocation();
    agent.not_revoked("network", None);
    agent.revocation();
    agent.not_revoked("rateLimited", None);
    revoke();
    agent.revocation();
    assert!(cancel().contains("may have revoked the certificate of plan shop already"));
    // What becomes of a revocation that nobody wants is no failure.
    agent.not_revoked("network", None);
    let plan = agent.plan();
    assert_eq!((&plan["state"], &plan["is_revoked"]), (&json!("due"), &json!(true)));
    agent.renew();
    let plan = agent.plan();
    assert_eq!((&plan["state"], &plan["is_revoked"]), (&json!("valid"), &json!(false)));
    // A key that was called compromised stays so.
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    let words = cancel();
    assert!(words.contains("is not revoked") && !words.contains("may have revoked"), "{words}");
    assert!(words.contains("its version of the key stays compromised"), "{words}");
    agent.renew();
    assert_eq!(agent.plan()["certificate"]["version"], 2);
}

/// A certificate that was revoked is not attached again, although the present one is revoked, too.
#[test]
fn a_revoked_certificate_does_not_come_back() {
    let agent = ByHand::start("");
    let mut first = None;
    for _ in 0..2 {
        let csr = agent.order();
        assert_eq!(agent.send(&csr, 90, "-60").0, 200);
        agent.report(json!("end"));
        first = first.or(Some(csr));
        agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
        agent.revocation();
        agent.revoked();
    }
    agent.order();
    let first = fs::read(first.unwrap().with_extension("pem")).unwrap();
    let (status, answer) = agent.post("chain", &first);
    assert!(status == 409 && answer.to_string().contains("the certificate is revoked"), "{answer}");
}

/// Certificates that the agent makes change nothing, and leave a person room for every word. A plan
/// gives up its own revocations, and those of another one only by the name of that one.
#[test]
fn nothing_that_the_agent_makes_stands_in_the_way_of_a_person() {
    let agent = ByHand::start("");
    let compromise = |plan: &str| agent.cert(&["revoke", plan, "--reason", "key-compromise", "--yes"]);
    let csr = agent.order();
    assert_eq!(agent.send(&csr, 90, "-60").0, 200);
    agent.report(json!("end"));
    compromise("shop");
    agent.revocation();
    agent.revoked();
    agent.renew();
    let facts = || {
        let file = fs::read(agent.scene.daemon.path("state/renewals.json")).unwrap();
        let facts: Value = serde_json::from_slice(&file).unwrap();
        ["compromised", "revoked", "revocations", "newer_than"].map(|name| facts[name].clone())
    };
    let before = facts();
    agent.begin();
    for _ in 0..17 {
        let (status, answer) = agent.send(&csr, 90, "now");
        assert!(status == 409 && answer.to_string().contains("revoked as compromised"), "{answer}");
    }
    agent.report(json!("end"));
    assert_eq!(facts(), before);
    assert_eq!((agent.plan()["state"].clone(), agent.doubts()), (json!("valid"), (false, false)));
    compromise("shop");
    assert_eq!(agent.doubts(), (true, true));
    // The plan is gone, and another one at the same authority has the certificate revoked.
    agent.scene.change_plan("key = \"other\"\n");
    agent.rename("store");
    agent.renew();
    compromise("store");
    let keyward = |words: &[&str]| agent.scene.daemon.keyward(&[&["cert"], words].concat());
    let told = succeed(&mut keyward(&["status", "store"]));
    assert!(told.contains("not done yet, of plan shop: SHA-256"), "{told}");
    let revoked = || {
        let plan = agent.plan();
        let plans = plan["revocations"].as_array().unwrap().iter().map(|one| one["plan"].clone());
        plans.collect::<Vec<_>>()
    };
    assert_eq!(revoked(), ["shop", "store"]);
    let told = succeed(&mut keyward(&["revoke", "store", "--cancel"]));
    assert!(told.contains("is not revoked; its version of the key stays compromised"), "{told}");
    assert_eq!(revoked(), ["shop"]);
    fail(&mut keyward(&["revoke", "store", "--cancel"]));
    succeed(&mut keyward(&["revoke", "shop", "--cancel"]));
    assert_eq!(revoked(), [""; 0]);
    let (_, told) = fail(&mut keyward(&["revoke", "shop", "--cancel"]));
    assert!(told.contains("there is no plan shop"), "{told}");
    // A key takes its revocations with it, also if another plan has the name.
    compromise("store");
    agent.rename("third");
    assert_eq!(revoked(), ["store"]);
    let told = succeed(&mut keyward(&["status", "third"]));
    assert!(told.contains("keyward cert revoke third --cancel"), "{told}");
    agent.scene.change_plan("[[certificate]]\nname = \"store\"\nnames = [\"x.example\"]\nca = \"pebble\"\n");
    assert_eq!(revoked(), ["store"]);
}

/// A person gives a revocation up while its message is signed. Either no message goes out, or the
/// certificate counts as revoked.
#[test]
fn a_message_that_is_signed_too_late_is_not_given_out() {
    let daemon = Daemon::prepare_slow("300ms");
    let config = daemon.path("keyward.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("default-backend = \"hsm\"\n{text}")).unwrap();
    let agent = ByHand::start_on(daemon, "");
    agent.renew();
    agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    agent.begin();
    let body = json!({ "step": "revoke", "url": agent.here, "nonce": "abc" }).to_string();
    let scene = &agent.scene;
    let (status, answer) = std::thread::scope(|scope| {
        let message = scope.spawn(|| scene.post("/v1/plans/shop/message", body.as_bytes()));
        wait_for("the call at the unit", || {
            (scene.daemon.metric("keyward_unit_in_flight", &[]) > 0.0).then_some(())
        });
        let (status, answer) = scene.post("/v1/plans/shop/revoke", b"{}");
        assert_eq!(status, 200, "{answer}");
        message.join().unwrap()
    });
    assert_eq!(agent.doubts(), (status == 200, false), "{status} {answer}");
    agent.report(json!("end"));
}

/// Only the account that has ordered a certificate has it revoked: another section of the same
/// authority, with another account key, says that the revocation waits.
#[test]
fn another_account_at_the_same_authority_revokes_nothing() {
    let agent = ByHand::start("");
    agent.renew();
    let certificate = agent.fingerprint();
    agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    let second = agent.scene.pebble.section().replace("[ca.pebble]", "[ca.second]");
    agent.scene.daemon.configure_more(&second);
    agent.change("ca = \"pebble\"", "ca = \"second\"");
    let told = succeed(&mut agent.scene.daemon.keyward(&["cert", "status", "shop"]));
    assert!(told.contains("and its account with the key acme-account-pebble"), "{told}");
    let (_, tasks) = agent.scene.daemon.get("/v1/tasks");
    let tasks: Value = serde_json::from_str(&tasks).unwrap();
    assert_eq!(tasks["tasks"][0]["revokes"], Value::Null, "{tasks}");
    agent.change("ca = \"second\"", "ca = \"pebble\"");
    assert_eq!(agent.revocation(), (certificate, 4));
    agent.revoked();
}
