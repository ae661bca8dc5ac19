//! Altered ciphertexts of private keys: no answer tells anything about the key.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;

use super::*;
use crate::test_openssl::run;

const KEY: [u8; 32] = [0x42; 32];

/// A unit that has the wrapping key [`KEY`], as an import brings it.
fn importer(profile: Profile) -> (Client, Vec<u8>) {
    let client = Client::new(profile);
    let (transport, public) = client.rsa(&only(&[cka::CKA_ENCRYPT]), &only(&[cka::CKA_UNWRAP])).unwrap();
    let wrapped = client.under(Profile::Open, |client| client.encrypt(oaep(), &public, &KEY).unwrap());
    let unwrap = only(&[cka::CKA_UNWRAP]);
    let wrapping = client.unwrap(oaep(), &transport, &wrapped, ckk::CKK_AES, &unwrap).unwrap();
    (client, wrapping)
}

/// AES-256-CBC without a padding.
fn encrypted(plain: &[u8]) -> Vec<u8> {
    let mut blocks = plain.to_vec();
    let key = UnboundCipherKey::new(&AES_256, &KEY).unwrap();
    let start = EncryptionContext::Iv128(FixedLength::from(IV));
    EncryptingKey::cbc(key).unwrap().less_safe_encrypt(&mut blocks, start).unwrap();
    blocks
}

fn padded(plain: &[u8]) -> Vec<u8> {
    let padding = 16 - plain.len() % 16;
    [plain, &vec![u8::try_from(padding).unwrap(); padding]].concat()
}

fn take_in(client: &Client, wrapping: &[u8], iv: &[u8], wrapped: &[u8], key_type: u64) -> Result<(), Error> {
    let mechanism = with_bytes(ckm::CKM_AES_CBC_PAD, iv);
    client.unwrap(mechanism, wrapping, wrapped, key_type, &only(&[cka::CKA_SIGN])).map(drop)
}

fn openssl(algorithm: &str) -> Vec<u8> {
    run("pkcs8 -topk8 -nocrypt -outform DER", &run(&format!("genpkey -algorithm {algorithm}"), &[]))
}

#[test]
fn the_form_of_openssl_is_taken() {
    let (client, wrapping) = importer(Profile::Strict);
    for (algorithm, key_type) in [
        ("RSA -pkeyopt rsa_keygen_bits:2048", ckk::CKK_RSA),
        ("EC -pkeyopt ec_paramgen_curve:P-256", ckk::CKK_EC),
        ("EC -pkeyopt ec_paramgen_curve:P-521", ckk::CKK_EC),
        ("EC -pkeyopt ec_paramgen_curve:secp256k1", ckk::CKK_EC),
        ("ED25519", ckk::CKK_EC),
    ] {
        let wrapped = encrypted(&padded(&openssl(algorithm)));
        take_in(&client, &wrapping, &IV, &wrapped, key_type)
            .unwrap_or_else(|error| panic!("{algorithm}: {error}"));
    }
}

#[test]
fn keys_that_tls_does_not_sign_with_are_not_imported_under_tls() {
    let (client, wrapping) = importer(Profile::Tls);
    let koblitz = encrypted(&padded(&openssl("EC -pkeyopt ec_paramgen_curve:secp256k1")));
    let one = take_in(&client, &wrapping, &IV, &koblitz, ckk::CKK_EC).unwrap_err().to_string();
    let other = take_in(&client, &wrapping, &IV, &encrypted(&[0; 144]), ckk::CKK_EC).unwrap_err().to_string();
    assert_eq!(one, other, "no answer tells what the key is");
    client.unit.set_profile(Profile::Strict);
    take_in(&client, &wrapping, &IV, &koblitz, ckk::CKK_EC).unwrap();
}

#[test]
fn other_forms_of_a_key_are_refused_with_one_answer() {
    let (client, wrapping) = importer(Profile::Strict);
    let ec = openssl("EC -pkeyopt ec_paramgen_curve:P-256");
    let ed25519 = openssl("ED25519");
    // RFC 5958, 2: attributes, as [0], may follow the key. They would be free bytes.
    let mut with_attributes = ed25519.clone();
    with_attributes[1] += 4;
    with_attributes.extend_from_slice(&[0xa0, 2, 0x30, 0]);
    let pem = run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", &[]);
    let without_public = run("pkcs8 -topk8 -nocrypt -outform DER", &run("ec -no_public", &pem));
    let long_padding = [&ed25519[..], &[32; 32]].concat();
    let other = openssl("EC -pkeyopt ec_paramgen_curve:P-256");
    // The private key of one and the public key of another.
    let mixed = [&ec[..68], &other[68..]].concat();
    let answers: Vec<_> = [
        (padded(&with_attributes), ckk::CKK_EC),
        (padded(&without_public), ckk::CKK_EC),
        (padded(&openssl("X25519")), ckk::CKK_EC),
        (padded(&[&ed25519[..], &[0]].concat()), ckk::CKK_EC),
        (long_padding, ckk::CKK_EC),
        (padded(&mixed), ckk::CKK_EC),
        (padded(&ed25519), ckk::CKK_RSA),
        (padded(&openssl("RSA -pkeyopt rsa_keygen_bits:1024")), ckk::CKK_RSA),
        (vec![0; 64], ckk::CKK_EC),
    ]
    .into_iter()
    .map(|(plain, key_type)| take_in(&client, &wrapping, &IV, &encrypted(&plain), key_type).unwrap_err())
    .map(|error| error.to_string())
    .collect();
    assert!(answers[0].contains("CKR_WRAPPED_KEY_INVALID") && answers[0].contains("openssl pkcs8"));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
}

#[test]
fn every_altered_byte_is_answered_alike() {
    let (client, wrapping) = importer(Profile::Strict);
    let mut answers = Vec::new();
    for (algorithm, key_type) in [
        ("RSA -pkeyopt rsa_keygen_bits:2048", ckk::CKK_RSA),
        ("EC -pkeyopt ec_paramgen_curve:P-256", ckk::CKK_EC),
    ] {
        let wrapped = encrypted(&padded(&openssl(algorithm)));
        let step = if key_type == ckk::CKK_RSA { 7 } else { 1 };
        for place in (0..wrapped.len()).step_by(step) {
            for bits in [1, 0x80, 0xff] {
                let mut altered = wrapped.clone();
                altered[place] ^= bits;
                answers.push(take_in(&client, &wrapping, &IV, &altered, key_type).unwrap_err().to_string());
            }
        }
        for place in 0..16 {
            let mut iv = IV;
            iv[place] ^= 4;
            answers.push(take_in(&client, &wrapping, &iv, &wrapped, key_type).unwrap_err().to_string());
        }
        for blocks in 1..wrapped.len() / 16 {
            let (start, end) = (&wrapped[..blocks * 16], &wrapped[blocks * 16..]);
            answers.push(take_in(&client, &wrapping, &IV, start, key_type).unwrap_err().to_string());
            answers.push(take_in(&client, &wrapping, &IV, end, key_type).unwrap_err().to_string());
        }
    }
    assert!(answers.len() > 1000);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    client.unit.set_profile(Profile::Open);
    let mut other = encrypted(&padded(&openssl("ED25519")));
    let last = other.len() - 17;
    let whole = take_in(&client, &wrapping, &IV, &other, ckk::CKK_EC);
    other[last] ^= 1;
    let open = take_in(&client, &wrapping, &IV, &other, ckk::CKK_EC).unwrap_err().to_string();
    assert!(whole.is_ok() && open != answers[0], "open tells of the padding: {open}");
}

/// The one answer that an altered ciphertext can get besides a refusal: another key of Ed25519, of
/// which the client learns the public key. The private key goes through a hash (RFC 8032, 5.1.5),
/// so the public key of a partly known seed tells nothing.
#[test]
fn an_altered_seed_is_another_key() {
    let (client, wrapping) = importer(Profile::Strict);
    let mut wrapped = encrypted(&padded(&openssl("ED25519")));
    // A change of the block before the padding would change the padding: so only the first half of
    // the seed can be another one.
    wrapped[16] ^= 1;
    let last = wrapped.len() - 16;
    assert_eq!(last, 48, "a header, two blocks of the seed, and a block of padding");
    take_in(&client, &wrapping, &IV, &wrapped, ckk::CKK_EC).unwrap();
    wrapped[33] ^= 1;
    take_in(&client, &wrapping, &IV, &wrapped, ckk::CKK_EC).unwrap_err();
}
