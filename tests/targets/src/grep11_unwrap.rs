//! Keys that come in by UnwrapKey, with any content. An accepted key can do the operations of its
//! type, and wraps to the same content.

use std::sync::LazyLock;

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::{
    DecryptSingleRequest, DeriveKeyRequest, EncryptSingleRequest, SignSingleRequest, UnwrapKeyRequest,
    WrapKeyRequest, cka, ckk, ckm, ckr,
};

use crate::scene::{AES, Scene, check, everything, typed, with_iv, without_parameter};

static SCENE: LazyLock<Scene> = LazyLock::new(Scene::new);

/// Feeds an input to the decoder.
pub fn run(input: &[u8]) {
    let Some((kind, plain)) = input.split_first() else { return };
    let crypto = &SCENE.crypto;
    let mech = with_iv(ckm::CKM_AES_CBC_PAD);
    let kek = SCENE.objects[AES].clone();
    let wrapped = crypto.encrypt_single(EncryptSingleRequest {
        mech: mech.clone(),
        key_bytes: kek.clone(),
        plain: plain.to_vec(),
        ..EncryptSingleRequest::default()
    });
    let wrapped = wrapped.expect("a ciphertext").ciphered;
    let types = [ckk::CKK_RSA, ckk::CKK_EC, ckk::CKK_IBM_ML_DSA, ckk::CKK_AES, ckk::CKK_GENERIC_SECRET];
    let key_type = types[usize::from(*kind) % types.len()];
    let mut template = everything();
    template.push((cka::CKA_KEY_TYPE, OneAttr::AttributeI(key_type as i64)));
    let unwrapped = crypto.unwrap_key(UnwrapKeyRequest {
        mech: mech.clone(),
        ke_k_bytes: kek.clone(),
        wrapped,
        template: typed(template),
        ..UnwrapKeyRequest::default()
    });
    let key = match unwrapped {
        Ok(unwrapped) => unwrapped.unwrapped_bytes,
        Err(error) => return check(&error),
    };

    let sign = |mechanism| {
        let (mech, priv_key_bytes, data) = (without_parameter(mechanism), key.clone(), vec![1; 32]);
        crypto.sign_single(SignSingleRequest { mech, priv_key_bytes, data, ..SignSingleRequest::default() })
    };
    let agree = || {
        let mech = without_parameter(ckm::CKM_ECDH1_DERIVE);
        let base_key_bytes = key.clone();
        crypto.derive_key(DeriveKeyRequest { mech, base_key_bytes, ..DeriveKeyRequest::default() })
    };
    match key_type {
        ckk::CKK_RSA => assert!(sign(ckm::CKM_RSA_PKCS).is_ok() && sign(ckm::CKM_SHA256_RSA_PKCS).is_ok()),
        ckk::CKK_EC => {
            // Without a parameter, keys that can agree refuse for that reason.
            let agrees = agree().is_err_and(|error| error.code() == ckr::CKR_MECHANISM_PARAM_INVALID);
            assert!(sign(ckm::CKM_ECDSA).is_ok() || sign(ckm::CKM_IBM_ED25519_SHA512).is_ok() || agrees);
        }
        ckk::CKK_IBM_ML_DSA => assert!(sign(ckm::CKM_IBM_ML_DSA).is_ok()),
        _ => assert!(sign(ckm::CKM_SHA256_HMAC).is_ok()),
    }

    let again = crypto.wrap_key(WrapKeyRequest {
        mech: mech.clone(),
        key_bytes: key,
        ke_k_bytes: kek.clone(),
        ..WrapKeyRequest::default()
    });
    let again = crypto.decrypt_single(DecryptSingleRequest {
        mech,
        key_bytes: kek,
        ciphered: again.expect("a wrapped key").wrapped,
        ..DecryptSingleRequest::default()
    });
    let again = again.expect("the key").plain;
    // The encoding of a private key may change, that of a secret key may not.
    if [ckk::CKK_AES, ckk::CKK_GENERIC_SECRET].contains(&key_type) {
        assert_eq!(again, plain);
    }
}
