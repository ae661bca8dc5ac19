//! The mechanisms and uses of each profile, and whether the answers about them are true.

use keyward_grep11::{GetMechanismInfoRequest, GetMechanismListRequest, ckf};

use super::*;

fn offers(client: &Client) -> BTreeMap<u64, (u64, u64)> {
    let listed = client.crypto.get_mechanism_list(GetMechanismListRequest::default()).unwrap().mechs;
    let info = |mech: u64| {
        let info = client.crypto.get_mechanism_info(GetMechanismInfoRequest { mech }).unwrap();
        let info = info.mech_info.unwrap();
        (mech, (info.flags, info.min_key_size))
    };
    listed.into_iter().map(info).collect()
}

#[test]
fn the_list_of_mechanisms_tells_the_truth() {
    let client = Client::new(Profile::Open);
    let open = offers(&client);
    let mut refused = 0;
    for profile in Profile::ALL {
        client.unit.set_profile(profile);
        let here = offers(&client);
        for (mech, (flags, _)) in &open {
            let left = here.get(mech).map_or(0, |(flags, _)| *flags);
            assert_eq!(left & !flags, 0, "a profile adds nothing");
            if left == 0 {
                let error = client.crypto.get_mechanism_info(GetMechanismInfoRequest { mech: *mech });
                assert_eq!(code(&error.unwrap_err()), "CKR_MECHANISM_INVALID");
            }
            // A call with a mechanism that the list does not have fails because of that; a call
            // with another one fails for the lack of a key.
            let bad = [
                (ckf::CKF_ENCRYPT, client.encrypt(plain(*mech), b"no key", b"").map(drop)),
                (ckf::CKF_DECRYPT, client.decrypt(plain(*mech), b"no key", b"").map(drop)),
                (ckf::CKF_WRAP, client.wrap(plain(*mech), b"no key", b"no key").map(drop)),
                (ckf::CKF_UNWRAP, client.unwrap(plain(*mech), b"no key", b"", ckk::CKK_AES, &[]).map(drop)),
                (ckf::CKF_GENERATE, client.secret(*mech, 5000, &[]).map(drop)),
                (ckf::CKF_GENERATE_KEY_PAIR, client.pair(*mech, &[], &[]).map(drop)),
            ];
            for (flag, answer) in bad {
                let error = answer.unwrap_err();
                let is_off = error.to_string().contains("switched off");
                assert_eq!(is_off, flags & flag != 0 && left & flag == 0, "{profile}, {mech:#x}: {error}");
                if is_off {
                    assert!(error.to_string().contains("keyward unit control-points"), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn each_profile_has_the_uses_of_its_name() {
    let client = Client::new(Profile::Strict);
    let has = |client: &Client, flag: u64| -> Vec<u64> {
        offers(client).into_iter().filter(|(_, (flags, _))| flags & flag != 0).map(|(mech, _)| mech).collect()
    };
    assert_eq!(has(&client, ckf::CKF_WRAP), [0; 0]);
    let unwrap = [ckm::CKM_RSA_PKCS_OAEP, ckm::CKM_AES_CBC_PAD, ckm::CKM_IBM_TRANSPORTKEY];
    assert_eq!(has(&client, ckf::CKF_UNWRAP), unwrap);
    assert_eq!(offers(&client)[&ckm::CKM_GENERIC_SECRET_KEY_GEN].1, 128);
    let sign = has(&client, ckf::CKF_SIGN);

    client.unit.set_profile(Profile::Tls);
    assert_eq!(has(&client, ckf::CKF_DECRYPT), [ckm::CKM_RSA_PKCS]);
    assert_eq!(has(&client, ckf::CKF_UNWRAP), unwrap[..2]);
    assert_eq!(has(&client, ckf::CKF_GENERATE), [ckm::CKM_AES_KEY_GEN], "for the name of the master key");
    let useless = client.aes(&[]).unwrap();
    let unset = crate::blob::Attributes::EXTRACTABLE | crate::blob::Attributes::MODIFIABLE;
    assert!(!client.attributes(&useless).has_any(unset | crate::blob::Attributes::ENCRYPT));
    for number in USES {
        client.aes(&[(number, TRUE)]).unwrap_err();
    }
    let without = ckf::CKF_ENCRYPT | ckf::CKF_DERIVE | ckf::CKF_DIGEST | ckf::CKF_WRAP;
    assert_eq!(has(&client, without), [0; 0]);
    let hmacs = sign.iter().filter(|mech| ckm::name(**mech).unwrap().contains("HMAC")).count();
    assert_eq!(has(&client, ckf::CKF_SIGN).len(), sign.len() - hmacs);
    let first = client.crypto.get_mechanism_list(GetMechanismListRequest::default()).unwrap().mechs[0];
    assert_eq!(first, ckm::CKM_RSA_PKCS, "some clients rely on the first one");
    for curve in ["P-256", "P-384", "P-521"] {
        client.ec(curve, &[]).unwrap();
        assert_eq!(
            code(&client.ec(curve, &only(&[cka::CKA_DERIVE])).unwrap_err()),
            "CKR_TEMPLATE_INCONSISTENT"
        );
    }
    let koblitz = OneAttr::AttributeB(vec![6, 5, 0x2b, 0x81, 4, 0, 10]);
    let refused = client.pair(ckm::CKM_EC_KEY_PAIR_GEN, &[(cka::CKA_EC_PARAMS, koblitz)], &[]).unwrap_err();
    assert_eq!(code(&refused), "CKR_CURVE_NOT_SUPPORTED");
}

#[test]
fn a_key_that_unwraps_has_no_other_use() {
    let client = Client::new(Profile::Open);
    let old = client.rsa(&[], &only(&[cka::CKA_UNWRAP, cka::CKA_DECRYPT])).unwrap();
    let (_, public) = client.rsa(&only(&[cka::CKA_ENCRYPT]), &[]).unwrap();
    for profile in [Profile::Tls, Profile::Strict] {
        client.unit.set_profile(profile);
        for other in USES.into_iter().filter(|number| *number != cka::CKA_UNWRAP) {
            let refused = client.rsa(&[], &only(&[cka::CKA_UNWRAP, other])).unwrap_err();
            assert_eq!(code(&refused), "CKR_TEMPLATE_INCONSISTENT", "{profile}, {other:#x}");
        }
        // The usual uses of an RSA key are no obstacle: the template does not ask for them.
        let (private, _) = client.rsa(&[], &[(cka::CKA_UNWRAP, TRUE)]).unwrap();
        let attributes = client.attributes(&private);
        assert!(attributes.has(crate::blob::Attributes::UNWRAP));
        assert!(!attributes.has_any(crate::blob::Attributes::SIGN | crate::blob::Attributes::DECRYPT));
        client.ec("P-256", &only(&[cka::CKA_UNWRAP])).unwrap_err();
        // A key of another time has both uses, and can be used for neither.
        let data = client.under(Profile::Open, |client| client.encrypt(oaep(), &public, &[1; 32]).unwrap());
        let unwrap = only(&[cka::CKA_UNWRAP]);
        let refused = client.unwrap(oaep(), &old.0, &data, ckk::CKK_AES, &unwrap).unwrap_err();
        assert_eq!(code(&refused), "CKR_KEY_FUNCTION_NOT_PERMITTED", "{profile}");
        let refused = client.decrypt(plain(ckm::CKM_RSA_PKCS), &old.0, &data).unwrap_err();
        assert_eq!(code(&refused), "CKR_KEY_FUNCTION_NOT_PERMITTED", "{profile}");
        assert!(refused.to_string().contains(&format!("profile {profile}")), "{refused}");
    }
    // The digest of a key can be as useful as the key.
    let digestible = only(&[cka::CKA_UNWRAP, cka::CKA_IBM_USE_AS_DATA]);
    let key = client.under(Profile::Open, |client| client.aes(&digestible).unwrap());
    client.unit.set_profile(Profile::Strict);
    let mech = Some(plain(ckm::CKM_SHA256));
    let state = client.crypto.digest_init(keyward_grep11::DigestInitRequest { mech }).unwrap().state;
    let request = keyward_grep11::DigestKeyRequest { state, key_bytes: key, ..Default::default() };
    assert_eq!(code(&client.crypto.digest_key(request).unwrap_err()), "CKR_KEY_FUNCTION_NOT_PERMITTED");
    client.aes(&only(&[cka::CKA_UNWRAP])).unwrap_err();
    client.aes(&only(&[cka::CKA_WRAP])).unwrap_err();
    client.aes(&only(&[cka::CKA_IBM_USE_AS_DATA])).unwrap_err();
    client.aes(&[]).unwrap();
}

#[test]
fn an_operation_ends_when_its_mechanism_is_switched_off() {
    let client = Client::new(Profile::Strict);
    let key = client.aes(&[]).unwrap();
    let begun = client.crypto.encrypt_init(keyward_grep11::EncryptInitRequest {
        mech: Some(with_bytes(ckm::CKM_AES_CBC, &IV)),
        key_bytes: key,
        ..Default::default()
    });
    let state = begun.unwrap().state;
    let next = || {
        let request = keyward_grep11::EncryptUpdateRequest { state: state.clone(), plain: vec![0; 16] };
        client.crypto.encrypt_update(request)
    };
    next().unwrap();
    client.unit.set_profile(Profile::Tls);
    assert_eq!(code(&next().unwrap_err()), "CKR_MECHANISM_INVALID");
}
