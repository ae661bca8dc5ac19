//! Alert rules and the dashboard: Prometheus itself reads them, and every name in them is a metric
//! of docs/metrics.md, which is the list of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::tool::{Process, run, succeed, wait_for};
use keyward_tests::{Daemon, built, free_port};
use serde_json::{Value, json};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn rules() -> PathBuf {
    path("conf/prometheus/keyward.rules.yml")
}

fn dashboard() -> Value {
    serde_json::from_slice(&fs::read(path("conf/prometheus/grafana-dashboard.json")).unwrap()).unwrap()
}

/// The metrics of docs/metrics.md, and the labels of each.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(path("docs/metrics.md")).unwrap();
    let in_quotes = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `keyward_"));
    rows.map(|row| {
        let (name, rest) = row.split_once('`').unwrap();
        (format!("keyward_{name}"), in_quotes(rest.strip_prefix(" |").unwrap().split('|').next().unwrap()))
    })
    .collect()
}

/// Asserts that the names of metrics in an expression are names of the manual.
fn assert_known(expression: &str) {
    let known = documented();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = expression.split(|c| !is_part(c)).filter(|word| word.starts_with("keyward_"));
    let mut count = 0;
    for name in names {
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        assert!(known.contains_key(family.unwrap_or(name)), "{name} is not in docs/metrics.md: {expression}");
        count += 1;
    }
    assert!(count > 0 || expression.starts_with("up{"), "no metric of Keyward: {expression}");
}

/// Asserts that these labels are labels of some metric, or of Prometheus.
fn assert_known_labels<'a>(labels: impl Iterator<Item = &'a str>) {
    let known: BTreeSet<_> = documented().into_values().flatten().collect();
    for label in labels {
        assert!(known.contains(label) || ["instance", "job"].contains(&label), "label {label}");
    }
}

/// The queries of the dashboard, with values for the variables of Grafana.
fn queries() -> Vec<String> {
    let board = dashboard();
    let panels = board["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let annotations = board["annotations"]["list"].as_array().unwrap();
    let expressions = targets.chain(annotations).map(|one| one["expr"].as_str().unwrap());
    expressions.map(|text| text.replace("$__rate_interval", "5m").replace("$instance", ".*")).collect()
}

#[test]
fn alert_rules_fire_when_they_should_and_at_no_other_time() {
    succeed(Command::new("promtool").args(["check", "rules"]).arg(rules()));
    let tests = path("tests/tests/e2e/alerts.yml");
    succeed(Command::new("promtool").args(["test", "rules"]).arg(&tests));
    let (rules, tests) = (fs::read_to_string(rules()).unwrap(), fs::read_to_string(tests).unwrap());
    let names: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 20, "{names:?}");
    let page = fs::read_to_string(path("docs/metrics.md")).unwrap();
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "{name} in docs/metrics.md");
        let test = format!("alertname: {name}\n");
        let mut tested = tests.split(&test).skip(1);
        assert!(tested.any(|rest| rest.trim_start().starts_with("exp_alerts:")), "{name} never fires");
        assert!(tests.contains(&format!("alertname: {name} }}")), "{name} always fires");
    }
}

/// Asserts that a rule, as Prometheus has it, names metrics, labels and commands that exist.
fn assert_good_rule(rule: &Value) {
    assert_known(rule["query"].as_str().unwrap());
    assert!(
        ["info", "warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()),
        "{rule}"
    );
    for text in ["summary", "description"].map(|name| rule["annotations"][name].as_str().unwrap()) {
        assert!(text.len() > 20 && !text.ends_with('.'), "{text}");
        assert_known_labels(text.split("$labels.").skip(1).filter_map(|rest| rest.split(' ').next()));
        if let Some((_, command)) = text.split_once("See: keyward ") {
            let words = command.split(' ').filter(|word| word.chars().all(|c| c.is_ascii_lowercase()));
            succeed(Command::new(built("keyward")).args(words).arg("--help"));
        }
    }
}

#[test]
fn the_dashboard_names_metrics_that_exist() {
    let board = dashboard();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in board["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "twice: {panel}");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in side("x")..side("x") + side("w") {
            assert!(x < 24, "too wide: {panel}");
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "over another one: {panel}");
            }
        }
        let is_row = panel["type"] == "row";
        assert!(is_row || panel["datasource"]["uid"] == "${datasource}", "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let legend = target["legendFormat"].as_str().unwrap();
            assert_known_labels(legend.split("{{").skip(1).map(|rest| rest.split_once("}}").unwrap().0));
        }
    }
    let queries = queries();
    assert!(queries.len() > 30, "{}", queries.len());
    for query in &queries {
        assert_known(query);
        for by in query.split(" by (").skip(1) {
            let labels = by.split_once(')').unwrap().0.split(", ");
            assert_known_labels(labels.filter(|label| *label != "le"));
        }
    }
}

/// Prometheus scrapes the port, loads the rules, and answers each query of the dashboard.
#[test]
fn prometheus_scrapes_the_port_and_answers_the_dashboard() {
    let target = format!("127.0.0.1:{}", free_port());
    let daemon = Daemon::start_with(&format!("[metrics]\nlisten = \"{target}\"\n"));
    daemon.generate("shop", "p256");
    let address = format!("127.0.0.1:{}", free_port());
    let configuration = json!({
        "global": {"scrape_interval": "200ms", "evaluation_interval": "1s"},
        "rule_files": [rules()],
        "scrape_configs": [{"job_name": "keyward", "static_configs": [{"targets": [target]}]}],
    });
    // JSON is YAML.
    fs::write(daemon.path("prometheus.yml"), configuration.to_string()).unwrap();
    let mut prometheus = Command::new("prometheus");
    prometheus.arg(format!("--web.listen-address={address}"));
    prometheus.arg("--config.file").arg(daemon.path("prometheus.yml"));
    prometheus.arg("--storage.tsdb.path").arg(daemon.path("prometheus"));
    let _prometheus = Process::start(&mut prometheus, &daemon.path("prometheus.log"));
    let get = |path: &str, query: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--get", "--data-urlencode", &format!("query={query}")]);
        let output = run(curl.arg(format!("http://{address}/api/v1/{path}")));
        serde_json::from_slice::<Value>(&output.stdout).ok()
    };
    let value = |query: &str| {
        let answer = get("query", query)?;
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let keys = "keyward_keys{job=\"keyward\"}";
    wait_for("the scrape", || (value(keys).as_deref() == Some("1")).then_some(()));
    assert_eq!(value("up{job=\"keyward\"}").as_deref(), Some("1"));
    for query in queries() {
        let answer = get("query", &query).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
    }
    assert_eq!(value("count(keyward_backend_ready == 0) or vector(0)").as_deref(), Some("0"));
    let evaluated = || {
        let answer = get("rules", "")?;
        let groups = answer["data"]["groups"].as_array()?.iter();
        let rules: Vec<_> = groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect();
        (!rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")).then_some(rules)
    };
    let rules = wait_for("the rules", evaluated);
    assert!(rules.len() >= 20, "{rules:?}");
    rules.iter().for_each(assert_good_rule);
}
