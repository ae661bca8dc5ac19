//! Facts about keys in a configuration of nginx: their files, their servers, and the messages that
//! they have to sign.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use keyward_proto::Use;

use super::super::plan::Listener;
use super::super::tls::{self, Extra, KeyExchanges, Versions, is_host};
use crate::servers::nginx::{Configuration, Directive};
use crate::servers::served::{Address, Place};

/// A key that the configuration names, with its certificate.
pub(super) struct Pair<'a> {
    /// The directives of the key: several, if a file is included several times.
    pub(super) keys: Vec<&'a Directive>,
    pub(super) key_file: PathBuf,
    pub(super) certificate: Option<(&'a Directive, PathBuf)>,
    /// Uses that the key needs; empty if no server uses the key.
    pub(super) uses: BTreeSet<Use>,
    /// Names of its servers.
    pub(super) names: Vec<String>,
    /// Addresses and names at which its certificate is shown.
    pub(super) listeners: BTreeSet<Listener>,
    /// Files with passphrases for encrypted keys.
    pub(super) passphrase_files: BTreeSet<PathBuf>,
}

impl Pair<'_> {
    fn has(&self, key: &Directive) -> bool {
        self.keys.iter().any(|own| core::ptr::eq(*own, key))
    }
}

/// The keys and listeners of a configuration.
#[derive(Default)]
pub(super) struct Survey<'a> {
    pub(super) pairs: Vec<Pair<'a>>,
    /// Addresses and names at which a server with TLS answers.
    pub(super) listeners: BTreeSet<Listener>,
    /// Facts that a person should know.
    pub(super) notes: Vec<String>,
}

/// Looks through a configuration. `version` is the version of nginx, as three numbers.
///
/// # Errors
/// The reason why a key cannot move: a server that offers no TLS version of this program.
pub(super) fn survey<'a>(
    conf: &'a Configuration,
    version: [u32; 3],
    extra: Extra,
) -> Result<Survey<'a>, String> {
    let mut survey = Survey::default();
    let all: Vec<Server> =
        conf.conf.blocks_of("server").map(|block| Server::read(conf, block, version)).collect();
    // TLS is a fact of an address: each of its servers has it, if one says so.
    let with_tls: BTreeSet<String> = all.iter().flat_map(|server| server.tls.clone()).collect();
    let servers: Vec<Server> = all
        .into_iter()
        .map(|mut server| {
            server.sockets.retain(|(socket, _)| with_tls.contains(socket));
            server
        })
        .filter(|server| !server.sockets.is_empty())
        .collect();
    for prefix in ["", "proxy_", "grpc_", "uwsgi_"] {
        survey.add_pairs(conf, prefix);
    }
    for server in &servers {
        survey.serve(conf, server, &servers, extra)?;
    }
    for block in conf.conf.blocks_of("server") {
        survey.connect(conf, block);
    }
    Ok(survey)
}

impl<'a> Survey<'a> {
    /// Adds the keys of one kind of directive. The first key of a block belongs to its first
    /// certificate, and so on.
    fn add_pairs(&mut self, conf: &'a Configuration, prefix: &str) {
        let (key_name, certificate_name) =
            (format!("{prefix}ssl_certificate_key"), format!("{prefix}ssl_certificate"));
        let mut certificates: BTreeMap<Option<usize>, Vec<&Directive>> = BTreeMap::new();
        for one in conf.conf.directives.iter().filter(|one| one.is(&certificate_name)) {
            certificates.entry(one.within.last().copied()).or_default().push(one);
        }
        for key in conf.conf.directives.iter().filter(|one| one.is(&key_name)) {
            let mine = certificates.get_mut(&key.within.last().copied()).filter(|mine| !mine.is_empty());
            let certificate = mine.map(|mine| mine.remove(0));
            let Some(value) = key.words.get(1) else { continue };
            if let Some(why) = not_a_file(value) {
                let file =
                    conf.files.get(key.file).map(|file| file.path.display().to_string()).unwrap_or_default();
                self.notes.push(format!("{file}, line {}: {key_name} {value}: {why}", conf.line(key)));
                continue;
            }
            let path = |word: &str| conf.base.join(word);
            let place = |one: &Directive| {
                let file = conf.files.get(one.file).map(|file| file.path.clone());
                (file, one.places.first().map(|place| place.start))
            };
            // One place of one file, which is included again.
            let same =
                |pair: &&mut Pair<'_>| pair.keys.first().is_some_and(|other| place(other) == place(key));
            if let Some(pair) = self.pairs.iter_mut().find(same) {
                pair.keys.push(key);
                continue;
            }
            self.pairs.push(Pair {
                keys: vec![key],
                key_file: path(value),
                certificate: certificate.and_then(|one| {
                    let value = one.words.get(1).filter(|value| not_a_file(value).is_none())?;
                    Some((one, path(value)))
                }),
                uses: BTreeSet::new(),
                names: Vec::new(),
                listeners: BTreeSet::new(),
                passphrase_files: BTreeSet::new(),
            });
        }
    }

    /// The keys of a server with TLS, and its listeners.
    fn serve(
        &mut self,
        conf: &'a Configuration,
        server: &Server,
        all: &[Server],
        extra: Extra,
    ) -> Result<(), String> {
        let keys = conf.conf.inherited_directives(server.block, "ssl_certificate_key");
        let passphrases = conf.conf.inherited_directives(server.block, "ssl_password_file");
        let mut uses = BTreeSet::new();
        // Before nginx knows the name, the first server of the address decides about the version.
        let firsts = server.sockets.iter().filter_map(|(socket, _)| first_at(all, socket));
        let versions: Vec<Versions> = firsts.map(|first| first.versions).chain([server.versions]).collect();
        uses.extend(versions.iter().filter_map(|versions| versions.tls_use()));
        let shown = server.names.first().map_or("a server without a name", String::as_str);
        if uses.is_empty() {
            return Err(format!(
                "{shown} offers neither TLS 1.2 nor TLS 1.3; write ssl_protocols TLSv1.2 TLSv1.3;"
            ));
        }
        if versions.iter().any(|versions| versions.tls12) {
            let has_dh = !conf.conf.inherited(server.block, "ssl_dhparam").is_empty();
            let exchanges =
                KeyExchanges { dh_setting: has_dh.then_some("ssl_dhparam"), ciphers: &server.ciphers };
            let (others, notes) = tls::other_key_exchanges(shown, &exchanges, extra);
            uses.extend(others);
            notes.into_iter().for_each(|note| self.note(note));
        }
        let name =
            server.names.iter().find(|name| is_host(name)).cloned().unwrap_or_else(|| "localhost".into());
        // The PROXY protocol, too, is a fact of an address.
        let is_proxied = |socket: &String| all.iter().any(|other| other.proxied.contains(socket));
        let reachable = server.sockets.iter().filter_map(|(socket, _)| {
            Some(Place { address: address(socket)?, is_proxied: is_proxied(socket) })
        });
        let listeners: Vec<Listener> = reachable.map(|at| (at, name.clone())).collect();
        for key in keys {
            for pair in self.pairs.iter_mut().filter(|pair| pair.has(key)) {
                pair.uses.extend(&uses);
                pair.names.extend(server.names.iter().cloned());
                pair.listeners.extend(listeners.iter().cloned());
                let files = passphrases.iter().filter_map(|one| one.words.get(1));
                pair.passphrase_files.extend(files.map(|file| conf.base.join(file)));
            }
        }
        self.listeners.extend(listeners);
        Ok(())
    }

    /// The keys with which a server connects to others.
    fn connect(&mut self, conf: &'a Configuration, block: usize) {
        for prefix in ["proxy_", "grpc_", "uwsgi_"] {
            // A location may have other protocols than its server.
            let name = format!("{prefix}ssl_protocols");
            let mut protocols = conf.conf.directives.iter().filter(|one| one.is(&name)).peekable();
            let is_tls13 = protocols.peek().is_some() && protocols.all(|one| one.words[1..] == ["TLSv1.3"]);
            let one = if is_tls13 { Use::Tls13Client } else { Use::TlsClient };
            let passphrases = conf.conf.inherited_directives(block, &format!("{prefix}ssl_password_file"));
            // Also in the blocks location inside of the server.
            let name = format!("{prefix}ssl_certificate_key");
            let inherited = conf.conf.inherited_directives(block, &name);
            for pair in &mut self.pairs {
                let is_inside = pair.keys.iter().any(|key| key.is(&name) && key.within.contains(&block));
                if is_inside || inherited.iter().any(|key| pair.has(key)) {
                    pair.uses.insert(one);
                    let files = passphrases.iter().filter_map(|one| one.words.get(1));
                    pair.passphrase_files.extend(files.map(|file| conf.base.join(file)));
                }
            }
        }
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// A block `server` with TLS.
struct Server {
    block: usize,
    /// Addresses, as nginx names them, and true for the default server of an address.
    sockets: Vec<(String, bool)>,
    /// The addresses that the server itself says to have TLS.
    tls: BTreeSet<String>,
    /// The addresses that the server itself says to have the PROXY protocol.
    proxied: BTreeSet<String>,
    names: Vec<String>,
    versions: Versions,
    ciphers: String,
}

impl Server {
    fn read(conf: &Configuration, block: usize, version: [u32; 3]) -> Self {
        let own = || conf.conf.directives.iter().filter(move |one| one.within.last() == Some(&block));
        let is_on = |words: &[String]| words.get(1).is_some_and(|word| word == "on");
        let all_tls = conf.conf.inherited(block, "ssl").last().is_some_and(|words| is_on(words));
        let listens = || own().filter(|one| one.is("listen"));
        let has = |one: &Directive, option: &str| one.words.iter().skip(2).any(|word| word == option);
        let addresses = |all: bool, option: &'static str| {
            let with = listens().filter(move |one| all || has(one, option));
            with.filter_map(|one| one.words.get(1).cloned()).collect()
        };
        let (tls, proxied) = (addresses(all_tls, "ssl"), addresses(false, "proxy_protocol"));
        let sockets: Vec<_> = listens()
            .filter_map(|one| {
                let is_default = one.words.iter().any(|word| word == "default_server" || word == "default");
                Some((one.words.get(1)?.clone(), is_default))
            })
            .collect();
        let names =
            own().filter(|one| one.is("server_name")).flat_map(|one| one.words.iter().skip(1).cloned());
        let names = names.filter(|name| !name.is_empty() && name != "_" && !name.starts_with('~'));
        let ciphers =
            conf.conf.inherited(block, "ssl_ciphers").last().and_then(|words| words.get(1)).cloned();
        Self {
            block,
            sockets,
            tls,
            proxied,
            names: names.collect(),
            versions: versions(conf, block, version),
            ciphers: ciphers.unwrap_or_else(|| DEFAULT_CIPHERS.into()),
        }
    }
}

/// The versions that the block of a server offers.
fn versions(conf: &Configuration, block: usize, version: [u32; 3]) -> Versions {
    let mut versions = match conf.conf.inherited(block, "ssl_protocols").last() {
        Some(words) => Versions {
            tls12: words.iter().any(|word| word == "TLSv1.2"),
            tls13: words.iter().any(|word| word == "TLSv1.3"),
        },
        // TLS 1.3 is a default since 1.23.4 (nginx.org/en/docs/http/ngx_http_ssl_module.html).
        None => Versions { tls12: true, tls13: version >= [1, 23, 4] },
    };
    // SSL_CONF_cmd(3)
    for words in conf.conf.inherited(block, "ssl_conf_command") {
        let [_, name, value, ..] = words else { continue };
        let is = |other: &str| value.eq_ignore_ascii_case(other);
        match name.to_ascii_lowercase().as_str() {
            "maxprotocol" if !is("TLSv1.3") && !is("None") => versions.tls13 = false,
            "minprotocol" if is("TLSv1.3") => versions.tls12 = false,
            "protocol" if value.contains("-TLSv1.3") => versions.tls13 = false,
            "protocol" if value.contains("-TLSv1.2") => versions.tls12 = false,
            _ => {}
        }
    }
    versions
}

/// The server that nginx takes for a socket before it knows the name.
fn first_at<'s>(all: &'s [Server], socket: &str) -> Option<&'s Server> {
    let mut at = all.iter().filter(|server| server.sockets.iter().any(|(other, _)| other == socket));
    let default = at.clone().find(|server| server.sockets.iter().any(|(other, is)| other == socket && *is));
    default.or_else(|| at.next())
}

/// Reason why the value of a directive names no file that could be replaced.
fn not_a_file(value: &str) -> Option<&'static str> {
    let begins = |prefix: &str| value.starts_with(prefix);
    if begins("keyward:") || begins("store:keyward:") {
        Some("the daemon has this key already")
    } else if begins("data:") || begins("engine:") || begins("store:") {
        Some("this is not a file, and stays as it is")
    } else if value.contains('$') {
        Some("nginx chooses the file at each handshake, and the setting stays as it is")
    } else {
        None
    }
}

/// An address of this host at which a socket of nginx answers.
fn address(socket: &str) -> Option<Address> {
    match socket.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(path.into())),
        // Without a port, nginx listens at port 80.
        None => tls::address(socket, 80).map(Address::Tcp),
    }
}

/// The default of ssl_ciphers.
const DEFAULT_CIPHERS: &str = "HIGH:!aNULL:!MD5";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn keys_their_servers_and_the_uses_that_they_need() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().canonicalize().unwrap().join("nginx.conf");
        let text = r#"
events {}
http {
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_certificate all.crt; ssl_certificate_key all.key;
  server { listen 443 ssl default_server; server_name a.example www.a.example;
    ssl_certificate a.crt; ssl_certificate a2.crt; ssl_certificate_key a.key; ssl_certificate_key "a 2.key"; }
  server { listen 443 ssl; server_name *.b.example; }
  server { listen [::]:8443 ssl; server_name c.example; ssl_protocols TLSv1.3; ssl_certificate c.crt; ssl_certificate_key c.key;
    ssl_password_file c.pass;
    location / { proxy_ssl_certificate p.crt; proxy_ssl_certificate_key p.key; } }
  server { listen 9443 ssl; ssl_protocols TLSv1 TLSv1.2; ssl_dhparam dh.pem; ssl_ciphers ECDHE; ssl_certificate d.crt; ssl_certificate_key d.key; }
  server { listen 443 ssl; server_name e.example; ssl_protocols TLSv1.3; ssl_certificate $ssl_server_name.crt; ssl_certificate_key $ssl_server_name.key; }
  server { listen 80; server_name plain.example; }
  server { listen 127.0.0.2:443 ssl proxy_protocol; listen unix:/run/f.sock ssl; server_name f.example; ssl_certificate f.crt; ssl_certificate_key f.key; }
  server { listen 127.0.0.2:443; server_name g.example; }
}
"#;
        fs::write(&main, text).unwrap();
        let dump = format!("# configuration file {}:\n{text}", main.display());
        let conf = Configuration::read(&main, &dump).unwrap();
        let survey = survey(&conf, [1, 22, 1], Extra::default()).unwrap();
        let shown: Vec<_> = survey
            .pairs
            .iter()
            .map(|pair| {
                let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
                let certificate = pair.certificate.as_ref().map(|(_, path)| name(path)).unwrap_or_default();
                let uses = pair.uses.iter().map(|one| one.name()).collect::<Vec<_>>().join(" ");
                (name(&pair.key_file), certificate, uses, pair.names.join(" "), pair.passphrase_files.len())
            })
            .collect();
        let expected = [
            ("all.key", "all.crt", "tls-server", "*.b.example g.example", 0),
            ("a.key", "a.crt", "tls-server", "a.example www.a.example", 0),
            ("a 2.key", "a2.crt", "tls-server", "a.example www.a.example", 0),
            ("c.key", "c.crt", "tls13-server", "c.example", 1),
            ("d.key", "d.crt", "tls12-server", "", 0),
            ("f.key", "f.crt", "tls-server", "f.example", 0),
            ("p.key", "p.crt", "tls-client", "", 0),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(key, certificate, uses, names, files)| {
                (
                    (*key).to_owned(),
                    (*certificate).to_owned(),
                    (*uses).to_owned(),
                    (*names).to_owned(),
                    *files,
                )
            })
            .collect();
        assert_eq!(shown, expected);
        let shown =
            |(at, name): &Listener| format!("{at}{} {name}", if at.is_proxied { " proxied" } else { "" });
        let listeners: Vec<_> = survey.listeners.iter().map(shown).collect();
        assert_eq!(
            listeners,
            [
                "127.0.0.1:443 *.b.example",
                "127.0.0.1:443 a.example",
                "127.0.0.1:443 e.example",
                "127.0.0.1:9443 localhost",
                "127.0.0.2:443 proxied f.example",
                "127.0.0.2:443 proxied g.example",
                "[::1]:8443 c.example",
                "/run/f.sock f.example"
            ]
        );
        let notes = survey.notes.join("\n");
        for words in [
            "line 13: ssl_certificate_key $ssl_server_name.key",
            "ssl_dhparam",
            "a.example offers the RSA key exchange",
        ] {
            assert!(notes.contains(words), "{notes} lacks {words}");
        }
        assert!(!notes.contains("c.example offers"), "{notes}");
        let old = text.replace("TLSv1.2 TLSv1.3", "TLSv1").replace("TLSv1.3", "TLSv1.1");
        fs::write(&main, &old).unwrap();
        let conf = Configuration::read(&main, &dump).unwrap();
        let refused = super::survey(&conf, [1, 22, 1], Extra::default()).err().unwrap();
        assert!(refused.starts_with("a.example offers neither"), "{refused}");
    }
}
