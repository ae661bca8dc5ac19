//! Messages of ACME (RFC 8555, 6.2): flattened JWS (RFC 7515) by an account key on P-256.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::asn1::UintRef;
use der::{Decode, Reader, SliceReader};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The payload of a message. Nobody outside of the daemon chooses its text.
#[derive(Debug)]
pub(crate) enum Payload<'p> {
    /// A new account, or the account that the key has already (RFC 8555, 7.3).
    Account {
        contact: &'p [String],
        /// External account binding: the key id, and the MAC key.
        binding: Option<(&'p str, &'p [u8])>,
    },
    /// A new order (RFC 8555, 7.4; RFC 9773, 5).
    Order {
        /// Kind and value of each name.
        names: &'p [(&'static str, String)],
        profile: Option<&'p str>,
        /// Id of the certificate that is renewed.
        replaces: Option<&'p str>,
    },
    /// Reads a resource (POST-as-GET, RFC 8555, 6.3).
    Read,
    /// Says that the answer to a challenge is in place (RFC 8555, 7.5.1).
    Answer,
    /// The certificate request of an order, in DER (RFC 8555, 7.4).
    Finalize(&'p [u8]),
    /// Revokes a certificate in DER, for a reason of RFC 5280, 5.3.1 (RFC 8555, 7.6).
    Revoke(&'p [u8], u8),
}

/// A message whose signature is missing.
#[derive(Debug)]
pub(crate) struct Unsigned {
    protected: String,
    payload: String,
}

/// The public key of an account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccountKey<'k> {
    x: &'k [u8],
    y: &'k [u8],
}

impl<'k> AccountKey<'k> {
    /// Reads a SubjectPublicKeyInfo; `None` for a key that is not on P-256.
    pub(crate) fn of(spki: &'k [u8]) -> Option<Self> {
        let point = spki.strip_prefix(P256_SPKI)?;
        let (x, y) = (point.len() == 64).then(|| point.split_at(32))?;
        Some(Self { x, y })
    }

    /// The key as a JWK (RFC 7517).
    fn jwk(self) -> Value {
        let [x, y] = [self.x, self.y].map(|number| URL_SAFE_NO_PAD.encode(number));
        json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y })
    }

    /// Thumbprint of the key (RFC 7638), in base64url. Answers to challenges end with it.
    pub(crate) fn thumbprint(self) -> String {
        let [x, y] = [self.x, self.y].map(|number| URL_SAFE_NO_PAD.encode(number));
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        URL_SAFE_NO_PAD.encode(Sha256::digest(text))
    }
}

impl Unsigned {
    /// A message to `url`. `account` is the URL of the account; without one, the message names the
    /// key itself.
    pub(crate) fn new(
        key: AccountKey<'_>,
        account: Option<&str>,
        nonce: &str,
        url: &str,
        payload: &Payload<'_>,
    ) -> Self {
        let mut header = json!({ "alg": "ES256", "nonce": nonce, "url": url });
        match account {
            Some(account) => header["kid"] = account.into(),
            None => header["jwk"] = key.jwk(),
        }
        let payload = payload.text(key, url);
        Self { protected: encoded(&header), payload: URL_SAFE_NO_PAD.encode(payload) }
    }

    /// The bytes that the account key signs.
    pub(crate) fn signing_input(&self) -> Vec<u8> {
        format!("{}.{}", self.protected, self.payload).into_bytes()
    }

    /// The message with its signature, which is in DER; `None` if the signature is none on P-256.
    pub(crate) fn signed(self, signature: &[u8]) -> Option<Value> {
        let signature = URL_SAFE_NO_PAD.encode(fixed(signature)?);
        Some(json!({ "protected": self.protected, "payload": self.payload, "signature": signature }))
    }
}

impl Payload<'_> {
    fn text(&self, key: AccountKey<'_>, url: &str) -> String {
        match self {
            Self::Read => String::new(),
            Self::Answer => "{}".to_owned(),
            Self::Account { contact, binding } => {
                let mut account = json!({ "termsOfServiceAgreed": true });
                if !contact.is_empty() {
                    account["contact"] = json!(contact);
                }
                if let Some((kid, mac_key)) = binding {
                    account["externalAccountBinding"] = bound(key, kid, mac_key, url);
                }
                account.to_string()
            }
            Self::Order { names, profile, replaces } => {
                let names: Vec<_> =
                    names.iter().map(|(kind, value)| json!({ "type": kind, "value": value })).collect();
                let mut order = json!({ "identifiers": names });
                for (field, value) in [("profile", profile), ("replaces", replaces)] {
                    if let Some(value) = value {
                        order[field] = (*value).into();
                    }
                }
                order.to_string()
            }
            Self::Finalize(request) => json!({ "csr": URL_SAFE_NO_PAD.encode(request) }).to_string(),
            Self::Revoke(certificate, reason) => {
                json!({ "certificate": URL_SAFE_NO_PAD.encode(certificate), "reason": reason }).to_string()
            }
        }
    }
}

/// External account binding (RFC 8555, 7.3.4): the key of the account, under the MAC key that the
/// authority gave.
fn bound(key: AccountKey<'_>, kid: &str, mac_key: &[u8], url: &str) -> Value {
    let protected = encoded(&json!({ "alg": "HS256", "kid": kid, "url": url }));
    let payload = encoded(&key.jwk());
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, mac_key);
    let mac = hmac::sign(&mac_key, format!("{protected}.{payload}").as_bytes());
    json!({ "protected": protected, "payload": payload, "signature": URL_SAFE_NO_PAD.encode(mac) })
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// An ECDSA signature on P-256 in the form of JWS: two numbers of 32 bytes (RFC 7518, 3.4).
fn fixed(signature: &[u8]) -> Option<[u8; 64]> {
    let mut reader = SliceReader::new(signature).ok()?;
    let read: der::Result<[u8; 64]> = reader.sequence(|numbers| {
        let mut fixed = [0; 64];
        for half in fixed.chunks_mut(32) {
            let number = UintRef::decode(numbers)?;
            let start = 32_usize.checked_sub(number.as_bytes().len()).ok_or(der::ErrorKind::Overflow)?;
            half[start..].copy_from_slice(number.as_bytes());
        }
        Ok(fixed)
    });
    read.ok().filter(|_| reader.is_finished())
}

/// SubjectPublicKeyInfo of a key on P-256 up to its point, which is not compressed (RFC 5480, 2).
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn spki() -> Vec<u8> {
        [P256_SPKI, &[1; 32], &[2; 32]].concat()
    }

    fn decoded(text: &Value) -> Value {
        let bytes = URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap();
        if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() }
    }

    /// A signature in DER of two numbers.
    fn signature(numbers: [&[u8]; 2]) -> Vec<u8> {
        let integer = |number: &[u8]| {
            let sign: &[u8] = if number[0] & 0x80 == 0 { &[] } else { &[0] };
            let body = [sign, number].concat();
            [&[2, body.len() as u8][..], &body].concat()
        };
        let body = numbers.map(integer).concat();
        [&[0x30, body.len() as u8][..], &body].concat()
    }

    #[test]
    fn a_number_with_leading_zeros_has_32_bytes() {
        let short = signature([&[0x7f; 31], &[0xff; 32]]);
        let fixed = fixed(&short).unwrap();
        assert_eq!((fixed[0], &fixed[1..32], &fixed[32..]), (0, &[0x7f; 31][..], &[0xff; 32][..]));
        for wrong in [signature([&[1; 33], &[1]]), [short.as_slice(), &[0]].concat(), vec![0x30], Vec::new()]
        {
            assert!(super::fixed(&wrong).is_none(), "{wrong:?}");
        }
    }

    /// The example of RFC 7638, 3.1 is an RSA key, so this compares with openssl.
    #[test]
    fn the_thumbprint_is_over_the_members_in_their_order() {
        let spki = spki();
        let key = AccountKey::of(&spki).unwrap();
        let text = format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            URL_SAFE_NO_PAD.encode([1; 32]),
            URL_SAFE_NO_PAD.encode([2; 32])
        );
        assert_eq!(key.thumbprint(), URL_SAFE_NO_PAD.encode(Sha256::digest(text)));
        assert!(
            AccountKey::of(&spki[1..]).is_none()
                && AccountKey::of(&[spki.as_slice(), &[0]].concat()).is_none()
        );
    }

    #[test]
    fn each_message_has_the_fields_of_its_step_and_no_others() {
        let spki = spki();
        let key = AccountKey::of(&spki).unwrap();
        let url = "https://ca.example/new";
        let signed = |account, payload: &Payload<'_>| {
            let message = Unsigned::new(key, account, "nonce-1", url, payload);
            let input = String::from_utf8(message.signing_input()).unwrap();
            let signed = message.signed(&signature([&[1; 32], &[2; 32]])).unwrap();
            assert_eq!(
                input,
                format!("{}.{}", signed["protected"].as_str().unwrap(), signed["payload"].as_str().unwrap())
            );
            (decoded(&signed["protected"]), decoded(&signed["payload"]))
        };
        let (header, payload) =
            signed(None, &Payload::Account { contact: &[], binding: Some(("kid-1", b"secret")) });
        assert_eq!(header, json!({ "alg": "ES256", "nonce": "nonce-1", "url": url, "jwk": key.jwk() }));
        let inner = &payload["externalAccountBinding"];
        assert_eq!(decoded(&inner["protected"]), json!({ "alg": "HS256", "kid": "kid-1", "url": url }));
        assert_eq!(decoded(&inner["payload"]), key.jwk());
        assert_eq!(payload["termsOfServiceAgreed"], true);

        let account = Some("https://ca.example/account/1");
        let names = [("dns", "shop.example".to_owned()), ("ip", "192.0.2.1".to_owned())];
        let order = Payload::Order { names: &names, profile: Some("short"), replaces: None };
        let (header, payload) = signed(account, &order);
        assert_eq!(header, json!({ "alg": "ES256", "nonce": "nonce-1", "url": url, "kid": account }));
        let identifiers =
            json!([{ "type": "dns", "value": "shop.example" }, { "type": "ip", "value": "192.0.2.1" }]);
        assert_eq!(payload, json!({ "identifiers": identifiers, "profile": "short" }));
        assert_eq!(signed(account, &Payload::Read).1, Value::Null);
        assert_eq!(signed(account, &Payload::Answer).1, json!({}));
        assert_eq!(signed(account, &Payload::Finalize(b"csr")).1, json!({ "csr": "Y3Ny" }));
        assert_eq!(
            signed(account, &Payload::Revoke(b"der", 4)).1,
            json!({ "certificate": "ZGVy", "reason": 4 })
        );
    }
}
