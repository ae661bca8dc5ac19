//! The shipped openssl.cnf together with any openssl.cnf of the system, and openssl.cnf files with
//! mistakes. With a mistake, servers work without the provider, or fail at once with a reason and
//! without a crash. Other tests show that `keyward doctor` finds each mistake and says how to fix
//! it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::server::{Site, nginx};
use keyward_tests::tool::{fail, run, stderr, succeed};
use keyward_tests::{Daemon, Host, OpenSsl, Pki, built, has_root};

struct Scene {
    daemon: Daemon,
    certificate: PathBuf,
    reference: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let daemon = Daemon::start();
        daemon.generate("shop", "p256");
        let reference = daemon.reference("shop");
        let certificate = Pki::new(daemon.directory()).certify(&daemon, &reference);
        Self { daemon, certificate, reference }
    }

    /// The openssl.cnf for an OpenSSL with a part of it replaced.
    fn conf(&self, openssl: OpenSsl, part: &str, by: &str) -> PathBuf {
        let good = self.daemon.least_openssl_conf(openssl);
        assert!(good.contains(part), "{part:?} in {good}");
        let path = self.daemon.path("spoilt.cnf");
        fs::write(&path, good.replacen(part, by, 1)).unwrap();
        path
    }

    /// Error of a server on an OpenSSL instead of a handshake; `None` if there is a handshake.
    fn failure(&self, openssl: OpenSsl, part: &str, by: &str) -> Option<String> {
        let mut host =
            Host::new(&self.daemon, openssl).mode("handshakes", &self.certificate, &self.reference, 1);
        let output = run(host.command.env("OPENSSL_CONF", self.conf(openssl, part, by)));
        let text = stderr(&output);
        let failed = !output.status.success();
        assert!(
            !failed || output.status.code() == Some(1),
            "{by:?} on {openssl:?}: {}: {text}",
            output.status
        );
        failed.then_some(text)
    }
}

/// Protocols, providers and settings of the openssl program, on systems with different openssl.cnf
/// files.
#[test]
fn the_policy_of_the_system_stays_in_force() {
    let scene = Scene::new();
    let system = scene.daemon.path("system.cnf");
    let policy =
        "ssl_conf = ssl_sect\n[ssl_sect]\nsystem_default = policy\n[policy]\nMinProtocol = TLSv1.3\n";
    // A handshake without TLS 1.3 fails only under the policy.
    let handshake = |openssl, shipped: &str, tls12: bool| {
        let conf = scene.daemon.path("shipped.cnf");
        fs::write(&conf, shipped).unwrap();
        let host =
            Host::new(&scene.daemon, openssl).mode("handshakes", &scene.certificate, &scene.reference, 1);
        let mut host = if tls12 { host.tls12("ECDHE-ECDSA-AES128-GCM-SHA256") } else { host };
        let output = run(host.command.env("OPENSSL_CONF", &conf));
        match output.status.success() {
            true => "served",
            false if stderr(&output).contains("no protocols available") => "refused by the policy",
            false if stderr(&output).contains("No supported data to decode") => "no provider",
            false => panic!("{openssl:?}: {}", stderr(&output)),
        }
    };
    for openssl in OpenSsl::ALL {
        let shipped = fs::read_to_string(scene.daemon.openssl_conf_of(openssl)).unwrap();
        assert!(shipped.contains(SYSTEM), "{shipped}");
        let shipped = shipped.replace(SYSTEM, system.to_str().unwrap());
        for (text, tls12) in [
            (format!("openssl_conf = openssl_init\n[openssl_init]\n{policy}"), "refused by the policy"),
            // Debian 11 and Ubuntu 20.04.
            (format!("openssl_conf = default_conf\n[default_conf]\n{policy}"), "refused by the policy"),
            // Fedora: the policy is in a separate file, and a section names the providers.
            (
                format!(
                    "openssl_conf = openssl_init\n[openssl_init]\nproviders = provider_sect\n{policy}\
                     [provider_sect]\ndefault = default_sect\n[default_sect]\nactivate = 1\n"
                ),
                "refused by the policy",
            ),
            ("# openssl_conf = openssl_init\n[req]\ndefault_bits = 2048\n".to_owned(), "served"),
        ] {
            fs::write(&system, &text).unwrap();
            assert_eq!(handshake(openssl, &shipped, true), tls12, "{openssl:?}: {text}");
            assert_eq!(handshake(openssl, &shipped, false), "served", "{openssl:?}: {text}");
        }
        // If the section has another name, there is no key. This is better than no policy. The file
        // must then name the section, as the error says.
        fs::write(&system, format!("openssl_conf = ours\n[ours]\n{policy}")).unwrap();
        assert_eq!(handshake(openssl, &shipped, false), "no provider", "{openssl:?}");
        let told = format!("{shipped}[ours]\nproviders = provider_sect\n");
        assert_eq!(handshake(openssl, &told, false), "served", "{openssl:?}");
        assert_eq!(handshake(openssl, &told, true), "refused by the policy", "{openssl:?}");
        // Without any file.
        fs::remove_file(&system).unwrap();
        assert_eq!(handshake(openssl, &shipped, true), "served", "{openssl:?}");
    }
}

#[test]
fn settings_and_providers_of_the_system_are_there() {
    let scene = Scene::new();
    for openssl in OpenSsl::ALL {
        let mut command = scene
            .daemon
            .openssl_of(openssl, &["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=x"]);
        let certificate = scene.daemon.path("x.pem");
        succeed(command.arg("-keyout").arg(scene.daemon.path("x.key")).arg("-out").arg(&certificate));
        let text = succeed(openssl.program(&["x509", "-noout", "-text", "-in"]).arg(certificate));
        assert!(
            text.contains("X509v3 Basic Constraints: critical\n                CA:TRUE"),
            "{openssl:?}: {text}"
        );
    }
    let [system, conf] = ["system.cnf", "shipped.cnf"].map(|name| scene.daemon.path(name));
    let legacy = "[provider_sect]\nlegacy = legacy_sect\n[legacy_sect]\nactivate = 1\n";
    fs::write(&system, fs::read_to_string(SYSTEM).unwrap() + legacy).unwrap();
    let shipped = fs::read_to_string(scene.daemon.openssl_conf()).unwrap();
    fs::write(&conf, shipped.replace(SYSTEM, system.to_str().unwrap())).unwrap();
    let listed = succeed(OpenSsl::System.program(&["list", "-providers"]).env("OPENSSL_CONF", &conf));
    for name in ["default", "keyward", "legacy"] {
        assert!(listed.contains(&format!("\n  {name}\n")), "{name}: {listed}");
    }
}

/// Node reads its own section, and builds outside of Debian have their own OpenSSL.
#[test]
fn node_serves_with_the_key() {
    let scene = Scene::new();
    let program = "const fs = require('fs'), tls = require('tls');
        const [certificate, reference] = process.argv.slice(1).map((path) => fs.readFileSync(path));
        const server = tls.createServer({ cert: certificate, key: reference }, (socket) => socket.end('served'));
        server.listen(0, '127.0.0.1', () => {
            const { port } = server.address();
            const client = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false });
            client.on('data', (text) => process.stdout.write(text));
            client.on('end', () => server.close());
        });";
    let mut node = Command::new("node");
    node.args(["-e", program]).arg(&scene.certificate).arg(&scene.reference);
    assert_eq!(succeed(node.env("OPENSSL_CONF", scene.daemon.openssl_conf())), "served");
    scene.daemon.assert_one_request_each(1);
}

/// The file that the shipped file includes.
const SYSTEM: &str = "/etc/ssl/openssl.cnf";

const LIST: &str = "default = default_provider\nkeyward = keyward_provider\n";
const OURS: &str = "[keyward_provider]\nactivate = 1\n";

#[test]
fn names_and_orders_that_do_no_harm_to_handshakes() {
    let scene = Scene::new();
    for openssl in OpenSsl::ALL {
        for list in [
            LIST,
            "keyward = keyward_provider\ndefault = default_provider\n",
            "default = default_provider\ntls = keyward_provider\n",
            "default = default_provider\naaa = keyward_provider\n",
        ] {
            assert_eq!(scene.failure(openssl, LIST, list), None, "{openssl:?}: {list}");
        }
    }
}

/// The order matters: the first provider generates keys, as for P-256 in a handshake.
#[test]
fn before_the_default_provider_ours_is_in_the_way() {
    let scene = Scene::new();
    let first = "keyward = keyward_provider\ndefault = default_provider\n";
    for openssl in OpenSsl::ALL {
        let generate = |list| {
            let mut command = openssl.program(&["genpkey", "-algorithm", "EC", "-pkeyopt"]);
            run(command.arg("ec_paramgen_curve:P-256").env("OPENSSL_CONF", scene.conf(openssl, LIST, list)))
        };
        assert!(generate(LIST).status.success(), "{openssl:?}");
        let output = generate(first);
        assert_eq!(output.status.code(), Some(1), "{openssl:?}: {}", stderr(&output));
    }
}

#[test]
fn providers_that_are_missing() {
    let scene = Scene::new();
    // The text of the reference explains the error.
    let reference = fs::read_to_string(&scene.reference).unwrap();
    assert!(reference.contains("# A program that finds \"No supported data to decode\""), "{reference}");
    let directory = format!("module = {}", scene.daemon.directory().display());
    for openssl in OpenSsl::ALL {
        for (part, by, told) in [
            (LIST, "keyward = keyward_provider\n", "library has no ciphers"),
            (LIST, "default = default_provider\n", "No supported data to decode"),
            (&directory, "module = /nowhere", "No supported data to decode"),
        ] {
            let text = scene.failure(openssl, part, by).unwrap_or_default();
            assert!(text.contains(told), "{by:?} on {openssl:?}: {text}");
        }
        // Before 3.3, the mere presence of the line activated the provider.
        let failure = scene.failure(openssl, OURS, "[keyward_provider]\nactivate = 0\n");
        let told = failure.as_ref().map(|text| text.contains("unsupported"));
        assert_eq!(told, (openssl != OpenSsl::System).then_some(true), "{openssl:?}: {failure:?}");
    }
}

/// With `fips=yes`, OpenSSL uses neither our provider nor the default provider.
#[test]
fn properties_that_nobody_has() {
    let scene = Scene::new();
    let init = "providers = providers\n";
    let with = |properties: &str| {
        format!("{init}alg_section = properties\n[properties]\ndefault_properties = {properties}\n")
    };
    for openssl in OpenSsl::ALL {
        let text = scene.failure(openssl, init, &with("fips=yes")).unwrap_or_default();
        assert!(text.contains("library has no ciphers"), "{openssl:?}: {text}");
        let mut sign =
            Host::new(&scene.daemon, openssl).mode("signs", &scene.certificate, &scene.reference, 1);
        let output = run(sign.command.env("OPENSSL_CONF", scene.conf(openssl, init, &with("fips=yes"))));
        assert_eq!(output.status.code(), Some(1), "{openssl:?}: {}", output.status);
        let told = "operation not supported for this keytype";
        assert!(stderr(&output).contains(told), "{openssl:?}: {}", stderr(&output));
        assert_eq!(scene.failure(openssl, init, &with("?fips=yes")), None, "{openssl:?}");
    }
    assert_eq!(scene.daemon.logged(&["outcome=done", "signature"]), OpenSsl::ALL.len());
}

/// The error appears when a key is loaded, because OpenSSL skips a provider that does not start
/// without a message.
#[test]
fn settings_that_make_no_sense() {
    let scene = Scene::new();
    let socket = format!("socket = {}\n", scene.daemon.socket().display());
    for openssl in OpenSsl::ALL {
        for (part, by, told) in [
            (
                OURS,
                format!("{OURS}timeout = soon\n"),
                "setting timeout: \"soon\" is not a time like 5s or 500ms",
            ),
            (&socket, "socket = beside/me\n".to_owned(), "setting socket: "),
        ] {
            let text = scene.failure(openssl, part, &by).unwrap_or_default();
            let told = format!("keyward: cannot use the configuration of the provider: {told}");
            assert!(text.contains(&told), "{openssl:?}: {text}");
        }
        // Users of other keys see no error.
        let conf = scene.conf(openssl, OURS, &format!("{OURS}timeout = soon\n"));
        succeed(openssl.program(&["genpkey", "-algorithm", "ED25519"]).env("OPENSSL_CONF", conf));
    }
}

/// A shell has the variable, and the service of nginx does not have it.
#[test]
fn keyward_env_runs_tools_as_their_service_would() {
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &Pki::new(daemon.directory()), "shop");
    let directory = nginx::configure(&daemon, std::slice::from_ref(&site), 1);
    let mut check = nginx::command(&daemon, &directory);
    check.arg("-t").env_remove("OPENSSL_CONF");
    let (_, text) = fail(&mut check);
    assert!(text.contains("cannot load certificate key"), "{text}");

    // By a relative name in its own directory.
    let conf = daemon.openssl_conf();
    let (home, name) = (conf.parent().unwrap(), conf.file_name().unwrap().to_str().unwrap());
    let env = |words: &[&str]| {
        let mut command = Command::new(built("keyward"));
        command.arg("env").args(words).env_remove("OPENSSL_CONF").current_dir(home);
        command
    };
    let named = ["--openssl-conf", name];
    let with_check = |mut command: Command| {
        command.arg(check.get_program()).args(check.get_args());
        command
    };
    succeed(&mut with_check(env(&named)));
    succeed(with_check(env(&[])).env("OPENSSL_CONF", &conf));
    // The exit status is that of the command, not that of `keyward env`.
    assert_eq!(run(env(&named).args(["sh", "-c", "exit 7"])).status.code(), Some(7));
    // For a shell, whose working directory may change.
    let told = succeed(env(&named).args(["--runtime-dir", "my run"]));
    let script = format!("{told} cd /; echo $OPENSSL_CONF; echo $KEYWARD_SOCKET");
    let seen = succeed(Command::new("sh").args(["-c", &script]));
    let expected = [name, "my run/keyward.sock"].map(|name| home.join(name).display().to_string());
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);

    for (words, status, told) in [
        (&["--openssl-conf", "none.cnf", "true"][..], 66, "cannot read none.cnf: No such file"),
        (&["--openssl-conf", name, "./none"], 66, "cannot run ./none: No such file"),
        (&["--openssl-conf", name, "/etc/passwd"], 77, "cannot run /etc/passwd: Permission denied"),
    ] {
        let (code, text) = fail(&mut env(words));
        assert_eq!(code.code(), Some(status), "{text}");
        assert!(text.contains(told) && text.lines().count() == 1, "{text}");
    }
    succeed(Command::new("mkfifo").arg(home.join("pipe")));
    let (code, text) = fail(&mut env(&["--openssl-conf", "pipe", "true"]));
    assert!(code.code() == Some(74) && text.contains("cannot read pipe: not a file"), "{text}");
    // OpenSSL continues without the provider and without a message, so nginx can only say that it
    // cannot read the key.
    fs::write(home.join("empty.cnf"), "").unwrap();
    let output = run(&mut with_check(env(&["--openssl-conf", "empty.cnf"])));
    assert!(!output.status.success());
    assert!(stderr(&output).starts_with("keyward: warning: openssl_conf is missing in empty.cnf"));
}

/// Files whose code would run with the rights of root.
#[test]
fn keyward_env_loads_nothing_of_other_users_as_root() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    let own = fs::read_to_string(daemon.openssl_conf()).unwrap();
    let module = own.lines().find_map(|line| line.strip_prefix("module = ")).unwrap().to_owned();
    let [conf, foreign, copy] = ["mine.cnf", "foreign.cnf", "copy.so"].map(|name| daemon.path(name));
    fs::copy(&module, &copy).unwrap();
    let naming_copy = own.replace(&module, copy.to_str().unwrap());
    let including = |file: &Path| own.replace("/etc/ssl/openssl.cnf", file.to_str().unwrap());
    let run_env = || {
        let mut command = Command::new(built("keyward"));
        command.args(["env", "--openssl-conf"]).arg(&conf).args(["echo", "run"]);
        run(&mut command)
    };
    let of_nobody = |file: &Path| chown(file, Some(65534), None).unwrap();
    for (text, included, whose) in [
        (&own, "", &conf),
        (&naming_copy, "", &copy),
        (&including(&foreign), "", &foreign),
        (&including(&foreign), &*format!("[x]\nmodule = {}\n", copy.display()), &copy),
    ] {
        fs::write(&conf, text).unwrap();
        fs::write(&foreign, included).unwrap();
        for file in [&conf, &foreign, &copy] {
            chown(file, Some(0), None).unwrap();
        }
        let output = run_env();
        assert!(output.status.success() && output.stdout == b"run\n", "{}", stderr(&output));
        of_nobody(whose);
        let (output, told) = (run_env(), format!("{} belongs to user nobody", whose.display()));
        let text = stderr(&output);
        assert!(output.status.code() == Some(77) && output.stdout.is_empty(), "{text}");
        assert!(text.contains(&told) && text.contains("chown -h root"), "{text}");
    }
}
