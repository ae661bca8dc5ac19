//! Private keys are only where they belong: never in a server or in the store, and in the memory of
//! the daemon only as long as a peer may use them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyward_client::{Address, Client, Error, Input, Label};
use keyward_proto::{KeyType, Outcome};
use keyward_tests::pki::openssl;
use keyward_tests::server::Site;
use keyward_tests::tool::succeed;
use keyward_tests::{Daemon, Handshake, Nginx, OpenSsl, Pki, has_root, memory};

/// A key in a file, and each of its private values by name.
struct Plain {
    key_type: KeyType,
    file: PathBuf,
    values: BTreeMap<String, Vec<u8>>,
}

impl Plain {
    /// Makes a key with the openssl program, which also prints the values.
    fn generate(directory: &Path, key_type: &str) -> Self {
        let file = directory.join(format!("{key_type}.key"));
        let mut command = match key_type {
            "ml-dsa-44" => OpenSsl::V3_5.program(&["genpkey", "-algorithm", "ML-DSA-44"]),
            "ed25519" => openssl(&["genpkey", "-algorithm", "ED25519"]),
            "rsa2048" => openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
            curve => {
                let curve = format!("ec_paramgen_curve:{}", curve.replace('p', "P-"));
                openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", &curve])
            }
        };
        succeed(command.arg("-out").arg(&file));
        let mut command = OpenSsl::V3_5.program(&["pkey", "-noout", "-text", "-in"]);
        let mut values = private_values(&succeed(command.arg(&file)));
        // The file as the command line sends it to the daemon. Of a long file, a line from the
        // middle, which contains private values.
        let pem = fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = pem.lines().collect();
        let line = if lines.len() > 20 { lines[lines.len() / 2] } else { &lines[1][48..64] };
        values.insert("PEM".into(), line.as_bytes().to_vec());
        Self { key_type: key_type.parse().unwrap(), file, values }
    }

    /// Pieces of 16 bytes from both ends of each private value. If a part of the value is left in
    /// memory, it contains one of them.
    fn pieces(&self) -> Vec<(&str, &[u8])> {
        let pieces = self.values.iter().flat_map(|(name, value)| {
            [(name.as_str(), &value[..16]), (name.as_str(), &value[value.len() - 16..])]
        });
        pieces.collect()
    }
}

/// The private values in the output of `openssl pkey -text`: a name and a colon, then lines of
/// hexadecimal digits.
fn private_values(text: &str) -> BTreeMap<String, Vec<u8>> {
    const PUBLIC: [&str; 3] = ["pub", "modulus", "publicExponent"];
    let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        if let Some(digits) = line.strip_prefix("    ") {
            let bytes = digits.split(':').filter(|byte| !byte.is_empty());
            let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap());
            values.entry(name.to_owned()).or_default().extend(bytes);
        } else if let Some((title, _)) = line.split_once(':') {
            name = title;
        }
    }
    values.retain(|name, _| !PUBLIC.contains(&name.as_str()));
    // The private key of ML-DSA begins with a part of the public key (FIPS 204, algorithm 24), then
    // comes the secret K.
    if values.contains_key("seed") {
        values.entry("priv".into()).and_modify(|value| *value = value[32..64].to_vec());
    }
    for value in values.values_mut() {
        // A sign, and leading zeros of a number.
        let zeros = value.iter().take_while(|byte| **byte == 0).count();
        value.drain(..zeros);
    }
    values
}

fn sign(daemon: &Daemon, label: &str, key_type: KeyType) -> Result<(), Outcome> {
    let client = Client::new(Address::try_from(daemon.socket().as_path()).unwrap(), Client::DEFAULT_TIMEOUT);
    sign_with(&client, label, key_type)
}

fn sign_with(client: &Client, label: &str, key_type: KeyType) -> Result<(), Outcome> {
    for &scheme in key_type.schemes() {
        match client.sign(&label.parse::<Label>().unwrap(), scheme, Input::Message(b"message")) {
            Ok(_) => {}
            Err(Error::Refused(outcome)) => return Err(outcome),
            Err(error) => panic!("{label}: {error}"),
        }
    }
    Ok(())
}

/// The names of the private values of which a part is in the memory of the daemon.
fn in_memory<'p>(daemon: &Daemon, plain: &'p Plain) -> Vec<&'p str> {
    in_memory_of(daemon.id(), plain)
}

/// The search of [`in_memory`] for any process.
fn in_memory_of(process: u32, plain: &Plain) -> Vec<&str> {
    let pieces = plain.pieces();
    let found = memory::count(process, &pieces.iter().map(|(_, piece)| *piece).collect::<Vec<_>>());
    pieces.iter().zip(found).filter(|(_, found)| *found > 0).map(|((name, _), _)| *name).collect()
}

/// Asserts that within five seconds no part of a key is left.
fn assert_forgotten(daemon: &Daemon, plain: &Plain, when: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let found = in_memory(daemon, plain);
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} {when}: {found:?}", plain.key_type);
        thread::sleep(Duration::from_millis(100));
    }
}

fn key(daemon: &Daemon, verb: &str, label: &str) {
    succeed(&mut daemon.keyward(&["key", verb, label]));
}

/// Ends the threads of a test, even of a test that fails.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const TYPES: [&str; 6] = ["p256", "p384", "p521", "ed25519", "rsa2048", "ml-dsa-44"];

#[test]
fn a_key_that_nobody_may_use_is_in_no_memory() {
    // Only root may read the memory.
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    let keys = TYPES.map(|key_type| Plain::generate(daemon.directory(), key_type));
    for (label, plain) in TYPES.iter().zip(&keys) {
        let file = plain.file.to_str().unwrap();
        succeed(&mut daemon.keyward(&["key", "import", label, "--use", "any", "--in", file]));
        assert_forgotten(&daemon, plain, "before it has signed");
        for _ in 0..100 {
            sign(&daemon, label, plain.key_type).unwrap();
        }
        assert!(!in_memory(&daemon, plain).is_empty(), "{label} is looked for and not found");
        key(&daemon, "disable", label);
        assert_forgotten(&daemon, plain, "after it was disabled");
        assert_eq!(sign(&daemon, label, plain.key_type), Err(Outcome::KeyDisabled));
        key(&daemon, "enable", label);
        sign(&daemon, label, plain.key_type).unwrap();
        assert!(!in_memory(&daemon, plain).is_empty(), "{label} is kept at hand again");
        succeed(&mut daemon.keyward(&["key", "delete", label, "--yes", "--force"]));
        assert_forgotten(&daemon, plain, "after it was deleted");
    }
}

#[test]
fn a_server_that_is_read_out_and_a_stolen_store_have_no_key() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    let plain = Plain::generate(daemon.directory(), "rsa2048");
    succeed(&mut daemon.keyward(&["key", "import", "shop", "--in", plain.file.to_str().unwrap()]));
    let site = Site::with_key(&daemon, &pki, "shop");
    let with_key_file = Site::new(site.certificate.clone(), plain.file.clone());
    let reference = fs::read(&site.key).unwrap();
    for (site, has_key) in [(site, false), (with_key_file, true)] {
        let sites = [site];
        let nginx = Nginx::start(&daemon, &sites);
        for _ in 0..20 {
            Handshake::new(&pki, sites[0].address).make().unwrap();
        }
        let found: Vec<_> =
            nginx.workers().into_iter().chain([nginx.id()]).flat_map(|id| in_memory_of(id, &plain)).collect();
        assert_eq!(!found.is_empty(), has_key, "{found:?}");
    }
    let store = fs::read(daemon.path("state/keys.redb")).unwrap();
    for (name, piece) in plain.pieces() {
        let holds = |bytes: &[u8]| bytes.windows(piece.len()).any(|window| window == piece);
        assert!(!holds(&store) && !holds(&reference), "{name}");
    }
}

/// Requests may read the key before it is disabled, and bring it to the unit afterwards.
#[test]
fn requests_that_are_under_way_leave_nothing_behind() {
    if !has_root() {
        return;
    }
    let daemon = Daemon::start();
    let plain = Plain::generate(daemon.directory(), "rsa2048");
    let file = plain.file.to_str().unwrap();
    succeed(&mut daemon.keyward(&["key", "import", "shop", "--use", "any", "--in", file]));
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = AtTheEnd(&end);
        for _ in 0..4 {
            scope.spawn(|| {
                let address = Address::try_from(daemon.socket().as_path()).unwrap();
                let client = Client::new(address, Client::DEFAULT_TIMEOUT);
                while !end.load(Ordering::Relaxed) {
                    let _ = sign_with(&client, "shop", plain.key_type);
                }
            });
        }
        for round in 0..10 {
            key(&daemon, "disable", "shop");
            assert_forgotten(&daemon, &plain, &format!("in round {round}"));
            key(&daemon, "enable", "shop");
            sign(&daemon, "shop", plain.key_type).unwrap();
        }
    });
}
