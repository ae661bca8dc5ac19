//! Uses that a server needs, by the TLS versions that it offers, and the risks of the uses of its
//! key.

use std::path::Path;

use keyward_proto::{Reference, Use};

use super::files::read_text;
use super::finding::Finding;
use crate::admin::client::AdminClient;
use crate::servers::nginx::NginxConf;

/// Checks the TLS versions that the servers of an nginx.conf offer, and its parameters for DHE. The
/// check of its environment reports a file that cannot be read.
pub(super) fn check_nginx(nginx_conf: &Path) -> Vec<Finding> {
    let check = |text: String| check_nginx_text(nginx_conf, &text, &|_| Vec::new());
    read_text(nginx_conf).map_or_else(|_| Vec::new(), check)
}

/// Does the check of [`check_nginx`] on the text of the file, or of all files of a configuration.
/// `may` has the labels of the keys of a running server that sign for a use, as far as they are
/// known.
pub(super) fn check_nginx_text(
    nginx_conf: &Path,
    text: &str,
    may: &dyn Fn(Use) -> Vec<String>,
) -> Vec<Finding> {
    let path = nginx_conf.display();
    let conf = NginxConf::parse(text);
    let unread = conf.unread_include();
    // Servers of files that are not read inherit from the block http.
    let inherited = conf.blocks_of("http").filter(|_| unread.is_some());
    let versions: Vec<_> =
        tls_servers(&conf).chain(inherited).map(|block| TlsVersions::of(&conf, block)).collect();
    let mut findings = Vec::new();
    if let Some(include) = unread {
        findings.push(Finding::warn(
            NGINX_USES,
            format!("{path} includes {include}, which is not read: servers there may need another use"),
            "check all files: nginx -T > FILE; keyward doctor --nginx-conf FILE",
        ));
    }
    let without_tls13 = versions.iter().find_map(|one| one.lacks_tls13());
    let has_default = versions.iter().any(|one| one.protocols.is_none());
    let allowed = match without_tls13.is_some() || has_default {
        true => may(Use::Tls12Server),
        false => Vec::new(),
    };
    if !allowed.is_empty() {
        findings.push(Finding::ok(
            NGINX_USES,
            format!(
                "{path} has a server that may offer no TLS 1.3, for which tls12-server signs; keys with this use: {}",
                allowed.join(", ")
            ),
        ));
    } else if let Some(why) = without_tls13 {
        findings.push(Finding::warn(
            NGINX_USES,
            format!("{path} has a server without TLS 1.3 ({why}): the use tls-server does not sign for it"),
            "write ssl_protocols TLSv1.2 TLSv1.3; or give its grant the use tls12-server, and the key, with each use to keep \
             (keyward key set-uses LABEL --use tls-server --use tls12-server); then an attacker who controls the server \
             chooses more of the signed bytes",
        ));
    } else if has_default {
        let which = match versions.iter().all(|one| one.protocols.is_none()) {
            true => "has no ssl_protocols",
            false => "has a server without ssl_protocols, in its own block and around it",
        };
        findings.push(Finding::warn(
            NGINX_USES,
            format!(
                "{path} {which}: nginx before 1.23.4 then offers no TLS 1.3, and the use tls-server does not sign for \
                 it"
            ),
            "write ssl_protocols TLSv1.2 TLSv1.3; in the block http",
        ));
    } else if versions.is_empty() || unread.is_some() {
        // There is no server to judge, or the text is incomplete.
    } else if versions.iter().all(TlsVersions::is_tls13_only) {
        findings.push(Finding::ok(
            NGINX_USES,
            format!(
                "{path} offers only TLS 1.3: tls13-server is enough for key and grant, and lets an attacker who controls \
                 the server choose less of the signed bytes than tls-server"
            ),
        ));
    } else {
        findings
            .push(Finding::ok(NGINX_USES, format!("{path} offers TLS 1.3 in each server: tls-server signs")));
    }
    if conf.directives.iter().any(|one| one.is("ssl_dhparam")) && may(Use::Tls12DheServer).is_empty() {
        findings.push(Finding::warn(
            NGINX_USES,
            format!("{path} has ssl_dhparam: DHE needs the use tls12-dhe-server, and a group of RFC 7919 in that file"),
            "remove ssl_dhparam, so that only ECDHE is offered; or make the file with openssl genpkey -genparam \
             -algorithm DH -pkeyopt group:ffdhe2048 and give its grant the use tls12-dhe-server, and the key, with each use \
             to keep: keyward key set-uses LABEL --use tls-server --use tls12-dhe-server",
        ));
    }
    findings
}

/// Numbers of the server blocks that offer TLS.
fn tls_servers(conf: &NginxConf) -> impl Iterator<Item = usize> {
    let offers_tls = |block: &usize| {
        conf.directives.iter().filter(|one| one.within.last() == Some(block)).any(|one| {
            let listens = one.is("listen") && one.words.iter().any(|word| word == "ssl" || word == "quic");
            listens
                || one.is("ssl_certificate")
                || (one.is("ssl") && one.words.iter().any(|word| word == "on"))
        })
    };
    conf.blocks_of("server").filter(offers_tls)
}

/// Directives that decide which TLS versions a server offers.
struct TlsVersions<'a> {
    protocols: Option<&'a [String]>,
    /// The words of each `ssl_conf_command`.
    commands: Vec<&'a [String]>,
}

impl<'a> TlsVersions<'a> {
    fn of(conf: &'a NginxConf, server: usize) -> Self {
        Self {
            protocols: conf.inherited(server, "ssl_protocols").into_iter().next_back(),
            commands: conf.inherited(server, "ssl_conf_command"),
        }
    }

    /// The directive that excludes TLS 1.3, if any does.
    fn lacks_tls13(&self) -> Option<String> {
        let has = |words: &&[String]| words.iter().any(|word| word == TLS13);
        let protocols = self.protocols.filter(|words| !has(words));
        // MaxProtocol excludes later versions. Protocol excludes a version with a minus, or all
        // with
        // -ALL.
        let excludes = |words: &&&[String]| {
            let Some([name, value]) = words.get(1..) else { return false };
            match name.to_ascii_lowercase().as_str() {
                "maxprotocol" => !["TLSv1.3", "None"].iter().any(|one| value.eq_ignore_ascii_case(one)),
                "protocol" => value.contains("-TLSv1.3") || value.contains("-ALL"),
                _ => false,
            }
        };
        protocols.or_else(|| self.commands.iter().find(excludes).copied()).map(|words| words.join(" "))
    }

    fn is_tls13_only(&self) -> bool {
        self.protocols.is_some_and(|words| words[1..] == [TLS13])
    }
}

/// Warns of uses that let a key sign more than TLS 1.3 handshakes. The check of the reference
/// reports a key that the daemon cannot show.
pub(super) fn check_key(admin: &AdminClient, reference: &Reference) -> Vec<Finding> {
    const CHECK: &str = "uses";
    let label = reference.label();
    let Ok(key) = admin.show(label.as_str()) else { return Vec::new() };
    let warning = |one: Use, risk: &str, instead: &str| {
        key.uses.iter().any(|known| known == one.name()).then(|| {
            Finding::warn(
                CHECK,
                format!("key {label} has the use {one}: {risk}"),
                format!("{instead}, where you can"),
            )
        })
    };
    let findings = [
        warning(
            Use::Tls12Server,
            "an attacker who controls the server chooses 64 bytes and the public value of the signed message",
            "offer TLS 1.3 as well and use tls-server, or only TLS 1.3 and use tls13-server",
        ),
        warning(
            Use::Tls12DheServer,
            "an attacker who controls the server chooses 64 bytes and up to 1,024 more of the signed message",
            "drop the DHE ciphers and use tls-server",
        ),
        warning(
            Use::Any,
            "a grant with any lets its user sign every text and every digest, such as programs and tokens",
            "name the uses that are needed",
        ),
    ];
    findings.into_iter().flatten().collect()
}

const NGINX_USES: &str = "nginx.conf uses";
const TLS13: &str = "TLSv1.3";
