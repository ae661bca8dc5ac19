//! References and certificates that are missing, unreadable, or of another key.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyward_tests::{Daemon, Pki, has_root};

use super::{OTHER, doctor, findings};

#[test]
fn the_certificate_is_of_another_key() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let find = |certificate: &Path| {
        let mut found =
            doctor(&daemon, "certificate", &[&"--cert", &certificate, &"--reference", &reference]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    assert_eq!(find(&pki.certify(&daemon, &reference))[0], "ok");
    let [verdict, detail, fix] = find(&pki.leaf("other").0);
    assert!(verdict == "fail" && detail.contains("another public key than key shop"), "{detail}");
    assert!(fix.contains("put the certificate of the server itself first"), "{fix}");
    let [verdict, detail, fix] = find(&pki.leaf("other").1);
    assert!(
        verdict == "fail" && detail.ends_with("other.key holds no certificate that OpenSSL can read"),
        "{detail}"
    );
    assert!(fix.contains("name a file with the chain in PEM"), "{fix}");
    let [verdict, detail, _] = find(Path::new("/nowhere.crt"));
    assert!(verdict == "fail" && detail.contains("cannot read /nowhere.crt: No such file"), "{detail}");
}

#[test]
fn the_reference_is_none() {
    let daemon = Daemon::start();
    let (certificate, key) = Pki::new(daemon.directory()).leaf("old");
    let find = |check: &str, path: &Path| {
        let arguments: [&dyn AsRef<OsStr>; 6] =
            [&"--reference", &path, &"--cert", &certificate, &"--user", &OTHER];
        let mut found = doctor(&daemon, check, &arguments);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    for (path, told, fixes) in [
        (&*key, "old.key holds a private key, not a reference to one", "keyward key import LABEL --in"),
        (&certificate, "old.crt holds no reference", "keyward key reference LABEL"),
        (Path::new("/nowhere.pem"), "cannot read /nowhere.pem: No such file", "keyward key reference LABEL"),
    ] {
        let [verdict, detail, fix] = find("reference", path);
        assert!(verdict == "fail" && detail.contains(told), "{detail}");
        assert!(fix.contains(fixes), "{fix}");
        for check in ["certificate", "grant"] {
            let [verdict, detail, _] = find(check, path);
            assert!(verdict == "warn" && detail.contains("without the reference"), "{check}: {detail}");
        }
    }
}

#[test]
fn the_user_cannot_read_the_reference() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    daemon.generate("shop", "p256");
    let path = daemon.reference("shop");
    let find = |mode: u32| {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        doctor(&daemon, "reference", &[&"--reference", &path, &"--user", &OTHER])
    };
    let found = find(0o644);
    assert!(found.len() == 1 && found[0][0] == "ok", "{found:#?}");
    let found = find(0o600);
    let [[known, ..], [verdict, detail, fix]] = &found[..] else { panic!("{found:#?}") };
    assert!(known == "ok" && verdict == "warn", "{found:#?}");
    assert!(detail.contains("daemon may not read") && detail.contains("(mode 600)"), "{detail}");
    assert!(fix.contains("chmod a+r"), "{fix}");
    // A relative file name in a directory that the user cannot pass.
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(daemon.directory(), Permissions::from_mode(0o700)).unwrap();
    let mut command = daemon.keyward(&["doctor", "--json", "--user", OTHER]);
    command.arg("--reference").arg(path.file_name().unwrap()).current_dir(daemon.directory());
    let found = findings(&mut command, "reference");
    let [_, [verdict, detail, _]] = &found[..] else { panic!("{found:#?}") };
    assert!(verdict == "warn" && detail.contains("daemon cannot pass"), "{detail}");
}

#[test]
fn the_user_does_not_exist() {
    let daemon = Daemon::start();
    let found = doctor(&daemon, "user", &[&"--user", &"nobody-of-that-name"]);
    let [[verdict, detail, fix]] = &found[..] else { panic!("{found:#?}") };
    assert!(verdict == "fail" && detail.contains("there is no user"), "{detail}");
    assert!(fix.contains("the user that the server runs as"), "{fix}");
}
