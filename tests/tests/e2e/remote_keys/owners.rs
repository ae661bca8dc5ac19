//! Units that serve GREP11 belong to people, too: two of them, with one master key.

use std::fs;
use std::process::Command;

use keyward_client::{Address, Client, Input, Label};
use keyward_proto::Scheme;
use keyward_tests::people::CeremonyUnit;
use keyward_tests::signers::failures;
use keyward_tests::tool::{fail, run, succeed, wait_for};
use keyward_tests::{Daemon, People, Proxy, Signers, UnitServer, Units, scratch};

use super::unit_list;

#[test]
fn two_units_of_the_same_people_take_over_from_each_other() {
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let uid = rustix::process::getuid().as_raw();
    let configuration = directory.path().join("unit.toml");
    fs::write(&configuration, format!("[[role]]\nrole = \"auditor\"\nuid = {uid}\n")).unwrap();
    let options = ["--config", configuration.to_str().unwrap()];
    let mut servers = ["one", "two"].map(|name| units.start_for_owners(name, &options));
    let people = People::new(&directory.path().join("people"));
    let unit = |server: &UnitServer| -> CeremonyUnit<'_> { people.unit(server.runtime_dir()) };
    for server in &servers {
        unit(server).claim();
        unit(server).put_in_force(&OWNERS, "first");
    }
    assert_eq!(unit(&servers[0]).pattern("current"), unit(&servers[1]).pattern("current"));
    let is_alike = |servers: &[UnitServer; 2]| {
        let file = directory.path().join("one.json");
        fs::write(&file, succeed(&mut unit(&servers[0]).command(&["status", "--json"]))).unwrap();
        run(unit(&servers[1]).command(&["compare"]).arg(&file)).status.success()
    };
    assert!(is_alike(&servers));

    // What their clients may do is up to the owners, too.
    let shown = |server: &UnitServer| succeed(&mut unit(server).command(&["control-points"]));
    assert!(shown(&servers[0]).starts_with("control points   strict\n"), "{}", shown(&servers[0]));
    let set = ["control-points", "--set", "tls"];
    let few = unit(&servers[0]).quorum(&set, &["alice"]).unwrap_err();
    assert!(few.contains("needs 2"), "{few}");
    unit(&servers[0]).quorum(&set, &["alice", "bob"]).unwrap();
    assert!(shown(&servers[0]).starts_with("control points   tls\n"), "{}", shown(&servers[0]));
    assert!(!is_alike(&servers), "one of them has other control points");
    unit(&servers[1]).quorum(&set, &["bob", "carol"]).unwrap();
    assert!(is_alike(&servers));

    let proxies = servers.each_ref().map(|server| Proxy::start(server.socket_address()));
    let endpoints: Vec<_> = proxies.iter().map(Proxy::address).collect();
    let mut daemon = Daemon::prepare_for_units(units.section(&endpoints, ""), "");
    daemon.resume();
    daemon.generate_for("shop", "p256", "any");
    let is_up = |number: usize| (unit_list(&daemon)[number]["health"] != "down").then_some(());
    let load = Signers::start(&daemon, "shop", P256, 200.0, 4);
    load.let_sign(50);
    // One of them is sealed, and unsealed again.
    succeed(&mut unit(&servers[0]).command(&["seal"]));
    wait_for("the sealed unit to be missed", || {
        let list = unit_list(&daemon);
        (list[0]["health"] == "down").then(|| list[0]["problem"].as_str().unwrap().contains("master key"))
    });
    load.let_sign(50);
    unit(&servers[0]).unseal(&OWNERS, "first");
    wait_for("the unit to be back", || is_up(0));

    // Another master key at both: no unit refuses the old blobs before the new ones are there.
    let mut pattern = String::new();
    for server in &servers {
        pattern = unit(server).load_and_commit(&OWNERS, "second");
        let text = succeed(&mut unit(server).command(&["rotate"]));
        assert!(text.contains("keyward key rewrap --backend NAME"), "{text}");
    }
    let rewrap =
        |more: &[&str]| daemon.keyward(&[&["key", "rewrap", "--backend", Units::BACKEND], more].concat());
    succeed(&mut rewrap(&[]));
    unit(&servers[0]).quorum(&["activate", &pattern], &["bob"]).unwrap();
    load.let_sign(50);
    assert!(!is_alike(&servers), "one of them has the new master key");
    let (_, early) = fail(&mut rewrap(&["--finish"]));
    assert!(early.contains(&endpoints[1]), "{early}");
    unit(&servers[1]).quorum(&["activate", &pattern], &["bob"]).unwrap();
    wait_for("both units to have the new master key", || {
        run(&mut rewrap(&["--finish"])).status.success().then_some(())
    });
    load.let_sign(50);
    assert!(is_alike(&servers));

    // A restart seals.
    assert!(servers[1].stop().success());
    servers[1] = units.start_for_owners("two", &options);
    proxies[1].retarget(servers[1].socket_address());
    assert_eq!(unit(&servers[1]).status()["sealed"], true);
    let (_, refused) = fail(units.bench(&servers[1]).args(["--seconds", "1"]));
    assert!(refused.contains("WK_NOT_INITIALIZED") || refused.contains("master key"), "{refused}");
    unit(&servers[1]).unseal(&OWNERS, "second");
    wait_for("the unit to be back", || is_up(1));
    assert_eq!(unit(&servers[1]).status()["control_points"], "tls");
    let signed = load.stop();
    let failed = failures(&signed);
    assert!(failed.is_empty(), "{} of {}: {:?}\n{}", failed.len(), signed.len(), failed[0], daemon.log());

    // Everything is on record at the unit, whose own key has signed the record.
    let trail = directory.path().join("units/one.state/audit");
    assert!(servers[0].stop().success());
    let events = succeed(audit(&["show", "--json", "--dir"]).arg(&trail));
    for event in [
        "unit.claim",
        "unit-control-points.set",
        "unit-master-key-register.add",
        "unit-master-key-register.commit",
        "unit.seal",
    ] {
        assert!(events.contains(&format!("keyward.{event}")), "{event}: {events}");
    }
    let verified = succeed(audit(&["verify", "--dir"]).arg(&trail).arg("--key").arg(trail.join("key.pem")));
    assert!(verified.contains("signed"), "{verified}");
    sign(&daemon);
}

fn audit(words: &[&str]) -> Command {
    let mut command = Command::new(keyward_tests::built("keyward"));
    command.arg("audit").args(words);
    command
}

/// One unit is enough.
fn sign(daemon: &Daemon) {
    let client = Client::new(Address::try_from(daemon.socket().as_path()).unwrap(), Client::DEFAULT_TIMEOUT);
    client.sign(&"shop".parse::<Label>().unwrap(), P256, Input::Message(b"message")).unwrap();
}

const OWNERS: [&str; 3] = ["dave", "erin", "frank"];
const P256: Scheme = Scheme::EcdsaSecp256r1Sha256;
