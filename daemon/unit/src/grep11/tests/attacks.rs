//! Attacks by which clients have got at keys. Each works under `open`, where it is documented, and
//! fails under the other profiles.

use super::*;

const GUARDED: [Profile; 2] = [Profile::Tls, Profile::Strict];

/// A wrapping key that may only wrap and unwrap, and a key that it has wrapped. Made under `open`.
fn kept_secret(client: &Client) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    client.under(Profile::Open, |client| {
        let wrapping = client.aes(&only(&[cka::CKA_WRAP, cka::CKA_UNWRAP])).unwrap();
        let secret = client.aes(&only(&[cka::CKA_ENCRYPT, cka::CKA_EXTRACTABLE])).unwrap();
        let wrapped = client.wrap(with_bytes(ckm::CKM_AES_CBC, &IV), &wrapping, &secret).unwrap();
        (wrapping, wrapped, client.value(&secret))
    })
}

#[test]
fn a_wrapping_key_does_not_give_up_its_contents_in_three_calls() {
    let client = Client::new(Profile::Open);
    let (wrapping, wrapped, value) = kept_secret(&client);
    let attack = || {
        let mechanism = || with_bytes(ckm::CKM_AES_CBC, &IV);
        let out =
            client.unwrap(mechanism(), &wrapping, &wrapped, ckk::CKK_AES, &only(&[cka::CKA_EXTRACTABLE]))?;
        let own = client.aes(&only(&[cka::CKA_WRAP, cka::CKA_DECRYPT]))?;
        let again = client.wrap(mechanism(), &own, &out)?;
        client.decrypt(mechanism(), &own, &again)
    };
    assert_eq!(attack().unwrap(), value, "the attack works under open");
    for profile in GUARDED {
        client.unit.set_profile(profile);
        assert_eq!(code(&attack().unwrap_err()), "CKR_MECHANISM_INVALID", "{profile}: the first call");
        let padded = with_bytes(ckm::CKM_AES_CBC_PAD, &IV);
        let out = client.unwrap(padded, &wrapping, &wrapped, ckk::CKK_EC, &only(&[cka::CKA_EXTRACTABLE]));
        assert_eq!(code(&out.unwrap_err()), "CKR_TEMPLATE_INCONSISTENT");
        let mechanism = || with_bytes(ckm::CKM_AES_CBC, &IV);
        let out = client.unwrap(mechanism(), &wrapping, &wrapped, ckk::CKK_AES, &only(&[cka::CKA_ENCRYPT]));
        out.unwrap_err();
        // Each of the other calls alone, with keys from another time.
        let (own, out) = client.under(Profile::Open, |client| {
            let out = only(&[cka::CKA_EXTRACTABLE, cka::CKA_ENCRYPT]);
            (client.aes(&only(&[cka::CKA_WRAP, cka::CKA_DECRYPT])).unwrap(), client.aes(&out).unwrap())
        });
        client.aes(&only(&[cka::CKA_WRAP, cka::CKA_DECRYPT])).unwrap_err();
        for number in [ckm::CKM_AES_CBC, ckm::CKM_AES_CBC_PAD] {
            let refused = client.wrap(with_bytes(number, &IV), &own, &out).unwrap_err();
            assert_eq!(code(&refused), "CKR_MECHANISM_INVALID", "{profile}");
        }
    }
}

#[test]
fn to_unwrap_with_a_chosen_iv_and_length_is_no_oracle() {
    let client = Client::new(Profile::Open);
    let (wrapping, wrapped, value) = kept_secret(&client);
    // A secret of one byte, whose MAC tells the byte; the rest must be zeros, as the IV makes them.
    let attack = || {
        let block = &wrapped[..16];
        let mut iv = IV;
        // The client needs every byte but the first to be zero. Here the test knows them; a client
        // finds each by 256 attempts.
        for place in 1..16 {
            iv[place] ^= value[place];
        }
        let attributes = [only(&[cka::CKA_SIGN]), vec![(cka::CKA_VALUE_LEN, integer(1))]].concat();
        let mechanism = with_bytes(ckm::CKM_AES_CBC, &iv);
        let short = client.unwrap(mechanism, &wrapping, block, ckk::CKK_GENERIC_SECRET, &attributes)?;
        client.mac(&short, b"which byte is it")
    };
    assert_eq!(attack().unwrap(), own_mac(&value[..1], b"which byte is it"), "the attack works under open");
    for profile in GUARDED {
        client.unit.set_profile(profile);
        assert_eq!(code(&attack().unwrap_err()), "CKR_MECHANISM_INVALID", "{profile}");
        for number in [ckm::CKM_AES_ECB, ckm::CKM_RSA_PKCS] {
            let refused = client.unwrap(plain(number), &wrapping, &wrapped, ckk::CKK_AES, &[]).unwrap_err();
            assert_eq!(code(&refused), "CKR_MECHANISM_INVALID", "{profile}");
        }
        for key_type in SECRETS {
            let mechanism = with_bytes(ckm::CKM_AES_CBC_PAD, &IV);
            let attributes =
                if key_type == ckk::CKK_AES { only(&[cka::CKA_UNWRAP]) } else { only(&[cka::CKA_SIGN]) };
            client.unwrap(mechanism, &wrapping, &wrapped, key_type, &attributes).unwrap_err();
        }
    }
}

#[test]
fn truncated_derived_keys_do_not_tell_a_shared_secret() {
    let client = Client::new(Profile::Open);
    let (private, _) =
        client.under(Profile::Open, |client| client.ec("P-256", &only(&[cka::CKA_DERIVE])).unwrap());
    let (_, honest) = own_ec();
    let whole =
        client.derive(&private, &honest, ckk::CKK_GENERIC_SECRET, 32, &only(&[cka::CKA_SIGN])).unwrap();
    let shared = client.value(&whole);
    // One byte more in each call; the client finds the byte by 256 MACs of its own.
    let attack = || {
        let mut known: Vec<u8> = Vec::new();
        for length in 1..=32 {
            let sign = only(&[cka::CKA_SIGN]);
            let short = client.derive(&private, &honest, ckk::CKK_GENERIC_SECRET, length, &sign)?;
            let mac = client.mac(&short, b"")?;
            let byte = (0..=255).find(|byte| own_mac(&[&[*byte], &known[..]].concat(), b"") == mac);
            known.insert(0, byte.unwrap());
        }
        Ok::<_, Error>(known)
    };
    assert_eq!(attack().unwrap(), shared, "the attack works under open, in 32 calls");
    client.unit.set_profile(Profile::Strict);
    assert_eq!(code(&attack().unwrap_err()), "CKR_KEY_SIZE_RANGE");
    for length in 1..16 {
        let sign = only(&[cka::CKA_SIGN]);
        client.derive(&private, &honest, ckk::CKK_GENERIC_SECRET, length, &sign).unwrap_err();
        client.secret(ckm::CKM_GENERIC_SECRET_KEY_GEN, length, &sign).unwrap_err();
    }
    client.derive(&private, &honest, ckk::CKK_GENERIC_SECRET, 16, &only(&[cka::CKA_SIGN])).unwrap();
    client.unit.set_profile(Profile::Tls);
    assert_eq!(code(&attack().unwrap_err()), "CKR_MECHANISM_INVALID");
}

#[test]
fn keys_are_not_modifiable_unless_the_client_asks() {
    let client = Client::new(Profile::Open);
    let modifiable = |blob: &[u8]| client.attributes(blob).has(crate::blob::Attributes::MODIFIABLE);
    assert!(modifiable(&client.rsa(&[], &[]).unwrap().0), "the default of PKCS #11 under open");
    // So a wrapping key that may not decrypt can be made one that may.
    let (wrapping, wrapped, value) = kept_secret(&client);
    let attack = || {
        let more = client.set(&wrapping, &[(cka::CKA_DECRYPT, TRUE)])?;
        client.decrypt(with_bytes(ckm::CKM_AES_CBC, &IV), &more, &wrapped)
    };
    assert_eq!(attack().unwrap(), value, "the attack works under open");
    for profile in GUARDED {
        client.unit.set_profile(profile);
        let rsa = client.rsa(&[], &[]).unwrap().0;
        assert!(!modifiable(&rsa), "{profile}");
        assert_eq!(code(&attack().unwrap_err()), "CKR_ATTRIBUTE_READ_ONLY", "{profile}");
        assert_eq!(
            code(&client.set(&rsa, &[(cka::CKA_UNWRAP, TRUE)]).unwrap_err()),
            "CKR_ATTRIBUTE_READ_ONLY"
        );
        // A modifiable key loses uses and gains none: the blob before the change stays valid.
        let rsa = client.rsa(&[], &[(cka::CKA_MODIFIABLE, TRUE)]).unwrap().0;
        let less = client.set(&rsa, &[(cka::CKA_SIGN, FALSE), (cka::CKA_DECRYPT, FALSE)]).unwrap();
        for number in USES {
            let refused = client.set(&less, &[(number, TRUE)]).unwrap_err();
            assert_eq!(code(&refused), "CKR_ATTRIBUTE_READ_ONLY", "{profile}, {number:#x}");
        }
        client.set(&less, &[(cka::CKA_WRAP_WITH_TRUSTED, TRUE)]).unwrap();
    }
}

#[test]
fn the_wrapping_key_of_an_import_cannot_be_taken_in_as_a_key_for_data() {
    let client = Client::new(Profile::Open);
    let (transport, public) = client.rsa(&only(&[cka::CKA_WRAP]), &only(&[cka::CKA_UNWRAP])).unwrap();
    let wrapping = client.aes(&only(&[cka::CKA_EXTRACTABLE, cka::CKA_WRAP, cka::CKA_ENCRYPT])).unwrap();
    let wrapped = client.wrap(oaep(), &public, &wrapping).unwrap();
    let secret = client.ec("P-256", &only(&[cka::CKA_SIGN, cka::CKA_EXTRACTABLE])).unwrap().0;
    let import = client.wrap(with_bytes(ckm::CKM_AES_CBC_PAD, &IV), &wrapping, &secret).unwrap();
    let attack = || {
        let data = client.unwrap(oaep(), &transport, &wrapped, ckk::CKK_AES, &only(&[cka::CKA_DECRYPT]))?;
        client.decrypt(with_bytes(ckm::CKM_AES_CBC_PAD, &IV), &data, &import)
    };
    assert_eq!(attack().unwrap(), client.value(&secret), "the attack works under open");
    for profile in GUARDED {
        client.unit.set_profile(profile);
        assert_eq!(code(&attack().unwrap_err()), "CKR_TEMPLATE_INCONSISTENT", "{profile}");
        // The import itself works.
        let again =
            client.unwrap(oaep(), &transport, &wrapped, ckk::CKK_AES, &only(&[cka::CKA_UNWRAP])).unwrap();
        let mechanism = with_bytes(ckm::CKM_AES_CBC_PAD, &IV);
        let key = client.unwrap(mechanism, &again, &import, ckk::CKK_EC, &only(&[cka::CKA_SIGN])).unwrap();
        assert_eq!(client.value(&key), client.value(&secret));
        assert!(!client.attributes(&key).has(crate::blob::Attributes::EXTRACTABLE));
    }
}
