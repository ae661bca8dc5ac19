use core::num::NonZeroU32;

use keyward_proto::Use;
use proptest::prelude::*;

use super::*;
use crate::policy::authorise::{Limits, Who};
use crate::policy::roles::{Holder, Role};

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("k.toml")).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse(""), Ok(Config::default()));
}

#[test]
fn every_setting() {
    let config = parse(
        r#"
        log = "debug"
        log-format = "json"
        separation = true
        [socket]
        also = ["/var/lib/haproxy/keyward.sock", "@keyward"]
        connections = 10
        connections-per-user = 5
        [metrics]
        listen = "[::1]:9463"
        [limits]
        request-timeout = "500ms"
        drain-timeout = "1m"
        cached-records = 7
        [embedded]
        master-key = "/etc/keyward/master.key"
        unseal-key = "/etc/keyward/unseal.key"
        unseal-passphrase = "/etc/keyward/unseal.passphrase"
        cached-keys = 9
        [[grant]]
        user = "root"
        keys = ["shop", "*.example.com"]
        [[grant]]
        group = "root"
        keys = ["*"]
        uses = ["tls-client", "csr"]
        [[grant]]
        uid = 4711
        keys = ["a"]
        uses = ["any"]
        [[grant]]
        uid = 33
        unit = "app@1.service"
        keys = ["a"]
        rate = 500
        in-flight = 64
        [[role]]
        role = "auditor"
        user = "root"
        [[role]]
        role = "operator"
        group = "root"
        [[role]]
        role = "viewer"
        uid = 4711
        "#,
    )
    .unwrap();
    assert_eq!((config.log, config.log_format), (LevelFilter::DEBUG, LogFormat::Json));
    assert_eq!(config.socket.extra[1].to_string(), "@keyward");
    assert_eq!((config.socket.connections, config.socket.connections_per_user), (10, 5));
    assert_eq!(config.metrics.map(|address| address.to_string()).as_deref(), Some("[::1]:9463"));
    assert_eq!(config.request_timeout, Duration::from_millis(500));
    assert_eq!(config.drain_timeout, Duration::from_secs(60));
    assert_eq!((config.cached_records.get(), config.embedded.cached_keys.get()), (7, 9));
    let grants: Vec<_> = config.grants.iter().collect();
    assert_eq!((&grants[0].who, &grants[0].uses[..]), (&Who::user(0), &[Use::TlsServer][..]));
    assert_eq!(grants[1].who, Who { gid: Some(0), ..Who::default() });
    assert_eq!(grants[2].who, Who::user(4711));
    assert_eq!(grants[3].who, Who { service: Some("app@1.service".into()), ..Who::user(33) });
    let limits = Limits { rate: NonZeroU32::new(500), in_flight: NonZeroU32::new(64) };
    assert_eq!((grants[2].limits, grants[3].limits), (Limits::default(), limits));
    let roles: Vec<_> = config.roles.iter().map(|given| (given.role, given.to)).collect();
    let expected = [
        (Role::Auditor, Holder::User(0)),
        (Role::Operator, Holder::Group(0)),
        (Role::Viewer, Holder::User(4711)),
    ];
    assert!(roles == expected && config.roles.separation(), "{roles:?}");
    assert_eq!(config.warnings().len(), 1, "{:?}", config.warnings());
    assert_eq!(parse(&config.to_effective_toml()), Ok(config));
}

#[test]
fn notes_name_the_free_bytes_of_uses_and_narrower_uses() {
    assert_eq!(Config::default().notes(), Vec::<String>::new());
    let grant = |uses: &str| format!("[[grant]]\nuid = 1\nkeys = [\"shop\", \"mail\"]\nuses = [{uses}]\n");
    for (uses, words) in [
        ("\"tls-server\"", &["TLS 1.2 alone", "need tls12-server", "tls12-dhe-server", "tls13-server"][..]),
        ("\"tls12-server\"", &["64 bytes", "offer TLS 1.3"]),
        ("\"tls12-dhe-server\"", &["1,024", "drop DHE"]),
    ] {
        let notes = parse(&grant(uses)).unwrap().notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        for word in ["shop, mail"].iter().chain(words) {
            assert!(notes[0].contains(word), "{notes:?} lacks {word:?}");
        }
    }
    assert_eq!(parse(&grant("\"tls13-server\", \"csr\"")).unwrap().notes(), Vec::<String>::new());
}

#[test]
fn a_narrow_grant_beside_a_wide_grant_is_reported() {
    let warnings = |more: &str| {
        let text =
            format!("[[grant]]\nuid = 33\nunit = \"nginx.service\"\nkeys = [\"shop\"]\nrate = 5\n{more}");
        parse(&text).unwrap().warnings()
    };
    let wide = warnings("[[grant]]\nuid = 33\nkeys = [\"*\"]\n");
    assert!(
        wide.len() == 1 && wide[0].contains("grant number 1") && wide[0].contains("unit and rate"),
        "{wide:?}"
    );
    for apart in [
        "",
        "[[grant]]\nuid = 34\nkeys = [\"*\"]\n",
        "[[grant]]\nuid = 33\nkeys = [\"mail\"]\n",
        "[[grant]]\nuid = 33\nkeys = [\"shop\"]\nuses = [\"csr\"]\n",
        "[[grant]]\nuid = 33\nunit = \"php-fpm.service\"\nkeys = [\"shop\"]\n",
    ] {
        assert_eq!(warnings(apart), Vec::<String>::new(), "{apart}");
    }
}

#[test]
fn the_default_is_read_as_it_was_written() {
    assert_eq!(parse(&Config::default().to_effective_toml()), Ok(Config::default()));
}

#[test]
fn the_shipped_example_is_valid() {
    let example = include_str!("../../../conf/keyward.toml");
    parse(example).unwrap();
    // With the examples enabled, except for the users, who may not exist here.
    let on: String =
        example.lines().map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line))).collect();
    let on = on.replace("\"www-data\"", "\"root\"").replace("\"keyward-acme\"", "\"root\"");
    let config = parse(&on).unwrap();
    assert_eq!((config.grants.iter().count(), config.roles.iter().count()), (2, 2));
    assert_eq!((config.plans.len(), config.watches.len()), (1, 1));
    assert!(config.roles.separation());
}

#[test]
fn each_mistake_has_one_clear_line() {
    for (text, words) in [
        ("lgo = \"info\"", &["k.toml, line 1", "unknown field `lgo`", "expected one of"][..]),
        ("[socket]\n\nconections = 1", &["line 3", "unknown field `conections`"]),
        ("log = 1", &["line 1: log: this is text, write it in quotes"]),
        ("log = ", &["line 1"]),
        ("log-format = \"xml\"", &["log-format: \"xml\" is neither \"text\" nor \"json\""]),
        ("log = \"loud\"", &["log", "loud", "debug"]),
        (
            "default-backend = \"hsm\"",
            &["default-backend: there is no section [grep11.hsm]; write \"embedded\", or take"],
        ),
        (
            "default-backend = \"\"\n[grep11.hsm]\nendpoints = [\"a:1\"]",
            &["default-backend: it names no backend; write \"hsm\" or \"embedded\", or take the line out"],
        ),
        ("[limits]\nrequest-timeout = \"5\"", &["limits.request-timeout", "5s"]),
        ("[limits]\nrequest-timeout = \"0s\"", &["limits.request-timeout"]),
        ("[limits]\ndrain-timeout = \"2h\"", &["limits.drain-timeout"]),
        ("[limits]\ncached-records = 0", &["line 2: cached-records: ", "1 or more"]),
        ("[socket]\nconnections = 0", &["socket.connections"]),
        ("[socket]\nalso = [\"keyward.sock\"]", &["socket.also", "absolute path"]),
        ("[socket]\nalso = [\"/a\\nb\"]", &["socket.also", "line break"]),
        ("[metrics]\nlisten = \"0.0.0.0:9463\"", &["metrics.listen", "0.0.0.0", "not a loopback address"]),
        ("[metrics]\nlisten = \"[::]:9463\"", &["metrics.listen", "not a loopback address", "[::1]:9463"]),
        ("[metrics]\nlisten = \"192.0.2.1:9463\"", &["metrics.listen", "not a loopback address"]),
        ("[metrics]\nlisten = \"localhost:9463\"", &["metrics.listen", "write listen = \"127.0.0.1:9463\""]),
        ("[metrics]\nlisten = \"127.0.0.1\"", &["metrics.listen", "not an address with a port"]),
        ("[metrics]\nlisten = \"127.0.0.1:0\"", &["metrics.listen", "has no port"]),
        ("[embedded]\nmaster-key = \"key\"", &["embedded.master-key", "absolute"]),
        ("[[grant]]\nkeys = [\"a\"]", &["grant number 1", "at least one of user, uid, group and unit"]),
        ("[[grant]]\nuid = 1\nuser = \"root\"\nkeys = [\"a\"]", &["grant number 1", "not by both"]),
        ("[[grant]]\nunit = \"nginx\"\nkeys = [\"a\"]", &["grant number 1", "nginx.service"]),
        ("[[grant]]\nunit = \"a/b.service\"\nkeys = [\"a\"]", &["grant number 1", "name of a service"]),
        ("[[grant]]\nuid = 1\nkeys = [\"a\"]\nrate = 0", &["line 4: rate: ", "a whole number, 1 or more"]),
        ("[[grant]]\nuid = 1\nkeys = [\"a\"]\nin-flight = 0", &["line 4: in-flight: ", "1 or more"]),
        ("[[grant]]\nuid = 4294967295\nkeys = [\"a\"]", &["grant number 1", "uid 4294967295 is nobody's"]),
        ("[[grant]]\nunit = \"stunnel@.service\"\nkeys = [\"a\"]", &["template", "stunnel@shop.service"]),
        ("[[grant]]\nunit = \"user@1000.service\"\nkeys = [\"a\"]", &["a user's own", "by user alone"]),
        ("[[grant]]\nuid = 1", &["line 1", "missing field `keys`"]),
        ("[[grant]]\nuid = 1\nkeys = []", &["grant number 1", "must not be empty"]),
        ("[[grant]]\nuid = 1\nkeys = [\"a b\"]", &["grant number 1", "pattern"]),
        ("[[grant]]\nuid = 1\nkeys = [\"a\"]\nuses = [\"tls\"]", &["\"tls\": unknown use", "tls-server"]),
        (
            "[[grant]]\nuid = 1\nkeys = [\"a\"]\nuses = [\"csr\", \"acme-account\"]",
            &["grant number 1", "acme-account cannot be granted", "take it out"],
        ),
        ("[[grant]]\nuser = \"no-such-user\"\nkeys = [\"a\"]", &["no user \"no-such-user\""]),
        ("[[grant]]\ngroup = \"no-such-group\"\nkeys = [\"a\"]", &["no group \"no-such-group\""]),
        ("[[role]]\nuid = 1", &["line 1", "missing field `role`"]),
        ("[[role]]\nrole = \"king\"\nuid = 1", &["role number 1", "\"king\" is no role", "viewer, operator"]),
        ("[[role]]\nrole = \"viewer\"", &["role number 1", "name one of user, uid and group"]),
        ("[[role]]\nrole = \"viewer\"\nuid = 1\nuser = \"root\"", &["role number 1", "not by both"]),
        ("[[role]]\nrole = \"viewer\"\nuid = 1\ngroup = \"root\"", &["a user or a group, not both"]),
        ("[[role]]\nrole = \"viewer\"\nuid = 4294967295", &["uid 4294967295 is nobody's"]),
        ("[[role]]\nrole = \"viewer\"\nuser = \"no-such-user\"", &["no user \"no-such-user\""]),
        ("[[role]]\nrole = \"viewer\"\ngroup = \"no-such-group\"", &["no group \"no-such-group\""]),
        (
            "separation = true\n[[role]]\nrole = \"purger\"\nuser = \"root\"",
            &["separation: user root (id 0) is both manager and purger", "always manager"],
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.lines().count(), 1, "{error}");
        for word in words {
            assert!(error.contains(word), "{text:?}: {error:?} lacks {word:?}");
        }
    }
}

#[test]
fn files_that_cannot_be_read() {
    let error = Config::load(Path::new("/no/such/keyward.toml")).unwrap_err().to_string();
    assert!(error.contains("/no/such/keyward.toml") && error.contains("No such file"), "{error}");
    assert!(Config::load(Path::new("/dev/zero")).unwrap_err().to_string().contains("longer than 1 MiB"));
}

proptest! {
    #[test]
    fn no_text_panics(text: String) {
        let _ = parse(&text);
    }
}
