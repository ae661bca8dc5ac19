//! Key management, see provider-keymgmt(7): the objects behind OpenSSL's EVP_PKEY.
//!
//! Two answers matter most. Export of the private part fails: this makes OpenSSL sign with us and
//! not with its default provider. Export of the public part succeeds, so that the default provider
//! does everything else. Import takes only public keys, to compare them with ours.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::{mem, ptr};

use keyward_proto::{Curve, Hash, MlDsa, PublicKey};

use crate::abi::{
    Algorithm, Callback, Dispatch, INTEGER, OCTET_STRING, ParamDescriptor, SELECT_DOMAIN_PARAMETERS,
    SELECT_PRIVATE_KEY, SELECT_PUBLIC_KEY, UNSIGNED_INTEGER, UTF8_STRING,
};
use crate::entry::{dispatch, entry_points};
use crate::error::Error;
use crate::key::Key;
use crate::params::{ParamBuilder, Params};
use crate::{PROPERTIES, context};

entry_points! {
    /// Takes over the key that our decoder or store passed by reference, and clears the reference.
    fn load(reference: Option<&mut *mut Key>, size: usize) -> *const Key {
        match reference {
            Some(reference) if size == size_of::<*mut Key>() => {
                Ok(mem::replace(reference, ptr::null_mut()).cast_const())
            }
            _ => Err(Error::null()),
        }
    }

    /// Duplicates a key. A key is immutable and counts its references, so the duplicate shares its
    /// data.
    fn dup(key: Option<&Key>, _selection: c_int) -> Option<Box<Key>> {
        Ok(Some(Box::new(key.ok_or_else(|| Error::null())?.clone())))
    }

    fn has(key: Option<&Key>, selection: c_int) -> c_int {
        let key = key.ok_or_else(|| Error::null())?;
        let private = selection & SELECT_PRIVATE_KEY == 0 || key.daemon_key().is_some();
        let public = selection & SELECT_PUBLIC_KEY == 0 || key.public().is_some();
        Ok(c_int::from(private && public))
    }

    /// Compares two keys of ours; `match` in the manual.
    fn matches(one: Option<&Key>, other: Option<&Key>, selection: c_int) -> c_int {
        let (Some(one), Some(other)) = (one.and_then(Key::public), other.and_then(Key::public)) else {
            return Err(Error::silent());
        };
        let keys = selection & (SELECT_PRIVATE_KEY | SELECT_PUBLIC_KEY) == 0 || same(one, other);
        let groups = selection & SELECT_DOMAIN_PARAMETERS == 0 || group(one) == group(other);
        Ok(c_int::from(keys && groups))
    }

    fn import(key: Option<&mut Key>, selection: c_int, params: Params<'_>) -> c_int {
        let key = key.ok_or_else(|| Error::null())?;
        // Only a reference or a URI makes a key that can sign.
        if selection & SELECT_PRIVATE_KEY != 0 || selection & SELECT_PUBLIC_KEY == 0 {
            return Err(Error::silent());
        }
        *key = Key::Public(public_key(params).ok_or(Error::silent())?);
        Ok(1)
    }

    fn import_types(selection: c_int) -> *const ParamDescriptor {
        Ok(transferred(selection))
    }

    fn export(key: Option<&Key>, selection: c_int, callback: Option<Callback>, arg: *mut c_void) -> c_int {
        if selection & SELECT_PRIVATE_KEY != 0 {
            return Err(Error::silent());
        }
        let public = key.and_then(Key::public).ok_or(Error::silent())?;
        let callback = callback.ok_or_else(|| Error::null())?;
        let fields = exported(public, selection & SELECT_PUBLIC_KEY != 0);
        // SAFETY: provider-keymgmt(7): the callback takes the array and the argument that came with
        // it.
        Ok(fields.pass_to(|params| unsafe { callback(params, arg) }))
    }

    fn export_types(selection: c_int) -> *const ParamDescriptor {
        Ok(transferred(selection))
    }

    fn gettable_params(_provider: *const c_void) -> *const ParamDescriptor {
        Ok(GETTABLE.as_ptr())
    }

    fn get_params(key: Option<&Key>, params: Params<'_>) -> c_int {
        let public = key.and_then(Key::public).ok_or(Error::silent())?;
        let sizes = answer_sizes(public, params);
        let key = answer_public_key(public, params).ok_or(Error::silent())?;
        let digest = answer_digest(public, params);
        Ok(c_int::from(sizes && key && digest))
    }

    /// The algorithm of keys that are bound to RSASSA-PSS: the same as for all RSA keys.
    fn rsa_pss_operation_name(_operation: c_int) -> *const c_char {
        Ok(c"RSA".as_ptr())
    }

    /// The algorithm of EC keys. For key types without such a function OpenSSL takes the algorithm
    /// that has the name of the key type.
    fn ec_operation_name(_operation: c_int) -> *const c_char {
        Ok(c"ECDSA".as_ptr())
    }
}

/// Reads a public key that another provider exported. The fields show the type of the key.
fn public_key(params: Params<'_>) -> Option<PublicKey> {
    if let (Some(n), Some(e)) = (params.find(N), params.find(E)) {
        return Some(PublicKey::Rsa { modulus: n.unsigned()?, exponent: e.unsigned()? });
    }
    let public = params.find(PUB)?.octets()?.to_vec();
    match params.find(GROUP) {
        Some(group) => {
            let group = group.utf8()?;
            let named = |curve: &Curve| curve.openssl_name() == group || curve.nist_name() == group;
            Some(PublicKey::Ec { curve: Curve::ALL.into_iter().find(named)?, point: public })
        }
        // The length shows the type.
        None => match MlDsa::ALL.into_iter().find(|known| known.public_length() == public.len()) {
            Some(parameters) => Some(PublicKey::MlDsa(parameters, public)),
            None => Some(PublicKey::Ed25519(public)),
        },
    }
}

/// The fields of a public key for another provider. Without `whole`, only the fields that restrict
/// the key or name its group.
fn exported(public: &PublicKey, whole: bool) -> ParamBuilder {
    let mut fields = ParamBuilder::default();
    match public {
        PublicKey::Rsa { modulus, exponent } if whole => {
            fields = fields.unsigned(N, modulus).unsigned(E, exponent);
        }
        PublicKey::RsaPss { modulus, exponent, parameters } => {
            if whole {
                fields = fields.unsigned(N, modulus).unsigned(E, exponent);
            }
            if let Some(parameters) = parameters {
                let hash = hash_name(parameters.hash()).to_str().unwrap_or_default();
                fields = fields.utf8(DIGEST, hash).utf8(MGF1_DIGEST, hash);
                fields = fields.integer(SALT_LENGTH, c_int::from(parameters.salt()));
            }
        }
        PublicKey::Ec { curve, point } => {
            fields = fields.utf8(GROUP, curve.openssl_name());
            if whole {
                fields = fields.octets(PUB, point);
            }
        }
        PublicKey::Ed25519(public) | PublicKey::MlDsa(_, public) if whole => {
            fields = fields.octets(PUB, public)
        }
        _ => {}
    }
    fields
}

/// Answers with the sizes of a key. Returns whether the answers fitted.
fn answer_sizes(public: &PublicKey, params: Params<'_>) -> bool {
    let sizes =
        [(BITS, public.bits()), (SECURITY_BITS, public.security_bits()), (MAX_SIZE, public.max_signature())];
    sizes.into_iter().all(|(key, value)| {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        params.find(key).is_none_or(|p| p.answer_integer(value))
    })
}

/// Answers with the public key. Returns whether the answers fitted; `None` for keys of an unknown
/// type.
fn answer_public_key(public: &PublicKey, params: Params<'_>) -> Option<bool> {
    let unsigned = |key, value| params.find(key).is_none_or(|p| p.answer_unsigned(value));
    let octets = |key, value| params.find(key).is_none_or(|p| p.answer_octets(value));
    let fitted = match public {
        PublicKey::Rsa { modulus, exponent } | PublicKey::RsaPss { modulus, exponent, .. } => {
            [unsigned(N, modulus), unsigned(E, exponent)]
        }
        PublicKey::Ec { curve, point } => {
            let group = params.find(GROUP).is_none_or(|p| p.answer_utf8(group_name(*curve)));
            [octets(PUB, point) & octets(ENCODED_PUB, point), group]
        }
        PublicKey::MlDsa(_, public) => [octets(PUB, public), true],
        PublicKey::Ed25519(public) => [octets(PUB, public), octets(ENCODED_PUB, public)],
        _ => return None,
    };
    Some(fitted == [true, true])
}

/// Answers with the digest to sign with: a default, or the only one. Returns whether the answer
/// fitted.
fn answer_digest(public: &PublicKey, params: Params<'_>) -> bool {
    let (key, digest) = match public {
        // Empty: the algorithm hashes for itself, and a program must not name a digest
        // (EVP_SIGNATURE-ED25519(7)).
        PublicKey::MlDsa(..) | PublicKey::Ed25519(_) => (MANDATORY_DIGEST, c""),
        // Mandatory, because the key allows no other (EVP_PKEY_get_default_digest_nid(3)).
        PublicKey::RsaPss { parameters: Some(parameters), .. } => {
            (MANDATORY_DIGEST, hash_name(parameters.hash()))
        }
        _ => (DEFAULT_DIGEST, c"SHA256"),
    };
    params.find(key).is_none_or(|p| p.answer_utf8(digest))
}

/// True if two public keys are the same. Ignores the restrictions of an RSA-PSS key: an imported
/// key has none, for example the key of a certificate.
fn same(one: &PublicKey, other: &PublicKey) -> bool {
    match (rsa_numbers(one), rsa_numbers(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn rsa_numbers(key: &PublicKey) -> Option<[&[u8]; 2]> {
    match key {
        PublicKey::Rsa { modulus, exponent } | PublicKey::RsaPss { modulus, exponent, .. } => {
            Some([modulus, exponent])
        }
        _ => None,
    }
}

/// The group of an EC key, which OpenSSL calls domain parameters; other keys have none.
fn group(key: &PublicKey) -> Option<Curve> {
    match key {
        PublicKey::Ec { curve, .. } => Some(*curve),
        _ => None,
    }
}

fn group_name(curve: Curve) -> &'static CStr {
    match curve {
        Curve::P256 => c"prime256v1",
        Curve::P384 => c"secp384r1",
        Curve::P521 => c"secp521r1",
    }
}

fn hash_name(hash: Hash) -> &'static CStr {
    match hash {
        Hash::Sha384 => c"SHA384",
        Hash::Sha512 => c"SHA512",
        _ => c"SHA256",
    }
}

fn transferred(selection: c_int) -> *const ParamDescriptor {
    if selection & SELECT_PRIVATE_KEY != 0 { ptr::null() } else { TRANSFERRED.as_ptr() }
}

/// The key types, with all names that libssl may look for.
pub(crate) fn algorithms(ml_dsa: bool) -> &'static [Algorithm] {
    if ml_dsa { ALGORITHMS } else { &ALGORITHMS[MlDsa::ALL.len()..] }
}

/// ML-DSA stands first, so that the rest is a list, too.
static ALGORITHMS: &[Algorithm] = &[
    Algorithm::new(ML_DSA_44, PROPERTIES, COMMON, c"ML-DSA-44 key held by Keyward"),
    Algorithm::new(ML_DSA_65, PROPERTIES, COMMON, c"ML-DSA-65 key held by Keyward"),
    Algorithm::new(ML_DSA_87, PROPERTIES, COMMON, c"ML-DSA-87 key held by Keyward"),
    Algorithm::new(c"RSA:rsaEncryption:1.2.840.113549.1.1.1", PROPERTIES, COMMON, c"RSA key held by Keyward"),
    Algorithm::new(
        c"RSA-PSS:RSASSA-PSS:1.2.840.113549.1.1.10",
        PROPERTIES,
        RSA_PSS,
        c"RSA key for RSASSA-PSS held by Keyward",
    ),
    Algorithm::new(c"EC:id-ecPublicKey:1.2.840.10045.2.1", PROPERTIES, EC, c"EC key held by Keyward"),
    Algorithm::new(c"ED25519:1.3.101.112", PROPERTIES, COMMON, c"Ed25519 key held by Keyward"),
    Algorithm::END,
];

// EVP_PKEY-ML-DSA(7).
pub(crate) const ML_DSA_44: &CStr = c"ML-DSA-44:MLDSA44:2.16.840.1.101.3.4.3.17:id-ml-dsa-44";
pub(crate) const ML_DSA_65: &CStr = c"ML-DSA-65:MLDSA65:2.16.840.1.101.3.4.3.18:id-ml-dsa-65";
pub(crate) const ML_DSA_87: &CStr = c"ML-DSA-87:MLDSA87:2.16.840.1.101.3.4.3.19:id-ml-dsa-87";

macro_rules! table {
    ($($id:ident => $function:expr),* $(,)?) => {
        dispatch! {
            KEYMGMT_NEW => context::new,
            KEYMGMT_FREE => context::free,
            KEYMGMT_LOAD => load,
            KEYMGMT_DUP => dup,
            KEYMGMT_HAS => has,
            KEYMGMT_MATCH => matches,
            KEYMGMT_IMPORT => import,
            KEYMGMT_IMPORT_TYPES => import_types,
            KEYMGMT_EXPORT => export,
            KEYMGMT_EXPORT_TYPES => export_types,
            KEYMGMT_GET_PARAMS => get_params,
            KEYMGMT_GETTABLE_PARAMS => gettable_params,
            $($id => $function,)*
        }
    };
}

static COMMON: &[Dispatch] = table! {};
static RSA_PSS: &[Dispatch] = table! { KEYMGMT_QUERY_OPERATION_NAME => rsa_pss_operation_name };
static EC: &[Dispatch] = table! { KEYMGMT_QUERY_OPERATION_NAME => ec_operation_name };

static TRANSFERRED: &[ParamDescriptor] = &[
    ParamDescriptor::new(N, UNSIGNED_INTEGER),
    ParamDescriptor::new(E, UNSIGNED_INTEGER),
    ParamDescriptor::new(DIGEST, UTF8_STRING),
    ParamDescriptor::new(MGF1_DIGEST, UTF8_STRING),
    ParamDescriptor::new(SALT_LENGTH, INTEGER),
    ParamDescriptor::new(GROUP, UTF8_STRING),
    ParamDescriptor::new(PUB, OCTET_STRING),
    ParamDescriptor::END,
];

static GETTABLE: &[ParamDescriptor] = &[
    ParamDescriptor::new(BITS, INTEGER),
    ParamDescriptor::new(SECURITY_BITS, INTEGER),
    ParamDescriptor::new(MAX_SIZE, INTEGER),
    ParamDescriptor::new(DEFAULT_DIGEST, UTF8_STRING),
    ParamDescriptor::new(MANDATORY_DIGEST, UTF8_STRING),
    ParamDescriptor::new(N, UNSIGNED_INTEGER),
    ParamDescriptor::new(E, UNSIGNED_INTEGER),
    ParamDescriptor::new(GROUP, UTF8_STRING),
    ParamDescriptor::new(PUB, OCTET_STRING),
    ParamDescriptor::new(ENCODED_PUB, OCTET_STRING),
    ParamDescriptor::END,
];

// OSSL_PKEY_PARAM_*, provider-keymgmt(7).
const BITS: &CStr = c"bits";
const SECURITY_BITS: &CStr = c"security-bits";
const MAX_SIZE: &CStr = c"max-size";
const DEFAULT_DIGEST: &CStr = c"default-digest";
const MANDATORY_DIGEST: &CStr = c"mandatory-digest";
const N: &CStr = c"n";
const E: &CStr = c"e";
const DIGEST: &CStr = c"digest";
const MGF1_DIGEST: &CStr = c"mgf1-digest";
const SALT_LENGTH: &CStr = c"saltlen";
const GROUP: &CStr = c"group";
const PUB: &CStr = c"pub";
const ENCODED_PUB: &CStr = c"encoded-pub-key";
