//! Users other than the user of the tests. Only root can act as them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use keyward_tests::client::{WISHES, s_client};
use keyward_tests::server::{Page, Server, Site};
use keyward_tests::tool::{as_user, fail, run, succeed};
use keyward_tests::{Backend, Daemon, Haproxy, Pki, has_root, on_both_backends};

on_both_backends!(
    another_user_is_refused_until_a_grant_names_him,
    keys_are_made_and_changed_by_users_with_a_role_alone,
    haproxy_signs_from_within_its_chroot,
);

const OTHER: &str = "daemon";

fn another_user_is_refused_until_a_grant_names_him(backend: Backend) {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start_on(backend);
    daemon.generate_for("shop", "p256", "any");
    let reference = daemon.reference("shop");
    let message = daemon.path("message");
    fs::write(&message, "text").unwrap();
    let signature = daemon.path("signature");
    fs::write(&signature, "").unwrap();
    fs::set_permissions(&signature, Permissions::from_mode(0o666)).unwrap();
    let sign = || {
        let mut command = daemon.openssl(&["dgst", "-sha256", "-sign"]);
        command.arg(&reference).arg("-out").arg(&signature).arg(&message);
        as_user(OTHER, &command)
    };
    let (_, text) = fail(&mut sign());
    assert!(text.contains("keyward: key \"shop\" refused: "), "{text}");
    assert_eq!(daemon.logged(&["signature", "outcome=no-grant"]), 1, "{}", daemon.log());

    for who in [format!("user = {OTHER:?}"), format!("group = {OTHER:?}")] {
        let grant =
            |keys| format!("log = \"debug\"\n[[grant]]\n{who}\nkeys = [{keys:?}]\nuses = [\"any\"]\n");
        for (keys, granted) in [("mail", false), ("sh*", true)] {
            daemon.configure(&grant(keys));
            daemon.reload();
            match granted {
                true => drop(succeed(&mut sign())),
                false => drop(fail(&mut sign())),
            }
        }
    }
}

fn keys_are_made_and_changed_by_users_with_a_role_alone(backend: Backend) {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start_on(backend);
    daemon.generate("shop", "p256");
    for command in [
        daemon.keyward(&["key", "list"]),
        daemon.keyward(&["key", "disable", "shop"]),
        daemon.new_key(&["generate", "mine", "--type", "p256"]),
    ] {
        let (_, text) = fail(&mut as_user(OTHER, &command));
        assert!(text.starts_with("keyward: ") && text.lines().count() == 1, "{text}");
        assert!(text.contains(" needs the role ") && text.contains(" has no role; "), "{text}");
    }
    assert!(succeed(&mut daemon.keyward(&["key", "list"])).contains("enabled"));
    daemon.configure_more(&format!("[[role]]\nrole = \"operator\"\nuser = {OTHER:?}\n"));
    daemon.reload();
    succeed(&mut as_user(OTHER, &daemon.keyward(&["key", "disable", "shop"])));
    let (_, text) = fail(&mut as_user(OTHER, &daemon.new_key(&["generate", "mine", "--type", "p256"])));
    assert!(text.contains("needs the role manager") && text.contains("has only operator"), "{text}");
}

fn haproxy_signs_from_within_its_chroot(backend: Backend) {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare_on(backend, "");
    let root = daemon.path("chroot");
    fs::create_dir(&root).unwrap();
    let socket = Page::read("haproxy").filled("[socket]", &[("/var/lib/haproxy", &root.display())]);
    daemon.configure_more(&socket);
    daemon.resume();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &pki, "shop");
    let haproxy = Haproxy::start_in_chroot(&daemon, std::slice::from_ref(&site), &root);
    for wish in WISHES {
        s_client(&pki, site.address, wish);
    }
    haproxy.reload();
    s_client(&pki, site.address, WISHES[3]);
}

/// An abstract address is the same inside and outside of a chroot.
#[test]
fn a_server_in_a_chroot_reaches_an_abstract_address() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    let (root, page) = (daemon.path("chroot"), Page::read("chroot"));
    fs::create_dir(&root).unwrap();
    let address = format!("@keyward-test-{}", std::process::id());
    daemon.configure_more(&page.filled("[socket]", &[("@keyward", &address)]));
    assert!(page.block("ListenStream").contains("=@keyward\n"));
    assert!(page.block("Environment").contains("KEYWARD_SOCKET=@keyward\n"));
    daemon.resume();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &pki, "shop");
    let haproxy = Haproxy::start_in_chroot_with(&daemon, std::slice::from_ref(&site), &root, &address);
    s_client(&pki, site.address, WISHES[3]);
    haproxy.reload();
    s_client(&pki, site.address, WISHES[3]);
}

#[test]
fn the_doctor_sees_the_socket_as_the_user_of_the_server_does() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    let doctor = || daemon.keyward(&["doctor", "--user", OTHER]);
    let text = String::from_utf8_lossy(&run(&mut doctor()).stdout).into_owned();
    assert!(text.contains("daemon can reach"), "{text}");
    fs::set_permissions(daemon.path("run/keyward.sock"), Permissions::from_mode(0o600)).unwrap();
    let output = run(&mut doctor());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.contains("daemon may not write to"), "{text}");
}
