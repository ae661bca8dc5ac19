//! An agent in the wrong hands.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_tests::tool::as_user;
use keyward_tests::{Pki, has_root};

use super::*;

/// The agent is in the wrong hands: it has the role, and sends whatever it likes.
#[test]
fn a_hostile_agent_gets_nothing_but_the_certificates_of_the_plans() {
    let scene = Scene::start(Settings::default(), |_, pebble| {
        format!("ca = \"pebble\"\nchain-root = {:?}\n", pebble.issued().ca())
    });
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
    // Another account, which people would name in a record of the DNS: they are told.
    let former = account.replace("/1", "/2");
    assert_eq!(report(json!({ "account": former })), 200);
    assert_eq!(report(json!({ "account": account })), 200);
    let told = succeed(&mut scene.daemon.keyward(&["cert", "status", "shop"]));
    assert!(told.contains(&format!("was {former} until")), "{told}");
    // A request, and a chain, without an order.
    refused("/v1/plans/shop/request", json!({}), "which gets its certificate request in a message");
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
    // A person asks: there is one more. Messages with other nonces are counted too.
    scene.ask();
    let more = (0..100).filter(|_| report(json!("replaced")) == 200 && (0..5).all(|_| order())).count();
    assert_eq!(more, 1);
    let signed = scene.records("new-order");
    assert!(signed <= 10 + 1 + 4 + 40, "{signed}");
    scene.ask();
    assert_eq!(report(json!("replaced")), 200);
    assert!(order());
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
    let (status, signed) = scene.post(message, at("finalize", &here).to_string().as_bytes());
    assert_eq!(status, 200);
    assert!(sent(&chain).contains("for another key than the request"), "{}", sent(&chain));
    // A certificate of an authority of the agent, for the very request.
    let decode = |text: &Value| URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap();
    let payload: Value = serde_json::from_slice(&decode(&signed["payload"])).unwrap();
    let [csr, leaf] = ["evil.csr", "evil.pem"].map(|name| home.join(name));
    fs::write(&csr, decode(&payload["csr"])).unwrap();
    let mut sign = Command::new("openssl");
    sign.args(["x509", "-req", "-inform", "DER", "-copy_extensions", "copy", "-days", "900000", "-in"]);
    sign.arg(&csr).arg("-CA").arg(pki.ca()).arg("-CAkey").arg(home.join("ca.key")).arg("-out").arg(&leaf);
    succeed(&mut sign);
    let evil = fs::read_to_string(&leaf).unwrap();
    assert!(sent(&evil).contains("does not lead to a root of the plan"), "{}", sent(&evil));
    assert!(scene.plan()["certificate"].is_null());
    assert!(scene.records("keyward.admin.refused") >= 10, "on record");
    assert!(scene.records("new-order") >= 10, "each order is on record");
    // The role gives no other route.
    let mut curl = scene.daemon.curl();
    curl.args(["--write-out", "%{http_code}", "--output", "/dev/null", "http://localhost/v1/tasks"]);
    let mut as_agent = as_user("www-data", &curl);
    assert!(succeed(&mut as_agent).ends_with("403"), "www-data has no role");
}

/// A user of this host runs a program with the name of a server, to have root run another one.
#[test]
fn programs_of_other_users_are_not_run() {
    if !has_root() {
        return;
    }
    let mut scene =
        Scene::start(Settings::default(), |_, _| "ca = \"pebble\"\nservers = [\"nginx\"]\n".into());
    let home = scene.daemon.path("eve");
    fs::create_dir(&home).unwrap();
    let (fake, pwned) = (home.join("nginx"), home.join("pwned"));
    fs::copy("/bin/sleep", &fake).unwrap();
    succeed(Command::new("chown").args(["-R", "www-data"]).arg(&home));
    let mut sleep = Command::new(&fake);
    let mut server = as_user("www-data", sleep.arg("600"));
    let _server = Process::start(&mut server, &scene.daemon.path("eve.log"));
    wait_for("the program", || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| fs::read_link(entry.path().join("exe")).ok()).find(|exe| *exe == fake)
    });
    program(&home.join("script"), &format!("id >{}", pwned.display()));
    fs::rename(home.join("script"), &fake).unwrap();
    scene.start_deployer();
    let plan = scene.wait("a look", |plan| plan["deployed"]["problem"].is_string());
    let problem = plan["deployed"]["problem"].as_str().unwrap();
    assert!(problem.contains("no nginx that runs on this host names the files"), "{problem}");
    assert!(!pwned.exists());
}
