//! An openssl.cnf that is not as it should be: servers go on without harm, or fail at once with words and not with a
//! crash. That `keyward doctor` finds each of these, and says how to mend it, has tests of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::PathBuf;

use keyward_tests::tool::{run, stderr, succeed};
use keyward_tests::{Daemon, Host, OpenSsl, Pki};

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
        let good = fs::read_to_string(self.daemon.openssl_conf_of(openssl)).unwrap();
        assert!(good.contains(part), "{part:?} in {good}");
        let path = self.daemon.path("spoilt.cnf");
        fs::write(&path, good.replacen(part, by, 1)).unwrap();
        path
    }

    /// What a server on an OpenSSL says instead of a handshake, if there is none.
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

/// Why the order counts nevertheless: whoever comes first is asked to generate keys, as for P-256 in a handshake.
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
    let directory = format!("module = {}", scene.daemon.directory().display());
    for openssl in OpenSsl::ALL {
        for (part, by, told) in [
            (LIST, "keyward = keyward_provider\n", "library has no ciphers"),
            (LIST, "default = default_provider\n", "unsupported"),
            (&directory, "module = /nowhere", "unsupported"),
        ] {
            let text = scene.failure(openssl, part, by).unwrap_or_default();
            assert!(text.contains(told), "{by:?} on {openssl:?}: {text}");
        }
        // Before 3.3 activated by being mentioned at all.
        let failure = scene.failure(openssl, OURS, "[keyward_provider]\nactivate = 0\n");
        let told = failure.as_ref().map(|text| text.contains("unsupported"));
        assert_eq!(told, (openssl != OpenSsl::System).then_some(true), "{openssl:?}: {failure:?}");
    }
}

/// With `fips=yes` the provider is left out, and the default one is too.
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

/// Told when a key is loaded: a provider that does not start is skipped without a word.
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
        // Nobody else is bothered with it.
        let conf = scene.conf(openssl, OURS, &format!("{OURS}timeout = soon\n"));
        succeed(openssl.program(&["genpkey", "-algorithm", "ED25519"]).env("OPENSSL_CONF", conf));
    }
}
