use std::thread;

use keyward_proto::PublicKey;

use super::*;
use crate::test_openssl as openssl;

fn unit() -> Unit {
    Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::new(2).unwrap())
}

fn cached(unit: &Unit) -> usize {
    unit.with_cache(|cache| cache.len())
}

#[test]
fn every_type_and_scheme_signs_what_openssl_verifies() {
    const MESSAGE: &[u8] = b"signed by the unit, verified by another library";
    let unit = unit();
    for key_type in KeyType::GENERATED {
        let key = unit.generate(key_type).unwrap();
        assert_eq!(key.key_type, key_type);
        assert_eq!(PublicKey::from_spki(&key.spki).unwrap().key_type(), key_type);
        for &scheme in key_type.schemes() {
            let signature = unit.sign(&key.blob, scheme, SigningInput::Message(MESSAGE)).unwrap();
            assert!(openssl::verifies(&key.spki, scheme, MESSAGE, &signature), "{key_type} {scheme}");
            assert!(!openssl::verifies(&key.spki, scheme, b"another", &signature), "{key_type} {scheme}");
            let Some(hash) = scheme.hash() else { continue };
            let digest = openssl::digest(hash, MESSAGE);
            let signature = unit.sign(&key.blob, scheme, SigningInput::Digest(&digest)).unwrap();
            assert!(openssl::verifies(&key.spki, scheme, MESSAGE, &signature), "digest, {key_type} {scheme}");
        }
    }
}

#[test]
fn digests_that_begin_with_zeros_or_ones_are_fitted_to_the_curve() {
    let unit = unit();
    for key_type in [KeyType::P256, KeyType::P384, KeyType::P521] {
        let key = unit.generate(key_type).unwrap();
        for &scheme in key_type.schemes() {
            let length = scheme.hash().unwrap().length();
            for first in [0x00, 0xff] {
                let mut digest: Vec<u8> = (1..=length).map(|byte| byte as u8).collect();
                digest[0] = first;
                let signature = unit.sign(&key.blob, scheme, SigningInput::Digest(&digest)).unwrap();
                assert!(openssl::verifies_digest(&key.spki, &digest, &signature), "{key_type} {scheme}");
            }
        }
    }
}

#[test]
fn scheme_of_another_type_is_refused() {
    let unit = unit();
    let types = [KeyType::P256, KeyType::Ed25519, KeyType::Rsa(2048)];
    for key_type in types {
        let key = unit.generate(key_type).unwrap();
        for &scheme in types.iter().filter(|other| **other != key_type).flat_map(|other| other.schemes()) {
            let refused = unit.sign(&key.blob, scheme, SigningInput::Message(b"")).unwrap_err();
            assert_eq!(refused, UnitError::SchemeNotSupported { scheme, key_type });
        }
    }
}

#[test]
fn digest_of_another_length_is_refused() {
    let unit = unit();
    for key_type in [KeyType::P384, KeyType::Rsa(2048)] {
        let key = unit.generate(key_type).unwrap();
        for &scheme in key_type.schemes() {
            let needed = scheme.hash().unwrap().length();
            for given in [0, needed - 1, needed + 1, 1000] {
                let refused =
                    unit.sign(&key.blob, scheme, SigningInput::Digest(&vec![1; given])).unwrap_err();
                assert_eq!(refused, UnitError::DigestLength { needed, given });
            }
        }
    }
    let key = unit.generate(KeyType::Ed25519).unwrap();
    let refused = unit.sign(&key.blob, Scheme::Ed25519, SigningInput::Digest(&[1; 64])).unwrap_err();
    assert_eq!(refused, UnitError::WholeMessageNeeded(Scheme::Ed25519));
}

#[test]
fn only_the_listed_types_are_generated() {
    for bits in [1024, 2047, 2049, 8192, 0, u16::MAX] {
        let refused = unit().generate(KeyType::Rsa(bits)).unwrap_err();
        assert_eq!(refused, UnitError::KeyTypeNotSupported(KeyType::Rsa(bits)));
    }
}

#[test]
fn blob_outlives_the_unit_and_not_the_master_key() {
    let text = MasterKey::generate().unwrap().to_hex();
    let with = |text: &str| Unit::new(MasterKey::from_hex(text).unwrap(), NonZeroUsize::MIN);
    let (first, second, other) = (with(&text), with(&text), unit());
    assert_eq!(first.wkid(), second.wkid());
    let key = first.generate(KeyType::P256).unwrap();
    let scheme = Scheme::EcdsaSecp256r1Sha256;
    let signature = second.sign(&key.blob, scheme, SigningInput::Message(b"m")).unwrap();
    assert!(openssl::verifies(&key.spki, scheme, b"m", &signature));
    let refused = other.sign(&key.blob, scheme, SigningInput::Message(b"m")).unwrap_err();
    let (blob, unit) = (first.wkid().unwrap(), other.wkid().unwrap());
    assert_eq!(refused, UnitError::OtherMasterKey { blob, unit });
}

#[test]
fn a_cached_key_does_not_answer_for_a_tampered_blob() {
    let unit = unit();
    let key = unit.generate(KeyType::Ed25519).unwrap();
    let sign = |blob: &[u8]| unit.sign(blob, Scheme::Ed25519, SigningInput::Message(b"m"));
    let signature = sign(&key.blob).unwrap();
    assert_eq!(sign(&key.blob).unwrap(), signature, "Ed25519 signs alike from the cache");
    for position in 0..key.blob.len() {
        let mut tampered = key.blob.clone();
        tampered[position] ^= 1;
        assert!(sign(&tampered).is_err(), "byte {position}");
    }
    for end in 0..key.blob.len() {
        assert_eq!(sign(&key.blob[..end]), Err(UnitError::BlobDamaged), "cut at {end}");
        assert!(sign(&key.blob[end + 1..]).is_err(), "cut up to {end}");
    }
    assert_eq!(cached(&unit), 1);
}

#[test]
fn cache_keeps_to_its_bound_and_forgets_the_least_used() {
    let unit = unit();
    let blobs = [0; 3].map(|_| unit.generate(KeyType::Ed25519).unwrap().blob);
    let sign = |blob: &[u8]| unit.sign(blob, Scheme::Ed25519, SigningInput::Message(b"m")).unwrap();
    let held = |blob: &[u8]| unit.with_cache(|cache| cache.contains(blob));
    sign(&blobs[0]);
    sign(&blobs[1]);
    sign(&blobs[0]);
    sign(&blobs[2]);
    assert_eq!(cached(&unit), 2);
    assert!(held(&blobs[0]) && held(&blobs[2]) && !held(&blobs[1]));
    sign(&blobs[1]);
}

#[test]
fn a_retired_key_is_wiped_and_does_not_come_back() {
    let unit = unit();
    let [blob, other] = [0; 2].map(|_| unit.generate(KeyType::P256).unwrap().blob);
    let sign = |blob: &[u8]| unit.sign(blob, Scheme::EcdsaSecp256r1Sha256, SigningInput::Message(b"m"));
    let kept = |blob: &[u8]| unit.with_cache(|cache| cache.contains(blob));
    sign(&blob).unwrap();
    sign(&other).unwrap();
    let under_way = unit.unwrapped(&blob).unwrap();
    let key = Arc::downgrade(&under_way);
    unit.retire([&*blob]);
    assert!(!kept(&blob) && kept(&other));
    assert_eq!(key.strong_count(), 1, "the signature that is being made has it");
    // A request that found the blob usable before, and unwraps it only now.
    unit.with_cache(|cache| cache.put(&blob, &under_way));
    drop(under_way);
    assert_eq!(key.strong_count(), 0);

    assert_eq!(sign(&blob), Err(UnitError::Retired), "of a request that had read the blob before");
    unit.reinstate([&*blob]);
    sign(&blob).unwrap();
    assert!(kept(&blob));
}

#[test]
fn a_key_that_is_not_used_is_wiped() {
    let unit = unit();
    let [used, idle] = [0; 2].map(|_| unit.generate(KeyType::Ed25519).unwrap().blob);
    let key = Arc::downgrade(&unit.unwrapped(&idle).unwrap());
    for minute in 0..=15 {
        assert_eq!(key.strong_count(), 1, "after {minute} minutes");
        unit.unwrapped(&used).unwrap();
        unit.sweep();
    }
    assert_eq!((key.strong_count(), cached(&unit)), (0, 1));
    unit.unwrapped(&idle).unwrap();
    assert_eq!(cached(&unit), 2, "it comes back when it is used");
}

#[test]
fn a_blob_is_retired_for_as_long_as_a_request_may_last() {
    let unit = unit();
    let blob = unit.generate(KeyType::Ed25519).unwrap().blob;
    unit.retire([&*blob]);
    for _ in 0..120 {
        assert!(matches!(unit.unwrapped(&blob), Err(UnitError::Retired)));
        unit.sweep();
    }
    unit.sweep();
    unit.unwrapped(&blob).unwrap();
    assert_eq!(cached(&unit), 1, "nothing is remembered for ever");
}

#[test]
fn the_key_of_a_store_is_wrapped_by_the_master_key() {
    let (mine, other) = (unit(), unit());
    let wrapped = mine.wrap_store_key(&[7; 32]).unwrap();
    assert_eq!(**mine.unwrap_store_key(&wrapped).unwrap(), [7; 32]);
    let refused = other.unwrap_store_key(&wrapped).unwrap_err();
    let (blob, unit) = (mine.wkid().unwrap(), other.wkid().unwrap());
    assert_eq!(refused, UnitError::OtherMasterKey { blob, unit });
    for position in 0..wrapped.len() {
        let mut altered = wrapped.clone();
        altered[position] ^= 1;
        assert!(mine.unwrap_store_key(&altered).is_err(), "byte {position}");
    }
    // Neither passes for the other.
    let blob = mine.generate(KeyType::P256).unwrap().blob;
    assert_eq!(mine.unwrap_store_key(&blob).unwrap_err(), UnitError::BlobDamaged);
    assert!(matches!(mine.unwrapped(&wrapped), Err(UnitError::BlobDamaged)));
}

#[test]
fn threads_share_a_unit() {
    let unit = unit();
    let keys = [KeyType::P256, KeyType::P384, KeyType::Ed25519].map(|t| unit.generate(t).unwrap());
    thread::scope(|scope| {
        for round in 0..4 {
            let (unit, keys) = (&unit, &keys);
            scope.spawn(move || {
                for turn in 0..50 {
                    let key = &keys[(round + turn) % keys.len()];
                    unit.sign(&key.blob, key.key_type.schemes()[0], SigningInput::Message(b"m")).unwrap();
                }
            });
        }
    });
    assert_eq!(cached(&unit), 2);
}

#[test]
fn a_sealed_unit_does_nothing_and_forgets_the_keys() {
    let master_key = MasterKey::generate().unwrap();
    let unit = Unit::new(MasterKey::from_hex(&master_key.to_hex()).unwrap(), NonZeroUsize::MIN);
    let key = unit.generate(KeyType::P256).unwrap();
    let store_key = unit.wrap_store_key(&[7; 32]).unwrap();
    let sign = || unit.sign(&key.blob, Scheme::EcdsaSecp256r1Sha256, SigningInput::Message(b"m")).map(|_| ());
    sign().unwrap();
    let private = Arc::downgrade(&unit.unwrapped(&key.blob).unwrap());
    unit.seal();
    assert_eq!((private.strong_count(), cached(&unit), unit.wkid()), (0, 0, None));
    assert_eq!(sign(), Err(UnitError::Sealed));
    assert_eq!(unit.generate(KeyType::P256), Err(UnitError::Sealed));
    assert_eq!(unit.public_key(&key.blob), Err(UnitError::Sealed));
    assert_eq!(unit.unwrap_store_key(&store_key), Err(UnitError::Sealed));
    assert_eq!(unit.wrap_store_key(&[7; 32]), Err(UnitError::Sealed));
    unit.unseal(&master_key);
    sign().unwrap();
    assert_eq!(**unit.unwrap_store_key(&store_key).unwrap(), [7; 32]);
}

#[test]
fn the_next_master_key_comes_in_force() {
    let unit = unit();
    let old = unit.generate(KeyType::P256).unwrap().blob;
    let sign =
        |blob: &[u8]| unit.sign(blob, Scheme::EcdsaSecp256r1Sha256, SigningInput::Message(b"m")).map(|_| ());
    let next = MasterKey::generate().unwrap();
    assert!(unit.accept(&next) && unit.accept(&next));
    assert!(!unit.accept(&MasterKey::generate().unwrap()));
    let new = unit.rewrap(&old, next.wkid()).unwrap();
    sign(&old).unwrap();
    sign(&new).unwrap();
    unit.activate();
    assert_eq!((unit.wkid(), unit.other_wkid()), (Some(next.wkid()), None));
    sign(&new).unwrap();
    assert!(matches!(sign(&old), Err(UnitError::OtherMasterKey { .. })), "the cache is empty, too");
    unit.accept(&MasterKey::generate().unwrap());
    unit.forget_next();
    assert_eq!(unit.other_wkid(), None);
    sign(&new).unwrap();
}

#[test]
fn nothing_of_a_blob_is_printed() {
    let key = unit().generate(KeyType::P256).unwrap();
    assert_eq!(format!("{key:?}"), "NewKey { key_type: P256, .. }");
}
