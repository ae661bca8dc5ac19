//! Orders and deployments that are interrupted: they go on.

use keyward_tests::tool::{fail, of_clock};
use keyward_tests::{People, UnitServer, Units, has_root};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Each of the three programs is killed over and over: the order goes on.
#[test]
fn killed_programs_go_on_where_they_were() {
    // Of certificates that live for minutes, a day may have more orders.
    let (mut scene, _nginx) = Scene::with_nginx(Settings { validity: 900, ..Settings::default() });
    scene.start_agent();
    scene.wait("the first certificate", |plan| plan["is_served"] == true);
    let rounds = if is_long() { 60 } else { 6 };
    let before = scene.orders();
    for round in 0..rounds {
        let old = scene.plan()["certificate"]["fingerprint"].clone();
        scene.ask();
        // The test varies the moment of the kill, so it sleeps and waits for no event. An order and
        // its deployment take about two seconds.
        std::thread::sleep(Duration::from_millis(230 * (round % 10)));
        match round % 3 {
            0 => {
                kill(scene.agent.take());
                scene.start_agent();
            }
            1 => {
                kill(scene.deployer.take());
                scene.start_deployer();
            }
            _ => {
                scene.daemon.kill();
                scene.daemon.resume();
            }
        }
        scene.wait("the certificate after the kill", |plan| {
            plan["certificate"]["fingerprint"] != old && plan["is_served"] == true && plan["state"] == "valid"
        });
    }
    let orders = scene.orders() - before;
    assert!(orders <= 2 * rounds as usize, "{orders} orders in {rounds} rounds");
    scene.handshake().make().unwrap();
}

fn kill(process: Option<Process>) {
    let mut process = process.unwrap();
    process.signal(Signal::KILL);
    process.wait();
}

/// Two agents work on the plan: each renewal has one order.
#[test]
fn two_agents_make_one_order() {
    let mut scene = Scene::start(Settings::default(), |daemon, pebble| {
        let hook = daemon.path("dns-hook");
        pebble.dns_hook(&hook);
        format!("ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-hook = [{hook:?}]\n")
    });
    scene.start_agent();
    let _second = Process::start(&mut scene.agent(), &scene.daemon.path("second.log"));
    let mut before = scene.renewed(&json!({}));
    for orders in [2, 3] {
        scene.ask();
        before = scene.renewed(&before);
        assert_eq!((scene.orders(), &before["failures"]), (orders, &json!(0)), "{before}");
    }
}

/// The clock of the host is a year ahead, or a year behind. Later it is right.
#[test]
fn a_clock_that_is_wrong_is_said_and_forgotten() {
    for days in ["+365d", "-365d"] {
        let mut scene = Scene::prepare(Daemon::prepare(""), Settings::default());
        let clock = scene.daemon.path("clock");
        let hook = scene.daemon.path("dns-hook");
        scene.pebble.dns_hook(&hook);
        fs::write(&clock, format!("{days}\n")).unwrap();
        let variables = of_clock(&clock);
        for (name, value) in &variables {
            scene.daemon.set_variable(name, value.clone());
        }
        let lines = format!("ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-hook = [{hook:?}]\n");
        scene.configure(&scene.pebble.section(), &lines);
        scene.daemon.resume();
        let mut agent = scene.agent();
        agent.envs(variables.iter().map(|(name, value)| (name, value)));
        scene.agent = Some(Process::start(&mut agent, &scene.daemon.path("agent.log")));
        let failing = scene.failing("is the clock of this host right?");
        assert_eq!(failing["last_kind"], "clock", "{failing}");
        let doctor = keyward_tests::tool::run(&mut scene.daemon.keyward(&["doctor"]));
        let told = String::from_utf8(doctor.stdout).unwrap();
        assert!(told.contains("set the clock of this host"), "{told}");
        fs::write(&clock, "+0d\n").unwrap();
        scene.renewed(&json!({}));
    }
}

/// The owners have sealed the unit while the order was under way. It goes on when they unseal it.
#[test]
fn an_order_waits_for_the_owners_of_a_sealed_unit() {
    let mut scene = Scene::prepare(Daemon::prepare_for_owners(""), Settings::default());
    let lines = lines_of_hook_that_waits(&scene);
    scene.configure(&scene.pebble.section(), &lines);
    scene.daemon.resume();
    let people = People::new(&scene.daemon.path("people"));
    let unit = people.unit(&scene.daemon.path("run"));
    unit.claim();
    unit.put_in_force(&["olga", "paul"], "part");
    scene.start_agent();
    let begun = scene.daemon.path("begun");
    wait_for("the hook", || begun.exists().then_some(()));
    succeed(&mut unit.command(&["seal"]));
    fs::write(scene.daemon.path("go"), "").unwrap();
    wait_for("the agent to find the unit sealed", || {
        let log = fs::read_to_string(scene.daemon.path("agent.log")).unwrap();
        log.contains("sealed").then_some(())
    });
    unit.unseal(&["olga", "paul"], "part");
    scene.renewed(&json!({}));
    assert_eq!(scene.orders(), 1);
}

/// The remote unit of the keys is away while the order is under way.
#[test]
fn an_order_waits_for_a_remote_unit() {
    let directory = keyward_tests::scratch();
    let units = Units::new(&directory.path().join("units"));
    let unit = units.start("unit", &[]);
    let daemon = Daemon::prepare_for_units(units.section(&[unit.address()], ""), "");
    daemon.configure("log = \"debug\"\ndefault-backend = \"hsm\"\n");
    let mut scene = Scene::prepare(daemon, Settings::default());
    let lines = lines_of_hook_that_waits(&scene);
    scene.configure(&scene.pebble.section(), &lines);
    scene.daemon.resume();
    scene.start_agent();
    let begun = scene.daemon.path("begun");
    wait_for("the hook", || begun.exists().then_some(()));
    let stop = |unit: &UnitServer, signal: Signal| {
        kill_process(Pid::from_raw(unit.id().cast_signed()).unwrap(), signal).unwrap();
    };
    stop(&unit, Signal::STOP);
    fs::write(scene.daemon.path("go"), "").unwrap();
    let failing = scene.wait("the failure", |plan| plan["state"] == "failing");
    assert_eq!(failing["last_kind"], "unit", "{failing}");
    let wait = failing["due"].as_u64().unwrap().saturating_sub(now());
    assert!(wait <= 12, "{wait}");
    stop(&unit, Signal::CONT);
    scene.renewed(&json!({}));
    assert_eq!(scene.orders(), 1);
}

/// Lines of a plan whose hook says that it has begun, and waits for a file before its first answer
/// is in place.
fn lines_of_hook_that_waits(scene: &Scene) -> String {
    let [hook, waits, begun, go] =
        ["dns-hook", "waiting-hook", "begun", "go"].map(|name| scene.daemon.path(name));
    scene.pebble.dns_hook(&hook);
    let script = format!(
        "touch {}; until [ -e {} ]; do sleep 0.02; done; exec {} \"$@\"",
        begun.display(),
        go.display(),
        hook.display()
    );
    program(&waits, &script);
    format!("ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-hook = [{waits:?}]\n")
}

/// The disk of the files is full: the old files stay in use, and the new ones come when there is
/// room. A hook is told of them, and its failure is said.
#[test]
fn files_that_do_not_fit_leave_the_old_ones_in_use() {
    if !has_root() {
        return;
    }
    let mut scene = Scene::start(Settings::default(), |daemon, pebble| {
        let [hook, dns] = ["hook", "dns-hook"].map(|name| daemon.path(name));
        pebble.dns_hook(&dns);
        program(
            &hook,
            &format!("echo \"$KEYWARD_PLAN $KEYWARD_LIVE $1\" >>{}", daemon.path("told").display()),
        );
        format!("ca = \"pebble\"\nchallenge = \"dns-01\"\ndns-hook = [{dns:?}]\nhook = [{hook:?}, \"new\"]\n")
    });
    fs::create_dir(scene.live()).unwrap();
    // One generation fits: five files, of a page each.
    let script = "mount -t tmpfs -o size=32k,mode=755 none \"$0\" && exec \"$@\"";
    let deployer = scene.deployer();
    let mut confined = Command::new("unshare");
    confined.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(scene.live());
    confined.arg(deployer.get_program()).args(deployer.get_args());
    let process = Process::start(&mut confined, &scene.daemon.path("deployer.log"));
    let root = PathBuf::from(format!("/proc/{}/root", process.id()));
    scene.deployer = Some(process);
    let live = root.join(scene.live().strip_prefix("/").unwrap());
    wait_for("the files", || live.join("shop/key.pem").exists().then_some(()));
    let told_in = scene.daemon.path("told");
    let told = || fs::read_to_string(&told_in).unwrap_or_default();
    let expected = format!("shop {} new\n", scene.live().join("shop").display());
    wait_for("the hook", || (told() == expected).then_some(()));

    // An agent is another user, who reads the files and writes nothing.
    let pid = scene.deployer.as_ref().unwrap().id().to_string();
    let as_agent = |script: &str| {
        let mut shell = Command::new("nsenter");
        shell.args(["--mount", "--target", &pid, "setpriv", "--reuid", "www-data", "--regid", "www-data"]);
        shell.args(["--clear-groups", "sh", "-c", &format!("cd \"$0\" && {script}")]).arg(scene.live());
        keyward_tests::tool::run(&mut shell).status.success()
    };
    assert!(as_agent("cat shop/fullchain.pem"));
    for script in ["echo >shop/key.pem", "rm shop", "mv shop old", "ln -s /tmp other", "mkdir shop.9"] {
        assert!(!as_agent(script), "{script}");
    }

    scene.agent = Some(Process::start(&mut scene.agent(), &scene.daemon.path("agent.log")));
    let full = scene.wait("the full disk", |plan| plan["deployed"]["problem"].is_string());
    let problem = full["deployed"]["problem"].as_str().unwrap();
    assert!(problem.contains("No space left on device"), "{problem}");
    assert_eq!(fs::read_link(live.join("shop")).unwrap(), Path::new("shop.1"));
    assert!(!live.join("shop.2").exists(), "no part of them is left");
    let mut grow = Command::new("nsenter");
    grow.args(["--mount", "--target", &pid, "mount", "-o", "remount,size=1m"]).arg(scene.live());
    succeed(&mut grow);
    scene.ask();
    scene.wait("room", |plan| plan["deployed"]["problem"].is_null());
    assert_eq!(told(), expected.repeat(2));
    program(&scene.daemon.path("hook"), "echo 'the mail server is on fire' >&2; exit 3");
    scene.ask();
    let failed = scene.wait("the hook", |plan| plan["deployed"]["problem"].is_string());
    assert!(
        failed["deployed"]["problem"].as_str().unwrap().contains("the mail server is on fire"),
        "{failed}"
    );
    assert_eq!(failed["state"], "valid", "the authority is not to blame");
    fail(&mut scene.daemon.keyward(&["cert", "check"]));
    // It is not forgotten, also by a deployer that was started again, and run until it succeeds.
    let before = told().len();
    program(&scene.daemon.path("hook"), &format!("echo again >>{}", scene.daemon.path("told").display()));
    let link = fs::read_link(live.join("shop")).unwrap();
    let told_of = fs::read_to_string(live.join("shop/.told")).unwrap();
    assert!(told_of.contains("\"hook\":null"), "{link:?}: {told_of}");
    kill(scene.deployer.take());
    fs::remove_dir(scene.live()).unwrap();
    scene.start_deployer();
    wait_for("the hook", || (told().len() > before).then_some(()));
    scene.wait("the end of the problem", |plan| plan["deployed"]["problem"].is_null());
}
