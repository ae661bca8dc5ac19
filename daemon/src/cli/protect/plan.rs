//! The plan of a change: keys, files and checks, for the person who decides about it.

use core::fmt::Write;
use core::ops::Range;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use keyward_proto::{Reference, Use};
use serde_json::{Value, json};

use super::Protect;
use super::journal::{Replaced, hidden_name};
use super::keys::{self, Keys};
use super::running::safe;
use crate::cli::failure::Failure;
use crate::cli::{program, service_files};
use crate::ground::exit;
use crate::ground::text::quoted;
use crate::servers::served::{Client, Place};

/// A file of the server that gets other contents.
pub(super) struct Edit {
    pub(super) path: PathBuf,
    /// Line of the change, from 1.
    pub(super) line: usize,
    /// Bytes of the file that are replaced.
    pub(super) place: Range<usize>,
    pub(super) text: String,
    /// True for the variable that loads the provider, which the server must know before the rest.
    pub(super) is_environment: bool,
}

/// A file that the command makes.
pub(super) enum NewFile {
    /// The reference to the key with this number, and a text behind it, such as certificates.
    Reference(usize, String),
    /// A text that is no secret.
    Text(String),
}

/// A handshake that must show the same certificate before and after the change.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Probe {
    pub(super) at: Place,
    pub(super) name: String,
    pub(super) client: Client,
}

/// An address at which a server answers, and the name of a site there.
pub(super) type Listener = (Place, String);

/// The handshakes of a change.
#[derive(Default)]
pub(super) struct Probes {
    pub(super) all: BTreeSet<Probe>,
    /// Number of the listeners that these handshakes reach.
    pub(super) compared: usize,
    /// Number of all listeners.
    pub(super) listeners: usize,
}

impl Probes {
    /// The part of the listeners that is compared, behind a number of handshakes; empty for all.
    pub(super) fn part(&self) -> String {
        match self.compared == self.listeners {
            true => String::new(),
            false => format!(
                ", at {} of {} listeners, with one for each key; the others are not compared",
                self.compared, self.listeners
            ),
        }
    }
}

/// The change of a server.
pub(super) struct Plan {
    /// The server, for people: program, process, user.
    pub(super) server: String,
    pub(super) keys: Keys,
    pub(super) edits: Vec<Edit>,
    pub(super) new_files: BTreeMap<PathBuf, NewFile>,
    /// Uses that the workers get by new grants, by label.
    pub(super) granted: BTreeMap<String, BTreeSet<Use>>,
    pub(super) probes: Probes,
    /// Files of certificates that hold a private key as well, with the number of that key.
    pub(super) combined: BTreeMap<PathBuf, usize>,
    /// Files of [`Self::new_files`] that take the path of a key file, each with the path to which
    /// the key file moves.
    pub(super) replaced: BTreeMap<PathBuf, PathBuf>,
    /// Address of the daemon as the server is told, unless openssl.cnf or the default has it.
    pub(super) socket: Option<String>,
    /// True if the server takes no connection for a moment.
    pub(super) restarts: bool,
    /// Contents of the files that the plan was made from.
    pub(super) texts: BTreeMap<PathBuf, String>,
    /// Steps after the files are written, for people.
    pub(super) steps: Vec<String>,
    /// Facts that a person should know before the change.
    pub(super) notes: Vec<String>,
}

impl Plan {
    /// A plan without changes.
    pub(super) fn new(server: String, keys: Keys, probes: Probes, notes: Vec<String>) -> Self {
        Self {
            server,
            keys,
            edits: Vec::new(),
            new_files: BTreeMap::new(),
            granted: BTreeMap::new(),
            probes,
            combined: BTreeMap::new(),
            replaced: BTreeMap::new(),
            socket: None,
            restarts: false,
            texts: BTreeMap::new(),
            steps: Vec::new(),
            notes,
        }
    }

    /// Plans a reference, with the rest of the file behind it, in the place of a key file.
    ///
    /// # Errors
    /// [`Failure`] if others can change the file.
    pub(super) fn replace(&mut self, path: &Path, number: usize) -> Result<(), Failure> {
        safe(path)?;
        let rest = keys::public_blocks(path)?;
        self.new_files.insert(path.to_owned(), NewFile::Reference(number, rest));
        self.replaced.insert(path.to_owned(), hidden_name(path));
        Ok(())
    }

    /// Plans a drop-in that gives the next start of a service the variable `OPENSSL_CONF`.
    ///
    /// # Errors
    /// [`Failure`] if the service has another value of the variable.
    pub(super) fn add_service_drop_in(&mut self, options: &Protect, service: &str) -> Result<(), Failure> {
        let (title, name) = (options.server.title(), options.server.name());
        let value = options.openssl_conf.display().to_string();
        if let Some(other) = openssl_conf_of(service).filter(|other| *other != value) {
            let reason = format_args!(
                "{service} has OPENSSL_CONF={other}: let {value} include that file (.include {other}), and remove the variable (systemctl cat {service} shows its file)"
            );
            return Err(Failure::new(exit::CONFIG, reason));
        }
        let path = options.systemd_dir.join(format!("{service}.d/keyward.conf"));
        let line = format!("Environment=OPENSSL_CONF={value}");
        let lines = format!(
            "# {title} loads the provider from its start on. Written by keyward protect {name}.\n[Service]\n{line}\n"
        );
        // An administrator may have a file of that name, with other settings.
        match fs::read_to_string(&path) {
            Ok(before) if before.lines().any(|known| known.trim() == line) => {}
            Ok(before) => {
                let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
                self.new_files.insert(path.clone(), NewFile::Text(format!("{before}{end}{lines}")));
                self.texts.insert(path, before);
            }
            Err(_) => drop(self.new_files.insert(path, NewFile::Text(lines))),
        }
        Ok(())
    }

    /// Notes files that were changed since the server has read them: the change takes effect with
    /// this one. `files` are those of the configuration.
    pub(super) fn note_unread(
        &mut self,
        options: &Protect,
        read: Option<SystemTime>,
        files: impl Iterator<Item = PathBuf>,
    ) {
        let Some(read) = read else { return };
        let files = files.chain(self.keys.of_file.keys().chain(&self.keys.certificates).cloned());
        let is_newer = |path: &PathBuf| {
            let modified = path.metadata().and_then(|found| found.modified());
            modified.is_ok_and(|at| at.duration_since(read).is_ok_and(|since| since > TICKS))
        };
        let newer: BTreeSet<_> = files.filter(is_newer).collect();
        if !newer.is_empty() {
            let newer: Vec<_> = newer.iter().map(|path| quoted(path)).collect();
            self.notes.push(format!(
                "files were changed since {} has read them, and take effect with this change: {}",
                options.server.title(),
                newer.join(", ")
            ));
        }
    }

    /// Files that hold a planned key, with the number of the key.
    pub(super) fn key_files(&self) -> impl Iterator<Item = (&Path, usize)> {
        let files = self.keys.of_file.iter().chain(&self.combined);
        files.map(|(path, number)| (path.as_path(), *number))
    }

    /// Listeners, with the names of their servers, that none of these handshakes has reached.
    pub(super) fn unseen<'a>(&self, reached: impl Iterator<Item = &'a Probe>) -> Vec<String> {
        let of = |probe: &Probe| format!("{} at {}", probe.name, probe.at);
        let reached: BTreeSet<_> = reached.map(of).collect();
        let all: BTreeSet<_> = self.probes.all.iter().map(of).collect();
        all.difference(&reached).cloned().collect()
    }

    /// The step that compares certificates, for people.
    pub(super) fn comparison(&self, handshakes: usize) -> String {
        match handshakes {
            0 => "no handshake can be compared".to_owned(),
            _ => {
                format!("{handshakes} handshakes show the same certificates as before{}", self.probes.part())
            }
        }
    }

    /// The grants of a plan that moves no key, for people.
    pub(super) fn missing_grants(&self) -> String {
        if self.granted.is_empty() {
            return String::new();
        }
        let files: Vec<_> = self.new_files.keys().map(|path| quoted(path)).collect();
        let mut text = format!("\nGrants that its workers lack, and that go to {}:\n", files.join(", "));
        for (label, all) in &self.granted {
            let _ = writeln!(text, "  {label} ({})", uses(all));
        }
        text
    }

    /// True if no file has a key that could move.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.planned.is_empty()
    }

    /// The contents of all files after the chosen edits. `references` are those to the planned
    /// keys.
    pub(super) fn contents(
        &self,
        references: &[Reference],
        is_chosen: impl Fn(&Edit) -> bool,
    ) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut changed: BTreeMap<PathBuf, String> = BTreeMap::new();
        // From the end of a file to its beginning, so that places stay right.
        for edit in self.ordered_edits().into_iter().rev().filter(|edit| is_chosen(edit)) {
            let text = changed
                .entry(edit.path.clone())
                .or_insert_with(|| self.texts.get(&edit.path).cloned().unwrap_or_default());
            text.replace_range(edit.place.clone(), &edit.text);
        }
        let new = self.new_files.iter().map(|(path, file)| {
            let text = match file {
                NewFile::Text(text) => text.clone(),
                NewFile::Reference(number, rest) => {
                    references.get(*number).map(Reference::to_pem).unwrap_or_default() + rest
                }
            };
            (path.clone(), text.into_bytes())
        });
        let changed = changed.into_iter().map(|(path, text)| (path, text.into_bytes()));
        changed.chain(new).collect()
    }

    /// The edits in the order of their files and places. A file that is included
    /// twice has each change once.
    fn ordered_edits(&self) -> Vec<&Edit> {
        let mut edits: Vec<_> = self.edits.iter().collect();
        edits.sort_by(|one, other| (&one.path, one.place.start).cmp(&(&other.path, other.place.start)));
        edits.dedup_by(|one, other| (&one.path, &one.place) == (&other.path, &other.place));
        edits
    }

    /// The texts that the change puts into files, for a way back that leaves the rest of a file as
    /// it is then.
    pub(super) fn replaced_texts(&self) -> BTreeMap<PathBuf, Vec<Replaced>> {
        let mut all: BTreeMap<PathBuf, Vec<Replaced>> = BTreeMap::new();
        let before = |path: &Path| self.texts.get(path).map_or("", String::as_str);
        for edit in self.ordered_edits() {
            let old = before(&edit.path).get(edit.place.clone()).unwrap_or_default().to_owned();
            all.entry(edit.path.clone()).or_default().push(Replaced { old, new: edit.text.clone() });
        }
        for (path, file) in &self.new_files {
            // A file that was there gets lines at its end.
            if let NewFile::Text(text) = file {
                let new = text.strip_prefix(before(path)).unwrap_or(text).to_owned();
                all.entry(path.clone()).or_default().push(Replaced { old: String::new(), new });
            }
        }
        all
    }

    /// The plan for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\nKeys that move into the daemon:\n", self.server);
        for key in &self.keys.planned {
            let known = if key.is_known() { ", which the daemon has already" } else { "" };
            let _ = writeln!(text, "  {} ({}, {}){known}", key.label, key.key_type, uses(&key.uses));
            for file in &key.files {
                let _ = writeln!(text, "      from {}", quoted(file));
            }
        }
        if !self.replaced.is_empty() {
            text += "\nFiles in whose place a reference comes:\n";
            for (path, kept) in &self.replaced {
                let name = kept.file_name().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "  {}\n      the key file stays beside it, as {}",
                    quoted(path),
                    quoted(Path::new(name))
                );
            }
        }
        if !self.edits.is_empty() {
            text += "\nFiles that change:\n";
        }
        let mut lines: Vec<_> =
            self.edits.iter().map(|edit| (&edit.path, edit.line, edit.text.trim().to_owned())).collect();
        lines.sort();
        lines.dedup();
        for (path, line, new) in lines {
            let _ = writeln!(text, "  {}, line {line}\n      {new}", quoted(path));
        }
        text += "\nNew files:\n";
        for (path, file) in self.new_files.iter().filter(|(path, _)| !self.replaced.contains_key(*path)) {
            let what = match file {
                NewFile::Reference(number, _) => {
                    let key = self.keys.planned.get(*number);
                    key.map(|key| format!("reference to {}", key.label)).unwrap_or_default()
                }
                // A file that is there gets lines at its end.
                NewFile::Text(_) if self.texts.contains_key(path) => "gets lines at its end".to_owned(),
                NewFile::Text(text) => {
                    text.lines().next().unwrap_or_default().trim_start_matches("# ").to_owned()
                }
            };
            let _ = writeln!(text, "  {}\n      {what}", quoted(path));
        }
        text += "\nThen:\n";
        for step in &self.steps {
            let _ = writeln!(text, "  {step}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "\nNote: {note}");
        }
        text
    }

    /// The plan for programs.
    pub(super) fn json(&self) -> Value {
        let path = |path: &Path| path.display().to_string();
        let keys: Vec<_> = self
            .keys
            .planned
            .iter()
            .map(|key| {
                json!({
                    "label": key.label.as_str(),
                    "type": key.key_type.to_string(),
                    "uses": key.uses.iter().map(|one| one.name()).collect::<Vec<_>>(),
                    "files": key.files.iter().map(|file| path(file)).collect::<Vec<_>>(),
                    "known": key.is_known(),
                })
            })
            .collect();
        let edits: Vec<_> = self
            .edits
            .iter()
            .map(|edit| json!({ "file": path(&edit.path), "line": edit.line, "text": edit.text }))
            .collect();
        let new = self.new_files.keys().filter(|file| !self.replaced.contains_key(*file));
        json!({
            "server": self.server,
            "keys": keys,
            "edits": edits,
            "new_files": new.map(|file| path(file)).collect::<Vec<_>>(),
            "replaced_files": self.replaced.keys().map(|file| path(file)).collect::<Vec<_>>(),
            "steps": self.steps,
            "notes": self.notes,
        })
    }
}

/// The value of `OPENSSL_CONF` for the next start of a service, by its unit and all drop-ins.
fn openssl_conf_of(service: &str) -> Option<String> {
    if !service_files::has_systemd() {
        return None;
    }
    let shown = program::run_any("systemctl", &["show", "--property=Environment", service]).ok()?;
    let text = String::from_utf8_lossy(&shown).into_owned();
    let words = text.strip_prefix("Environment=")?.split_whitespace();
    let mut values = words.filter_map(|word| word.trim_matches('"').strip_prefix("OPENSSL_CONF="));
    values.next_back().map(str::to_owned)
}

/// Names of uses, for people.
pub(super) fn uses(uses: &BTreeSet<Use>) -> String {
    uses.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ")
}

/// Exactness of the time at which a server has read its files.
const TICKS: Duration = Duration::from_millis(20);
