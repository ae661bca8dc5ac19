//! nginx: the plan of its change, and the switch to a process that has the provider.
//!
//! A reload never reads `OPENSSL_CONF` again. So nginx first learns the variable by a reload, and
//! then replaces its program: the new master has the variable from its first moment
//! (nginx.org/en/docs/control.html).

mod survey;
mod switch;

use core::time::Duration;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_proto::Use;

use super::keys::{self, Keys, Wanted};
use super::plan::{Edit, NewFile, Plan};
use super::running::{self, Running, Workers, beside, real, safe};
use super::tls::{self, Extra};
use super::{OPENSSL_CONF, Protect, Server, grants};
use crate::admin::client::AdminClient;
use crate::cli::failure::Failure;
use crate::cli::{program, service_files};
use crate::ground::exit;
use crate::ground::text::quoted;
use crate::servers::nginx::{self, Configuration};
use crate::servers::processes::{self, Master};
use survey::{Survey, survey};

/// A running nginx.
pub(super) struct Nginx {
    master: Master,
    /// First file of its configuration.
    main: PathBuf,
    workers: Workers,
    version: [u32; 3],
}

impl Nginx {
    /// Finds the nginx that runs on this host.
    ///
    /// # Errors
    /// [`Failure`] if none runs, or if several run and none is named.
    pub(super) fn find(pid: Option<i32>) -> Result<Self, Failure> {
        let master = running::master(Server::Nginx, pid)?;
        let mut version_of = Command::new(&master.program);
        version_of.arg("-V");
        let built = output(version_of)?;
        let main = nginx::first_file(&master, &built);
        // While nginx replaces its program, the workers may be those of the new master.
        let children = processes::children(&master);
        let of_new = children.iter().filter(|child| child.title.starts_with(MASTER));
        let of_new = of_new.filter_map(|child| processes::master(child.pid, "nginx"));
        let of_new: Vec<_> = of_new.flat_map(|new| processes::children(&new)).collect();
        let all = children.iter().chain(&of_new).filter(|child| child.title.starts_with(WORKER));
        // One that ends has read the files of before.
        let worker = all.min_by_key(|child| child.title.contains(ENDING));
        let worker = worker.ok_or_else(|| {
            let reason = format_args!(
                "nginx (process {}) has no worker processes; if it starts just now, run the command again; with master_process off; it cannot be changed while it runs",
                master.pid
            );
            Failure::new(exit::CONFIG, reason)
        })?;
        Ok(Self { workers: Workers::of(worker), version: version(&built), main, master })
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
    fn described(&self) -> String {
        let [a, b, c] = self.version;
        format!("nginx {a}.{b}.{c}, process {}, {}", self.master.pid, self.workers.described())
    }

    /// Reads the configuration as nginx does.
    ///
    /// # Errors
    /// [`Failure`] if nginx refuses its configuration.
    fn configuration(&self, options: &Protect) -> Result<Configuration, Failure> {
        let wrong = |reason: String| {
            Failure::new(exit::CONFIG, format_args!("cannot use the configuration of nginx: {reason}"))
        };
        let mut command = self.command(options);
        command.arg("-T");
        let dump = output(command)?;
        Configuration::read(&self.main, &dump).map_err(wrong)
    }

    /// The program, with the configuration of the running process and the environment that loads
    /// the provider.
    fn command(&self, options: &Protect) -> Command {
        let mut command = nginx::command(&self.master);
        command.env("OPENSSL_CONF", &options.openssl_conf);
        command
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
                match plan.keys.add_combined(path)? {
                    Some(number) => drop(plan.combined.insert(path.clone(), number)),
                    None => plan.notes.push(format!(
                        "{} holds another private key, which nginx does not use: take it out of the file",
                        path.display()
                    )),
                }
                plan.new_files.insert(alone, NewFile::Text(certificates));
            }
            plan.new_files.insert(reference, NewFile::Reference(number, String::new()));
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
        let next = self.workers.service.clone().or_else(|| self.service_of_next_start());
        if let Some(service) = &next {
            plan.add_service_drop_in(options, service)?;
        }
        if self.workers.service.is_none() {
            let line = self.start_line(options);
            plan.notes.push(match next {
                Some(service) => format!(
                    "nginx runs in no service of systemd, and {service} would start it next; if you start it by hand again, it refuses the references without keyward env: {line}"
                ),
                None => format!(
                    "nginx runs in no service of systemd; the line that has started it fails from now on, because it refuses the references without keyward env: {line}"
                ),
            });
        }
        Ok(())
    }

    /// The command that starts this nginx by hand with the provider.
    fn start_line(&self, options: &Protect) -> String {
        let shown = nginx::words(&self.master);
        let words = shown.arguments.iter().skip_while(|word| *word != "process").skip(1);
        let words: Vec<_> = words.map(|word| quoted(Path::new(word))).collect();
        let conf = match options.openssl_conf == Path::new(OPENSSL_CONF) {
            true => String::new(),
            false => format!("--openssl-conf {} ", quoted(&options.openssl_conf)),
        };
        format!("keyward env {conf}{}", words.join(" "))
    }

    /// The usual service, if it would start this nginx: the next start of the host does.
    fn service_of_next_start(&self) -> Option<String> {
        if !service_files::has_systemd() {
            return None;
        }
        let shown = program::run_any("systemctl", &["show", "--property=ExecStart", SERVICE]).ok()?;
        starts(&String::from_utf8_lossy(&shown), &self.master.program, &self.main).then(|| SERVICE.to_owned())
    }

    fn describe_steps(&self, plan: &mut Plan, options: &Protect) {
        plan.steps.push("nginx checks its files".into());
        plan.steps.push(match self.has_provider() {
            true => "nginx reloads".into(),
            false => {
                "nginx reloads, and replaces its program (USR2, WINCH, QUIT): no connection is lost".into()
            }
        });
        plan.steps.push(plan.comparison(plan.probes.all.len()));
        plan.notes.push("in a shell, write keyward env before commands that read this configuration: keyward env nginx -t".into());
        if plan.keys.has_file_of_certbot() {
            plan.notes.push(keys::CERTBOT_RENEWS.into());
        }
        plan.notes.push(options.way_back());
    }
}

impl Running for Nginx {
    fn kind(&self) -> Server {
        Server::Nginx
    }

    fn own_configuration(&self) -> Option<Vec<u8>> {
        Some(self.main.as_os_str().as_encoded_bytes().to_vec()).filter(|_| self.main != Path::new(USUAL))
    }

    fn workers(&self) -> &Workers {
        &self.workers
    }

    fn plan(&self, options: &Protect, admin: &AdminClient) -> Result<Plan, Failure> {
        let conf = self.configuration(options)?;
        if !self.has_provider() {
            self.check_successor(&conf, options)?;
        }
        let extra = Extra { dhe: options.with_dhe, rsa_key_exchange: options.with_rsa_key_exchange };
        let survey = survey(&conf, self.version, extra);
        let survey = survey
            .map_err(|reason| Failure::new(exit::CONFIG, format_args!("cannot protect nginx: {reason}")))?;
        let mut names = survey.pairs.iter().map(|pair| pair.names.as_slice());
        let chosen = self.chosen(options, &mut names)?;
        let of_keys = chosen.iter().filter_map(|at| survey.pairs.get(*at));
        let of_keys = of_keys.map(|pair| (pair.key_file.as_path(), &pair.listeners));
        let keys = self.keys(&survey, &chosen, admin)?;
        let probes = tls::probes(of_keys, &survey.listeners);
        let mut plan = Plan::new(self.described(), keys, probes, survey.notes.clone());
        plan.socket = socket_of(&conf);
        plan.texts = conf.files.iter().map(|file| (real(&file.path), file.text.clone())).collect();
        self.change_sites(&mut plan, &conf, &survey, &chosen)?;
        plan.note_unread(options, self.workers.read, conf.files.iter().map(|file| file.path.clone()));
        grants::add(&mut plan, options, self, admin);
        if !plan.is_empty() {
            self.change_environment(&mut plan, &conf, options)?;
            self.describe_steps(&mut plan, options);
        }
        Ok(plan)
    }

    fn check(&self, options: &Protect) -> Result<(), Failure> {
        let mut command = self.command(options);
        command.arg("-t");
        output(command).map(drop)
    }

    fn files_in_use(&self, options: &Protect) -> Result<BTreeSet<PathBuf>, Failure> {
        let conf = self.configuration(options)?;
        let words = conf.conf.directives.iter().flat_map(|one| one.words.iter().skip(1));
        let files = words.map(|word| conf.base.join(word));
        let files = files.chain(conf.files.iter().map(|file| file.path.clone()));
        Ok(files.flat_map(|path| [real(&path), path]).collect())
    }

    fn has_provider(&self) -> bool {
        processes::has_provider(self.master.pid)
    }

    fn pid(&self) -> i32 {
        self.master.pid
    }

    fn is_alive(&self) -> bool {
        self.master.signal(None).is_ok()
    }

    fn reload(&self, _: &Protect) -> Result<(), Failure> {
        switch::reload(&self.master)
    }

    fn settle(&self) {
        switch::settle(&self.master);
    }

    fn forward(&self, _: &Protect) -> Result<Option<Duration>, Failure> {
        switch::forward(self).map(|()| None)
    }

    fn back(&self) -> Result<(), Failure> {
        switch::back(&self.master)
    }

    fn finish(&self) -> Result<bool, Failure> {
        switch::finish(self)
    }
}

/// The socket that the environment of the workers names.
fn socket_of(conf: &Configuration) -> Option<String> {
    let mut top = conf.conf.directives.iter().filter(|one| one.within.is_empty() && one.is("env"));
    top.find_map(|one| one.words.get(1)?.strip_prefix("KEYWARD_SOCKET=").map(str::to_owned))
}

/// True if a service starts this program with this configuration. `shown` is its ExecStart as
/// systemctl shows it: `{ path=PROGRAM ; argv[]=PROGRAM ARGUMENTS ; ignore_errors=no ; ... }`.
fn starts(shown: &str, program: &Path, configuration: &Path) -> bool {
    let between = |begin: &str, end: &str| Some(shown.split_once(begin)?.1.split_once(end)?.0);
    let (path, arguments) = (between("path=", " ;"), between("argv[]=", " ; ignore_errors="));
    let arguments: Vec<_> = arguments.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let named = processes::values(&arguments, "-c").last().unwrap_or(USUAL);
    path.is_some_and(|path| real(Path::new(path)) == real(program))
        && real(Path::new(named)) == real(configuration)
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
fn output(command: Command) -> Result<String, Failure> {
    let (words, has_succeeded) = running::output(command)?;
    if has_succeeded {
        return Ok(words);
    }
    let lines = words.trim().lines();
    let telling = lines.clone().find(|line| line.contains("[emerg]")).or_else(|| lines.last());
    let telling = telling.unwrap_or("no message");
    // The words of OpenSSL for a certificate of another key.
    let of_other_key = telling.contains("key values mismatch").then(|| telling.split('"').nth(1)).flatten();
    let advice = of_other_key.map(|file| format!("; {}", keys::other_key(Path::new(file))));
    Err(Failure::new(
        exit::CONFIG,
        format_args!("nginx refuses its configuration: {telling}{}", advice.unwrap_or_default()),
    ))
}

/// The configuration of the nginx of Debian.
const USUAL: &str = "/etc/nginx/nginx.conf";
/// The service of the nginx of Debian.
const SERVICE: &str = "nginx.service";
/// Title of a master (nginx: ngx_master_process_cycle).
const MASTER: &str = "nginx: master process";
/// Title of a worker, and of a worker that ends (nginx: ngx_worker_process_init).
const WORKER: &str = "nginx: worker process";
/// Part of the title of a worker that ends (nginx: ngx_worker_process_cycle).
const ENDING: &str = "shutting down";

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
        let shown = "{ path=/usr/sbin/nginx ; argv[]=/usr/sbin/nginx -g daemon on; master_process on; ; ignore_errors=no ; pid=0 }";
        let [program, other] = ["/usr/sbin/nginx", "/opt/nginx"].map(Path::new);
        assert!(starts(shown, program, Path::new(USUAL)));
        assert!(!starts(shown, other, Path::new(USUAL)) && !starts(shown, program, Path::new("/other.conf")));
        let shown = shown.replace(" -g", " -c /other.conf -g");
        assert!(
            starts(&shown, program, Path::new("/other.conf")) && !starts(&shown, program, Path::new(USUAL))
        );
        assert!(!starts("", program, Path::new(USUAL)));
    }
}
