//! Reports about units: on the command line, at /ready, and in metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use keyward_client::Input;
use keyward_proto::Scheme;
use keyward_tests::tool::{Process, run, succeed, wait_for};
use keyward_tests::{Daemon, Fault, Pki, Proxy, UnitServer, Units, free_port, scratch};
use serde_json::Value;
use tempfile::TempDir;

use super::{sign, unit_list};

/// Three units: one is healthy, one does not exist, one has another master key.
struct Scene {
    daemon: Daemon,
    proxies: Vec<Proxy>,
    servers: [UnitServer; 2],
    _directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let servers = ["right", "wrong"]
            .map(|name| units.start_with_master_key(name, &units.master_key(&format!("{name}.key")), &[]));
        let proxies: Vec<_> =
            [0, 0, 1].iter().map(|number: &usize| Proxy::start(servers[*number].socket_address())).collect();
        let endpoints: Vec<_> = proxies.iter().map(Proxy::address).collect();
        let mut daemon = Daemon::prepare_for_units(units.section(&endpoints, ""), "");
        // The first key decides which master key the backend uses.
        proxies[1].set(Fault::Refuse);
        proxies[2].set(Fault::Refuse);
        daemon.resume();
        daemon.generate_for("shop", "p256", "any");
        proxies[2].set(Fault::None);
        let scene = Self { daemon, proxies, servers, _directory: directory };
        scene.wait_for_health(2, "probing");
        scene
    }

    fn wait_for_health(&self, unit: usize, health: &str) {
        wait_for(health, || (unit_list(&self.daemon)[unit]["health"] == health).then_some(()));
    }

    fn sign(&self) {
        let signed = sign(&self.daemon, "shop", Scheme::EcdsaSecp256r1Sha256, Input::Message(b"text"));
        signed.unwrap_or_else(|error| panic!("{error}\n{}", self.daemon.log()));
    }

    /// Findings of the doctor about units: verdict, detail and what to do. Also whether there is no
    /// failure.
    fn doctor(&self) -> (Vec<[String; 3]>, bool) {
        let output = run(&mut self.daemon.keyward(&["doctor", "--json"]));
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let of_units = findings.iter().filter(|finding| finding["check"] == "unit");
        let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let found = of_units.map(|finding| ["verdict", "detail", "fix"].map(|name| text(finding, name)));
        let failed = findings.iter().any(|finding| finding["verdict"] == "fail");
        assert_eq!(output.status.code(), Some(if failed { 78 } else { 0 }), "{findings:?}");
        (found.collect(), !failed)
    }
}

#[test]
fn units_that_are_up_down_and_with_another_master_key() {
    let mut scene = Scene::new();
    scene.sign();
    let wkids = [0, 1].map(|number: usize| scene.servers[number].wkid());
    let units = unit_list(&scene.daemon);
    let fields = ["backend", "health", "breaker", "wkid", "problem"];
    let [right, gone, wrong] = [0, 1, 2].map(|number: usize| {
        assert_eq!(units[number]["address"], *scene.proxies[number].address());
        fields.map(|field| units[number][field].as_str().unwrap_or_default())
    });
    assert_eq!(right, ["hsm", "up", "closed", &wkids[0], ""]);
    assert_eq!(gone[..4], ["hsm", "down", "open", ""]);
    assert!(gone[4].starts_with("cannot connect: ") && gone[4].contains("refused"), "{}", gone[4]);
    assert_eq!(wrong, ["hsm", "probing", "half-open", &wkids[1], ""]);
    let marked: Vec<_> = units.iter().map(|unit| unit["other_master_key"] == true).collect();
    assert_eq!(marked, [false, false, true]);
    let count = |field: &str| units[0][field].as_u64().unwrap();
    assert!(count("calls") >= 3 && count("latency_us") > 0 && count("failures") == 0, "{}", units[0]);
    assert!(units[0]["mechanisms"].as_array().unwrap().contains(&"CKM_ECDSA".into()), "{}", units[0]);

    let table = succeed(&mut scene.daemon.keyward(&["unit", "list"]));
    let line = |number: usize, words: &[&str]| {
        let address = format!(" {} ", scene.proxies[number].address());
        let found = table.lines().find(|line| line.contains(&address));
        assert!(found.is_some_and(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {table}");
    };
    assert!(table.lines().all(|line| line.len() < 80 || line.contains(": ")), "{table}");
    line(0, &["hsm ", " up ", " ms ", &wkids[0][..8]]);
    line(1, &["hsm ", " down "]);
    line(2, &["hsm ", " probing ", &format!("{}, wrong", &wkids[1][..8])]);
    assert!(table.contains(&format!("\n{} of hsm: cannot connect: ", scene.proxies[1].address())), "{table}");
    assert!(table.contains("embedded") && table.contains("in this process"), "{table}");

    let (found, _) = scene.doctor();
    let names = [0, 1, 2].map(|number: usize| format!("{} of backend hsm", scene.proxies[number].address()));
    assert_eq!(found[0], ["ok".to_owned(), format!("{} is up", names[0]), String::new()]);
    for (number, state, advice) in [
        (1, "is down: cannot connect", "check the unit"),
        (2, "another master key", "master key of the other units"),
    ] {
        let [verdict, detail, fix] = &found[number];
        assert!(verdict == "fail" && detail.starts_with(&names[number]), "{found:?}");
        assert!(detail.contains(state) && fix.contains(advice), "{found:?}");
    }
    let text = String::from_utf8_lossy(&run(&mut scene.daemon.keyward(&["doctor"])).stdout).into_owned();
    assert_eq!(text.matches("FAIL  unit: ").count(), 2, "{text}");
    assert_eq!(
        text.matches("\n      fix: ").count(),
        text.matches("FAIL").count() + text.matches("warn").count(),
        "{text}"
    );

    // One unit is enough, and a unit with another master key does not count.
    let (status, text) = scene.daemon.get("/ready");
    assert!(status == 200 && text.starts_with("ready\n"), "{status} {text}");
    scene.servers[0].stop();
    scene.wait_for_health(0, "down");
    let (status, text) = scene.daemon.get("/ready");
    assert!(status == 503 && text.starts_with("no unit of backend hsm can sign with its keys\n"), "{text}");
    assert_eq!(scene.daemon.get("/live"), (200, "live\n".into()));
    assert_eq!(scene.daemon.get("/alive").0, 404);
}

/// The trace id that the daemon logs leads to the failed signature in the log of the unit.
#[test]
fn a_request_has_one_name_in_all_logs() {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let server = units.start("unit", &["--simulate-refused", "CKM_RSA_PKCS"]);
    let section = units.section(&[server.address()], "");
    let mut daemon = Daemon::prepare_for_units(section, "");
    daemon.resume();
    daemon.generate_for("shop", "rsa2048", "any");
    let refused = sign(&daemon, "shop", Scheme::RsaPkcs1Sha256, Input::Message(b"text"));
    refused.unwrap_err();
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("outcome=not-supported")).unwrap();
    let (_, trace) = line.split_once("trace=").unwrap();
    let (id, _) = trace.split_at(32);
    let words = ["rpc=\"SignSingle\"", "CKR_MECHANISM_PARAM_INVALID", &format!("00-{id}-")];
    let log = server.log();
    assert!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {log}");
}

#[test]
fn what_the_doctor_says_helps() {
    let scene = Scene::new();
    scene.proxies[1].set(Fault::None);
    // Cut off at this end, because the daemon need not notice here.
    scene.proxies[2].set(Fault::Reset);
    scene.proxies[2].retarget(scene.servers[0].socket_address());
    scene.proxies[2].set(Fault::None);
    let well = || {
        unit_list(&scene.daemon)
            .iter()
            .all(|unit| unit["health"] != "down" && unit["other_master_key"] == false)
    };
    wait_for("three units", || well().then_some(()));
    let (found, well) = scene.doctor();
    assert!(well && found.len() == 3 && found.iter().all(|[verdict, ..]| verdict == "ok"), "{found:?}");
}

#[test]
fn metrics() {
    let scene = Scene::new();
    let p256 = Scheme::EcdsaSecp256r1Sha256;
    let here = ["key", "generate", "here", "--type", "p256", "--use", "any", "--backend", "embedded"];
    succeed(&mut scene.daemon.keyward(&here));
    scene.daemon.generate_for("mail", "rsa2048", "any");
    scene.daemon.generate("web", "p256");
    let sign = |label, scheme| sign(&scene.daemon, label, scheme, Input::Message(b"text"));
    (0..7).for_each(|_| scene.sign());
    (0..2).for_each(|_| drop(sign("mail", Scheme::RsaPssRsaeSha256).unwrap()));
    sign("here", p256).unwrap();
    sign("web", p256).unwrap_err();
    let before = Page::get(&scene.daemon);
    scene.proxies.iter().for_each(|proxy| proxy.set(Fault::Refuse));
    [0, 2].iter().for_each(|unit| scene.wait_for_health(*unit, "down"));
    (0..3).for_each(|_| drop(sign("shop", p256).unwrap_err()));
    let page = Page::get(&scene.daemon);

    // Signatures, without those that test new keys.
    let times = |backend: &str, scheme: &str, outcome: &str, phase: &str| {
        let labels = [("backend", backend), ("scheme", scheme), ("outcome", outcome), ("phase", phase)];
        page.assert_histogram("keyward_signature_seconds", &labels);
        page.sum("keyward_signature_seconds_count", &labels)
    };
    for phase in ["queue", "network", "unit", "verify"] {
        assert_eq!(times("hsm", "ecdsa_secp256r1_sha256", "done", phase), 7.0, "{phase}");
        assert_eq!(times("hsm", "rsa_pss_rsae_sha256", "done", phase), 2.0, "{phase}");
        assert_eq!(times("hsm", "ecdsa_secp256r1_sha256", "unit-unavailable", phase), 3.0, "{phase}");
        let embedded = if phase == "unit" { 1.0 } else { 0.0 };
        assert_eq!(times("embedded", "ecdsa_secp256r1_sha256", "done", phase), embedded, "{phase}");
    }
    assert_eq!(page.sum("keyward_signature_seconds_count", &[]), 4.0 * 12.0 + 1.0);
    let asked = |outcome| page.sum("keyward_signatures_total", &[("outcome", outcome), ("purpose", "other")]);
    assert_eq!(["done", "use-refused", "unit-unavailable"].map(asked), [10.0, 1.0, 3.0]);
    assert_eq!(page.sum("keyward_signatures_total", &[]), 14.0);
    assert_eq!(page.sum("keyward_requests_total", &[]), 14.0);

    let ready = |page: &Page| {
        ["hsm", "embedded"].map(|backend| page.sum("keyward_backend_ready", &[("backend", backend)]))
    };
    assert_eq!((ready(&before), ready(&page)), ([1.0, 1.0], [0.0, 1.0]));
    let of_units = |page: &Page, name: &str| {
        [0, 1, 2].map(|number: usize| {
            page.sum(name, &[("backend", "hsm"), ("unit", &scene.proxies[number].address())])
        })
    };
    assert_eq!(of_units(&before, "keyward_unit_up"), [1.0, 0.0, 1.0]);
    assert_eq!(of_units(&page, "keyward_unit_up"), [0.0; 3]);
    // Calls that make keys count here.
    assert!(of_units(&page, "keyward_unit_calls_total")[0] >= 9.0 + 6.0);
    assert_eq!(of_units(&page, "keyward_unit_calls_total")[1..], [0.0; 2]);
    assert_eq!(of_units(&before, "keyward_unit_failures_total"), [0.0; 3]);
    assert!(of_units(&page, "keyward_unit_failures_total")[0] >= 1.0);
    assert_eq!(page.sum("keyward_backend_waiting", &[("backend", "hsm")]), 0.0);
    assert!(of_units(&before, "keyward_unit_latency_seconds")[0] > 0.0);

    let pki = Pki::new(scene.daemon.directory());
    let certificate = pki.certify(&scene.daemon, &scene.daemon.reference("web"));
    let words = ["cert", "attach", "web", "--in", certificate.to_str().unwrap()];
    succeed(&mut scene.daemon.keyward(&words));
    let certified = "keyward_certificate_not_after_timestamp_seconds";
    wait_for(certified, || scene.daemon.get("/metrics").1.contains(certified).then_some(()));
    assert_documented(&Page::get(&scene.daemon));
    assert_read_by_others(&scene.daemon);
}

/// Asserts that Prometheus and a node exporter read the page.
fn assert_read_by_others(daemon: &Daemon) {
    let textfiles = daemon.path("textfiles");
    fs::create_dir(&textfiles).unwrap();
    fs::write(textfiles.join("keyward.prom"), daemon.get("/metrics").1).unwrap();
    let page = fs::File::open(textfiles.join("keyward.prom")).unwrap();
    let output = Command::new("promtool").args(["check", "metrics"]).stdin(page).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && told.is_empty(), "{}", String::from_utf8_lossy(&told));

    let address = format!("127.0.0.1:{}", free_port());
    let mut exporter = Command::new("prometheus-node-exporter");
    exporter.args(["--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory"]);
    exporter.arg(&textfiles).arg(format!("--web.listen-address={address}"));
    let log = daemon.path("exporter.log");
    let _exporter = Process::start(&mut exporter, &log);
    let exported = wait_for("the node exporter", || {
        let mut curl = Command::new("curl");
        let output = run(curl.args(["--silent", "--fail"]).arg(format!("http://{address}/metrics")));
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    });
    let passed_on = |line: &str| assert!(exported.lines().any(|one| one == line), "{line}: {exported}");
    passed_on("node_textfile_scrape_error 0");
    passed_on(concat!("keyward_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"));
    passed_on("# TYPE keyward_signatures_total counter");
    passed_on("# TYPE keyward_signature_seconds histogram");
}

/// Asserts that the metrics are exactly those of docs/metrics.md.
fn assert_documented(page: &Page) {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).unwrap();
    let documented: BTreeSet<_> = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `keyward_")?.split_once('`')?.0))
        .filter(|name| *name != "backend_token_seconds")
        .map(|name| format!("keyward_{name}"))
        .collect();
    let families: BTreeSet<_> = (page.0.iter())
        .map(|sample| {
            let histogram = ["_bucket", "_count", "_sum"];
            let name = histogram.iter().find_map(|suffix| sample.name.strip_suffix(suffix));
            name.unwrap_or(&sample.name).to_owned()
        })
        .collect();
    // No connection was closed, nothing was decrypted, and there is no plan here.
    let unseen: Vec<_> = documented.difference(&families).collect();
    let of_plans = [
        "keyward_acme_failures_total",
        "keyward_acme_last_success_timestamp_seconds",
        "keyward_certificate_last_success_timestamp_seconds",
        "keyward_certificate_looked_timestamp_seconds",
        "keyward_certificate_missing",
        "keyward_certificate_renewal_failures",
        "keyward_certificate_renewal_timestamp_seconds",
        "keyward_certificate_served",
        "keyward_certificate_served_not_after_timestamp_seconds",
        "keyward_connections_closed_total",
        "keyward_decryptions_total",
        "keyward_watched_certificate_found",
        "keyward_watched_certificate_not_after_timestamp_seconds",
        "keyward_watched_certificate_not_before_timestamp_seconds",
    ];
    assert_eq!(unseen, of_plans);
    assert!(families.is_subset(&documented), "{families:?}");
}

/// A page of metrics, parsed strictly.
struct Page(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Page {
    fn get(daemon: &Daemon) -> Self {
        let mut command = daemon.curl();
        command.args(["--fail", "--write-out", "%{content_type}", "http://localhost/metrics"]);
        let answer = succeed(&mut command);
        let (text, content_type) = answer.rsplit_once('\n').unwrap();
        assert!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
        let mut families = BTreeSet::new();
        let mut samples = Vec::new();
        for line in text.lines() {
            match line.strip_prefix("# ") {
                Some(about) => {
                    let [what, name, _] = about.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                        panic!("{line}")
                    };
                    assert!(["HELP", "TYPE"].contains(&what), "{line}");
                    families.insert(name.to_owned());
                }
                None => {
                    let sample = Sample::read(line).unwrap_or_else(|| panic!("{line}"));
                    assert!(families.iter().any(|family| sample.name.starts_with(family)), "{line}");
                    samples.push(sample);
                }
            }
        }
        Self(samples)
    }

    fn with<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let fits = |sample: &Sample| {
            labels.iter().all(|(name, value)| sample.labels.get(*name).is_some_and(|found| found == value))
        };
        self.0.iter().filter(move |sample| sample.name == name && fits(sample))
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.with(name, labels).map(|sample| sample.value).sum()
    }

    /// Asserts that the buckets grow up to the total count.
    fn assert_histogram(&self, name: &str, labels: &[(&str, &str)]) {
        let bucket = format!("{name}_bucket");
        let buckets: Vec<_> = self.with(&bucket, labels).collect();
        assert!(buckets.is_sorted_by(|a, b| a.value <= b.value), "{buckets:?}");
        let Some(last) = buckets.last() else { return };
        assert_eq!((&*last.labels["le"], last.value), ("+Inf", self.sum(&format!("{name}_count"), labels)));
        assert!(self.sum(&format!("{name}_sum"), labels) >= 0.0);
    }
}

impl Sample {
    /// Reads `name{label="value",...} value`. No value may need escaping.
    fn read(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}')?),
            None => (series, ""),
        };
        let word = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        let labels: Option<BTreeMap<_, _>> = (labels.split(',').filter(|label| !label.is_empty()))
            .map(|label| {
                let (name, value) = label.split_once('=')?;
                let value = value.strip_prefix('"')?.strip_suffix('"')?;
                (word(name) && !value.contains(['"', '\\'])).then(|| (name.to_owned(), value.to_owned()))
            })
            .collect();
        word(name).then_some(Self { name: name.to_owned(), labels: labels?, value: value.parse().ok()? })
    }
}
