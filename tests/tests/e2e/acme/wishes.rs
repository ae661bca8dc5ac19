//! Wishes of people against attempts that are under way.

use super::by_hand::{ByHand, NEVER_SERVED, status_of};
use super::*;

/// No certificate is asked for a key that a person or the authority has refused, whatever a person
/// asks before servers have the new key.
#[test]
fn a_refused_key_does_not_come_back() {
    let agent = ByHand::start(NEVER_SERVED);
    let first = agent.renew();
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    agent.revocation();
    agent.report(json!("revoked"));
    agent.report(json!("end"));
    let second = agent.renew();
    assert_ne!(second, first);
    assert_eq!(agent.plan()["certificate"]["version"], 2);
    agent.cert(&["renew", "shop", "--now"]);
    assert_eq!(agent.renew(), second, "not the compromised key, although it is the current one");
    agent.cert(&["renew", "shop", "--now"]);
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    let third = agent.order();
    let third_key = agent.key_of(&third);
    assert!(third_key != first && third_key != second);
    agent.failed("badPublicKey");
    assert_eq!(agent.plan()["state"], "failing");
    agent.cert(&["renew", "shop", "--now"]);
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    let fourth = agent.order();
    assert!(![&first, &second, &third_key].contains(&&agent.key_of(&fourth)), "the refused key again");
}

/// The order of an attempt that has failed goes on, unless a person has asked since: that order is
/// for another wish, and may be for a key that is compromised.
#[test]
fn an_order_of_an_older_attempt_does_not_fulfil_a_wish() {
    let agent = ByHand::start(NEVER_SERVED);
    let first = agent.renew();
    agent.cert(&["renew", "shop", "--now"]);
    let csr = agent.order();
    agent.failed("network");
    assert_eq!(agent.begin(), agent.here.as_str(), "it goes on");
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    agent.failed("network");
    assert_eq!(agent.former_orders(), json!([agent.here]));
    agent.revocation();
    agent.revoked();
    // The authority may have certified the compromised key meanwhile. Whatever a person asks and
    // the agent says, the order is known, so that this certificate is revoked, too.
    agent.cert(&["renew", "shop", "--now"]);
    assert_eq!(agent.begin(), Value::Null, "the new key does not wait for that");
    assert_eq!(agent.former_orders(), json!([]), "for a minute");
    agent.report(json!({ "order": null }));
    assert_eq!(agent.plan()["revocations"][0]["order"], agent.here.as_str());
    let (status, words) = status_of(&mut agent.scene.daemon.keyward(&["cert", "check"]));
    assert!(status == 2 && words.contains(&format!("the certificate of order {}", agent.here)), "{words}");
    for _ in 0..2 {
        let (status, answer) = agent.send(&csr, 90, "-60");
        assert!(status == 409 && answer.to_string().contains("revoked as compromised"), "{answer}");
    }
    agent.report(json!("end"));
    assert_eq!(agent.plan()["revocations"].as_array().unwrap().len(), 1, "one for each order");
    agent.revocation();
    agent.revoked();
    assert_eq!((&agent.plan()["has_revocation"], &agent.plan()["revocations"]), (&json!(false), &json!([])));
    let csr = agent.order();
    assert_ne!(agent.key_of(&csr), first, "the compromised key");
    // While this attempt is under way, a person wants another key again.
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    let (status, answer) = agent.send(&csr, 90, "-60");
    assert!(status == 409 && answer.to_string().contains("the next one is for a newer version"), "{answer}");
    agent.failed("chain");
    let key = agent.renew();
    assert!(key != first && key != agent.key_of(&csr));
    assert_eq!(agent.plan()["state"], "valid");
    // The end of an attempt that never came makes nothing of the next one.
    agent.begin();
    agent.cert(&["renew", "shop", "--now"]);
    agent.renew();
    assert_eq!(agent.plan()["state"], "valid", "one wish, one certificate");
}

/// A certificate that ends before the present one is an accident of the issuer, or an attack,
/// unless a person asks for it. One that has expired stands in nobody's way.
#[test]
fn a_certificate_does_not_shorten_the_life_of_the_plan() {
    let mut agent = ByHand::start("");
    let csr = agent.order();
    assert_eq!(agent.send(&csr, 90, "-70d").0, 200, "20 days are left");
    agent.report(json!("end"));
    // The plan is due, as soon as its last renewal is of days ago.
    agent.scene.daemon.stop();
    let progress = agent.scene.daemon.path("state/renewals.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&progress).unwrap()).unwrap();
    text["plans"]["shop"]["renewed_at"] = 1.into();
    fs::write(&progress, text.to_string()).unwrap();
    agent.scene.daemon.resume();
    assert_eq!(agent.plan()["state"], "due");
    let csr = agent.order();
    let (status, answer) = agent.send(&csr, 1, "-60");
    assert!(status == 409 && answer["error"].as_str().unwrap().contains("ends on"), "{status} {answer}");
    agent.report(json!("end"));
    agent.cert(&["renew", "shop", "--now"]);
    let csr = agent.order();
    // It lives for seconds.
    assert_eq!(agent.send(&csr, 1, "-86395").0, 200);
    agent.report(json!("end"));
    agent.scene.wait("its end", |plan| plan["state"] == "expired");
    let csr = agent.order();
    let (status, answer) = agent.send(&csr, 90, "-60");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(agent.plan()["state"], "valid");
}

/// An attempt that began before a wish neither fulfils the wish nor makes it wait, also if the
/// daemon was started again meanwhile.
#[test]
fn a_wish_is_not_lost_to_an_older_attempt() {
    let mut agent = ByHand::start("");
    let csr = agent.order();
    agent.cert(&["renew", "shop", "--now"]);
    assert_eq!(agent.send(&csr, 90, "-60").0, 200);
    agent.report(json!("end"));
    assert_eq!(agent.plan()["state"], "due", "the wish is still there");
    agent.renew();
    assert_eq!(agent.plan()["state"], "valid");
    agent.cert(&["renew", "shop", "--now"]);
    agent.order();
    agent.scene.daemon.stop();
    agent.scene.daemon.resume();
    agent.cert(&["renew", "shop", "--now"]);
    agent.failed("caa");
    let plan = agent.plan();
    assert_eq!((&plan["state"], &plan["failures"]), (&json!("due"), &json!(0)), "{plan}");
}
