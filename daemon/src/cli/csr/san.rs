//! Subject alternative names of a certificate (RFC 5280, 4.2.1.6).

use core::net::IpAddr;
use core::str::FromStr;
use std::path::Path;

use der::asn1::Ia5String;
use thiserror::Error;
use x509_cert::ext::pkix::name::GeneralName;

use crate::ground::text::quoted;

/// An alternative name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum San {
    /// Name of a host, or a wildcard for the hosts of a domain.
    Dns(String),
    /// A mailbox.
    Email(String),
    /// Address of a host.
    Ip(IpAddr),
    /// URI of another resource.
    Uri(String),
}

impl San {
    /// GeneralName (RFC 5280, 4.2.1.6).
    ///
    /// # Errors
    /// None for a parsed name, which is short and ASCII.
    pub(super) fn to_general_name(&self) -> der::Result<GeneralName> {
        let ascii = |text: &str| Ia5String::new(text);
        Ok(match self {
            Self::Email(text) => GeneralName::Rfc822Name(ascii(text)?),
            Self::Dns(text) => GeneralName::DnsName(ascii(text)?),
            Self::Uri(text) => GeneralName::UniformResourceIdentifier(ascii(text)?),
            Self::Ip(address) => (*address).into(),
        })
    }
}

impl FromStr for San {
    type Err = InvalidSan;

    /// Reads a name after its kind, as in `DNS:shop.example`. Without a kind the name is an IP
    /// address or a DNS name.
    fn from_str(text: &str) -> Result<Self, InvalidSan> {
        if text.len() > LONGEST {
            return Err(InvalidSan::TooLong);
        }
        let (kind, name) = text.split_once(':').unwrap_or_default();
        match kind.to_ascii_lowercase().as_str() {
            "uri" => uri(name),
            // Only a URI may contain a comma.
            _ if text.contains(',') && !text.contains("://") => Err(InvalidSan::Several),
            "dns" => dns(name, true),
            "email" => email(name),
            "ip" if has_port(name) => Err(InvalidSan::Port),
            "ip" => name.parse().map(Self::Ip).map_err(|_| InvalidSan::Ip),
            _ if text.contains("://") => Err(url(text)),
            _ => match text.parse() {
                Ok(address) => Ok(Self::Ip(address)),
                Err(_) if has_port(text) => Err(InvalidSan::Port),
                Err(_) if text.contains(':') => Err(InvalidSan::Kind),
                Err(_) if text.contains('@') => Err(InvalidSan::KindNeeded("email")),
                Err(_) => dns(text, true),
            },
        }
    }
}

/// A DNS name in the preferred syntax (RFC 1034, 3.5). Underscores are allowed, because they are in
/// use. With `wildcard`, the first label may be a star.
fn dns(name: &str, wildcard: bool) -> Result<San, InvalidSan> {
    if has_port(name) {
        return Err(InvalidSan::Port);
    }
    let fixed = match name.strip_prefix("*.") {
        Some(rest) if wildcard => rest,
        _ => name,
    };
    if !name.is_ascii() {
        return Err(InvalidSan::NotAscii);
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !fixed.split('.').all(label) {
        return Err(InvalidSan::Dns);
    }
    // No top-level domain is a number, so the name is meant as an address.
    match fixed.rsplit('.').next() {
        Some(last) if last.bytes().all(|byte| byte.is_ascii_digit()) => Err(InvalidSan::Ip),
        _ => Ok(San::Dns(name.into())),
    }
}

/// True if a port follows a host. An IPv6 address with a port has brackets; other hosts have a dot,
/// except localhost.
fn has_port(text: &str) -> bool {
    let is_host = |host: &str| {
        host.eq_ignore_ascii_case("localhost")
            || host.starts_with('[') && host.ends_with(']')
            || host.contains('.') && !host.contains(':')
    };
    let number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && number(port))
}

/// A Mailbox of RFC 5321, 4.1.2, without quotes: local part, at sign, domain.
fn email(text: &str) -> Result<San, InvalidSan> {
    let (local, domain) = text.split_once('@').ok_or(InvalidSan::Email)?;
    // atext, RFC 5322, 3.2.3.
    let atext = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    let is_valid =
        local.len() <= 64 && local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(atext));
    match dns(domain, false) {
        Ok(_) if is_valid => Ok(San::Email(text.into())),
        _ => Err(InvalidSan::Email),
    }
}

/// A URI (RFC 3986), checked by its characters only: a scheme and something after it.
fn uri(text: &str) -> Result<San, InvalidSan> {
    let (scheme, rest) = text.split_once(':').ok_or(InvalidSan::Uri)?;
    let is_valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte));
    if is_valid { Ok(San::Uri(text.into())) } else { Err(InvalidSan::Uri) }
}

/// The error for a URI without its kind. Usually its host is meant.
fn url(text: &str) -> InvalidSan {
    let authority =
        text.split_once("://").unwrap_or_default().1.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = if has_port(host) { host.rsplit_once(':').unwrap_or_default().0 } else { host };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match host.parse::<IpAddr>().is_ok() || dns(host, true).is_ok() {
        true => InvalidSan::Url { host: host.into(), uri: text.into() },
        false => InvalidSan::KindNeeded("URI"),
    }
}

/// Longest name with its kind, in bytes. A SPIFFE ID has up to 2048.
const LONGEST: usize = 2052;

/// The reason why a text is not an alternative name.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub(super) enum InvalidSan {
    #[error(
        "not a DNS name: use letters, digits and hyphens between single dots, 253 at most, and * only as the first label"
    )]
    Dns,
    #[error("not a mailbox such as admin@shop.example")]
    Email,
    #[error("not an IP address such as 192.0.2.1 or 2001:db8::1")]
    Ip,
    #[error("unknown kind of name; write DNS:, IP:, email: or URI: before it")]
    Kind,
    #[error("write {0}: before a name of this kind")]
    KindNeeded(&'static str),
    #[error("not a DNS name: write a name with other letters in the form that DNS has, with xn--")]
    NotAscii,
    #[error("leave out the port: a certificate is for a host with all its ports")]
    Port,
    #[error("write one name for each --san: --san a.example --san b.example")]
    Several,
    #[error("longer than {LONGEST} bytes")]
    TooLong,
    #[error("to name the host, write --san {host}; to name the URI itself, write --san {}", quoted(Path::new(&format!("URI:{uri}"))))]
    Url {
        /// The host in the URI.
        host: String,
        /// The whole URI.
        uri: String,
    },
    #[error("not a URI such as spiffe://shop.example/web, in ASCII without spaces")]
    Uri,
}

#[cfg(test)]
mod tests {
    use der::Encode;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_every_kind() {
        for name in [
            "shop.example",
            "*.shop.example",
            "localhost",
            "a-b.c_d.example",
            "1.example",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(name.parse(), Ok(San::Dns(name.into())), "{name}");
            assert_eq!(format!("DNS:{name}").parse(), Ok(San::Dns(name.into())), "{name}");
        }
        for address in ["192.0.2.1", "2001:db8::1", "::1"] {
            let ip = San::Ip(address.parse().unwrap());
            assert_eq!(address.parse().as_ref(), Ok(&ip), "{address}");
            assert_eq!(format!("IP:{address}").parse().as_ref(), Ok(&ip), "{address}");
        }
        assert_eq!("email:a.b+c@shop.example".parse(), Ok(San::Email("a.b+c@shop.example".into())));
        let spiffe = "spiffe://shop.example/web";
        assert_eq!(format!("uri:{spiffe}").parse(), Ok(San::Uri(spiffe.into())));
        assert_eq!("URI:urn:uuid:1".parse(), Ok(San::Uri("urn:uuid:1".into())));
        assert_eq!("URI:https://a:443/b,c".parse(), Ok(San::Uri("https://a:443/b,c".into())));
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, reason) in [
            ("", InvalidSan::Dns),
            ("a..b", InvalidSan::Dns),
            ("shop.example.", InvalidSan::Dns),
            ("-a.example", InvalidSan::Dns),
            ("a b", InvalidSan::Dns),
            ("*", InvalidSan::Dns),
            ("a.*.example", InvalidSan::Dns),
            ("*.*.example", InvalidSan::Dns),
            ("*.", InvalidSan::Dns),
            ("DNS:", InvalidSan::Dns),
            ("bücher.example", InvalidSan::NotAscii),
            ("300.1.1.1", InvalidSan::Ip),
            ("192.0.2", InvalidSan::Ip),
            ("IP:shop.example", InvalidSan::Ip),
            ("IP:192.0.2.1/24", InvalidSan::Ip),
            ("shop.example:443", InvalidSan::Port),
            ("DNS:shop.example:443", InvalidSan::Port),
            ("*.shop.example:443", InvalidSan::Port),
            ("localhost:8443", InvalidSan::Port),
            ("192.0.2.1:443", InvalidSan::Port),
            ("IP:192.0.2.1:443", InvalidSan::Port),
            ("[2001:db8::1]:443", InvalidSan::Port),
            ("IP:[2001:db8::1]:443", InvalidSan::Port),
            ("shop.example:x", InvalidSan::Kind),
            ("a.example,b.example", InvalidSan::Several),
            ("DNS:a.example,DNS:b.example", InvalidSan::Several),
            ("192.0.2.1,192.0.2.2", InvalidSan::Several),
            ("email:a@b.example,email:c@b.example", InvalidSan::Several),
            ("otherName:1", InvalidSan::Kind),
            ("admin@shop.example", InvalidSan::KindNeeded("email")),
            ("spiffe://a b/web", InvalidSan::KindNeeded("URI")),
            ("unix:///run/a.sock", InvalidSan::KindNeeded("URI")),
            ("email:shop.example", InvalidSan::Email),
            ("email:@shop.example", InvalidSan::Email),
            ("email:a@*.example", InvalidSan::Email),
            ("email:a..b@shop.example", InvalidSan::Email),
            ("URI:/relative", InvalidSan::Uri),
            ("URI:1a:b", InvalidSan::Uri),
            ("URI:https://a b", InvalidSan::Uri),
        ] {
            assert_eq!(text.parse::<San>(), Err(reason), "{text:?}");
        }
        assert_eq!(format!("{}.example", "a".repeat(64)).parse::<San>(), Err(InvalidSan::Dns));
        assert_eq!("a.".repeat(127).parse::<San>(), Err(InvalidSan::Dns));
        assert_eq!("a".repeat(LONGEST + 1).parse::<San>(), Err(InvalidSan::TooLong));
    }

    /// Both names in the advice are valid.
    #[test]
    fn a_url_leads_to_its_host() {
        for (text, expected) in [
            ("https://shop.example", "shop.example"),
            ("https://shop.example:8443/cart?a=b,c#d", "shop.example"),
            ("https://me:secret@shop.example/", "shop.example"),
            ("http://192.0.2.1:80", "192.0.2.1"),
            ("https://[2001:db8::1]:443/", "2001:db8::1"),
            ("https://[2001:db8::1]", "2001:db8::1"),
        ] {
            let error = text.parse::<San>().unwrap_err();
            assert_eq!(error, InvalidSan::Url { host: expected.into(), uri: text.into() });
            let message = error.to_string();
            for (words, _) in
                message.split("--san ").skip(1).map(|rest| rest.split_once(';').unwrap_or((rest, "")))
            {
                words.trim_matches('\'').parse::<San>().unwrap_or_else(|error| panic!("{words}: {error}"));
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let der = |text: &str| text.parse::<San>().unwrap().to_general_name().unwrap().to_der().unwrap();
        assert_eq!(der("a.b"), b"\x82\x03a.b");
        assert_eq!(der("192.0.2.1"), [0x87, 4, 192, 0, 2, 1]);
        assert_eq!(der("email:a@b"), b"\x81\x03a@b");
        assert_eq!(der("URI:a:b"), b"\x86\x03a:b");
    }

    proptest! {
        #[test]
        fn parsed_names_are_ascii_and_bounded(text in "(DNS:|IP:|email:|URI:)?[ -~ü]{0,300}") {
            if let Ok(San::Dns(name) | San::Email(name) | San::Uri(name)) = text.parse::<San>() {
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert!(!name.is_empty() && name.len() <= LONGEST && text.ends_with(&name));
            }
        }

        #[test]
        fn every_address_is_parsed(v4: [u8; 4], v6: [u8; 16]) {
            for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                prop_assert_eq!(address.to_string().parse::<San>(), Ok(San::Ip(address)));
            }
        }

        #[test]
        fn every_host_name_is_parsed(labels in prop::collection::vec("[a-z]([a-z0-9-]{0,8}[a-z0-9])?", 1..8)) {
            let name = labels.join(".");
            prop_assert_eq!(name.parse::<San>(), Ok(San::Dns(name)));
        }
    }
}
