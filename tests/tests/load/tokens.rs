//! Access tokens of units that are refused, replaced, and fetched from IAM, under load.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use keyward_client::{Error, Input, Label};
use keyward_proto::Outcome;
use keyward_tests::backend::Units;
use keyward_tests::tool::{Process, fail, succeed, wait_for};
use keyward_tests::{Daemon, Signers, scratch};
use tempfile::TempDir;

use super::faults::{SCHEME, client, message, none_failed, path};

#[test]
fn tokens_that_are_refused_are_replaced() {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let (known, sent) = (directory.path().join("known"), directory.path().join("sent"));
    let write = |path: &Path, token: &str| {
        fs::write(path, format!("{token}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    };
    write(&known, "the-first-token-of-the-unit");
    write(&sent, "the-first-token-of-the-unit");
    let server = units.start("unit", &["--token-file", path(&known)]);
    let settings = format!("auth = \"token\"\ntoken-file = {sent:?}\n");
    let mut daemon = Daemon::prepare_for_units(units.section(&[server.address()], &settings), "");
    daemon.resume();
    daemon.generate("shop", "p256");
    let sign = || client(&daemon).sign(&"shop".parse::<Label>().unwrap(), SCHEME, Input::Message(&message()));
    sign().unwrap();

    // Both sides change the token: no signature fails.
    write(&sent, "the-second-token-of-the-unit");
    write(&known, "the-second-token-of-the-unit");
    server.reload("tokens");
    for _ in 0..5 {
        sign().unwrap();
    }
    // Only the unit changes the token: signatures fail, with a log line, until the daemon has the
    // token.
    write(&known, "the-third-token-of-the-unit");
    server.reload("tokens");
    assert!(matches!(sign(), Err(Error::Refused(Outcome::UnitUnavailable))), "{:?}", sign());
    assert!(daemon.logged(&["unit is down", "CKR_IBM_GREP11_NOT_AUTHENTICATED"]) >= 1, "{}", daemon.log());
    assert!(!daemon.log().contains("the-second-token"), "a token in the log");
    write(&sent, "the-third-token-of-the-unit");
    let back = Instant::now();
    wait_for("a signature", || sign().ok());
    assert!(back.elapsed() < Duration::from_secs(1), "back after {:?}", back.elapsed());
}

#[test]
fn tokens_of_iam_are_fetched_ahead_of_their_end_and_once_for_all() {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let known = directory.path().join("known");
    let tokens: String = (1..100).map(|number| format!("token-number-{number}-of-iam\n")).collect();
    fs::write(&known, tokens).unwrap();
    fs::set_permissions(&known, Permissions::from_mode(0o600)).unwrap();
    let server = units.start("unit", &["--token-file", path(&known)]);
    let iam = Iam::start(&units, "2");
    // A service of systemd gets the API key as a credential.
    let settings = iam.settings(API_KEY);
    let settings: String = settings
        .lines()
        .filter(|line| !line.starts_with("api-key-file"))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut daemon = Daemon::prepare_for_units(units.section(&[server.address()], &settings), "");
    daemon.set_variable("CREDENTIALS_DIRECTORY", iam.directory.path().to_owned());
    daemon.set_variable("SSL_CERT_FILE", units.ca());
    daemon.resume();
    daemon.generate("shop", "p256");
    assert_eq!(iam.answered("200"), 1, "one for the probe, the key and its proof");

    // The load lasts longer than two tokens are valid.
    let load = Signers::start(&daemon, "shop", SCHEME, 200.0, 32);
    wait_for("three tokens", || (iam.answered("200") >= 3).then_some(()));
    none_failed(&load.stop(), &daemon.log());
    assert!(iam.answered("200") <= 5, "{} tokens", iam.answered("200"));
    let holds = daemon.metric("keyward_backend_token_seconds", &["backend=\"hsm\""]);
    assert!(holds > 0.0 && holds <= 2.0, "{holds}");

    // The token service is away for longer than a token is valid: the daemon logs an error, and
    // recovers.
    iam.set("refuse");
    wait_for("a line about it", || {
        let words = ["ERROR", "cannot get an access token", "status 503", "Service is not available."];
        (daemon.logged(&words) > 0).then_some(())
    });
    let sign = || client(&daemon).sign(&"shop".parse::<Label>().unwrap(), SCHEME, Input::Message(&message()));
    wait_for("the last token to end", || sign().err());
    iam.set("600");
    wait_for("a signature", || sign().ok());
    for secret in [API_KEY, "token-number"] {
        assert!(!daemon.log().contains(secret), "{secret} in the log");
    }
}

#[test]
fn a_token_that_iam_gives_and_units_refuse_is_not_asked_for_again_and_again() {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let known = directory.path().join("known");
    fs::write(&known, "a-token-of-somebody-else\n").unwrap();
    fs::set_permissions(&known, Permissions::from_mode(0o600)).unwrap();
    let server = units.start("unit", &["--token-file", path(&known)]);
    let iam = Iam::start(&units, "600");
    let section = units.section(&[server.address()], &iam.settings(API_KEY));
    let mut daemon = Daemon::prepare_for_units(section, "");
    daemon.set_variable("SSL_CERT_FILE", units.ca());
    daemon.resume();
    for _ in 0..20 {
        fail(&mut daemon.new_key(&["generate", "shop", "--type", "p256"]));
    }
    assert_eq!(iam.answered("200"), 1, "{}", daemon.log());
    assert!(
        daemon.logged(&["ERROR", "refused the token, and there is no other token"]) > 0,
        "{}",
        daemon.log()
    );
}

#[test]
fn an_api_key_that_iam_does_not_know_is_told() {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let server = units.start("unit", &[]);
    let iam = Iam::start(&units, "600");
    let section = units.section(&[server.address()], &iam.settings("another-key"));
    let mut daemon = Daemon::prepare_for_units(section, "");
    daemon.set_variable("SSL_CERT_FILE", units.ca());
    daemon.resume();
    let words = ["ERROR", "cannot get an access token", "status 400", "Provided API key could not be found."];
    assert!(daemon.logged(&words) > 0, "{}", daemon.log());
    let (_, text) = fail(&mut daemon.new_key(&["generate", "shop", "--type", "p256"]));
    assert!(text.lines().count() == 1 && text.contains("Provided API key could not be found."), "{text}");
    let list = succeed(&mut daemon.keyward(&["unit", "list"]));
    assert!(list.contains("Provided API key could not be found."), "{list}");
}

/// The part of IBM Cloud's token service that the daemon uses: see tests/grep11/iam.py.
struct Iam {
    directory: TempDir,
    _process: Process,
}

impl Iam {
    fn start(units: &Units, mode: &str) -> Self {
        let directory = scratch();
        fs::write(directory.path().join("mode"), mode).unwrap();
        let mut command = Command::new("/usr/bin/python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/grep11/iam.py"));
        command.args(units.server()).arg(directory.path());
        let process = Process::start(&mut command, &directory.path().join("log"));
        wait_for("the token service", || directory.path().join("port").exists().then_some(()));
        Self { directory, _process: process }
    }

    /// Settings for a daemon that has the API key in a file. The file also serves as the credential
    /// of the same name.
    fn settings(&self, api_key: &str) -> String {
        let file = self.directory.path().join(format!("{}.api-key", Units::BACKEND));
        fs::write(&file, api_key).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let port = fs::read_to_string(self.directory.path().join("port")).unwrap();
        format!(
            "auth = \"iam\"\napi-key-file = {file:?}\niam-url = \"https://localhost:{port}/identity/token\"\n"
        )
    }

    fn set(&self, mode: &str) {
        fs::write(self.directory.path().join("mode"), mode).unwrap();
    }

    /// Number of requests that ended with a status.
    fn answered(&self, status: &str) -> usize {
        let requests = fs::read_to_string(self.directory.path().join("requests")).unwrap_or_default();
        requests.lines().filter(|line| *line == status).count()
    }
}

const API_KEY: &str = "the-api-key+of/the=test";
