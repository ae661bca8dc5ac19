//! The commands and programs of the READMEs, run unchanged.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use keyward_tests::client::{WISHES, curl_command};
use keyward_tests::machine::run_in_copy;
use keyward_tests::server::Page;
use keyward_tests::tool::{Process, fail, stderr, succeed, wait_for};
use keyward_tests::{Daemon, Pki, built, free_port, scratch};

/// A daemon whose keys have certificates.
fn scene(labels: &[(&str, &str)]) -> (Daemon, Pki) {
    let daemon = Daemon::start();
    daemon.configure_more("[[grant]]\nuser = \"root\"\nkeys = [\"*\"]\nuses = [\"tls-client\"]\n");
    daemon.reload();
    let pki = Pki::new(daemon.directory());
    for (label, usage) in labels {
        daemon.generate_for(label, "p256", usage);
        let chain = pki.certify(&daemon, &daemon.reference(label));
        succeed(&mut daemon.keyward(&["cert", "attach", label, "--in", chain.to_str().unwrap()]));
    }
    (daemon, pki)
}

fn example(daemon: &Daemon, name: &str) -> Command {
    let mut command = Command::new(built(&format!("examples/{name}")));
    command.env("KEYWARD_SOCKET", daemon.socket());
    command
}

#[test]
fn https() {
    let (daemon, pki) = scene(&[("shop", "tls-server")]);
    for name in ["https", "axum_server"] {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut https = example(&daemon, name);
        let _server = Process::start(https.args(["shop", &address.to_string()]), &daemon.path("https.log"));
        let page = wait_for("a page", || {
            let output = curl_command(&pki, address, WISHES[3]).output().unwrap();
            output.status.success().then_some(output.stdout)
        });
        assert_eq!(page, b"served\n");
    }
}

#[test]
fn mutual_tls() {
    let (daemon, pki) = scene(&[("shop", "tls-server"), ("robot", "tls-client")]);
    let text = succeed(example(&daemon, "mutual_tls").args(["shop", "robot"]).arg(pki.ca()));
    assert_eq!(text, "hello, client\n");
    let signed = |purpose| daemon.logged(&["outcome=done", purpose]);
    assert_eq!((signed("purpose=tls13-server"), signed("purpose=tls13-client")), (1, 1));
}

/// The crates of this build are those that cargo finds offline.
#[test]
fn the_lines_for_cargo_name_what_there_is() {
    let home = scratch();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = source.join("provider/rustls").canonicalize().unwrap();
    let lines =
        Page::read("rustls").filled("[dependencies]", &[("../keyward/provider/rustls", &path.display())]);
    fs::create_dir(home.path().join("src")).unwrap();
    fs::write(home.path().join("src/main.rs"), "fn main() {}\n").unwrap();
    let package = "[package]\nname = \"program\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    fs::write(home.path().join("Cargo.toml"), format!("{package}{lines}")).unwrap();
    fs::copy(source.join("Cargo.lock"), home.path().join("Cargo.lock")).unwrap();
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--edges", "normal,features"]).current_dir(home.path());
    let text = succeed(&mut tree);
    assert!(text.contains("keyward-rustls feature \"tokio\""), "{text}");
}

/// The commands of the README that have these words among them.
fn commands(words: &str) -> String {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(home.join("README.md")).unwrap();
    let mut found = readme.split("\n\n").filter(|block| block.starts_with("    ") && block.contains(words));
    let block = found.next().unwrap_or_else(|| panic!("no commands with {words:?}"));
    assert!(found.next().is_none(), "several blocks with {words:?}");
    block.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect()
}

const FRESH: &str = "rm -rf /etc/keyward /var/lib/keyward; ! id keyward >/dev/null 2>&1 || userdel keyward\n";
const WAIT: &str = "for _ in $(seq 500); do ! keyward key list >/dev/null 2>&1 || break; sleep 0.02; done\n";

/// Runs a script on a copy of this machine that has no Keyward, and returns what it prints.
fn on_a_fresh_machine(script: &str) -> Option<String> {
    let output = run_in_copy(&format!("{FRESH}{script}"));
    let output = output?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}\n{text}{}", stderr(&output));
    Some(text)
}

/// The commands of Install without the first line, which takes minutes. The tests have the programs
/// of another profile.
fn install() -> String {
    let all = commands("install -m 755 target/dist/keyward");
    let (make, rest) = all.split_once('\n').unwrap();
    assert!(make.starts_with("make "), "{make}");
    rest.replace("target/dist/", "target/release/")
}

#[test]
fn the_readme_installs_without_systemd() {
    // There is no terminal that could be asked.
    let service = commands("useradd").replace("keyward setup ", "keyward setup --unseal unprotected ");
    let grant = "[[grant]]\nuser = \"www-data\"\nkeys = [\"shop\"]\n";
    let check = "keyward key generate shop --type p256\n\
                 keyward key reference shop >/etc/keyward/shop.pem\n\
                 stat -c %U /run/keyward/admin.sock /var/lib/keyward/keys.redb\n\
                 keyward env openssl pkey -in /etc/keyward/shop.pem -noout\n\
                 keyward doctor --user www-data --openssl-conf /etc/keyward/openssl.cnf --reference /etc/keyward/shop.pem\n";
    let configure = format!("printf '{grant}' >>/etc/keyward/keyward.toml\n");
    let script = format!("{}{configure}{} &\n{WAIT}{check}", install(), service.trim_end());
    let Some(text) = on_a_fresh_machine(&script) else { return };
    assert!(text.contains("\nkeyward\nkeyward\n"), "{text}");
    assert!(text.contains("ok    grant") && !text.contains("FAIL"), "{text}");
}

#[test]
fn the_readme_tries_it_in_five_minutes() {
    let all = commands("keyward serve --dev");
    let (start, rest) = all.split_once("keyward key generate").unwrap();
    let wait = WAIT.replace("list", "list --runtime-dir $k/run");
    let script = format!(
        "{}cd $(mktemp -d)\n{start}{wait}keyward key generate{rest}{}\
         openssl req -verify -noout -in shop.csr 2>&1\n",
        install(),
        commands("openssl req")
    );
    let Some(text) = on_a_fresh_machine(&script) else { return };
    assert!(text.contains("verify OK"), "{text}");
}

/// Only the parser reads the rules. A kernel that enforces them is not tested.
#[test]
fn the_rules_for_apparmor_are_read() {
    let home = scratch();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/apparmor").canonicalize().unwrap();
    for name in ["usr.sbin.named", "usr.sbin.unbound"] {
        let path = home.path().join(name);
        let include = rules.join(name).display().to_string();
        let frame = "include <tunables/global>\nprofile test /usr/sbin/test {\ninclude <abstractions/base>\n";
        fs::write(&path, format!("{frame}include {include:?}\n}}\n")).unwrap();
        let mut parser = Command::new("apparmor_parser");
        let text = succeed(parser.args(["--skip-kernel-load", "--skip-cache", "--debug"]).arg(&path));
        // The master key is in the same directory as the allowed files.
        assert!(text.contains("/etc/keyward/") && !text.contains("/etc/keyward/**"), "{text}");
    }
}

#[test]
fn make_says_first_which_rust_is_needed() {
    let bin = scratch();
    let program = |name: &str, version: &str| {
        let path = bin.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho {name} {version}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let command = |words: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", words]).current_dir(&source).env_remove("CARGO").env_remove("RUSTC");
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.path().display()));
        // A make that runs the tests sets these variables.
        for name in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"] {
            command.env_remove(name);
        }
        command
    };
    program("cargo", "0.66.0");
    for old in ["1.63.0", "1.94.1", "1.9.5"] {
        program("rustc", old);
        let (_, text) = fail(&mut command("make all"));
        let told = format!("Keyward needs Rust 1.95 or later, and rustc here is {old}: ");
        assert!(text.starts_with(&told) && text.contains("https://rustup.rs"), "{text}");
    }
    for new in ["1.95.0", "1.100.0-nightly", "2.0.0"] {
        program("rustc", new);
        succeed(&mut command(".ci/check-rust"));
    }
    let (_, text) = fail(command(".ci/check-rust").env("CARGO", "/none"));
    assert!(text.contains("and there is no cargo"), "{text}");
    let readme = fs::read_to_string(source.join("README.md")).unwrap();
    assert!(readme.contains("Rust 1.95 or later, from [rustup.rs](https://rustup.rs)"));
}

/// A group of commands alone does nothing.
#[test]
fn the_readme_names_whole_commands() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(home.join("README.md")).unwrap();
    let mut checked = 0;
    for line in readme.lines().filter(|line| line.starts_with("    ")) {
        for rest in line.split("keyward ").skip(1) {
            let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            let words: Vec<_> = rest.split_whitespace().take(2).take_while(is_word).collect();
            let Some(first) = words.first().filter(|first| !first.starts_with('-')) else { continue };
            // A user, a group and a package have the same name as the program.
            let help = |words: &[&str]| {
                let output = Command::new(built("keyward")).args(words).arg("--help").output().unwrap();
                let text = String::from_utf8(output.stdout).unwrap();
                output.status.success().then_some(text)
            };
            let Some(text) = help(&[first]) else { continue };
            let usage = if text.contains("<COMMAND>") { help(&words) } else { Some(text) };
            assert!(usage.is_some_and(|usage| !usage.contains("<COMMAND>")), "{line}");
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn the_readme_shows_them_as_they_are() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../provider/rustls");
    let readme = fs::read_to_string(home.join("README.md")).unwrap();
    for name in ["https", "axum_server", "mutual_tls"] {
        let program = fs::read_to_string(home.join("examples").join(name).with_extension("rs")).unwrap();
        let (_, body) = program.split_once('\n').unwrap();
        assert!(readme.contains(body), "the README has another {name}.rs");
    }
}
