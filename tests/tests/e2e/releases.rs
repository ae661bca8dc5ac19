//! The files of a release, as `docs/releases.md` describes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use keyward_tests::scratch;
use keyward_tests::server::Page;
use keyward_tests::tool::{fail, succeed};
use serde_json::Value;

#[test]
fn a_release_is_signed_repeatable_and_lists_its_parts() {
    let here = scratch();
    let key = here.path().join("key");
    succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let [first, second] = ["first", "second"].map(|name| here.path().join(name));
    make(&first, Some(&key));
    make(&second, None);
    let sums = fs::read_to_string(first.join("SHA256SUMS")).unwrap();
    assert_eq!(fs::read_to_string(second.join("SHA256SUMS")).unwrap(), sums, "the same programs");
    assert!(!second.join("SHA256SUMS.sig").exists());
    for name in
        ["keyward_", "keyward-openssl_", "keyward-acme_", "keyward-dbgsym_", "linux.tar.gz", ".cdx.json"]
    {
        assert!(sums.contains(name), "{sums} lacks {name}");
    }

    verify(&first, &key);
    let archive = fs::read_dir(&first).unwrap().map(|entry| entry.unwrap().path());
    let archive = archive.into_iter().find(|path| path.to_string_lossy().ends_with(".tar.gz")).unwrap();
    succeed(Command::new("tar").arg("-C").arg(here.path()).arg("-xzf").arg(&archive));
    let name = archive.file_name().unwrap().to_str().unwrap().strip_suffix(".tar.gz").unwrap();
    let version = succeed(Command::new(here.path().join(name).join("keyward")).arg("--version"));
    assert_eq!(version, format!("keyward {}\n", env!("CARGO_PKG_VERSION")));
    let parts = first.join(format!("keyward-{}.cdx.json", env!("CARGO_PKG_VERSION")));
    check_parts(&serde_json::from_slice(&fs::read(parts).unwrap()).unwrap());
}

/// Makes the files of a release from the programs of the tests.
fn make(directory: &Path, key: Option<&Path>) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(source.join(".ci/release-files").canonicalize().unwrap());
    command.arg("release").arg(directory).env("COMPRESSION", "none").env_remove("KEY");
    command.envs(key.map(|key| ("KEY", key)));
    succeed(&mut command);
}

/// The commands of the page accept the files with the key that signed them, and no others.
fn verify(directory: &Path, key: &Path) {
    let page = Page::read("releases");
    let steps = page.block("ssh-keygen -Y verify");
    let shell = || {
        let mut shell = Command::new("sh");
        shell.args(["-euc", steps]).current_dir(directory);
        shell
    };
    let allow = |key: &Path| {
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        fs::write(directory.join("allowed_signers"), format!("keyward {public}")).unwrap();
    };
    allow(key);
    let said = succeed(&mut shell());
    assert!(said.contains("Good \"keyward\" signature") && said.contains(".deb: OK"), "{said}");

    let other = key.with_file_name("other");
    succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other));
    allow(&other);
    fail(&mut shell());
    allow(key);
    let sums = directory.join("SHA256SUMS");
    let text = fs::read(&sums).unwrap();
    fs::write(&sums, [&text[..], b"0  other\n"].concat()).unwrap();
    fail(&mut shell());
    fs::write(&sums, text).unwrap();
    succeed(&mut shell());
    // A file that is not the one of the release.
    let parts = directory.join(format!("keyward-{}.cdx.json", env!("CARGO_PKG_VERSION")));
    let text = fs::read(&parts).unwrap();
    fs::write(&parts, b"{}").unwrap();
    fail(&mut shell());
    fs::write(&parts, text).unwrap();
}

/// The document has the form of CycloneDX 1.5, as far as it uses that, and its parts are the parts
/// of the programs.
fn check_parts(document: &Value) {
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(document["version"], 1);
    let serial = document["serialNumber"].as_str().unwrap();
    let groups: Vec<_> = serial.strip_prefix("urn:uuid:").unwrap().split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{serial}");
    let time = document["metadata"]["timestamp"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");

    let main = &document["metadata"]["component"];
    let components = document["components"].as_array().unwrap();
    let mut references: BTreeSet<_> = [main["bom-ref"].as_str().unwrap()].into();
    for one in components {
        let text = |field: &str| one[field].as_str().unwrap_or_else(|| panic!("{field} of {one}"));
        assert!(["application", "library"].contains(&text("type")), "{one}");
        assert_eq!(text("purl"), format!("pkg:cargo/{}@{}", text("name"), text("version")));
        let licences = one["licenses"].as_array().unwrap();
        let licence = licences[0]["expression"].as_str().unwrap_or_else(|| panic!("licence of {one}"));
        assert!(licences.len() == 1 && !licence.contains('/'), "{one}");
        // Crates of this workspace have no checksum.
        if let Some(hash) = one["hashes"].get(0) {
            assert_eq!((&hash["alg"], hash["content"].as_str().unwrap().len()), (&"SHA-256".into(), 64));
        } else {
            assert!(text("name").starts_with("keyward"), "{one}");
        }
        assert!(references.insert(text("bom-ref")), "twice: {one}");
    }

    let dependencies: BTreeMap<_, BTreeSet<_>> = document["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let on = one["dependsOn"].as_array().unwrap().iter().map(|on| on.as_str().unwrap());
            (one["ref"].as_str().unwrap(), on.collect())
        })
        .collect();
    assert_eq!(dependencies.keys().copied().collect::<BTreeSet<_>>(), references, "each once");
    // Everything is a part of some program, directly or not.
    let mut reached = BTreeSet::new();
    let mut next = vec![main["bom-ref"].as_str().unwrap()];
    while let Some(one) = next.pop() {
        if reached.insert(one) {
            next.extend(&dependencies[one]);
        }
    }
    assert_eq!(reached, references);
    let part = |name: &str| references.iter().any(|one| one.starts_with(&format!("pkg:cargo/{name}@")));
    for name in
        ["keyward", "keyward-openssl", "keyward-acme", "keyward-deploy", "rustls", "aws-lc-sys", "libc"]
    {
        assert!(part(name), "{name} is not in the list");
    }
    for name in ["keyward-tests", "proptest", "prost-build", "cc"] {
        assert!(!part(name), "{name} is no part of a program");
    }
}
