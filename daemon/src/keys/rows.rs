//! The rows of the key store and the recovery file as bytes, without a file. Fuzz targets test how
//! they are read.

use keyward_proto::Label;

use super::shred::Recovery;
use super::{Key, StoreKey, record};
use crate::store::{Seals, index};

/// The row that holds a record: its MAC, then the record.
pub fn seal(key: &StoreKey, label: &Label, record: &[u8]) -> Vec<u8> {
    Seals::derive(key).seal_record(label.as_str(), record).1
}

/// The record in a row; `None` if the row is not the output of [`seal`] for this label.
pub fn open<'r>(key: &StoreKey, label: &Label, row: &'r [u8]) -> Option<&'r [u8]> {
    Seals::derive(key).open_record(label.as_str(), row).map(|(_, record)| record)
}

/// The key in a record without shred secrets; `None` if the bytes are no record.
pub fn read_record(label: &Label, record: &[u8]) -> Option<Key> {
    record::decode_bare(label.clone(), record)
}

/// The record of a key, without shred secrets.
pub fn write_record(key: &Key) -> Option<Vec<u8>> {
    record::encode_bare(key)
}

/// A list of the index, decoded and encoded again; `None` if the bytes are no list.
pub fn rewritten_list(bytes: &[u8]) -> Option<Vec<u8>> {
    index::decode(bytes).map(|list| index::encode(&list))
}

/// The row of a list of the index that is split, decoded and encoded again; `None` if the bytes are
/// no such row.
pub fn rewritten_parts(bytes: &[u8]) -> Option<Vec<u8>> {
    index::Parts::read(bytes).map(|parts| parts.to_row())
}

/// A recovery file, decoded and encoded again; `None` if the bytes are no recovery file.
pub fn rewritten_recovery(bytes: &[u8]) -> Option<Vec<u8>> {
    Recovery::parse(bytes).ok().map(|recovery| recovery.to_text().as_bytes().to_vec())
}
