//! nginx: the plan of its change, and the switch to a process that has the provider.
//!
//! A reload never reads `OPENSSL_CONF` again. So nginx first learns the variable by a reload, and
//! then replaces its program: the new master has the variable from its first moment
//! (nginx.org/en/docs/control.html).

mod survey;
mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_proto::{KeyType, Use};
use nix::unistd::{Uid, User};
use toml::Value;

use super::Protect;
use super::journal::digest;
use super::keys::{self, Keys, Wanted};
use super::plan::{Edit, NewFile, Plan, Probe, uses};
use crate::admin::client::AdminClient;
use crate::cli::failure::Failure;
use crate::config;
use crate::ground::exit;
use crate::ground::ownership::{self, Owners};
use crate::ground::text::quoted;
use crate::peers::service;
use crate::servers::nginx::{self, Configuration};
use crate::servers::processes::{self, Master};
use crate::servers::served::{Client, Family};
use survey::{Extra, Survey, real, survey};
pub(super) use switch::{back, finish, forward, reload, settle};

/// A running nginx.
pub(super) struct Nginx {
    pub(super) master: Master,
    /// First file of its configuration.
    main: PathBuf,
    /// User and group of the workers.
    pub(super) user: u32,
    pub(super) group: u32,
    /// Service that the workers run in, if any.
    pub(super) service: Option<String>,
    version: [u32; 3],
}

impl Nginx {
    /// Finds the nginx that runs on this host.
    ///
    /// # Errors
    /// [`Failure`] if none runs, or if several run and none is named.
    pub(super) fn find(pid: Option<i32>) -> Result<Self, Failure> {
        let mut masters = processes::masters("nginx");
        masters.retain(|master| pid.is_none_or(|pid| pid == master.pid));
        let master = match (masters.pop(), masters.is_empty()) {
            (Some(master), true) => master,
            (None, _) => {
                let reason = "no nginx of this user runs on this host: start it, or run this command as root";
                return Err(Failure::new(exit::UNAVAILABLE, reason));
            }
            (Some(last), false) => {
                let all: Vec<_> = masters.iter().chain([&last]).map(|one| one.pid.to_string()).collect();
                let reason = format_args!("several nginx run: choose one with --pid, of {}", all.join(", "));
                return Err(Failure::new(exit::USAGE, reason));
            }
        };
        let built = output(Command::new(&master.program).arg("-V"))?;
        let main = nginx::first_file(&master, &built);
        // While nginx replaces its program, the workers may be those of the new master.
        let children = processes::children(&master);
        let of_new = children.iter().filter(|child| child.title.starts_with(MASTER));
        let of_new = of_new.filter_map(|child| processes::master(child.pid, "nginx"));
        let of_new: Vec<_> = of_new.flat_map(|new| processes::children(&new)).collect();
        let mut all = children.iter().chain(&of_new);
        let worker = all.find(|child| child.title.starts_with(WORKER)).ok_or_else(|| {
            let reason = format_args!(
                "nginx (process {}) has no worker processes; if it starts just now, run the command again; with master_process off; it cannot be changed while it runs",
                master.pid
            );
            Failure::new(exit::UNAVAILABLE, reason)
        })?;
        let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", worker.pid)).unwrap_or_default();
        let service =
            service::of_cgroup(&cgroup).filter(|_| service::obstacle().is_none()).map(str::to_owned);
        Ok(Self { user: worker.uid, group: worker.gid, service, version: version(&built), main, master })
    }

    /// Name of its journal and of its drop-in: several nginx on a host have several configurations.
    pub(super) fn name(&self) -> String {
        match self.main == Path::new(USUAL) {
            true => "nginx".to_owned(),
            false => format!("nginx-{}", &digest(self.main.as_os_str().as_encoded_bytes())[..12]),
        }
    }

    /// Refuses an nginx that cannot start a successor.
    fn check_successor(&self, conf: &Configuration, options: &Protect) -> Result<(), Failure> {
        let mut top = conf.conf.directives.iter().filter(|one| one.within.is_empty());
        let in_foreground = top
            .any(|one| one.is("daemon") && one.words.get(1).is_some_and(|word| word == "off"))
            || self.master.arguments.iter().any(|word| word.contains("daemon off"));
        let shown = nginx::words(&self.master);
        let title = shown.arguments.iter().skip_while(|word| *word != "process").nth(1);
        let is_relative = title.is_some_and(|program| !program.starts_with('/'));
        let why = match (in_foreground, is_relative) {
            (true, _) => "it runs in the foreground (daemon off), as in a container",
            (_, true) => "it was started without the path of its program",
            _ => return Ok(()),
        };
        Err(Failure::new(
            exit::CONFIG,
            format_args!(
                "nginx (process {}) cannot replace its program: {why}; start it again once, with its path and with OPENSSL_CONF={} in its environment, and run this command again",
                self.master.pid,
                options.openssl_conf.display()
            ),
        ))
    }

    /// Text for people.
    pub(super) fn described(&self) -> String {
        let service = self.service.as_ref().map(|service| format!(", service {service}")).unwrap_or_default();
        let [a, b, c] = self.version;
        format!("nginx {a}.{b}.{c}, process {}, workers of {}{service}", self.master.pid, self.user_name())
    }

    fn user_name(&self) -> String {
        let user = User::from_uid(Uid::from_raw(self.user)).ok().flatten();
        user.map_or_else(|| format!("uid {}", self.user), |user| user.name)
    }

    /// Reads the configuration as nginx does.
    ///
    /// # Errors
    /// [`Failure`] if nginx refuses its configuration.
    fn configuration(&self, options: &Protect) -> Result<Configuration, Failure> {
        let wrong = |reason: String| {
            Failure::new(exit::CONFIG, format_args!("cannot use the configuration of nginx: {reason}"))
        };
        let dump = output(self.command(options).arg("-T"))?;
        Configuration::read(&self.main, &dump).map_err(wrong)
    }

    /// Every file that a word of the configuration may name.
    ///
    /// # Errors
    /// See [`Self::configuration`].
    pub(super) fn files_in_use(&self, options: &Protect) -> Result<BTreeSet<PathBuf>, Failure> {
        let conf = self.configuration(options)?;
        let words = conf.conf.directives.iter().flat_map(|one| one.words.iter().skip(1));
        let files = words.map(|word| conf.base.join(word));
        Ok(files.flat_map(|path| [real(&path), path]).collect())
    }

    /// The program, with the configuration of the running process and the environment that loads
    /// the provider.
    fn command(&self, options: &Protect) -> Command {
        let mut command = nginx::command(&self.master);
        command.env("OPENSSL_CONF", &options.openssl_conf);
        command
    }

    /// Has nginx check its files.
    ///
    /// # Errors
    /// [`Failure`] has the words of nginx.
    pub(super) fn check(&self, options: &Protect) -> Result<(), Failure> {
        output(self.command(options).arg("-t")).map(drop)
    }

    /// True if the running master has loaded the provider.
    pub(super) fn has_provider(&self) -> bool {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.master.pid)).unwrap_or_default();
        processes::loaded_provider(&maps).is_some()
    }

    /// Makes the plan.
    ///
    /// # Errors
    /// [`Failure`] for the first thing that cannot be done. Nothing was changed.
    pub(super) fn plan(
        &self,
        options: &Protect,
        admin: &AdminClient,
    ) -> Result<(Plan, Vec<(PathBuf, String)>), Failure> {
        let conf = self.configuration(options)?;
        if !self.has_provider() {
            self.check_successor(&conf, options)?;
        }
        let extra = Extra { dhe: options.with_dhe, rsa_key_exchange: options.with_rsa_key_exchange };
        let survey = survey(&conf, self.version, extra);
        let survey = survey
            .map_err(|reason| Failure::new(exit::CONFIG, format_args!("cannot protect nginx: {reason}")))?;
        let chosen: Vec<usize> =
            (0..survey.pairs.len()).filter(|at| options.wants(&survey.pairs[*at].names)).collect();
        if chosen.is_empty() && !options.site.is_empty() {
            let reason =
                format_args!("no server of nginx with a key has the name {}", options.site.join(", "));
            return Err(Failure::new(exit::NO_INPUT, reason));
        }
        let keys = self.keys(&survey, &chosen, admin)?;
        let mut plan = Plan {
            server: self.described(),
            edits: Vec::new(),
            new_files: BTreeMap::new(),
            probes: probes(&survey),
            combined: BTreeMap::new(),
            steps: Vec::new(),
            notes: survey.notes.clone(),
            keys,
        };
        self.change_sites(&mut plan, &conf, &survey, &chosen)?;
        if !plan.is_empty() {
            self.change_environment(&mut plan, &conf, options)?;
            self.add_grants(&mut plan, options);
            self.describe_steps(&mut plan, options);
        }
        let texts = conf.files.iter().map(|file| (real(&file.path), file.text.clone())).collect();
        Ok((plan, texts))
    }

    fn keys(&self, survey: &Survey<'_>, chosen: &[usize], admin: &AdminClient) -> Result<Keys, Failure> {
        let mut wanted = Vec::new();
        for pair in chosen.iter().filter_map(|at| survey.pairs.get(*at)) {
            let mut passphrases = Vec::new();
            for file in &pair.passphrase_files {
                passphrases.extend(keys::passphrases(file)?);
            }
            let uses =
                if pair.uses.is_empty() { BTreeSet::from([Use::TlsServer]) } else { pair.uses.clone() };
            wanted.push(Wanted {
                file: pair.key_file.clone(),
                certificate: pair.certificate.as_ref().map(|(_, path)| path.clone()),
                uses,
                names: pair.names.clone(),
                passphrases,
            });
        }
        let mut keys = Keys::read(wanted)?;
        // Only an RSA key decrypts.
        for key in keys.planned.iter_mut().filter(|key| !is_rsa(key.key_type)) {
            key.uses.remove(&Use::RsaKeyExchange);
        }
        keys.compare(admin)?;
        Ok(keys)
    }

    /// References beside the key files, and the directives that name them.
    fn change_sites(
        &self,
        plan: &mut Plan,
        conf: &Configuration,
        survey: &Survey<'_>,
        chosen: &[usize],
    ) -> Result<(), Failure> {
        for pair in chosen.iter().filter_map(|at| survey.pairs.get(*at)) {
            let Some(number) = plan.keys.of_file.get(&pair.key_file).copied() else { continue };
            let reference = beside(&pair.key_file, "keyward")?;
            let mut change = |directive: &nginx::Directive, path: &Path| {
                let file = conf.files.get(directive.file);
                let place = directive.places.get(1).cloned();
                if let (Some(file), Some(place)) = (file, place) {
                    let line = conf.line(directive);
                    plan.edits.push(Edit {
                        path: real(&file.path),
                        line,
                        place,
                        text: word(path),
                        is_environment: false,
                    });
                }
            };
            for key in &pair.keys {
                change(key, &reference);
            }
            // nginx reads the whole file of the certificates, with a private key in it.
            if let Some((directive, path)) = &pair.certificate
                && let Some(certificates) = keys::certificates_alone(path)?
            {
                let alone = beside(path, "certificates")?;
                change(directive, &alone);
                plan.combined.insert(path.clone(), number);
                plan.new_files.insert(alone, NewFile::Text(certificates));
            }
            plan.new_files.insert(reference, NewFile::Reference(number));
        }
        for path in plan.edits.iter().map(|edit| &edit.path) {
            safe(path)?;
        }
        Ok(())
    }

    /// The variable by which nginx loads the provider: in its configuration for the next master,
    /// and in its service for the next start.
    fn change_environment(
        &self,
        plan: &mut Plan,
        conf: &Configuration,
        options: &Protect,
    ) -> Result<(), Failure> {
        let value = options.openssl_conf.display();
        // systemd and nginx each have quotes of their own.
        if value.to_string().contains(|c: char| c.is_whitespace() || "%\"'\\$;{}".contains(c)) {
            let reason = format_args!(
                "cannot name {value} to nginx: choose a path without blanks and special characters"
            );
            return Err(Failure::new(exit::USAGE, reason));
        }
        let wanted = format!("OPENSSL_CONF={value}");
        let top = || conf.conf.directives.iter().filter(|one| one.within.is_empty());
        let named = |one: &&nginx::Directive| {
            one.is("env")
                && one.words.get(1).is_some_and(|word| word.split('=').next() == Some("OPENSSL_CONF"))
        };
        let path_of = |one: &nginx::Directive| conf.files.get(one.file).map(|file| real(&file.path));
        match top().find(named) {
            Some(one) if one.words.get(1) == Some(&wanted) => {}
            Some(one) if one.words.get(1).is_some_and(|word| word != "OPENSSL_CONF") => {
                let reason = format_args!(
                    "nginx has the line env {}; in its place, write env {wanted}; (an openssl.cnf can load other providers, too)",
                    one.words.get(1).map_or("", String::as_str)
                );
                return Err(Failure::new(exit::CONFIG, reason));
            }
            Some(one) => {
                if let (Some(path), Some(place)) = (path_of(one), one.places.get(1)) {
                    let text = word(Path::new(&wanted));
                    let (line, place) = (conf.line(one), place.clone());
                    plan.edits.push(Edit { path, line, place, text, is_environment: true });
                }
            }
            None => {
                let main =
                    conf.files.first().ok_or_else(|| Failure::new(exit::SOFTWARE, "nginx has no files"))?;
                // Before the line of the first directive or block of the file.
                let first = first_word(&main.text);
                let start = main.text.get(..first).and_then(|text| text.rfind('\n')).map_or(0, |at| at + 1);
                let line = 1 + main.text.get(..start).unwrap_or_default().matches('\n').count();
                let text = format!("env {};\n", word(Path::new(&wanted)));
                let path = real(&main.path);
                plan.edits.push(Edit { path, line, place: start..start, text, is_environment: true });
            }
        }
        if let Some(service) = &self.service {
            let path = options.systemd_dir.join(format!("{service}.d/keyward.conf"));
            let text = format!(
                "# nginx loads the provider from its start on. Written by keyward protect nginx.\n[Service]\nEnvironment={wanted}\n"
            );
            plan.new_files.insert(path, NewFile::Text(text));
        } else {
            plan.notes.push(format!(
                "nginx runs in no service of systemd: let its next start have {wanted} in its environment, or it refuses the references"
            ));
        }
        Ok(())
    }

    /// The drop-in with the grants of this server.
    fn add_grants(&self, plan: &mut Plan, options: &Protect) {
        let mut by_uses: BTreeMap<BTreeSet<Use>, BTreeSet<String>> = BTreeMap::new();
        for key in &plan.keys.planned {
            by_uses.entry(key.uses.clone()).or_default().insert(key.label.to_string());
        }
        let path = config::drop_in_directory(&options.config).join(format!("{}.toml", self.name()));
        // A second run adds sites, and keeps the grants of the first.
        let before = fs::read_to_string(&path).unwrap_or_else(|_| {
            "# Grants of nginx. Written by keyward protect nginx; keyward protect nginx --undo removes the file.\n".into()
        });
        let mut text = before;
        for (uses, labels) in by_uses {
            let list = |all: Vec<String>| Value::from(all).to_string();
            let who = User::from_uid(Uid::from_raw(self.user)).ok().flatten();
            let who = who.map_or_else(
                || format!("uid = {}", self.user),
                |user| format!("user = {}", Value::from(user.name)),
            );
            let unit = self.service.as_ref().map(|unit| format!("unit = {}\n", Value::from(unit.as_str())));
            text += &format!(
                "\n[[grant]]\n{who}\n{}keys = {}\nuses = {}\n",
                unit.unwrap_or_default(),
                list(labels.into_iter().collect()),
                list(uses.iter().map(|one| one.name().to_owned()).collect()),
            );
        }
        plan.new_files.insert(path, NewFile::Text(text));
    }

    fn describe_steps(&self, plan: &mut Plan, options: &Protect) {
        let all: BTreeSet<Use> = plan.keys.planned.iter().flat_map(|key| key.uses.iter().copied()).collect();
        plan.steps.push(format!("the daemon reloads, and grants {} to {}", uses(&all), self.user_name()));
        plan.steps.push("nginx checks its files".into());
        plan.steps.push(match self.has_provider() {
            true => "nginx reloads".into(),
            false => {
                "nginx reloads, and replaces its program (USR2, WINCH, QUIT): no connection is lost".into()
            }
        });
        plan.steps.push(format!("{} handshakes show the same certificates as before", plan.probes.len()));
        plan.notes.push("in a shell, write keyward env before commands that read this configuration: keyward env nginx -t".into());
        if plan.keys.of_file.keys().any(|file| file.starts_with("/etc/letsencrypt")) {
            plan.notes.push(
                "certbot writes new key files at each renewal: docs/certbot.md has the hook that keeps the keys in the daemon".into(),
            );
        }
        plan.notes.push(format!(
            "the key files stay where they are, until keyward protect nginx --remove-key-files; back: keyward protect nginx --undo{}",
            match options.client.runtime_dir == Path::new(crate::cli::client::RUNTIME_DIR) {
                true => String::new(),
                false => format!(" --runtime-dir {}", quoted(&options.client.runtime_dir)),
            }
        ));
    }
}

/// Handshakes for each listener and each kind of keys.
fn probes(survey: &Survey<'_>) -> BTreeSet<Probe> {
    let families = [Family::Curves, Family::Rsa];
    let clients = families.into_iter().flat_map(|family| [true, false].map(|tls13| Client { family, tls13 }));
    let clients: Vec<_> = clients.collect();
    let all = survey.listeners.iter().take(MOST_LISTENERS);
    let of = |(at, name): &(SocketAddr, String)| {
        let (at, name) = (*at, name.clone());
        clients.iter().map(move |client| Probe { at, name: name.clone(), client: *client })
    };
    all.flat_map(of).collect()
}

fn is_rsa(key_type: KeyType) -> bool {
    key_type.to_string().starts_with("rsa")
}

/// A new file beside another.
///
/// # Errors
/// [`Failure`] if others can change the directory.
fn beside(path: &Path, ending: &str) -> Result<PathBuf, Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    ownership::check_directory(directory, Owners::Own).map_err(|error| {
        Failure::new(
            exit::NO_PERMISSION,
            format_args!("cannot write a reference beside {}: {error}", path.display()),
        )
    })?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}.pem"));
    Ok(name.into())
}

/// Checks that only this user can change a file that the command replaces.
fn safe(path: &Path) -> Result<(), Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let checked =
        ownership::check_directory(directory, Owners::Own).and_then(|()| ownership::open(path).map(drop));
    checked.map_err(|error| {
        Failure::new(exit::NO_PERMISSION, format_args!("cannot change {}: {error}", path.display()))
    })
}

/// A word of the configuration of nginx, in quotes if it needs them.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.bytes().all(|c| c.is_ascii_alphanumeric() || b"/._-=+,:@%".contains(&c));
    if is_plain { text } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// The place of the first word of a configuration that is no comment.
fn first_word(text: &str) -> usize {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        if !trimmed.is_empty() && !trimmed.starts_with('#') {
            return at;
        }
        at += line.len();
    }
    text.len()
}

/// Version in the output of `nginx -V`.
fn version(built: &str) -> [u32; 3] {
    let text = built.split_once("nginx/").map_or("", |(_, rest)| rest);
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let mut numbers =
        text.get(..end).unwrap_or_default().split('.').map(|number| number.parse().unwrap_or(0));
    core::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// Runs nginx. Returns standard output and standard error.
///
/// # Errors
/// [`Failure`] has the line of the error.
fn output(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let ended = command.output();
    let ended = ended.map_err(|error| Failure::new(exit::OS, format_args!("cannot run {name}: {error}")))?;
    let words = [ended.stdout, ended.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    if ended.status.success() {
        return Ok(words.into_owned());
    }
    let lines = words.trim().lines();
    let telling = lines.clone().find(|line| line.contains("[emerg]")).or_else(|| lines.last());
    Err(Failure::new(
        exit::CONFIG,
        format_args!("nginx refuses its configuration: {}", telling.unwrap_or("no message")),
    ))
}

/// The configuration of the nginx of Debian.
const USUAL: &str = "/etc/nginx/nginx.conf";
/// Title of a master (nginx: ngx_master_process_cycle).
const MASTER: &str = "nginx: master process";
/// Title of a worker, and of a worker that ends (nginx: ngx_worker_process_init).
const WORKER: &str = "nginx: worker process";
/// Maximum number of listeners that are compared.
const MOST_LISTENERS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_versions_and_places() {
        assert_eq!(word(Path::new("/etc/ssl/a.key.keyward.pem")), "/etc/ssl/a.key.keyward.pem");
        assert_eq!(word(Path::new("/etc/my ssl/\"a;.pem")), "\"/etc/my ssl/\\\"a;.pem\"");
        assert_eq!(version("nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0"), [1, 22, 1]);
        assert_eq!(version("nginx version: openresty/1.21"), [0, 0, 0]);
        assert_eq!(first_word("# a\n\n  user x;\n"), 5);
        assert_eq!(first_word("# a\n"), 4);
    }
}
