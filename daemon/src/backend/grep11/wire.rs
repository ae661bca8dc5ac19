//! Keys and their attributes in messages of GREP11.

use std::collections::BTreeMap;

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::{AttributeValue, KeyBlob, cka, ckm};
use keyward_proto::{KeyType, oid};
use keyward_unit::Header;

use crate::backend::Abilities;
use crate::config::Dialect;

/// Key as an argument of a call. The dialect of the unit decides which of two fields has the key.
pub(super) fn argument(dialect: Dialect, blob: &[u8]) -> (Option<KeyBlob>, Vec<u8>) {
    match dialect {
        Dialect::KeyBlob => {
            (Some(KeyBlob { key_blobs: vec![blob.to_vec()], ..KeyBlob::default() }), Vec::new())
        }
        Dialect::Bytes => (None, blob.to_vec()),
    }
}

/// Key in a response: in the newer field, in the older field, or in both.
pub(super) fn blob_of(newer: Option<KeyBlob>, older: Vec<u8>) -> Vec<u8> {
    newer.and_then(|key| key.key_blobs.into_iter().next()).filter(|blob| !blob.is_empty()).unwrap_or(older)
}

/// Mechanism that generates a key of this type, and the number and value of the attribute with the
/// size, curve or parameter set.
pub(crate) fn generation(key_type: KeyType) -> (u64, u64, OneAttr) {
    let curve = match key_type {
        KeyType::Rsa(bits) | KeyType::RsaPss(bits) => {
            let bits = OneAttr::AttributeI(bits.into());
            return (ckm::CKM_RSA_PKCS_KEY_PAIR_GEN, cka::CKA_MODULUS_BITS, bits);
        }
        KeyType::MlDsa(parameters) => {
            let set = integer(keyward_unit::parameter_set(parameters));
            return (ckm::CKM_IBM_ML_DSA_KEY_PAIR_GEN, cka::CKA_IBM_PARAMETER_SET, set);
        }
        KeyType::P384 => oid::SECP384R1,
        KeyType::P521 => oid::SECP521R1,
        KeyType::Ed25519 => oid::ED25519,
        _ => oid::SECP256R1,
    };
    // An OBJECT IDENTIFIER in DER. All of these have at most 127 bytes, so the length is one byte.
    let mut parameters = vec![6, u8::try_from(curve.as_bytes().len()).unwrap_or_default()];
    parameters.extend_from_slice(curve.as_bytes());
    (ckm::CKM_EC_KEY_PAIR_GEN, cka::CKA_EC_PARAMS, OneAttr::AttributeB(parameters))
}

/// Abilities of a key, from the header of its blob.
pub(super) fn abilities_of(header: &Header) -> Abilities {
    Abilities { signs: header.signs(), decrypts: header.decrypts() }
}

/// Attributes that give a private key these abilities.
pub(super) fn private(abilities: Abilities) -> Vec<u64> {
    attributes_of(abilities, [cka::CKA_SIGN, cka::CKA_DECRYPT])
}

/// Attributes of the public half of a key with these abilities.
pub(super) fn public(abilities: Abilities) -> Vec<u64> {
    attributes_of(abilities, [cka::CKA_VERIFY, cka::CKA_ENCRYPT])
}

fn attributes_of(abilities: Abilities, [signs, decrypts]: [u64; 2]) -> Vec<u64> {
    let all = [(abilities.signs, signs), (abilities.decrypts, decrypts)];
    all.into_iter().filter_map(|(wanted, attribute)| wanted.then_some(attribute)).collect()
}

/// Template of a key with these uses only. The key cannot be extracted from the unit.
pub(super) fn only(uses: &[u64]) -> BTreeMap<u64, AttributeValue> {
    const ALL: [u64; 7] = [
        cka::CKA_SIGN,
        cka::CKA_DECRYPT,
        cka::CKA_DERIVE,
        cka::CKA_UNWRAP,
        cka::CKA_WRAP,
        cka::CKA_EXTRACTABLE,
        // Nobody can set the other attributes later.
        cka::CKA_MODIFIABLE,
    ];
    attributes(&ALL.map(|attribute| (attribute, OneAttr::AttributeTf(uses.contains(&attribute)))))
}

pub(super) fn attributes(list: &[(u64, OneAttr)]) -> BTreeMap<u64, AttributeValue> {
    list.iter().map(|(number, value)| (*number, AttributeValue { one_attr: Some(value.clone()) })).collect()
}

pub(super) fn integer(number: u64) -> OneAttr {
    // All numbers here have at most 31 bits.
    OneAttr::AttributeI(i64::try_from(number).unwrap_or_default())
}
