//! Keys that a person has called compromised, in plans and files that change.

use keyward_tests::tool::{fail, of_clock};

use super::by_hand::{ByHand, NEVER_SERVED, status_of};
use super::*;

/// A compromised version of the key comes back with former names of the plan, and stays refused.
#[test]
fn a_compromised_version_stays_refused() {
    let agent = ByHand::start(NEVER_SERVED);
    let served = || agent.served();
    // The certificate for servers, and whether they keep the one that they have.
    let files = || {
        let files = agent.files();
        (files["certificate"].as_str().unwrap().to_owned(), files["is_makeshift"] == true)
    };
    let current = || agent.current();
    let first = agent.renew();
    served();
    // An order is under way when the key is called compromised: its certificate is revoked, too.
    agent.cert(&["renew", "shop", "--now"]);
    let csr = agent.order();
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    assert_eq!(agent.send(&csr, 90, "-60").0, 409);
    agent.failed("chain");
    for _ in 0..2 {
        agent.revocation();
        agent.report(json!("revoked"));
        agent.report(json!("end"));
    }
    assert_eq!(agent.plan()["has_revocation"], false);
    let second = agent.renew();
    assert_ne!(second, first);
    served();
    assert_eq!(current(), 2);
    let config = agent.scene.daemon.path("keyward.toml");
    let text = fs::read_to_string(&config).unwrap();
    let names = |to: &str| {
        fs::write(&config, text.replace("names = [\"shop.example\", \"www.shop.example\"]", to)).unwrap();
        agent.scene.daemon.reload();
    };
    names("names = [\"shop.example\"]");
    assert_eq!(agent.renew(), second);
    served();
    names("names = [\"shop.example\", \"www.shop.example\"]");
    // The second version has no certificate for these names any more, and the first one has.
    assert_eq!(
        (agent.plan()["state"].clone(), agent.plan()["is_revoked"].clone()),
        (json!("due"), json!(true))
    );
    assert_eq!(files(), (agent.fingerprint(), true), "servers keep a certificate that is not revoked");
    served();
    assert_eq!(current(), 2, "the compromised version is not current again");
    assert_eq!(agent.renew(), second);
    assert_eq!((&agent.plan()["state"], files()), (&json!("valid"), (agent.fingerprint(), false)));
    // A version that is compromised before every server has it does not become current.
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    agent.renew();
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--version", "3", "--yes"]);
    served();
    assert_eq!(current(), 2, "nor is the compromised version that is newer");
    agent.revocation();
    agent.revoked();
    let csr = agent.order();
    assert_eq!(agent.send(&csr, 90, "-60").0, 200);
    agent.report(json!("end"));
    served();
    assert_eq!(current(), 4);
    // A newer version is compromised before servers have it. Nothing is wrong with the one that
    // they have, and the agent cannot have it revoked.
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    agent.renew();
    assert_eq!(agent.plan()["certificate"]["version"], 5);
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--version", "5", "--yes"]);
    assert_eq!(files(), (agent.fingerprint(), true));
    agent.begin();
    let (status, answer) = agent.post("chain", &fs::read(csr.with_extension("pem")).unwrap());
    assert_eq!(status, 409, "{answer}");
    agent.report(json!("end"));
    let left = agent.plan()["revocations"].clone();
    assert_eq!((left.as_array().unwrap().len(), &left[0]["is_compromised"]), (1, &json!(true)), "{left}");
    assert_eq!((files(), current()), ((agent.fingerprint(), true), 4));
}

/// The word of a person about a key is for the key that she means, whatever the plan has.
#[test]
fn a_key_is_compromised_without_a_certificate_for_the_names() {
    let agent = ByHand::start(NEVER_SERVED);
    let first = agent.renew();
    let certificate = agent.fingerprint();
    // An order for another version is under way: nobody has said anything about that one.
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    let other = agent.key_of(&agent.order());
    assert_ne!(other, first);
    agent.change("names = [\"shop.example\", \"www.shop.example\"]", "names = [\"shop.example\"]");
    assert!(agent.plan()["certificate"].is_null());
    let revoke =
        |reason: &str| agent.scene.daemon.keyward(&["cert", "revoke", "shop", "--reason", reason, "--yes"]);
    let (_, told) = fail(&mut revoke("superseded"));
    assert!(told.contains("has no certificate"), "{told}");
    succeed(&mut revoke("key-compromise"));
    agent.failed("network");
    assert_eq!(agent.plan()["revocations"][0]["order"], Value::Null);
    assert_eq!(agent.revocation(), (certificate, 1));
    agent.revoked();
    assert_eq!(agent.renew(), other);
}

/// The numbers of versions are those of one key: another key of the plan begins anew.
#[test]
fn another_key_of_the_plan_is_not_compromised() {
    let agent = ByHand::start("");
    agent.renew();
    for _ in 0..2 {
        agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
        agent.revocation();
        agent.report(json!("revoked"));
        agent.report(json!("end"));
        agent.renew();
    }
    agent.scene.change_plan("key = \"other\"\n");
    agent.renew();
    let plan = agent.plan();
    assert_eq!((&plan["state"], &plan["certificate"]["version"]), (&json!("valid"), &json!(1)), "{plan}");
    assert_eq!((&plan["has_revocation"], &plan["is_revoked"]), (&json!(false), &json!(false)));
    // The key before comes back, is compromised, and comes back once more.
    agent.change("key = \"other\"\n", "");
    assert_eq!((agent.plan()["certificate"]["version"].clone(), agent.doubts()), (json!(3), (false, false)));
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    agent.revocation();
    agent.not_revoked("unauthorized", None);
    agent.scene.change_plan("key = \"other\"\n");
    agent.renew();
    agent.served();
    agent.change("key = \"other\"\n", "");
    assert_eq!(agent.doubts(), (true, true));
    let is_makeshift = || agent.files()["is_makeshift"] == true;
    assert!(is_makeshift(), "servers keep the other key while its certificate is better");
    let key = |verb: &str| succeed(&mut agent.scene.daemon.keyward(&["key", verb, "other"]));
    key("disable");
    assert!(!is_makeshift(), "servers with that key serve nobody");
    key("enable");
    assert!(is_makeshift());
    agent.renew();
    assert_eq!((agent.files()["certificate"].clone(), is_makeshift()), (agent.fingerprint().into(), false));
    assert_eq!(agent.plan()["certificate"]["version"], 4);
    // The same label, and nothing else of the key.
    agent.scene.daemon.destroy("shop");
    agent.renew();
    let plan = agent.plan();
    assert_eq!((&plan["certificate"]["version"], &plan["is_revoked"]), (&json!(1), &json!(false)), "{plan}");
}

/// A plan that gets another name knows which keys are compromised, and which certificates are
/// revoked or to be revoked. So does a plan that comes back.
#[test]
fn a_renamed_plan_forgets_nothing() {
    let agent = ByHand::start("key = \"shop\"\n");
    let first = agent.renew();
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    let asked = agent.revocation();
    agent.not_revoked("network", None);
    agent.rename("store");
    assert_eq!((agent.plan()["state"].clone(), agent.doubts()), (json!("due"), (true, true)));
    let second = agent.renew();
    assert_ne!(second, first);
    assert_eq!((agent.revocation(), agent.doubts()), (asked, (false, true)));
    agent.revoked();
    assert_eq!(agent.doubts(), (false, false));
    // A revoked certificate, and no plan at all for a while.
    agent.cert(&["revoke", "store", "--reason", "superseded", "--yes"]);
    let asked = agent.revocation();
    agent.not_revoked("network", None);
    let config = agent.scene.daemon.path("keyward.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.split_once("[[certificate]]").unwrap().0).unwrap();
    agent.scene.daemon.reload();
    let problems = agent.scene.daemon.status()["problems"].to_string();
    assert!(problems.contains("the certificate of plan store that a person asked to revoke"), "{problems}");
    fs::write(&config, text).unwrap();
    agent.rename("shop");
    assert_eq!(agent.revocation(), asked);
    agent.revoked();
    assert_eq!((agent.plan()["state"].clone(), agent.doubts()), (json!("due"), (true, false)));
    agent.rename("third");
    assert_eq!((agent.plan()["state"].clone(), agent.doubts()), (json!("due"), (true, false)));
    assert_eq!(agent.renew(), second);
    assert_eq!(agent.plan()["state"], "valid");
}

/// A clock that is wrong for a while, and a file of the progress that cannot be read for a while,
/// take nothing away.
#[test]
fn nothing_is_lost_to_a_wrong_clock_or_an_unreadable_file() {
    let mut agent = ByHand::start(NEVER_SERVED);
    agent.renew();
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    agent.renew();
    agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    let asked = agent.revocation();
    agent.not_revoked("network", None);
    let clock = agent.scene.daemon.path("clock");
    fs::write(&clock, "+200d\n").unwrap();
    agent.scene.daemon.stop();
    for (name, value) in of_clock(&clock) {
        agent.scene.daemon.set_variable(name, value);
    }
    agent.scene.daemon.resume();
    // Whatever the agent says about this clock.
    agent.report(json!({ "clock": 0 }));
    agent.begin();
    agent.report(json!("end"));
    assert_eq!((agent.plan()["state"].clone(), agent.doubts()), (json!("expired"), (false, false)));
    fs::write(&clock, "+0d\n").unwrap();
    assert_eq!((agent.revocation(), agent.doubts()), (asked.clone(), (false, true)));
    agent.report(json!("end"));

    // Root may read every file, and no link that leads to itself.
    agent.scene.daemon.stop();
    let [file, aside] = ["renewals.json", "aside"].map(|name| agent.scene.daemon.path("state").join(name));
    fs::rename(&file, &aside).unwrap();
    std::os::unix::fs::symlink("renewals.json", &file).unwrap();
    agent.scene.daemon.resume();
    let problems = agent.scene.daemon.status()["problems"].to_string();
    assert!(problems.contains("the progress of renewals in") && !problems.contains("chown"), "{problems}");
    for (words, expected) in [(["cert", "check"], 2), (["cert", "status"], 74)] {
        let (status, told) = status_of(&mut agent.scene.daemon.keyward(&words));
        assert!(status == expected && told.contains("the progress of renewals in"), "{status} {told}");
    }
    let plan = agent.plan();
    assert_eq!((&plan["state"], &plan["has_revocation"]), (&json!("failing"), &Value::Null), "{plan}");
    // The version with the certificate that is to be revoked does not become current.
    let body = json!({ "certificate": asked.0, "listeners": {}, "problem": null });
    assert_eq!(agent.post("deployed", body.to_string().as_bytes()).0, 507);
    assert_eq!(agent.current(), 1);
    assert_eq!(agent.post("report", b"\"begin\"").0, 507);
    assert_eq!(agent.scene.daemon.get("/v1/plans/shop/files").0, 507);
    fs::rename(&aside, &file).unwrap();
    assert_eq!((agent.revocation(), agent.doubts()), (asked, (false, true)));
    assert_eq!(agent.scene.daemon.status()["problems"].to_string(), "[]");

    // The file is gone: a start does not take that for the first one.
    agent.scene.daemon.stop();
    fs::remove_file(&file).unwrap();
    agent.scene.daemon.resume();
    let problems = agent.scene.daemon.status()["problems"].to_string();
    assert!(problems.contains("is missing, and was there before"), "{problems}");
    for (words, expected) in [(["cert", "check"], 2), (["cert", "status"], 0)] {
        let (status, told) = status_of(&mut agent.scene.daemon.keyward(&words));
        assert!(status == expected && told.contains("is missing, and was there before"), "{status} {told}");
    }
}

/// The file of an earlier version had numbers of versions below the name of a plan.
#[test]
fn numbers_of_an_earlier_version_become_public_keys() {
    let mut agent = ByHand::start("");
    let first = agent.renew();
    agent.scene.daemon.stop();
    let file = agent.scene.daemon.path("state/renewals.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let plan = &mut text["plans"]["shop"];
    (plan["key"], plan["compromised"], plan["newer_than"]) = ("shop".into(), 1.into(), Value::Null);
    fs::write(&file, text.to_string()).unwrap();
    agent.scene.daemon.resume();
    assert_eq!((agent.plan()["state"].clone(), agent.doubts()), (json!("due"), (true, false)));
    let text: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(text["compromised"].as_object().unwrap().len(), 1, "{text}");
    assert_eq!(text["plans"]["shop"]["compromised"], Value::Null);
    agent.scene.change_plan("key = \"shop\"\n");
    agent.rename("store");
    assert_eq!(agent.doubts(), (true, false));
    assert_ne!(agent.renew(), first);
}

/// Servers keep a certificate with which nothing is wrong, whatever names the plan gets, and
/// whichever revoked or expired certificate is in the key store after that.
#[test]
fn a_certificate_that_is_revoked_or_expired_replaces_no_good_one() {
    let mut agent = ByHand::start("hook = [\"/bin/true\"]\n");
    let first = agent.order();
    assert_eq!(agent.send(&first, 90, "-60").0, 200);
    agent.report(json!("end"));
    agent.scene.start_deployer();
    assert_eq!(agent.in_use(), agent.fingerprint());
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    agent.revocation();
    agent.revoked();
    agent.renew();
    assert_eq!(agent.in_use(), agent.fingerprint());
    // The second version has a certificate for other names.
    let names = "names = [\"shop.example\", \"www.shop.example\"]";
    agent.change(names, "names = [\"b.example\"]");
    let csr = agent.order();
    assert_eq!(agent.send(&csr, 90, "-60").0, 200);
    agent.report(json!("end"));
    let good = agent.fingerprint();
    assert_eq!(agent.in_use(), good);
    agent.change("names = [\"b.example\"]", "names = [\"typo.example\"]");
    assert_eq!(agent.in_use(), good);
    let told = succeed(&mut agent.scene.daemon.keyward(&["cert", "status", "shop"]));
    assert!(told.contains("served      a former one"), "{told}");
    // Only the first version, which is compromised, has a certificate for these names.
    agent.change("names = [\"typo.example\"]", names);
    assert_eq!((agent.doubts(), agent.plan()["certificate"]["version"].clone()), ((true, false), json!(1)));
    assert_eq!(agent.in_use(), good);
    // The key store is one of before, with a revoked certificate, and then with one that has
    // expired.
    agent.renew();
    let (revoked, store) = (agent.fingerprint(), agent.home.join("store.pem"));
    fs::write(&store, agent.files()["chain"].as_str().unwrap()).unwrap();
    agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    agent.revocation();
    agent.revoked();
    let csr = agent.order();
    assert_eq!(agent.send(&csr, 90, "-60").0, 200);
    agent.report(json!("end"));
    let good = agent.fingerprint();
    assert_eq!(agent.in_use(), good);
    agent.cert(&["attach", "shop", "--in", store.to_str().unwrap()]);
    assert_eq!((agent.fingerprint(), agent.doubts().0), (revoked, true));
    assert_eq!(agent.in_use(), good);
    assert_eq!(agent.send(&csr, 1, "-2d").0, 409);
    agent.cert(&["attach", "shop", "--in", csr.with_extension("pem").to_str().unwrap()]);
    assert_eq!(agent.plan()["state"], "expired");
    assert_eq!(agent.in_use(), good);
}
