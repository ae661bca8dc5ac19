//! Which use a server needs: by the versions of TLS that it offers, and by what the uses of its key open.

use std::path::Path;

use keyward_proto::{Reference, Use};

use super::Finding;
use super::environment::all_directives;
use super::settings::read_text;
use crate::admin_client::AdminClient;

/// Looks which versions of TLS an nginx.conf offers, and whether it has parameters for DHE. That the file cannot be read is
/// told by the check of its environment.
pub(super) fn of_nginx(nginx_conf: &Path) -> Vec<Finding> {
    const CHECK: &str = "nginx.conf uses";
    let Ok(text) = read_text(nginx_conf) else { return Vec::new() };
    let path = nginx_conf.display();
    let directives = all_directives(&text);
    let with = |name: &str| -> Vec<&Vec<String>> {
        let words = directives.iter().map(|(_, words)| words);
        words.filter(|words| words.first().is_some_and(|first| first == name)).collect()
    };
    let versions = with("ssl_protocols");
    let includes = with("include");
    let parameters = with("ssl_dhparam");
    let mut findings = Vec::new();
    if includes.is_empty() && with("ssl_certificate").is_empty() {
        return findings;
    }
    let offers = |words: &&Vec<String>, version: &str| words[1..].iter().any(|word| word == version);
    if let Some(lacks) = versions.iter().find(|words| !offers(words, TLS13)) {
        findings.push(Finding::warn(
            CHECK,
            format!(
                "{path} has a server without TLS 1.3 ({}): the use tls-server does not sign for it",
                lacks.join(" ")
            ),
            "write ssl_protocols TLSv1.2 TLSv1.3; or give the key (keyward key set-uses) and its grant the use tls12-server, \
             which opens more of what is signed to whoever takes the server over",
        ));
    } else if versions.is_empty() {
        let unread = if includes.is_empty() { "" } else { "; include is not followed" };
        findings.push(Finding::warn(
            CHECK,
            format!(
                "{path} has no ssl_protocols: before 1.23.4 nginx then offers no TLS 1.3, and the use tls-server does not \
                 sign for it{unread}"
            ),
            "write ssl_protocols TLSv1.2 TLSv1.3; in the block http",
        ));
    } else if versions.iter().all(|words| words[1..] == [TLS13]) {
        findings.push(Finding::ok(
            CHECK,
            format!(
                "{path} offers TLS 1.3 alone: tls13-server is enough for key and grant, and leaves less to whoever takes the \
                 server over than tls-server"
            ),
        ));
    } else {
        findings.push(Finding::ok(
            CHECK,
            format!("{path} offers TLS 1.3 in each ssl_protocols: tls-server signs"),
        ));
    }
    if !parameters.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            format!("{path} has ssl_dhparam: DHE needs the use tls12-dhe-server, and a group of RFC 7919 in that file"),
            "take ssl_dhparam out, so that there is ECDHE alone; or make the file with openssl genpkey -genparam \
             -algorithm DH -pkeyopt group:ffdhe2048 and give the key (keyward key set-uses) and its grant the use \
             tls12-dhe-server",
        ));
    }
    findings
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
