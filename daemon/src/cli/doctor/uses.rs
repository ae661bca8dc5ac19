//! Which use a server needs: by the versions of TLS that it offers, and by what the uses of its key open.

use std::path::Path;

use keyward_proto::{Reference, Use};

use super::Finding;
use super::environment::{Directive, all_directives};
use super::settings::read_text;
use crate::admin::client::AdminClient;

/// Looks which versions of TLS the servers of an nginx.conf offer, and whether it has parameters
/// for DHE. That the file cannot be read is told by the check of its environment.
pub(super) fn of_nginx(nginx_conf: &Path) -> Vec<Finding> {
    read_text(nginx_conf).map_or_else(|_| Vec::new(), |text| of_nginx_text(nginx_conf, &text))
}

/// The same for the text of such a file, or of all files of a configuration.
pub(super) fn of_nginx_text(nginx_conf: &Path, text: &str) -> Vec<Finding> {
    const CHECK: &str = "nginx.conf uses";
    let path = nginx_conf.display();
    let conf = NginxConf::read(text);
    let unread = conf.unread_include();
    // Servers of other files have what stands in the block http.
    let inherited = conf.blocks_of("http").filter(|_| unread.is_some());
    let versions: Vec<_> = conf.tls_servers().chain(inherited).map(|block| conf.versions(block)).collect();
    let mut findings = Vec::new();
    if let Some(include) = unread {
        findings.push(Finding::warn(
            CHECK,
            format!(
                "{path} includes {include}, which is not looked into: servers there may need another use"
            ),
            "look at all of it: nginx -T > FILE; keyward doctor --nginx-conf FILE",
        ));
    }
    if let Some(why) = versions.iter().find_map(|one| one.lacks_tls13()) {
        findings.push(Finding::warn(
            CHECK,
            format!("{path} has a server without TLS 1.3 ({why}): the use tls-server does not sign for it"),
            "write ssl_protocols TLSv1.2 TLSv1.3; or give its grant the use tls12-server, and the key, with each use to keep \
             (keyward key set-uses LABEL --use tls-server --use tls12-server), which opens more of what is signed to whoever takes the server over",
        ));
    } else if versions.iter().any(|one| one.protocols.is_none()) {
        let which = match versions.iter().all(|one| one.protocols.is_none()) {
            true => "has no ssl_protocols",
            false => "has a server without ssl_protocols, in its own block and around it",
        };
        findings.push(Finding::warn(
            CHECK,
            format!(
                "{path} {which}: before 1.23.4 nginx then offers no TLS 1.3, and the use tls-server does not sign for \
                 it"
            ),
            "write ssl_protocols TLSv1.2 TLSv1.3; in the block http",
        ));
    } else if versions.is_empty() || unread.is_some() {
        // Nobody has looked at all of it, or there is nothing to say.
    } else if versions.iter().all(Versions::is_tls13_alone) {
        findings.push(Finding::ok(
            CHECK,
            format!(
                "{path} offers TLS 1.3 alone: tls13-server is enough for key and grant, and leaves less to whoever takes the \
                 server over than tls-server"
            ),
        ));
    } else {
        findings.push(Finding::ok(CHECK, format!("{path} offers TLS 1.3 in each server: tls-server signs")));
    }
    if conf.directives.iter().any(|one| one.is("ssl_dhparam")) {
        findings.push(Finding::warn(
            CHECK,
            format!("{path} has ssl_dhparam: DHE needs the use tls12-dhe-server, and a group of RFC 7919 in that file"),
            "take ssl_dhparam out, so that there is ECDHE alone; or make the file with openssl genpkey -genparam \
             -algorithm DH -pkeyopt group:ffdhe2048 and give its grant the use tls12-dhe-server, and the key, with each use \
             to keep: keyward key set-uses LABEL --use tls-server --use tls12-dhe-server",
        ));
    }
    findings
}

/// An nginx.conf, or all of its files as `nginx -T` shows them: one after the other, so that a
/// server of an included file stands in no block.
struct NginxConf {
    directives: Vec<Directive>,
    blocks: Vec<Vec<String>>,
    is_dump: bool,
}

/// The directives that settle which versions of TLS a server offers.
struct Versions<'a> {
    protocols: Option<&'a [String]>,
    /// The words of each `ssl_conf_command`.
    commands: Vec<&'a [String]>,
}

impl NginxConf {
    fn read(text: &str) -> Self {
        let (directives, blocks) = all_directives(text);
        let is_dump = text.lines().any(|line| line.starts_with("# configuration file "));
        Self { directives, blocks, is_dump }
    }

    /// The places of the blocks of servers that speak TLS.
    fn tls_servers(&self) -> impl Iterator<Item = usize> {
        let speaks_tls = |block: &usize| {
            self.directives.iter().filter(|one| one.within.last() == Some(block)).any(|one| {
                let listens =
                    one.is("listen") && one.words.iter().any(|word| word == "ssl" || word == "quic");
                listens
                    || one.is("ssl_certificate")
                    || (one.is("ssl") && one.words.iter().any(|word| word == "on"))
            })
        };
        self.blocks_of("server").filter(speaks_tls)
    }

    /// The places of the blocks of a name.
    fn blocks_of(&self, name: &str) -> impl Iterator<Item = usize> {
        let blocks = self.blocks.iter().enumerate();
        blocks.filter(move |(_, words)| words[..] == [name]).map(|(place, _)| place)
    }

    /// The versions that a server names, or has from the blocks around it.
    fn versions(&self, server: usize) -> Versions<'_> {
        let around = self.around(server);
        // A directive of the server itself stands in the place of all that it would inherit.
        let nearest = |name: &str| -> Vec<&[String]> {
            let levels = around.iter().rev().map(|level| {
                let here =
                    self.directives.iter().filter(|one| one.is(name) && level.holds(one, &self.blocks));
                here.map(|one| &one.words[..]).collect::<Vec<_>>()
            });
            levels.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
        };
        Versions {
            protocols: nearest("ssl_protocols").into_iter().next_back(),
            commands: nearest("ssl_conf_command"),
        }
    }

    /// The levels from which a server has its directives, its own last.
    fn around(&self, server: usize) -> Vec<Level> {
        let inside = self.directives.iter().find(|one| one.within.contains(&server));
        let blocks = inside.map(|one| one.within.as_slice()).unwrap_or_default();
        let mut blocks: Vec<_> = blocks.iter().copied().take_while(|block| *block != server).collect();
        blocks.push(server);
        let is_alone = self.is_dump && blocks.len() == 1;
        let outer = is_alone.then_some(Level::Http);
        outer.into_iter().chain(blocks.into_iter().map(Level::Block)).collect()
    }

    /// A file that may hold servers or settings of theirs, and is not here.
    fn unread_include(&self) -> Option<&str> {
        let mut included = self.directives.iter().filter(|one| one.is("include") && !self.is_dump);
        let holds_other = |file: &str| file.ends_with("mime.types") || file.ends_with("_params");
        included.find_map(|one| one.words.get(1).map(String::as_str).filter(|file| !holds_other(file)))
    }
}

/// Where a directive must stand to count.
enum Level {
    /// In a block itself.
    Block(usize),
    /// In the block http, or at the top of a file that it may include.
    Http,
}

impl Level {
    fn holds(&self, one: &Directive, blocks: &[Vec<String>]) -> bool {
        match (self, one.within.as_slice()) {
            (Self::Block(block), [.., last]) => last == block,
            (Self::Block(_), []) => false,
            (Self::Http, []) => true,
            (Self::Http, [outer]) => blocks.get(*outer).is_some_and(|words| words[..] == ["http"]),
            (Self::Http, _) => false,
        }
    }
}

impl Directive {
    fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|first| first == name)
    }
}

impl Versions<'_> {
    /// The setting that leaves TLS 1.3 out, if one does.
    fn lacks_tls13(&self) -> Option<String> {
        let has = |words: &&[String]| words.iter().any(|word| word == TLS13);
        let protocols = self.protocols.filter(|words| !has(words));
        // MaxProtocol leaves the later ones out; Protocol takes one out by a minus, or all that it
        // does not name.
        let leaves_out = |words: &&&[String]| {
            let Some([name, value]) = words.get(1..) else { return false };
            match name.to_ascii_lowercase().as_str() {
                "maxprotocol" => !["TLSv1.3", "None"].iter().any(|one| value.eq_ignore_ascii_case(one)),
                "protocol" => value.contains("-TLSv1.3") || value.contains("-ALL"),
                _ => false,
            }
        };
        protocols.or_else(|| self.commands.iter().find(leaves_out).copied()).map(|words| words.join(" "))
    }

    fn is_tls13_alone(&self) -> bool {
        self.protocols.is_some_and(|words| words[1..] == [TLS13])
    }
}

/// Says what the uses of a key open beyond handshakes of TLS 1.3. That the key cannot be asked about is told of the reference.
pub(super) fn of_key(admin: &AdminClient, reference: &Reference) -> Vec<Finding> {
    const CHECK: &str = "uses";
    let label = reference.label();
    let Ok(key) = admin.show(label.as_str()) else { return Vec::new() };
    let opened = |one: Use, opens: &str, instead: &str| {
        key.uses.iter().any(|known| known == one.name()).then(|| {
            Finding::warn(
                CHECK,
                format!("key {label} has the use {one}: {opens}"),
                format!("{instead}, where you can"),
            )
        })
    };
    let findings = [
        opened(
            Use::Tls12Server,
            "someone who drives the server chooses 64 bytes and the public value of what is signed",
            "offer TLS 1.3 as well and take tls-server, or TLS 1.3 alone and take tls13-server",
        ),
        opened(
            Use::Tls12DheServer,
            "someone who drives the server chooses 64 bytes and up to 1,024 more of what is signed",
            "drop the DHE ciphers and take tls-server",
        ),
        opened(
            Use::Any,
            "a grant with any has every text and every digest signed, programs and tokens too",
            "name the uses that are needed",
        ),
    ];
    findings.into_iter().flatten().collect()
}

const TLS13: &str = "TLSv1.3";
