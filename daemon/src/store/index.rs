//! The index of the key store: a list of all records, each with the MAC of its latest copy.
//!
//! A record has a MAC of its own. But an old copy of the record has a MAC, too, and a record that
//! was removed leaves no trace. So the index lists the MAC of each record.
//!
//! The index is a tree of three levels, so that a change writes little even with many keys. Labels
//! are spread over [`LISTS`] lists. The root has the MAC of each list. The metadata have the MAC of
//! the root.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::store_key::Mac;

/// The MACs of some records, by label.
pub(crate) type List = BTreeMap<String, Mac>;

/// Number of lists.
pub(crate) const LISTS: u32 = 256;

/// Number of the row that holds the root.
pub(crate) const ROOT: u32 = LISTS;

/// Number of the list that a label belongs to.
pub(crate) fn list_of(label: &str) -> u32 {
    Sha256::digest(label).first().copied().unwrap_or_default().into()
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

/// The MAC of each list; zeros for a list that was never written.
pub(crate) struct Root(Vec<Mac>);

impl Root {
    pub(crate) fn new() -> Self {
        Self(vec![Mac::default(); LISTS as usize])
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (macs, rest) = bytes.as_chunks();
        (rest.is_empty() && macs.len() == LISTS as usize).then(|| Self(macs.to_vec()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_flattened()
    }

    pub(crate) fn get(&self, list: u32) -> Mac {
        self.0.get(list as usize).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, list: u32, mac: Mac) {
        if let Some(place) = self.0.get_mut(list as usize) {
            *place = mac;
        }
    }
}

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
    }

    #[test]
    fn the_root_has_a_place_for_each_list() {
        let mut root = Root::new();
        root.set(255, [9; 32]);
        let read = Root::read(root.as_bytes()).unwrap();
        assert_eq!((read.get(255), read.get(0)), ([9; 32], [0; 32]));
        assert!(Root::read(&root.as_bytes()[32..]).is_none());
        assert!((0..1000).map(|number| list_of(&format!("key-{number}"))).all(|list| list < LISTS));
    }
}
