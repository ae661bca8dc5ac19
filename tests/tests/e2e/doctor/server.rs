//! Traps between a server that runs and its key: environment, socket, grants, certificate.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use keyward_tests::cgroup::Cgroups;
use keyward_tests::pki::openssl;
use keyward_tests::server::Site;
use keyward_tests::tool::{Process, as_user, run, succeed, wait_for};
use keyward_tests::{Daemon, Haproxy, Nginx, OpenSsl, Pki, free_port, has_root};

use super::{Finding, OTHER, Scene, doctor, findings};

#[test]
fn nginx_conf_does_not_pass_the_variable_on() {
    let scene = Scene::new();
    let conf = scene.conf("", "");
    let path = scene.daemon.path("nginx.conf");
    let find = |text: &str| {
        fs::write(
            &path,
            format!("user www-data;\n{text}\nevents {{ }}\nhttp {{ server {{ listen 1; }} }}\n"),
        )
        .unwrap();
        let mut found =
            doctor(&scene.daemon, "nginx.conf", &[&"--openssl-conf", &conf, &"--nginx-conf", &path]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    assert_eq!(find("env OPENSSL_CONF;")[0], "ok");
    for (text, verdict, told) in [
        ("", "warn", "does not pass OPENSSL_CONF on"),
        ("# env OPENSSL_CONF;", "warn", "does not pass OPENSSL_CONF on"),
        ("env OPENSSL_CONF_OTHER;", "warn", "does not pass OPENSSL_CONF on"),
        ("include modules/*.conf;", "warn", "include is not followed"),
        ("env OPENSSL_CONF=/etc/other.cnf;", "fail", "another file"),
        (&format!("env OPENSSL_CONF={};", conf.display()), "warn", "not for nginx itself"),
    ] {
        let [found, detail, mend] = find(text);
        assert!(found == verdict && detail.contains(told), "{text}: {found}: {detail}");
        assert!(mend.contains("put env OPENSSL_CONF; at the top"), "{text}: {mend}");
    }
}

#[test]
fn nginx_conf_tells_which_use_is_needed() {
    let scene = Scene::new();
    let path = scene.daemon.path("nginx.conf");
    let find = |http: &str, server: &str| {
        let text = format!(
            "events {{ }}\nhttp {{ {http} server {{ listen 1 ssl; ssl_certificate a; {server} }} }}\n"
        );
        fs::write(&path, text).unwrap();
        doctor(&scene.daemon, "nginx.conf uses", &[&"--nginx-conf", &path])
    };
    for (http, server, verdict, told, mends) in [
        ("ssl_protocols TLSv1.2 TLSv1.3;", "", "ok", "tls-server signs", ""),
        (
            "ssl_protocols TLSv1.3;",
            "ssl_protocols TLSv1.3;",
            "ok",
            "tls13-server is enough for key and grant",
            "",
        ),
        ("", "", "warn", "has no ssl_protocols", "write ssl_protocols TLSv1.2 TLSv1.3;"),
        (
            "ssl_protocols TLSv1.2 TLSv1.3;",
            "ssl_protocols TLSv1.2;",
            "warn",
            "without TLS 1.3",
            "tls12-server",
        ),
    ] {
        let found = find(http, server);
        let [[found, detail, mend]] = &found[..] else { panic!("{found:#?}") };
        assert!(
            found == verdict && detail.contains(told) && mend.contains(mends),
            "{found}: {detail}: {mend}"
        );
    }
    let found = find("ssl_protocols TLSv1.2 TLSv1.3;", "ssl_dhparam /etc/ssl/dh.pem;");
    assert!(
        found.len() == 2 && found[1][0] == "warn" && found[1][2].contains("tls12-dhe-server"),
        "{found:#?}"
    );
    let warned = |text: &str| -> Vec<Finding> {
        fs::write(&path, format!("events {{ }}\n{text}\n")).unwrap();
        let found = doctor(&scene.daemon, "nginx.conf uses", &[&"--nginx-conf", &path]);
        assert!(found.iter().all(|[verdict, ..]| verdict == "warn"), "{text}: {found:#?}");
        found
    };
    let both = "ssl_protocols TLSv1.2 TLSv1.3;";
    let server = |more: &str| format!("server {{ listen 1 ssl; {more} location / {{ return 200; }} }}");
    for (text, told) in [
        // The first server is the default one, whose versions count before 1.29.2.
        (format!("http {{ {} {} }}", server(""), server(both)), "a server without ssl_protocols"),
        (format!("http {{ {} {} }}", server(both), server("")), "a server without ssl_protocols"),
        (
            format!("http {{ {both} {} }}", server("ssl_conf_command MaxProtocol TLSv1.2;")),
            "without TLS 1.3 (ssl_conf_command MaxProtocol TLSv1.2)",
        ),
        (
            format!("http {{ {both} ssl_conf_command Protocol -TLSv1.3; {} }}", server("")),
            "Protocol -TLSv1.3",
        ),
        (
            format!("http {{ ssl_protocols TLSv1.3; include site.conf; {} }}", server("")),
            "includes site.conf, which is not looked into",
        ),
        (
            format!(
                "http {{ ssl_protocols TLSv1.3; include a; }}\n# configuration file a:\n{} {}",
                server(""),
                server("ssl_protocols TLSv1.2;")
            ),
            "without TLS 1.3 (ssl_protocols TLSv1.2)",
        ),
    ] {
        let found = warned(&text);
        assert!(found.len() == 1 && found[0][1].contains(told), "{text}: {found:#?}");
    }
    let found = warned("http { include mime.types; include sites/*; ssl_protocols TLSv1.2; }");
    assert!(found.len() == 2 && found[0][1].contains("includes sites/*"), "{found:#?}");
    assert!(found[0][2].contains("nginx -T > FILE; keyward doctor --nginx-conf FILE"), "{found:#?}");
    assert!(found[1][1].contains("without TLS 1.3"), "{found:#?}");

    fs::write(&path, "events { }\nhttp { server { listen 1; } }\n").unwrap();
    assert_eq!(doctor(&scene.daemon, "nginx.conf uses", &[&"--nginx-conf", &path]).len(), 0, "no TLS");
}

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
fn a_process_is_without_the_variable() {
    let scene = Scene::new();
    let conf = scene.daemon.openssl_conf();
    let find = |pid: u32| {
        let pid = pid.to_string();
        let mut found = doctor(&scene.daemon, "process", &[&"--openssl-conf", &conf, &"--pid", &pid]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    // A server that has loaded OpenSSL as soon as it listens.
    let pki = Pki::new(scene.daemon.directory());
    let (certificate, key) = pki.leaf("plain");
    let server = |number: u8, variable: Option<&Path>| {
        let mut command = openssl(&["s_server", "-quiet"]);
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        command.arg("-accept").arg(address.to_string()).arg("-cert").arg(&certificate).arg("-key").arg(&key);
        command.envs(variable.map(|path| ("OPENSSL_CONF", path)));
        let process = Process::start(&mut command, &scene.daemon.path(&format!("s_server-{number}.log")));
        wait_for("s_server", || TcpStream::connect(address).ok());
        process
    };
    let mends = format!("OPENSSL_CONF={} for the service, and restart it", conf.display());

    let right = server(1, Some(&conf));
    let [verdict, detail, _] = find(right.id());
    assert!(verdict == "ok" && detail.contains("keyward.so"), "{verdict}: {detail}");

    let other = scene.daemon.path("other.cnf");
    fs::write(&other, "").unwrap();
    let wrong = server(2, Some(&other));
    let [verdict, detail, mend] = find(wrong.id());
    assert!(verdict == "fail" && detail.contains("that is not"), "{verdict}: {detail}");
    assert!(mend.contains(&mends), "{mend}");

    let without = server(3, None);
    let [verdict, detail, mend] = find(without.id());
    assert!(verdict == "fail" && detail.contains("has no OPENSSL_CONF; it has not loaded"), "{detail}");
    assert!(mend.contains(&mends), "{mend}");

    // nginx writes over its environment; what it has loaded is seen all the same.
    let site = Site::new(certificate, key);
    let nginx = Nginx::start(&scene.daemon, &[site]);
    for pid in nginx.workers().into_iter().chain([nginx.id()]) {
        let [verdict, detail, _] = find(pid);
        assert!(verdict == "ok" && detail.contains("keyward.so"), "{verdict}: {detail}");
    }

    let [verdict, detail, _] = find(u32::MAX / 4);
    assert!(verdict == "fail" && detail.contains("No such file"), "{detail}");
    if has_root() {
        let mut doctor = scene.daemon.keyward(&["doctor"]);
        let output = run(&mut as_user(OTHER, doctor.arg("--pid").arg(right.id().to_string())));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("may not see the environment of process"), "{text}");
        // Root without the capabilities that the kernel asks for, as in a container.
        let mut lesser = Command::new("setpriv");
        lesser.args(["--bounding-set", "-all", "--inh-caps", "-all", "--"]).arg(doctor.get_program());
        lesser.args(doctor.get_args());
        let text = String::from_utf8_lossy(&run(&mut lesser).stdout).into_owned();
        let told = format!("the kernel does not show the environment of process {}, not even", right.id());
        assert!(text.contains(&told) && !text.contains("doctor as root\n"), "{text}");
    }
}

#[test]
fn the_socket_of_the_configuration_is_no_socket_of_the_daemon() {
    let scene = Scene::new();
    let socket = scene.daemon.socket().display().to_string();
    let find = |conf: &Path| doctor(&scene.daemon, "socket", &[&"--openssl-conf", &conf]);
    assert_eq!(find(&scene.conf("", "")).len(), 1);
    for elsewhere in ["/nowhere/keyward.sock", "@keyward-nowhere"] {
        let found = find(&scene.conf(&socket, elsewhere));
        let [[own, ..], [verdict, detail, mend]] = &found[..] else { panic!("{found:#?}") };
        assert!(own == "ok" && verdict == "fail" && detail.contains(elsewhere), "{detail}");
        assert!(mend.contains("let socket in openssl.cnf name a socket of the daemon"), "{mend}");
    }
}

#[test]
fn the_socket_is_out_of_reach_from_a_chroot() {
    let mut daemon = Daemon::prepare("");
    let root = daemon.path("chroot");
    fs::create_dir(&root).unwrap();
    let inside = root.join("keyward.sock");
    daemon.configure_more(&format!("[socket]\nalso = [{inside:?}]\n"));
    daemon.resume();
    let good = daemon.least_openssl_conf(OpenSsl::System);
    let scene = Scene { daemon, good };
    let socket = format!("socket = {}", scene.daemon.socket().display());
    let find = |conf: &Path, more: &[&dyn AsRef<OsStr>]| {
        let arguments =
            [&[&"--openssl-conf" as &dyn AsRef<OsStr>, &conf, &"--chroot", &root][..], more].concat();
        ["chroot", "user"]
            .into_iter()
            .flat_map(|check| doctor(&scene.daemon, check, &arguments))
            .collect::<Vec<_>>()
    };
    let one = |found: Vec<Finding>, verdict: &str, told: &str, mend: &str| {
        let [[got, detail, mends]] = &found[..] else { panic!("{found:#?}") };
        assert!(got == verdict && detail.contains(told), "{told:?} in {got}: {detail}");
        assert!(mends.contains(mend), "{mend:?} in {mends:?}");
    };
    let found = doctor(&scene.daemon, "chroot", &[&"--chroot", &"/nowhere"]);
    one(found, "fail", "there is no directory /nowhere", "--chroot DIR");
    // The path from outside is none from inside.
    let also = format!("also = [\"{}", root.display());
    one(find(&scene.conf("", ""), &[]), "fail", "cannot be reached: cannot look at", &also);
    let good = scene.conf(&socket, "socket = /keyward.sock");
    one(find(&good, &[]), "ok", "the socket /keyward.sock answers", "");
    fs::write(root.join("file"), "").unwrap();
    one(find(&scene.conf(&socket, "socket = /file"), &[]), "fail", "is no socket", &also);
    std::os::unix::fs::symlink(scene.daemon.socket(), root.join("link")).unwrap();
    one(find(&scene.conf(&socket, "socket = /link"), &[]), "fail", "leads out of it", &also);
    // A socket on which nobody listens any more.
    drop(std::os::unix::net::UnixListener::bind(root.join("left")).unwrap());
    one(find(&scene.conf(&socket, "socket = /left"), &[]), "fail", "cannot be reached: ", &also);

    let good = scene.conf(&socket, "socket = /keyward.sock");
    one(find(&good, &[&"--user", &OTHER]), "ok", "the socket /keyward.sock answers", "");
    if has_root() {
        fs::set_permissions(&inside, Permissions::from_mode(0o600)).unwrap();
        one(find(&good, &[&"--user", &OTHER]), "fail", "daemon may not write to", "chmod a+w");
        fs::set_permissions(&inside, Permissions::from_mode(0o666)).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o700)).unwrap();
        one(find(&good, &[&"--user", &OTHER]), "fail", "daemon cannot pass", "chmod a+x");
        // A process that enters a chroot as root need not pass the directories above it.
        fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(scene.daemon.directory(), Permissions::from_mode(0o700)).unwrap();
        let found = find(&good, &[&"--user", &OTHER]);
        assert!(found[0][0] == "ok", "{found:#?}");
    }
}

/// HAProxy as conf/haproxy.md sets it up, and then a process that knows the socket by its
/// openssl.cnf alone.
#[test]
fn the_chroot_is_that_of_the_process() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    let root = daemon.path("chroot");
    fs::create_dir(&root).unwrap();
    daemon.configure_more(&format!("[socket]\nalso = [{:?}]\n", root.join("keyward.sock")));
    daemon.resume();
    daemon.generate("shop", "p256");
    let pki = Pki::new(daemon.directory());
    let site = Site::with_key(&daemon, &pki, "shop");
    let good = daemon.least_openssl_conf(OpenSsl::System);
    let scene = Scene { daemon, good };
    let daemon = &scene.daemon;
    let find = |pid: u32, more: &[&dyn AsRef<OsStr>]| {
        let pid = pid.to_string();
        doctor(daemon, "chroot", &[&[&"--pid", &pid as &dyn AsRef<OsStr>], more].concat())
    };
    let is_told = |found: &[Finding], pid: u32, socket: &str| {
        let [[first, place, _], [second, answer, _]] = found else { panic!("{found:#?}") };
        assert_eq!([first, second], ["ok", "ok"], "{found:#?}");
        assert_eq!(*place, format!("process {pid} has {} for its root", root.display()));
        let told = format!("from inside {} the socket /keyward.sock answers ({socket})", root.display());
        assert_eq!(*answer, told);
    };

    let haproxy = Haproxy::start_in_chroot(daemon, &[site], &root);
    let workers = haproxy.workers();
    assert!(!workers.is_empty());
    for pid in workers {
        is_told(&find(pid, &[]), pid, &format!("KEYWARD_SOCKET of process {pid}"));
        let found = doctor(daemon, "process", &[&"--pid", &pid.to_string()]);
        assert!(found.iter().all(|[verdict, ..]| verdict == "ok"), "{found:#?}");
        // An argument counts more than a finding.
        let found = find(pid, &[&"--chroot", &daemon.directory()]);
        let [[verdict, detail, _]] = &found[..] else { panic!("{found:#?}") };
        let inside = format!("from inside {} the socket", daemon.directory().display());
        assert!(verdict == "fail" && detail.starts_with(&inside), "{detail}");
    }

    let conf = scene.conf(&format!("socket = {}", daemon.socket().display()), "socket = /keyward.sock");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", "import os, sys, time; os.chroot(sys.argv[1]); time.sleep(600)"]).arg(&root);
    command.env_remove("KEYWARD_SOCKET").env("OPENSSL_CONF", &conf);
    let server = Process::start(&mut command, &daemon.path("server.log"));
    let link = format!("/proc/{}/root", server.id());
    wait_for("the process in its chroot", || (fs::read_link(&link).ok()? == root).then_some(()));
    is_told(&find(server.id(), &[]), server.id(), &format!("socket of {}", conf.display()));
    assert!(find(std::process::id(), &[]).is_empty(), "our root is that of the doctor");

    // A root that no path leads to, as if it were in a container.
    drop(haproxy);
    fs::remove_dir_all(&root).unwrap();
    let found = find(server.id(), &[]);
    let [[verdict, detail, mend]] = &found[..] else { panic!("{found:#?}") };
    assert!(verdict == "warn" && detail.contains("sees other files than we do"), "{detail}");
    assert!(mend.contains("--chroot DIR"), "{mend}");
}

/// The set-up of conf/haproxy.md: the socket comes from the environment, whatever openssl.cnf says.
#[test]
fn the_environment_says_where_the_socket_is() {
    let mut daemon = Daemon::prepare("");
    let root = daemon.path("chroot");
    fs::create_dir(&root).unwrap();
    daemon.configure_more(&format!("[socket]\nalso = [{:?}]\n", root.join("keyward.sock")));
    daemon.resume();
    let conf = daemon.openssl_conf();
    let find = |check: &str, variable: Option<&str>, more: &[&dyn AsRef<OsStr>]| {
        let mut command = daemon.keyward(&["doctor", "--json"]);
        command.env_remove("KEYWARD_SOCKET").envs(variable.map(|socket| ("KEYWARD_SOCKET", socket)));
        command.arg("--openssl-conf").arg(&conf).args(more);
        let mut found = findings(&mut command, check);
        assert!(!found.is_empty(), "no finding about {check}");
        found.remove(found.len() - 1)
    };
    let in_chroot: [&dyn AsRef<OsStr>; 2] = [&"--chroot", &root];

    let [verdict, detail, _] = find("chroot", Some("/keyward.sock"), &in_chroot);
    let told = "the socket /keyward.sock answers (KEYWARD_SOCKET of this environment)";
    assert!(verdict == "ok" && detail.contains(told), "{detail}");
    let [verdict, detail, _] = find("chroot", None, &in_chroot);
    let told = format!("(socket of {}) cannot be reached", conf.display());
    assert!(verdict == "fail" && detail.contains(&told), "{detail}");
    let [verdict, detail, mend] = find("socket", Some("/keyward.sock"), &[]);
    assert!(verdict == "fail" && detail.ends_with("(KEYWARD_SOCKET of this environment)"), "{detail}");
    assert!(mend.contains("let KEYWARD_SOCKET name a socket") && mend.contains("--chroot DIR"), "{mend}");
    let [verdict, detail, _] = find("socket", Some("keyward.sock"), &[]);
    assert!(verdict == "fail" && detail.contains("keyward.sock"), "{detail}");

    // With a process it is that one's environment which counts.
    let mut server = Command::new("sleep");
    let server =
        Process::start(server.arg("60").env("KEYWARD_SOCKET", "/keyward.sock"), &daemon.path("sleep.log"));
    let pid = server.id().to_string();
    let of_process = [&in_chroot[..], &[&"--pid", &pid]].concat();
    wait_for("the process", || {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        String::from_utf8_lossy(&environment).contains("KEYWARD_SOCKET=").then_some(())
    });
    let [verdict, detail, _] = find("chroot", Some("/nowhere"), &of_process);
    let told = format!("(KEYWARD_SOCKET of process {pid})");
    assert!(verdict == "ok" && detail.ends_with(&told), "{detail}");
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
        let [verdict, detail, mend] = find();
        assert!(verdict == "fail" && detail.contains("no grant covers daemon and this key"), "{detail}");
        assert!(
            mend.contains("user = \"daemon\" and keys = [\"shop\"] and uses = [\"tls-server\"]"),
            "{mend}"
        );
    }
    configure(&by("shop", "csr"));
    let [verdict, detail, mend] = find();
    assert!(verdict == "fail" && detail.contains("do not include tls-server"), "{detail}");
    assert!(mend.contains("add tls-server to the uses of the grant"), "{mend}");

    for grant in [by("sh*", "tls-server"), by("shop", "any").replace("user", "group")] {
        configure(&grant);
        let [verdict, detail, _] = find();
        assert!(verdict == "ok" && detail.ends_with("daemon may use key shop for tls-server"), "{detail}");
    }

    let mut patch = daemon.curl();
    patch.args(["-X", "PATCH", "-d", r#"{"uses":["csr"]}"#, "http://localhost/v1/keys/shop"]);
    succeed(&mut patch);
    let [verdict, detail, mend] = find();
    assert!(
        verdict == "fail" && detail.contains("the uses of the key do not include tls-server"),
        "{detail}"
    );
    // The advice works as it stands.
    let told = mend.strip_prefix("allow it: ").unwrap();
    succeed(&mut daemon.shell(told));
    assert_eq!(find()[0], "ok");

    // A grant for a server with TLS 1.2 alone: the key is what lacks the use.
    configure(&by("shop", "tls12-server"));
    let [verdict, detail, mend] = find();
    assert!(verdict == "fail" && detail.contains("do not include tls-server"), "{detail}");
    assert!(mend.contains("if not, add tls-server to the uses of the grant"), "{mend}");
    let told = mend.split_once("the key has not: ").unwrap().1.split_once(';').unwrap().0;
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
        let [verdict, detail, mend] = configure_and_find(key, others);
        let told =
            format!("may not use key {key} for {needed}: the grants of daemon do not include {needed}");
        assert!(verdict == "fail" && detail.contains(&told), "{detail}");
        assert!(mend.contains(&format!("add {needed} to the uses of the grant")), "{mend}");
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

/// The group database and a service that a grant names are what the process should have, not what
/// it has.
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
        (format!("unit = {service:?}"), format!("may use key shop for tls-server (in {service} alone)")),
    ] {
        daemon.configure(&format!("log = \"debug\"\n[[grant]]\n{who}\nkeys = [\"shop\"]\n"));
        daemon.reload();
        let [verdict, detail, _] = find(&[]);
        // If services cannot be told apart, the doctor says so.
        let is_told = detail.ends_with(&ok) || detail.contains("grants with unit do not hold: ");
        assert!(is_told && (verdict == "ok") == detail.ends_with(&ok), "{who}: {detail}");
        let [verdict, detail, _] = find(&[&"--pid", &pid]);
        assert!(verdict == "fail" && detail.contains("no grant covers daemon (process "), "{who}: {detail}");
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

    // In the service itself, where the kernel lets us play systemd.
    if let Some(cgroups) = Cgroups::mount() {
        daemon.configure(&format!("log = \"debug\"\n[[grant]]\nunit = {service:?}\nkeys = [\"shop\"]\n"));
        daemon.reload();
        let group = cgroups.group(&format!("system.slice/{service}"));
        fs::write(group.join("cgroup.procs"), &pid).unwrap();
        let [verdict, detail, _] = find(&[&"--pid", &pid]);
        let is_told =
            verdict == "ok" && detail.contains(&format!("in {service}) may use key shop for tls-server"));
        assert!(is_told || detail.contains("grants with unit do not hold: "), "{detail}");
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
        let told = "grants with unit do not hold: the daemon runs in a cgroup namespace, as in a container";
        assert!(verdict == "fail" && detail.contains(told), "{detail}");
    }
}

#[test]
fn the_certificate_is_of_another_key() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let find = |certificate: &Path| {
        let mut found =
            doctor(&daemon, "certificate", &[&"--cert", &certificate, &"--reference", &reference]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    assert_eq!(find(&pki.certify(&daemon, &reference))[0], "ok");
    let [verdict, detail, mend] = find(&pki.leaf("other").0);
    assert!(verdict == "fail" && detail.contains("another public key than key shop"), "{detail}");
    assert!(mend.contains("put the certificate of the server itself first"), "{mend}");
    let [verdict, detail, mend] = find(&pki.leaf("other").1);
    assert!(
        verdict == "fail" && detail.ends_with("other.key holds no certificate that OpenSSL can read"),
        "{detail}"
    );
    assert!(mend.contains("give the chain in PEM"), "{mend}");
    let [verdict, detail, _] = find(Path::new("/nowhere.crt"));
    assert!(verdict == "fail" && detail.contains("cannot read /nowhere.crt: No such file"), "{detail}");
}

#[test]
fn the_reference_is_none() {
    let daemon = Daemon::start();
    let (certificate, key) = Pki::new(daemon.directory()).leaf("old");
    let find = |check: &str, path: &Path| {
        let arguments: [&dyn AsRef<OsStr>; 6] =
            [&"--reference", &path, &"--cert", &certificate, &"--user", &OTHER];
        let mut found = doctor(&daemon, check, &arguments);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    for (path, told, mends) in [
        (&*key, "old.key holds a private key, not a reference to one", "keyward key import LABEL --in"),
        (&certificate, "old.crt holds no reference", "keyward key reference LABEL"),
        (Path::new("/nowhere.pem"), "cannot read /nowhere.pem: No such file", "keyward key reference LABEL"),
    ] {
        let [verdict, detail, mend] = find("reference", path);
        assert!(verdict == "fail" && detail.contains(told), "{detail}");
        assert!(mend.contains(mends), "{mend}");
        for check in ["certificate", "grant"] {
            let [verdict, detail, _] = find(check, path);
            assert!(verdict == "warn" && detail.contains("for want of the reference"), "{check}: {detail}");
        }
    }
}

#[test]
fn the_user_cannot_read_the_reference() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let path = daemon.reference("shop");
    let find = |mode: u32| {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        doctor(&daemon, "reference", &[&"--reference", &path, &"--user", &OTHER])
    };
    let found = find(0o644);
    assert!(found.len() == 1 && found[0][0] == "ok", "{found:#?}");
    let found = find(0o600);
    let [[known, ..], [verdict, detail, mend]] = &found[..] else { panic!("{found:#?}") };
    assert!(known == "ok" && verdict == "warn", "{found:#?}");
    assert!(detail.contains("daemon may not read") && detail.contains("(mode 600)"), "{detail}");
    assert!(mend.contains("chmod a+r"), "{mend}");
    // A name without its directory, which is closed.
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(daemon.directory(), Permissions::from_mode(0o700)).unwrap();
    let mut command = daemon.keyward(&["doctor", "--json", "--user", OTHER]);
    command.arg("--reference").arg(path.file_name().unwrap()).current_dir(daemon.directory());
    let found = findings(&mut command, "reference");
    let [_, [verdict, detail, _]] = &found[..] else { panic!("{found:#?}") };
    assert!(verdict == "warn" && detail.contains("daemon cannot pass"), "{detail}");
}

#[test]
fn the_user_does_not_exist() {
    let daemon = Daemon::start();
    let found = doctor(&daemon, "user", &[&"--user", &"nobody-of-that-name"]);
    let [[verdict, detail, mend]] = &found[..] else { panic!("{found:#?}") };
    assert!(verdict == "fail" && detail.contains("there is no user"), "{detail}");
    assert!(mend.contains("the user that the server runs as"), "{mend}");
}
