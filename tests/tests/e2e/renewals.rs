//! Certificates that renew themselves: the daemon, the agent and the deployer, with pebble as the
//! authority and real servers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use keyward_tests::server::{RustlsThread, Site};
use keyward_tests::tool::{Process, fail, succeed, wait_for};
use keyward_tests::{AcmeProxy, Apache, Daemon, Handshake, Haproxy, Knot, Load, Nginx, Pebble, Pki, built};
use serde_json::{Value, json};

/// A daemon with a plan `shop`, its agent and its deployer.
struct Scene {
    daemon: Daemon,
    pebble: Pebble,
    /// The server that gets the files.
    site: Site,
    agent: Option<Process>,
    deployer: Option<Process>,
}

impl Scene {
    /// Starts a daemon and an authority. `plan` has more lines for the plan.
    fn start(refused_nonces: u32, validity: u64, plan: impl FnOnce(&Daemon, &Pebble) -> String) -> Self {
        Self::start_with(refused_nonces, validity, |daemon, pebble| (pebble.section(), plan(daemon, pebble)))
    }

    /// Starts a daemon and an authority. `plan` has the section of the authority, and more lines
    /// for the plan.
    fn start_with(
        refused_nonces: u32,
        validity: u64,
        plan: impl FnOnce(&Daemon, &Pebble) -> (String, String),
    ) -> Self {
        let mut daemon = Daemon::prepare("");
        let pebble = Pebble::start_with(&daemon.path("pebble"), refused_nonces, validity);
        let [certificate, key] = ["fullchain.pem", "key.pem"].map(|name| daemon.path("live/shop").join(name));
        let site = Site::new(certificate, key);
        let (authority, lines) = plan(&daemon, &pebble);
        daemon.configure_more(&format!(
            "[[role]]\nrole = \"agent\"\nuid = {}\n{}\n[[certificate]]\nname = \"shop\"\n\
             names = [\"shop.example\", \"www.shop.example\"]\n{}",
            rustix::process::geteuid().as_raw(),
            authority,
            lines
        ));
        daemon.resume();
        Self { daemon, pebble, site, agent: None, deployer: None }
    }

    /// Starts nginx beside a daemon, an authority and a deployer. Its webroot has the answers to
    /// challenges.
    fn with_nginx(refused_nonces: u32, validity: u64) -> (Self, Nginx) {
        let mut scene = Self::start(refused_nonces, validity, |daemon, _| {
            let webroot = daemon.path("www");
            fs::create_dir(&webroot).unwrap();
            format!("ca = \"pebble\"\nwebroot = {webroot:?}\nservers = [\"nginx\"]\n")
        });
        scene.change_plan(&format!("listeners = [\"{}\"]\n", scene.site.address));
        scene.start_deployer();
        let directives = format!(
            "listen 127.0.0.1:{}; location /.well-known/ {{ root {}; }}",
            scene.pebble.challenges(),
            scene.daemon.path("www").display()
        );
        let nginx =
            Nginx::start_with_directives(&scene.daemon, std::slice::from_ref(&scene.site), &directives);
        (scene, nginx)
    }

    fn start_agent(&mut self) {
        let mut command = Command::new(built("keyward-acme"));
        command.arg("--runtime-dir").arg(self.daemon.path("run"));
        self.agent = Some(Process::start(&mut command, &self.daemon.path("agent.log")));
    }

    fn start_deployer(&mut self) {
        let mut command = Command::new(built("keyward-deploy"));
        command.arg("--runtime-dir").arg(self.daemon.path("run"));
        command.arg("--config").arg(self.daemon.path("keyward.toml")).arg("--live").arg(self.live());
        command.env("OPENSSL_CONF", self.daemon.openssl_conf());
        self.deployer = Some(Process::start(&mut command, &self.daemon.path("deployer.log")));
        // The placeholder, so that the server starts.
        wait_for("the files", || self.site.key.exists().then_some(()));
    }

    fn live(&self) -> PathBuf {
        self.daemon.path("live")
    }

    fn handshake(&self) -> Handshake {
        Handshake::new(self.pebble.issued(), self.site.address).asking_for("shop.example")
    }

    fn plan(&self) -> Value {
        let (status, body) = self.daemon.get("/v1/plans");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()[0].clone()
    }

    /// Waits until the plan is as `is` says.
    fn wait(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || Some(self.plan()).filter(|plan| is(plan)))
    }

    /// Asks for a renewal, and waits until it is served.
    fn renew(&self) -> Value {
        let before = self.plan()["certificate"]["fingerprint"].clone();
        succeed(&mut self.daemon.keyward(&["cert", "renew", "shop", "--now"]));
        let begin = Instant::now();
        let attached = self.wait("a new certificate", |plan| plan["certificate"]["fingerprint"] != before);
        let attached_after = begin.elapsed();
        let new = &attached["certificate"]["fingerprint"];
        let served = self.wait("the new certificate at the server", |plan| {
            plan["certificate"]["fingerprint"] == *new && plan["is_served"] == true
        });
        let after = begin.elapsed().saturating_sub(attached_after);
        assert!(after < Duration::from_secs(10), "served after {after:?}");
        served
    }

    /// Adds a line to the plan, which is last in the configuration.
    fn change_plan(&self, line: &str) {
        self.daemon.configure_more(line);
        self.daemon.reload();
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut curl = self.daemon.curl();
        curl.args(["--write-out", "\n%{http_code}", "--data", &body.to_string()]);
        let text = succeed(curl.arg(format!("http://localhost{path}")));
        let (body, status) = text.trim_end().rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    /// Records of the audit trail with an action.
    fn records(&self, action: &str) -> usize {
        let mut show = Command::new(built("keyward"));
        let text =
            succeed(show.args(["audit", "show", "--json", "--dir"]).arg(self.daemon.path("state/audit")));
        text.lines().filter(|line| line.contains(&format!("\"{action}\""))).count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["agent.log", "deployer.log"] {
                println!("{log}:\n{}", fs::read_to_string(self.daemon.path(log)).unwrap_or_default());
            }
            let log = self.daemon.log();
            println!("{}", log.lines().filter(|line| !line.contains("DEBUG")).collect::<Vec<_>>().join("\n"));
        }
    }
}

fn assert_none_failed(load: Load) {
    let attempts = load.stop();
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
    assert!(attempts.len() > 20, "{}", attempts.len());
}

#[test]
fn nginx_gets_its_first_certificate_and_four_renewals_without_losing_a_handshake() {
    let (mut scene, nginx) = Scene::with_nginx(20, 90 * 24 * 3600);
    assert_eq!(scene.plan()["state"], "none");
    scene.start_agent();
    let first = scene.wait("the first certificate", |plan| plan["is_served"] == true);
    assert_eq!((&first["certificate"]["version"], &first["state"]), (&json!(1), &json!("valid")));
    // A worker of before may still take a connection, and shows the placeholder.
    wait_for("the workers of before to end", || (nginx.workers().len() == 2).then_some(()));
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

    // A server that refuses its configuration keeps the old files.
    let conf = scene.daemon.path(&format!("nginx-{}/nginx.conf", scene.site.address.port()));
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nnonsense;\n")).unwrap();
    let before = fs::read_link(scene.live().join("shop")).unwrap();
    succeed(&mut scene.daemon.keyward(&["cert", "renew", "shop", "--now"]));
    let refused = scene.wait("the refusal", |plan| plan["deployed"]["problem"].is_string());
    let problem = refused["deployed"]["problem"].as_str().unwrap();
    assert!(problem.contains("the old ones are in use again") && problem.contains("nonsense"), "{problem}");
    assert_eq!(fs::read_link(scene.live().join("shop")).unwrap(), before);
    scene.handshake().make().unwrap();
}

#[test]
fn haproxy_takes_new_keys_over_its_socket_and_answers_the_authority_itself() {
    let mut scene = Scene::start(0, 90 * 24 * 3600, |_, _| {
        "ca = \"pebble\"\nnew-key = true\nservers = [\"haproxy\"]\n".to_owned()
    });
    scene.site.certificate = scene.live().join("shop/combined.pem");
    scene.change_plan(&format!("listeners = [\"{}\"]\n", scene.site.address));
    // The line that the command prints for HAProxy.
    let prepared = scene.post("/v1/plans/shop/prepare", &json!({})).1;
    let thumbprint = prepared["thumbprint"].as_str().unwrap();
    let answer = format!(
        "http-request return status 200 content-type text/plain lf-string \"%[path,field(-1,/)].{thumbprint}\" if {{ path_beg /.well-known/acme-challenge/ }}"
    );
    scene.start_deployer();
    let challenges = format!("frontend challenges\nbind 127.0.0.1:{}\n{answer}\n", scene.pebble.challenges());
    let socket = format!("stats socket {} level admin\n", scene.daemon.path("haproxy.sock").display());
    let _haproxy = Haproxy::start_deployed(&scene.daemon, &scene.site, &socket, &challenges);
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["is_served"] == true);
    let load = Load::start(&scene.handshake(), 1);
    for version in [2, 3] {
        assert_eq!(scene.renew()["certificate"]["version"], version);
    }
    assert_none_failed(load);
}

#[test]
fn apache_reloads_for_a_wildcard_that_the_dns_validates() {
    let mut scene = Scene::start(0, 90 * 24 * 3600, |daemon, pebble| {
        let hook = daemon.path("dns-hook");
        pebble.dns_hook(&hook);
        format!("ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-hook = [{hook:?}]\nservers = [\"apache\"]\n")
    });
    let text = fs::read_to_string(scene.daemon.path("keyward.toml")).unwrap();
    fs::write(scene.daemon.path("keyward.toml"), text.replace("\"www.shop.example\"", "\"*.shop.example\""))
        .unwrap();
    scene.change_plan(&format!("listeners = [\"{}\"]\n", scene.site.address));
    scene.start_deployer();
    let _apache = Apache::start(&scene.daemon, std::slice::from_ref(&scene.site), "event");
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["is_served"] == true);
    let load = Load::start(&scene.handshake().asking_for("any.shop.example"), 1);
    scene.renew();
    assert_none_failed(load);
}

/// dns-01 by an update of the zone, as RFC 2136 has it.
#[test]
fn an_update_of_the_zone_validates_the_names() {
    let mut daemon = Daemon::prepare("");
    let knot = Knot::start(&daemon.path("knot"));
    let pebble = Pebble::start_asking(&daemon.path("pebble"), knot.port());
    daemon.configure_more(&format!(
        "[[role]]\nrole = \"agent\"\nuid = {}\n{}\n[[certificate]]\nname = \"shop\"\nnames = [\"shop.example\", \"*.shop.example\"]\n\
         ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-server = \"127.0.0.1:{}\"\ndns-key = {:?}\n",
        rustix::process::geteuid().as_raw(),
        pebble.section(),
        knot.port(),
        knot.key()
    ));
    daemon.resume();
    let site = Site::new(daemon.path("none"), daemon.path("none"));
    let mut scene = Scene { daemon, pebble, site, agent: None, deployer: None };
    scene.start_agent();
    scene.wait("the certificate", |plan| plan["state"] == "valid");
}

/// A private authority: a program that signs with openssl. A server on rustls takes new
/// certificates from the daemon.
#[test]
fn a_program_issues_for_a_server_on_rustls() {
    let mut scene = Scene::start(0, 0, |daemon, _| {
        let program = daemon.path("issue");
        let home = daemon.path("ca");
        fs::create_dir(&home).unwrap();
        let pki = Pki::new(&home);
        let script = format!(
            "#!/bin/sh -e\ncat >{0}/csr; openssl x509 -req -in {0}/csr -CA {1} -CAkey {2} -days 5 -copy_extensions copy 2>{0}/log\n",
            home.display(),
            pki.ca().display(),
            home.join("ca.key").display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let told = daemon.path("told");
        format!("new-key = true\nissue = [{program:?}]\nnotify = [\"/usr/bin/tee\", \"-a\", {told:?}]\n")
    });
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["state"] == "valid");
    let resolver = scene.daemon.for_rustls().follow("shop").unwrap();
    let server = RustlsThread::start(resolver as _);
    let pki = Pki::elsewhere(scene.daemon.path("ca"));
    let handshake = Handshake::new(&pki, server.address()).asking_for("shop.example");
    wait_for("a handshake", || handshake.make().ok());
    let load = Load::start(&handshake, 1);
    for version in [2, 3] {
        let before = handshake.certificate().unwrap();
        succeed(&mut scene.daemon.keyward(&["cert", "renew", "shop", "--now"]));
        scene.wait("the new version", |plan| plan["certificate"]["version"] == version);
        wait_for("the new certificate", || (handshake.certificate().unwrap() != before).then_some(()));
    }
    assert_none_failed(load);
    // A program that fails is repeated later, and the reason is said.
    fs::write(scene.daemon.path("issue"), "#!/bin/sh\necho 'the signer is on holiday' >&2; exit 3\n")
        .unwrap();
    succeed(&mut scene.daemon.keyward(&["cert", "renew", "shop", "--now"]));
    let failing = scene.wait("the failure", |plan| plan["state"] == "failing");
    assert!(failing["last_error"].as_str().unwrap().contains("the signer is on holiday"), "{failing}");
    wait_for("the notification", || {
        let told = fs::read_to_string(scene.daemon.path("told")).unwrap_or_default();
        (told.contains("\"state\":\"failing\"") && told.contains("on holiday")).then_some(())
    });
}

/// Each fault of an authority has its outcome, and a line that a person understands.
#[test]
fn faults_of_the_authority_are_said_and_overcome() {
    let mut proxy = None;
    let mut scene = Scene::start_with(0, 90 * 24 * 3600, |daemon, pebble| {
        let hook = daemon.path("dns-hook");
        pebble.dns_hook(&hook);
        let proxy = proxy.insert(AcmeProxy::start(pebble));
        (proxy.section(), format!("ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-hook = [{hook:?}]\n"))
    });
    let proxy = proxy.unwrap();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let failing = |scene: &Scene, words: &str| {
        scene.wait(words, |plan| {
            plan["state"] == "failing" && plan["last_error"].as_str().unwrap().contains(words)
        })
    };
    let renewed = |scene: &Scene, before: &Value| {
        scene.wait("a new certificate", |plan| {
            plan["certificate"]["fingerprint"] != before["certificate"]["fingerprint"]
                && plan["state"] == "valid"
        })
    };

    // The authority says when to come back.
    proxy.refuse_order(429, Some(3), "rateLimited");
    scene.start_agent();
    let refused = failing(&scene, "the test wants rateLimited");
    let wait = refused["due"].as_u64().unwrap().saturating_sub(now());
    assert!((1..=4).contains(&wait), "{wait}");
    let first = renewed(&scene, &json!({}));
    assert_eq!(proxy.ordered(), 2);

    // It is away, or does not work: the next attempt is a minute later, and a person need not wait.
    proxy.set_away(true);
    let ask = |scene: &Scene| drop(succeed(&mut scene.daemon.keyward(&["cert", "renew", "shop", "--now"])));
    ask(&scene);
    let away = failing(&scene, "https://localhost:");
    let wait = away["due"].as_u64().unwrap().saturating_sub(now());
    assert!((55..=67).contains(&wait), "{wait}");
    proxy.set_away(false);
    proxy.refuse_order(503, None, "serverInternal");
    ask(&scene);
    failing(&scene, "the test wants serverInternal");
    ask(&scene);
    let second = renewed(&scene, &first);

    // A fault that a person must correct is repeated a day later.
    proxy.refuse_order(403, None, "rejectedIdentifier");
    ask(&scene);
    let rejected = failing(&scene, "the test wants rejectedIdentifier");
    let wait = rejected["due"].as_u64().unwrap().saturating_sub(now());
    assert!((86_000..=96_000).contains(&wait), "{wait}");

    // Another certificate than the one that was asked for.
    let pki = Pki::elsewhere(scene.daemon.path("pebble"));
    let other = fs::read_to_string(pki.leaf("other").0).unwrap();
    for (chain, words) in
        [(other, "for another key than the request"), ("nonsense".to_owned(), "no certificate")]
    {
        proxy.give(Some(chain));
        ask(&scene);
        failing(&scene, words);
        assert_eq!(scene.plan()["certificate"], second["certificate"]);
    }
    proxy.give(None);
    ask(&scene);
    let third = renewed(&scene, &second);

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
    let fourth = renewed(&scene, &third);
    assert_eq!(fourth["explanation"], "https://ca.example/why");
    assert_eq!(proxy.replaced(), [third["certificate"]["id"].as_str().unwrap()]);
    // The authority has replaced the certificate already: it is ordered without that.
    proxy.refuse_order(409, None, "alreadyReplaced");
    older(&mut scene);
    renewed(&scene, &fourth);
    assert_eq!(proxy.replaced().len(), 2);
}

/// The agent is in the wrong hands: it has the role, and sends whatever it likes.
#[test]
fn a_hostile_agent_gets_nothing_but_the_certificates_of_the_plans() {
    let scene = Scene::start(0, 90 * 24 * 3600, |_, _| "ca = \"pebble\"\n".to_owned());
    let refused = |path: &str, body: Value, words: &str| {
        let (status, answer) = scene.post(path, &body);
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
    refused(
        "/v1/plans/shop/report",
        json!({ "account": "https://evil.example/account" }),
        "is not a URL of the authority",
    );
    assert_eq!(scene.post(message, &at("new-account", &here)).0, 200);
    let account = format!("{origin}/account/1");
    assert_eq!(scene.post("/v1/plans/shop/report", &json!({ "account": account })).0, 200);
    refused(message, at("finalize", &here), "there is no order under way");
    refused(message, at("revoke", &here), "nobody asked to revoke");
    // Orders without end, which use up the limits of the authority.
    // Each of these is another process, which waits for the one that orders.
    let order = || scene.post(message, &at("new-order", &here)).0 == 200;
    assert_eq!((0..5).filter(|_| order()).count(), 1);
    refused(message, at("new-order", &here), "there is an order under way");
    let mut orders = 1;
    while scene.post("/v1/plans/shop/report", &json!("replaced")).0 == 200 && order() {
        orders += 1;
    }
    assert_eq!(orders, 10, "a day");
    refused(message, at("new-order", &here), "has had 10 orders within a day");
    // A certificate for another key, or for other names.
    let home = scene.daemon.path("evil");
    fs::create_dir(&home).unwrap();
    let pki = Pki::new(&home);
    let chain = fs::read_to_string(pki.leaf("evil").0).unwrap();
    let sent = |chain: &str| {
        let file = scene.daemon.path("chain.pem");
        fs::write(&file, chain).unwrap();
        let mut curl = scene.daemon.curl();
        succeed(
            curl.arg("--data-binary")
                .arg(format!("@{}", file.display()))
                .arg("http://localhost/v1/plans/shop/chain"),
        )
    };
    assert!(sent(&chain).contains("there is no order under way"), "{}", sent(&chain));
    assert_eq!(scene.post("/v1/plans/shop/report", &json!({ "order": here })).0, 200);
    assert_eq!(scene.post(message, &at("finalize", &here)).0, 200);
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

/// Certificates of half a minute: no moment without a valid one.
#[test]
fn certificates_of_seconds_are_renewed_without_a_gap() {
    let is_long = std::env::var_os("KEYWARD_SOAK").is_some();
    let validity = if is_long { 60 } else { 30 };
    let (mut scene, _nginx) = Scene::with_nginx(50, validity);
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["is_served"] == true);
    let handshake = scene.handshake();
    let (begin, long) = (Instant::now(), Duration::from_secs(if is_long { 600 } else { 34 }));
    let mut seen = BTreeSet::new();
    while begin.elapsed() < long {
        // The client checks the dates.
        handshake.make().unwrap_or_else(|error| panic!("after {:?}: {error}", begin.elapsed()));
        seen.insert(handshake.certificate().unwrap().to_vec());
        std::thread::sleep(Duration::from_millis(100));
    }
    // Longer than the life of the first one.
    assert!(seen.len() >= 2, "{}", seen.len());
}

/// Each of the three programs is killed over and over: the order goes on.
#[test]
fn killed_programs_go_on_where_they_were() {
    // Of certificates that live for minutes, a day may have more orders.
    let (mut scene, _nginx) = Scene::with_nginx(0, 900);
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["is_served"] == true);
    let rounds = if std::env::var_os("KEYWARD_SOAK").is_some() { 60 } else { 3 };
    let before = scene.records("new-order");
    for round in 0..rounds {
        let old = scene.plan()["certificate"]["fingerprint"].clone();
        succeed(&mut scene.daemon.keyward(&["cert", "renew", "shop", "--now"]));
        // The test varies the moment of the kill, so it sleeps and waits for no event.
        std::thread::sleep(Duration::from_millis(150 * (round % 20)));
        match round % 3 {
            0 => {
                drop(scene.agent.take());
                scene.start_agent();
            }
            1 => {
                drop(scene.deployer.take());
                scene.start_deployer();
            }
            _ => {
                scene.daemon.kill();
                scene.daemon.resume();
            }
        }
        scene.wait("the certificate after the kill", |plan| {
            plan["certificate"]["fingerprint"] != old && plan["is_served"] == true && plan["state"] == "valid"
        });
    }
    // Begun and done are two records of an order.
    let orders = (scene.records("new-order") - before) / 2;
    assert!(orders <= 2 * rounds as usize, "{orders} orders in {rounds} rounds");
    scene.handshake().make().unwrap();
}
