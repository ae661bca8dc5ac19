//! The index of the key store: a list of all records, each with the MAC of its latest copy.
//!
//! A record has a MAC of its own. But an old copy of the record has a MAC, too, and a record that
//! was removed leaves no trace. So the index lists the MAC of each record.
//!
//! The index is a tree, so that a change reads and writes little even with many keys. Labels are
//! spread over [`LISTS`] lists. A list that becomes longer than [`LONGEST`] is split for good: its
//! labels are spread over [`PARTS`] parts, and its row has the MAC of each part. The root has the
//! MAC of each list. The metadata have the MAC of the root.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::store_key::Mac;

/// The MACs of some records, by label.
pub(crate) type List = BTreeMap<String, Mac>;

/// Number of lists.
pub(crate) const LISTS: u32 = 256;

/// Number of the row that holds the root.
pub(crate) const ROOT: u32 = LISTS;

/// Number of parts of a list that is split.
pub(crate) const PARTS: u32 = 64;

/// Most entries of a list that is not split: about 3 KiB with labels of usual length.
pub(crate) const LONGEST: usize = 64;

/// Number of the list that a label belongs to.
pub(crate) fn list_of(label: &str) -> u32 {
    Sha256::digest(label).first().copied().unwrap_or_default().into()
}

/// Number of the part that a label belongs to, if its list is split.
pub(crate) fn part_of(label: &str) -> u32 {
    u32::from(Sha256::digest(label).get(1).copied().unwrap_or_default()) % PARTS
}

/// Number of the row that holds a part of a list.
pub(crate) fn row_of(list: u32, part: u32) -> u32 {
    ROOT + 1 + list * PARTS + part
}

/// Encodes a list: for each label its length in one byte, the label, and the MAC.
pub(crate) fn encode(list: &List) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (label, mac) in list {
        // A label has at most 128 bytes.
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(label.as_bytes());
        bytes.extend_from_slice(mac);
    }
    bytes
}

/// Decodes the output of [`encode`]; `None` for any other bytes.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<List> {
    let mut list = List::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        let (mac, rest) = rest.split_first_chunk()?;
        let label = str::from_utf8(label).ok()?;
        let ascending = list.last_key_value().is_none_or(|(last, _)| last.as_str() < label);
        ascending.then(|| list.insert(label.to_owned(), *mac))?;
        bytes = rest;
    }
    Some(list)
}

/// MAC of the entry of a label in the output of [`encode`]; `None` if there is none, or if the
/// bytes are no such output.
pub(crate) fn mac_of<'b>(mut bytes: &'b [u8], label: &str) -> Option<&'b Mac> {
    loop {
        let (length, rest) = bytes.split_first()?;
        let (found, rest) = rest.split_at_checked(usize::from(*length))?;
        let (mac, rest) = rest.split_first_chunk()?;
        if found == label.as_bytes() {
            return Some(mac);
        }
        bytes = rest;
    }
}

/// The MAC of each of several rows; zeros for a row that is not there.
#[derive(Debug, Eq, PartialEq)]
struct Macs(Vec<Mac>);

impl Macs {
    fn new(count: u32) -> Self {
        Self(vec![Mac::default(); count as usize])
    }

    fn read(bytes: &[u8], count: u32) -> Option<Self> {
        let (macs, rest) = bytes.as_chunks();
        (rest.is_empty() && macs.len() == count as usize).then(|| Self(macs.to_vec()))
    }

    fn get(&self, number: u32) -> Mac {
        self.0.get(number as usize).copied().unwrap_or_default()
    }

    fn set(&mut self, number: u32, mac: Mac) {
        if let Some(place) = self.0.get_mut(number as usize) {
            *place = mac;
        }
    }
}

/// The MACs of the lists.
pub(crate) struct Root {
    macs: Macs,
    /// Number of entries in all lists; `None` if they have to be counted.
    pub(crate) entries: Option<u64>,
}

impl Root {
    /// The root of an index without entries.
    pub(crate) fn new() -> Self {
        Self { macs: Macs::new(LISTS), entries: Some(0) }
    }

    pub(crate) fn read(bytes: &[u8], entries: Option<u64>) -> Option<Self> {
        Some(Self { macs: Macs::read(bytes, LISTS)?, entries })
    }

    /// Notes that there are `now` entries instead of `before` ones.
    pub(crate) fn count(&mut self, before: usize, now: usize) {
        self.entries = self.entries.and_then(|count| (count + now as u64).checked_sub(before as u64));
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.macs.0.as_flattened()
    }

    pub(crate) fn get(&self, list: u32) -> Mac {
        self.macs.get(list)
    }

    pub(crate) fn set(&mut self, list: u32, mac: Mac) {
        self.macs.set(list, mac);
    }
}

/// The row of a list that is split: the MACs of its parts.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Parts(Macs);

impl Parts {
    /// No part has an entry.
    pub(crate) fn new() -> Self {
        Self(Macs::new(PARTS))
    }

    /// The parts of a list; `None` if the row is that of a list that is not split.
    pub(crate) fn read(row: &[u8]) -> Option<Self> {
        Some(Self(Macs::read(row.strip_prefix(&[SPLIT])?, PARTS)?))
    }

    /// The row, which [`Self::read`] reads.
    pub(crate) fn to_row(&self) -> Vec<u8> {
        [&[SPLIT], self.0.0.as_flattened()].concat()
    }

    pub(crate) fn get(&self, part: u32) -> Mac {
        self.0.get(part)
    }

    pub(crate) fn set(&mut self, part: u32, mac: Mac) {
        self.0.set(part, mac);
    }
}

/// First byte of the row of a list that is split. No list begins so: a label is not empty.
const SPLIT: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let mut list = List::new();
        for number in 0..20 {
            assert_eq!(decode(&encode(&list)).unwrap(), list);
            list.insert(format!("key-{number}"), [number; 32]);
        }
        list.insert("x".repeat(128), [7; 32]);
        let bytes = encode(&list);
        assert_eq!(decode(&bytes).unwrap(), list);
        assert!(decode(&bytes[..bytes.len() - 1]).is_none());
        let one = encode(&List::from([("b".into(), [0; 32])]));
        assert!(decode(&[one.clone(), one].concat()).is_none(), "twice the same");
        assert_eq!((mac_of(&bytes, "key-7"), mac_of(&bytes, "key-")), (Some(&[7; 32]), None));
        assert_eq!(mac_of(&bytes[..bytes.len() - 1], &"x".repeat(128)), None);
    }

    #[test]
    fn the_root_has_a_place_for_each_list() {
        let mut root = Root::new();
        root.set(255, [9; 32]);
        let read = Root::read(root.as_bytes(), None).unwrap();
        assert_eq!((read.get(255), read.get(0)), ([9; 32], [0; 32]));
        assert!(Root::read(&root.as_bytes()[32..], None).is_none());
        assert!((0..1000).map(|number| list_of(&format!("key-{number}"))).all(|list| list < LISTS));
    }

    #[test]
    fn the_row_of_a_split_list_is_no_list() {
        let mut parts = Parts::new();
        parts.set(63, [9; 32]);
        let row = parts.to_row();
        assert_eq!(Parts::read(&row), Some(parts));
        assert!(decode(&row).is_none_or(|list| list.contains_key("")));
        assert!(Parts::read(&row[..row.len() - 1]).is_none());
        assert!(Parts::read(&encode(&List::from([("b".into(), [0; 32])]))).is_none());
        let rows = (0..LISTS).flat_map(|list| (0..PARTS).map(move |part| row_of(list, part)));
        let rows: std::collections::BTreeSet<_> = rows.collect();
        assert!(rows.len() == (LISTS * PARTS) as usize && rows.first() > Some(&ROOT));
    }
}
