//! A certificate that a person wants revoked.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keys::certificates::Certificate;

/// An account at an authority. Only the account that has ordered a certificate has it revoked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct At {
    /// URL of the directory; empty if nobody knows any more, so that each authority is asked.
    pub(crate) directory: String,
    /// Label of the account key; `None` if nobody knows.
    #[serde(default)]
    pub(crate) account_key: Option<String>,
}

impl At {
    /// True for the account of this key at the authority with this directory.
    pub(crate) fn is(&self, directory: &str, account_key: &str) -> bool {
        let is_of_key = self.account_key.as_ref().is_none_or(|known| known == account_key);
        self.directory.is_empty() || self.directory == directory && is_of_key
    }
}

/// A certificate to be revoked: another one may be there before the authority has done it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Revocation {
    /// Reason (RFC 5280, 5.3.1).
    pub(crate) reason: u8,
    /// The certificate in DER, in base64url.
    pub(crate) certificate: String,
    /// The authority that has issued the certificate.
    #[serde(flatten)]
    pub(crate) at: At,
    /// End of the certificate. Nobody revokes an expired one.
    #[serde(default = "never")]
    pub(crate) not_after: u64,
    /// True if the agent got the message for the authority, which may have carried it out, and has
    /// not refused it.
    #[serde(default)]
    pub(crate) is_sent: bool,
    /// Name of the plan that had the certificate.
    #[serde(default)]
    pub(crate) plan: String,
    /// Label of the key of that plan; empty if nobody knows.
    #[serde(default)]
    pub(crate) key: String,
}

impl Revocation {
    /// The revocation of a certificate, for this reason, that nobody has sent yet.
    pub(crate) fn of(certificate: &Certificate, reason: u8, at: At, plan: String, key: String) -> Self {
        Self {
            reason,
            certificate: URL_SAFE_NO_PAD.encode(certificate.der()),
            at,
            not_after: certificate.not_after(),
            is_sent: false,
            plan,
            key,
        }
    }

    /// True for the same certificate and reason.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.certificate, self.reason) == (&other.certificate, other.reason)
    }

    /// The certificate; `None` if it cannot be read.
    pub(crate) fn read_certificate(&self) -> Option<Certificate> {
        let der = URL_SAFE_NO_PAD.decode(&self.certificate).ok()?;
        Certificate::from_der(&der).ok()
    }

    /// The revocation in a part of a file, and whether nothing of it is damaged. While the
    /// certificate can be read, the rest is guessed so that the certificate is not called valid:
    /// the authority may have revoked it.
    pub(super) fn salvaged(part: &Value) -> Option<(Self, bool)> {
        if let Ok(mut whole) = Self::deserialize(part) {
            // Nobody can revoke a certificate that cannot be read.
            let certificate = whole.read_certificate()?;
            // An earlier version did not note the end.
            if whole.not_after == never() {
                whole.not_after = certificate.not_after();
            }
            return Some((whole, true));
        }
        let text = |field: &str| part.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let reason = part.get("reason").and_then(Value::as_u64).and_then(|reason| reason.try_into().ok());
        let mut guess = Self {
            reason: reason.unwrap_or_default(),
            certificate: text("certificate"),
            at: At {
                directory: text("directory"),
                account_key: part.get("account_key").and_then(Value::as_str).map(str::to_owned),
            },
            not_after: 0,
            is_sent: true,
            plan: text("plan"),
            key: text("key"),
        };
        guess.not_after = guess.read_certificate()?.not_after();
        Some((guess, false))
    }
}

/// The end of a certificate whose end is not known.
pub(super) const fn never() -> u64 {
    u64::MAX
}

/// Reason of a revocation: the key is compromised (RFC 5280, 5.3.1).
pub(crate) const KEY_COMPROMISE: u8 = 1;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::keys::certificates::Chain;
    use crate::keys::certificates::tests::made;

    /// A revocation of a new certificate.
    pub(in crate::renewal) fn revocation(reason: u8) -> (Certificate, Revocation) {
        let pem = made("/CN=shop", "DNS:shop.example");
        let certificate = Chain::read(pem.as_bytes()).unwrap().certificates.remove(0);
        let at = At { directory: "https://ca/dir".into(), account_key: None };
        let revocation = Revocation::of(&certificate, reason, at, "shop".into(), "shop".into());
        (certificate, revocation)
    }

    #[test]
    fn another_account_at_the_same_authority_is_another_one() {
        let at = |directory: &str, account_key: Option<&str>| At {
            directory: directory.into(),
            account_key: account_key.map(str::to_owned),
        };
        let here = at("https://ca/dir", Some("one"));
        assert!(here.is("https://ca/dir", "one"));
        assert!(!here.is("https://ca/dir", "two") && !here.is("https://other/dir", "one"));
        assert!(at("https://ca/dir", None).is("https://ca/dir", "two"), "of an earlier version");
        assert!(at("", Some("one")).is("https://other/dir", "two"));
    }
}
