//! Rows of the key store: records of keys, lists of the index, and the MACs before records. A
//! decoded row encodes to the same row, and only the exact row that the store wrote is a record.

use std::sync::LazyLock;

use keyward::keys::{StoreKey, rows};
use keyward_proto::Label;

static SCENE: LazyLock<(StoreKey, Label)> = LazyLock::new(|| {
    let key = StoreKey::from_bytes(&[7; StoreKey::LENGTH]).expect("a store key");
    (key, "shop".parse().expect("a label"))
});

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    let (key, label) = &*SCENE;
    assert!(rows::open(key, label, bytes).is_none(), "nobody knows the store key");

    if let Some(record) = rows::read_record(label, bytes) {
        let written = rows::write_record(&record).expect("a record");
        let again = rows::read_record(label, &written).expect("what was written");
        assert_eq!(rows::write_record(&again), Some(written));
    }
    let lists = [rows::rewritten_list(bytes), rows::rewritten_parts(bytes)];
    assert!(lists.iter().flatten().all(|written| written == bytes));
    assert!(lists.iter().flatten().count() < 2, "a row is a list or its parts");

    // The input as a record, and then the genuine row with one changed byte, at the position in the
    // first two bytes of the input.
    let row = rows::seal(key, label, bytes);
    assert_eq!(rows::open(key, label, &row), Some(bytes));
    let other = "other".parse().expect("a label");
    assert!(rows::open(key, &other, &row).is_none(), "the record of another key");
    let Some((place, rest)) = bytes.split_first_chunk() else { return };
    let place = usize::from(u16::from_le_bytes(*place)) % row.len();
    for byte in rest.iter().filter(|byte| **byte != 0) {
        let mut altered = row.clone();
        altered[place] ^= byte;
        assert!(rows::open(key, label, &altered).is_none());
        altered.truncate(place);
        assert!(rows::open(key, label, &altered).is_none());
    }
}
