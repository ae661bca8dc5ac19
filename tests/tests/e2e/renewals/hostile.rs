//! An agent in the wrong hands.

use keyward_tests::Pki;

use super::*;

/// The agent is in the wrong hands: it has the role, and sends whatever it likes.
#[test]
fn a_hostile_agent_gets_nothing_but_the_certificates_of_the_plans() {
    let scene = Scene::start(Settings::default(), |_, _| "ca = \"pebble\"\n".to_owned());
    let refused = |path: &str, body: Value, words: &str| {
        let (status, answer) = scene.post(path, body.to_string().as_bytes());
        let text = answer.to_string();
        assert!((400..500).contains(&status) && text.contains(words), "{path} {body}: {status} {text}");
    };
    let message = "/v1/plans/shop/message";
    let at = |step: &str, url: &str| json!({ "step": step, "url": url, "nonce": "abc" });
    // A server of its own, also behind a name that only begins like the authority.
    for url in
        ["https://evil.example/new-order", "https://localhost.evil.example/x", "http://localhost/x", "x"]
    {
        refused(message, at("read", url), "is not a URL of the authority");
    }
    let origin = scene.pebble.section().split('"').nth(1).unwrap().rsplit_once('/').unwrap().0.to_owned();
    let here = format!("{origin}/anything");
    refused(message, json!({ "step": "read", "url": here, "nonce": "a\"b" }), "nonce");
    for step in ["key-change", "deactivate", "new-authz", "sign"] {
        refused(message, at(step, &here), "the steps are");
    }
    // A text, names or a request of its own: there is no field for them.
    for field in ["payload", "protected", "identifiers", "csr", "contact"] {
        let mut more = at("read", &here);
        more[field] = "eyJ4IjoxfQ".into();
        refused(message, more, "unknown field");
    }
    refused(message, at("new-order", &here), "there is no account");
    let report = |body: Value| scene.post("/v1/plans/shop/report", body.to_string().as_bytes()).0;
    refused(
        "/v1/plans/shop/report",
        json!({ "account": "https://evil.example/account" }),
        "is not a URL of the authority",
    );
    assert_eq!(scene.post(message, at("new-account", &here).to_string().as_bytes()).0, 200);
    let account = format!("{origin}/account/1");
    assert_eq!(report(json!({ "account": account })), 200);
    refused(message, at("finalize", &here), "there is no order under way");
    refused(message, at("revoke", &here), "nobody asked to revoke");
    refused("/v1/plans/shop/report", json!("revoked"), "nobody asked to revoke");
    // Orders without end, which use up the limits of the authority.
    let order = || scene.post(message, at("new-order", &here).to_string().as_bytes()).0 == 200;
    // The authority may want other nonces for the same order.
    assert!((0..5).all(|_| order()));
    let mut orders = 1;
    while report(json!("replaced")) == 200 && order() {
        orders += 1;
    }
    assert_eq!(orders, 10, "a day");
    refused(message, at("new-order", &here), "has had 10 orders within a day");
    // A certificate for another key, or for other names.
    let home = scene.daemon.path("evil");
    fs::create_dir(&home).unwrap();
    let pki = Pki::new(&home);
    let chain = fs::read_to_string(pki.leaf("evil").0).unwrap();
    let sent = |chain: &str| scene.post("/v1/plans/shop/chain", chain.as_bytes()).1.to_string();
    assert!(sent(&chain).contains("there is no order under way"), "{}", sent(&chain));
    assert_eq!(report(json!({ "order": here })), 200);
    // Another process gets nothing while this one is at work.
    let mut curl = scene.daemon.curl();
    curl.args(["--data", &at("finalize", &here).to_string(), &format!("http://localhost{message}")]);
    assert!(succeed(&mut curl).contains("there is an order under way"));
    assert_eq!(scene.post(message, at("finalize", &here).to_string().as_bytes()).0, 200);
    assert!(sent(&chain).contains("for another key than the request"), "{}", sent(&chain));
    assert!(scene.plan()["certificate"].is_null());
    assert!(scene.records("keyward.admin.refused") >= 10, "on record");
    assert!(scene.records("new-order") >= 10, "each order is on record");
    // The role gives no other route.
    let mut curl = scene.daemon.curl();
    curl.args(["--write-out", "%{http_code}", "--output", "/dev/null", "http://localhost/v1/tasks"]);
    let mut as_agent = keyward_tests::tool::as_user("www-data", &curl);
    assert!(succeed(&mut as_agent).ends_with("403"), "www-data has no role");
}
