//! A crypto unit with one key of each kind, for the targets that call it as GREP11 clients do.

use std::num::NonZeroUsize;

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::mechanism::Parameter;
use keyward_grep11::{AttributeValue, GenerateKeyPairRequest, GenerateKeyRequest, Mechanism, cka, ckm, ckr};
use keyward_unit::grep11::{Crypto, Error};
use keyward_unit::{MasterKey, Profile, Unit};

/// The unit, with blobs and public keys of its own that allow every operation.
pub(crate) struct Scene {
    pub(crate) crypto: Crypto,
    pub(crate) objects: Vec<Vec<u8>>,
}

/// Positions of keys among the objects.
pub(crate) const AES: usize = 0;
pub(crate) const SECRET: usize = 1;

impl Scene {
    pub(crate) fn new() -> Self {
        let unit = Unit::new(
            MasterKey::generate().expect("random bytes"),
            NonZeroUsize::new(32).expect("more than 0"),
        );
        unit.simulate_next_master_key(&MasterKey::generate().expect("random bytes"));
        unit.set_profile(Profile::Open);
        let crypto = Crypto::new(unit);
        let mut objects = Vec::new();
        for mechanism in [ckm::CKM_AES_KEY_GEN, ckm::CKM_GENERIC_SECRET_KEY_GEN] {
            let mut template = everything();
            template.push((cka::CKA_VALUE_LEN, OneAttr::AttributeI(32)));
            let made = crypto.generate_key(GenerateKeyRequest {
                mech: without_parameter(mechanism),
                template: typed(template),
                ..GenerateKeyRequest::default()
            });
            objects.push(made.expect("a key").key_bytes);
        }
        let curve =
            |oid: &[u8]| (ckm::CKM_EC_KEY_PAIR_GEN, cka::CKA_EC_PARAMS, OneAttr::AttributeB(oid.to_vec()));
        for (mechanism, which, value) in [
            curve(b"P-256"),
            curve(&[6, 3, 43, 101, 112]),
            curve(&[6, 3, 43, 101, 110]),
            curve(&[6, 5, 43, 129, 4, 0, 10]),
            curve(b"P-384"),
            curve(b"P-521"),
            (ckm::CKM_RSA_PKCS_KEY_PAIR_GEN, cka::CKA_MODULUS_BITS, OneAttr::AttributeI(2048)),
            (ckm::CKM_IBM_ML_DSA_KEY_PAIR_GEN, cka::CKA_IBM_PARAMETER_SET, OneAttr::AttributeI(1)),
        ] {
            let mut public = everything();
            public.push((which, value));
            let made = crypto.generate_key_pair(GenerateKeyPairRequest {
                mech: without_parameter(mechanism),
                pub_key_template: typed(public),
                priv_key_template: typed(everything()),
                ..GenerateKeyPairRequest::default()
            });
            let made = made.expect("a pair of keys");
            objects.extend([made.priv_key_bytes, made.pub_key_bytes]);
        }
        Self { crypto, objects }
    }
}

pub(crate) fn without_parameter(mechanism: u64) -> Option<Mechanism> {
    Some(Mechanism { mechanism, parameter: None })
}

pub(crate) fn with_iv(mechanism: u64) -> Option<Mechanism> {
    Some(Mechanism { mechanism, parameter: Some(Parameter::ParameterB(vec![0; 16])) })
}

/// Every permission that a key may have.
pub(crate) fn everything() -> Vec<(u64, OneAttr)> {
    [
        cka::CKA_EXTRACTABLE,
        cka::CKA_IBM_USE_AS_DATA,
        cka::CKA_SIGN,
        cka::CKA_VERIFY,
        cka::CKA_ENCRYPT,
        cka::CKA_DECRYPT,
        cka::CKA_WRAP,
        cka::CKA_UNWRAP,
        cka::CKA_DERIVE,
    ]
    .map(|number| (number, OneAttr::AttributeTf(true)))
    .to_vec()
}

pub(crate) fn typed<M: FromIterator<(u64, AttributeValue)>>(template: Vec<(u64, OneAttr)>) -> M {
    template.into_iter().map(|(number, value)| (number, AttributeValue { one_attr: Some(value) })).collect()
}

/// Asserts that a refusal has a number with a name, and a reason that fits into a header.
pub(crate) fn check(error: &Error) {
    assert!(ckr::name(error.code()).is_some(), "{error}");
    assert!((1..1000).contains(&error.detail().len()), "{error}");
    assert!(![ckr::CKR_GENERAL_ERROR].contains(&error.code()), "{error}");
}
