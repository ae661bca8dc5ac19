//! Faults of an authority.

use keyward_tests::{AcmeProxy, Pki};

use super::*;

fn behind_a_proxy() -> (Scene, AcmeProxy) {
    let mut scene = Scene::prepare(Daemon::prepare(""), Settings::default());
    let proxy = AcmeProxy::start(&scene.pebble);
    let hook = scene.daemon.path("dns-hook");
    scene.pebble.dns_hook(&hook);
    let lines = format!("ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-hook = [{hook:?}]\n");
    scene.configure(&proxy.section(), &lines);
    scene.daemon.resume();
    (scene, proxy)
}

/// The authority changes the names of an order, or does not certify the key.
#[test]
fn another_order_is_given_up_and_another_key_is_made() {
    let (mut scene, proxy) = behind_a_proxy();
    proxy.rename(Some("other.example"));
    scene.start_agent();
    scene.failing("the order of the authority lacks the name");
    proxy.rename(None);
    scene.ask();
    let first = scene.renewed(&json!({}));
    // A name that another line of a program for the DNS would hide in.
    proxy.authorise(Some("x.example. 60 TXT \"x\"\nupdate delete www.shop.example. A\n"));
    scene.ask();
    scene.failing("a name that the plan does not have");
    proxy.authorise(None);
    proxy.refuse_request("badPublicKey");
    scene.ask();
    scene.failing("the test wants badPublicKey");
    // It is not given key after key.
    proxy.refuse_request("badPublicKey");
    scene.ask();
    let refused = scene.wait("the second refusal", |plan| plan["due"].as_u64().unwrap() > now() + 80_000);
    assert_eq!(refused["state"], "failing", "{refused}");
    scene.ask();
    let second = scene.renewed(&first);
    assert_eq!(second["certificate"]["version"], 2);
}

/// Each fault of an authority has its outcome, and a line that a person understands.
#[test]
fn faults_of_the_authority_are_said_and_overcome() {
    let (mut scene, proxy) = behind_a_proxy();

    // The authority says when to come back.
    proxy.refuse_order(429, Some(120), "rateLimited");
    scene.start_agent();
    let refused = scene.failing("the test wants rateLimited");
    let wait = refused["due"].as_u64().unwrap().saturating_sub(now());
    assert!((110..=140).contains(&wait), "{wait}");
    scene.ask();
    let first = scene.renewed(&json!({}));
    assert_eq!(proxy.ordered(), 2);

    // It is away, or does not work: the next attempt is a minute later, and a person need not wait.
    proxy.set_away(true);
    scene.ask();
    let away = scene.failing("https://localhost:");
    let wait = away["due"].as_u64().unwrap().saturating_sub(now());
    assert!((55..=67).contains(&wait), "{wait}");
    proxy.set_away(false);
    proxy.refuse_order(503, None, "serverInternal");
    scene.ask();
    scene.failing("the test wants serverInternal");
    scene.ask();
    let second = scene.renewed(&first);

    // A fault that a person must correct is repeated a day later.
    proxy.refuse_order(403, None, "rejectedIdentifier");
    scene.ask();
    let rejected = scene.failing("the test wants rejectedIdentifier");
    let wait = rejected["due"].as_u64().unwrap().saturating_sub(now());
    assert!((86_000..=96_000).contains(&wait), "{wait}");

    // Another certificate than the one that was asked for.
    let pki = Pki::elsewhere(scene.daemon.path("pebble"));
    let other = fs::read_to_string(pki.leaf("other").0).unwrap();
    // The right key, and another name: also that of an order that was changed.
    let reference = scene.daemon.reference("shop");
    let renamed = pki.certify_as(&scene.daemon, &reference, "other.example", 5);
    let renamed = fs::read_to_string(renamed).unwrap();
    let (_, present) = scene.daemon.get("/v1/plans/shop/files");
    let present: Value = serde_json::from_str(&present).unwrap();
    let present = present["chain"].as_str().unwrap().to_owned();
    for (chain, words) in [
        (present, "the one that the plan shop has already"),
        (other, "for another key than the request"),
        (renamed, "the certificate is for the names other.example, and the plan shop has"),
        ("nonsense".to_owned(), "no certificate"),
    ] {
        proxy.give(Some(chain));
        scene.ask();
        scene.failing(words);
        assert_eq!(scene.plan()["certificate"], second["certificate"]);
    }
    proxy.give(None);
    scene.ask();
    let third = scene.renewed(&second);

    // The authority has revoked the certificate, and says so by a window in the past. An hour must
    // be between two successes, so the progress is made older.
    let older = |scene: &mut Scene| {
        scene.daemon.stop();
        let file = scene.daemon.path("state/renewals.json");
        let mut progress: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let shop = &mut progress["plans"]["shop"];
        shop["renewed_at"] = (shop["renewed_at"].as_u64().unwrap() - 7200).into();
        shop["window"] = Value::Null;
        shop["orders"] = json!([]);
        fs::write(&file, progress.to_string()).unwrap();
        scene.daemon.resume();
    };
    proxy.suggest(now() - 1000, now() - 500);
    older(&mut scene);
    let fourth = scene.renewed(&third);
    scene.wait("the reason", |plan| plan["explanation"] == "https://ca.example/why");
    assert_eq!(proxy.replaced(), [third["certificate"]["id"].as_str().unwrap()]);
    // The authority has replaced the certificate already: it is ordered without that.
    proxy.refuse_order(409, None, "alreadyReplaced");
    older(&mut scene);
    scene.renewed(&fourth);
    assert_eq!(proxy.replaced().len(), 2);
}
