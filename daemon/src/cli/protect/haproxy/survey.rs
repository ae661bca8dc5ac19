//! Facts about keys in a configuration of HAProxy: their files, their listeners, and the messages
//! that they have to sign.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keyward_proto::Use;

use super::super::keys;
use super::super::plan::Listener;
use super::super::tls::{self, Extra, KeyExchanges, Versions, is_host};
use crate::servers::haproxy::{Configuration, Line, Word, certificate_list};
use crate::servers::served::{Address, Place};

/// A file with a private key, or with a reference, and the file of its certificate.
pub(super) struct Pair {
    pub(super) key_file: PathBuf,
    pub(super) certificate: Option<PathBuf>,
    /// Uses that the key needs; empty if nothing says so.
    pub(super) uses: BTreeSet<Use>,
    /// Names of its certificate, of its entry in a list, and of its sections.
    pub(super) names: Vec<String>,
    /// Addresses and names at which its certificate is shown.
    pub(super) listeners: BTreeSet<Listener>,
}

/// The keys and listeners of a configuration.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) pairs: Vec<Pair>,
    /// Addresses and names at which a certificate is shown.
    pub(super) listeners: BTreeSet<Listener>,
    /// Facts that a person should know.
    pub(super) notes: Vec<String>,
}

/// A file that a line names, with the names of its certificate.
struct Found {
    at: usize,
    names: Vec<String>,
}

/// Looks through a configuration.
///
/// # Errors
/// The reason why a key cannot move.
pub(super) fn survey(conf: &Configuration, extra: Extra) -> Result<Survey, String> {
    let mut survey = Survey::default();
    for line in &conf.lines {
        match line.keyword() {
            "bind" | "default-bind" if line.has("ssl") || line.values("crt").next().is_some() => {
                survey.serve(conf, line, extra)?;
            }
            "server" | "default-server" | "peer" => survey.connect(conf, line)?,
            _ => {}
        }
    }
    // A store has its files on lines of their own, and the listeners name its aliases.
    let of_all: BTreeSet<Use> = survey.pairs.iter().flat_map(|pair| pair.uses.iter().copied()).collect();
    for line in conf.lines.iter().filter(|line| line.is_in("crt-store") && line.keyword() == "load") {
        survey.load(conf, line, &of_all)?;
    }
    Ok(survey)
}

impl Survey {
    /// The keys of a listener.
    fn serve(&mut self, conf: &Configuration, line: &Line, extra: Extra) -> Result<(), String> {
        let shown = line.section.get(1..).unwrap_or_default().join(" ");
        let shown = if shown.is_empty() { conf.place(line) } else { shown };
        let mut found = Vec::new();
        for word in line.values("crt") {
            found.extend(self.files(conf, line, word)?.into_iter().map(|one| (one, None)));
        }
        for list in line.values("crt-list") {
            if list.has_variable {
                self.note(format!("{}: {} stays as it is: it has a variable", conf.place(line), list.text));
                continue;
            }
            for entry in certificate_list(&conf.path(line, &list.text, ""))? {
                let of_entry = self.files(conf, line, &entry.file)?;
                let names: Vec<_> =
                    entry.names.iter().filter(|name| !name.starts_with('!')).cloned().collect();
                for mut one in of_entry {
                    one.names.splice(0..0, names.iter().cloned());
                    found.push((one, Some(entry.line.clone())));
                }
            }
        }
        for (one, entry) in found {
            let versions = versions(conf, line, entry.as_ref());
            let Some(tls) = versions.tls_use() else {
                return Err(format!(
                    "{} offers neither TLS 1.2 nor TLS 1.3; remove ssl-max-ver there",
                    conf.place(line)
                ));
            };
            let mut uses = BTreeSet::from([tls]);
            if versions.tls12 {
                let ciphers = entry.as_ref().and_then(|entry| entry.value("ciphers"));
                let ciphers = ciphers.or_else(|| line.value("ciphers"));
                let general = conf.global("ssl-default-bind-ciphers").last().map(|line| line.word(1));
                let exchanges = KeyExchanges {
                    dh_setting: self.dh_setting(conf, one.at),
                    ciphers: ciphers.or(general).unwrap_or(DEFAULT_CIPHERS),
                };
                let (others, notes) = tls::other_key_exchanges(&shown, &exchanges, extra);
                uses.extend(others);
                notes.into_iter().for_each(|note| self.note(note));
            }
            let Some(pair) = self.pairs.get_mut(one.at) else { continue };
            pair.uses.extend(uses);
            pair.names.extend(one.names.iter().chain(line.section.get(1)).cloned());
            let name = one.names.iter().find(|name| is_host(name)).cloned();
            let name = name.unwrap_or_else(|| "localhost".into());
            let addresses = line.words.get(1).filter(|word| !word.has_variable);
            let addresses = addresses.into_iter().flat_map(|word| word.text.split(','));
            let listeners: Vec<Listener> = addresses
                .filter_map(|text| address(conf, text))
                .map(|address| (Place { address, is_proxied: line.has("accept-proxy") }, name.clone()))
                .collect();
            pair.listeners.extend(listeners.iter().cloned());
            self.listeners.extend(listeners);
        }
        Ok(())
    }

    /// The keys with which a line connects to others.
    fn connect(&mut self, conf: &Configuration, line: &Line) -> Result<(), String> {
        let is_tls13 = line.value("ssl-min-ver") == Some("TLSv1.3") || line.has("force-tlsv13");
        let one = if is_tls13 { Use::Tls13Client } else { Use::TlsClient };
        for word in line.values("crt") {
            for found in self.files(conf, line, word)? {
                let Some(pair) = self.pairs.get_mut(found.at) else { continue };
                pair.uses.insert(one);
                pair.names.extend(found.names.into_iter().chain(line.section.get(1).cloned()));
            }
        }
        Ok(())
    }

    /// The files of a line of a store.
    fn load(&mut self, conf: &Configuration, line: &Line, uses: &BTreeSet<Use>) -> Result<(), String> {
        let Some(crt) = line.values("crt").last().filter(|word| !word.has_variable) else { return Ok(()) };
        let found = match line.values("key").last() {
            None => self.files(conf, line, crt)?,
            Some(key) => {
                let certificate = conf.path(line, &crt.text, "crt-base");
                let names = keys::names(&certificate);
                let at = self.add(conf.path(line, &key.text, "key-base"), Some(certificate));
                vec![Found { at, names }]
            }
        };
        for one in found {
            let Some(pair) = self.pairs.get_mut(one.at) else { continue };
            pair.uses.extend(uses);
            pair.names.extend(one.names);
        }
        Ok(())
    }

    /// The files that a word behind `crt` names: a file, the files of a directory, or a bundle
    /// whose files have the kinds of keys for endings.
    fn files(&mut self, conf: &Configuration, line: &Line, word: &Word) -> Result<Vec<Found>, String> {
        if word.has_variable || word.text.starts_with('@') {
            // A name that begins with @ is one of a store.
            if word.has_variable {
                self.note(format!(
                    "{}: crt {} stays as it is: it has a variable",
                    conf.place(line),
                    word.text
                ));
            }
            return Ok(Vec::new());
        }
        let files = conf.certificate_files(line, word)?;
        if files.is_empty() && !line.is_conditional {
            let path = conf.path(line, &word.text, "crt-base");
            self.note(format!("{}: there is no file {}", conf.place(line), path.display()));
        }
        Ok(files.iter().filter_map(|file| self.pem(conf, file)).collect())
    }

    /// Adds a file of a certificate. The key is in the file, or beside it.
    fn pem(&mut self, conf: &Configuration, path: &Path) -> Option<Found> {
        let beside = conf.key_beside(path);
        let has_key = keys::holds_key_or_reference(path);
        let key_file = match has_key {
            true => path.to_owned(),
            false if beside.is_file() => beside,
            // A file of another purpose in a directory.
            false => return None,
        };
        let names = keys::names(path);
        Some(Found { at: self.add(key_file, Some(path.to_owned())), names })
    }

    fn add(&mut self, key_file: PathBuf, certificate: Option<PathBuf>) -> usize {
        match self.pairs.iter().position(|pair| pair.key_file == key_file) {
            Some(at) => at,
            None => {
                self.pairs.push(Pair {
                    key_file,
                    certificate,
                    uses: BTreeSet::new(),
                    names: Vec::new(),
                    listeners: BTreeSet::new(),
                });
                self.pairs.len() - 1
            }
        }
    }

    /// The setting that gives DH parameters to a certificate.
    fn dh_setting(&self, conf: &Configuration, at: usize) -> Option<&'static str> {
        let settings = ["ssl-dh-param-file", "tune.ssl.default-dh-param"];
        let general = settings.into_iter().find(|setting| conf.global(setting).next().is_some());
        let file = self.pairs.get(at).and_then(|pair| pair.certificate.as_ref());
        let in_file = file.is_some_and(|file| keys::holds_dh_parameters(file));
        general.or(in_file.then_some("DH parameters in the file of its certificate"))
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// The versions that a listener offers with a certificate. The options of an entry of a list
/// replace those of the listener.
fn versions(conf: &Configuration, line: &Line, entry: Option<&Line>) -> Versions {
    // TLS 1.2 is the first version by default (Configuration Manual, ssl-min-ver).
    let mut versions = Versions { tls12: true, tls13: true };
    let general = conf.global("ssl-default-bind-options");
    for options in general.chain([line]).chain(entry) {
        if let Some(least) = options.value("ssl-min-ver") {
            versions.tls12 = least != "TLSv1.3";
        }
        if let Some(most) = options.value("ssl-max-ver") {
            versions.tls13 = most == "TLSv1.3";
            versions.tls12 &= ["TLSv1.2", "TLSv1.3"].contains(&most);
        }
        versions.tls12 &= !options.has("no-tlsv12") && !options.has("force-tlsv13");
        versions.tls13 &= !options.has("no-tlsv13") && !options.has("force-tlsv12");
        if ["force-tlsv10", "force-tlsv11", "force-sslv3"].iter().any(|force| options.has(force)) {
            versions = Versions::default();
        }
    }
    versions
}

/// An address of this host at which a listener answers: `[ADDRESS]:PORT`, of IPv4 or IPv6, or the
/// path of a Unix socket.
fn address(conf: &Configuration, text: &str) -> Option<Address> {
    let text = ["ipv4@", "ipv6@", "unix@"].iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
    if text.starts_with('/') {
        // Configuration Manual, unix-bind
        let prefix = conf.global("unix-bind").find_map(|line| line.value("prefix")).unwrap_or_default();
        return Some(Address::Unix(format!("{prefix}{text}").into()));
    }
    if text.contains('@') {
        return None;
    }
    let (host, port) = text.rsplit_once(':')?;
    // The first port of a range.
    let port = port.split('-').next().unwrap_or(port);
    let at = match host.trim_matches(['[', ']']) {
        "" | "*" => tls::address(&format!("*:{port}"), 0),
        host if host.contains(':') => tls::address(&format!("[{host}]:{port}"), 0),
        host => tls::address(&format!("{host}:{port}"), 0),
    };
    at.map(Address::Tcp)
}

/// The default of OpenSSL (openssl-ciphers(1)).
const DEFAULT_CIPHERS: &str = "DEFAULT";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn keys_their_listeners_and_the_uses_that_they_need() {
        let directory = tempfile::tempdir().unwrap();
        let key = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
        for (name, text) in [
            ("a.pem", key),
            ("b.pem", "no key"),
            ("b.pem.key", key),
            ("c.pem.rsa", key),
            ("c.pem.ecdsa", key),
            ("d.pem", key),
            ("p.pem", key),
            ("list", "d.pem [ssl-min-ver TLSv1.3] d.example !e.example\n"),
            ("other.txt", "no key"),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let base = directory.path().display();
        let conf = Configuration::of_text(&format!(
            "global\n crt-base {base}\n ssl-default-bind-ciphers ECDHE+AESGCM\n\
             frontend shop\n bind :443,[::1]:8443 ssl crt a.pem crt b.pem\n bind 127.0.0.2:1 ssl crt c.pem ssl-max-ver TLSv1.2 ciphers DEFAULT\n\
             listen lists\n bind *:2 ssl crt-list {base}/list\n bind :3 ssl crt \"$HOME/x.pem\"\n\
             backend far\n server s 127.0.0.1:9 ssl crt p.pem force-tlsv13\n"
        ));
        let survey = survey(&conf, Extra::default()).unwrap();
        let shown: Vec<_> = survey
            .pairs
            .iter()
            .map(|pair| {
                let name = pair.key_file.file_name().unwrap().to_str().unwrap();
                let uses = pair.uses.iter().map(|one| one.name()).collect::<Vec<_>>().join(" ");
                format!("{name} {uses} {}", pair.names.join(" "))
            })
            .collect();
        assert_eq!(
            shown,
            [
                "a.pem tls-server shop",
                "b.pem.key tls-server shop",
                "c.pem.rsa tls12-server shop",
                "c.pem.ecdsa tls12-server shop",
                "d.pem tls13-server d.example lists",
                "p.pem tls13-client far",
            ]
        );
        let listeners: Vec<_> = survey.listeners.iter().map(|(at, name)| format!("{at} {name}")).collect();
        assert_eq!(
            listeners,
            [
                "127.0.0.1:2 d.example",
                "127.0.0.1:443 localhost",
                "127.0.0.2:1 localhost",
                "[::1]:8443 localhost"
            ]
        );
        let notes = survey.notes.join("\n");
        assert!(notes.contains("$HOME/x.pem stays as it is"), "{notes}");
        assert_eq!(notes.matches("offers the RSA key exchange").count(), 1, "{notes}");
        let old = Configuration::of_text(&format!(
            "frontend a\n bind :1 ssl crt {base}/a.pem ssl-max-ver TLSv1.1\n"
        ));
        let refused = super::survey(&old, Extra::default()).err().unwrap();
        assert!(refused.contains("offers neither TLS 1.2 nor TLS 1.3"), "{refused}");
    }
}
