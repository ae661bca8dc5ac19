//! `[ca.NAME]`: an authority that issues certificates by ACME (RFC 8555).

use std::collections::BTreeMap;
use std::path::PathBuf;

use keyward_plans::origin;
use keyward_proto::Label;
use serde::{Deserialize, Serialize};

use super::error::InvalidSetting;

/// An authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    /// URL of the directory (RFC 8555, 7.1.1).
    pub directory: String,
    /// PEM file with the roots of the server of the directory; `None` for the roots of the system.
    pub root: Option<PathBuf>,
    /// URLs by which the authority can reach the owner of the account, such as `mailto:`.
    pub contact: Vec<String>,
    /// Label of the account key.
    pub account_key: Label,
    /// Account that the owner has at the authority already (RFC 8555, 7.3.4).
    pub binding: Option<Binding>,
}

/// External account binding: its key id, and the file with its MAC key in base64url.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binding {
    /// The key id that the authority gave.
    pub kid: String,
    /// File with the MAC key.
    pub key: PathBuf,
}

impl Authority {
    /// Scheme, host and port of the directory. Every URL of the authority begins with it.
    pub fn origin(&self) -> &str {
        origin(&self.directory).unwrap_or_default()
    }

    /// Host of the directory: in lower case, without the port of HTTPS and a dot at the end.
    pub fn host(&self) -> String {
        let host = self.origin().trim_start_matches("https://").to_ascii_lowercase();
        host.strip_suffix(":443").unwrap_or(&host).trim_end_matches('.').to_owned()
    }

    /// True for an authority to whose roots every system leads.
    pub fn is_trusted(&self) -> bool {
        self.is_public() && !UNTRUSTED.contains(&self.host().as_str())
    }

    /// True for an authority of the Internet, which may issue for RSA and
    /// ECDSA only (Baseline Requirements of the CA/Browser Forum, 6.1.5).
    pub fn is_public(&self) -> bool {
        PUBLIC.contains(&self.host().as_str())
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct RawAuthority {
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    contact: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding_key: Option<PathBuf>,
}

impl RawAuthority {
    /// The text of a checked authority.
    pub(super) fn of(checked: &Authority) -> Self {
        let (binding_id, binding_key) = match &checked.binding {
            Some(Binding { kid, key }) => (Some(kid.clone()), Some(key.clone())),
            None => (None, None),
        };
        Self {
            directory: Some(checked.directory.clone()),
            root: checked.root.clone(),
            contact: checked.contact.clone(),
            account_key: Some(checked.account_key.to_string()),
            binding_id,
            binding_key,
        }
    }

    fn check(self, name: &str) -> Result<Authority, InvalidSetting> {
        let section = format!("ca.{name}");
        let wrong =
            |setting: &str, reason: String| InvalidSetting::new(format!("{section}.{setting}"), reason);
        let known = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, url)| (*url).to_owned());
        let directory = self.directory.or(known).ok_or_else(|| {
            wrong("directory", "name the directory of the authority: https://HOST/PATH".into())
        })?;
        if origin(&directory).is_none() {
            return Err(wrong(
                "directory",
                format!("{directory:?} is not a URL like https://ca.example/acme/directory"),
            ));
        }
        for (setting, path) in [("root", &self.root), ("binding-key", &self.binding_key)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return Err(wrong(setting, format!("{} is not an absolute path", path.display())));
            }
        }
        let is_contact = |one: &String| {
            one.len() <= MAX_CONTACT && one.contains(':') && one.bytes().all(|b| b.is_ascii_graphic())
        };
        if let Some(other) = self.contact.iter().find(|one| !is_contact(one)) {
            return Err(wrong("contact", format!("{other:?} is not a URL like mailto:admin@shop.example")));
        }
        if self.contact.len() > MAX_CONTACTS {
            return Err(wrong("contact", format!("name at most {MAX_CONTACTS}")));
        }
        let account_key = self.account_key.unwrap_or_else(|| format!("acme-account-{name}"));
        let account_key = account_key
            .parse()
            .map_err(|error| wrong("account-key", format!("{account_key:?} is {error}")))?;
        let binding = match (self.binding_id, self.binding_key) {
            (Some(kid), Some(key)) => Some(Binding { kid, key }),
            (None, None) => None,
            _ => return Err(wrong("binding-id", "name binding-id and binding-key, or neither".into())),
        };
        Ok(Authority { directory, root: self.root, contact: self.contact, account_key, binding })
    }
}

/// The authorities that need no section.
pub(super) fn known() -> BTreeMap<String, Authority> {
    check(BTreeMap::new()).unwrap_or_default()
}

/// Checks all sections. The known authorities are there without a section.
pub(super) fn check(
    raw: BTreeMap<String, RawAuthority>,
) -> Result<BTreeMap<String, Authority>, InvalidSetting> {
    let mut raw = raw;
    for (name, _) in KNOWN {
        raw.entry(name.to_owned()).or_default();
    }
    let mut checked = BTreeMap::new();
    for (name, section) in raw {
        let authority = section.check(&name)?;
        checked.insert(name, authority);
    }
    Ok(checked)
}

/// Authorities that need no section, and their directories.
const KNOWN: [(&str, &str); 2] = [
    ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
    ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
];
/// Hosts of public authorities that speak ACME.
const PUBLIC: [&str; 8] = [
    "acme-v02.api.letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org",
    "dv.acme-v02.api.pki.goog",
    "dv.acme-v02.test-api.pki.goog",
    "acme.zerossl.com",
    "acme.ssl.com",
    "acme.sectigo.com",
    "acme.digicert.com",
];
/// Hosts among these that are for tests, whose roots nobody has.
const UNTRUSTED: [&str; 2] = ["acme-staging-v02.api.letsencrypt.org", "dv.acme-v02.test-api.pki.goog"];
const MAX_CONTACT: usize = 256;
const MAX_CONTACTS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_authority_is_one_however_its_url_is_written() {
        let of = |directory: &str| {
            let raw = RawAuthority { directory: Some(directory.into()), ..RawAuthority::default() };
            raw.check("x").unwrap()
        };
        for host in ["acme.zerossl.com", "ACME.ZeroSSL.com", "acme.zerossl.com:443", "acme.zerossl.com.:443"]
        {
            let authority = of(&format!("https://{host}/v2/DV90"));
            assert!(authority.is_public() && authority.is_trusted(), "{host}");
        }
        assert!(!of("https://Acme-staging-v02.api.letsencrypt.org/directory").is_trusted());
        for host in ["acme.zerossl.com:8443", "acme.zerossl.com.example", "ca.example"] {
            assert!(!of(&format!("https://{host}/directory")).is_public(), "{host}");
        }
    }
}
