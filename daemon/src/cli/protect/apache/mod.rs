//! Apache: the plan of its change, and the restart that carries it out.
//!
//! A graceful restart of Apache reads its files again in the process that runs, so that never loads
//! a provider. One restart does, with `OPENSSL_CONF` in the environment.

mod restart;
mod survey;

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::keys::{self, Keys, Wanted};
use super::plan::{Edit, NewFile, Plan};
use super::running::{self, LIMIT, Running, Workers, beside, real, safe, wait};
use super::tls::{self, Extra};
use super::{Protect, Server, grants};
use crate::admin::client::AdminClient;
use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::servers::apache::{self, Configuration};
use crate::servers::processes::{self, Master};
use survey::{Survey, survey};

/// A running Apache.
pub(super) struct Apache {
    master: Master,
    workers: Workers,
    /// Environment that it was started with.
    environment: Vec<(String, String)>,
    /// Umask and limits that it was started with, in the words of a shell.
    limits: [String; 5],
    /// The processes before the last reload.
    before: RefCell<BTreeSet<i32>>,
}

impl Apache {
    /// Finds the Apache that runs on this host.
    ///
    /// # Errors
    /// [`Failure`] if none runs ([`exit::UNAVAILABLE`]), or if several run and none is named.
    pub(super) fn find(pid: Option<i32>) -> Result<Self, Failure> {
        let master = running::master(Server::Apache, pid)?;
        let has_children = || !processes::children(&master).is_empty();
        wait(|| has_children() || master.signal(None).is_err());
        let children = processes::children(&master);
        // Apache starts and ends children as it needs them: the oldest one tells when it has read
        // its files.
        let of_user = children.iter().filter(|child| child.uid != 0);
        let oldest = of_user.min_by_key(|child| processes::started(child.pid));
        let Some(worker) = oldest.or(children.first()) else {
            let reason = format_args!(
                "Apache (process {}) has no child processes; in debug mode (-X) it cannot be changed",
                master.pid
            );
            return Err(Failure::new(exit::CONFIG, reason));
        };
        let environment = processes::environment(master.pid);
        let limits = restart::limits(master.pid);
        Ok(Self { workers: Workers::of(worker), environment, limits, before: RefCell::default(), master })
    }

    /// Reads the configuration as Apache does.
    ///
    /// # Errors
    /// [`Failure`] if Apache refuses its configuration, or cannot show it.
    fn configuration(&self) -> Result<Configuration, Failure> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.master.pid)).unwrap_or_default();
        let module = maps.lines().find_map(|line| line.get(line.find('/')?..)?.strip_suffix("/mod_ssl.so"));
        let module = module.map(|directory| Path::new(directory).join("mod_info.so"));
        let Some(module) = module else {
            let reason = "Apache has not loaded mod_ssl, so it has no keys";
            return Err(Failure::new(exit::NO_INPUT, reason));
        };
        if !module.is_file() {
            let reason =
                format_args!("cannot read the configuration of Apache: there is no {}", module.display());
            return Err(Failure::new(exit::NO_INPUT, reason));
        }
        let mut command = apache::command(&self.master, &self.environment);
        command.args(["-t", "-D", "DUMP_RUN_CFG"]);
        let run = output(command)?;
        let root = run.lines().find_map(|line| line.strip_prefix("ServerRoot: "));
        let root = root.map(|root| root.trim_matches('"')).unwrap_or("/etc/apache2");
        let mut command = apache::command(&self.master, &self.environment);
        // The module is loaded for this process alone.
        command.arg("-C").arg(format!("LoadModule info_module \"{}\"", module.display()));
        command.args(["-t", "-D", "DUMP_CONFIG"]);
        Ok(Configuration::parse(&output(command)?, Path::new(root)))
    }

    fn keys(&self, survey: &Survey<'_>, chosen: &[usize], admin: &AdminClient) -> Result<Keys, Failure> {
        let wanted = chosen.iter().filter_map(|at| survey.pairs.get(*at)).map(|pair| Wanted {
            file: pair.key_file.clone(),
            certificate: Some(pair.certificate.clone()),
            uses: pair.uses.clone(),
            names: pair.names.clone(),
            passphrases: Vec::new(),
        });
        let mut keys = Keys::read(wanted.collect())?;
        keys.compare(admin)?;
        Ok(keys)
    }

    /// Refuses a restart at which Apache would ask a person for the passphrase of a key that stays
    /// in its file.
    fn check_passphrases(
        &self,
        conf: &Configuration,
        survey: &Survey<'_>,
        chosen: &[usize],
    ) -> Result<(), Failure> {
        let dialog = conf.own(None, "sslpassphrasedialog").last().and_then(|one| one.arguments.first());
        let dialog = dialog.map_or("builtin", String::as_str);
        // Another program knows the passphrase itself.
        if !dialog.eq_ignore_ascii_case("builtin") && !dialog.ends_with(ASKS_A_PERSON) {
            return Ok(());
        }
        let staying = survey.pairs.iter().enumerate().filter(|(at, _)| !chosen.contains(at));
        let mut staying = staying.map(|(_, pair)| pair.key_file.as_path());
        match staying.find(|file| keys::has_passphrase(file)) {
            None => Ok(()),
            Some(file) => {
                let file = file.display();
                let reason = format_args!(
                    "Apache must restart, and would ask a person for the passphrase of {file} (SSLPassPhraseDialog {dialog}); decrypt that key (openssl pkey -in {file} -out {file}.plain), name the new file in the configuration, reload Apache, and run this command again"
                );
                Err(Failure::new(exit::CONFIG, reason))
            }
        }
    }

    /// References beside the key files, and the directives that name them. Where no line of a file
    /// names a key in these words, as in a macro or with a variable, the reference takes the place
    /// of the key file.
    fn change_hosts(&self, plan: &mut Plan, survey: &Survey<'_>, chosen: &[usize]) -> Result<(), Failure> {
        for pair in chosen.iter().filter_map(|at| survey.pairs.get(*at)) {
            let Some(number) = plan.keys.of_file.get(&pair.key_file).copied() else { continue };
            let mut edits = Vec::new();
            let reference = beside(&pair.key_file, "keyward")?;
            for directive in &pair.directives {
                let Some(file) = directive.file.as_deref().map(real) else { continue };
                if !plan.texts.contains_key(&file) {
                    let text = fs::read_to_string(&file).map_err(|error| Failure::reading(&file, &error))?;
                    plan.texts.insert(file.clone(), text);
                }
                let text = plan.texts.get(&file).map_or("", String::as_str);
                let Some(place) = apache::place_of_argument(text, &directive.name, directive.line) else {
                    continue;
                };
                // A line with a variable may be the line of several hosts, with several files.
                let written = text.get(place.clone()).unwrap_or_default().trim_matches(['"', '\'']);
                if directive.arguments.first().is_some_and(|value| value == written) {
                    let (line, text) = (directive.line, word(&reference));
                    edits.push(Edit { path: file, line, place, text, is_environment: false });
                }
            }
            // Apache reads the certificate from the same file.
            let is_combined = real(&pair.key_file) == real(&pair.certificate);
            if edits.len() == pair.directives.len() && !edits.is_empty() && !is_combined {
                for edit in &edits {
                    safe(&edit.path)?;
                }
                plan.edits.extend(edits);
                plan.new_files.insert(reference, NewFile::Reference(number, String::new()));
            } else {
                plan.replace(&pair.key_file, number)?;
            }
            if !is_combined && keys::certificates_alone(&pair.certificate)?.is_some() {
                plan.notes.push(format!(
                    "{} holds a private key as well as a certificate: take the key out of the file",
                    pair.certificate.display()
                ));
            }
        }
        Ok(())
    }

    /// The variable by which the next start of Apache loads the provider.
    fn change_environment(&self, plan: &mut Plan, options: &Protect) -> Result<(), Failure> {
        let value = options.openssl_conf.display().to_string();
        if value.contains(|c: char| c.is_whitespace() || "%\"'\\$;{}`".contains(c)) {
            let reason = format_args!(
                "cannot name {value} to Apache: choose a path without blanks and special characters"
            );
            return Err(Failure::new(exit::USAGE, reason));
        }
        // apache2ctl of Debian reads the file, also in the service, and after its settings.
        let directory = self.variable("APACHE_CONFDIR").unwrap_or("/etc/apache2");
        let envvars = Path::new(directory).join("envvars");
        let text = fs::read_to_string(&envvars).ok();
        let set = text.as_ref().and_then(|text| assigned(text, VARIABLE));
        let own = self.variable(VARIABLE).map(str::to_owned);
        for (other, place) in [(&set, envvars.display().to_string()), (&own, "its environment".into())] {
            if let Some(other) = other.as_ref().filter(|other| **other != value) {
                let reason = format_args!(
                    "Apache has OPENSSL_CONF={other} in {place}: let {value} include that file (.include {other}), and remove the variable there"
                );
                return Err(Failure::new(exit::CONFIG, reason));
            }
        }
        let wanted = format!("{VARIABLE}={value}");
        match (&self.workers.service, text) {
            _ if set.is_some() => {}
            (Some(service), _) => {
                plan.add_service_drop_in(options, service)?;
                plan.notes.push(format!(
                    "the variable is that of {service} alone; in a shell, write keyward env before a command that starts or restarts Apache: keyward env apachectl restart"
                ));
            }
            (None, Some(text)) => {
                let path = real(&envvars);
                safe(&path)?;
                let line = 1 + text.lines().count();
                let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
                plan.edits.push(Edit {
                    path: path.clone(),
                    line,
                    place: text.len()..text.len(),
                    text: format!("{end}export {wanted}\n"),
                    is_environment: false,
                });
                plan.texts.insert(path, text);
            }
            (None, None) => plan.notes.push(format!(
                "Apache runs in no service of systemd: let each later start have {wanted} in its environment, or it refuses the references"
            )),
        }
        Ok(())
    }

    fn describe_steps(&self, plan: &mut Plan, options: &Protect) {
        plan.steps.push("Apache checks its files".into());
        plan.steps.push(match self.has_provider() {
            true => "Apache restarts gracefully: no connection is lost".into(),
            false => {
                plan.restarts = true;
                "Apache restarts once: open connections end, and handshakes fail until it is up again".into()
            }
        });
        plan.steps.push(plan.comparison(plan.probes.all.len()));
        plan.notes.push(match plan.keys.has_file_of_certbot() {
            true => "certbot writes a new key at each renewal, and Apache ends when it reads the new certificate with the reference of before: install the hook before the next renewal: docs/certbot.md, After keyward protect".into(),
            false => "if a program renews one of these certificates with a new key, Apache ends when it reads that certificate with the reference of before: let the program keep the key, or let keyward renew (docs/certificates.md)".into(),
        });
        plan.notes.push(options.way_back());
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.environment.iter();
        variables.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The process that runs now: a restart has another one.
    fn current(&self) -> Option<Master> {
        match self.is_alive() {
            true => Some(self.master.clone()),
            false => restart::successor(&self.master),
        }
    }

    /// Has the master read its files again, and waits until its new children take all connections.
    fn restart_gracefully(&self, master: &Master) -> bool {
        let before = children(master);
        self.before.replace(before.clone());
        wait(|| master.heeds(Signal::USR1));
        master.signal(Some(Signal::USR1)).is_ok()
            && wait(|| running::has_taken_over(&before, &children(master)))
    }

    /// True if no process of before is left.
    fn is_settled(&self) -> bool {
        let now = self.current().map(|master| children(&master)).unwrap_or_default();
        self.before.borrow().is_disjoint(&now)
    }
}

fn children(master: &Master) -> BTreeSet<i32> {
    processes::children(master).into_iter().map(|child| child.pid).collect()
}

impl Running for Apache {
    fn kind(&self) -> Server {
        Server::Apache
    }

    fn own_configuration(&self) -> Option<Vec<u8>> {
        let named: Vec<_> = ["-d", "-f"].iter().flat_map(|option| self.master.values(option)).collect();
        Some(named.join("\n").into_bytes()).filter(|_| !named.is_empty())
    }

    fn workers(&self) -> &Workers {
        &self.workers
    }

    fn plan(&self, options: &Protect, admin: &AdminClient) -> Result<Plan, Failure> {
        let conf = self.configuration()?;
        let extra = Extra { dhe: options.with_dhe, rsa_key_exchange: options.with_rsa_key_exchange };
        let survey = survey(&conf, extra).map_err(|reason| Failure::new(exit::CONFIG, reason))?;
        let mut names = survey.pairs.iter().map(|pair| pair.names.as_slice());
        let chosen = self.chosen(options, &mut names)?;
        let of_keys = chosen.iter().filter_map(|at| survey.pairs.get(*at));
        let of_keys = of_keys.map(|pair| (pair.key_file.as_path(), &pair.listeners));
        let keys = self.keys(&survey, &chosen, admin)?;
        let server = format!("Apache, process {}, {}", self.master.pid, self.workers.described());
        let mut plan = Plan::new(server, keys, tls::probes(of_keys, &survey.listeners), survey.notes.clone());
        self.change_hosts(&mut plan, &survey, &chosen)?;
        let files = conf.directives.iter().filter_map(|one| one.file.clone());
        plan.note_unread(options, self.workers.read, files);
        grants::add(&mut plan, options, self, admin);
        if !plan.is_empty() {
            if !self.has_provider() {
                restart::check(&self.master, &self.workers, options)?;
                self.check_passphrases(&conf, &survey, &chosen)?;
                self.change_environment(&mut plan, options)?;
            }
            plan.socket = self.variable("KEYWARD_SOCKET").map(str::to_owned);
            self.describe_steps(&mut plan, options);
        }
        Ok(plan)
    }

    fn check(&self, _: &Protect) -> Result<(), Failure> {
        let mut command = apache::command(&self.master, &self.environment);
        command.arg("-t");
        output(command).map(drop)
    }

    fn files_in_use(&self, _: &Protect) -> Result<BTreeSet<PathBuf>, Failure> {
        let conf = self.configuration()?;
        let files = conf.directives.iter().flat_map(|one| &one.arguments).map(|word| conf.path(word));
        let files = files.chain(conf.directives.iter().filter_map(|one| one.file.clone()));
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
        match self.current() {
            None => {
                restart::restart(&self.master, &self.workers, &self.environment, &self.limits, None).map(drop)
            }
            Some(master) if self.restart_gracefully(&master) => Ok(()),
            Some(master) => {
                let reason = format_args!(
                    "Apache (process {}) did not take up its configuration within {} seconds; its error log says why",
                    master.pid,
                    LIMIT.as_secs()
                );
                Err(Failure::new(exit::UNAVAILABLE, reason))
            }
        }
    }

    fn settle(&self) {
        wait(|| self.is_settled());
    }

    fn forward(&self, options: &Protect) -> Result<Option<Duration>, Failure> {
        let file = Some(options.openssl_conf.as_path());
        match self.current().is_some_and(|master| processes::has_provider(master.pid)) {
            true => self.reload(options).map(|()| None),
            false => {
                restart::restart(&self.master, &self.workers, &self.environment, &self.limits, file).map(Some)
            }
        }
    }

    fn back(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn finish(&self) -> Result<bool, Failure> {
        Ok(wait(|| self.is_settled()))
    }
}

/// The last value that a file of a shell assigns to a variable, at the beginning of a line.
fn assigned(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).map(|line| line.strip_prefix("export ").unwrap_or(line));
    let mut values = lines.filter_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix('='));
    values.next_back().map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
}

/// Runs Apache. Returns standard output and standard error.
///
/// # Errors
/// [`Failure`] has the line of the error.
fn output(command: std::process::Command) -> Result<String, Failure> {
    let (words, has_succeeded) = running::output(command)?;
    if has_succeeded {
        return Ok(words);
    }
    // The line after that of the place has the reason.
    let lines: Vec<_> = words.trim().lines().collect();
    let telling = lines.iter().position(|line| line.contains("rror"));
    let telling = lines.get(telling.unwrap_or(lines.len().saturating_sub(1))..).unwrap_or_default();
    let telling: Vec<_> = telling.iter().take(2).copied().collect();
    Err(Failure::new(exit::CONFIG, format_args!("Apache refuses its configuration: {}", telling.join(" "))))
}

/// An argument of a directive.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.bytes().all(|c| c.is_ascii_alphanumeric() || b"/._-=+,:@%".contains(&c));
    if is_plain { text } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// The program of Debian that asks for passphrases on a terminal.
const ASKS_A_PERSON: &str = "/ask-for-passphrase";
/// The variable with the openssl.cnf of a program (openssl-env(7)).
const VARIABLE: &str = "OPENSSL_CONF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_set_by_a_line_and_not_by_a_comment() {
        let text = "# export OPENSSL_CONF=/a\nOPENSSL_CONF_OLD=/b\nexport LANG=C\n";
        assert_eq!(assigned(text, VARIABLE), None);
        let text = format!("{text}export OPENSSL_CONF=/c\n  OPENSSL_CONF=\"/d\"\n");
        assert_eq!(assigned(&text, VARIABLE).as_deref(), Some("/d"));
    }
}
