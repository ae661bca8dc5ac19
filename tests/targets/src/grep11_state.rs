//! States of a digest, a MAC and an encryption that come back to the unit. The unit continues only
//! the exact state that it has made.

use std::sync::LazyLock;

use keyward_grep11::{
    DecryptInitRequest, DecryptUpdateRequest, DigestFinalRequest, DigestInitRequest, DigestUpdateRequest,
    EncryptFinalRequest, SignFinalRequest, SignInitRequest, ckm,
};
use keyward_unit::grep11::Error;

use crate::scene::{AES, SECRET, Scene, check, with_iv, without_parameter};

static GENUINE: LazyLock<(Scene, [Vec<u8>; 3])> = LazyLock::new(|| {
    let scene = Scene::new();
    let mech = without_parameter(ckm::CKM_SHA256);
    let state = scene.crypto.digest_init(DigestInitRequest { mech }).expect("a state").state;
    let update = DigestUpdateRequest { state, data: b"data".to_vec() };
    let digest = scene.crypto.digest_update(update).expect("a state").state;
    let mech = without_parameter(ckm::CKM_SHA256_HMAC);
    let priv_key_bytes = scene.objects[SECRET].clone();
    let mac = scene.crypto.sign_init(SignInitRequest { mech, priv_key_bytes, ..SignInitRequest::default() });
    let mech = with_iv(ckm::CKM_AES_CBC_PAD);
    let key_bytes = scene.objects[AES].clone();
    let init = DecryptInitRequest { mech, key_bytes, ..DecryptInitRequest::default() };
    let cipher = scene.crypto.decrypt_init(init).expect("a state").state;
    (scene, [digest, mac.expect("a state").state, cipher])
});

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    let (scene, states) = &*GENUINE;
    for which in 0..states.len() {
        let accepted = |state: Vec<u8>| {
            let outcome: Result<(), Error> = match which {
                0 => scene.crypto.digest_final(DigestFinalRequest { state }).map(drop),
                1 => scene.crypto.sign_final(SignFinalRequest { state }).map(drop),
                _ => scene
                    .crypto
                    .decrypt_update(DecryptUpdateRequest { state, ciphered: vec![0; 16] })
                    .map(drop),
            };
            outcome.as_ref().inspect_err(|error| check(error)).is_ok()
        };
        let genuine = &states[which];
        assert!(!accepted(bytes.to_vec()));
        // States of other operations and blobs must be refused.
        for other in states.iter().filter(|state| *state != genuine).chain(&scene.objects) {
            assert!(!accepted(other.clone()));
        }
        let state = genuine.clone();
        assert!(scene.crypto.encrypt_final(EncryptFinalRequest { state }).is_err());

        // The rest of the input overwrites the genuine state, from the position in its first two
        // bytes.
        let Some((place, rest)) = bytes.split_first_chunk() else { continue };
        let place = usize::from(u16::from_le_bytes(*place)) % genuine.len();
        let mut altered = genuine.clone();
        altered.truncate(place);
        altered.extend_from_slice(rest);
        altered.extend(genuine.iter().skip(altered.len()));
        assert_eq!(accepted(altered.clone()), altered == *genuine);
        for byte in rest.iter().take(64) {
            altered.clone_from(genuine);
            altered[place] ^= byte;
            assert_eq!(accepted(altered.clone()), *byte == 0);
        }
    }
}
