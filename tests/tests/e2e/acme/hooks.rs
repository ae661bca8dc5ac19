//! Hooks and servers of a plan whose configuration changes, or that do not run.

use super::*;

/// The deployer tells the servers and hooks of the configuration, also those that have changed
/// while it did not run, or while the hook before was running.
#[test]
fn changed_hooks_and_servers_are_told() {
    let mut scene = Scene::start(Settings::default(), |daemon, _| {
        let slow = daemon.path("slow");
        let [begun, go] = ["begun", "go"].map(|name| daemon.path(name).display().to_string());
        program(&slow, &format!("echo >{begun}; while ! [ -e {go} ]; do sleep 0.05; done"));
        format!("ca = \"pebble\"\nhook = [{slow:?}]\n")
    });
    let config = scene.daemon.path("keyward.toml");
    let told = |name: &str| scene.daemon.path(&format!("{name}.told"));
    let change = |from: &str, to: &str| {
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&config, text.replace(from, to)).unwrap();
        scene.daemon.reload();
    };
    for name in ["one", "two"] {
        program(&scene.daemon.path(name), &format!("echo >{}", told(name).display()));
    }
    let hook = |name: &str| format!("hook = [{:?}]", scene.daemon.path(name));
    let [one, two, slow] = ["one", "two", "slow"].map(hook);
    let begun = scene.daemon.path("begun");
    let mut deployer = Process::start(&mut scene.deployer(), &scene.daemon.path("deployer.log"));
    wait_for("the slow hook", || begun.exists().then_some(()));
    change(&slow, &one);
    fs::write(scene.daemon.path("go"), "").unwrap();
    wait_for("the hook that the configuration names now", || told("one").exists().then_some(()));
    drop(deployer);
    change(&one, &two);
    deployer = Process::start(&mut scene.deployer(), &scene.daemon.path("deployer.log"));
    wait_for("the hook of the time without a deployer", || told("two").exists().then_some(()));
    // No Apache runs here with these files.
    change(&two, &format!("{two}\nservers = [\"apache\"]"));
    let plan = scene.wait("the missing server", |plan| plan["deployed"]["problem"].is_string());
    let problem = plan["deployed"]["problem"].as_str().unwrap();
    assert!(problem.contains("no apache that runs on this host names the files"), "{problem}");
    scene.deployer = Some(deployer);
}

/// A server of the plan that does not run does not make the others read their files again and
/// again.
#[test]
fn a_missing_server_leaves_the_others_alone() {
    let (mut scene, _nginx) = Scene::with_nginx(Settings::default());
    scene.start_agent();
    let first = scene.renewed(&json!({}));
    let config = scene.daemon.path("keyward.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("servers = [\"nginx\"]", "servers = [\"nginx\", \"apache\"]")).unwrap();
    scene.daemon.reload();
    scene.ask();
    let new = scene.renewed(&first)["certificate"]["fingerprint"].clone();
    let plan = scene.wait("the missing server", |plan| {
        plan["deployed"]["certificate"] == new
            && plan["deployed"]["problem"].as_str().unwrap_or_default().contains("no apache that runs")
    });
    let told = fs::read_to_string(scene.live().join("shop/.told")).unwrap();
    assert!(told.contains("nginx") && !told.contains("apache"), "{told} {plan}");
    let log = || {
        fs::read_to_string(scene.daemon.path("deployer.log"))
            .unwrap()
            .matches("server reads the new files")
            .count()
    };
    let before = log();
    // The deployer has looked for the missing one again.
    let looked = plan["looked_at"].as_u64().unwrap();
    scene.wait("another look", |plan| plan["looked_at"].as_u64().unwrap() > looked + 5);
    assert_eq!(log(), before, "nginx was not told again");
}
