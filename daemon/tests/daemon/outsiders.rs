//! Text from users without a grant and from untrusted units, in the log that administrators read.

use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyward_proto::Outcome;
use rustix::process::Signal;

use crate::fixture::{Daemon, PROGRAM, certificate_verify, has_root, outcome};
use crate::users::{as_ids, as_user};

/// In a user namespace, each user without a mapping has the number 65534.
#[test]
fn a_user_without_a_mapping_does_not_get_the_grant_of_nobody() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare(
        "[[grant]]\nuid = 65534\nkeys = [\"*\"]\n[[grant]]\nuid = 0\nkeys = [\"*\"]\n[[grant]]\ngroup = \"nogroup\"\nkeys = [\"*\"]\n",
    );
    open_directories(&daemon);
    let serve = daemon.serve(&["--dev"]);
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--"]).arg(PROGRAM).args(serve.get_args());
    daemon.start_as(&mut unshare);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let message = certificate_verify();
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done, "root is root there, too");
    for (uid, gid) in [(7001, 7001), (65534, 65534), (0, 7001)] {
        let signed = as_ids(uid, gid, || daemon.sign("shop", &message));
        assert!(signed.is_err(), "uid {uid}, gid {gid} got a signature");
    }
    assert!(daemon.log().contains("user namespace"), "{}", daemon.log());
}

#[test]
fn a_flood_of_refusals_hides_neither_another_user_nor_its_own_number() {
    if !has_root() {
        return;
    }
    let grants = [7001, 7002].map(|uid| format!("[[grant]]\nuid = {uid}\nkeys = [\"shop\"]\n"));
    let mut daemon = Daemon::dev(&grants.concat());
    open_directories(&daemon);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let over = AtomicBool::new(false);
    let refused = |uid: u32, label: &str| {
        let client = daemon.client();
        let (label, scheme) = (crate::fixture::label_of(label), keyward_proto::Scheme::EcdsaSecp256r1Sha256);
        let mut times = 0;
        let due = Instant::now() + Duration::from_secs(30);
        while times == 0 || uid != 7002 && !over.load(Ordering::Relaxed) && Instant::now() < due {
            let refused = client.sign(&label, scheme, keyward_client::Input::Message(b"sign this"));
            assert_ne!(outcome(refused), Outcome::Done);
            times += 1;
        }
        times
    };
    let told = |words: &[String]| {
        let log = daemon.log();
        let lines: Vec<_> = log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect();
        let times = lines
            .iter()
            .filter_map(|line| line.split("times=").nth(1)?.split(' ').next()?.parse::<u64>().ok());
        (lines.len() as u64, times.sum::<u64>())
    };
    let of = |uid: u32| [format!("uid={uid} "), "refused a peer".to_owned()];
    // One user with a grant, one user without.
    let (begin, mut floods) = (Instant::now(), [0; 2]);
    thread::scope(|scope| {
        let threads = [(7001, "shop"), (7003, "mail")].map(|(uid, label)| {
            let refused = &refused;
            scope.spawn(move || as_user(uid, || refused(uid, label)))
        });
        for uid in [7001, 7003] {
            await_that(|| told(&of(uid)).0 > 0);
        }
        // After some lines, the log limits the lines of the flood for a second. The other user is
        // refused in that second.
        as_user(7002, || refused(7002, "shop"));
        await_that(|| told(&of(7002)).0 > 0);
        over.store(true, Ordering::Relaxed);
        for (flood, thread) in floods.iter_mut().zip(threads) {
            *flood = thread.join().unwrap();
        }
    });
    assert!(begin.elapsed() < Duration::from_secs(10), "the others' line came when the flood was over");
    // Soon after the last refusal, the lines have counted every refusal.
    for (uid, flood) in [7001, 7003].into_iter().zip(floods) {
        await_that(|| told(&of(uid)).1 == flood);
    }
    // The same is true when the daemon ends before that.
    over.store(false, Ordering::Relaxed);
    let more: u64 = (0..50).map(|_| as_user(7002, || refused(7002, "shop"))).sum();
    daemon_ends(&mut daemon);
    let log = daemon.log();
    let times = log
        .lines()
        .filter(|line| line.contains("uid=7002 "))
        .filter_map(|line| line.split("times=").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    assert_eq!(times.sum::<u64>(), more + 1, "{log}");
}

/// The unit answers every call with an error whose text tries to move the cursor and to reorder the
/// displayed text.
#[test]
fn control_characters_of_a_unit_do_not_reach_log_or_terminal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || hostile_unit(listener));
    let config = format!("[grep11.hsm]\nendpoints = [\"{address}\"]\nplaintext = true\n");
    let daemon = Daemon::dev(&config);
    await_that(|| daemon.log().contains("gnp.exe"));
    let (_, refusal) = daemon.fail(&["key", "generate", "k", "--type", "p256", "--backend", "hsm"]);
    let (_, body) = daemon.http("GET", "/v1/units", "").unwrap();
    let shown = [
        daemon.log(),
        refusal,
        daemon.succeed(&["unit", "list"]),
        daemon.succeed(&["unit", "list", "--json"]),
        body,
    ];
    for text in shown {
        assert!(text.contains("gnp.exe"), "{text:?}");
        let order =
            text.chars().find(|c| c.is_control() && *c != '\n' || "\u{202e}\u{2066}\u{200f}".contains(*c));
        assert_eq!(order, None, "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("FORGED")), "{text}");
    }
    // Texts of callers, and names of files that callers give.
    let (_, line) = daemon.fail(&["cert", "attach", "k", "--in", "no\u{1b}[2J\u{202e}such\nFORGED"]);
    assert!(line.lines().count() == 1 && !line.contains(['\u{1b}', '\u{202e}']), "{line:?}");
}

/// Answers every request in HTTP/2 with that error.
fn hostile_unit(listener: TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    // gRPC encodes characters other than ASCII with percent signs
                    // (PROTOCOL-HTTP2.md).
                    let words = "%E2%80%AE%E2%81%A6%E2%80%8Fgnp.exe%1B[2J%C2%9B%0AFORGED";
                    let response = hyper::Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "13")
                        .header("grpc-message", words);
                    let _ = respond.send_response(response.body(()).unwrap(), true);
                }
            });
        }
    });
}

fn daemon_ends(daemon: &mut Daemon) {
    assert!(daemon.end(Signal::TERM).success());
}

/// Opens the directories, so that every user can reach the sockets.
fn open_directories(daemon: &Daemon) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(daemon.path(""), std::fs::Permissions::from_mode(0o711)).unwrap();
}

/// Waits until a condition is true.
fn await_that(holds: impl Fn() -> bool) {
    let due = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < due, "waited in vain");
        thread::sleep(Duration::from_millis(5));
    }
}
