//! Grants that do not let the user of a server use its key, and uses that allow more than needed.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use keyward_tests::cgroup::Cgroups;
use keyward_tests::tool::{Process, succeed, wait_for};
use keyward_tests::{Daemon, has_root};

use super::{OTHER, Scene, doctor};

#[test]
fn uses_of_a_key_that_open_more_are_told() {
    let scene = Scene::new();
    for (label, words) in [
        ("tls-server", ""),
        ("tls13-server", ""),
        ("tls12-server", "chooses 64 bytes and the public value"),
        ("tls12-dhe-server", "up to 1,024 more"),
        ("any", "every text and every digest"),
    ] {
        scene.daemon.generate_for(label, "p256", label);
        let reference = scene.daemon.reference(label);
        let found = doctor(&scene.daemon, "uses", &[&"--reference", &reference]);
        assert_eq!(found.len(), usize::from(!words.is_empty()), "{label}: {found:#?}");
        assert!(
            found.iter().all(|[verdict, detail, _]| verdict == "warn" && detail.contains(words)),
            "{found:#?}"
        );
    }
}

#[test]
fn no_grant_lets_the_user_use_the_key() {
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let find = || {
        let mut found = doctor(&daemon, "grant", &[&"--user", &OTHER, &"--reference", &reference]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    let configure = |grant: &str| {
        daemon.configure(&format!("log = \"debug\"\n{grant}"));
        daemon.reload();
    };
    let by = |keys: &str, uses: &str| {
        format!("[[grant]]\nuser = {OTHER:?}\nkeys = [{keys:?}]\nuses = [{uses:?}]\n")
    };
    for grant in [String::new(), by("mail", "tls-server")] {
        configure(&grant);
        let [verdict, detail, fix] = find();
        assert!(verdict == "fail" && detail.contains("no grant covers daemon and this key"), "{detail}");
        assert!(fix.contains("user = \"daemon\" and keys = [\"shop\"] and uses = [\"tls-server\"]"), "{fix}");
    }
    configure(&by("shop", "csr"));
    let [verdict, detail, fix] = find();
    assert!(verdict == "fail" && detail.contains("do not include tls-server"), "{detail}");
    assert!(fix.contains("add tls-server to the uses of the grant"), "{fix}");

    for grant in [by("sh*", "tls-server"), by("shop", "any").replace("user", "group")] {
        configure(&grant);
        let [verdict, detail, _] = find();
        assert!(verdict == "ok" && detail.ends_with("daemon may use key shop for tls-server"), "{detail}");
    }

    let mut patch = daemon.curl();
    patch.args(["-X", "PATCH", "-d", r#"{"uses":["csr"]}"#, "http://localhost/v1/keys/shop"]);
    succeed(&mut patch);
    let [verdict, detail, fix] = find();
    assert!(
        verdict == "fail" && detail.contains("the uses of the key do not include tls-server"),
        "{detail}"
    );
    // The advised command works as printed.
    let told = fix.strip_prefix("allow it: ").unwrap();
    succeed(&mut daemon.shell(told));
    assert_eq!(find()[0], "ok");

    // A grant for a server with TLS 1.2 alone: the key lacks the use.
    configure(&by("shop", "tls12-server"));
    let [verdict, detail, fix] = find();
    assert!(verdict == "fail" && detail.contains("do not include tls-server"), "{detail}");
    assert!(fix.contains("otherwise add tls-server to the uses of the grant"), "{fix}");
    let told = fix.split_once("the key lacks: ").unwrap().1.split_once(';').unwrap().0;
    succeed(&mut daemon.shell(told));
    let [verdict, detail, _] = find();
    assert!(verdict == "ok" && detail.contains("may use key shop for tls12-server, not for"), "{detail}");

    // The uses of the key decide.
    let configure_and_find = |key: &str, uses: &str| {
        let grant = by("*", "tls-server").replace(r#"["tls-server"]"#, uses);
        daemon.configure(&format!("log = \"debug\"\n{grant}"));
        daemon.reload();
        let path = daemon.reference(key);
        doctor(&daemon, "grant", &[&"--user", &OTHER, &"--reference", &path]).remove(0)
    };
    daemon.generate_for("old", "rsa2048", "rsa-key-exchange");
    daemon.generate_for("client", "p256", "tls-client");
    daemon.generate_for("all", "p256", "any");
    for (key, needed, others) in [
        ("old", "rsa-key-exchange", r#"["any", "tls-server"]"#),
        ("client", "tls-client", r#"["tls-server"]"#),
    ] {
        let [verdict, detail, fix] = configure_and_find(key, others);
        let told =
            format!("may not use key {key} for {needed}: the grants of daemon do not include {needed}");
        assert!(verdict == "fail" && detail.contains(&told), "{detail}");
        assert!(fix.contains(&format!("add {needed} to the uses of the grant")), "{fix}");
        let [verdict, detail, _] = configure_and_find(key, &format!("[{needed:?}]"));
        assert!(verdict == "ok" && detail.ends_with(&format!("key {key} for {needed}")), "{detail}");
    }
    let [verdict, detail, _] = configure_and_find("all", r#"["tls-client"]"#);
    assert!(verdict == "ok" && detail.ends_with("key all for tls-client, not for tls-server"), "{detail}");

    for (path, status) in [
        ("shop/access?uid=1&gid=1", 200),
        ("shop/access?uid=1", 400),
        ("shop/access?uid=1&gid=x", 400),
        ("shop/access?uid=1&gid=1&pid=1", 400),
        ("nowhere/access?uid=1&gid=1", 404),
    ] {
        assert_eq!(daemon.get(&format!("/v1/keys/{path}")).0, status, "{path}");
    }
}

/// The group database and the service in a grant describe the intended process. The doctor checks
/// the groups and the service of the real process.
#[test]
fn a_grant_holds_for_the_user_and_not_for_the_process() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let cleared = ["setpriv", "--reuid", OTHER, "--regid", "nogroup", "--clear-groups", "sleep", "60"];
    let server = Process::start(Command::new(cleared[0]).args(&cleared[1..]), &daemon.path("sleep.log"));
    let pid = server.id().to_string();
    wait_for("the process", || {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        (name.trim() == "sleep").then_some(())
    });
    let find = |more: &[&dyn AsRef<OsStr>]| {
        let arguments: [&dyn AsRef<OsStr>; 4] = [&"--user", &OTHER, &"--reference", &reference];
        let mut found = doctor(&daemon, "grant", &[&arguments[..], more].concat());
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    let service = format!("keyward-test-{}-doctor.service", std::process::id());
    for (who, ok) in [
        (format!("group = {OTHER:?}"), "may use key shop for tls-server".to_owned()),
        (format!("unit = {service:?}"), format!("may use key shop for tls-server (only in {service})")),
    ] {
        daemon.configure(&format!("log = \"debug\"\n[[grant]]\n{who}\nkeys = [\"shop\"]\n"));
        daemon.reload();
        let [verdict, detail, _] = find(&[]);
        // If the daemon cannot distinguish services, the doctor says so.
        let is_told = detail.ends_with(&ok) || detail.contains("grants with unit do not work: ");
        assert!(is_told && (verdict == "ok") == detail.ends_with(&ok), "{who}: {detail}");
        let [verdict, detail, _] = find(&[&"--pid", &pid]);
        let is_told = detail.contains("no grant covers daemon (process ")
            || detail.contains(&format!("its grant is for {service}, and the process runs outside"));
        assert!(verdict == "fail" && is_told, "{who}: {detail}");
        assert!(detail.contains("in groups [65534]"), "{who}: {detail}");
    }
    daemon.configure(&format!("log = \"debug\"\n[[grant]]\nuser = {OTHER:?}\nkeys = [\"shop\"]\n"));
    daemon.reload();
    assert_eq!(find(&[&"--pid", &pid])[0], "ok");
    let [verdict, detail, _] = find(&[&"--pid", &"4294967295"]);
    assert!(verdict == "fail" && detail.contains("cannot read /proc/4294967295/status"), "{detail}");

    for (more, status) in
        [("groups=", 200), ("groups=1,2&service=", 200), ("service=nginx.service", 200), ("groups=1,x", 400)]
    {
        let path = format!("/v1/keys/shop/access?uid=1&gid=1&{more}");
        assert_eq!(daemon.get(&path).0, status, "{more}");
    }

    // Inside the service itself, if the kernel allows the test to make cgroups as systemd does.
    if let Some(cgroups) = Cgroups::mount() {
        daemon.configure(&format!("log = \"debug\"\n[[grant]]\nunit = {service:?}\nkeys = [\"shop\"]\n"));
        daemon.reload();
        let group = cgroups.group(&format!("system.slice/{service}"));
        fs::write(group.join("cgroup.procs"), &pid).unwrap();
        let [verdict, detail, _] = find(&[&"--pid", &pid]);
        let is_told =
            verdict == "ok" && detail.contains(&format!("in {service}) may use key shop for tls-server"));
        assert!(is_told || detail.contains("grants with unit do not work: "), "{detail}");
    }
}

#[test]
fn the_daemon_cannot_tell_services_from_each_other() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    daemon.configure("[[grant]]\nunit = \"nginx.service\"\nkeys = [\"shop\"]\n");
    daemon.run_by(["unshare", "--cgroup"].map(str::to_owned).into());
    daemon.resume();
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let pid = std::process::id().to_string();
    let arguments: [&dyn AsRef<OsStr>; 6] = [&"--user", &OTHER, &"--reference", &reference, &"--pid", &pid];
    for arguments in [&arguments[..4], &arguments] {
        let found = doctor(&daemon, "grant", arguments);
        let [[verdict, detail, _]] = &found[..] else { panic!("{found:#?}") };
        let told = "grants with unit do not work: the daemon runs in a cgroup namespace, as in a container";
        assert!(verdict == "fail" && detail.contains(told), "{detail}");
    }
}
