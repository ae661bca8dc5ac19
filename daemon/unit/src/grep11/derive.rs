//! Key agreement: ECDH on the NIST curves, and X25519.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use der::Decode;
use der::asn1::OctetStringRef;
use keyward_grep11::ecdh1_derive_parm::KeyDerivationFunction;
use keyward_grep11::mechanism::Parameter;
use keyward_grep11::{DeriveKeyRequest, DeriveKeyResponse, Mechanism, cka, ckf, ckk, ckm, cko, ckr};
use keyward_proto::Curve;
use zeroize::Zeroizing;

use super::crypto::Crypto;
use super::error::Error;
use super::generate::SECRET_DEFAULTS;
use super::hash::{HashFunction, Hashing};
use super::mechanism::bad_parameter;
use super::public_material::PublicMaterial;
use super::request_key::{key_argument, key_blob, wrong_type};
use super::template::Template;
use crate::blob::Attributes;
use crate::key::Pair;
use crate::object::{Material, Object, Secret, SecretKind};
use crate::profile::Origin;

impl Crypto {
    /// Derives a secret key from a private key and the public key of a peer.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn derive_key(&self, request: DeriveKeyRequest) -> Result<DeriveKeyResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_DERIVE)?;
        let template = Template::read(request.template, request.template_bytes)?;
        let (kind, key_type) = match template.integer(cka::CKA_KEY_TYPE) {
            Some(ckk::CKK_AES) => (SecretKind::Aes, ckk::CKK_AES),
            None | Some(ckk::CKK_GENERIC_SECRET) => (SecretKind::Generic, ckk::CKK_GENERIC_SECRET),
            Some(other) => {
                let detail =
                    format!("a key of type {other:#x} cannot be derived: AES and generic secrets can");
                return Err(Error::new(ckr::CKR_TEMPLATE_INCONSISTENT, detail));
            }
        };
        template.expect(cko::CKO_SECRET_KEY, key_type)?;
        let attributes = self.attributes_of_new(&template, SECRET_DEFAULTS, Origin::Derived, kind.into())?;

        let base = self.unit.unwrapped(&key_argument(request.base_key, request.base_key_bytes)?)?;
        let private = private_key(&mechanism, &base)?;
        self.permitted(base.attributes, Attributes::DERIVE, "CKA_DERIVE")?;
        let never =
            base.attributes.has(Attributes::NEVER_EXTRACTABLE) && !attributes.has(Attributes::EXTRACTABLE);
        let attributes = attributes.with(Attributes::NEVER_EXTRACTABLE, never);
        template.agrees(attributes)?;

        let parameter = Agreement::from_mechanism(&mechanism)?;
        let shared = self.agree(&private, parameter.peer)?;
        let (longest, usual) = match parameter.function {
            None => (shared.len(), shared.len()),
            Some(function) => (Secret::MAX_GENERIC, function.length()),
        };
        let length = match (template.value_length()?, kind) {
            (Some(length), _) => length,
            (None, SecretKind::Generic) => usual,
            (None, SecretKind::Aes) if [16, 24].contains(&usual) => usual,
            (None, SecretKind::Aes) => 32,
        };
        let too_long = || {
            let detail = format!("a key of this type with {length} bytes cannot be derived here");
            Error::new(ckr::CKR_KEY_SIZE_RANGE, detail)
        };
        if length > longest {
            return Err(too_long());
        }
        self.check_length(length)?;
        let value = match parameter.function {
            // A secret that is too long loses its first bytes (PKCS #11 2.40, 2.3.6).
            None => shared[shared.len() - length..].to_vec(),
            Some(function) => x963(function, &shared, parameter.shared_data, length),
        };
        let secret = Secret::new(kind, value).map_err(|_| too_long())?;
        let object = Object { attributes, material: Material::Secret(secret) };
        let blob = self.unit.wrap(&object)?;
        Ok(DeriveKeyResponse {
            new_key: key_blob(&blob),
            new_key_bytes: blob,
            check_sum: self.check_sum(&object)?,
        })
    }
}

impl Crypto {
    /// The shared secret of a private key and the public key of a peer.
    fn agree(&self, private: &Private, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let invalid = || {
            let detail = "the public key of the peer is not a point on the curve of the private key";
            Error::new(ckr::CKR_PUBLIC_KEY_INVALID, detail)
        };
        // PKCS #11 allows the point alone or in an OCTET STRING (2.40, 2.3.6), and some clients
        // send the whole SubjectPublicKeyInfo. The length decides, because a point can begin with
        // the bytes of either.
        let whole;
        let peer = match peer {
            peer if peer.len() == private.point() => peer,
            [0x30, ..] => {
                whole = self.public_key(peer)?.material;
                match (&whole, private.curve) {
                    (PublicMaterial::Ec(curve, point), Some(own)) if *curve == own => point,
                    (PublicMaterial::X25519(point), None) => point,
                    _ => return Err(invalid()),
                }
            }
            octets => <&OctetStringRef>::from_der(octets).map_err(|_| invalid())?.as_bytes(),
        };
        let peer = UnparsedPublicKey::new(private.key.algorithm(), peer);
        agreement::agree(&private.key, peer, invalid(), |shared| Ok(Zeroizing::new(shared.to_vec())))
    }
}

/// The private key of an agreement, as the library takes it.
struct Private {
    key: PrivateKey,
    /// None for X25519.
    curve: Option<Curve>,
}

impl Private {
    /// Length of a point of the curve, in bytes.
    fn point(&self) -> usize {
        self.curve.map_or(32, |curve| 1 + 2 * curve.field_bytes())
    }
}

fn private_key(mechanism: &Mechanism, base: &Object) -> Result<Private, Error> {
    match &base.material {
        Material::X25519(key) => {
            let seed = key.seed()?;
            let key = PrivateKey::from_private_key(&agreement::X25519, seed.as_ref())?;
            Ok(Private { key, curve: None })
        }
        Material::Key(key) if mechanism.mechanism == ckm::CKM_ECDH1_DERIVE => {
            let Pair::Ec(curve, _) = key.pair() else {
                return Err(wrong_type("a private EC key for agreement"));
            };
            let algorithm = match curve {
                Curve::P256 => &agreement::ECDH_P256,
                Curve::P384 => &agreement::ECDH_P384,
                Curve::P521 => &agreement::ECDH_P521,
            };
            let key = PrivateKey::from_private_key_der(algorithm, &key.to_pkcs8()?)?;
            Ok(Private { key, curve: Some(*curve) })
        }
        Material::Koblitz(_) if mechanism.mechanism == ckm::CKM_ECDH1_DERIVE => Err(Error::new(
            ckr::CKR_CURVE_NOT_SUPPORTED,
            "agreement is not offered on secp256k1: P-256, P-384, P-521 and X25519 are",
        )),
        _ => Err(wrong_type("a private EC key for agreement")),
    }
}

/// The parameter of an agreement.
struct Agreement<'m> {
    /// None if the shared secret is the key itself.
    function: Option<HashFunction>,
    shared_data: &'m [u8],
    peer: &'m [u8],
}

impl<'m> Agreement<'m> {
    fn from_mechanism(mechanism: &'m Mechanism) -> Result<Self, Error> {
        let parameter = match &mechanism.parameter {
            Some(Parameter::ParameterB(peer)) => {
                return Ok(Self { function: None, shared_data: &[], peer });
            }
            Some(Parameter::Ecdh1DeriveParameter(parameter)) => parameter,
            _ => return Err(bad_parameter(mechanism, "an ECDH1DeriveParm, or the public key in ParameterB")),
        };
        let function = match KeyDerivationFunction::try_from(parameter.kdf) {
            Ok(KeyDerivationFunction::CkdNull) => None,
            Ok(KeyDerivationFunction::CkdSha1Kdf) => Some(HashFunction::Sha1),
            Ok(KeyDerivationFunction::CkdSha224Kdf) => Some(HashFunction::Sha224),
            Ok(KeyDerivationFunction::CkdSha256Kdf) => Some(HashFunction::Sha256),
            Ok(KeyDerivationFunction::CkdSha384Kdf) => Some(HashFunction::Sha384),
            Ok(KeyDerivationFunction::CkdSha512Kdf) => Some(HashFunction::Sha512),
            _ => return Err(bad_parameter(mechanism, "one with the null, SHA-1 or a SHA-2 derivation")),
        };
        if function.is_none() && !parameter.shared_data.is_empty() {
            return Err(bad_parameter(
                mechanism,
                "one without shared data, which the null derivation has no use for",
            ));
        }
        if parameter.shared_data.len() > MAX_SHARED_DATA {
            return Err(bad_parameter(mechanism, "one with at most 4096 bytes of shared data"));
        }
        Ok(Self { function, shared_data: &parameter.shared_data, peer: &parameter.public_data })
    }
}

/// The key derivation of ANSI X9.63 (SEC 1, 3.6.1).
fn x963(function: HashFunction, shared: &[u8], shared_data: &[u8], length: usize) -> Vec<u8> {
    // Sized at once, so that growing leaves no copy of the key behind.
    let mut key = Vec::with_capacity(length + function.length());
    let mut counter = 1_u32;
    while key.len() < length {
        let mut hashing = Hashing::new(function);
        hashing.update(shared);
        hashing.update(&counter.to_be_bytes());
        hashing.update(shared_data);
        key.extend_from_slice(&Zeroizing::new(hashing.finish()));
        counter += 1;
    }
    key.truncate(length);
    key
}

/// Longest shared data, in bytes.
const MAX_SHARED_DATA: usize = 4096;
