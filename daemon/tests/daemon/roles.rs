//! Roles of users and groups: how they are given, separated, recorded and refused.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{Group, User};
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, PROGRAM, failure_of, has_root};
use crate::users::{ALICE, MALLORY, as_ids, as_member, as_user, keyward_as};

/// A daemon of root without `--dev`, with this configuration. Every user can reach its sockets.
fn daemon(configuration: &str) -> Daemon {
    let mut daemon = Daemon::prepare("");
    daemon.new_master_key();
    configure(&daemon, configuration);
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    daemon.start(&[]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon
}

/// Writes a configuration. Settings without a section come first.
fn configure(daemon: &Daemon, text: &str) {
    let (settings, sections) = text.split_at(text.find('[').unwrap_or(text.len()));
    daemon.configure(&format!("{settings}{}{sections}", daemon.production_configuration(&[])));
}

fn reload(daemon: &Daemon, text: &str) {
    configure(daemon, text);
    daemon.signal(Signal::HUP);
    daemon.await_ready();
}

fn role(role: &str, holder: &str) -> String {
    format!("[[role]]\nrole = {role:?}\n{holder}\n")
}

fn gid_of(group: &str) -> u32 {
    Group::from_name(group).unwrap().unwrap().gid.as_raw()
}

fn uid_of(user: &str) -> u32 {
    User::from_name(user).unwrap().unwrap().uid.as_raw()
}

const DISABLE: (&str, &str, &str) = ("PATCH", "/v1/keys/shop", r#"{"state": "disabled"}"#);
const GENERATE: (&str, &str, &str) = ("POST", "/v1/keys", r#"{"label": "mail", "type": "p256", "uses": []}"#);

fn ask(daemon: &Daemon, (method, path, body): (&str, &str, &str)) -> (u16, String) {
    daemon.http(method, path, body).unwrap()
}

#[test]
fn a_refused_command_names_the_command_that_gives_the_role() {
    if !has_root() {
        return;
    }
    let daemon = daemon(&role("viewer", &format!("uid = {ALICE}")));
    for (uid, held, disable, add) in [
        (ALICE, "has only viewer", &["key", "disable", "shop"][..], "operator"),
        (MALLORY, "has no role", &["key", "enable", "shop"], "operator"),
        (MALLORY, "has only operator", &["key", "delete", "shop", "--yes"], "manager"),
        (ALICE, "has only viewer and operator", &["key", "generate", "mail", "--type", "p256"], "manager"),
    ] {
        let (status, line) = failure_of(&keyward_as(&daemon, uid, disable));
        assert_eq!((status, line.lines().count()), (77, 1), "{line}");
        assert!(line.contains(&format!("user id {uid} {held}; ")), "{line}");
        let (_, command) = line.trim_end().split_once("an administrator can give the role: ").unwrap();
        assert!(command.contains(&format!("role = \"{add}\"")), "{command}");
        assert!(Command::new("/bin/sh").args(["-c", command]).status().unwrap().success(), "{command}");
        daemon.await_ready();
        let done = keyward_as(&daemon, uid, disable);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let log = daemon.log();
    for words in [["act=\"disable\"", "roles=[\"viewer\"]"], ["act=\"change\"", "roles=[]"]] {
        let refused = log.lines().filter(|line| line.contains("refused an administrative act"));
        assert!(refused.clone().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {log}");
    }
    // The log and the trail have the least powerful role that allowed the act.
    let log = daemon.log();
    for (uid, role, act) in [
        (ALICE, "operator", "key changed"),
        (MALLORY, "manager", "key deleted"),
        (0, "manager", "key generated"),
    ] {
        let has = |line: &&str| {
            [format!("uid={uid} "), format!("role=\"{role}\"")].iter().all(|w| line.contains(w))
        };
        assert!(log.lines().filter(|line| line.contains(act)).any(|line| has(&line)), "{act}: {log}");
    }
    let directory = daemon.path("state/audit").display().to_string();
    let mut show = Command::new(PROGRAM);
    let shown = show.args(["audit", "show", "--json", "--dir", &directory]).output().unwrap().stdout;
    let text = String::from_utf8(shown).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let acts: Vec<_> = records.filter(|record| record["actor"].is_object()).collect();
    let refused: Vec<_> = acts.iter().filter(|act| act["outcome"] == "refused").collect();
    assert!(
        refused.iter().any(|act| act["actor"]["role"] == "none" && act["action"] == "keyward.admin.refused"),
        "{refused:?}"
    );
    let of_shop = refused.iter().filter(|act| act["key"] == "shop" && act["details"]["act"] == "delete");
    assert!(of_shop.count() > 0, "{refused:?}");
    let mut refusals = Command::new(PROGRAM);
    let listed = refusals.args(["audit", "refusals", "--json", "--dir", &directory]).output().unwrap().stdout;
    let rows: Vec<Value> = serde_json::from_slice(&listed).unwrap();
    assert!(rows.iter().any(|row| row["act"] == "delete" && row["key"] == "shop"), "{rows:?}");
    let mut show = Command::new(PROGRAM);
    let shown = show.args(["audit", "show", "--outcome", "refused", "--dir", &directory]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("admin.refused  delete  /v1/keys/shop  shop  refused"), "{text}");
    let is_of_user = |act: &&Value| act["outcome"] == "done" && act["actor"]["role"] != "daemon";
    let acts: Vec<_> = acts.iter().filter(is_of_user).collect();
    let roles: Vec<_> =
        acts.iter().map(|act| (&act["actor"]["uid"], act["actor"]["role"].as_str().unwrap())).collect();
    let expected = [
        (0, "manager"),
        (ALICE, "operator"),
        (MALLORY, "operator"),
        (MALLORY, "manager"),
        (ALICE, "manager"),
    ];
    assert_eq!(
        roles,
        expected.map(|(uid, role)| (Value::from(uid), role)).each_ref().map(|(uid, role)| (uid, *role))
    );
}

#[test]
fn roles_come_by_user_and_group_and_end_with_a_reload() {
    if !has_root() {
        return;
    }
    let (one, two) = (gid_of("daemon"), gid_of("bin"));
    let (games, mail) = (uid_of("games"), uid_of("mail"));
    let given = [
        role("viewer", &format!("uid = {games}")),
        role("operator", "group = \"daemon\""),
        role("manager", "group = \"bin\""),
    ];
    let daemon = daemon(&given.concat());
    let status = |uid, gid, groups: &[u32], request| as_member(uid, gid, groups, || ask(&daemon, request).0);
    assert_eq!(status(games, games, &[], DISABLE), 403);
    assert_eq!(status(games, games, &[9, one], DISABLE), 200, "a supplementary group");
    assert_eq!(status(mail, one, &[], DISABLE), 200, "the group of the process");
    assert_eq!(status(mail, one, &[9], GENERATE), 403);
    assert_eq!(status(mail, one, &[two], GENERATE), 201, "several roles");
    assert_eq!(status(one, mail, &[], DISABLE), 403, "a user with the number of a group");

    // A subordinate user id of a member keeps the groups. With the role, one member would be two
    // users.
    let (refused, answer) = as_member(100_000 + games, one, &[two], || ask(&daemon, GENERATE));
    assert_eq!(refused, 403, "{answer}");
    assert!(answer.contains("has no role, because roles by group do not count without an entry"), "{answer}");

    // A connection that is open has the roles of the present configuration, and the groups of the
    // time when it was opened.
    let mut stream = as_ids(games, one, || UnixStream::connect(daemon.path("run/admin.sock")).unwrap());
    let mut ask_again = || {
        stream.write_all(b"GET /v1/units HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut reader = BufReader::new(&stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        std::io::Read::read_exact(&mut reader, &mut body).unwrap();
        head.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!((ask_again(), ask_again()), ("200".into(), "200".into()));
    reload(&daemon, &role("agent", &format!("uid = {games}")));
    assert_eq!(ask_again(), "403");
    // A mistake leaves the roles as they are.
    reload(&daemon, "[[role]]\nrole = \"king\"\nuid = 7002\n");
    assert!(daemon.log().contains("not reloaded"), "{}", daemon.log());
    assert_eq!(ask_again(), "403");
    assert_eq!(ask(&daemon, GENERATE).0, 409, "root is manager in any case");
}

/// An operator puts a changed file in force. A file with a mistake changes nothing, and the answer
/// has the reason. Each attempt is on record, under the name of the operator.
#[test]
fn an_operator_reloads_the_configuration() {
    if !has_root() {
        return;
    }
    let operator = role("operator", &format!("uid = {ALICE}"));
    let viewer = role("viewer", &format!("uid = {MALLORY}"));
    let daemon = daemon(&(operator.clone() + &viewer));
    let reload = |uid| keyward_as(&daemon, uid, &["reload"]);
    let (status, line) = failure_of(&reload(MALLORY));
    assert!(status == 77 && line.contains("\"reload\" needs the role operator or manager"), "{line}");

    configure(&daemon, &operator);
    let done = reload(ALICE);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "configuration reloaded\n");
    assert_eq!(as_user(MALLORY, || ask(&daemon, ("GET", "/v1/keys", "")).0), 403, "no viewer any more");

    configure(&daemon, &format!("[store]\nkey = {:?}\n{operator}", daemon.path("store.key")));
    let (status, answer) = as_user(ALICE, || ask(&daemon, ("POST", "/v1/reload", "")));
    assert_eq!((status, &*answer), (200, r#"{"waiting_for_restart":["store.key"],"problems":[]}"#));

    configure(&daemon, &(operator + &viewer + "[[role]]\nrole = \"king\"\nuid = 1\n"));
    let (status, line) = failure_of(&reload(ALICE));
    assert_eq!((status, line.lines().count()), (65, 1), "{line}");
    for part in ["cannot reload the configuration: not reloaded, the old", "keyward.toml", "king"] {
        assert!(line.contains(part), "{line} lacks {part:?}");
    }
    assert_eq!(as_user(MALLORY, || ask(&daemon, ("GET", "/v1/keys", "")).0), 403, "the old one");
    let log = daemon.log();
    let has = |line: &&str| line.contains("ERROR") && line.contains("not reloaded") && line.contains("king");
    assert!(log.lines().any(|line| has(&line)), "{log}");

    let directory = daemon.path("state/audit").display().to_string();
    let mut show = Command::new(PROGRAM);
    show.args(["audit", "show", "--json", "--action", "keyward.configuration.load", "--dir", &directory]);
    let text = String::from_utf8(show.output().unwrap().stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_alice: Vec<_> = records.filter(|record| record["actor"]["uid"] == ALICE).collect();
    let outcomes: Vec<_> = of_alice.iter().map(|record| record["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["begun", "done", "begun", "done", "begun", "failed"], "{of_alice:?}");
    assert!(of_alice.iter().all(|record| record["actor"]["role"] == "operator"), "{of_alice:?}");
    assert_eq!(of_alice[1]["details"]["roles"], 1, "{of_alice:?}");
    assert!(of_alice[5]["reason"].as_str().unwrap().contains("king"), "{of_alice:?}");
}

#[test]
fn a_reload_warns_of_a_socket_that_is_gone() {
    let daemon = Daemon::dev("");
    let socket = daemon.path("run/keyward.sock");
    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    let reloaded = daemon.keyward(&["reload"]);
    let warning = String::from_utf8(reloaded.stderr).unwrap();
    assert!(reloaded.status.success() && warning.contains(&socket.display().to_string()), "{warning}");
    fs::remove_dir(&socket).unwrap();
    let reloaded = daemon.keyward(&["reload"]);
    assert!(reloaded.status.success() && reloaded.stderr.is_empty(), "{reloaded:?}");
}

#[test]
fn nobody_is_manager_and_purger_if_roles_are_separated() {
    if !has_root() {
        return;
    }
    let checked = Daemon::prepare("");
    checked.new_master_key();
    let check = |text: &str| {
        configure(&checked, text);
        checked.serve(&["--check-config"]).output().unwrap()
    };
    let (manager, purger) = (|holder| role("manager", holder), |holder| role("purger", holder));
    for (text, words) in [
        (manager("uid = 7002") + &purger("uid = 7002"), &["user id 7002", "both manager and purger"][..]),
        (purger("user = \"root\""), &["user root (id 0)", "always manager"]),
        (purger("group = \"root\""), &["user root (id 0)", "always manager"]),
        (manager("group = \"bin\"") + &purger("group = \"bin\""), &["the group bin", "one of the two roles"]),
        // The user daemon has the group daemon for its own.
        (manager("group = \"daemon\"") + &purger("user = \"daemon\""), &["user daemon", "also by group"]),
        (manager("user = \"bin\"") + &purger("group = \"bin\""), &["user bin", "also by group"]),
    ] {
        let (status, line) = failure_of(&check(&format!("separation = true\n{text}")));
        assert_eq!(status, 78, "{line}");
        let line = line.lines().last().unwrap();
        assert!(words.iter().all(|word| line.contains(word)), "{line} lacks one of {words:?}");
        assert!(line.contains(": separation: "), "{line}");
        assert!(check(&format!("separation = false\n{text}")).status.success(), "{text}");
        assert!(check(&text).status.success(), "{text}");
    }

    // Groups of a process decide at each request.
    let (one, two) = (gid_of("daemon"), gid_of("bin"));
    let (games, mail) = (uid_of("games"), uid_of("mail"));
    let groups =
        manager("group = \"daemon\"") + &purger("group = \"bin\"") + &role("viewer", "user = \"games\"");
    let daemon = daemon(&format!("separation = true\n{groups}"));
    assert_eq!(as_ids(games, one, || ask(&daemon, GENERATE).0), 201);
    let (status, answer) = as_member(games, one, &[two], || ask(&daemon, DISABLE));
    assert_eq!(status, 403, "{answer}");
    assert!(
        answer.contains("manager and purger of user games (id")
            && answer.contains("do not count; as separation"),
        "{answer}"
    );
    assert_eq!(
        as_member(games, one, &[two], || ask(&daemon, ("GET", "/v1/keys", "")).0),
        200,
        "still viewer"
    );
    assert_eq!(as_member(mail, one, &[two], || ask(&daemon, ("GET", "/v1/keys", "")).0), 403);
    // No refusal suggests a configuration that the daemon would refuse.
    let (_, answer) = as_ids(mail, two, || ask(&daemon, GENERATE));
    assert!(answer.contains("another user must do this") && !answer.contains("printf"), "{answer}");
    // Without the separation both count.
    reload(&daemon, &groups);
    assert_eq!(as_member(games, one, &[two], || ask(&daemon, DISABLE).0), 200);
}

#[test]
fn the_user_of_the_daemon_is_manager_and_the_starter_of_dev_is_everything() {
    if !has_root() {
        return;
    }
    for dev in [false, true] {
        let mut daemon = Daemon::prepare("");
        daemon.new_master_key();
        configure(&daemon, "separation = true\n");
        fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(daemon.path("notify"), fs::Permissions::from_mode(0o777)).unwrap();
        for directory in ["state", "run"] {
            fs::create_dir(daemon.path(directory)).unwrap();
            chown(daemon.path(directory), Some(ALICE), Some(ALICE)).unwrap();
        }
        chown(daemon.path("master.key"), Some(ALICE), Some(ALICE)).unwrap();
        if dev {
            daemon.configure("separation = true\n");
        }
        let mut serve = daemon.serve(if dev { &["--dev"] } else { &[] });
        daemon.start_as(serve.uid(ALICE).gid(ALICE));
        let generated = keyward_as(&daemon, ALICE, &["key", "generate", "shop", "--type", "p256"]);
        assert!(generated.status.success(), "{}", String::from_utf8_lossy(&generated.stderr));
        assert_eq!(as_user(ALICE, || ask(&daemon, DISABLE).0), 200);
        assert_eq!(ask(&daemon, DISABLE).0, 200, "root");
        assert_eq!(as_user(MALLORY, || ask(&daemon, DISABLE).0), 403);
        let role_of = |uid: u32| {
            let log = daemon.log();
            let line = log
                .lines()
                .find(|line| line.contains("key changed") && line.contains(&format!("uid={uid} ")));
            line.unwrap().split("role=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        assert_eq!(role_of(0), "manager");
        assert_eq!(role_of(ALICE), if dev { "operator" } else { "manager" }, "the least of all roles");
    }
}

#[test]
fn the_doctor_says_which_role_shows_the_daemon() {
    if !has_root() {
        return;
    }
    let daemon = daemon(&role("viewer", &format!("uid = {ALICE}")));
    let doctor = |uid| String::from_utf8(keyward_as(&daemon, uid, &["doctor"]).stdout).unwrap();
    let text = doctor(MALLORY);
    assert!(text.contains("no role that may see the state of the daemon"), "{text}");
    assert!(text.contains("with the role viewer (docs/roles.md)"), "{text}");
    let text = doctor(ALICE);
    assert!(text.contains("keys: 1") && !text.contains("no role"), "{text}");
}

/// In a user namespace, each user without a mapping has the number 65534.
#[test]
fn a_user_without_a_mapping_does_not_get_the_role_of_nobody() {
    if !has_root() {
        return;
    }
    let given = role("manager", "uid = 65534") + &role("manager", "group = \"nogroup\"");
    let mut daemon = Daemon::prepare(&given);
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let serve = daemon.serve(&["--dev"]);
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--"]).arg(PROGRAM).args(serve.get_args());
    daemon.start_as(&mut unshare);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    for (uid, gid, groups) in
        [(7001, 7001, &[][..]), (65534, 65534, &[65534]), (0, 7001, &[]), (7001, 0, &[65534])]
    {
        let (status, answer) = as_member(uid, gid, groups, || ask(&daemon, DISABLE));
        assert_eq!(status, 403, "uid {uid}, gid {gid}: {answer}");
        assert!(answer.contains("cannot tell which user"), "{answer}");
    }
}
