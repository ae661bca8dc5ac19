//! The software crypto unit as a GREP11 server, with clients in Python over TLS.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyward_tests::pki::openssl;
use keyward_tests::tool::{fail, run, succeed};
use keyward_tests::unit_server::{Python, master_key};
use keyward_tests::{Daemon, Pki, UnitServer, scratch};
use rustix::process::Signal;
use tempfile::TempDir;

/// Common parts of the servers and clients of a test.
struct Scene {
    directory: TempDir,
    pki: Pki,
    certificate: PathBuf,
    key: PathBuf,
    python: Python,
}

impl Scene {
    fn new() -> Self {
        let directory = scratch();
        let pki = Pki::new(directory.path());
        let (certificate, key) = pki.leaf("server");
        let python = Python::generate(directory.path());
        Self { directory, pki, certificate, key, python }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn master_key(&self, name: &str) -> String {
        let path = self.path(name);
        master_key(Path::new(&path));
        path
    }

    fn tls(&self) -> [&str; 4] {
        ["--tls-cert", text(&self.certificate), "--tls-key", text(&self.key)]
    }

    fn start(&self, name: &str, arguments: &[&str]) -> UnitServer {
        UnitServer::start(self.directory.path(), name, arguments)
    }

    /// The command that starts a unit with a state of its own.
    fn command(&self, listen: &str) -> Command {
        let mut command = UnitServer::command(listen);
        for (option, name) in [("--state-dir", "own.state"), ("--runtime-dir", "own.run")] {
            command.arg(option).arg(self.directory.path().join(name));
        }
        command
    }

    /// A server with TLS.
    fn start_with(&self, name: &str, more: &[&str]) -> UnitServer {
        self.start(name, &[&self.tls()[..], more].concat())
    }

    /// A server with TLS and its own master key.
    fn start_tls(&self, more: &[&str]) -> UnitServer {
        let state = self.path("state");
        self.start_with("server", &[&["--dev", "--state-dir", &state], more].concat())
    }

    fn ca(&self) -> String {
        text(&self.pki.ca()).to_owned()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the whole suite in one dialect.
fn suite(dialect: &str) {
    let scene = Scene::new();
    let (current, next) = (scene.master_key("current"), scene.master_key("next"));
    let open = ["--control-points", "open"];
    let simulated = ["--master-key", &current, "--simulate-next-master-key", &next];
    let server = scene.start_with("server", &[&simulated[..], &open].concat());
    let other = scene.start_with("other", &[&["--master-key", &current], &open[..]].concat());
    let after = scene.start_with("after", &[&["--master-key", &next], &open[..]].concat());
    let strict = scene.start_with("strict", &["--master-key", &current]);
    let tls = scene.start_with("tls", &["--master-key", &current, "--control-points", "tls"]);
    assert!(server.log().contains("control points open") && !strict.log().contains("control points open"));
    let mut command = scene.python.command();
    command.args(["-m", "unittest", "discover", "-s"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("grep11")).arg("--failfast");
    command.env("KEYWARD_CA", scene.ca()).env("KEYWARD_DIALECT", dialect);
    command.env("KEYWARD_ADDRESS", server.address());
    command.env("KEYWARD_OTHER_ADDRESS", other.address());
    command.env("KEYWARD_NEXT_ADDRESS", after.address());
    command.env("KEYWARD_STRICT_ADDRESS", strict.address());
    command.env("KEYWARD_TLS_ADDRESS", tls.address());
    let output = run(&mut command);
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}\n{}", server.log());
    let ran = report.split("\nRan ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(ran.is_some_and(|ran| ran >= 60), "{report}");
    assert!(!report.contains("skipped"), "{report}");
}

#[test]
fn clients_that_send_key_blobs() {
    suite("keyblob");
}

#[test]
fn clients_that_send_bytes() {
    suite("bytes");
}

#[test]
fn certificates_of_clients() {
    let scene = Scene::new();
    let ca = scene.ca();
    let server = scene.start_tls(&["--client-ca", &ca]);
    let (certificate, key) = scene.pki.leaf("client");
    let probe = |more: &[&str]| scene.python.probe(&server, &[&["list", "--ca", &ca][..], more].concat());
    assert!(probe(&["--cert", text(&certificate), "--key", text(&key)]).ends_with(" mechanisms"));
    assert!(probe(&[]).starts_with("failed: "), "without a certificate");
    let strangers = scratch();
    let (certificate, key) = Pki::new(strangers.path()).leaf("client");
    let refused = probe(&["--cert", text(&certificate), "--key", text(&key)]);
    assert!(refused.starts_with("failed: "), "{refused}");
    assert!(!server.log().contains("every client that reaches"), "{}", server.log());
}

#[test]
fn bearer_tokens() {
    let scene = Scene::new();
    let (ca, tokens) = (scene.ca(), scene.path("tokens"));
    fs::write(&tokens, "# a comment\n\n0123456789abcdef-first\n0123456789abcdef-second\n").unwrap();
    fs::set_permissions(&tokens, Permissions::from_mode(0o600)).unwrap();
    let server = scene.start_tls(&["--token-file", &tokens]);
    let probe = |arguments: &[&str]| scene.python.probe(&server, &[arguments, &["--ca", &ca]].concat());
    for token in ["0123456789abcdef-first", "0123456789abcdef-second"] {
        assert!(probe(&["list", "--token", token]).ends_with(" mechanisms"));
    }
    for wrong in
        [&["list"][..], &["list", "--token", "0123456789abcdef"], &["list", "--token", "# a comment"]]
    {
        let refused = probe(wrong);
        assert!(refused.starts_with("refused, retry False: CKR_IBM_GREP11_NOT_AUTHENTICATED: "), "{refused}");
    }
    assert_eq!(probe(&["health"]), "serving");
    assert!(!server.log().contains("0123456789abcdef"), "{}", server.log());
}

/// The pages say how to make the token file of the server and that of the daemon. Both programs
/// accept these files.
#[test]
fn token_files_are_made_as_documented() {
    let scene = Scene::new();
    let run_line = |page: &str, part: &str, file: &str, input: &str| {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
        let page = fs::read_to_string(page).unwrap();
        let line = page.lines().find(|line| line.contains(part)).unwrap();
        let line = line.split(" #").next().unwrap().replace(part, &format!("> {file}"));
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &format!("umask 022; {line}")]).stdin(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        shell.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success(), "{line}");
    };
    let (tokens, token, ca) = (scene.path("tokens"), scene.path("hsm.token"), scene.ca());
    run_line("grep11.md", "> tokens", &tokens, "");
    let server = scene.start_tls(&["--token-file", &tokens]);
    run_line("remote-units.md", "> /etc/keyward/hsm.token", &token, &fs::read_to_string(&tokens).unwrap());
    let section = format!(
        "[grep11.hsm]\nendpoints = [{:?}]\nca = {ca:?}\nauth = \"token\"\ntoken-file = {token:?}\n",
        server.address()
    );
    let mut daemon = Daemon::prepare_for_units(section, "");
    daemon.resume();
    daemon.generate("shop", "p256");
}

#[test]
fn bearer_tokens_are_read_again() {
    let scene = Scene::new();
    let (ca, tokens) = (scene.ca(), scene.path("tokens"));
    let write = |text: &str| fs::write(&tokens, text).unwrap();
    let open = |mode: u32| fs::set_permissions(&tokens, Permissions::from_mode(mode)).unwrap();
    write("0123456789abcdef-first\n0123456789abcdef-second\n");
    open(0o600);
    let server = scene.start_tls(&["--token-file", &tokens]);
    let admitted = |token: &str| {
        let token = format!("0123456789abcdef-{token}");
        let answer = scene.python.probe(&server, &["list", "--token", &token, "--ca", &ca]);
        let refused = answer.starts_with("refused, retry False: CKR_IBM_GREP11_NOT_AUTHENTICATED: ");
        assert!(refused || answer.ends_with(" mechanisms"), "{answer}");
        !refused
    };
    write("0123456789abcdef-second\n0123456789abcdef-third\n");
    assert!(admitted("first") && !admitted("third"), "nobody asked for the file to be read");
    server.reload("tokens read again");
    assert!(!admitted("first") && admitted("second") && admitted("third"));

    let stays = "ERROR the old tokens stay in force: ";
    write("0123456789abcdef-first\nshort\n");
    server.reload(&format!("{stays}a token in {tokens} has fewer"));
    write("\n");
    server.reload(&format!("{stays}there is no token in {tokens}"));
    write("0123456789abcdef-first\n");
    open(0o644);
    server.reload(&format!("{stays}refused the tokens in {tokens}"));
    fs::remove_file(&tokens).unwrap();
    server.reload(&format!("{stays}cannot read the tokens in {tokens}"));
    // An administrator who asks for the reload hears of the problem.
    let answer = server.keyward(&["reload"]);
    assert!(answer.contains("the old tokens stay in force: cannot read the tokens"), "{answer}");
    assert!(!admitted("first") && admitted("second"));

    write("0123456789abcdef-first\n");
    open(0o600);
    server.reload("tokens read again");
    assert!(admitted("first") && !admitted("second"));
    assert!(!server.log().contains("0123456789abcdef"), "{}", server.log());
}

#[test]
fn health_and_reflection() {
    let scene = Scene::new();
    let state = scene.path("state");
    let dev = ["--plaintext", "--dev", "--state-dir", &state];
    let mut server = scene.start("plain", &dev);
    assert!(server.log().contains("DEVELOPMENT MODE"), "{}", server.log());
    assert!(server.log().contains("every client that reaches"), "{}", server.log());
    assert_eq!(scene.python.probe(&server, &["health"]), "serving");
    let refused = scene.python.probe(&server, &["reflection"]);
    assert!(refused.starts_with("failed: UNIMPLEMENTED"), "{refused}");
    for signal in [Signal::USR1, Signal::USR2] {
        server.signal(signal);
        assert_eq!(scene.python.probe(&server, &["health"]), "serving", "after {signal:?}");
    }
    assert!(server.stop().success());
    let server = scene.start("reflecting", &[&dev[..], &["--reflection"]].concat());
    assert_eq!(scene.python.probe(&server, &["reflection"]), "describes grep11.Crypto");
}

#[test]
fn messages_up_to_64_mib() {
    let scene = Scene::new();
    let ca = scene.ca();
    let server = scene.start_tls(&[]);
    let probe = |call: &str| scene.python.probe(&server, &[call, "--ca", &ca]);
    assert_eq!(probe(&format!("digest={}", (64 << 20) - 1000)), "digest of 32 bytes");
    let refused = probe(&format!("digest={}", 64 << 20));
    assert!(refused.starts_with("failed: ") && refused.contains("OUT_OF_RANGE"), "{refused}");
    assert_eq!(probe("digest=1"), "digest of 32 bytes");
}

#[test]
fn a_simulated_unit_far_away() {
    let scene = Scene::new();
    let ca = scene.ca();
    let server = scene.start_tls(&[
        "--simulate-latency",
        "300ms",
        "--simulate-errors",
        "GetMechanismList=1",
        "--simulate-disconnects",
        "DigestSingle=1",
    ]);
    let log = server.log();
    for line in ["takes 300ms longer", "CKR_DEVICE_ERROR with probability 1 in GetMechanismList", "cut"] {
        assert!(
            log.lines().any(|logged| logged.contains("WARN SIMULATION: ") && logged.contains(line)),
            "{log}"
        );
    }
    let probe = |call: &str| scene.python.probe(&server, &[call, "--ca", &ca]);
    let start = std::time::Instant::now();
    let refused = probe("list");
    assert!(start.elapsed().as_millis() >= 300);
    assert!(refused.starts_with("refused, retry True: CKR_DEVICE_ERROR: "), "{refused}");
    let cut = probe("digest=1");
    assert!(cut.starts_with("failed: ") && cut.contains("UNAVAILABLE"), "{cut}");
    assert_eq!(probe("health"), "serving");
}

#[test]
fn a_simulated_unit_that_is_broken_and_old() {
    let scene = Scene::new();
    let ca = scene.ca();
    let server = scene.start_tls(&[
        "--simulate-corruption",
        "SignSingle=1",
        "--simulate-without",
        "CKM_RSA_PKCS_PSS",
        "--simulate-without",
        "0x250",
        "--simulate-refused",
        "CKM_ECDSA_SHA384",
    ]);
    let log = server.log();
    for line in [
        "a bit of the signature is wrong with probability 1 in SignSingle",
        "CKM_RSA_PKCS_PSS is not offered",
        "CKM_SHA256 is not offered",
        "CKM_ECDSA_SHA384 is listed, and refused",
    ] {
        assert!(
            log.lines().any(|logged| logged.contains("WARN SIMULATION: ") && logged.contains(line)),
            "{log}"
        );
    }
    let probe = |server: &UnitServer, call: &str| scene.python.probe(server, &[call, "--ca", &ca]);
    let wrong = probe(&server, "sign");
    assert!(wrong.starts_with("refused, retry False: CKR_SIGNATURE_INVALID: "), "{wrong}");
    for call in ["info=CKM_RSA_PKCS_PSS", "info=CKM_SHA256", "digest=1"] {
        let refused = probe(&server, call);
        assert!(refused.starts_with("refused, retry False: CKR_MECHANISM_INVALID: simulated: "), "{refused}");
    }
    assert_eq!(probe(&server, "info=CKM_RSA_PKCS"), "offered");

    let whole = scene.start_with("whole", &["--master-key", &scene.path("state/dev-master.key")]);
    assert_eq!(probe(&whole, "sign"), "signature of 64 bytes");
    let offered = |server| probe(server, "list").trim_end_matches(" mechanisms").parse::<u32>().unwrap();
    assert_eq!(offered(&server), offered(&whole) - 2);
}

#[test]
fn what_keeps_it_from_starting() {
    let scene = Scene::new();
    let master_key = scene.master_key("master");
    let open = scene.path("open");
    fs::write(&open, "0123456789abcdef\n").unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let short = scene.path("short");
    fs::write(&short, "short\n").unwrap();
    fs::set_permissions(&short, Permissions::from_mode(0o600)).unwrap();
    let tls = scene.tls();
    let (ca, missing) = (scene.ca(), scene.path("missing"));
    let other = scene.path("other");
    fs::copy(&ca, &other).unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
    let encrypted = scene.path("encrypted");
    let pkcs8 = ["pkcs8", "-topk8", "-passout", "pass:secret", "-in", tls[3], "-out", &encrypted];
    succeed(&mut openssl(&pkcs8));
    let with_key = |key| vec!["--tls-cert", tls[1], "--tls-key", key, "--master-key", &master_key];
    let cases: [(&str, Vec<&str>, i32, &str); 13] = [
        ("127.0.0.1:0", vec![], 64, "--plaintext"),
        ("127.0.0.1:0", vec!["--tls-cert", tls[1]], 64, "--tls-key"),
        ("0.0.0.0:0", vec!["--plaintext", "--dev"], 64, "in the clear"),
        ("[::]:0", vec!["--plaintext", "--dev"], 64, "in the clear"),
        ("127.0.0.1:0", vec!["--plaintext", "--master-key", &missing], 78, "missing"),
        ("127.0.0.1:0", with_key(&other), 78, "other: the file holds a certificate, not a private key"),
        ("127.0.0.1:0", with_key(&encrypted), 78, "encrypted: it is encrypted, and nobody can enter"),
        ("127.0.0.1:0", with_key(&ca), 78, "others can read it"),
        ("127.0.0.1:0", vec!["--plaintext", "--master-key", &master_key, "--token-file", &open], 78, "chmod"),
        (
            "127.0.0.1:0",
            vec!["--plaintext", "--master-key", &master_key, "--token-file", &short],
            78,
            "fewer",
        ),
        (
            "127.0.0.1:1",
            vec!["--plaintext", "--master-key", &master_key, "--simulate-errors", "Sing=1"],
            64,
            "no rpc",
        ),
        (
            "127.0.0.1:1",
            vec!["--plaintext", "--dev", "--simulate-corruption", "DigestSingle=1"],
            64,
            "SignSingle, Sign, SignFinal",
        ),
        (
            "127.0.0.1:1",
            vec!["--plaintext", "--dev", "--simulate-without", "CKM_NONE"],
            64,
            "name of a mechanism",
        ),
    ];
    for (listen, arguments, status, told) in cases {
        let (ended, message) = fail(scene.command(listen).args(&arguments));
        assert_eq!(ended.code(), Some(status), "{arguments:?}: {message}");
        let last = message.lines().last().unwrap_or_default();
        assert!(last.starts_with("keyward: ") && last.contains(told), "{arguments:?}: {message}");
    }
    // A port that is in use.
    let server = scene.start("first", &["--plaintext", "--master-key", &master_key]);
    let address = server.address().replace("localhost", "127.0.0.1");
    let (ended, message) = fail(scene.command(&address).args(["--plaintext", "--master-key", &master_key]));
    assert_eq!(ended.code(), Some(69), "{message}");
    assert!(message.contains(&format!("cannot listen on {address}")), "{message}");
}
