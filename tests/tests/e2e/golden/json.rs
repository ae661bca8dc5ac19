//! The JSON that commands print and that the administrators' socket answers with: names of fields
//! and types of values, from a daemon with used keys, a certificate and a plan.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::server::users;
use keyward_tests::tool::{fail, run, stderr, succeed, wait_for};
use keyward_tests::{Daemon, Pki, built, golden};
use serde_json::{Deserializer, Value};

#[test]
fn golden_json_of_commands_and_routes() {
    let daemon = Daemon::start();
    let (used, refused) = (key(&daemon, "used"), key(&daemon, "refused"));
    succeed(&mut request(&daemon, &used));
    succeed(&mut daemon.keyward(&["key", "disable", "refused"]));
    fail(&mut request(&daemon, &refused));
    let certificate = Pki::new(daemon.directory()).certify(&daemon, &used);
    daemon.import("imported", "p256");
    // Records of uses are written a moment later.
    for (question, label) in [(&["audit", "users", "used"][..], "times"), (&["audit", "refusals"], "refused")]
    {
        let answer = || succeed(daemon.keyward(question).arg("--json"));
        wait_for("a record", || answer().contains(label).then_some(()));
    }

    let mut facts = BTreeSet::new();
    let steps = STEPS.replace("CHAIN", &certificate.display().to_string());
    let steps = steps.replace("PEER", &users()[0].to_string());
    let steps = steps.replace("HERE", &daemon.directory().display().to_string());
    let mut done = BTreeSet::new();
    for step in steps_of(&steps) {
        let (name, rest) = step.split_once(" : ").unwrap_or((step, ""));
        for value in answers(&daemon, name, rest) {
            add(&mut facts, name, "", &value);
        }
        done.insert(name.to_owned());
    }
    let elsewhere: BTreeSet<_> = steps_of(ELSEWHERE).map(str::to_owned).collect();
    let missing: BTreeSet<_> = everything().difference(&done).cloned().collect();
    assert_eq!(missing, elsewhere, "commands and routes without a step, and their list");
    let text: String = facts.iter().map(|fact| format!("{fact}\n")).collect();
    golden::check("json.txt", &text);
}

/// Commands and routes whose JSON is asked for, each with its words: of a command, or the query
/// and the body of a request. `{label}` is `used`, `{name}` is the plan or the backend.
const STEPS: &str = r#"
    keyward key generate : made --type p256
    POST /v1/keys : {"label": "other", "type": "p256", "uses": ["csr"]}
    POST /v1/generate : {"labels": ["several", "several"], "type": "p256", "uses": ["csr"]}
    keyward key import : again --in HERE/imported.key
    POST /v1/keys/{label}/import : /v1/keys/third/import @HERE/imported.key
    keyward key set-uses : made --use tls-server --use csr
    keyward key reference : made
    keyward cert attach : used --in CHAIN
    keyward cert list
    keyward cert check
    keyward csr : used --subject /CN=shop.example
    keyward key list
    keyward key show : used
    GET /v1/keys
    GET /v1/keys/{label}
    GET /v1/keys/{label}/access : ?uid=PEER&gid=PEER
    keyward cert detach : used
    PUT /v1/keys/{label}/certificates : @CHAIN
    DELETE /v1/keys/{label}/certificates
    keyward audit users : used
    keyward audit unused
    keyward audit refusals
    keyward key rotate : made
    POST /v1/keys/{label}/rotate
    keyward key set-dates : made --not-before 2020-01-01 --not-after 2100-01-01
    keyward key disable : made
    keyward key enable : made
    PATCH /v1/keys/{label} : {"state": "disabled"}
    keyward key delete : made --yes
    keyward key restore : made
    keyward key set-deletion : made --dual
    keyward key delete : made --yes
    keyward key show : made
    keyward key compromise : other --yes
    POST /v1/keys/{label}/compromise : /v1/keys/again/compromise
    DELETE /v1/keys/{label} : /v1/keys/other?force=true
    keyward key show : other
    POST /v1/keys/{label}/restore : /v1/keys/other/restore
    DELETE /v1/keys/{label} : /v1/keys/other?force=true
    POST /v1/keys/{label}/purge : /v1/keys/other/purge
    keyward key delete : again --yes
    keyward key purge : again --yes
    keyward key repair
    POST /v1/repair
    keyward cert plan : site --issue /bin/false --names shop.example --config HERE/keyward.toml
    keyward cert status
    keyward cert watched
    keyward cert renew : site
    GET /v1/plans
    POST /v1/plans/{name}/prepare
    POST /v1/plans/{name}/renew : {"new_key": false}
    GET /v1/watched
    POST /v1/watched : []
    GET /v1/tasks
    POST /v1/plans/{name}/request
    POST /v1/plans/{name}/deployed : {"certificate": "", "listeners": {}, "problem": null}
    keyward unit list
    keyward unit status
    keyward unit admin list
    keyward unit control-points
    keyward unit importer
    GET /v1/units
    GET /v1/unit
    GET /v1/unit/importer
    keyward unit rotate
    POST /v1/unit/next
    POST /v1/backends/{name}/rewrap
    POST /v1/backends/{name}/rewrap/finish
    POST /v1/unit/next
    DELETE /v1/unit/next
    keyward unit rotate
    keyward key rewrap : --backend embedded
    keyward backup : HERE/copy
    keyward backup : --recovery HERE/recovery
    keyward backup check : HERE/copy --recovery HERE/recovery --state-dir HERE/state --config HERE/keyward.toml
    keyward setup : --dir HERE/setup --state-dir HERE/setup/state --unseal unprotected --yes --no-start
    keyward status
    keyward doctor
    keyward reload
    keyward bench : --seconds 1 --type p256
    GET /v1/status
    POST /v1/reload
    keyward audit tail : --lines 1000
    keyward audit show
    keyward audit export : HERE/audit.tar
    GET /v1/audit
"#;

fn steps_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|step| !step.is_empty())
}

/// Every command with `--json` and every route with JSON, as the other lists have them.
fn everything() -> BTreeSet<String> {
    let commands = command_line();
    let commands = commands.lines().filter_map(|line| line.strip_suffix(" [--json]"));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/admin-api.md");
    let page = fs::read_to_string(page).unwrap();
    let routes = page.lines().filter_map(|line| {
        let (method, path) = line.strip_prefix("| ")?.split_once(" | `/v1/")?;
        Some(format!("{method} /v1/{}", path.split_once('`')?.0))
    });
    commands.map(str::to_owned).chain(routes).collect()
}

/// The golden file of the command line.
fn command_line() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/command-line.txt");
    fs::read_to_string(path).unwrap()
}

fn offline(words: &[&str]) -> Command {
    let mut command = Command::new(built("keyward"));
    command.args(words);
    command
}

/// The JSON of a command or a route: one value, or one on each line.
fn answers(daemon: &Daemon, name: &str, words: &str) -> Vec<Value> {
    let mut command = match name.strip_prefix("keyward ") {
        Some(verbs) => {
            let words = verbs.split(' ').chain(words.split_whitespace()).chain(["--json"]);
            let words: Vec<_> = words.collect();
            let line = format!("{name} [--runtime-dir DIR]");
            // Some commands only read files.
            let has_daemon = command_line().lines().any(|one| one == line);
            if has_daemon { daemon.keyward(&words) } else { offline(&words) }
        }
        None => curl(daemon, name, words),
    };
    let output = run(&mut command);
    let values: Result<Vec<Value>, _> = Deserializer::from_slice(&output.stdout).into_iter().collect();
    let values = values.unwrap_or_else(|error| panic!("{name}: {error}: {}", stderr(&output)));
    let failed = values.iter().any(|value| value.get("error").is_some());
    assert!(!values.is_empty() && !failed, "{name} {words}: {values:?}{}", stderr(&output));
    values
}

/// A request for a route, with a query or a path, and a body.
fn curl(daemon: &Daemon, route: &str, words: &str) -> Command {
    let (method, path) = route.split_once(' ').unwrap();
    let name = if path.starts_with("/v1/backends") { "embedded" } else { "site" };
    let mut path = path.replace("{label}", "used").replace("{name}", name);
    let mut body = words;
    if words.starts_with(['?', '/']) {
        let (place, rest) = words.split_once(' ').unwrap_or((words, ""));
        path = if place.starts_with('/') { place.to_owned() } else { path + place };
        body = rest;
    }
    let mut curl = daemon.curl();
    curl.args(["--request", method]).arg(format!("http://localhost{path}"));
    if method != "GET" {
        curl.args(["--data-binary", body]);
    }
    curl
}

/// Adds the facts about a value at a path.
fn add(facts: &mut BTreeSet<String>, name: &str, path: &str, value: &Value) {
    let fact = format!("{name}: {path}");
    let ends_with_one_of = |list: &[&str]| list.iter().any(|end| fact.ends_with(end));
    if ends_with_one_of(&BY_MACHINE) {
        return;
    }
    let kind = match value {
        _ if ends_with_one_of(&BY_CHANCE) => "any",
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            items.iter().for_each(|item| add(facts, name, &format!("{path}[]"), item));
            "list"
        }
        Value::Object(fields) => {
            for (field, value) in fields {
                let field = if ends_with_one_of(&BY_NAME) { "*" } else { field };
                add(facts, name, &format!("{path}.{field}"), value);
            }
            return;
        }
    };
    facts.insert(format!("{fact} {kind}"));
}

/// Objects whose fields are names of data, such as outcomes.
const BY_NAME: [&str; 4] = [".outcomes", ".decryption_outcomes", ".last_refusals", ".purposes"];
/// Fields with other types at other moments. The details of a record differ by its action: see
/// docs/audit.md.
const BY_CHANCE: [&str; 3] = [".details", ".audit.unsigned_since", ".audit.signing_problem"];
/// Fields with the service of a process: a test may run in a service or in none.
const BY_MACHINE: [&str; 5] =
    [".peers[].unit", ".peer.unit", ".actor.unit", "audit users: [].unit", "audit refusals: [].unit"];
/// Commands and routes without a step. The first three answer with files, not with JSON. The others
/// need an authority, an owner of the unit, another unit, a running server or a lost key store.
const ELSEWHERE: &str = "
    GET /v1/audit/files
    GET /v1/backup
    GET /v1/recovery
    GET /v1/plans/{name}/files
    GET /v1/unit/claim
    POST /v1/keys/{label}/adopt
    POST /v1/keys/{label}/csr
    POST /v1/plans/{name}/chain
    POST /v1/plans/{name}/message
    POST /v1/plans/{name}/report
    POST /v1/plans/{name}/revoke
    POST /v1/recovery
    POST /v1/unit/commands
    POST /v1/unit/parts
    POST /v1/unit/seal
    keyward audit verify
    keyward cert revoke
    keyward key adopt
    keyward protect
    keyward restore
    keyward unit activate
    keyward unit admin add
    keyward unit admin public
    keyward unit admin remove
    keyward unit claim
    keyward unit clear
    keyward unit commit
    keyward unit compare
    keyward unit load
    keyward unit part encrypt
    keyward unit seal
    keyward unit send
    keyward unit shares
    keyward unit threshold
    keyward unit unseal
    keyward unit zeroize
";

/// A key that may sign certificate requests, and its reference.
fn key(daemon: &Daemon, label: &str) -> PathBuf {
    let words = ["key", "generate", label, "--type", "p256", "--use", "tls-server", "--use", "csr"];
    succeed(&mut daemon.keyward(&words));
    daemon.reference(label)
}

/// The openssl program, which has the daemon sign a certificate request.
fn request(daemon: &Daemon, reference: &Path) -> Command {
    let mut req = daemon.openssl(&["req", "-new", "-subj", "/CN=shop.example", "-key"]);
    req.arg(reference);
    req
}
