//! Signatures of handshakes, see provider-signature(7).
//!
//! TLS passes the whole message in one call, which becomes one request to the daemon. Init keeps
//! its arguments and asks the daemon nothing. libssl also calls init to try an algorithm, and
//! servers report a failure there as "no suitable signature algorithm", often where nobody sees it.
//! So an error is reported when the signature is made. A hash that the key does not sign with is
//! the exception: init fails, and libssl tries another hash that the client offers.
//!
//! Tools may also pass a message in parts, or a digest. A message too long for a frame is hashed
//! here.

use core::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use keyward_client::Input;
use keyward_proto::frame::MAX_WHOLE_MESSAGE;
use keyward_proto::{Hash, MlDsa, PssParameters, PublicKey, Scheme, SchemeFamily};

use crate::abi::{self, Algorithm, Dispatch, INTEGER, OCTET_STRING, ParamDescriptor, UTF8_STRING};
use crate::digest::{DigestName, Hasher};
use crate::entry::{dispatch, entry_points};
use crate::error::{Error, Reason};
use crate::key::{DaemonKey, Key};
use crate::keymgmt::{ML_DSA_44, ML_DSA_65, ML_DSA_87};
use crate::out_buffer::OutBuffer;
use crate::padding::{Padding, salt_length};
use crate::params::{Params, bytes};
use crate::{PROPERTIES, context};

/// Context of one signature: the key, the settings of the program, and the message so far.
#[derive(Clone, Default)]
pub(crate) struct SignatureContext {
    key: Option<Arc<DaemonKey>>,
    digest: Option<DigestName>,
    /// Padding that the program set; otherwise the padding of the key.
    padding: Option<Padding>,
    /// Digest of the mask of PSS, if the program set it.
    mgf1: Option<DigestName>,
    /// Salt length that the program set, in bytes, or a negative `RSA_PSS_SALTLEN_` number; `None`
    /// means the length of the digest.
    salt: Option<i64>,
    message: Message,
}

/// A message that arrives in parts.
#[derive(Clone)]
enum Message {
    Whole(Vec<u8>),
    Long(Hasher),
}

entry_points! {
    fn new_context(_provider: *const c_void, _properties: *const c_char) -> Option<Box<SignatureContext>> {
        Ok(Some(Box::default()))
    }

    /// Starts to sign a digest: EVP_PKEY_sign_init(3).
    fn sign_init(context: Option<&mut SignatureContext>, key: Option<&Key>, params: Params<'_>) -> c_int {
        context.ok_or_else(|| Error::null())?.start(key, None, params)
    }

    /// Starts to sign a message: EVP_DigestSignInit(3).
    fn digest_sign_init(
        context: Option<&mut SignatureContext>,
        digest: *const c_char,
        key: Option<&Key>,
        params: Params<'_>,
    ) -> c_int {
        let name = if digest.is_null() {
            None
        } else {
            // SAFETY: provider-signature(7): the name is a NUL-terminated text.
            Some(unsafe { CStr::from_ptr(digest) })
        };
        context.ok_or_else(|| Error::null())?.start(key, name, params)
    }

    fn sign(
        context: Option<&mut SignatureContext>,
        signature: *mut u8,
        length: Option<&mut usize>,
        room: usize,
        digest: *const u8,
        digest_length: usize,
    ) -> c_int {
        let (Some(context), Some(length)) = (context, length) else { return Err(Error::null()) };
        let greatest = || context.max_signature();
        // SAFETY: provider-signature(7): `signature` is null or has `room` writable bytes.
        let out = unsafe { OutBuffer::new(signature, length, room, greatest) }?;
        let Some(out) = out else { return Ok(1) };
        // SAFETY: provider-signature(7): `digest` has `digest_length` readable bytes.
        let digest = unsafe { bytes(digest, digest_length) };
        out.fill(&context.sign_digest(digest)?, "signature")
    }

    fn digest_sign(
        context: Option<&mut SignatureContext>,
        signature: *mut u8,
        length: Option<&mut usize>,
        room: usize,
        message: *const u8,
        message_length: usize,
    ) -> c_int {
        let (Some(context), Some(length)) = (context, length) else { return Err(Error::null()) };
        let greatest = || context.max_signature();
        // SAFETY: provider-signature(7): `signature` is null or has `room` writable bytes.
        let out = unsafe { OutBuffer::new(signature, length, room, greatest) }?;
        let Some(out) = out else { return Ok(1) };
        // SAFETY: provider-signature(7): `message` has `message_length` readable bytes.
        let message = unsafe { bytes(message, message_length) };
        out.fill(&context.sign_message(message)?, "signature")
    }

    fn digest_sign_update(context: Option<&mut SignatureContext>, part: *const u8, length: usize) -> c_int {
        // SAFETY: provider-signature(7): `part` has `length` readable bytes.
        let part = unsafe { bytes(part, length) };
        context.ok_or_else(|| Error::null())?.add(part)?;
        Ok(1)
    }

    fn digest_sign_final(
        context: Option<&mut SignatureContext>,
        signature: *mut u8,
        length: Option<&mut usize>,
        room: usize,
    ) -> c_int {
        let (Some(context), Some(length)) = (context, length) else { return Err(Error::null()) };
        let greatest = || context.max_signature();
        // SAFETY: provider-signature(7): `signature` is null or has `room` writable bytes.
        let out = unsafe { OutBuffer::new(signature, length, room, greatest) }?;
        let Some(out) = out else { return Ok(1) };
        out.fill(&context.finish()?, "signature")
    }

    fn set_ctx_params(context: Option<&mut SignatureContext>, params: Params<'_>) -> c_int {
        context.ok_or_else(|| Error::null())?.set(params)?;
        Ok(1)
    }

    fn settable_ctx_params(_context: *const c_void, _provider: *const c_void) -> *const ParamDescriptor {
        Ok(SETTABLE.as_ptr())
    }

    /// Answers tools that write certificates, requests and CMS: they need the AlgorithmIdentifier
    /// and the padding. TLS does not call this.
    fn get_ctx_params(context: Option<&SignatureContext>, params: Params<'_>) -> c_int {
        let context = context.ok_or_else(|| Error::null())?;
        let mut fitted = true;
        if let Some(param) = params.find(ALGORITHM_ID) {
            fitted &= param.answer_octets(&context.scheme()?.algorithm_identifier());
        }
        if let Some(param) = params.find(PAD_MODE) {
            let (number, word) = match context.padding()? {
                Padding::Pkcs1 => (abi::RSA_PKCS1_PADDING, c"pkcs1"),
                Padding::Pss => (abi::RSA_PKCS1_PSS_PADDING, c"pss"),
            };
            fitted &= param.answer_integer(number.unsigned_abs()) || param.answer_utf8(word);
        }
        Ok(c_int::from(fitted))
    }

    fn gettable_ctx_params(_context: *const c_void, _provider: *const c_void) -> *const ParamDescriptor {
        Ok(GETTABLE.as_ptr())
    }
}

impl SignatureContext {
    fn start(
        &mut self,
        key: Option<&Key>,
        digest: Option<&CStr>,
        params: Params<'_>,
    ) -> Result<c_int, Error> {
        // A null key means the key of the previous init (provider-signature(7)).
        if let Some(key) = key {
            let key = key.daemon_key().ok_or_else(|| {
                Error::new(Reason::NotSupported, "cannot sign with a public key; load a key reference")
            })?;
            // Settings made for another key do not apply to this key.
            *self = Self { key: Some(Arc::clone(key)), ..Self::default() };
        }
        self.digest = digest.map(CStr::to_bytes).filter(|name| !name.is_empty()).map(DigestName::from_name);
        self.mgf1 = None;
        self.message = Message::default();
        self.set(params)?;
        self.refuse_other_hash()?;
        Ok(1)
    }

    /// Fails for a hash that the key does not sign with. Init reports this error at once: libssl
    /// uses the error to find a hash among those that the client offers.
    fn refuse_other_hash(&self) -> Result<(), Error> {
        match (self.key()?.reference.public_key(), self.digest) {
            (_, Some(DigestName::Unknown)) => Err(unknown_digest()),
            (PublicKey::RsaPss { parameters: Some(parameters), .. }, Some(digest))
                if digest != DigestName::Known(parameters.hash()) =>
            {
                let text = "cannot sign with this digest: the key is restricted to another one";
                Err(Error::new(Reason::NotSupported, text))
            }
            _ => Ok(()),
        }
    }

    fn set(&mut self, params: Params<'_>) -> Result<(), Error> {
        if let Some(padding) = params.find(PAD_MODE) {
            self.padding = Some(Padding::read(&padding).ok_or_else(|| {
                Error::new(Reason::NotSupported, "cannot sign with a padding other than pkcs1 and pss")
            })?);
        }
        if let Some(salt) = params.find(SALT_LENGTH) {
            self.salt = Some(salt_length(&salt).ok_or_else(|| {
                Error::new(Reason::NotSupported, "cannot sign with a salt that is not as long as the digest")
            })?);
        }
        if let Some(digest) = params.find(DIGEST).and_then(|param| param.utf8()) {
            self.digest = Some(DigestName::from_name(digest.as_bytes()));
        }
        if let Some(mgf1) = params.find(MGF1_DIGEST).and_then(|param| param.utf8()) {
            self.mgf1 = Some(DigestName::from_name(mgf1.as_bytes()));
        }
        Ok(())
    }

    fn key(&self) -> Result<&Arc<DaemonKey>, Error> {
        self.key.as_ref().ok_or_else(|| Error::new(Reason::Internal, "cannot sign before a key is set"))
    }

    /// The greatest length of a signature, in bytes.
    fn max_signature(&self) -> Result<usize, Error> {
        Ok(self.key()?.reference.public_key().max_signature())
    }

    /// The scheme that follows from key, padding, salt and digest.
    fn scheme(&self) -> Result<Scheme, Error> {
        let hash = match self.digest {
            Some(DigestName::Known(hash)) => Some(hash),
            None => None,
            Some(DigestName::Md5Sha1 | DigestName::Unknown) => return Err(unknown_digest()),
        };
        let key = self.key()?.reference.public_key();
        let scheme = match key {
            PublicKey::Ed25519(_) => Scheme::of(SchemeFamily::Ed25519, hash),
            PublicKey::MlDsa(parameters, _) => Scheme::of(SchemeFamily::MlDsa(*parameters), hash),
            PublicKey::Ec { .. } => Scheme::of(SchemeFamily::Ecdsa, Some(hash.unwrap_or(Hash::Sha256))),
            key @ (PublicKey::Rsa { .. } | PublicKey::RsaPss { .. }) => {
                let restricted = match key {
                    PublicKey::RsaPss { parameters, .. } => parameters.map(PssParameters::hash),
                    _ => None,
                };
                let hash = hash.or(restricted).unwrap_or(Hash::Sha256);
                let padding = self.padding()?;
                if padding == Padding::Pss && self.mgf1.is_some_and(|mgf1| mgf1 != DigestName::Known(hash)) {
                    let text = "cannot sign with an MGF1 digest that is not the digest of the message";
                    return Err(Error::new(Reason::NotSupported, text));
                }
                let family = match (key, padding) {
                    (PublicKey::RsaPss { .. }, _) => SchemeFamily::RsaPssPss,
                    (_, Padding::Pkcs1) => SchemeFamily::RsaPkcs1,
                    (_, Padding::Pss) => SchemeFamily::RsaPss,
                };
                let as_digest = |salt: i64| salt < 0 || usize::try_from(salt) == Ok(hash.length());
                Scheme::of(family, Some(hash)).filter(|_| self.salt.is_none_or(as_digest))
            }
            _ => None,
        };
        let scheme = scheme.filter(|scheme| key.schemes().contains(scheme));
        scheme.ok_or_else(|| {
            Error::new(Reason::NotSupported, "cannot sign with this combination of key, digest and salt")
        })
    }

    /// The padding of an RSA signature: PSS for keys that are bound to PSS. For other keys the
    /// padding that the program set, by default PKCS #1.
    fn padding(&self) -> Result<Padding, Error> {
        match (self.key()?.reference.public_key(), self.padding) {
            (PublicKey::RsaPss { .. }, Some(Padding::Pkcs1)) => {
                let text = "cannot sign with PKCS #1 v1.5: the key is bound to RSASSA-PSS";
                Err(Error::new(Reason::NotSupported, text))
            }
            (PublicKey::RsaPss { .. }, _) => Ok(Padding::Pss),
            (_, set) => Ok(set.unwrap_or(Padding::Pkcs1)),
        }
    }

    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let scheme = self.scheme()?;
        match scheme.hash() {
            Some(hash) if message.len() > MAX_WHOLE_MESSAGE => {
                let mut hasher = Hasher::new(hash);
                hasher.update(message);
                self.key()?.sign(scheme, Input::Digest(&hasher.finish()))
            }
            _ => self.key()?.sign(scheme, Input::Message(message)),
        }
    }

    /// Signs a digest. If the program did not name the digest, the length of the digest decides.
    /// RSA with PKCS #1 padding needs the name: without a name the program expects the bytes
    /// themselves to be padded.
    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, Error> {
        let mut named = self.clone();
        if self.digest.is_none() && (self.is_ec()? || self.padding()? == Padding::Pss) {
            let has_length = |hash: &Hash| hash.length() == digest.len();
            named.digest = [Hash::Sha256, Hash::Sha384, Hash::Sha512]
                .into_iter()
                .find(has_length)
                .map(DigestName::Known);
        }
        let known = matches!(named.digest, Some(DigestName::Known(hash)) if hash.length() == digest.len());
        if !known && !matches!(named.digest, Some(DigestName::Md5Sha1 | DigestName::Unknown)) {
            let text = "cannot sign these bytes: pass a SHA-256, SHA-384 or SHA-512 digest and its name";
            return Err(Error::new(Reason::NotSupported, text));
        }
        self.key()?.sign(named.scheme()?, Input::Digest(digest))
    }

    fn is_ec(&self) -> Result<bool, Error> {
        Ok(matches!(self.key()?.reference.public_key(), PublicKey::Ec { .. }))
    }

    fn add(&mut self, part: &[u8]) -> Result<(), Error> {
        if let Message::Whole(message) = &mut self.message {
            if message.len() + part.len() <= MAX_WHOLE_MESSAGE {
                message.extend_from_slice(part);
                return Ok(());
            }
            let message = core::mem::take(message);
            let hash = self.scheme()?.hash().ok_or_else(|| {
                Error::new(
                    Reason::NotSupported,
                    "cannot sign so long a message with Ed25519 or ML-DSA: they need the whole message",
                )
            })?;
            let mut hasher = Hasher::new(hash);
            hasher.update(&message);
            self.message = Message::Long(hasher);
        }
        if let Message::Long(hasher) = &mut self.message {
            hasher.update(part);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<u8>, Error> {
        match core::mem::take(&mut self.message) {
            Message::Whole(message) => self.sign_message(&message),
            Message::Long(hasher) => self.key()?.sign(self.scheme()?, Input::Digest(&hasher.finish())),
        }
    }
}

#[track_caller]
fn unknown_digest() -> Error {
    let text = "cannot sign with this digest; SHA-256, SHA-384 and SHA-512 are supported, so TLS 1.0 and 1.1 are not";
    Error::new(Reason::NotSupported, text)
}

impl Default for Message {
    fn default() -> Self {
        Self::Whole(Vec::new())
    }
}

/// The signature algorithms, with the names that OpenSSL looks for.
pub(crate) fn algorithms(ml_dsa: bool) -> &'static [Algorithm] {
    if ml_dsa { ALGORITHMS } else { &ALGORITHMS[MlDsa::ALL.len()..] }
}

/// ML-DSA stands first, so that the rest is a list, too.
static ALGORITHMS: &[Algorithm] = &[
    Algorithm::new(ML_DSA_44, PROPERTIES, TABLE, c"ML-DSA-44 signature by Keyward"),
    Algorithm::new(ML_DSA_65, PROPERTIES, TABLE, c"ML-DSA-65 signature by Keyward"),
    Algorithm::new(ML_DSA_87, PROPERTIES, TABLE, c"ML-DSA-87 signature by Keyward"),
    Algorithm::new(c"RSA:rsaEncryption:1.2.840.113549.1.1.1", PROPERTIES, TABLE, c"RSA signature by Keyward"),
    Algorithm::new(c"ECDSA", PROPERTIES, TABLE, c"ECDSA signature by Keyward"),
    Algorithm::new(c"ED25519:1.3.101.112", PROPERTIES, TABLE, c"Ed25519 signature by Keyward"),
    Algorithm::END,
];

static TABLE: &[Dispatch] = dispatch! {
    SIGNATURE_NEWCTX => new_context,
    SIGNATURE_FREECTX => context::free,
    SIGNATURE_DUPCTX => context::duplicate,
    SIGNATURE_SIGN_INIT => sign_init,
    SIGNATURE_SIGN => sign,
    SIGNATURE_DIGEST_SIGN_INIT => digest_sign_init,
    SIGNATURE_DIGEST_SIGN_UPDATE => digest_sign_update,
    SIGNATURE_DIGEST_SIGN_FINAL => digest_sign_final,
    SIGNATURE_DIGEST_SIGN => digest_sign,
    SIGNATURE_SET_CTX_PARAMS => set_ctx_params,
    SIGNATURE_SETTABLE_CTX_PARAMS => settable_ctx_params,
    SIGNATURE_GET_CTX_PARAMS => get_ctx_params,
    SIGNATURE_GETTABLE_CTX_PARAMS => gettable_ctx_params,
};

static SETTABLE: &[ParamDescriptor] = &[
    ParamDescriptor::new(DIGEST, UTF8_STRING),
    ParamDescriptor::new(PAD_MODE, UTF8_STRING),
    ParamDescriptor::new(PAD_MODE, INTEGER),
    ParamDescriptor::new(SALT_LENGTH, UTF8_STRING),
    ParamDescriptor::new(SALT_LENGTH, INTEGER),
    ParamDescriptor::new(MGF1_DIGEST, UTF8_STRING),
    ParamDescriptor::END,
];

static GETTABLE: &[ParamDescriptor] = &[
    ParamDescriptor::new(ALGORITHM_ID, OCTET_STRING),
    ParamDescriptor::new(PAD_MODE, INTEGER),
    ParamDescriptor::new(PAD_MODE, UTF8_STRING),
    ParamDescriptor::END,
];

// OSSL_SIGNATURE_PARAM_*, provider-signature(7).
const ALGORITHM_ID: &CStr = c"algorithm-id";
const DIGEST: &CStr = c"digest";
const MGF1_DIGEST: &CStr = c"mgf1-digest";
const PAD_MODE: &CStr = c"pad-mode";
const SALT_LENGTH: &CStr = c"saltlen";

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use keyward_client::{Address, Client};
    use keyward_proto::Reference;

    use super::*;

    /// The public key of RFC 8032, 7.1, test 1.
    const ED25519: [u8; 44] = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00, 0xd7, 0x5a, 0x98, 0x01, 0x82,
        0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6,
        0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
    ];

    #[test]
    fn settings_made_for_a_key_apply_to_this_key_alone() {
        let reference = Reference::new("shop".parse().unwrap(), 1, ED25519.to_vec()).unwrap();
        let address: Address = "/nowhere".parse().unwrap();
        let client = Client::new(address, Duration::from_secs(1));
        let key = Key::Daemon(Arc::new(DaemonKey { reference, client }));
        let mut context = SignatureContext::default();
        assert!(context.start(Some(&key), None, Params::NONE).is_ok());
        context.padding = Some(Padding::Pss);
        context.salt = Some(20);
        assert!(context.start(None, None, Params::NONE).is_ok());
        assert!(context.padding == Some(Padding::Pss) && context.salt == Some(20));
        assert!(context.start(Some(&key), None, Params::NONE).is_ok());
        assert!(context.padding.is_none() && context.salt.is_none());
    }
}
