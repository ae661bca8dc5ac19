//! Facts about keys in a configuration of Apache: their files, their virtual hosts, and the
//! messages that they have to sign.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use keyward_proto::Use;

use super::super::plan::Listener;
use super::super::tls::{self, Extra, KeyExchanges, Versions, is_host, offers};
use crate::servers::apache::{Configuration, Directive};
use crate::servers::served::Place;

/// A key that the configuration names, with its certificate.
pub(super) struct Pair<'a> {
    /// The directives of the key: several, if several hosts name the file; none if the key is in
    /// the file of its certificate.
    pub(super) directives: Vec<&'a Directive>,
    pub(super) key_file: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) uses: BTreeSet<Use>,
    /// Names of its hosts.
    pub(super) names: Vec<String>,
    /// Addresses and names at which its certificate is shown.
    pub(super) listeners: BTreeSet<Listener>,
}

/// The keys and listeners of a configuration.
#[derive(Default)]
pub(super) struct Survey<'a> {
    pub(super) pairs: Vec<Pair<'a>>,
    /// Addresses and names at which a host with TLS answers.
    pub(super) listeners: BTreeSet<Listener>,
    /// Facts that a person should know.
    pub(super) notes: Vec<String>,
}

/// Looks through a configuration.
///
/// # Errors
/// The reason why a key cannot move.
pub(super) fn survey(conf: &Configuration, extra: Extra) -> Result<Survey<'_>, String> {
    let mut survey = Survey::default();
    // The server outside of all virtual hosts is one, too.
    let hosts = [None].into_iter().chain((0..conf.hosts.len()).map(Some));
    for host in hosts.filter(|host| has_tls(conf, *host)) {
        survey.serve(conf, host, extra)?;
    }
    for one in &conf.directives {
        let is_key = |name: &String| name.eq_ignore_ascii_case("PrivateKey");
        let why = match &*one.name {
            "sslproxymachinecertificatefile" => "Apache reads that key without a provider",
            "mdcertificatekeyfile" | "mdomain" => "mod_md has keys of its own",
            "sslopensslconfcmd" if one.arguments.first().is_some_and(is_key) => {
                "this command does not read it"
            }
            _ => continue,
        };
        survey.note(format!("{} {} stays as it is: {why}", one.name, one.arguments.join(" ")));
    }
    Ok(survey)
}

impl<'a> Survey<'a> {
    /// The keys of a virtual host, and its listeners.
    fn serve(&mut self, conf: &'a Configuration, host: Option<usize>, extra: Extra) -> Result<(), String> {
        let of = |name: &'static str| conf.own(host, name);
        let first = |one: &Directive| one.arguments.first().cloned().unwrap_or_default();
        let names: Vec<String> = of("servername")
            .chain(of("serveralias"))
            .flat_map(|one| one.arguments.iter().map(|name| bare(name)))
            .collect();
        let shown = names.first().cloned().unwrap_or_else(|| conf.addresses(host).join(" "));
        // The first host of an address decides about the version before the name is known.
        let own = conf.addresses(host);
        let same = |other: &usize| conf.addresses(Some(*other)).iter().any(|at| own.contains(at));
        let leader = (0..host.unwrap_or(0)).find(same).map_or(host, Some);
        let mut uses = BTreeSet::new();
        let mut has_tls12 = false;
        for one in [leader, host] {
            let versions = versions(conf, one);
            let Some(tls) = versions.tls_use() else {
                return Err(format!(
                    "{shown} offers neither TLS 1.2 nor TLS 1.3; write SSLProtocol -all +TLSv1.2 +TLSv1.3"
                ));
            };
            uses.insert(tls);
            has_tls12 |= versions.tls12;
        }
        if has_tls12 {
            let suites = |at| {
                let of_tls12 = |one: &&Directive| one.arguments.len() == 1 || one.arguments[0] == "SSL";
                conf.own(at, "sslciphersuite").filter(of_tls12).last()
            };
            let suite = suites(host).or_else(|| suites(None));
            let ciphers = suite.and_then(|one| one.arguments.last()).map_or(DEFAULT_CIPHERS, String::as_str);
            // Apache has parameters of its own for DH.
            let has_dh = offers(ciphers, "Kx=DH ");
            let exchanges =
                KeyExchanges { dh_setting: has_dh.then_some("ciphers with DHE (SSLCipherSuite)"), ciphers };
            let (others, notes) = tls::other_key_exchanges(&shown, &exchanges, extra);
            uses.extend(others);
            notes.into_iter().for_each(|note| self.note(note));
        }
        // The files of the host take the places of those at the top, one by one.
        let merged = |name: &'static str| {
            let (base, own): (Vec<_>, Vec<_>) = (conf.own(None, name).collect(), of(name).collect());
            let count = base.len().max(own.len());
            (0..count).filter_map(|at| own.get(at).or(base.get(at)).copied()).collect::<Vec<_>>()
        };
        let name = names.iter().find(|name| is_host(name)).cloned().unwrap_or_else(|| "localhost".into());
        let at = own.iter().flat_map(|address| addresses(conf, address));
        let proxied = conf.inherited(host, "remoteipproxyprotocol").and_then(|one| one.arguments.first());
        let is_proxied = proxied.is_some_and(|word| word.eq_ignore_ascii_case("on"));
        let listeners: Vec<Listener> =
            at.map(|at| (Place { address: at.into(), is_proxied }, name.clone())).collect();
        let (certificates, keys) = (merged("sslcertificatefile"), merged("sslcertificatekeyfile"));
        for (at, certificate) in certificates.into_iter().enumerate() {
            let key = keys.get(at).copied();
            let value = first(key.unwrap_or(certificate));
            if let Some(why) = not_a_file(&value).or_else(|| not_a_file(&first(certificate))) {
                self.note(format!("{shown}: {value} stays as it is: {why}"));
                continue;
            }
            let key_file = conf.path(&value);
            let at = self.pairs.iter().position(|pair| pair.key_file == key_file);
            let at = at.unwrap_or_else(|| {
                self.pairs.push(Pair {
                    directives: Vec::new(),
                    key_file,
                    certificate: conf.path(&first(certificate)),
                    uses: BTreeSet::new(),
                    names: Vec::new(),
                    listeners: BTreeSet::new(),
                });
                self.pairs.len() - 1
            });
            let pair = &mut self.pairs[at];
            pair.directives.extend(key);
            pair.uses.extend(&uses);
            pair.names.extend(names.iter().cloned());
            pair.listeners.extend(listeners.iter().cloned());
        }
        self.listeners.extend(listeners);
        Ok(())
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// True if a host has TLS: by SSLEngine, or without that because Listen names the protocol https,
/// as it does for port 443 by itself.
fn has_tls(conf: &Configuration, host: Option<usize>) -> bool {
    let engine = conf.inherited(host, "sslengine").and_then(|one| one.arguments.first());
    if let Some(engine) = engine {
        return ["on", "optional"].iter().any(|on| engine.eq_ignore_ascii_case(on));
    }
    let port = |address: &str| address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    let is_https = |address: &String| {
        port(address) == Some(443)
            || conf.own(None, "listen").any(|one| {
                one.arguments.get(1).is_some_and(|protocol| protocol.eq_ignore_ascii_case("https"))
                    && one.arguments.first().and_then(|at| port(at)) == port(address)
            })
    };
    conf.inherited(host, "sslcertificatefile").is_some() && conf.addresses(host).iter().any(is_https)
}

/// The versions that a host offers (mod_ssl, SSLProtocol): a word without a sign replaces the words
/// before it.
fn versions(conf: &Configuration, host: Option<usize>) -> Versions {
    let all = Versions { tls12: true, tls13: true };
    let mut versions = all;
    if let Some(one) = conf.inherited(host, "sslprotocol") {
        versions = Versions::default();
        for word in &one.arguments {
            let name = word.trim_start_matches(['+', '-']).to_ascii_lowercase();
            let (tls12, tls13) = (["all", "tlsv1.2"].contains(&&*name), ["all", "tlsv1.3"].contains(&&*name));
            match word.as_bytes().first() {
                Some(b'-') => {
                    versions = Versions { tls12: versions.tls12 && !tls12, tls13: versions.tls13 && !tls13 }
                }
                Some(b'+') => {
                    versions = Versions { tls12: versions.tls12 || tls12, tls13: versions.tls13 || tls13 }
                }
                _ => versions = Versions { tls12, tls13 },
            }
        }
    }
    // SSL_CONF_cmd(3)
    for one in [None, host].into_iter().flat_map(|host| conf.own(host, "sslopensslconfcmd")) {
        let [name, value, ..] = one.arguments.as_slice() else { continue };
        match &*name.to_ascii_lowercase() {
            "minprotocol" => versions.tls12 &= !value.eq_ignore_ascii_case("TLSv1.3"),
            "maxprotocol" => versions.tls13 &= value.eq_ignore_ascii_case("TLSv1.3"),
            _ => {}
        }
    }
    versions
}

/// Reason why the value of a directive names no file that could be replaced.
fn not_a_file(value: &str) -> Option<&'static str> {
    match value.split_once(':') {
        Some(("keyward", _)) => Some("the daemon has this key already"),
        Some((scheme, _)) if !scheme.contains('/') => Some("this is not a file"),
        _ => None,
    }
}

/// A name without scheme and port.
fn bare(name: &str) -> String {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    name.split(':').next().unwrap_or(name).to_owned()
}

/// Addresses of this host at which a virtual host answers: its own ones, or those of the directives
/// Listen with its port.
fn addresses(conf: &Configuration, host: &str) -> Vec<SocketAddr> {
    let Some((name, port)) = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) else {
        return Vec::new();
    };
    if !["*", "_default_"].contains(&name) {
        return tls::address(host, 0).into_iter().collect();
    }
    let listens = conf.own(None, "listen").filter_map(|one| one.arguments.first());
    let with_port = listens.filter(|at| at.rsplit(':').next() == Some(port));
    with_port.filter_map(|at| tls::address(at, 0)).collect()
}

/// The default of OpenSSL (openssl-ciphers(1)).
const DEFAULT_CIPHERS: &str = "DEFAULT";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A configuration in one file, as Apache shows it.
    fn dump(lines: &[&str]) -> String {
        let numbered = lines.iter().enumerate().map(|(at, line)| format!("#   {}:\n{line}\n", at + 1));
        format!("# In file: /etc/apache2/a.conf\n{}", numbered.collect::<String>())
    }

    #[test]
    fn keys_their_hosts_and_the_uses_that_they_need() {
        let dump = dump(&[
            "Listen 127.0.0.1:443",
            "Listen [::]:8443",
            "SSLCipherSuite ECDHE+AESGCM",
            "SSLProtocol all -TLSv1.1",
            "<VirtualHost *:443>",
            "ServerName https://a.example:443",
            "ServerAlias www.a.example",
            "SSLEngine on",
            "SSLCertificateFile ssl/a.crt",
            "SSLCertificateKeyFile ssl/a.key",
            "SSLCertificateFile ssl/a2.crt",
            "SSLCertificateKeyFile \"ssl/a 2.key\"",
            "</VirtualHost>",
            "<VirtualHost *:443>",
            "ServerName b.example",
            "SSLEngine on",
            "SSLProtocol TLSv1.3",
            "SSLCertificateFile /b.pem",
            "</VirtualHost>",
            "<VirtualHost _default_:8443>",
            "SSLEngine on",
            "SSLCipherSuite DEFAULT",
            "SSLCertificateFile /c.crt",
            "SSLCertificateKeyFile pkcs11:object=c",
            "SSLProtocol -all +TLSv1.2",
            "</VirtualHost>",
            "<VirtualHost *:80>",
            "ServerName plain.example",
            "</VirtualHost>",
            "Listen 127.0.0.1:9443 https",
            "<VirtualHost 127.0.0.1:9443>",
            "ServerName d.example",
            "SSLCertificateFile /d.crt",
            "SSLCertificateKeyFile /d.key",
            "</VirtualHost>",
            "<VirtualHost 127.0.0.2:9443>",
            "SSLEngine on",
            "ServerName e.example",
            "RemoteIPProxyProtocol On",
            "SSLCertificateFile /d.crt",
            "SSLCertificateKeyFile /d.key",
            "</VirtualHost>",
            "MDCertificateKeyFile /md.key",
        ]);
        let conf = Configuration::parse(&dump, Path::new("/etc/apache2"));
        let survey = survey(&conf, Extra::default()).unwrap();
        let shown: Vec<_> = survey
            .pairs
            .iter()
            .map(|pair| {
                let uses = pair.uses.iter().map(|one| one.name()).collect::<Vec<_>>().join(" ");
                format!(
                    "{} {} {uses} {}",
                    pair.key_file.display(),
                    pair.directives.len(),
                    pair.names.join(" ")
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "/etc/apache2/ssl/a.key 1 tls-server a.example www.a.example",
                "/etc/apache2/ssl/a 2.key 1 tls-server a.example www.a.example",
                "/b.pem 0 tls-server tls13-server b.example",
                "/d.key 2 tls-server d.example e.example",
            ]
        );
        let listeners: Vec<_> = survey.listeners.iter().map(|(at, name)| format!("{at} {name}")).collect();
        assert_eq!(
            listeners,
            [
                "127.0.0.1:443 a.example",
                "127.0.0.1:443 b.example",
                "127.0.0.1:9443 d.example",
                "127.0.0.2:9443 e.example",
                "[::1]:8443 localhost"
            ]
        );
        let proxied: Vec<_> = survey.listeners.iter().filter(|(at, _)| at.is_proxied).collect();
        assert!(matches!(proxied.as_slice(), [(_, name)] if name == "e.example"));
        let notes = survey.notes.join("\n");
        for words in [
            "pkcs11:object=c stays",
            "mdcertificatekeyfile /md.key stays",
            "offers the RSA key exchange",
            "ciphers with DHE",
        ] {
            assert_eq!(notes.matches(words).count(), 1, "{notes} and {words}");
        }
        let old = Configuration::parse(&dump.replace("all -TLSv1.1", "TLSv1.1"), Path::new("/"));
        let refused = super::survey(&old, Extra::default()).err().unwrap();
        assert!(refused.starts_with("a.example offers neither"), "{refused}");
    }

    #[test]
    fn the_server_outside_of_virtual_hosts_counts() {
        let text = dump(&[
            "Listen 127.0.0.1:443",
            "ServerName main.example",
            "SSLEngine on",
            "SSLCertificateFile /m.crt",
            "SSLCertificateKeyFile /m.key",
        ]);
        let conf = Configuration::parse(&text, Path::new("/etc/apache2"));
        let survey = survey(&conf, Extra::default()).unwrap();
        assert_eq!(survey.pairs.len(), 1);
        assert_eq!(survey.pairs[0].names, ["main.example"]);
        let listeners: Vec<_> = survey.listeners.iter().map(|(at, name)| format!("{at} {name}")).collect();
        assert_eq!(listeners, ["127.0.0.1:443 main.example"]);
    }
}
