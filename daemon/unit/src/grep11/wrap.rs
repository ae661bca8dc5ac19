//! Wrapping and unwrapping: keys that leave a unit or enter it under another key, and keys that go
//! to the next master key.

use core::ops::Range;
use std::sync::LazyLock;

use der::{Reader, SliceReader};
use keyward_grep11::{
    Mechanism, RewrapKeyBlobRequest, RewrapKeyBlobResponse, UnwrapKeyRequest, UnwrapKeyResponse,
    WrapKeyRequest, WrapKeyResponse, cka, ckf, ckk, ckm, cko, ckr,
};
use keyward_proto::KeyType;
use zeroize::Zeroizing;

use super::cipher::TRANSPORT;
use super::crypto::Crypto;
use super::error::Error;
use super::key_type::key_type;
use super::mechanism::no_parameter;
use super::public_material::PublicMaterial;
use super::request_key::{key_argument, key_blob};
use super::rsa_size::{OFFERED, bit_length, rsa_size};
use super::template::Template;
use crate::blob::{self, Attributes};
use crate::error::UnitError;
use crate::key::{Key, Pair};
use crate::object::{Koblitz, Material, Object, Secret, SecretKind};
use crate::profile::{Class, Origin};
use crate::rsa_numbers::{PrivateNumbers, RsaShape};

impl Crypto {
    /// Encrypts an extractable key with another key.
    ///
    /// A secret key is wrapped as its value, padded with zeros if the mechanism takes whole blocks
    /// only. A private key is wrapped as PKCS#8, and only with `CKM_AES_CBC_PAD`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn wrap_key(&self, request: WrapKeyRequest) -> Result<WrapKeyResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_WRAP)?;
        let object = self.unit.unwrapped(&key_argument(request.key, request.key_bytes)?)?;
        let wrapping_key = key_argument(request.ke_k, request.ke_k_bytes)?;
        if !object.attributes.has(Attributes::EXTRACTABLE) {
            return Err(Error::new(
                ckr::CKR_KEY_UNEXTRACTABLE,
                "the key may not leave the unit: its attribute CKA_EXTRACTABLE is false",
            ));
        }
        if object.attributes.has(Attributes::WRAP_WITH_TRUSTED) {
            return Err(Error::new(
                ckr::CKR_KEY_NOT_WRAPPABLE,
                "the key may be wrapped by a trusted key only, and no key here is",
            ));
        }
        let whole_blocks = matches!(mechanism.mechanism, ckm::CKM_AES_ECB | ckm::CKM_AES_CBC);
        let plain = match &object.material {
            Material::Secret(secret) => {
                let length = secret.value.len();
                let padded = if whole_blocks { length.next_multiple_of(16) } else { length };
                let mut plain = Zeroizing::new(Vec::with_capacity(padded));
                plain.extend_from_slice(&secret.value);
                plain.resize(padded, 0);
                plain
            }
            private if mechanism.mechanism == ckm::CKM_AES_CBC_PAD => private.to_pkcs8()?,
            _ => {
                return Err(Error::new(
                    ckr::CKR_KEY_NOT_WRAPPABLE,
                    "a private key can be wrapped with CKM_AES_CBC_PAD only",
                ));
            }
        };
        let wrapped = self.encrypt_whole(&mechanism, &wrapping_key, &plain, TRANSPORT);
        let wrapped = wrapped.map_err(|error| match error.code() {
            ckr::CKR_KEY_TYPE_INCONSISTENT => recode(&error, ckr::CKR_WRAPPING_KEY_TYPE_INCONSISTENT),
            ckr::CKR_DATA_LEN_RANGE => recode(&error, ckr::CKR_KEY_SIZE_RANGE),
            _ => error,
        })?;
        Ok(WrapKeyResponse { wrapped })
    }

    /// Decrypts a wrapped key, or with `CKM_IBM_TRANSPORTKEY` takes a bare public key.
    ///
    /// The template alone says what the key may do.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn unwrap_key(&self, request: UnwrapKeyRequest) -> Result<UnwrapKeyResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_UNWRAP)?;
        let template = Template::read(request.template, request.template_bytes)?;
        let of_new = |class| {
            let defaults = Attributes::NONE.with(Attributes::MODIFIABLE, true);
            let attributes = self.attributes_of_new(&template, defaults, Origin::Unwrapped, class)?;
            template.agrees(attributes).map(|()| attributes)
        };
        if mechanism.mechanism == ckm::CKM_IBM_TRANSPORTKEY {
            no_parameter(&mechanism)?;
            return self.import_public(&request.wrapped, &template, of_new(Class::Public)?);
        }
        let wrapping_key = key_argument(request.ke_k, request.ke_k_bytes)?;
        let key_type = template.needed_integer(cka::CKA_KEY_TYPE)?;
        let attributes = of_new(match key_type {
            ckk::CKK_AES => Class::Aes,
            ckk::CKK_GENERIC_SECRET => Class::Generic,
            ckk::CKK_RSA => Class::Rsa,
            _ => Class::Private,
        })?;
        let in_one_form =
            mechanism.mechanism == ckm::CKM_AES_CBC_PAD && !self.unit.profile().takes_any_form();
        // The padding is checked after the key: see `in_its_form`.
        let mechanism = match in_one_form {
            true => Mechanism { mechanism: ckm::CKM_AES_CBC, ..mechanism },
            false => mechanism,
        };
        let plain = self.decrypt_whole(&mechanism, &wrapping_key, &request.wrapped, TRANSPORT);
        let plain = plain.map_err(|error| match error.code() {
            ckr::CKR_KEY_TYPE_INCONSISTENT => recode(&error, ckr::CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT),
            ckr::CKR_ENCRYPTED_DATA_LEN_RANGE => recode(&error, ckr::CKR_WRAPPED_KEY_LEN_RANGE),
            ckr::CKR_ENCRYPTED_DATA_INVALID => recode(&error, ckr::CKR_WRAPPED_KEY_INVALID),
            _ => error,
        })?;
        let material = match key_type {
            _ if in_one_form => {
                let beyond_tls = self.unit.profile().makes_keys_beyond_tls();
                in_its_form(key_type, &plain, &template, beyond_tls)?
            }
            ckk::CKK_AES => secret(SecretKind::Aes, &plain, &template)?,
            ckk::CKK_GENERIC_SECRET => secret(SecretKind::Generic, &plain, &template)?,
            _ => private(key_type, &plain, &template)?,
        };
        match &material {
            Material::Secret(secret) => self.check_length(secret.value.len())?,
            Material::Koblitz(_) | Material::X25519(_) => self.check_curve_beyond_tls()?,
            Material::Key(_) => {}
        }
        let object = Object { attributes, material };
        let blob = self.unit.wrap(&object).map_err(|error| match error {
            // The parts of the key do not belong together.
            UnitError::Crypto(_) if in_one_form => not_in_its_form(),
            UnitError::Crypto(_) => invalid(),
            other => other.into(),
        })?;
        Ok(UnwrapKeyResponse {
            unwrapped: key_blob(&blob),
            unwrapped_bytes: blob,
            check_sum: self.check_sum(&object)?,
        })
    }

    /// Wraps a key with the next master key. The new blob works once that master key is the current
    /// one.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` if there is no next master key.
    pub fn rewrap_key_blob(&self, request: RewrapKeyBlobRequest) -> Result<RewrapKeyBlobResponse, Error> {
        let next = self.unit.next_keys().ok_or_else(|| {
            Error::new(
                ckr::CKR_IBM_WK_NOT_INITIALIZED,
                "this unit has no next master key; first load and commit one, or run on its machine: keyward unit rotate --runtime-dir DIR",
            )
        })?;
        let current = key_argument(request.wrapped_key, request.wrapped_key_bytes)?;
        let (attributes, plain) = blob::unwrap(&*self.unit.keys()?, &current)?;
        let blob = blob::wrap(&next, attributes, &plain)?;
        Ok(RewrapKeyBlobResponse { rewrapped_key: key_blob(&blob), rewrapped_key_bytes: blob })
    }

    fn import_public(
        &self,
        bytes: &[u8],
        template: &Template,
        attributes: Attributes,
    ) -> Result<UnwrapKeyResponse, Error> {
        let key = self.public_key(bytes)?;
        if key.attributes.is_some() {
            return Err(Error::new(ckr::CKR_WRAPPED_KEY_INVALID, "the public key was imported already"));
        }
        if let PublicMaterial::RsaPss { .. } = key.material {
            let detail = "a key that is bound to RSASSA-PSS is not imported: it verifies as it is";
            return Err(Error::new(ckr::CKR_KEY_TYPE_INCONSISTENT, detail));
        }
        template.expect(cko::CKO_PUBLIC_KEY, key.material.key_type())?;
        if matches!(&key.material, PublicMaterial::Rsa { modulus, .. } if !OFFERED.contains(&bit_length(modulus)))
        {
            return Err(rsa_size());
        }
        // Every client may extract a public key, so the attribute has no meaning there.
        let attributes = attributes.with(Attributes::EXTRACTABLE, false);
        let public = self.wrap_public(&key.spki, attributes)?;
        Ok(UnwrapKeyResponse { unwrapped: key_blob(&public), unwrapped_bytes: public, check_sum: Vec::new() })
    }
}

fn secret(kind: SecretKind, plain: &[u8], template: &Template) -> Result<Material, Error> {
    template.expect(cko::CKO_SECRET_KEY, template.needed_integer(cka::CKA_KEY_TYPE)?)?;
    let out_of_range = |detail: String| Error::new(ckr::CKR_WRAPPED_KEY_LEN_RANGE, detail);
    let length = template.value_length()?.unwrap_or(plain.len());
    // Bytes after the value can only be padding to a block.
    let value = plain
        .split_at_checked(length)
        .filter(|(_, rest)| rest.len() < 16 && rest.iter().all(|byte| *byte == 0))
        .map(|(value, _)| value)
        .ok_or_else(|| {
            out_of_range(format!("the wrapped key has {} bytes, the template says {length}", plain.len()))
        })?;
    let secret = Secret::new(kind, value.to_vec())
        .map_err(|_| out_of_range(format!("a key of this type cannot have {length} bytes")))?;
    Ok(Material::Secret(secret))
}

fn private(expected: u64, plain: &[u8], template: &Template) -> Result<Material, Error> {
    template.expect(cko::CKO_PRIVATE_KEY, expected)?;
    if expected == ckk::CKK_RSA {
        refuse_rsa(plain)?;
    }
    let material = Material::from_pkcs8(plain).map_err(|_| invalid())?;
    // PKCS #11 has no keys that are bound to a padding.
    if matches!(&material, Material::Key(key) if matches!(key.pair(), Pair::RsaPss(..))) {
        return Err(invalid());
    }
    if key_type(&material) != expected {
        let detail = "the wrapped key is not of the type that the template says";
        return Err(Error::new(ckr::CKR_TEMPLATE_INCONSISTENT, detail));
    }
    if expected == ckk::CKK_RSA {
        // A key without its primes would work for some mechanisms only.
        PrivateNumbers::read(plain).map_err(|_| invalid())?;
    }
    Ok(material)
}

/// The private key in a plaintext with the padding of PKCS #7, if the plaintext is byte for byte
/// the PKCS#8 that the unit writes for the key.
///
/// AES in CBC mode authenticates nothing: a client that has a wrapped key can alter the ciphertext,
/// and learns from each answer whether the unit took the key. In this form, a public key belongs to
/// the private key (EC, RSA), or the private key is the input of a hash (Ed25519, ML-DSA). So the
/// unit takes an altered plaintext only if the client has guessed the bytes that it altered. The
/// padding comes last, and the fixed bytes of an EC key come first, because the time of the answer
/// would tell of them one by one. A key of X25519 has neither, and is refused.
fn in_its_form(
    expected: u64,
    padded: &[u8],
    template: &Template,
    beyond_tls: bool,
) -> Result<Material, Error> {
    if [ckk::CKK_AES, ckk::CKK_GENERIC_SECRET].contains(&expected) {
        let detail = "CKM_AES_CBC_PAD unwraps private keys only here; CKM_RSA_PKCS_OAEP unwraps secret keys";
        return Err(Error::new(ckr::CKR_MECHANISM_INVALID, detail));
    }
    template.expect(cko::CKO_PRIVATE_KEY, expected)?;
    let read = || {
        let pkcs8 = SliceReader::new(padded).ok()?.tlv_bytes().ok()?;
        (expected != ckk::CKK_EC || EC_FORMS.iter().any(|form| form.fits(pkcs8))).then_some(())?;
        let material = private(expected, pkcs8, template).ok()?;
        let padding = padded.get(pkcs8.len()..)?;
        let is_padding = (1..=16).contains(&padding.len())
            && padding.iter().all(|byte| usize::from(*byte) == padding.len());
        let is_bound = match material {
            Material::X25519(_) => false,
            Material::Koblitz(_) => beyond_tls,
            _ => true,
        };
        let is_same = material.to_pkcs8().is_ok_and(|own| *own == *pkcs8);
        (is_padding && is_bound && is_same).then_some(material)
    };
    read().ok_or_else(not_in_its_form)
}

/// The PKCS#8 of a key on a curve: bytes that are the same for all keys, and places of the others.
struct EcForm {
    bytes: Vec<u8>,
    /// The private number or seed, and the coordinates of the point.
    free: [Range<usize>; 2],
}

impl EcForm {
    /// The form of a key that the unit writes. `length` is that of a coordinate in bytes.
    fn of(material: &Material, length: usize) -> Option<Self> {
        let bytes = material.to_pkcs8().ok()?.to_vec();
        let point = bytes.len().checked_sub(2 * length)?;
        // RFC 5915, 3: the tag [1], a BIT STRING and an uncompressed point stand in between. Two
        // of the lengths have two bytes for P-521.
        let between = if length > 63 { 8 } else { 6 };
        let number = point.checked_sub(between + length)?;
        let free = [number..number + length, point..bytes.len()];
        Some(Self { bytes, free })
    }

    /// The form of an Ed25519 key (RFC 8410, 7): the seed is at the end.
    fn of_seed(material: &Material) -> Option<Self> {
        let bytes = material.to_pkcs8().ok()?.to_vec();
        let seed = bytes.len().checked_sub(32)?..bytes.len();
        Some(Self { bytes, free: [seed.clone(), seed] })
    }

    /// True if all bytes that are the same for all keys are here. Compares them at once.
    fn fits(&self, pkcs8: &[u8]) -> bool {
        let is_fixed = |place: &usize| self.free.iter().all(|free| !free.contains(place));
        pkcs8.len() == self.bytes.len()
            && (0..pkcs8.len()).filter(is_fixed).fold(0, |sum, at| sum | (pkcs8[at] ^ self.bytes[at])) == 0
    }
}

/// The forms of keys with `CKK_EC`.
static EC_FORMS: LazyLock<Vec<EcForm>> = LazyLock::new(|| {
    let made = |key_type| Key::generate(key_type).ok().map(Material::Key);
    let on_curves = [(KeyType::P256, 32), (KeyType::P384, 48), (KeyType::P521, 66)];
    let mut forms: Vec<_> =
        on_curves.iter().filter_map(|(key_type, length)| EcForm::of(&made(*key_type)?, *length)).collect();
    forms.extend(Koblitz::generate().ok().and_then(|key| EcForm::of(&Material::Koblitz(key), 32)));
    forms.extend(made(KeyType::Ed25519).and_then(|key| EcForm::of_seed(&key)));
    forms
});

fn not_in_its_form() -> Error {
    Error::new(
        ckr::CKR_WRAPPED_KEY_INVALID,
        "the unwrapped bytes are not the PKCS#8 of a private key of this type in the form of openssl pkcs8 \
         -topk8: an EC key with its public key, Ed25519 and ML-DSA as the seed alone; no answer says more \
         under these control points",
    )
}

/// Refuses an RSA key of a size or a form that is not offered.
fn refuse_rsa(pkcs8: &[u8]) -> Result<(), Error> {
    match RsaShape::read(pkcs8) {
        Some(shape) if !OFFERED.contains(&shape.bits) => Err(rsa_size()),
        Some(shape) if shape.has_more_primes => Err(Error::new(
            ckr::CKR_KEY_TYPE_INCONSISTENT,
            "the RSA key has more than two primes; keys of two are offered",
        )),
        _ => Ok(()),
    }
}

fn invalid() -> Error {
    Error::new(
        ckr::CKR_WRAPPED_KEY_INVALID,
        "the unwrapped bytes are not the PKCS#8 of a private key of an offered type",
    )
}

fn recode(error: &Error, code: u64) -> Error {
    Error::new(code, error.detail())
}
