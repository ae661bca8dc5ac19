//! The `openssl` program of the system: it loads the provider, reads a configuration, and reads a
//! certificate.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Reference;

use super::finding::Finding;
use crate::admin::api::KeyView;
use crate::cli::key::for_daemon;

/// Loads a provider into the `openssl` program, as a server would.
pub(super) fn check_module(module: &Path) -> Finding {
    const CHECK: &str = "provider";
    let path = module.display();
    if !module.is_absolute() || !module.is_file() {
        let detail = format!("{path} is not the absolute path of a file");
        return Finding::fail(CHECK, detail, "install the provider there");
    }
    let conf = format!(
        "config_diagnostics = 1\nopenssl_conf = init\n[init]\nproviders = list\n\
         [list]\ndefault = first\nkeyward = second\n\
         [first]\nactivate = 1\n[second]\nmodule = {path}\nactivate = 1\n"
    );
    match list_providers(Path::new("/dev/stdin"), &conf) {
        Ok(output) if active(&output, "keyward").is_some() => {
            Finding::ok(CHECK, format!("OpenSSL loads {path}"))
        }
        Ok(output) => Finding::fail(
            CHECK,
            format!("OpenSSL does not load {path}: {}", first_error(&output).unwrap_or_default()),
            "install the provider that was built for this OpenSSL; see: openssl version",
        ),
        Err(error) => missing(CHECK, &error),
    }
}

/// The public key of the first certificate in a file: a SubjectPublicKeyInfo in DER.
pub(super) fn public_key(cert: &Path) -> Result<Vec<u8>, Finding> {
    const CHECK: &str = CERTIFICATE;
    let path = cert.display();
    if let Err(error) = File::open(cert) {
        return Err(Finding::fail(
            CHECK,
            format!("cannot read {path}: {error}"),
            "name a file with the chain in PEM",
        ));
    }
    let printed = run(Command::new("openssl").args(["x509", "-noout", "-pubkey", "-in"]).arg(cert), "")
        .map_err(|error| missing(CHECK, &error))?;
    let pem = String::from_utf8_lossy(&printed.stdout);
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).ok().filter(|spki| !spki.is_empty()).ok_or_else(|| {
        Finding::fail(
            CHECK,
            format!("{path} holds no certificate that OpenSSL can read"),
            "name a file with the chain in PEM",
        )
    })
}

/// Checks that a certificate with this public key belongs to a reference. `key` is the key in the
/// daemon.
pub(super) fn check_certificate(
    cert: &Path,
    spki: &[u8],
    reference: &Reference,
    key: Option<&KeyView>,
    runtime_dir: &Path,
) -> Finding {
    const CHECK: &str = CERTIFICATE;
    let path = cert.display();
    let (label, version) = (reference.label(), reference.version());
    if spki == reference.spki() {
        return Finding::ok(CHECK, format!("{path} belongs to key {label} version {version}"));
    }
    if let Some(key) = key.filter(|key| key.public_key(key.current).as_deref() == Some(spki)) {
        return Finding::fail(
            CHECK,
            format!(
                "{path} belongs to key {label} version {}, the reference to version {version}",
                key.current
            ),
            format!(
                "make the reference again: {} > FILE",
                for_daemon(format!("keyward key reference {label}"), runtime_dir)
            ),
        );
    }
    Finding::fail(
        CHECK,
        format!("the first certificate in {path} has another public key than key {label}"),
        "put the certificate of the server itself first, or have one made for this key",
    )
}

/// The directory in which OpenSSL looks for modules that are named without a directory.
pub(super) fn modules() -> Option<PathBuf> {
    match env::var_os("OPENSSL_MODULES") {
        Some(directory) => Some(directory.into()),
        None => version("-m"),
    }
}

/// True if a file is the openssl.cnf of the system.
pub(super) fn is_of_system(conf: &Path) -> bool {
    let system = version("-d").and_then(|directory| directory.join("openssl.cnf").canonicalize().ok());
    system.is_some_and(|system| conf.canonicalize().is_ok_and(|conf| conf == system))
}

/// A directory that OpenSSL was built with, which it prints in quotes.
fn version(option: &str) -> Option<PathBuf> {
    let output = run(Command::new("openssl").args(["version", option]), "").ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split('"').nth(1).map(PathBuf::from)
}

/// Runs `openssl list -providers` with a configuration, and `input` on its standard input.
///
/// # Errors
/// If there is no openssl program.
pub(super) fn list_providers(conf: &Path, input: &str) -> io::Result<Output> {
    run(Command::new("openssl").args(["list", "-providers"]).env("OPENSSL_CONF", conf), input)
}

/// The product name of a provider that `openssl list -providers` shows as active.
pub(super) fn active(output: &Output, provider: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != provider).skip(1);
    // Name, version and status follow.
    let product = lines.next()?.strip_prefix("name: ")?.to_owned();
    lines.take(2).any(|line| line == "status: active").then_some(product)
}

/// The line with the first error of OpenSSL.
pub(super) fn first_error(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.contains(":error:")).or(text.lines().next());
    line.map(|line| line.trim().into())
}

/// Reports that there is no openssl program.
pub(super) fn missing(check: &'static str, error: &io::Error) -> Finding {
    Finding::fail(check, format!("cannot run the openssl program: {error}"), "install openssl")
}

/// Runs a command with text on its standard input.
fn run(command: &mut Command, input: &str) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input closes the pipe. Its output has the reason.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// Path of the installed `conf/openssl.cnf`.
pub(super) const CONF: &str = "/etc/keyward/openssl.cnf";
pub(super) const CERTIFICATE: &str = "certificate";

/// Path of the provider in Debian packages.
#[cfg(target_arch = "x86_64")]
pub(super) const INSTALLED: &str = "/usr/lib/x86_64-linux-gnu/ossl-modules/keyward.so";
/// Path of the provider in Debian packages.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const INSTALLED: &str = "/usr/lib/aarch64-linux-gnu/ossl-modules/keyward.so";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_provider_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let finding = check_module(file.path());
        assert!(finding.detail.contains("OpenSSL does not load"), "{finding:?}");
    }
}
