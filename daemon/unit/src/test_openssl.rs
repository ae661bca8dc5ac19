//! An independent implementation for tests: the `openssl` command, and a library for ML-DSA, which
//! OpenSSL 3.0 does not have.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyward_proto::{Hash, MlDsa, PublicKey, Scheme, SchemeFamily};
use tempfile::TempDir;

/// Runs the command with `args`, split at spaces, and returns its output.
pub(crate) fn run(args: &str, input: &[u8]) -> Vec<u8> {
    let (output, success, complaint) = try_run(args, input);
    assert!(success, "openssl {args}: {complaint}");
    output
}

fn try_run(args: &str, input: &[u8]) -> (Vec<u8>, bool, String) {
    let mut child = Command::new("openssl")
        .args(args.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("these tests need the openssl command");
    // Inputs are shorter than the buffer of a pipe. A command that needs no input may have ended
    // already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    (output.stdout, output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// True if a signature of a message is right.
pub(crate) fn verifies(spki: &[u8], scheme: Scheme, message: &[u8], signature: &[u8]) -> bool {
    if let Ok(PublicKey::MlDsa(parameters, public)) = PublicKey::from_spki(spki) {
        let verifies = match parameters {
            MlDsa::MlDsa44 => verifies_ml_dsa::<ml_dsa::MlDsa44>,
            MlDsa::MlDsa65 => verifies_ml_dsa::<ml_dsa::MlDsa65>,
            MlDsa::MlDsa87 => verifies_ml_dsa::<ml_dsa::MlDsa87>,
        };
        return verifies(&public, message, signature);
    }
    let files = Files::new();
    let (key, signature) = (files.write("key", spki), files.write("signature", signature));
    let (key, signature) = (key.display(), signature.display());
    let Some(hash) = scheme.hash() else {
        let message = files.write("message", message);
        let message = message.display();
        let raw = "pkeyutl -verify -rawin -pubin -keyform DER";
        return try_run(&format!("{raw} -inkey {key} -in {message} -sigfile {signature}"), &[]).1;
    };
    let padding = match scheme.family() {
        SchemeFamily::RsaPss | SchemeFamily::RsaPssPss => {
            " -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"
        }
        _ => "",
    };
    let hash = name(hash);
    try_run(&format!("dgst -{hash} -keyform DER -verify {key} -signature {signature}{padding}"), message).1
}

/// True if a signature of ML-DSA is right.
fn verifies_ml_dsa<P: ml_dsa::MlDsaParams>(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = ml_dsa::VerifyingKey::<P>::decode(&ml_dsa::EncodedVerifyingKey::<P>::try_from(public).unwrap());
    let signature = ml_dsa::Signature::<P>::try_from(signature).unwrap();
    key.verify_with_context(message, &[], &signature)
}

/// True if an ECDSA signature of a digest is right.
pub(crate) fn verifies_digest(spki: &[u8], digest: &[u8], signature: &[u8]) -> bool {
    let files = Files::new();
    let key = files.write("key", spki);
    let (digest, signature) = (files.write("digest", digest), files.write("signature", signature));
    let (key, digest, signature) = (key.display(), digest.display(), signature.display());
    try_run(
        &format!("pkeyutl -verify -pubin -keyform DER -inkey {key} -in {digest} -sigfile {signature}"),
        &[],
    )
    .1
}

/// The digest of a message.
pub(crate) fn digest(hash: Hash, message: &[u8]) -> Vec<u8> {
    run(&format!("dgst -{} -binary", name(hash)), message)
}

fn name(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha256 => "sha256",
        Hash::Sha384 => "sha384",
        _ => "sha512",
    }
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = Path::join(self.0.path(), name);
        std::fs::write(&path, content).unwrap();
        path
    }
}
