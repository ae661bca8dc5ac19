//! The rows of the key store as bytes, apart from any file: for those who test how they are read.

use keyward_proto::Label;

use super::{Key, StoreKey, record};
use crate::store::index;
use crate::store::redb::tables;
use crate::store::store_key::Seals;

/// A record with the MAC that stands before it.
pub fn seal(key: &StoreKey, label: &Label, record: &[u8]) -> Vec<u8> {
    let mac = Seals::derive(key).of_record(label.as_str(), record);
    [&mac, record].concat()
}

/// The record in a row; `None` if it is not what [`seal`] gave for this label.
pub fn open<'r>(key: &StoreKey, label: &Label, row: &'r [u8]) -> Option<&'r [u8]> {
    tables::open_record(&Seals::derive(key), label.as_str(), row).map(|(_, record)| record)
}

/// The key in a record; `None` if it is anything but a record.
pub fn read_record(label: &Label, record: &[u8]) -> Option<Key> {
    record::decode(label.clone(), record)
}

/// The record of a key.
pub fn write_record(key: &Key) -> Option<Vec<u8>> {
    record::encode(key)
}

/// A list of the index, read and written again; `None` if it is anything but a list.
pub fn rewritten_list(bytes: &[u8]) -> Option<Vec<u8>> {
    index::decode(bytes).map(|list| index::encode(&list))
}
