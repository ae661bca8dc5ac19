//! Wishes of people against attempts that are under way. The test is the agent, and the authority
//! behind the agent, so that each step comes at a known moment.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_tests::Pki;
use keyward_tests::tool::fail;

use super::*;

/// An agent by hand for a plan, with an authority of its own.
struct ByHand {
    scene: Scene,
    /// Name of the plan.
    name: std::cell::Cell<&'static str>,
    home: PathBuf,
    pki: Pki,
    /// Where the authority has its resources.
    here: String,
    /// Number of certificates so far.
    issued: std::cell::Cell<u32>,
}

impl ByHand {
    /// Starts a daemon with a plan `shop` that has an account. `plan` has more lines for the plan.
    fn start(plan: &str) -> Self {
        Self::start_on(Daemon::prepare(""), plan)
    }

    /// Starts the scene on a daemon that was prepared.
    fn start_on(daemon: Daemon, plan: &str) -> Self {
        let scene = Scene::start_on(daemon, Settings::default(), |_, _| format!("ca = \"pebble\"\n{plan}"));
        let home = scene.daemon.path("authority");
        fs::create_dir(&home).unwrap();
        let pki = Pki::new(&home);
        let origin = scene.pebble.section().split('"').nth(1).unwrap().rsplit_once('/').unwrap().0.to_owned();
        let here = format!("{origin}/order/1");
        let new = Self { here, scene, name: "shop".into(), home, pki, issued: 0.into() };
        new.message("new-account");
        new.report(json!({ "account": format!("{origin}/account/1") }));
        new.report(json!("end"));
        new
    }

    fn post(&self, path: &str, body: &[u8]) -> (u16, Value) {
        self.scene.post(&format!("/v1/plans/{}/{path}", self.name.get()), body)
    }

    /// Replaces some text of the configuration.
    fn change(&self, from: &str, to: &str) {
        let config = self.scene.daemon.path("keyward.toml");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&config, text.replace(from, to)).unwrap();
        self.scene.daemon.reload();
    }

    /// Gives the plan another name.
    fn rename(&self, to: &'static str) {
        self.change(&format!("name = {:?}\n", self.name.get()), &format!("name = {to:?}\n"));
        self.name.set(to);
    }

    /// The files of the plan.
    fn files(&self) -> Value {
        let (status, body) = self.scene.daemon.get(&format!("/v1/plans/{}/files", self.name.get()));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The deployer has seen the certificate of the plan at each listener.
    fn served(&self) {
        let body = json!({ "certificate": self.fingerprint(), "listeners": {}, "problem": null });
        assert_eq!(self.post("deployed", body.to_string().as_bytes()).0, 200);
    }

    /// Ends an attempt in which the authority has revoked a certificate.
    fn revoked(&self) {
        self.report(json!("revoked"));
        self.report(json!("end"));
    }

    /// The doubts of the daemon about the certificate: whether it is revoked, may be or is for a
    /// compromised key, and whether a revocation waits.
    fn doubts(&self) -> (bool, bool) {
        let plan = self.plan();
        (plan["is_revoked"].as_bool().unwrap(), plan["has_revocation"].as_bool().unwrap())
    }

    /// Orders at which the agent is to look.
    fn former_orders(&self) -> Value {
        let (status, body) = self.scene.daemon.get("/v1/tasks");
        assert_eq!(status, 200, "{body}");
        let tasks: Value = serde_json::from_str(&body).unwrap();
        tasks["tasks"][0]["former_orders"].clone()
    }

    /// Number of the current version of the key `shop`.
    fn current(&self) -> u64 {
        let shown = succeed(&mut self.scene.daemon.keyward(&["key", "show", "shop", "--json"]));
        serde_json::from_str::<Value>(&shown).unwrap()["current"].as_u64().unwrap()
    }

    fn report(&self, report: Value) {
        let (status, answer) = self.post("report", report.to_string().as_bytes());
        assert_eq!(status, 200, "{report}: {answer}");
    }

    fn failed(&self, kind: &str) {
        self.report(json!({ "failed": { "kind": kind, "detail": "the test", "retry_after": null } }));
    }

    /// Ends an attempt in which the authority has not revoked a certificate.
    fn not_revoked(&self, kind: &str, retry_after: Option<u64>) {
        let is_answered = kind != "network";
        let failure = json!({ "kind": kind, "detail": "the test", "retry_after": retry_after, "is_answered": is_answered });
        self.report(json!({ "not-revoked": failure }));
        self.report(json!("end"));
    }

    /// The payload of the signed message of a step.
    fn message(&self, step: &str) -> Value {
        let body = json!({ "step": step, "url": self.here, "nonce": "abc" }).to_string();
        let (status, signed) = self.post("message", body.as_bytes());
        assert_eq!(status, 200, "{step}: {signed}");
        let payload = URL_SAFE_NO_PAD.decode(signed["payload"].as_str().unwrap()).unwrap();
        serde_json::from_slice(&payload).unwrap()
    }

    /// Begins an attempt. Returns the order of an earlier attempt that goes on.
    fn begin(&self) -> Value {
        let (status, answer) = self.post("report", b"\"begin\"");
        assert_eq!(status, 200, "{answer}");
        answer["order"].clone()
    }

    /// Orders a certificate. Returns the file of the certificate request.
    fn order(&self) -> PathBuf {
        assert_eq!(self.begin(), Value::Null, "no order of an earlier attempt goes on");
        self.message("new-order");
        self.report(json!({ "order": self.here }));
        self.issued.set(self.issued.get() + 1);
        let file = self.home.join(format!("{}.csr", self.issued.get()));
        let csr = URL_SAFE_NO_PAD.decode(self.message("finalize")["csr"].as_str().unwrap()).unwrap();
        fs::write(&file, csr).unwrap();
        file
    }

    /// Public key of a certificate request.
    fn key_of(&self, csr: &Path) -> String {
        succeed(Command::new("openssl").args(["req", "-inform", "DER", "-noout", "-pubkey", "-in"]).arg(csr))
    }

    /// Certifies a request for some days that began in the past or now, and sends the chain.
    fn send(&self, csr: &Path, days: u32, began: &str) -> (u16, Value) {
        let leaf = csr.with_extension("pem");
        let mut sign = match began {
            "now" => Command::new("openssl"),
            _ => {
                let mut faketime = Command::new("faketime");
                faketime.args(["-f", began, "openssl"]);
                faketime
            }
        };
        sign.args(["x509", "-req", "-inform", "DER", "-copy_extensions", "copy", "-in"]);
        sign.arg(csr).args(["-days", &days.to_string(), "-CA"]).arg(self.pki.ca());
        sign.arg("-CAkey").arg(self.home.join("ca.key")).arg("-out").arg(&leaf);
        succeed(&mut sign);
        self.post("chain", &fs::read(leaf).unwrap())
    }

    /// A whole attempt. Returns the public key of the certificate.
    fn renew(&self) -> String {
        let csr = self.order();
        let (status, answer) = self.send(&csr, 90, "-60");
        assert_eq!(status, 200, "{answer}");
        self.report(json!("end"));
        self.key_of(&csr)
    }

    fn cert(&self, words: &[&str]) {
        succeed(&mut self.scene.daemon.keyward(&[&["cert"], words].concat()));
    }

    fn plan(&self) -> Value {
        self.scene.plan()
    }

    /// The certificate that the next message revokes, and the reason. The agent begins, and holds
    /// the plan.
    fn revocation(&self) -> (String, u64) {
        self.report(json!("begin"));
        let payload = self.message("revoke");
        let der = URL_SAFE_NO_PAD.decode(payload["certificate"].as_str().unwrap()).unwrap();
        let file = self.home.join("revoked.der");
        fs::write(&file, der).unwrap();
        let mut show = Command::new("openssl");
        show.args(["x509", "-inform", "DER", "-noout", "-fingerprint", "-sha256", "-in"]).arg(file);
        let shown = succeed(&mut show);
        let fingerprint = shown.trim().split('=').nth(1).unwrap().replace(':', "").to_ascii_lowercase();
        (fingerprint, payload["reason"].as_u64().unwrap())
    }

    fn fingerprint(&self) -> String {
        self.plan()["certificate"]["fingerprint"].as_str().unwrap().to_owned()
    }
}

/// Exit status of a command, and all its words.
fn status_of(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), words)
}

const NEVER_SERVED: &str = "listeners = [\"127.0.0.1:1\"]\n";

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

/// The deployer tells the servers and hooks of the configuration, also those that have changed
/// while it did not run, or while the hook before was running.
#[test]
fn changed_hooks_and_servers_are_told() {
    let mut scene = Scene::start(Settings::default(), |daemon, _| {
        let slow = daemon.path("slow");
        let [begun, go] = ["begun", "go"].map(|name| daemon.path(name).display().to_string());
        program(&slow, &format!("echo >{begun}; while ! [ -e {go} ]; do sleep 0.05; done"));
        format!("ca = \"pebble\"\nhook = [{slow:?}]\n")
    });
    let config = scene.daemon.path("keyward.toml");
    let told = |name: &str| scene.daemon.path(&format!("{name}.told"));
    let change = |from: &str, to: &str| {
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&config, text.replace(from, to)).unwrap();
        scene.daemon.reload();
    };
    for name in ["one", "two"] {
        program(&scene.daemon.path(name), &format!("echo >{}", told(name).display()));
    }
    let hook = |name: &str| format!("hook = [{:?}]", scene.daemon.path(name));
    let [one, two, slow] = ["one", "two", "slow"].map(hook);
    let begun = scene.daemon.path("begun");
    let mut deployer = Process::start(&mut scene.deployer(), &scene.daemon.path("deployer.log"));
    wait_for("the slow hook", || begun.exists().then_some(()));
    change(&slow, &one);
    fs::write(scene.daemon.path("go"), "").unwrap();
    wait_for("the hook that the configuration names now", || told("one").exists().then_some(()));
    drop(deployer);
    change(&one, &two);
    deployer = Process::start(&mut scene.deployer(), &scene.daemon.path("deployer.log"));
    wait_for("the hook of the time without a deployer", || told("two").exists().then_some(()));
    // No Apache runs here with these files.
    change(&two, &format!("{two}\nservers = [\"apache\"]"));
    let plan = scene.wait("the missing server", |plan| plan["deployed"]["problem"].is_string());
    let problem = plan["deployed"]["problem"].as_str().unwrap();
    assert!(problem.contains("no apache that runs on this host names the files"), "{problem}");
    scene.deployer = Some(deployer);
}

/// A server of the plan that does not run does not make the others read their files again and
/// again.
#[test]
fn a_missing_server_leaves_the_others_alone() {
    let (mut scene, _nginx) = Scene::with_nginx(Settings::default());
    scene.start_agent();
    let first = scene.renewed(&json!({}));
    let config = scene.daemon.path("keyward.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("servers = [\"nginx\"]", "servers = [\"nginx\", \"apache\"]")).unwrap();
    scene.daemon.reload();
    scene.ask();
    let new = scene.renewed(&first)["certificate"]["fingerprint"].clone();
    let plan = scene.wait("the missing server", |plan| {
        plan["deployed"]["certificate"] == new
            && plan["deployed"]["problem"].as_str().unwrap_or_default().contains("no apache that runs")
    });
    let told = fs::read_to_string(scene.live().join("shop/.told")).unwrap();
    assert!(told.contains("nginx") && !told.contains("apache"), "{told} {plan}");
    let log = || {
        fs::read_to_string(scene.daemon.path("deployer.log"))
            .unwrap()
            .matches("server reads the new files")
            .count()
    };
    let before = log();
    // The deployer has looked for the missing one again.
    let looked = plan["looked_at"].as_u64().unwrap();
    scene.wait("another look", |plan| plan["looked_at"].as_u64().unwrap() > looked + 5);
    assert_eq!(log(), before, "nginx was not told again");
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

/// A compromised version of the key comes back with former names of the plan, and stays refused.
#[test]
fn a_compromised_version_stays_refused() {
    let agent = ByHand::start(NEVER_SERVED);
    let served = || agent.served();
    let files = || agent.files()["certificate"].as_str().unwrap().to_owned();
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
    let others = agent.fingerprint();
    names("names = [\"shop.example\", \"www.shop.example\"]");
    // The second version has no certificate for these names any more, and the first one has.
    assert_eq!(
        (agent.plan()["state"].clone(), agent.plan()["is_revoked"].clone()),
        (json!("due"), json!(true))
    );
    assert_eq!(files(), others, "servers keep a certificate that is not revoked");
    served();
    assert_eq!(current(), 2, "the compromised version is not current again");
    assert_eq!(agent.renew(), second);
    assert_eq!((&agent.plan()["state"], files()), (&json!("valid"), agent.fingerprint()));
    // A version that is compromised before every server has it does not become current.
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    agent.renew();
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
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
    let good = agent.fingerprint();
    agent.cert(&["renew", "shop", "--now", "--new-key"]);
    agent.renew();
    assert_eq!(agent.plan()["certificate"]["version"], 5);
    agent.cert(&["revoke", "shop", "--reason", "key-compromise", "--yes"]);
    assert_eq!(files(), good);
    agent.begin();
    let (status, answer) = agent.post("chain", &fs::read(csr.with_extension("pem")).unwrap());
    assert_eq!(status, 409, "{answer}");
    agent.report(json!("end"));
    let left = agent.plan()["revocations"].clone();
    assert_eq!((left.as_array().unwrap().len(), &left[0]["is_compromised"]), (1, &json!(true)), "{left}");
    assert_eq!((files(), current()), (good, 4));
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
    let files = agent.files();
    agent.served();
    agent.change("key = \"other\"\n", "");
    assert_eq!(agent.doubts(), (true, true));
    assert_eq!(agent.files(), files, "servers keep the other key while its certificate is better");
    agent.renew();
    assert_eq!(agent.files()["certificate"], agent.fingerprint());
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
    for (name, value) in interrupted::of_clock(&clock) {
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
