//! Unusual host programs: forks, threads, exits in the middle, their own OpenSSL, asynchronous
//! jobs.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward_tests::host::{Results, results};
use keyward_tests::pki::plain_key;
use keyward_tests::tool::{fail, run, stderr, wait_for};
use keyward_tests::{Daemon, Host, OpenSsl, Pki};

/// A key, its certificate, and the daemon that has it.
struct Scene {
    daemon: Daemon,
    certificate: PathBuf,
    reference: PathBuf,
}

impl Scene {
    fn new(daemon: Daemon, key_type: &str) -> Self {
        Self::of_use(daemon, key_type, "tls-server")
    }

    fn of_use(daemon: Daemon, key_type: &str, usage: &str) -> Self {
        daemon.generate_for(key_type, key_type, usage);
        let reference = daemon.reference(key_type);
        let certificate = Pki::new(daemon.directory()).certify_with(OpenSsl::V3_5, &daemon, &reference);
        Self { daemon, certificate, reference }
    }

    /// The host program in a mode, as a command.
    fn host(&self, openssl: OpenSsl, mode: &str, number: u32) -> Host {
        Host::new(&self.daemon, openssl).mode(mode, &self.certificate, &self.reference, number)
    }

    fn run(&self, openssl: OpenSsl, mode: &str, number: u32) -> Results {
        self.host(openssl, mode, number).run()
    }

    /// Runs the program under valgrind, which must find no invalid access and no lost memory.
    /// Returns the number of our blocks that are left at the end, including blocks that are lost
    /// with blocks of others.
    fn run_checked(&self, mode: &str, number: u32) -> usize {
        let host = self.host(OpenSsl::System, mode, number).command;
        let mut checked = Command::new("valgrind");
        checked.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
        checked.args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=all", "--num-callers=40"]);
        let suppressions = concat!(env!("CARGO_MANIFEST_DIR"), "/host/valgrind.supp");
        checked.arg(format!("--suppressions={suppressions}"));
        checked.arg(host.get_program()).args(host.get_args());
        checked.envs(host.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = run(&mut checked);
        assert!(output.status.success(), "{}", stderr(&output));
        blocks_of_ours(&stderr(&output))
    }
}

/// Sums up the blocks of a leak report of valgrind that our code allocated, without objects that
/// OpenSSL has to free: a program that leaks its context of a signature also leaks ours.
fn blocks_of_ours(report: &str) -> usize {
    let mut sum = 0;
    for record in report.split(" bytes in ").skip(1) {
        let ours = record.contains("keyward_openssl::") || record.contains("keyward_client::");
        if ours && !record.contains("keyward_openssl::signature::new_context") {
            let (count, _) = record.split_once(" blocks are ").unwrap();
            sum += count.replace(',', "").parse::<usize>().unwrap();
        }
    }
    sum
}

/// Forks before the key is loaded, after that, and after the key has signed. Each process has its
/// own connections.
#[test]
fn children_sign_with_the_keys_of_their_parents() {
    let scene = Scene::new(Daemon::start(), "p256");
    for openssl in OpenSsl::ALL {
        let before = scene.daemon.status()["requests"].as_u64().unwrap();
        assert_eq!(scene.run(openssl, "forks", 20)["well"], 4.0);
        let asked = scene.daemon.status()["requests"].as_u64().unwrap() - before;
        assert_eq!(asked, 4 * 20 + 1 + 20, "one for each signature, none for loading");
    }
    scene.run_checked("forks", 2);
}

#[test]
fn many_threads_sign_with_one_key() {
    for key_type in ["p256", "rsa2048", "ed25519"] {
        let scene = Scene::new(Daemon::start(), key_type);
        for openssl in OpenSsl::ALL {
            assert_eq!(scene.run(openssl, "threads", 10)["wrong"], 0.0, "{key_type}, {openssl:?}");
        }
    }
    Scene::new(Daemon::start(), "p256").run_checked("threads", 1);
}

#[test]
fn a_host_that_closes_all_descriptors_keeps_its_own_files() {
    let scene = Scene::new(Daemon::start(), "p256");
    for openssl in OpenSsl::ALL {
        let done = scene.run(openssl, "closes-all", 5);
        assert_eq!((done["signed"], done["intact"]), (5.0, 32.0), "{openssl:?}");
    }
}

#[test]
fn forks_and_ends_while_requests_are_under_way() {
    let scene = Scene::new(Daemon::start_slow("300ms"), "p256");
    for openssl in OpenSsl::ALL {
        let done = scene.run(openssl, "fork-mid-request", 1);
        assert_eq!((done["well"], done["wrong"]), (2.0, 0.0));
        assert_eq!(scene.run(openssl, "exit-mid-request", 1)["waiting"], 8.0);
    }
    // All connections are closed, and no request is left.
    wait_for("the last connection to be closed", || {
        (scene.daemon.status()["connections"] == 0).then_some(())
    });
}

/// The program cannot use the OpenSSL library of the provider, which is loaded in addition to its
/// own.
#[test]
fn a_host_with_an_openssl_of_its_own_inside() {
    for key_type in ["p256", "rsa2048", "ed25519"] {
        let scene = Scene::new(Daemon::start(), key_type);
        let host = Host::with_static_openssl(&scene.daemon);
        let signed = host.mode("signs", &scene.certificate, &scene.reference, 5).run();
        assert_eq!(signed["signed"], 5.0);
        // Our library does not know the jobs of the program, so the program waits for each
        // signature.
        let host = Host::with_static_openssl(&scene.daemon);
        let done = host.mode("async", &scene.certificate, &scene.reference, 5).run();
        assert_eq!((done["failed"], done["paused"]), (0.0, 0.0));
    }
}

/// One thread, and a unit that takes 200 ms. All handshakes together take hardly longer than one;
/// one after the other they would take ten seconds.
#[test]
fn fifty_handshakes_wait_side_by_side() {
    let slow = Scene::new(Daemon::start_slow("200ms"), "p256");
    for openssl in OpenSsl::ALL {
        let done = slow.run(openssl, "async", 50);
        assert_eq!((done["failed"], done["paused"]), (0.0, 50.0), "{openssl:?}");
        assert_eq!(done["resumed"], 50.0, "each is resumed once: {openssl:?}");
        assert!((0.2..1.4).contains(&done["seconds"]), "{openssl:?}: {done:?}");
    }
    // More handshakes than connections that are kept, and a backend that answers before a job can
    // pause.
    let scene = Scene::new(Daemon::start(), "ed25519");
    for openssl in OpenSsl::ALL {
        assert_eq!(scene.run(openssl, "async", 200)["failed"], 0.0);
    }
}

/// RSA key exchange of TLS 1.2: the daemon decrypts, and the host continues meanwhile.
#[test]
fn handshakes_with_rsa_key_exchange_wait_side_by_side() {
    let mut scene = Scene::of_use(Daemon::start_slow("200ms"), "rsa2048", "rsa-key-exchange");
    let run =
        |scene: &Scene, openssl, mode, number| scene.host(openssl, mode, number).tls12("AES128-SHA256").run();
    for openssl in OpenSsl::ALL {
        let done = run(&scene, openssl, "async", 20);
        assert_eq!((done["failed"], done["paused"], done["resumed"]), (0.0, 20.0, 20.0), "{openssl:?}");
        assert!((0.2..1.4).contains(&done["seconds"]), "{openssl:?}: {done:?}");
    }
    let handshakes = 20 * OpenSsl::ALL.len();
    assert_eq!(scene.daemon.logged(&["decryption", "outcome=done"]), handshakes, "{}", scene.daemon.log());
    for openssl in OpenSsl::ALL {
        let used = run(&scene, openssl, "stack", 1)["used"];
        assert!(used > 1000.0 && used < 16.0 * 1024.0, "{openssl:?}: {used}");
        assert_eq!(run(&scene, openssl, "abandon", 5)["left"], 0.0, "{openssl:?}");
    }
    scene.daemon.stop();
    for openssl in OpenSsl::ALL {
        let used = run(&scene, openssl, "stack", 1)["used"];
        assert!(used > 1000.0 && used < 16.0 * 1024.0, "{openssl:?}, daemon away: {used}");
    }
}

/// Of the 32 KiB stack of a job, including OpenSSL's own part.
#[test]
fn the_stack_of_a_job_is_used_by_half_at_most() {
    for key_type in ["p256", "rsa2048", "ed25519", "rsa-pss2048", "ml-dsa-87"] {
        let mut scene = Scene::new(Daemon::start_slow("2ms"), key_type);
        for openssl in OpenSsl::that_know(key_type) {
            let used = scene.run(openssl, "stack", 3)["used"];
            assert!(used > 1000.0 && used < 16.0 * 1024.0, "{key_type}, {openssl:?}: {used}");
        }
        // The path through an error needs more stack.
        scene.daemon.stop();
        for openssl in OpenSsl::that_know(key_type) {
            let used = scene.run(openssl, "stack", 3)["used"];
            assert!(used > 1000.0 && used < 16.0 * 1024.0, "{key_type}, {openssl:?}, daemon away: {used}");
        }
    }
}

/// Connections that are closed while their handshake is paused leave no descriptor, no memory of
/// ours and no request.
#[test]
fn paused_handshakes_may_be_given_up() {
    let scene = Scene::new(Daemon::start_slow("20ms"), "p256");
    for openssl in OpenSsl::ALL {
        assert_eq!(scene.run(openssl, "abandon", 100)["left"], 0.0, "{openssl:?}");
    }
    // OpenSSL loses memory with each handshake, but the number of our blocks does not grow.
    let [once, often] = [1, 6].map(|handshakes| scene.run_checked("abandon", handshakes));
    assert!(once > 0, "the key and the provider are lost with the first job");
    assert_eq!(often, once);
    scene.run_checked("async", 5);
    wait_for("the last connection to be closed", || {
        (scene.daemon.status()["connections"] == 0).then_some(())
    });
}

#[test]
fn jobs_that_are_forked_resumed_for_nothing_or_must_not_pause() {
    let scene = Scene::new(Daemon::start_slow("50ms"), "p256");
    for openssl in OpenSsl::ALL {
        assert_eq!(scene.run(openssl, "fork-paused", 1)["well"], 1.0, "{openssl:?}");
        assert_eq!(scene.run(openssl, "blocked", 1)["done"], 1.0, "{openssl:?}");
        // At most once in a millisecond, although the host does not wait.
        let resumed = scene.run(openssl, "eager", 2)["resumed"];
        assert!((2.0..=200.0).contains(&resumed), "{openssl:?}: {resumed}");
    }
}

/// Of two jobs with one wait context, the second is served, and the first gets an error.
#[test]
fn jobs_with_one_wait_context_do_not_get_the_answers_of_each_other() {
    let scene = Scene::new(Daemon::start_slow("50ms"), "p256");
    for openssl in OpenSsl::ALL {
        let output = run(&mut scene.host(openssl, "shared-context", 1).command);
        let done = results(&String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{openssl:?}: {}", stderr(&output));
        assert_eq!((done["first"], done["second"]), (0.0, 1.0), "{openssl:?}: {}", stderr(&output));
        let told = "cannot sign with key \"p256\": the program has run another job with the wait context of this one";
        assert_eq!(stderr(&output).matches(told).count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn the_daemon_is_restarted_while_handshakes_are_paused() {
    let mut daemon = Daemon::prepare_slow("300ms");
    // As with systemd, connections wait until there is a daemon again.
    daemon.hold_socket();
    daemon.resume();
    let mut scene = Scene::new(daemon, "p256");
    for openssl in OpenSsl::ALL {
        let host = scene.host(openssl, "async", 20).command.stdout(Stdio::piped()).spawn().unwrap();
        wait_for("twenty requests", || {
            (scene.daemon.metric("keyward_unit_in_flight", &[]) == 20.0).then_some(())
        });
        scene.daemon.kill();
        scene.daemon.resume();
        let output = host.wait_with_output().unwrap();
        let done = results(&String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success() && done["failed"] == 0.0, "{openssl:?}: {done:?}");
    }
}

/// The descriptor that the host watches also becomes readable at the deadline.
#[test]
fn a_daemon_that_is_stuck_costs_paused_handshakes_their_deadline() {
    let scene = Scene::new(Daemon::start(), "p256");
    for openssl in OpenSsl::ALL {
        let text = fs::read_to_string(scene.daemon.openssl_conf_of(openssl)).unwrap();
        let mut host = scene.host(openssl, "async", 20);
        let hurried = scene.daemon.path("hurried.cnf");
        fs::write(&hurried, text.replace("socket = ", "timeout = 500ms\nsocket = ")).unwrap();
        host.command.env("OPENSSL_CONF", &hurried);
        let daemon = rustix::process::Pid::from_raw(scene.daemon.id().cast_signed()).unwrap();
        rustix::process::kill_process(daemon, rustix::process::Signal::STOP).unwrap();
        let begin = Instant::now();
        let output = run(&mut host.command);
        let took = begin.elapsed();
        rustix::process::kill_process(daemon, rustix::process::Signal::CONT).unwrap();
        let done = results(&String::from_utf8_lossy(&output.stdout));
        assert_eq!((done["failed"], done["paused"]), (20.0, 20.0), "{openssl:?}");
        let told = "cannot sign with key \"p256\": no answer from the keyward daemon within 500ms";
        assert_eq!(stderr(&output).matches(told).count(), 20, "{}", stderr(&output));
        let limits = Duration::from_millis(500)..Duration::from_secs(3);
        assert!(limits.contains(&took), "{openssl:?}: {took:?}");
    }
}

/// The programs that do not work according to `docs/hosts.md`. If a program changes, the page has
/// to change.
#[test]
fn programs_that_want_more_than_a_key_find_nothing() {
    for key_type in ["p256", "rsa2048", "rsa-pss2048", "ed25519"] {
        let scene = Scene::new(Daemon::start(), key_type);
        let plain = scene.daemon.path("plain.pem");
        fs::write(&plain, plain_key(key_type)).unwrap();
        for openssl in OpenSsl::ALL {
            let legacy = scene.run(openssl, "legacy-objects", 1);
            assert_eq!((legacy["rsa"], legacy["ec"]), (0.0, 0.0), "{key_type}, {openssl:?}");
            let labels = |key| {
                let chain = [&scene.certificate, key].map(|file| fs::read_to_string(file).unwrap()).concat();
                let file = scene.daemon.path("chain.pem");
                fs::write(&file, chain).unwrap();
                let found =
                    Host::new(&scene.daemon, openssl).mode("labels", &scene.certificate, &file, 1).run();
                (found["certificates"], found["keys"])
            };
            assert_eq!(labels(&scene.reference), (1.0, 0.0), "{key_type}, {openssl:?}");
            assert_eq!(labels(&plain), (1.0, 1.0), "{key_type}, {openssl:?}");
        }
    }
}

/// Plain keys are loaded as without the provider. `make bench` measures how fast.
#[test]
fn plain_keys_are_loaded_without_asking_anybody() {
    let scene = Scene::new(Daemon::start(), "p256");
    let plain = scene.daemon.path("plain.pem");
    fs::write(&plain, plain_key("rsa2048")).unwrap();
    for openssl in OpenSsl::ALL {
        let mut host = Host::new(&scene.daemon, openssl).mode("loads", &scene.certificate, &plain, 50);
        assert!(host.run()["seconds"] > 0.0);
    }
    assert_eq!(scene.daemon.status()["requests"], 0);
    let (status, text) = fail(&mut scene.host(OpenSsl::System, "nonsense", 1).command);
    assert!(status.code() == Some(64) && text.starts_with("usage: "), "{text}");
}
