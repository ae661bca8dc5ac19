//! Blobs that come back to the unit. Only the exact blob that the unit has made may sign, cached or
//! not.

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use keyward_proto::{KeyType, Scheme};
use keyward_unit::{MasterKey, NewKey, SigningInput, Unit};

static UNIT: LazyLock<(Unit, NewKey)> = LazyLock::new(|| {
    let unit = Unit::new(MasterKey::generate().expect("random bytes"), NonZeroUsize::MIN);
    let key = unit.generate(KeyType::P256).expect("a key");
    sign(&unit, &key.blob).expect("a signature, and the key in the cache");
    (unit, key)
});

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    let (unit, key) = &*UNIT;
    assert!(sign(unit, bytes).is_err());

    // The rest of the input overwrites the genuine blob, from the position in its first two bytes.
    let Some((place, rest)) = bytes.split_first_chunk() else { return };
    let place = usize::from(u16::from_le_bytes(*place)) % key.blob.len();
    let mut altered = key.blob.clone();
    altered.truncate(place);
    altered.extend_from_slice(rest);
    altered.extend(key.blob.iter().skip(altered.len()));
    assert_eq!(sign(unit, &altered).is_ok(), altered == key.blob);

    for byte in rest {
        altered.clone_from(&key.blob);
        altered[place] ^= byte;
        assert_eq!(sign(unit, &altered).is_ok(), *byte == 0);
    }
}

fn sign(unit: &Unit, blob: &[u8]) -> Result<Vec<u8>, keyward_unit::UnitError> {
    unit.sign(blob, Scheme::EcdsaSecp256r1Sha256, SigningInput::Message(b"message"))
}
