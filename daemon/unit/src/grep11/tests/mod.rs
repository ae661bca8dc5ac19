//! Tests of the control points, as a client of GREP11 sees them.

mod attacks;
mod forms;
mod profiles;
mod search;

use core::num::NonZeroUsize;
use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::agreement::{self, PrivateKey};
use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::mechanism::Parameter;
use keyward_grep11::{
    AttributeValue, DecryptSingleRequest, DeriveKeyRequest, EncryptSingleRequest, GenerateKeyPairRequest,
    GenerateKeyRequest, Mechanism, ReencryptSingleRequest, RsaoaepParm, SetAttributeValueRequest,
    SignSingleRequest, UnwrapKeyRequest, WrapKeyRequest, cka, ckk, ckm, cko, rsaoaep_parm,
};

use super::{Crypto, Error};
use crate::object::Material;
use crate::{MasterKey, Profile, Unit};

/// Attributes with their values.
type Attributes<'a> = &'a [(u64, OneAttr)];

const TRUE: OneAttr = OneAttr::AttributeTf(true);
const FALSE: OneAttr = OneAttr::AttributeTf(false);

fn integer(value: u64) -> OneAttr {
    OneAttr::AttributeI(value.cast_signed())
}

fn template(attributes: Attributes<'_>) -> BTreeMap<u64, AttributeValue> {
    let value = |value: &OneAttr| AttributeValue { one_attr: Some(value.clone()) };
    attributes.iter().map(|(number, attribute)| (*number, value(attribute))).collect()
}

fn plain(mechanism: u64) -> Mechanism {
    Mechanism { mechanism, parameter: None }
}

/// A mechanism with an IV or a public key.
fn with_bytes(mechanism: u64, bytes: &[u8]) -> Mechanism {
    Mechanism { mechanism, parameter: Some(Parameter::ParameterB(bytes.to_vec())) }
}

fn oaep() -> Mechanism {
    let parameter = RsaoaepParm {
        hash_mech: ckm::CKM_SHA_1,
        mgf: rsaoaep_parm::Mask::CkgMgf1Sha1.into(),
        ..Default::default()
    };
    Mechanism { mechanism: ckm::CKM_RSA_PKCS_OAEP, parameter: Some(Parameter::RsaoaepParameter(parameter)) }
}

/// A unit, and calls to it in the older dialect, which is shorter.
struct Client {
    unit: Arc<Unit>,
    crypto: Crypto,
}

impl Client {
    fn new(profile: Profile) -> Self {
        let unit = Arc::new(Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::new(4096).unwrap()));
        unit.set_profile(profile);
        Self { crypto: Crypto::new(Arc::clone(&unit)), unit }
    }

    /// Another client of this unit's machine: what happens under other control points.
    fn under<T>(&self, profile: Profile, work: impl FnOnce(&Self) -> T) -> T {
        let before = self.unit.profile();
        self.unit.set_profile(profile);
        let done = work(self);
        self.unit.set_profile(before);
        done
    }

    fn secret(&self, mechanism: u64, length: u64, attributes: Attributes<'_>) -> Result<Vec<u8>, Error> {
        let mut template = template(attributes);
        template.extend(self::template(&[(cka::CKA_VALUE_LEN, integer(length))]));
        let request = GenerateKeyRequest { mech: Some(plain(mechanism)), template, ..Default::default() };
        self.crypto.generate_key(request).map(|made| made.key_bytes)
    }

    fn aes(&self, attributes: Attributes<'_>) -> Result<Vec<u8>, Error> {
        self.secret(ckm::CKM_AES_KEY_GEN, 32, attributes)
    }

    /// Private and public key.
    fn pair(
        &self,
        mechanism: u64,
        public: Attributes<'_>,
        private: Attributes<'_>,
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let made = self.crypto.generate_key_pair(GenerateKeyPairRequest {
            mech: Some(plain(mechanism)),
            pub_key_template: template(public),
            priv_key_template: template(private),
            ..Default::default()
        })?;
        Ok((made.priv_key_bytes, made.pub_key_bytes))
    }

    fn rsa(&self, public: Attributes<'_>, private: Attributes<'_>) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let size = [(cka::CKA_MODULUS_BITS, integer(2048))];
        self.pair(ckm::CKM_RSA_PKCS_KEY_PAIR_GEN, &[public, &size].concat(), private)
    }

    fn ec(&self, curve: &str, private: Attributes<'_>) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let curve = [(cka::CKA_EC_PARAMS, OneAttr::AttributeB(curve.into()))];
        self.pair(ckm::CKM_EC_KEY_PAIR_GEN, &curve, private)
    }

    fn unwrap(
        &self,
        mech: Mechanism,
        key: &[u8],
        wrapped: &[u8],
        key_type: u64,
        attributes: Attributes<'_>,
    ) -> Result<Vec<u8>, Error> {
        let mut template = template(attributes);
        template.extend(self::template(&[(cka::CKA_KEY_TYPE, integer(key_type))]));
        let request = UnwrapKeyRequest {
            mech: Some(mech),
            ke_k_bytes: key.to_vec(),
            wrapped: wrapped.to_vec(),
            template,
            ..Default::default()
        };
        self.crypto.unwrap_key(request).map(|made| made.unwrapped_bytes)
    }

    /// Takes in a bare public key.
    fn public(&self, spki: &[u8], key_type: u64, attributes: Attributes<'_>) -> Result<Vec<u8>, Error> {
        let class = [(cka::CKA_CLASS, integer(cko::CKO_PUBLIC_KEY))];
        let attributes = [attributes, &class].concat();
        self.unwrap(plain(ckm::CKM_IBM_TRANSPORTKEY), b"ignored", spki, key_type, &attributes)
    }

    fn wrap(&self, mech: Mechanism, wrapping: &[u8], key: &[u8]) -> Result<Vec<u8>, Error> {
        let request = WrapKeyRequest {
            mech: Some(mech),
            ke_k_bytes: wrapping.to_vec(),
            key_bytes: key.to_vec(),
            ..Default::default()
        };
        self.crypto.wrap_key(request).map(|made| made.wrapped)
    }

    fn encrypt(&self, mech: Mechanism, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
        let request = EncryptSingleRequest {
            mech: Some(mech),
            key_bytes: key.to_vec(),
            plain: data.to_vec(),
            ..Default::default()
        };
        self.crypto.encrypt_single(request).map(|made| made.ciphered)
    }

    fn decrypt(&self, mech: Mechanism, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
        let request = DecryptSingleRequest {
            mech: Some(mech),
            key_bytes: key.to_vec(),
            ciphered: data.to_vec(),
            ..Default::default()
        };
        self.crypto.decrypt_single(request).map(|made| made.plain)
    }

    fn reencrypt(
        &self,
        (from_mech, from): (Mechanism, &[u8]),
        (to_mech, to): (Mechanism, &[u8]),
        data: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let request = ReencryptSingleRequest {
            dec_mech: Some(from_mech),
            dec_key_bytes: from.to_vec(),
            enc_mech: Some(to_mech),
            enc_key_bytes: to.to_vec(),
            ciphered: data.to_vec(),
            ..Default::default()
        };
        self.crypto.reencrypt_single(request).map(|made| made.reciphered)
    }

    fn derive(
        &self,
        key: &[u8],
        peer: &[u8],
        key_type: u64,
        length: u64,
        attributes: Attributes<'_>,
    ) -> Result<Vec<u8>, Error> {
        let mut template = template(attributes);
        let more = [(cka::CKA_KEY_TYPE, integer(key_type)), (cka::CKA_VALUE_LEN, integer(length))];
        template.extend(self::template(&more));
        let request = DeriveKeyRequest {
            mech: Some(with_bytes(ckm::CKM_ECDH1_DERIVE, peer)),
            base_key_bytes: key.to_vec(),
            template,
            ..Default::default()
        };
        self.crypto.derive_key(request).map(|made| made.new_key_bytes)
    }

    fn set(&self, key: &[u8], attributes: Attributes<'_>) -> Result<Vec<u8>, Error> {
        let object = key.to_vec();
        let request =
            SetAttributeValueRequest { object, attributes: template(attributes), ..Default::default() };
        self.crypto.set_attribute_value(request).map(|made| made.object)
    }

    fn mac(&self, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
        let request = SignSingleRequest {
            mech: Some(plain(ckm::CKM_SHA256_HMAC)),
            priv_key_bytes: key.to_vec(),
            data: data.to_vec(),
            ..Default::default()
        };
        self.crypto.sign_single(request).map(|made| made.signature)
    }

    /// The secret part of a key, as only the unit knows it.
    fn value(&self, blob: &[u8]) -> Vec<u8> {
        match &self.unit.unwrapped(blob).unwrap().material {
            Material::Secret(secret) => secret.value.to_vec(),
            private => private.to_pkcs8().unwrap().to_vec(),
        }
    }

    /// The attributes of a key, as its blob has them.
    fn attributes(&self, blob: &[u8]) -> crate::blob::Attributes {
        self.unit.unwrapped(blob).unwrap().attributes
    }
}

/// An HMAC-SHA-256, computed apart from the unit.
fn own_mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    aws_lc_rs::hmac::sign(&key, data).as_ref().to_vec()
}

/// A key pair of P-256 that a client has in the clear: the private key and the point.
fn own_ec() -> (PrivateKey, Vec<u8>) {
    let private = PrivateKey::generate(&agreement::ECDH_P256).unwrap();
    let point = private.compute_public_key().unwrap().as_ref().to_vec();
    (private, point)
}

fn code(error: &Error) -> &'static str {
    keyward_grep11::ckr::name(error.code()).unwrap_or("no name")
}

const IV: [u8; 16] = [7; 16];

/// The attributes that a client sets to the uses of a key.
const USES: [u64; 8] = [
    cka::CKA_SIGN,
    cka::CKA_VERIFY,
    cka::CKA_ENCRYPT,
    cka::CKA_DECRYPT,
    cka::CKA_WRAP,
    cka::CKA_UNWRAP,
    cka::CKA_DERIVE,
    cka::CKA_IBM_USE_AS_DATA,
];

/// A template that sets every use, to true for those that are named.
fn only(uses: &[u64]) -> Vec<(u64, OneAttr)> {
    let value = |number: &u64| if uses.contains(number) { TRUE } else { FALSE };
    let mut all: Vec<_> = USES.iter().map(|number| (*number, value(number))).collect();
    // Attributes such as CKA_EXTRACTABLE.
    all.extend(uses.iter().filter(|number| !USES.contains(number)).map(|number| (*number, TRUE)));
    all
}

/// Types of secret keys.
const SECRETS: [u64; 2] = [ckk::CKK_AES, ckk::CKK_GENERIC_SECRET];
