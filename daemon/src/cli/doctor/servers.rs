//! The servers that run: whether each one has what it needs to use its keys.

use core::time::Duration;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use keyward_client::Address;
use nix::unistd::geteuid;

use super::conf::Conf;
use super::environment::{self, OPENSSL_CONF, SOCKET};
use super::processes::{self, Found, Process, Server};
use super::reach::{self, Person, Told};
use super::references::{References, certificate, references, writable};
use super::told::{Configured, Imported};
use super::{Finding, Verdict, grants, known, uses};
use crate::admin::client::AdminClient;
use crate::ground::ownership;
use crate::ground::text::printable;
use crate::keys::certificates::Certificate;
use crate::peers::service;
use crate::serve::sockets::PEERS;

/// Looks for servers, and at each; in the end comes what was not looked at.
pub(super) fn check(runtime_dir: &Path) -> Vec<Finding> {
    let found = processes::find();
    let mut findings = Vec::new();
    let mut left = Left::default();
    let end = Instant::now() + ALL;
    for server in found.servers.iter().take(MOST) {
        let (send, receive) = mpsc::channel();
        let (server, runtime_dir) = (server.clone(), runtime_dir.to_owned());
        let title = title(&server);
        // A file of a server may keep whoever opens it waiting.
        thread::spawn(move || send.send(Look::at(&server, &runtime_dir)));
        match receive.recv_timeout(PATIENCE.min(end.saturating_duration_since(Instant::now()))) {
            Ok(Some(look)) => {
                findings.extend(look.findings.into_iter().map(|finding| finding.of(&title)));
                left.others.extend(look.left.into_iter().map(|one| format!("{title}: {one}")));
            }
            Ok(None) => left.without += 1,
            Err(_) => left.others.push(format!("{title}: its files did not let themselves be read in time")),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::note(
            CHECK,
            "no program that runs has loaded the provider, or names a reference in a configuration that is read here",
        ));
    }
    findings.extend(left.findings(&found));
    findings
}

/// What was not looked at.
#[derive(Default)]
struct Left {
    /// Servers that have nothing to do with keys of the daemon.
    without: usize,
    others: Vec<String>,
}

impl Left {
    fn findings(self, found: &Found) -> Vec<Finding> {
        let mut left: Vec<String> = self.others;
        if !geteuid().is_root() {
            let closed = format!("processes of other users ({}): run keyward doctor as root", found.closed);
            left.push(closed);
        } else if found.closed > 0 {
            left.push(format!("processes that the kernel does not show ({})", found.closed));
        }
        if !found.stuck.is_empty() {
            left.push(format!("processes that did not let themselves be read in time: {:?}", found.stuck));
        }
        let more = found.more + found.servers.len().saturating_sub(MOST);
        if more > 0 {
            left.push(format!("{more} more processes"));
        }
        if self.without > 0 {
            left.push(format!("servers without the provider and without a reference ({})", self.without));
        }
        left.push(
            "servers that do not run now, in containers, on other machines, and those on rustls; keys that other \
             programs than nginx, HAProxy, Apache, Postfix and Dovecot are configured with; certificates that a program makes or fetches \
             itself"
                .into(),
        );
        left.into_iter().map(|one| Finding::note("not looked at", one)).collect()
    }
}

/// What a look at one server gave.
struct Look<'a> {
    server: &'a Server,
    findings: Vec<Finding>,
    left: Vec<String>,
}

/// The same, when it is over.
struct Looked {
    findings: Vec<Finding>,
    left: Vec<String>,
}

impl<'a> Look<'a> {
    /// Looks at a server; `None` if it has nothing to do with keys of the daemon.
    fn at(server: &'a Server, runtime_dir: &Path) -> Option<Looked> {
        let main = &server.main;
        let mut look = Self { server, findings: Vec::new(), left: Vec::new() };
        let loaded = server.workers.iter().chain([main]).find(|process| process.provider.is_some());
        let root = environment::chroot(main.pid);
        let configured = match (main.is_trusted, &root) {
            (true, None) => Configured::of(main),
            _ => None,
        };
        let references =
            configured.as_ref().map(|configured| references(&configured.pairs)).unwrap_or_default();
        let is_meant = main.is_meant() && configured.as_ref().is_none_or(|one| one.imported.is_none());
        if loaded.is_none() && references.is_empty() && !is_meant {
            return None;
        }
        if let Some(Err(_)) = root {
            look.left.push(
                "it sees other files than we do, as in a container: run keyward doctor in there".into(),
            );
            return Some(look.end());
        }
        if let Some(configured) = &configured
            && let Some(imported) = &configured.imported
        {
            look.mail(runtime_dir, configured, imported, &references);
            return Some(look.end());
        }
        look.provider(loaded, &references);
        let conf = look.conf(loaded.is_some());
        if !look.sockets(runtime_dir, conf.as_deref()) {
            return Some(look.end());
        }
        let Ok(admin) = AdminClient::new(runtime_dir) else { return Some(look.end()) };
        if !main.is_trusted {
            look.left.push(format!(
                "its keys: {} decides what it is started with; name one: --pid {} --reference FILE",
                user_name(main.pid),
                main.pid
            ));
        }
        let worker = |worker: &Process| Some((Some(worker.pid), Person::of_process(worker.pid)?));
        let people: Vec<_> = server.workers.iter().filter_map(worker).collect();
        look.keys(&admin, runtime_dir, configured.as_ref(), &references, &people);
        if let Some(configured) = configured.filter(|one| !one.dump.is_empty() && !references.is_empty()) {
            let conf = conf.as_deref();
            look.findings.push(environment::passes_on(&configured.file, &configured.dump, conf));
            look.findings.extend(uses::of_nginx_text(&configured.file, &configured.dump));
        }
        Some(look.end())
    }

    fn end(self) -> Looked {
        Looked { findings: self.findings, left: self.left }
    }

    /// Whether it has loaded the provider, and one that is still there.
    fn provider(&mut self, loaded: Option<&Process>, references: &References) {
        let main = &self.server.main;
        let restart = format!("{}, and restart it", how_to_set(main));
        self.findings.push(match loaded.and_then(|process| Some((process, process.provider.as_ref()?))) {
            Some((process, provider)) if process.is_replaced => Finding::warn(
                CHECK,
                format!("it has loaded {provider}, which was replaced or removed since"),
                match references.behind.first() {
                    Some(path) => format!(
                        "restart it: until then it may not find the reference in {}, which stands behind the certificate",
                        path.display()
                    ),
                    None => "restart it when that suits, for it runs the old one until then".into(),
                },
            ),
            Some((_, provider)) => Finding::ok(CHECK, format!("it has loaded {provider}")),
            None if references.is_empty() => Finding::warn(
                CHECK,
                "its environment names an openssl.cnf or a socket of keyward, and it has not loaded the provider",
                "if it uses keys of the daemon, restart it: OpenSSL reads its configuration once; otherwise nothing is amiss",
            ),
            None => Finding::fail(
                CHECK,
                format!(
                    "its configuration names references (the first one is {}), and it has not loaded the provider: it \
                     cannot load them",
                    references.first()
                ),
                restart,
            ),
        });
    }

    /// A mail server, which gives its processes the environment that its configuration says, and
    /// starts them when they are needed.
    fn mail(
        &mut self,
        runtime_dir: &Path,
        configured: &Configured,
        imported: &Imported,
        references: &References,
    ) {
        let main = &self.server.main;
        let own = runtime_dir.join(PEERS);
        let file = configured.file.display();
        let Some(conf) = imported.value(OPENSSL_CONF, main.variable(OPENSSL_CONF)).map(PathBuf::from) else {
            let more = match imported.user {
                "postfix" => ", and goes on in clear text",
                _ => "",
            };
            self.findings.push(Finding::fail(
                CHECK,
                format!(
                    "{file} names references (the first one is {}), and import_environment has no {OPENSSL_CONF}: it cannot \
                     load them{more}",
                    references.first()
                ),
                format!("{}, and restart it", how_to_set(main)),
            ));
            return;
        };
        let person = match Person::of_name(imported.user) {
            Ok(person) => person,
            Err(finding) => {
                self.findings.push(finding);
                return;
            }
        };
        match ownership::open(&conf) {
            Err(error) => self.left.push(format!("{OPENSSL_CONF}={} of {file}: {error}", conf.display())),
            Ok(_) => self.findings.extend(super::conf::findings(&conf, Some(&person))),
        }
        let of_conf = Conf::open(&conf).ok().and_then(|conf| conf.socket());
        let variable = imported.value(SOCKET, main.variable(SOCKET)).map(|socket| Told {
            socket: socket.to_owned(),
            setting: "KEYWARD_SOCKET of import_environment",
            source: format!("import_environment of {file}"),
        });
        let told = variable.or(of_conf).unwrap_or_else(|| Told {
            socket: Address::DEFAULT.to_string(),
            setting: "KEYWARD_SOCKET of import_environment",
            source: "by default".into(),
        });
        if !told.socket.starts_with('@') {
            self.left.push(format!("whether {} is there in the chroot of its processes", told.socket));
        }
        self.findings.extend(reach::of_server(&own, &told, None, &person));
        if let Ok(admin) = AdminClient::new(runtime_dir) {
            self.keys(&admin, runtime_dir, Some(configured), references, &[(None, person)]);
        }
    }

    /// The openssl.cnf that it was told to read, if that is known and can be looked into; what is
    /// wrong with it.
    fn conf(&mut self, is_loaded: bool) -> Option<PathBuf> {
        let main = &self.server.main;
        let Some(environment) = &main.environment else {
            self.left
                .push("its environment, over which it has written, or which the kernel does not show".into());
            return None;
        };
        let Some(path) = environment.get(OPENSSL_CONF).map(PathBuf::from) else {
            if !is_loaded {
                let detail = format!("it has no {OPENSSL_CONF} in its environment");
                self.findings.push(Finding::fail(CHECK, detail, how_to_set(main)));
            }
            return None;
        };
        // To look at it means to have OpenSSL load what it names.
        if let Err(error) = ownership::open(&path) {
            match error.into_io() {
                Ok(error) => self.findings.push(Finding::fail(
                    CHECK,
                    format!("it has {OPENSSL_CONF}={}, which cannot be read: {error}", path.display()),
                    format!("{}, and restart it", how_to_set(main)),
                )),
                // The error has advice that is good only where the file is ours.
                Err(_) => self.left.push(format!(
                    "{OPENSSL_CONF}={}: others than root can change it, so OpenSSL was not asked about it",
                    path.display()
                )),
            }
            return None;
        }
        if !self.server.main.is_trusted {
            return Some(path);
        }
        let person = Person::of_process(main.pid);
        self.findings.extend(super::conf::findings(&path, person.as_ref()));
        Some(path)
    }

    /// Whether its workers reach the daemon, each with its own user, root and network; false if it
    /// is with another daemon.
    fn sockets(&mut self, runtime_dir: &Path, conf: Option<&Path>) -> bool {
        let own = runtime_dir.join(PEERS);
        let main = &self.server.main;
        let of_conf = conf.and_then(|conf| Conf::open(conf).ok()?.socket());
        for worker in &self.server.workers {
            let variable = worker.variable(SOCKET).or_else(|| main.variable(SOCKET));
            let told = match variable {
                Some(socket) => Some(Told {
                    socket: socket.to_owned(),
                    setting: SOCKET,
                    source: format!("{SOCKET} of process {}", worker.pid),
                }),
                None => of_conf.clone(),
            };
            let is_known = told.is_some() || main.environment.is_some();
            let told = told.unwrap_or_else(|| Told {
                socket: if is_known { Address::DEFAULT.to_string() } else { own.display().to_string() },
                setting: "socket in openssl.cnf",
                source: match is_known {
                    true => "by default".into(),
                    false => "if that is where it looks, which nothing here tells".into(),
                },
            });
            let root = match environment::chroot(worker.pid) {
                None => None,
                Some(Ok(root)) => Some(root),
                Some(Err(finding)) => {
                    self.left.push(finding.detail);
                    continue;
                }
            };
            let address = match &root {
                Some(root) if !told.socket.starts_with('@') => {
                    root.join(told.socket.trim_start_matches('/')).display().to_string()
                }
                _ => told.socket.clone(),
            };
            let is_ours = reach::is_of_daemon(&own, &address);
            if !is_ours && (!main.is_trusted || answers_for_another(&own, &address)) {
                self.left.push(format!(
                    "its keys: {} ({}) is no socket of the daemon in {}; for another one name its directory: --runtime-dir DIR",
                    told.socket,
                    told.source,
                    runtime_dir.display()
                ));
                return false;
            }
            if told.socket.starts_with('@') && is_elsewhere(worker.pid) {
                self.findings.push(Finding::fail(
                    "socket",
                    format!(
                        "{} ({}) is an abstract address, and the process is in a network namespace of its own, where there is none",
                        told.socket, told.source
                    ),
                    "take PrivateNetwork=yes out of its service, or give it a socket in a directory: see docs/chroot.md",
                ));
                continue;
            }
            let Some(person) = Person::of_process(worker.pid) else { continue };
            let reached = reach::of_server(&own, &told, root.as_deref(), &person).into_iter();
            // Where nothing tells, it may look elsewhere.
            self.findings.extend(reached.map(|one| if is_known { one } else { one.at_most(Verdict::Note) }));
        }
        true
    }

    /// Its references, and whether its workers may use their keys.
    fn keys(
        &mut self,
        admin: &AdminClient,
        runtime_dir: &Path,
        configured: Option<&Configured>,
        references: &References,
        people: &[(Option<u32>, Person)],
    ) {
        for unread in configured.iter().flat_map(|configured| &configured.unread) {
            self.left.push(format!("of its configuration: {unread}"));
        }
        if configured.is_none() {
            // Which keys it needs, if any, is not known.
            let most = if self.server.main.is_meant() { Verdict::Warn } else { Verdict::Note };
            let any = people.iter().map(|(pid, person)| grants::any(admin, person, *pid));
            self.findings.extend(any.map(|finding| finding.at_most(most)));
        } else if references.is_empty() {
            self.findings.push(Finding::note("reference", "its configuration names none"));
        }
        let mut sound = 0;
        let mut wrong = Vec::new();
        for one in &references.found {
            let before = wrong.len();
            let shown = one.path.display().to_string();
            let reference = &one.reference;
            let key = admin.show(reference.label().as_str());
            let spki = one.certificate.as_ref().map(Certificate::spki);
            let grant = |(pid, person): &(Option<u32>, Person)| {
                grants::check(admin, runtime_dir, person, *pid, reference)
            };
            let all = [known(&key, reference, spki)]
                .into_iter()
                .chain(uses::of_key(admin, reference))
                .chain(certificate(one))
                .chain(writable(&one.path))
                .chain(people.iter().filter_map(grant));
            wrong.extend(
                all.filter(|finding| finding.verdict != Verdict::Ok).map(|finding| finding.of(&shown)),
            );
            sound += usize::from(wrong.len() == before);
        }
        for label in &references.labels {
            let before = wrong.len();
            let key = admin.show(label);
            match key.as_ref().map(|key| key.reference(key.current)) {
                Ok(Some(reference)) => {
                    let grants = people.iter().filter_map(|(pid, person)| {
                        grants::check(admin, runtime_dir, person, *pid, &reference)
                    });
                    let all = [known(&key, &reference, None)].into_iter().chain(grants);
                    wrong.extend(all.filter(|finding| finding.verdict != Verdict::Ok));
                }
                Ok(None) => wrong.push(Finding::fail(
                    "reference",
                    format!("key {label} has no version"),
                    "name another key",
                )),
                Err(error) => {
                    let mend = "generate or import the key, or name another one";
                    wrong.push(Finding::fail("reference", error.to_string(), mend));
                }
            }
            sound += usize::from(wrong.len() == before);
        }
        for (path, why) in &references.damaged {
            let mend = "make it again: keyward key reference LABEL > FILE";
            wrong.push(Finding::fail("reference", format!("{}: {why}", path.display()), mend));
        }
        let more = wrong.len().saturating_sub(MOST_WRONG);
        wrong.truncate(MOST_WRONG);
        self.findings.extend(wrong);
        if more > 0 {
            let detail = format!("{more} more findings of its references");
            self.findings.push(Finding::warn("reference", detail, "mend these first, and look again"));
        }
        if sound > 0 {
            let users: Vec<_> = people.iter().map(|(_, person)| person.name()).collect();
            self.findings.push(Finding::ok(
                "reference",
                format!(
                    "references in order, with grants for {} and the certificates that are known: {sound}",
                    users.join(", ")
                ),
            ));
        }
        if references.key_files > 0 {
            let detail = format!(
                "private keys in files of its own, which the daemon does not have: {}",
                references.key_files
            );
            self.findings.push(Finding::note("key file", detail));
        }
        self.left.extend(references.unread.iter().cloned());
    }
}

/// Whether somebody else than the daemon listens on an address.
fn answers_for_another(own: &Path, address: &str) -> bool {
    reach::is_listened_on(address) && !reach::is_of_daemon(own, address)
}

/// Whether a process is in another network namespace than we are.
fn is_elsewhere(pid: u32) -> bool {
    let namespace =
        |process: &str| fs::metadata(format!("/proc/{process}/ns/net")).map(|found| found.ino()).ok();
    let theirs = namespace(&pid.to_string());
    theirs.is_some() && theirs != namespace("self")
}

/// How a program is given a variable of the environment.
fn how_to_set(process: &Process) -> String {
    let conf = super::openssl::CONF;
    let service = service_of(process.pid);
    match (&*process.name, service) {
        ("master" | "smtpd" | "smtp" | "tlsmgr" | "tlsproxy", _) => format!(
            "Postfix clears the environment: postconf -e \"import_environment = $(postconf -h import_environment) \
             {OPENSSL_CONF}={conf}\""
        ),
        (name, _) if name.starts_with("dovecot") || name.ends_with("-login") => format!(
            "Dovecot clears the environment: import_environment = $import_environment {OPENSSL_CONF}={conf} in its configuration"
        ),
        (_, Some(service)) => {
            format!("set Environment={OPENSSL_CONF}={conf} for its service: systemctl edit {service}")
        }
        ("apache2", None) => format!("put export {OPENSSL_CONF}={conf} into /etc/apache2/envvars"),
        _ => format!("set {OPENSSL_CONF}={conf} in the environment that it is started with"),
    }
}

fn service_of(pid: u32) -> Option<String> {
    let text = environment::read(pid, "cgroup").ok()?;
    service::of_cgroup(&String::from_utf8_lossy(&text)).map(printable)
}

fn user_name(pid: u32) -> String {
    Person::of_process(pid).map_or_else(|| "its user".into(), |person| person.name().to_owned())
}

/// What a server is called in findings.
fn title(server: &Server) -> String {
    let main = &server.main;
    let users: Vec<_> = server.workers.iter().map(|worker| user_name(worker.pid)).collect();
    let service = service_of(main.pid).map(|service| format!(", {service}")).unwrap_or_default();
    // That of Postfix is not the only one with this name.
    let is_postfix = main.name == "master" && main.words.first().is_some_and(|word| word.contains("postfix"));
    let name = if is_postfix { "Postfix" } else { &main.name };
    format!("{name} (process {} as {}{service})", main.pid, users.join(" and "))
}

const CHECK: &str = "server";
/// Most servers that are looked at.
const MOST: usize = 100;
/// Most findings of the references of one server.
const MOST_WRONG: usize = 20;
/// How long a look at one server may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the look at all of them may take.
const ALL: Duration = Duration::from_secs(60);
