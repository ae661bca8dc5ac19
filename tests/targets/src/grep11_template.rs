//! Templates, in both dialects. A key has the attributes of its template, a change has its effect,
//! and both dialects agree.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::{
    AttributeValue, GenerateKeyRequest, GetAttributeValueRequest, SetAttributeValueRequest, cka, ckm,
};

use crate::scene::{Scene, check, without_parameter};

static SCENE: LazyLock<Scene> = LazyLock::new(Scene::new);

/// Attributes that a template may have.
const NUMBERS: &[u64] = &[
    cka::CKA_CLASS,
    cka::CKA_TOKEN,
    cka::CKA_PRIVATE,
    cka::CKA_LABEL,
    cka::CKA_TRUSTED,
    cka::CKA_KEY_TYPE,
    cka::CKA_ID,
    cka::CKA_SENSITIVE,
    cka::CKA_ENCRYPT,
    cka::CKA_DECRYPT,
    cka::CKA_WRAP,
    cka::CKA_UNWRAP,
    cka::CKA_SIGN,
    cka::CKA_VERIFY,
    cka::CKA_DERIVE,
    cka::CKA_VALUE_LEN,
    cka::CKA_EXTRACTABLE,
    cka::CKA_LOCAL,
    cka::CKA_NEVER_EXTRACTABLE,
    cka::CKA_MODIFIABLE,
    cka::CKA_EC_PARAMS,
    cka::CKA_WRAP_WITH_TRUSTED,
    cka::CKA_IBM_RESTRICTABLE,
    cka::CKA_IBM_USE_AS_DATA,
    cka::CKA_IBM_ATTRBOUND,
    cka::CKA_MODULUS_BITS,
];

const NO_BOOLEANS: &[u64] = &[
    cka::CKA_CLASS,
    cka::CKA_KEY_TYPE,
    cka::CKA_VALUE_LEN,
    cka::CKA_MODULUS_BITS,
    cka::CKA_PUBLIC_EXPONENT,
    cka::CKA_IBM_PARAMETER_SET,
    cka::CKA_EC_PARAMS,
    cka::CKA_IBM_PQC_PARAMS,
];

/// Feeds an input to the decoder.
pub fn run(input: &[u8]) {
    // Entries: a byte for the attribute, or eight bytes for its number, and a value.
    let (mut template, mut plain) = (BTreeMap::new(), BTreeMap::new());
    let mut rest = input;
    while let Some(([which, kind, byte], after)) = rest.split_first_chunk() {
        rest = after;
        let number = match NUMBERS.get(usize::from(*which)) {
            Some(number) => *number,
            None => {
                let Some((number, after)) = rest.split_first_chunk() else { break };
                rest = after;
                u64::from_le_bytes(*number)
            }
        };
        // The same value in both dialects. The byte gives the length of a list of bytes.
        let (value, bytes) = match kind % 4 {
            0 => (Some(OneAttr::AttributeTf(byte & 1 == 1)), vec![byte & 1]),
            1 => (Some(OneAttr::AttributeI((*byte).into())), u64::from(*byte).to_be_bytes().to_vec()),
            2 => {
                let (bytes, after) = rest.split_at(usize::from(*byte).min(rest.len()));
                rest = after;
                (Some(OneAttr::AttributeB(bytes.to_vec())), bytes.to_vec())
            }
            _ => (None, Vec::new()),
        };
        if value.is_some() {
            plain.insert(number, bytes);
        } else {
            plain.remove(&number);
        }
        template.insert(number, AttributeValue { one_attr: value });
    }

    let mech = without_parameter(ckm::CKM_AES_KEY_GEN);
    let made = SCENE.crypto.generate_key(GenerateKeyRequest {
        mech: mech.clone(),
        template: template.clone(),
        ..GenerateKeyRequest::default()
    });
    let same = SCENE.crypto.generate_key(GenerateKeyRequest {
        mech,
        template_bytes: plain.clone(),
        ..GenerateKeyRequest::default()
    });
    // As bytes, a boolean, a number and a string may look the same. As typed values they differ.
    let alike = template.iter().all(|(number, value)| match value.one_attr {
        Some(OneAttr::AttributeI(_)) => false,
        Some(OneAttr::AttributeTf(_)) => !NO_BOOLEANS.contains(number),
        _ => true,
    });
    if alike {
        // Both dialects refuse, possibly with different errors.
        assert_eq!(made.is_ok(), same.is_ok(), "{template:?} {:?} {:?}", made.err(), same.err());
    }
    match made {
        Err(error) => check(&error),
        Ok(made) => told(&made.key_bytes, &template),
    }

    for object in &SCENE.objects[..4] {
        let changed = SCENE.crypto.set_attribute_value(SetAttributeValueRequest {
            object: object.clone(),
            attributes: template.clone(),
            ..SetAttributeValueRequest::default()
        });
        match changed {
            Err(error) => check(&error),
            Ok(changed) => told(&changed.object, &template),
        }
    }
}

/// Asserts that the attributes of a key are those in the template.
fn told(object: &[u8], template: &BTreeMap<u64, AttributeValue>) {
    for (number, value) in template {
        let Some(OneAttr::AttributeTf(_)) = value.one_attr else { continue };
        // Keys here are always private and sensitive, and never stored.
        if [cka::CKA_TOKEN, cka::CKA_PRIVATE, cka::CKA_SENSITIVE, cka::CKA_LABEL, cka::CKA_ID]
            .contains(number)
        {
            continue;
        }
        let response = SCENE.crypto.get_attribute_value(GetAttributeValueRequest {
            object: object.to_vec(),
            attributes: [(*number, AttributeValue::default())].into(),
            ..GetAttributeValueRequest::default()
        });
        match response {
            Ok(response) => assert_eq!(response.attributes.get(number), Some(value), "{number:#x}"),
            // Accepted as harmless, and not kept.
            Err(error) => check(&error),
        }
    }
}
