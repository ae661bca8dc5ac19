//! What the system's OpenSSL makes of the provider, its configuration, and a certificate.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Reference;

use super::Finding;

/// Loads a provider into the `openssl` program, as a server would.
pub(super) fn module(module: &Path) -> Finding {
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
        Ok(output) if is_active(&output, "keyward") => Finding::ok(CHECK, format!("OpenSSL loads {path}")),
        Ok(output) => Finding::fail(
            CHECK,
            format!("OpenSSL does not load {path}: {}", first_error(&output).unwrap_or_default()),
            "install the provider that was built for this OpenSSL; see: openssl version",
        ),
        Err(error) => no_openssl(CHECK, &error),
    }
}

/// Looks whether a configuration activates default and keyward, in this order.
pub(super) fn conf(conf: &Path) -> Finding {
    const CHECK: &str = "openssl.cnf";
    let path = conf.display();
    let fail = |detail: String, mend: &str| Finding::fail(CHECK, detail, mend);
    let text = match fs::read_to_string(conf) {
        Ok(text) => text,
        Err(error) => {
            return fail(format!("cannot read {path}: {error}"), "start from the one that keyward ships");
        }
    };
    let settings = Settings::read(&text);
    let order = settings.providers();
    if order.iter().any(|(_, section)| *section == DEFAULT_SECTION) {
        let mend = "give the section of the provider another name, for example [default_provider]";
        return fail(
            format!("the section [default] of {path} is also that of the settings at the top"),
            mend,
        );
    }
    let listed = match list_providers(conf, "") {
        Ok(output) => output,
        Err(error) => return no_openssl(CHECK, &error),
    };
    for (provider, mend) in [
        ("default", "list it in the section of providers, and give it a section with activate = 1"),
        ("keyward", "list it behind default, and give it a section with activate = 1 and module = its file"),
    ] {
        if !is_active(&listed, provider) {
            let reason = match order.iter().any(|(name, _)| *name == provider) {
                true => {
                    first_error(&listed).unwrap_or("to see why, put config_diagnostics = 1 at its top".into())
                }
                false => "it does not list it".into(),
            };
            return fail(format!("{path} does not activate the provider {provider}: {reason}"), mend);
        }
    }
    let place = |provider| order.iter().position(|(name, _)| *name == provider);
    match (place("default"), place("keyward")) {
        (Some(default), Some(keyward)) if default < keyward => {
            Finding::ok(CHECK, format!("{path} activates default, then keyward"))
        }
        (Some(_), Some(_)) => fail(
            format!("{path} lists keyward before default"),
            "list default first: OpenSSL asks providers in this order",
        ),
        _ => Finding::warn(
            CHECK,
            format!("both providers are active, their order in {path} could not be told"),
            "see that default is listed before keyward in the files that it includes",
        ),
    }
}

/// Compares the public key of a certificate with that of a reference.
pub(super) fn certificate(cert: &Path, reference: &Reference) -> Finding {
    const CHECK: &str = "certificate";
    let path = cert.display();
    let printed = match run(Command::new("openssl").args(["x509", "-noout", "-pubkey", "-in"]).arg(cert), "")
    {
        Ok(output) => output,
        Err(error) => return no_openssl(CHECK, &error),
    };
    let pem = String::from_utf8_lossy(&printed.stdout);
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let label = reference.label();
    match STANDARD.decode(body) {
        Ok(spki) if spki == reference.spki() => {
            Finding::ok(CHECK, format!("{path} belongs to key {label} version {}", reference.version()))
        }
        Ok(spki) if !spki.is_empty() => Finding::fail(
            CHECK,
            format!("the first certificate in {path} has another public key than key {label}"),
            "put the certificate of the server itself first, or have one made for this key",
        ),
        _ => Finding::fail(
            CHECK,
            format!("{path} holds no certificate: {}", first_error(&printed).unwrap_or_default()),
            "give the chain in PEM",
        ),
    }
}

/// The settings of an OpenSSL configuration (config(5)), without those of files that it includes.
struct Settings<'a>(HashMap<&'a str, Vec<(&'a str, &'a str)>>);

impl<'a> Settings<'a> {
    fn read(text: &'a str) -> Self {
        let mut sections: HashMap<_, Vec<_>> = HashMap::new();
        let mut section = DEFAULT_SECTION;
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.trim();
            } else if let Some((name, value)) = line.split_once('=') {
                sections.entry(section).or_default().push((name.trim(), value.trim()));
            }
        }
        Self(sections)
    }

    /// Names and sections of the providers that are listed, in their order; empty if they stand elsewhere.
    fn providers(&self) -> &[(&'a str, &'a str)] {
        let init = self.value(DEFAULT_SECTION, "openssl_conf");
        let list = init.and_then(|init| self.value(init, "providers"));
        list.and_then(|list| self.0.get(list)).map_or(&[], Vec::as_slice)
    }

    /// Where a name is given twice, the last one counts.
    fn value(&self, section: &str, name: &str) -> Option<&'a str> {
        self.0.get(section)?.iter().rev().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }
}

fn list_providers(conf: &Path, input: &str) -> io::Result<Output> {
    run(Command::new("openssl").args(["list", "-providers"]).env("OPENSSL_CONF", conf), input)
}

/// Whether `openssl list -providers` shows a provider as active.
fn is_active(output: &Output, provider: &str) -> bool {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(str::trim).skip_while(|line| *line != provider).skip(1);
    // Name, version and status follow.
    lines.take(3).any(|line| line == "status: active")
}

/// The line in which OpenSSL says what went wrong.
fn first_error(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.contains(":error:")).or(text.lines().next());
    line.map(|line| line.trim().into())
}

fn no_openssl(check: &'static str, error: &io::Error) -> Finding {
    Finding::fail(check, format!("cannot run the openssl program: {error}"), "install openssl")
}

/// Runs a command with text on its standard input.
fn run(command: &mut Command, input: &str) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it closes the pipe, and shows in its output why.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// What stands before the first section belongs to a section of this name.
const DEFAULT_SECTION: &str = "default";

/// Where packages put the provider on Debian.
#[cfg(target_arch = "x86_64")]
pub(super) const INSTALLED: &str = "/usr/lib/x86_64-linux-gnu/ossl-modules/keyward.so";
/// Where packages put the provider on Debian.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const INSTALLED: &str = "/usr/lib/aarch64-linux-gnu/ossl-modules/keyward.so";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Finding {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("openssl.cnf");
        fs::write(&path, text).unwrap();
        conf(&path)
    }

    #[test]
    fn order_of_providers() {
        let settings = Settings::read(
            "openssl_conf = init # comment\n[ init ]\nproviders=p\n[p]\ndefault = d\nkeyward = k\n[d]\nactivate = 1\n",
        );
        assert_eq!(settings.providers(), [("default", "d"), ("keyward", "k")]);
        assert!(Settings::read("[p]\ndefault = d\n").providers().is_empty());
        assert!(Settings::read(".include /etc/ssl/other.cnf").providers().is_empty());
    }

    #[test]
    fn a_configuration_without_the_provider_is_told() {
        let finding = check("openssl_conf = i\n[i]\nproviders = p\n[p]\ndefault = d\n[d]\nactivate = 1\n");
        assert!(finding.detail.contains("does not activate the provider keyward"), "{finding:?}");
    }

    #[test]
    fn a_section_called_default_is_a_trap() {
        let finding =
            check("openssl_conf = i\n[i]\nproviders = p\n[p]\ndefault = default\n[default]\nactivate = 1\n");
        assert!(finding.detail.contains("the settings at the top"), "{finding:?}");
    }

    #[test]
    fn a_file_that_is_no_provider_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let finding = module(file.path());
        assert!(finding.detail.contains("OpenSSL does not load"), "{finding:?}");
    }
}
