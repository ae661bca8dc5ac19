//! An agent by hand. The test is the agent, and the authority behind the agent, so that each step
//! comes at a known moment.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_tests::Pki;
use keyward_tests::tool::set_clock;

use super::*;

/// An agent by hand for a plan, with an authority of its own.
pub(super) struct ByHand {
    pub(super) scene: Scene,
    /// Name of the plan.
    pub(super) name: std::cell::Cell<&'static str>,
    pub(super) home: PathBuf,
    pub(super) pki: Pki,
    /// Where the authority has its resources.
    pub(super) here: String,
    /// Number of certificates so far.
    pub(super) issued: std::cell::Cell<u32>,
}

impl ByHand {
    /// Starts a daemon with a plan `shop` that has an account. `plan` has more lines for the plan.
    pub(super) fn start(plan: &str) -> Self {
        Self::start_on(Daemon::prepare(""), plan)
    }

    /// Starts the scene on a daemon that was prepared.
    pub(super) fn start_on(daemon: Daemon, plan: &str) -> Self {
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

    pub(super) fn post(&self, path: &str, body: &[u8]) -> (u16, Value) {
        self.scene.post(&format!("/v1/plans/{}/{path}", self.name.get()), body)
    }

    /// Replaces some text of the configuration.
    pub(super) fn change(&self, from: &str, to: &str) {
        let config = self.scene.daemon.path("keyward.toml");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&config, text.replace(from, to)).unwrap();
        self.scene.daemon.reload();
    }

    /// Gives the plan another name.
    pub(super) fn rename(&self, to: &'static str) {
        self.change(&format!("name = {:?}\n", self.name.get()), &format!("name = {to:?}\n"));
        self.name.set(to);
    }

    /// The files of the plan.
    pub(super) fn files(&self) -> Value {
        let (status, body) = self.scene.daemon.get(&format!("/v1/plans/{}/files", self.name.get()));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// SHA-256 of the certificate in the files that servers have, once the deployer has looked at
    /// the files of the plan again.
    pub(super) fn in_use(&self) -> String {
        let config = self.scene.daemon.path("keyward.toml");
        let text = fs::read_to_string(&config).unwrap();
        // The first look may have begun before.
        for look in ["a look", "another look"] {
            let begin = now();
            wait_for(look, || {
                // A change of the configuration makes the deployer look.
                fs::write(&config, &text).unwrap();
                self.plan()["looked_at"].as_u64().filter(|at| *at > begin)
            });
        }
        let file = self.scene.live().join("shop/cert.pem");
        let mut show = Command::new("openssl");
        let shown = succeed(show.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(file));
        let in_use = fingerprint_in(&shown);
        assert_eq!(self.plan()["deployed"]["certificate"], in_use.as_str(), "the daemon knows");
        in_use
    }

    /// The deployer has seen the certificate of the plan at each listener.
    pub(super) fn served(&self) {
        let body = json!({ "certificate": self.fingerprint(), "listeners": {}, "problem": null });
        assert_eq!(self.post("deployed", body.to_string().as_bytes()).0, 200);
    }

    /// Ends an attempt in which the authority has revoked a certificate.
    pub(super) fn revoked(&self) {
        self.report(json!("revoked"));
        self.report(json!("end"));
    }

    /// The doubts of the daemon about the certificate: whether it is revoked, may be or is for a
    /// compromised key, and whether a revocation waits.
    pub(super) fn doubts(&self) -> (bool, bool) {
        let plan = self.plan();
        (plan["is_revoked"].as_bool().unwrap(), plan["has_revocation"].as_bool().unwrap())
    }

    /// Orders at which the agent is to look.
    pub(super) fn former_orders(&self) -> Value {
        let (status, body) = self.scene.daemon.get("/v1/tasks");
        assert_eq!(status, 200, "{body}");
        let tasks: Value = serde_json::from_str(&body).unwrap();
        tasks["tasks"][0]["former_orders"].clone()
    }

    /// Number of the current version of the key `shop`.
    pub(super) fn current(&self) -> u64 {
        let shown = succeed(&mut self.scene.daemon.keyward(&["key", "show", "shop", "--json"]));
        serde_json::from_str::<Value>(&shown).unwrap()["current"].as_u64().unwrap()
    }

    pub(super) fn report(&self, report: Value) {
        let (status, answer) = self.post("report", report.to_string().as_bytes());
        assert_eq!(status, 200, "{report}: {answer}");
    }

    pub(super) fn failed(&self, kind: &str) {
        self.report(json!({ "failed": { "kind": kind, "detail": "the test", "retry_after": null } }));
    }

    /// Ends an attempt in which the authority has not revoked a certificate.
    pub(super) fn not_revoked(&self, kind: &str, retry_after: Option<u64>) {
        let is_answered = kind != "network";
        let failure = json!({ "kind": kind, "detail": "the test", "retry_after": retry_after, "is_answered": is_answered });
        self.report(json!({ "not-revoked": failure }));
        self.report(json!("end"));
    }

    /// The payload of the signed message of a step.
    pub(super) fn message(&self, step: &str) -> Value {
        let body = json!({ "step": step, "url": self.here, "nonce": "abc" }).to_string();
        let (status, signed) = self.post("message", body.as_bytes());
        assert_eq!(status, 200, "{step}: {signed}");
        let payload = URL_SAFE_NO_PAD.decode(signed["payload"].as_str().unwrap()).unwrap();
        serde_json::from_slice(&payload).unwrap()
    }

    /// Begins an attempt. Returns the order of an earlier attempt that goes on.
    pub(super) fn begin(&self) -> Value {
        let (status, answer) = self.post("report", b"\"begin\"");
        assert_eq!(status, 200, "{answer}");
        answer["order"].clone()
    }

    /// Orders a certificate. Returns the file of the certificate request.
    pub(super) fn order(&self) -> PathBuf {
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
    pub(super) fn key_of(&self, csr: &Path) -> String {
        succeed(Command::new("openssl").args(["req", "-inform", "DER", "-noout", "-pubkey", "-in"]).arg(csr))
    }

    /// Certifies a request with other extensions than the request has, and sends the chain.
    pub(super) fn send_with(&self, csr: &Path, extensions: &str) -> (u16, Value) {
        let [leaf, file] = ["pem", "extensions"].map(|end| csr.with_extension(end));
        fs::write(&file, extensions).unwrap();
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-inform", "DER", "-days", "90", "-in"])
            .arg(csr)
            .arg("-CA")
            .arg(self.pki.ca());
        sign.arg("-CAkey").arg(self.home.join("ca.key")).arg("-extfile").arg(file).arg("-out").arg(&leaf);
        succeed(&mut sign);
        self.post("chain", &fs::read(leaf).unwrap())
    }

    /// Certifies a request for some days that began in the past or now, and sends the chain.
    pub(super) fn send(&self, csr: &Path, days: u32, began: &str) -> (u16, Value) {
        let leaf = csr.with_extension("pem");
        let mut sign = Command::new("openssl");
        if began != "now" {
            set_clock(&mut sign, began);
        }
        sign.args(["x509", "-req", "-inform", "DER", "-copy_extensions", "copy", "-in"]);
        sign.arg(csr).args(["-days", &days.to_string(), "-CA"]).arg(self.pki.ca());
        sign.arg("-CAkey").arg(self.home.join("ca.key")).arg("-out").arg(&leaf);
        succeed(&mut sign);
        self.post("chain", &fs::read(leaf).unwrap())
    }

    /// A whole attempt. Returns the public key of the certificate.
    pub(super) fn renew(&self) -> String {
        let csr = self.order();
        let (status, answer) = self.send(&csr, 90, "-60");
        assert_eq!(status, 200, "{answer}");
        self.report(json!("end"));
        self.key_of(&csr)
    }

    pub(super) fn cert(&self, words: &[&str]) {
        succeed(&mut self.scene.daemon.keyward(&[&["cert"], words].concat()));
    }

    pub(super) fn plan(&self) -> Value {
        self.scene.plan()
    }

    /// The certificate that the next message revokes, and the reason. The agent begins, and holds
    /// the plan.
    pub(super) fn revocation(&self) -> (String, u64) {
        self.report(json!("begin"));
        let payload = self.message("revoke");
        let der = URL_SAFE_NO_PAD.decode(payload["certificate"].as_str().unwrap()).unwrap();
        let file = self.home.join("revoked.der");
        fs::write(&file, der).unwrap();
        let mut show = Command::new("openssl");
        show.args(["x509", "-inform", "DER", "-noout", "-fingerprint", "-sha256", "-in"]).arg(file);
        let shown = succeed(&mut show);
        (fingerprint_in(&shown), payload["reason"].as_u64().unwrap())
    }

    pub(super) fn fingerprint(&self) -> String {
        self.plan()["certificate"]["fingerprint"].as_str().unwrap().to_owned()
    }
}

/// The fingerprint in an answer of openssl.
fn fingerprint_in(shown: &str) -> String {
    shown.trim().split('=').nth(1).unwrap().replace(':', "").to_ascii_lowercase()
}

/// Exit status of a command, and all its words.
pub(super) fn status_of(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), words)
}

/// A line of a plan whose certificates no server shows.
pub(super) const NEVER_SERVED: &str = "listeners = [\"127.0.0.1:1\"]\n";
