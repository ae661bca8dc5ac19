//! New keys.

use core::ops::RangeInclusive;

use aws_lc_rs::rand;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::RsaKeyPair;
use der::Decode;
use der::asn1::ObjectIdentifier;
use keyward_grep11::{
    GenerateKeyPairRequest, GenerateKeyPairResponse, GenerateKeyRequest, GenerateKeyResponse, Mechanism, cka,
    ckf, ckk, ckm, cko, ckr,
};
use keyward_proto::oid::{ED25519, SECP256R1, SECP384R1, SECP521R1};
use keyward_proto::{KeyType, MlDsa};

use super::crypto::Crypto;
use super::error::Error;
use super::key_type::parameter_set;
use super::mechanism::{no_parameter, not_offered};
use super::request_key::key_blob;
use super::template::{Template, missing};
use crate::blob::Attributes;
use crate::key::Key;
use crate::object::{Koblitz, Material, Object, SECP256K1, Secret, SecretKind, X25519, X25519_OID};
use crate::profile::{Class, Origin};
use crate::rsa_numbers::with_exponent;

impl Crypto {
    /// Makes a secret key.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn generate_key(&self, request: GenerateKeyRequest) -> Result<GenerateKeyResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_GENERATE)?;
        no_parameter(&mechanism)?;
        let template = Template::read(request.template, request.template_bytes)?;
        let (kind, key_type) = match mechanism.mechanism {
            ckm::CKM_AES_KEY_GEN => (SecretKind::Aes, ckk::CKK_AES),
            ckm::CKM_GENERIC_SECRET_KEY_GEN => (SecretKind::Generic, ckk::CKK_GENERIC_SECRET),
            other => return Err(not_offered(other)),
        };
        template.expect(cko::CKO_SECRET_KEY, key_type)?;
        let length = template.value_length()?.ok_or_else(|| missing(cka::CKA_VALUE_LEN))?;
        let attributes =
            generated(self.attributes_of_new(&template, SECRET_DEFAULTS, Origin::Generated, kind.into())?);
        template.agrees(attributes)?;
        self.check_length(length)?;
        let mut value = vec![0; length.min(Secret::MAX_GENERIC + 1)];
        rand::fill(&mut value)?;
        let secret = Secret::new(kind, value).map_err(|_| {
            let detail = match kind {
                SecretKind::Aes => format!("an AES key has 16, 24 or 32 bytes, not {length}"),
                SecretKind::Generic => {
                    format!("a generic secret has 1 to {} bytes, not {length}", Secret::MAX_GENERIC)
                }
            };
            Error::new(ckr::CKR_KEY_SIZE_RANGE, detail)
        })?;
        let object = Object { attributes, material: Material::Secret(secret) };
        let blob = self.unit.wrap(&object)?;
        Ok(GenerateKeyResponse { key: key_blob(&blob), key_bytes: blob, check_sum: self.check_sum(&object)? })
    }

    /// Makes a private key and its public key.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn generate_key_pair(
        &self,
        request: GenerateKeyPairRequest,
    ) -> Result<GenerateKeyPairResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_GENERATE_KEY_PAIR)?;
        no_parameter(&mechanism)?;
        let public = Template::read(request.pub_key_template, request.pub_key_template_bytes)?;
        let private = Template::read(request.priv_key_template, request.priv_key_template_bytes)?;
        let (key_type, private_defaults, public_defaults) = defaults(&mechanism)?;
        public.expect(cko::CKO_PUBLIC_KEY, key_type)?;
        private.expect(cko::CKO_PRIVATE_KEY, key_type)?;
        let class = if key_type == ckk::CKK_RSA { Class::Rsa } else { Class::Private };
        let attributes =
            generated(self.attributes_of_new(&private, private_defaults, Origin::Generated, class)?);
        private.agrees(attributes)?;
        // Every client may extract a public key, so the attribute has no meaning there.
        let public_attributes =
            self.attributes_of_new(&public, public_defaults, Origin::Generated, Class::Public)?;
        let public_attributes =
            public_attributes.with(Attributes::EXTRACTABLE, false).with(Attributes::LOCAL, true);
        public.agrees(public_attributes)?;
        let material = match mechanism.mechanism {
            ckm::CKM_RSA_PKCS_KEY_PAIR_GEN => rsa(&public)?,
            ckm::CKM_EC_KEY_PAIR_GEN => self.ec(&public, &private)?,
            _ => ml_dsa(&public, &private)?,
        };
        let object = Object { attributes, material };
        let private_blob = self.unit.wrap(&object)?;
        let public = self.wrap_public(object.material.spki().unwrap_or_default(), public_attributes)?;
        Ok(GenerateKeyPairResponse {
            priv_key: key_blob(&private_blob),
            pub_key: key_blob(&public),
            priv_key_bytes: private_blob,
            pub_key_bytes: public,
        })
    }
}

/// The type of the key pair, and the default attributes of its private and its public key.
fn defaults(mechanism: &Mechanism) -> Result<(u64, Attributes, Attributes), Error> {
    const SIGN: Attributes = Attributes::from_bits(Attributes::MODIFIABLE | Attributes::SIGN);
    const VERIFY: Attributes = Attributes::from_bits(Attributes::MODIFIABLE | Attributes::VERIFY);
    match mechanism.mechanism {
        ckm::CKM_RSA_PKCS_KEY_PAIR_GEN => {
            Ok((ckk::CKK_RSA, SIGN.with(Attributes::DECRYPT, true), VERIFY.with(Attributes::ENCRYPT, true)))
        }
        ckm::CKM_EC_KEY_PAIR_GEN => Ok((ckk::CKK_EC, SIGN, VERIFY)),
        ckm::CKM_IBM_ML_DSA_KEY_PAIR_GEN => Ok((ckk::CKK_IBM_ML_DSA, SIGN, VERIFY)),
        other => Err(not_offered(other)),
    }
}

/// The default attributes of a secret key.
pub(crate) const SECRET_DEFAULTS: Attributes = Attributes::from_bits(
    Attributes::MODIFIABLE
        | Attributes::SIGN
        | Attributes::VERIFY
        | Attributes::ENCRYPT
        | Attributes::DECRYPT,
);

/// Adds the attributes that only the unit sets on a key that it generated.
fn generated(attributes: Attributes) -> Attributes {
    attributes
        .with(Attributes::LOCAL | Attributes::PROTECTED_KEY_NEVER_EXTRACTABLE, true)
        .with(Attributes::NEVER_EXTRACTABLE, !attributes.has(Attributes::EXTRACTABLE))
}

fn rsa(public: &Template) -> Result<Material, Error> {
    let size = match public.needed_integer(cka::CKA_MODULUS_BITS)? {
        2048 => KeySize::Rsa2048,
        3072 => KeySize::Rsa3072,
        4096 => KeySize::Rsa4096,
        other => {
            let detail = format!("RSA keys of 2048, 3072 and 4096 bits are made here, not of {other}");
            return Err(Error::new(ckr::CKR_KEY_SIZE_RANGE, detail));
        }
    };
    let exponent = public.integer(cka::CKA_PUBLIC_EXPONENT).unwrap_or(USUAL_EXPONENT);
    if exponent.is_multiple_of(2) || !EXPONENTS.contains(&exponent) {
        let detail = format!("the public exponent must be odd, from 17 to 2^32 - 1, not {exponent}");
        return Err(Error::new(ckr::CKR_ATTRIBUTE_VALUE_INVALID, detail));
    }
    let pair = if exponent == USUAL_EXPONENT {
        RsaKeyPair::generate(size)?
    } else {
        // The library generates primes for the exponent 65537 only. Most of them work for another
        // exponent too.
        let mut made = (0..MAX_ATTEMPTS).map(|_| {
            let made = Key::from_rsa(RsaKeyPair::generate(size)?)?.to_pkcs8()?;
            Ok(with_exponent(&made, exponent)?)
        });
        made.find_map(Result::<_, Error>::transpose).unwrap_or_else(|| {
            let detail =
                format!("no primes were found for the public exponent {exponent}; choose a prime number");
            Err(Error::new(ckr::CKR_FUNCTION_FAILED, detail))
        })?
    };
    Ok(Material::Key(Key::from_rsa(pair)?))
}

impl Crypto {
    fn ec(&self, public: &Template, private: &Template) -> Result<Material, Error> {
        let parameters = public.bytes(cka::CKA_EC_PARAMS).or_else(|| private.bytes(cka::CKA_EC_PARAMS));
        let parameters = parameters.ok_or_else(|| missing(cka::CKA_EC_PARAMS))?;
        let curve = curve(parameters)?;
        let key = |key_type| Key::generate(key_type).map(Material::Key);
        Ok(match curve {
            SECP256R1 => key(KeyType::P256)?,
            SECP384R1 => key(KeyType::P384)?,
            SECP521R1 => key(KeyType::P521)?,
            ED25519 => key(KeyType::Ed25519)?,
            SECP256K1 | X25519_OID => {
                self.check_curve_beyond_tls()?;
                match curve {
                    SECP256K1 => Material::Koblitz(Koblitz::generate()?),
                    _ => Material::X25519(X25519::generate()?),
                }
            }
            other => return Err(curve_not_offered(&other.to_string())),
        })
    }
}

/// The curve in CKA_EC_PARAMS: an object identifier in DER, or a name, which EP11 takes too.
fn curve(parameters: &[u8]) -> Result<ObjectIdentifier, Error> {
    match parameters {
        b"P-256" => Ok(SECP256R1),
        b"P-384" => Ok(SECP384R1),
        b"P-521" => Ok(SECP521R1),
        _ => ObjectIdentifier::from_der(parameters).map_err(|_| {
            let name =
                str::from_utf8(parameters).ok().filter(|name| name.bytes().all(|c| c.is_ascii_graphic()));
            match name.filter(|name| name.len() <= LONGEST_NAME) {
                Some(name) => curve_not_offered(name),
                None => Error::new(
                    ckr::CKR_DOMAIN_PARAMS_INVALID,
                    "CKA_EC_PARAMS is neither an object identifier in DER nor the name of a curve",
                ),
            }
        }),
    }
}

/// Longest name of a curve that an error message repeats, in characters.
const LONGEST_NAME: usize = 64;

fn curve_not_offered(name: &str) -> Error {
    let detail = format!(
        "the curve {name} is not offered here: P-256, P-384, P-521, secp256k1, Ed25519 and X25519 are"
    );
    Error::new(ckr::CKR_CURVE_NOT_SUPPORTED, detail)
}

fn ml_dsa(public: &Template, private: &Template) -> Result<Material, Error> {
    let number = public
        .integer(cka::CKA_IBM_PARAMETER_SET)
        .or_else(|| private.integer(cka::CKA_IBM_PARAMETER_SET))
        .ok_or_else(|| missing(cka::CKA_IBM_PARAMETER_SET))?;
    let parameters =
        MlDsa::ALL.into_iter().find(|known| parameter_set(*known) == number).ok_or_else(|| {
            let detail = format!("the parameter set {number} is none of ML-DSA: 1 to 3 are");
            Error::new(ckr::CKR_ATTRIBUTE_VALUE_INVALID, detail)
        })?;
    let key = Key::generate(KeyType::MlDsa(parameters))?;
    Ok(Material::Key(key))
}

/// Pairs of primes to try for an exponent. A prime exponent rarely needs more than two.
const MAX_ATTEMPTS: usize = 32;
const USUAL_EXPONENT: u64 = 65537;
/// Public exponents that are offered: EP11 takes 17 and more, the crypto library 33 bits at most.
const EXPONENTS: RangeInclusive<u64> = 17..=0xffff_ffff;
