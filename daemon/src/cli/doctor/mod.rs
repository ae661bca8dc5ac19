//! `keyward doctor`: finds the usual misconfigurations and says how to mend each.

mod conf;
mod configuration;
mod daemon;
mod environment;
mod expiry;
mod grants;
mod openssl;
mod processes;
mod reach;
mod references;
mod servers;
mod settings;
mod told;
mod uses;

use std::path::{Path, PathBuf};

use clap::Args;
use hyper::StatusCode;
use keyward_proto::Reference;
use serde::Serialize;

use super::failure::Failure;
use super::output::{print, print_json};
use crate::admin::api::KeyView;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::ground::exit;
use crate::ground::text::printable;
use crate::serve::sockets::PEERS;
use conf::Conf;
pub(super) use conf::check_owners;
use reach::Person;
use settings::read_text;

#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Check whether this user, as which a TLS server runs, can reach the socket, and may read --reference and use its key
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Check whether a server in this chroot can reach the socket: that of KEYWARD_SOCKET or --openssl-conf, seen from there
    /// [default: that of --pid, if it is in one]
    #[arg(long, value_name = "DIR")]
    chroot: Option<PathBuf>,
    /// Check whether the system's OpenSSL can load this provider [default: the installed one, if there is one]
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Check that this openssl.cnf activates the providers, and leaves everything but its keys to default
    #[arg(long, value_name = "FILE")]
    openssl_conf: Option<PathBuf>,
    /// Check that this nginx.conf passes OPENSSL_CONF on
    #[arg(long, value_name = "FILE")]
    nginx_conf: Option<PathBuf>,
    /// Check that this process has OPENSSL_CONF, and has loaded the provider; its KEYWARD_SOCKET
    /// counts in the place of ours, and for grants its groups and its service
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Check this configuration of the daemon, as serve --check-config does
    /// [default: that of the daemon, or /etc/keyward/keyward.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the keys are stored [default: as the daemon says, or /var/lib/keyward]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Check that the daemon has the key of this reference
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Check that this certificate belongs to the key of --reference
    #[arg(long, value_name = "FILE", requires = "reference")]
    cert: Option<PathBuf>,
    #[command(flatten)]
    client: super::Client,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime_dir = std::path::absolute(&self.client.runtime_dir).map_err(|error| {
            Failure::new(exit::USAGE, format_args!("cannot use the runtime directory: {error}"))
        })?;
        let admin = AdminClient::new(&runtime_dir)?;
        let status = admin.status();
        let options = configuration::options(
            self.config.as_deref(),
            self.state_dir.as_deref(),
            &runtime_dir,
            status.as_ref().ok(),
        );
        let mut findings = configuration::check(&options, status.as_ref().ok());
        findings.extend(daemon::check(&admin, status));
        let person = or_tell(&mut findings, self.user.as_deref().map(Person::of_name));
        let conf = or_tell(&mut findings, self.openssl_conf.as_deref().map(Conf::open));
        let socket = runtime_dir.join(PEERS);
        let told = environment::socket(self.pid).or_else(|| match (&conf, self.pid) {
            (None, Some(pid)) => Conf::open(&environment::openssl_conf(pid)?).ok()?.socket(),
            (conf, _) => conf.as_ref()?.socket(),
        });
        let chroot = self.chroot.clone().or_else(|| self.chroot_of_process(&mut findings));
        findings.extend(reach::sockets(&socket, told.as_ref(), chroot.as_deref(), person.as_ref()));
        match &self.module {
            Some(module) => findings.push(openssl::module(module)),
            None if Path::new(openssl::INSTALLED).exists() => {
                findings.push(openssl::module(Path::new(openssl::INSTALLED)));
            }
            None => {}
        }
        findings.extend(conf.iter().flat_map(|conf| conf.findings(person.as_ref())));
        let conf = self.openssl_conf.as_deref();
        findings.extend(self.nginx_conf.as_ref().map(|file| environment::nginx(file, conf)));
        findings.extend(self.nginx_conf.iter().flat_map(|file| uses::of_nginx(file)));
        findings.extend(self.pid.map(|pid| environment::process(pid, conf)));
        if let Some(path) = &self.reference {
            match read_reference(path) {
                Ok(reference) => {
                    let key = admin.show(reference.label().as_str());
                    let spki = self.cert.as_deref().map(openssl::public_key);
                    let certified = spki.as_ref().and_then(|spki| spki.as_deref().ok());
                    findings.push(known(&key, &reference, certified));
                    findings.extend(uses::of_key(&admin, &reference));
                    findings.extend(person.as_ref().and_then(|person| readable(person, path)));
                    let grant = |person| grants::check(&admin, &runtime_dir, person, self.pid, &reference);
                    findings.extend(person.as_ref().and_then(grant));
                    findings.extend(self.cert.iter().zip(spki).map(|(cert, spki)| match spki {
                        Ok(spki) => openssl::certificate(cert, &spki, &reference, key.as_ref().ok()),
                        Err(finding) => finding,
                    }));
                }
                Err(finding) => {
                    findings.push(finding);
                    findings.extend(person.as_ref().map(|_| no_reference(grants::CHECK)));
                    findings.extend(self.cert.as_ref().map(|_| no_reference(openssl::CERTIFICATE)));
                }
            }
        }
        if let (None, Some(person)) = (&self.reference, &person) {
            findings.push(grants::any(&admin, person, self.pid));
        }
        if self.is_bare() {
            findings.extend(servers::check(&runtime_dir));
        }
        self.report(&findings)
    }

    /// Whether nothing says which server is meant.
    fn is_bare(&self) -> bool {
        let files =
            [&self.chroot, &self.module, &self.openssl_conf, &self.nginx_conf, &self.reference, &self.cert];
        self.user.is_none() && self.pid.is_none() && files.iter().all(|file| file.is_none())
    }

    /// The chroot of the process that is named, if it is in one; what there is to say of that is a finding.
    fn chroot_of_process(&self, findings: &mut Vec<Finding>) -> Option<PathBuf> {
        let pid = self.pid?;
        let chroot = or_tell(findings, environment::chroot(pid))?;
        let detail = format!("process {pid} has {} for its root", chroot.display());
        findings.push(Finding::ok(reach::CHROOT, detail));
        Some(chroot)
    }

    fn report(&self, findings: &[Finding]) -> Result<(), Failure> {
        if self.client.json {
            print_json(&findings)?;
        } else {
            print(&findings.iter().map(Finding::lines).collect::<String>())?;
        }
        match findings.iter().any(|finding| finding.verdict == Verdict::Fail) {
            true => Err(Failure::silent(exit::CONFIG)),
            false => Ok(()),
        }
    }
}

/// What keeps an openssl.cnf from loading the provider, or does harm with it, and how to mend that.
pub(super) fn faults_of_conf(path: &Path) -> Vec<String> {
    let findings = match Conf::open(path) {
        Ok(conf) => conf.findings(None),
        Err(finding) => vec![finding],
    };
    let faults = findings.into_iter().filter(|finding| finding.verdict == Verdict::Fail);
    faults.map(|fault| [fault.detail, fault.mend.unwrap_or_default()].join("; ")).collect()
}

/// What one check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
    /// Nothing was looked at, or it is no matter of right and wrong.
    Note,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, detail: detail.into(), mend: None }
    }

    fn warn(check: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, detail: detail.into(), mend: Some(mend.into()) }
    }

    fn fail(check: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, detail: detail.into(), mend: Some(mend.into()) }
    }

    fn note(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Note, detail: detail.into(), mend: None }
    }

    /// The same finding of something that has a name.
    fn of(self, name: &str) -> Self {
        Self { detail: format!("{name}: {}", self.detail), ..self }
    }

    /// The same finding where it is not known whether it matters.
    fn at_most(self, verdict: Verdict) -> Self {
        match (self.verdict, verdict) {
            (Verdict::Fail | Verdict::Warn, Verdict::Warn) => Self { verdict, ..self },
            (_, Verdict::Note) => Self { verdict, ..self },
            _ => self,
        }
    }

    fn lines(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
            Verdict::Note => "note",
        };
        // Each is one line, whatever it names.
        let mend = self.mend.as_ref().map(|mend| format!("      mend: {}\n", printable(mend)));
        format!("{verdict}  {}: {}\n{}", self.check, printable(&self.detail), mend.unwrap_or_default())
    }
}

/// What is there to go on with; if there was something wrong with it, that is a finding.
fn or_tell<T>(findings: &mut Vec<Finding>, asked: Option<Result<T, Finding>>) -> Option<T> {
    asked?.map_err(|finding| findings.push(finding)).ok()
}

fn read_reference(path: &Path) -> Result<Reference, Finding> {
    let shown = path.display();
    let again = "make it again: keyward key reference LABEL > FILE";
    let text = read_text(path)
        .map_err(|error| Finding::fail(REFERENCE, format!("cannot read {shown}: {error}"), again))?;
    // Certificates may stand in the same file, before it and after it.
    let Some(start) = text.find("-----BEGIN KEYWARD KEY-----") else {
        return Err(match holds_private_key(&text) {
            true => Finding::fail(
                REFERENCE,
                format!("{shown} holds a private key, not a reference to one"),
                format!(
                    "take it in: keyward key import LABEL --in {shown}; then make the reference: keyward key \
                     reference LABEL > FILE"
                ),
            ),
            false => Finding::fail(REFERENCE, format!("{shown} holds no reference"), again),
        });
    };
    reference_in(&text[start..]).map_err(|error| Finding::fail(REFERENCE, format!("{shown}: {error}"), again))
}

/// The reference that a text begins with.
fn reference_in(text: &str) -> Result<Reference, String> {
    const END: &str = "-----END KEYWARD KEY-----";
    let block = text.find(END).map_or(text, |end| &text[..end + END.len()]);
    Reference::from_pem(block).map_err(|error| error.to_string())
}

/// Whether there is a private key of any kind in a text, in PEM.
fn holds_private_key(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with("PRIVATE KEY-----"))
}

/// That the user of a server cannot read the file. One that loads its keys as root, before it changes its user, can.
fn readable(person: &Person, path: &Path) -> Option<Finding> {
    let reason = person.cannot_read(path)?;
    Some(Finding::warn(
        REFERENCE,
        format!(
            "{reason}: servers that load keys as that user cannot, as stunnel, or lighttpd when it reloads"
        ),
        format!(
            "let everyone read {}, there is no secret in it: chmod a+r, and a+x for the directories",
            path.display()
        ),
    ))
}

/// That a check needs the reference which could not be read.
fn no_reference(check: &'static str) -> Finding {
    Finding::warn(check, "not checked, for want of the reference", "mend that first")
}

/// Looks at the key of a reference in the daemon. `certified` is the public key of the certificate
/// that the server has with it.
fn known(
    key: &Result<KeyView, AdminClientError>,
    reference: &Reference,
    certified: Option<&[u8]>,
) -> Finding {
    const CHECK: &str = REFERENCE;
    let (label, version) = (reference.label(), reference.version());
    let again = format!("make it again: keyward key reference {label} > FILE");
    let key = match key {
        Ok(key) => key,
        Err(AdminClientError::Refused { status: StatusCode::NOT_FOUND, reason }) => {
            return Finding::fail(CHECK, reason, "generate or import the key, or name another one");
        }
        Err(AdminClientError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, reason }) => {
            let mend = "find out who wrote to the key store before anything else";
            return Finding::fail(CHECK, reason, mend);
        }
        Err(AdminClientError::Refused { reason, .. }) => {
            return Finding::fail(CHECK, reason, "see the log of the daemon");
        }
        Err(error) => {
            return Finding::warn(CHECK, format!("not compared: {error}"), "run as root, with the daemon up");
        }
    };
    if key.state != "enabled" {
        return Finding::fail(
            CHECK,
            format!("key {label} is {}", key.state),
            format!("ask who disabled it, and why; then: keyward key enable {label}"),
        );
    }
    if key.public_key(version).as_deref() != Some(reference.spki()) {
        return Finding::fail(CHECK, format!("key {label} of the daemon has another public key"), again);
    }
    let with_daemon = format!("key {label} version {version} is with the daemon");
    let newer = key.current;
    if newer == version {
        return Finding::ok(CHECK, with_daemon);
    }
    let first = format!(
        "get a certificate for version {newer} first (keyward csr {label} --subject DN --san NAME > FILE), then put it in \
         place together with its reference: keyward key reference {label} > FILE"
    );
    match certified {
        // A reference to another version would not fit the certificate, and the server would not
        // start.
        Some(spki) if spki == reference.spki() => Finding::ok(
            CHECK,
            format!("{with_daemon}, and the certificate is for it; version {newer} is newer: {first}"),
        ),
        Some(spki) if key.public_key(newer).as_deref() == Some(spki) => Finding::warn(
            CHECK,
            format!("key {label} has a newer version {newer}, and the certificate is for that"),
            again,
        ),
        _ => Finding::warn(CHECK, format!("key {label} has a newer version {newer}"), first),
    }
}

const REFERENCE: &str = "reference";
