//! `keyward protect`: a running server with key files becomes one with references, under load, and
//! the other way round.

mod apache;
mod haproxy;
mod nginx;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::tool::{children, succeed};
use keyward_tests::{Load, Pki, memory};

/// Contents, mode, owner, and time of the last change of each file.
type Files = BTreeMap<PathBuf, (Vec<u8>, u32, u32, String)>;

/// The files in some directories.
fn stored_files(directories: &[PathBuf]) -> Files {
    let mut files = Files::new();
    for directory in directories {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_file() {
                let found = path.metadata().unwrap();
                let time = format!("{}.{:09}", found.mtime(), found.mtime_nsec());
                files.insert(path.clone(), (fs::read(&path).unwrap(), found.mode(), found.uid(), time));
            }
        }
    }
    files
}

/// Makes keys and certificates: a pair of RSA and ECDSA for one name, one for a wildcard, and one
/// whose certificate and encrypted key are in one file.
fn make_keys(pki: &Pki, directory: &Path) {
    let openssl = |words: &[&str]| succeed(Command::new("openssl").args(words).current_dir(directory));
    let ec = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
    for name in ["shop.key", "wild.key"] {
        openssl(&[&ec[..], &[name]].concat());
    }
    for name in ["shop rsa.key", "mail.key"] {
        openssl(&["genpkey", "-algorithm", "RSA", "-out", name]);
    }
    for (key, name) in [
        ("shop.key", "shop.example"),
        ("shop rsa.key", "shop.example"),
        ("wild.key", "*.wild.example"),
        ("mail.key", "mail.example"),
    ] {
        openssl(&["pkey", "-in", key, "-pubout", "-out", "public"]);
        let extensions = format!("subjectAltName=DNS:{name}\n");
        let certificate = pki.certify_with_extensions(&directory.join("public"), &extensions, 2);
        fs::rename(certificate, directory.join(key.replace(".key", ".crt"))).unwrap();
    }
    // One file with both, and the key encrypted.
    fs::write(directory.join("pass"), "wrong\nsecret\n").unwrap();
    openssl(&["pkey", "-in", "mail.key", "-aes256", "-passout", "pass:secret", "-out", "mail.enc"]);
    let [certificate, key] =
        ["mail.crt", "mail.enc"].map(|name| fs::read_to_string(directory.join(name)).unwrap());
    fs::write(directory.join("mail.pem"), certificate + &key).unwrap();
}

/// Secret bytes of the keys of [`make_keys`].
fn secrets(directory: &Path) -> Vec<Vec<u8>> {
    let names = ["shop.key", "wild.key", "mail.key", "shop rsa.key"];
    names.iter().map(|name| secret(&directory.join(name))).collect()
}

/// Parts of private keys that are in the memory of a server. A server ends processes of its own
/// accord, and a process that has ended has no memory.
fn keys_in_memory(master: u32, secrets: &[Vec<u8>]) -> usize {
    let secrets: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
    let children = children(master).into_iter().filter_map(|pid| memory::count_unless_ended(pid, &secrets));
    [memory::count(master, &secrets)].into_iter().chain(children).flatten().sum()
}

/// Secret bytes of a key file: the scalar of a curve, or the first prime.
fn secret(file: &Path) -> Vec<u8> {
    let text = succeed(Command::new("openssl").args(["pkey", "-noout", "-text", "-in"]).arg(file));
    let field = if text.contains("prime1:") { "prime1:" } else { "priv:" };
    let lines = text.lines().skip_while(|line| *line != field).skip(1);
    let digits: String =
        lines.take_while(|line| line.starts_with(' ')).map(|line| line.trim().replace(':', "")).collect();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert!(bytes.len() >= 32, "{text}");
    bytes[bytes.len() - 32..].to_vec()
}

/// Ends loads, of which no handshake may have failed.
fn assert_all_shook_hands(loads: Vec<Load>) {
    for load in loads {
        let attempts = load.stop();
        let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
        assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
        assert!(!attempts.is_empty());
    }
}
