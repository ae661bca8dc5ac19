//! Names of certificates: DNS names and addresses.

use core::fmt;
use core::net::IpAddr;

/// Name of a certificate (RFC 8555, 9.7.7; RFC 8738).
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Identifier {
    /// A DNS name in lower case, which may begin with `*.`.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

impl Identifier {
    /// Reads a name of a certificate.
    ///
    /// # Errors
    /// The reason as the end of a sentence.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let name = text.to_ascii_lowercase();
        let host = name.strip_prefix("*.").unwrap_or(&name);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        match name.len() <= 253
            && host.split('.').all(label)
            && !host.rsplit('.').next().is_some_and(is_number)
        {
            true => Ok(Self::Dns(name)),
            false => Err(
                "is neither a DNS name nor an IP address; * stands for the first label only, and a name with other letters has the form xn--...",
            ),
        }
    }

    /// The kind of the name in ACME.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Ip(_) => "ip",
        }
    }

    /// True for a name that can be in the public DNS, and for an address of the Internet.
    pub(super) fn is_public(&self) -> bool {
        match self {
            Self::Dns(name) => {
                name.contains('.') && !name.ends_with(".local") && !name.ends_with(".internal")
            }
            Self::Ip(IpAddr::V4(at)) => {
                !(at.is_private() || at.is_loopback() || at.is_link_local() || at.is_unspecified())
            }
            Self::Ip(IpAddr::V6(at)) => {
                !(at.is_loopback()
                    || at.is_unspecified()
                    || at.is_unique_local()
                    || at.is_unicast_link_local())
            }
        }
    }

    /// True for a name whose first label is a star.
    pub(super) fn is_wildcard(&self) -> bool {
        matches!(self, Self::Dns(name) if name.starts_with("*."))
    }
}
