//! The messages that the key of a server with TLS has to sign, and the addresses at which its
//! certificate is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::Command;

use keyward_proto::{KeyType, Use};

use super::plan::{Listener, Probe, Probes};
use crate::servers::served::{Client, Family};

/// Uses that a person may add.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extra {
    pub(super) dhe: bool,
    pub(super) rsa_key_exchange: bool,
}

/// TLS versions that a server offers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Versions {
    pub(super) tls12: bool,
    pub(super) tls13: bool,
}

impl Versions {
    /// The use that allows the signatures of these versions.
    pub(super) fn tls_use(self) -> Option<Use> {
        match (self.tls12, self.tls13) {
            (true, true) => Some(Use::TlsServer),
            (false, true) => Some(Use::Tls13Server),
            (true, false) => Some(Use::Tls12Server),
            (false, false) => None,
        }
    }
}

/// Settings of a server that lead to key exchanges of TLS 1.2 beside ECDHE.
pub(super) struct KeyExchanges<'a> {
    /// The setting with DH parameters, if there is one.
    pub(super) dh_setting: Option<&'a str>,
    /// The list of ciphers, in the words of OpenSSL.
    pub(super) ciphers: &'a str,
}

/// Uses for the key exchanges of TLS 1.2 beside ECDHE, and notes about the ones that are left out.
/// `shown` is the server, for people.
pub(super) fn other_key_exchanges(
    shown: &str,
    exchanges: &KeyExchanges<'_>,
    extra: Extra,
) -> (BTreeSet<Use>, Vec<String>) {
    let (mut uses, mut notes) = (BTreeSet::new(), Vec::new());
    if let Some(setting) = exchanges.dh_setting {
        match extra.dhe {
            true => drop(uses.insert(Use::Tls12DheServer)),
            false => notes.push(format!(
                "{shown} has {setting}; handshakes with DHE will fail, and clients then use ECDHE; --with-dhe keeps DHE, for a group of RFC 7919"
            )),
        }
    }
    if offers(exchanges.ciphers, "Kx=RSA") {
        match extra.rsa_key_exchange {
            true => drop(uses.insert(Use::RsaKeyExchange)),
            false => notes.push(format!(
                "{shown} offers the RSA key exchange of TLS 1.2, which every client that is not very old avoids; it will fail; --with-rsa-key-exchange keeps it, for RSA keys"
            )),
        }
    }
    (uses, notes)
}

/// True if a list of ciphers offers a key exchange, such as `Kx=RSA`, or may do so. OpenSSL decides
/// about its own words (openssl-ciphers(1), -v).
pub(super) fn offers(ciphers: &str, key_exchange: &str) -> bool {
    // The list may come from somebody whose code must not run here: it is no option, which could
    // load a provider from a file.
    let mut openssl = Command::new("openssl");
    openssl.args(["ciphers", "-v", "--", ciphers]).env("OPENSSL_CONF", "/dev/null");
    let listed = openssl.output();
    listed.map_or(true, |listed| String::from_utf8_lossy(&listed.stdout).contains(key_exchange))
}

/// Handshakes with listeners, for each kind of keys: with the first listener of each of these key
/// files, and with the first of all listeners up to [`MOST_LISTENERS`].
pub(super) fn probes<'a>(
    of_keys: impl Iterator<Item = (&'a Path, &'a BTreeSet<Listener>)>,
    all: &'a BTreeSet<Listener>,
) -> Probes {
    // A key file may stand in many places of a configuration.
    let mut firsts: BTreeMap<&Path, &Listener> = BTreeMap::new();
    for (file, first) in of_keys.filter_map(|(file, listeners)| Some((file, listeners.first()?))) {
        let known = firsts.entry(file).or_insert(first);
        *known = first.min(known);
    }
    let mut chosen: BTreeSet<&Listener> = firsts.into_values().collect();
    let more = MOST_LISTENERS.saturating_sub(chosen.len());
    let others: Vec<_> = all.iter().filter(|listener| !chosen.contains(listener)).take(more).collect();
    chosen.extend(others);
    let families = [Family::Curves, Family::Rsa];
    let clients = families.into_iter().flat_map(|family| [true, false].map(|tls13| Client { family, tls13 }));
    let clients: Vec<_> = clients.collect();
    let of = |(at, name): &Listener| {
        let (at, name) = (at.clone(), name.clone());
        clients.iter().map(move |client| Probe { at: at.clone(), name: name.clone(), client: *client })
    };
    Probes {
        compared: chosen.len(),
        listeners: all.len().max(chosen.len()),
        all: chosen.into_iter().flat_map(of).collect(),
    }
}

/// An address of this host at which a socket answers that a configuration names as `PORT`,
/// `*:PORT`, `ADDRESS:PORT`, or as an address alone, with a port that is usual then.
pub(super) fn address(socket: &str, usual_port: u16) -> Option<SocketAddr> {
    if let Ok(port) = socket.parse::<u16>() {
        return Some((Ipv4Addr::LOCALHOST, port).into());
    }
    if let Some(port) = socket.strip_prefix("*:") {
        return Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into());
    }
    let at: SocketAddr = match socket.parse() {
        Ok(at) => at,
        // A name is one of this host.
        Err(_) => match socket.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => (ip, usual_port).into(),
            Err(_) if socket.contains(':') => socket.to_socket_addrs().ok()?.next()?,
            Err(_) => (socket, usual_port).to_socket_addrs().ok()?.next()?,
        },
    };
    Some(match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, at.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, at.port()).into(),
        _ => at,
    })
}

/// True for a name that a client can ask for. A star stands for any name.
pub(super) fn is_host(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    !name.is_empty() && !name.starts_with('.') && !name.contains(['*', '$', '"'])
}

/// True for an RSA key, which alone decrypts.
pub(super) fn is_rsa(key_type: KeyType) -> bool {
    key_type.to_string().starts_with("rsa")
}

/// Number of listeners that are compared, unless there are more keys: each handshake takes a
/// millisecond or more.
const MOST_LISTENERS: usize = 500;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::servers::served::{Address, Place};

    /// Option of the program: it would list the ciphers with PSK beside the usual ones.
    #[test]
    fn a_list_of_ciphers_is_no_option() {
        assert!(offers("AES128-SHA", "Kx=RSA") && !offers("ECDHE+AESGCM", "Kx=RSA "));
        assert!(!offers("-psk", "Kx=RSA"));
    }

    #[test]
    fn of_many_listeners_each_key_has_one_that_is_compared() {
        let place = || Place { address: Address::Tcp(([127, 0, 0, 1], 443).into()), is_proxied: false };
        let listener = |number: usize| (place(), format!("{number:04}.example"));
        let all: BTreeSet<Listener> = (0..700).map(listener).collect();
        let key = |numbers: [usize; 2]| numbers.map(listener).into_iter().collect::<BTreeSet<_>>();
        let keys = [key([1, 2]), key([699, 650]), BTreeSet::new(), key([660, 651]), key([670, 670])];
        let files = ["a", "b", "c", "b", "d"].map(Path::new);
        let probes = probes(files.into_iter().zip(&keys), &all);
        assert_eq!((probes.compared, probes.listeners, probes.all.len()), (500, 700, 2000));
        let has = |number: usize| probes.all.iter().any(|probe| probe.name == listener(number).1);
        assert!([0, 1, 2, 497, 650, 670].into_iter().all(has) && !has(498) && !has(651) && !has(699));
        assert_eq!(
            probes.part(),
            ", at 500 of 700 listeners, with one for each key; the others are not compared"
        );
        // A key is not left out for the number of listeners.
        let keys: Vec<_> =
            (0..600).map(|number| (PathBuf::from(format!("{number}")), key([number, number]))).collect();
        let of_keys = || keys.iter().map(|(file, listeners)| (file.as_path(), listeners));
        assert_eq!(super::probes(of_keys(), &all).compared, 600);
        let few = super::probes(of_keys().take(3), &keys[1].1);
        assert_eq!((few.compared, few.part()), (3, String::new()));
    }
}
