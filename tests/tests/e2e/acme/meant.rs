//! The certificates that a person means when she has some revoked.

use keyward_tests::tool::fail;

use super::by_hand::{ByHand, NEVER_SERVED, status_of};
use super::*;

/// Nobody can say which version of a compromised key is in the wrong hands, so the certificates of
/// all are revoked: also the one that servers have while the newest one waits.
#[test]
fn a_compromised_key_takes_each_of_its_certificates_with_it() {
    let agent = ByHand::start(&format!("{NEVER_SERVED}new-key = true\n"));
    let revoke = |words: &[&str]| {
        let mut command =
            agent.scene.daemon.keyward(&["cert", "revoke", "shop", "--reason", "key-compromise"]);
        command.args(words);
        command
    };
    agent.renew();
    agent.served();
    let first = agent.fingerprint();
    agent.cert(&["renew", "shop", "--now"]);
    agent.renew();
    let second = agent.fingerprint();
    assert_eq!(agent.plan()["certificate"]["version"], 2);
    let (_, told) = fail(&mut revoke(&[]));
    assert!(told.contains(&format!("SHA-256 {first}, version 1 of key shop")), "{told}");
    assert!(told.contains("in the files of servers") && told.contains(&second), "{told}");
    let told = succeed(&mut revoke(&["--yes"]));
    assert!(told.contains(&first) && told.contains(&second), "{told}");
    let mut revoked = [(); 2].map(|()| {
        let revoked = agent.revocation();
        agent.revoked();
        revoked
    });
    revoked.sort();
    let mut expected = [(first, 1), (second, 1)];
    expected.sort();
    assert_eq!((revoked, agent.doubts()), (expected, (true, false)));
    let fault = "the certificate that servers have is revoked, or may be, and is for a compromised key";
    for (words, expected) in [(["cert", "check"], 2), (["cert", "status"], 0)] {
        let (status, told) = status_of(&mut agent.scene.daemon.keyward(&words));
        assert!(status == expected && told.contains(fault), "{status} {told}");
    }
    agent.renew();
    agent.served();
    assert_eq!(agent.plan()["certificate"]["version"], 3);

    // An earlier version alone: nothing is wrong with the newer one, which is not renewed.
    let third = agent.fingerprint();
    agent.cert(&["renew", "shop", "--now"]);
    agent.renew();
    agent.served();
    succeed(&mut revoke(&["--version", "3", "--yes"]));
    assert_eq!((agent.plan()["state"].clone(), agent.doubts()), (json!("valid"), (false, true)));
    assert_eq!(agent.revocation(), (third, 1));
    agent.revoked();
    assert_eq!((agent.plan()["state"].clone(), agent.doubts()), (json!("valid"), (false, false)));
    let fourth = agent.fingerprint().to_ascii_uppercase();
    succeed(&mut revoke(&["--certificate", &fourth, "--yes"]));
    assert_eq!((agent.revocation().0.to_ascii_uppercase(), agent.doubts()), (fourth, (true, true)));
    agent.revoked();
    // A compromised key at servers is worse than a certificate that is only revoked.
    agent.cert(&["renew", "shop", "--now"]);
    agent.renew();
    assert_eq!(agent.plan()["certificate"]["version"], 5);
    agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    agent.revocation();
    agent.revoked();
    assert_eq!((agent.doubts(), agent.files()["is_makeshift"].clone()), ((true, false), json!(false)));
}

/// A request names its certificates, so a renewal that comes before it has no other one revoked.
/// After a change of names, the certificate that servers have is meant.
#[test]
fn a_certificate_that_nobody_has_named_is_not_revoked() {
    let agent = ByHand::start(NEVER_SERVED);
    agent.renew();
    let first = agent.fingerprint();
    agent.cert(&["renew", "shop", "--now"]);
    agent.renew();
    agent.served();
    let second = agent.fingerprint();
    let asked = |body: Value| agent.post("revoke", body.to_string().as_bytes());
    let (status, answer) = asked(json!({ "reason": 1, "certificates": [first] }));
    assert!(status == 404 && answer.to_string().contains("if it was renewed meanwhile"), "{status} {answer}");
    assert_eq!(asked(json!({ "reason": 4 })).0, 400);
    assert_eq!(asked(json!({ "reason": 4, "version": 1 })).0, 400);
    assert_eq!(asked(json!({ "reason": 1, "version": 1, "certificates": [second] })).0, 400);
    assert_eq!(agent.doubts(), (false, false));
    agent.change("names = [\"shop.example\", \"www.shop.example\"]", "names = [\"b.example\"]");
    assert!(agent.plan()["certificate"].is_null());
    agent.cert(&["revoke", "shop", "--reason", "superseded", "--yes"]);
    assert_eq!(agent.revocation(), (second.clone(), 4));
    agent.revoked();
    // Nothing is in use, and a person must say which one she means.
    let body = json!({ "certificate": "", "listeners": {}, "problem": null });
    assert_eq!(agent.post("deployed", body.to_string().as_bytes()).0, 200);
    let mut revoke = agent.scene.daemon.keyward(&["cert", "revoke", "shop", "--yes"]);
    let (_, told) = fail(&mut revoke);
    assert!(told.contains("name one of these by --certificate") && told.contains(&second), "{told}");
}
