//! Grants to services of systemd. Control groups distinguish services with the same user.

use std::fs;
use std::path::Path;
use std::process::Command;

use keyward_tests::attacker::{Turn, is_soak, outcomes, uid_of};
use keyward_tests::cgroup::Cgroups;
use keyward_tests::tool::succeed;
use keyward_tests::{Attacker, Daemon, leave_out};
use serde_json::Value;

const OTHER: u32 = 7001;
/// Limit for signatures under a flood, in milliseconds: for 99 of 100.
const MOST_P99: f64 = 10.0;

/// A daemon that has grants for services, and a machine with control groups.
struct Scene {
    daemon: Daemon,
    // Removed when no process is in them any more.
    cgroups: Cgroups,
    _turn: Turn,
}

impl Scene {
    /// Makes the scene. `None` if the kernel does not let us act as systemd: without root, and in
    /// most containers.
    fn start(runner: impl FnOnce(&Daemon, &Cgroups) -> Vec<String>) -> Option<Self> {
        let turn = Turn::take()?;
        let Some(cgroups) = Cgroups::mount() else {
            leave_out("needs cgroup2, which cannot be mounted here");
            return None;
        };
        let mut daemon = Daemon::prepare("");
        let [nginx, php, alone] = ["nginx", "php-fpm", "alone"].map(service);
        daemon.configure(&format!(
            "log = \"info\"\n\
             [[grant]]\nuser = \"www-data\"\nunit = {nginx:?}\nkeys = [\"shop\"]\n\
             [[grant]]\nuser = \"www-data\"\nunit = {php:?}\nkeys = [\"php\"]\n\
             [[grant]]\nunit = {alone:?}\nkeys = [\"alone\"]\n"
        ));
        let runner = runner(&daemon, &cgroups);
        daemon.run_by(runner);
        daemon.resume();
        daemon.generate("shop", "p256");
        daemon.generate("alone", "p256");
        daemon.import("php", "rsa4096");
        Some(Self { daemon, cgroups, _turn: turn })
    }

    /// Outcome of a request for a signature that a user makes from within a control group.
    fn ask(&self, uid: u32, group: &str, label: &str) -> String {
        let report =
            self.attacker(uid, group, "probe", &format!("label={label} {} count=1", scheme(label))).wait();
        let outcomes = report["outcomes"].as_object().unwrap();
        outcomes.keys().next().unwrap_or_else(|| panic!("{report}")).clone()
    }

    fn attacker(&self, uid: u32, group: &str, mode: &str, settings: &str) -> Attacker {
        let cgroup = self.cgroups.group(group);
        Attacker::start(&self.daemon, uid, mode, &format!("cgroup={} {settings}", cgroup.display()))
    }

    /// Asserts that nginx is served in time. The best of a few tries counts, because other work of
    /// the machine takes time.
    fn assert_nginx_is_served(&self, settings: &str) {
        let group = format!("system.slice/{}", service("nginx"));
        let seconds = if is_soak() { 20.0 } else { 0.5 };
        let mut reports = Vec::new();
        for _ in 0..4 {
            let settings = format!("label=shop seconds={seconds} {settings}");
            let report = self.attacker(uid_of("www-data"), &group, "probe", &settings).wait();
            assert_eq!(report["failed"], 0, "{report}");
            assert_eq!(outcomes(&report, "done"), report["count"].as_u64().unwrap(), "{report}");
            if report["p99_ms"].as_f64().is_some_and(|p99| p99 <= MOST_P99) {
                println!("{report}");
                return;
            }
            reports.push(report);
        }
        panic!("{reports:?}");
    }

    /// Asserts that a service with a grant is not served, and that the log gives the reason.
    fn assert_no_service_is_known(&self, outcome: &str) {
        assert_eq!(outcome, "no-grant");
        assert!(self.daemon.logged(&["cgroup"]) > 0, "{}", self.daemon.log());
    }
}

/// Services with the names of real services may run on this machine.
fn service(name: &str) -> String {
    format!("keyward-test-{}-{name}.service", std::process::id())
}

fn scheme(label: &str) -> &'static str {
    // `rsa_pss_rsae_sha256` of RFC 8446, 4.2.3.
    if label == "php" { "scheme=2052" } else { "" }
}

fn by_itself(_: &Daemon, _: &Cgroups) -> Vec<String> {
    Vec::new()
}

#[test]
fn a_grant_to_a_service_is_for_its_processes_alone() {
    let Some(scene) = Scene::start(by_itself) else { return };
    let www_data = uid_of("www-data");
    let [nginx, php, alone] = ["nginx", "php-fpm", "alone"].map(service);
    let cases = [
        (www_data, format!("system.slice/{nginx}"), "shop", "done"),
        // A sub-group that the service has made, and a slice below the slice of the system.
        (www_data, format!("system.slice/{nginx}/workers"), "shop", "done"),
        (www_data, format!("system.slice/system-{nginx}.slice/{nginx}"), "shop", "done"),
        (www_data, format!("system.slice/{php}"), "php", "done"),
        (OTHER, format!("system.slice/{alone}"), "alone", "done"),
        (www_data, format!("system.slice/{php}"), "shop", "no-grant"),
        (www_data, format!("system.slice/{nginx}"), "php", "no-grant"),
        // A user who may make groups may give them any name.
        (www_data, format!("system.slice/{php}/{nginx}"), "shop", "no-grant"),
        (www_data, format!("system.slice/{php}/system.slice/{nginx}"), "shop", "no-grant"),
        (www_data, format!("user.slice/{nginx}"), "shop", "no-grant"),
        (www_data, format!("user.slice/user-33.slice/user@33.service/app.slice/{nginx}"), "shop", "no-grant"),
        (www_data, format!("user.slice/system.slice/{nginx}"), "shop", "no-grant"),
        (www_data, format!("keyward-test.slice/system.slice/{nginx}"), "shop", "no-grant"),
        (www_data, nginx.clone(), "shop", "no-grant"),
        (www_data, format!("system.slice/more-{nginx}"), "shop", "no-grant"),
        (www_data, format!("system.slice/{nginx}.more"), "shop", "no-grant"),
        (www_data, "system.slice".to_owned(), "shop", "no-grant"),
        (OTHER, format!("system.slice/{nginx}"), "shop", "no-grant"),
    ];
    for (uid, group, label, expected) in cases {
        assert_eq!(scene.ask(uid, &group, label), expected, "{uid} in {group} asks for {label}");
    }
}

/// Two services have one user, and the daemon distinguishes them.
#[test]
fn one_service_does_not_use_up_what_belongs_to_another() {
    let Some(scene) = Scene::start(by_itself) else { return };
    let php = format!("system.slice/{}", service("php-fpm"));
    let attack = |settings: &str| {
        let settings = format!("label=php {} {settings}", scheme("php"));
        scene.attacker(uid_of("www-data"), &php, "flood", &settings)
    };
    let flood = attack("connections=900 in-flight=16");
    scene.assert_nginx_is_served("");
    scene.assert_nginx_is_served("reconnect=yes");
    let report: Value = flood.stop();
    println!("{report}");
    assert!(outcomes(&report, "done") > 0 && outcomes(&report, "overloaded") > 0, "{report}");
    let _idle = attack("connections=1100 reopen=yes");
    scene.assert_nginx_is_served("reconnect=yes");
}

/// Processes of a machine with only version 1 of cgroups: no line of /proc/PID/cgroup begins with
/// `0::`.
#[test]
fn without_control_groups_of_version_2_no_service_is_known() {
    let legacy = |daemon: &Daemon, _: &Cgroups| {
        let legacy = daemon.path("legacy");
        let lines = format!("5:pids:/system.slice/{0}\n1:name=systemd:/system.slice/{0}\n", service("nginx"));
        fs::write(&legacy, lines).unwrap();
        // The number of the daemon is not known yet, so it hears of the first process.
        let script = format!("mount --bind {} /proc/1/cgroup && exec \"$@\"", legacy.display());
        ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).into()
    };
    let Some(scene) = Scene::start(legacy) else { return };
    let cgroup = scene.cgroups.group(&format!("system.slice/{}", service("nginx")));
    let settings = format!("cgroup={} label=shop count=1", cgroup.display());
    let mut nginx = Attacker::hold(&scene.daemon, uid_of("www-data"), "probe", &settings);
    let mut mount = Command::new("nsenter");
    mount.args(["--mount", "--target", &scene.daemon.id().to_string(), "mount", "--bind"]);
    let its_own = Path::new("/proc").join(nginx.id().to_string()).join("cgroup");
    succeed(mount.arg(scene.daemon.path("legacy")).arg(its_own));
    nginx.release();
    let report = nginx.wait();
    scene.assert_no_service_is_known(report["outcomes"].as_object().unwrap().keys().next().unwrap());
}

/// In a cgroup namespace, paths begin at its root, so any group may look like a group of the
/// system.
#[test]
fn in_a_namespace_of_control_groups_no_service_is_known() {
    let outer = service("container");
    let inside = |_: &Daemon, cgroups: &Cgroups| {
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", cgroups.group(&outer).display());
        ["sh", "-c", &enter, "sh", "unshare", "--cgroup"].map(str::to_owned).into()
    };
    let Some(scene) = Scene::start(inside) else { return };
    let nginx = service("nginx");
    for group in [format!("{outer}/system.slice/{nginx}"), format!("system.slice/{nginx}")] {
        scene.assert_no_service_is_known(&scene.ask(uid_of("www-data"), &group, "shop"));
    }
}
