//! HAProxy: the plan of its change, and the reload that carries it out.
//!
//! A reload starts the program again with the environment of before, so `OPENSSL_CONF` would need a
//! restart. The section `global` can load a provider itself (Configuration Manual, ssl-provider).
//! The files of certificates hold the keys, so the references take their paths.

mod survey;

use core::time::Duration;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keyward_client::Address;
use keyward_proto::Use;
use rustix::process::Signal;

use super::keys::{self, Keys, Wanted};
use super::plan::{Edit, Plan};
use super::running::{self, LIMIT, Running, Workers, real, safe, wait};
use super::tls::{self, Extra};
use super::{Protect, Server, grants};
use crate::admin::client::AdminClient;
use crate::cli::doctor;
use crate::cli::failure::Failure;
use crate::cli::service_files;
use crate::config::Config;
use crate::ground::exit;
use crate::peers;
use crate::servers::haproxy::{self, Configuration};
use crate::servers::processes::{self, Master};
use survey::{Survey, survey};

/// A running HAProxy with a master process.
pub(super) struct Haproxy {
    master: Master,
    /// First file of its configuration.
    main: PathBuf,
    workers: Workers,
}

impl Haproxy {
    /// Finds the HAProxy that runs on this host.
    ///
    /// # Errors
    /// [`Failure`] if none runs, if several run and none is named, or if it cannot reload.
    pub(super) fn find(pid: Option<i32>) -> Result<Self, Failure> {
        let master = running::master(Server::Haproxy, pid)?;
        let children = processes::children(&master);
        let mut current = children.iter().filter(|child| processes::takes_connections(child.pid));
        let Some(worker) = current.next().or(children.first()) else {
            let reason = format_args!(
                "HAProxy (process {}) has no workers; if it starts just now, run the command again; without a master process it cannot reload: start it with -W",
                master.pid
            );
            return Err(Failure::new(exit::CONFIG, reason));
        };
        let conf = read(&master)?;
        let main = conf.files.first().map(|file| file.path.clone()).unwrap_or_default();
        Ok(Self { workers: Workers::of(worker), main, master })
    }

    /// Lines for the section `global` that load the provider, and the address of the daemon for it.
    fn load_provider(&self, plan: &mut Plan, conf: &Configuration, options: &Protect) -> Result<(), Failure> {
        let set = conf.global("setenv").filter(|line| line.word(1) == SOCKET).last();
        if self.has_provider() {
            let of_process = processes::environment(self.master.pid).into_iter();
            let mut of_process = of_process.filter(|(name, _)| name == SOCKET).map(|(_, value)| value);
            plan.socket = set.map(|line| line.word(2).to_owned()).or_else(|| of_process.next());
            return Ok(());
        }
        let socket = socket(conf, options)?;
        let is_usual = socket == Address::DEFAULT.to_string();
        let has = |name: &str| conf.global("ssl-provider").any(|line| line.word(1) == name);
        let module = doctor::module_of(&options.openssl_conf);
        let module = match module.strip_suffix(".so") {
            // OpenSSL looks for a name in its own directory, and takes a path as it is.
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => module,
        };
        let mut lines = Vec::new();
        match set {
            Some(line) if line.word(2) == socket => {}
            Some(line) => {
                let reason = format_args!(
                    "{} sets {SOCKET} to {}, and the daemon answers at {socket}: remove that line",
                    conf.place(line),
                    line.word(2)
                );
                return Err(Failure::new(exit::CONFIG, reason));
            }
            None if is_usual => {}
            // The provider reads the variable when it is loaded.
            None => lines.push(format!("setenv {SOCKET} {}", word(&socket))),
        }
        // The first provider that is named replaces the usual one.
        for name in ["default", &module] {
            if !has(name) {
                lines.push(format!("ssl-provider {}", word(name)));
            }
        }
        plan.socket = Some(socket);
        if !lines.is_empty() {
            plan.edits.push(global_lines(conf, &lines)?);
        }
        Ok(())
    }

    fn keys(&self, survey: &Survey, chosen: &[usize], admin: &AdminClient) -> Result<Keys, Failure> {
        let wanted = chosen.iter().filter_map(|at| survey.pairs.get(*at)).map(|pair| Wanted {
            file: pair.key_file.clone(),
            certificate: pair.certificate.clone(),
            uses: if pair.uses.is_empty() { BTreeSet::from([Use::TlsServer]) } else { pair.uses.clone() },
            // The name in the certificate makes the label.
            names: Vec::new(),
            passphrases: Vec::new(),
        });
        let mut keys = Keys::read(wanted.collect())?;
        keys.compare(admin)?;
        Ok(keys)
    }

    fn describe_steps(&self, plan: &mut Plan, options: &Protect) {
        plan.steps.push("HAProxy checks its files".into());
        plan.steps.push("HAProxy reloads: a new worker takes over, and no connection is lost".into());
        plan.steps.push(plan.comparison(plan.probes.all.len()));
        plan.notes.push(
            "a program that renews these certificates with a key file puts that key into the place of the reference; run the command again then, or let keyward renew them (docs/certificates.md)".into(),
        );
        if plan.keys.has_file_of_certbot() {
            plan.notes.push(keys::CERTBOT_RENEWS.into());
        }
        plan.notes.push(options.way_back());
    }
}

impl Running for Haproxy {
    fn kind(&self) -> Server {
        Server::Haproxy
    }

    fn own_configuration(&self) -> Option<Vec<u8>> {
        Some(self.main.as_os_str().as_encoded_bytes().to_vec()).filter(|_| self.main != Path::new(USUAL))
    }

    fn workers(&self) -> &Workers {
        &self.workers
    }

    fn plan(&self, options: &Protect, admin: &AdminClient) -> Result<Plan, Failure> {
        self.check(options)?;
        let conf = read(&self.master)?;
        let extra = Extra { dhe: options.with_dhe, rsa_key_exchange: options.with_rsa_key_exchange };
        let survey = survey(&conf, extra).map_err(|reason| Failure::new(exit::CONFIG, reason))?;
        let mut names = survey.pairs.iter().map(|pair| pair.names.as_slice());
        let chosen = self.chosen(options, &mut names)?;
        let of_keys = chosen.iter().filter_map(|at| survey.pairs.get(*at));
        let of_keys = of_keys.map(|pair| (pair.key_file.as_path(), &pair.listeners));
        let keys = self.keys(&survey, &chosen, admin)?;
        let server = format!("HAProxy, process {}, {}", self.master.pid, self.workers.described());
        let mut plan = Plan::new(server, keys, tls::probes(of_keys, &survey.listeners), survey.notes);
        plan.texts = conf.files.iter().map(|file| (real(&file.path), file.text.clone())).collect();
        for (path, number) in plan.keys.of_file.clone() {
            plan.replace(&path, number)?;
        }
        plan.note_unread(options, self.workers.read, conf.files.iter().map(|file| file.path.clone()));
        grants::add(&mut plan, options, self, admin);
        if !plan.is_empty() {
            self.load_provider(&mut plan, &conf, options)?;
            for edit in &plan.edits {
                safe(&edit.path)?;
            }
            self.describe_steps(&mut plan, options);
        }
        Ok(plan)
    }

    fn check(&self, _: &Protect) -> Result<(), Failure> {
        let mut command = haproxy::command(&self.master);
        command.arg("-c").args(haproxy::arguments(&self.master));
        let (words, has_succeeded) = running::output(command)?;
        if has_succeeded {
            return Ok(());
        }
        let lines = words.trim().lines();
        let telling = lines.clone().find(|line| line.contains("[ALERT]")).or_else(|| lines.last());
        Err(Failure::new(
            exit::CONFIG,
            format_args!("HAProxy refuses its configuration: {}", telling.unwrap_or("no message")),
        ))
    }

    fn files_in_use(&self, _: &Protect) -> Result<BTreeSet<PathBuf>, Failure> {
        let conf = read(&self.master)?;
        let files = conf.files_in_use().map_err(|reason| Failure::new(exit::CONFIG, reason))?;
        let files = files.into_iter().chain(conf.files.into_iter().map(|file| file.path));
        Ok(files.flat_map(|path| [real(&path), path]).collect())
    }

    fn has_provider(&self) -> bool {
        // The master of HAProxy loads nothing after a reload.
        processes::has_provider(self.workers.pid)
    }

    fn pid(&self) -> i32 {
        self.master.pid
    }

    fn is_alive(&self) -> bool {
        self.master.signal(None).is_ok()
    }

    fn reload(&self, _: &Protect) -> Result<(), Failure> {
        let before = self.worker_ids();
        // A master that has started just now is ended by the signal.
        wait(|| self.master.heeds(Signal::USR2));
        running::signal(Server::Haproxy, &self.master, Signal::USR2)?;
        match wait(|| running::has_taken_over(&before, &self.worker_ids())) {
            true => Ok(()),
            false => {
                let reason = format_args!(
                    "HAProxy (process {}) did not take up its configuration within {} seconds; its log says why",
                    self.master.pid,
                    LIMIT.as_secs()
                );
                Err(Failure::new(exit::UNAVAILABLE, reason))
            }
        }
    }

    fn settle(&self) {
        wait(|| self.old_workers() == 0);
    }

    fn forward(&self, options: &Protect) -> Result<Option<Duration>, Failure> {
        self.reload(options).map(|()| None)
    }

    fn back(&self) -> Result<(), Failure> {
        // The worker of before has begun to end.
        Ok(())
    }

    fn finish(&self) -> Result<bool, Failure> {
        Ok(wait(|| self.old_workers() == 0))
    }
}

impl Haproxy {
    fn worker_ids(&self) -> BTreeSet<i32> {
        processes::children(&self.master).into_iter().map(|child| child.pid).collect()
    }

    /// Number of workers that end: another one takes their connections.
    fn old_workers(&self) -> usize {
        let all = self.worker_ids();
        let current = all.iter().filter(|pid| processes::takes_connections(**pid)).count();
        all.len() - current.max(1).min(all.len())
    }
}

fn read(master: &Master) -> Result<Configuration, Failure> {
    Configuration::read(master).map_err(|reason| {
        Failure::new(exit::CONFIG, format_args!("cannot use the configuration of HAProxy: {reason}"))
    })
}

/// The address of the daemon as the workers see it.
///
/// # Errors
/// [`Failure`] if the workers change their root, and the daemon has no socket below that.
fn socket(conf: &Configuration, options: &Protect) -> Result<String, Failure> {
    let own = options.client.runtime_dir.join(peers::SOCKET);
    let own = std::path::absolute(&own).unwrap_or(own);
    let root = conf.global("chroot").last().map(|line| PathBuf::from(line.word(1)));
    let Some(root) = root.filter(|root| root != Path::new("/")) else {
        return Ok(own.display().to_string());
    };
    let config = Config::load(&options.config).map_err(|error| Failure::new(exit::CONFIG, error))?;
    let usual = root.join(peers::SOCKET);
    let extra = config.socket.extra.iter().map(Address::to_string);
    let mut all = [usual.display().to_string()].into_iter().chain(extra);
    let seen_inside = |address: &String| match address.strip_prefix('@') {
        Some(_) => Some(address.clone()),
        None => Some(format!("/{}", Path::new(address).strip_prefix(&root).ok()?.display())),
    };
    let found =
        all.find_map(|address| seen_inside(&address).filter(|_| doctor::is_socket_of_daemon(&own, &address)));
    found.ok_or_else(|| {
        let (root, usual, config) = (root.display(), usual.display(), options.config.display());
        let how = match service_files::has_systemd() {
            true => format!(
                "mkdir -p /etc/systemd/system/keyward.socket.d; printf '[Socket]\\nListenStream={usual}\\n' > /etc/systemd/system/keyward.socket.d/haproxy.conf; systemctl daemon-reload; systemctl restart keyward.socket keyward"
            ),
            false => format!("add also = [\"{usual}\"] to section [socket] of {config}, and restart the daemon"),
        };
        Failure::new(
            exit::CONFIG,
            format_args!(
                "HAProxy changes its root to {root}, where the daemon has no socket; {how}; then run this command again"
            ),
        )
    })
}

/// The edit that puts lines at the beginning of the section `global`.
fn global_lines(conf: &Configuration, lines: &[String]) -> Result<Edit, Failure> {
    let section = conf.lines.iter().find(|line| line.keyword() == "global" && !line.is_conditional);
    let file = conf.files.get(section.map_or(0, |line| line.file));
    let file = file.ok_or_else(|| Failure::new(exit::SOFTWARE, "HAProxy has no files"))?;
    let number = section.map_or(0, |line| line.number);
    let start = file.text.split_inclusive('\n').take(number).map(str::len).sum::<usize>();
    let next = file.text.get(start..).unwrap_or_default().lines().find(|line| !line.trim().is_empty());
    let next = next.filter(|line| line.starts_with([' ', '\t'])).unwrap_or("    ");
    let indent = next.get(..next.len() - next.trim_start().len()).unwrap_or_default();
    let mut text: String = lines.iter().map(|line| format!("{indent}{line}\n")).collect();
    if section.is_none() {
        text = format!("global\n{text}\n");
    } else if !file.text.get(..start).unwrap_or_default().ends_with('\n') {
        text.insert(0, '\n');
    }
    Ok(Edit { path: real(&file.path), line: number + 1, place: start..start, text, is_environment: false })
}

/// A word of the configuration of HAProxy.
fn word(text: &str) -> String {
    let is_plain = text.bytes().all(|c| c.is_ascii_alphanumeric() || b"/._-=+,:@%".contains(&c));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// The configuration of the HAProxy of Debian.
const USUAL: &str = "/etc/haproxy/haproxy.cfg";
/// The variable with the address of the daemon.
const SOCKET: &str = "KEYWARD_SOCKET";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::haproxy::Configuration;

    #[test]
    fn lines_come_first_in_the_section_global() {
        let lines = ["ssl-provider default".to_owned(), "ssl-provider keyward".to_owned()];
        for (text, expected) in [
            (
                "# top\nglobal\n\tdaemon\ndefaults\n",
                "# top\nglobal\n\tssl-provider default\n\tssl-provider keyward\n\tdaemon\ndefaults\n",
            ),
            ("global", "global\n    ssl-provider default\n    ssl-provider keyward\n"),
            ("defaults\n", "global\n    ssl-provider default\n    ssl-provider keyward\n\ndefaults\n"),
        ] {
            let conf = Configuration::of_text(text);
            let edit = global_lines(&conf, &lines).unwrap();
            let mut changed = text.to_owned();
            changed.replace_range(edit.place, &edit.text);
            assert_eq!(changed, expected);
        }
    }
}
