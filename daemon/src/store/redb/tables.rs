//! The tables of the key store in one transaction. Each method that reads a row checks the row, and
//! each method that writes a row authenticates the row.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Label;
use redb::{
    Range, ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};
use subtle::ConstantTimeEq;

use crate::store::Rewrite;
use crate::store::index::{self, LISTS, LONGEST, List, PARTS, Parts, ROOT, Root};
use crate::store::metadata::{ENTRIES, FORMAT, SEAL, SECRET};
use crate::store::store_key::{Mac, Seals};

/// Result of a search for the record of a label.
pub(crate) enum Found {
    /// There is no record, and there should be none.
    Nothing,
    /// The record, as it was written last.
    Record(Vec<u8>),
    /// The record is not the record that was written last, or is gone.
    Altered,
    /// The list of the index that vouches for the record was altered.
    Unlisted,
}

/// Result of a search for the records of several labels.
pub(crate) struct FoundPage {
    /// Rows in the order of their labels.
    pub(crate) rows: Vec<(Label, Found)>,
    /// Numbers of the lists of the index that were altered.
    pub(crate) altered_lists: BTreeSet<u32>,
}

/// The rows of a store, for reading or for writing.
pub(crate) struct Tables<K, M, I> {
    pub(crate) keys: K,
    pub(crate) meta: M,
    pub(crate) index: I,
}

/// The rows of a store in a transaction that reads.
pub(crate) type Reading = Tables<
    redb::ReadOnlyTable<&'static str, &'static [u8]>,
    redb::ReadOnlyTable<&'static str, &'static str>,
    redb::ReadOnlyTable<u32, &'static [u8]>,
>;

/// The rows of a store in a transaction that writes.
pub(crate) type Writing<'t> = Tables<
    Table<'t, &'static str, &'static [u8]>,
    Table<'t, &'static str, &'static str>,
    Table<'t, u32, &'static [u8]>,
>;

impl Reading {
    pub(crate) fn open(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            keys: transaction.open_table(KEYS)?,
            meta: transaction.open_table(META)?,
            index: transaction.open_table(INDEX)?,
        })
    }
}

impl<K, M, I> Tables<K, M, I>
where
    K: ReadableTable<&'static str, &'static [u8]> + ReadableTableMetadata,
    M: ReadableTable<&'static str, &'static str>,
    I: ReadableTable<u32, &'static [u8]>,
{
    /// Value of one of the metadata.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, redb::Error> {
        Ok(self.meta.get(name)?.map(|value| value.value().to_owned()))
    }

    /// Name of the shred secret in force; an empty text if there is none.
    pub(super) fn secret(&self) -> Result<String, redb::Error> {
        Ok(self.text(SECRET)?.unwrap_or_default())
    }

    /// All metadata, by name.
    pub(crate) fn metadata(&self) -> Result<BTreeMap<String, String>, redb::Error> {
        let mut metadata = BTreeMap::new();
        for row in self.meta.iter()? {
            let (name, value) = row?;
            metadata.insert(name.value().to_owned(), value.value().to_owned());
        }
        Ok(metadata)
    }

    /// True if nothing was ever stored.
    pub(crate) fn is_new(&self) -> Result<bool, redb::Error> {
        let is_new = self.metadata()?.keys().all(|name| name == FORMAT);
        Ok(is_new && self.keys.is_empty()? && self.index.is_empty()?)
    }

    /// The root of the index; `None` if the root or the metadata are not authentic.
    pub(crate) fn root(&self, seals: &Seals) -> Result<Option<Root>, redb::Error> {
        let mut metadata = self.metadata()?;
        let seal = metadata.remove(SEAL).and_then(|seal| STANDARD.decode(seal).ok()).unwrap_or_default();
        let entries = metadata.get(ENTRIES).and_then(|count| count.parse().ok());
        let Some(root) = self.index.get(ROOT)?.and_then(|bytes| Root::read(bytes.value(), entries)) else {
            return Ok(None);
        };
        let is_genuine: bool = seal.ct_eq(&seal_of(seals, &metadata, &root)).into();
        Ok(is_genuine.then_some(root))
    }

    /// A row of the index; `None` if the row has another MAC than `mac`.
    fn index_row(&self, seals: &Seals, number: u32, mac: Mac) -> Result<Option<Vec<u8>>, redb::Error> {
        let row = self.index.get(number)?;
        let bytes = row.as_ref().map(|row| row.value());
        let found = bytes.map_or_else(Mac::default, |bytes| seals.of_list(number, bytes));
        let is_genuine: bool = found.ct_eq(&mac).into();
        Ok(is_genuine.then(|| bytes.unwrap_or_default().to_vec()))
    }

    /// Number of entries in the index; `None` if a list was altered.
    fn entries(&self, seals: &Seals, root: &Root) -> Result<Option<u64>, redb::Error> {
        if root.entries.is_some() {
            return Ok(root.entries);
        }
        let mut count = 0;
        for number in 0..LISTS {
            let Some(list) = self.list(seals, root, number)? else { return Ok(None) };
            count += list.len() as u64;
        }
        Ok(Some(count))
    }

    /// A list of the index with all its parts; `None` if one of them is not authentic.
    pub(crate) fn list(&self, seals: &Seals, root: &Root, number: u32) -> Result<Option<List>, redb::Error> {
        let Some(row) = self.index_row(seals, number, root.get(number))? else { return Ok(None) };
        let Some(parts) = Parts::read(&row) else { return Ok(index::decode(&row)) };
        let mut list = List::new();
        for part in 0..PARTS {
            let row = self.index_row(seals, index::row_of(number, part), parts.get(part))?;
            let Some(entries) = row.as_deref().and_then(index::decode) else { return Ok(None) };
            list.extend(entries);
        }
        Ok(Some(list))
    }

    /// The row of the index that has the entry of a label, if there is an entry; `None` if the row
    /// is not authentic.
    fn near(&self, seals: &Seals, root: &Root, label: &str) -> Result<Option<Near>, redb::Error> {
        let number = index::list_of(label);
        let Some(row) = self.index_row(seals, number, root.get(number))? else { return Ok(None) };
        let Some(parts) = Parts::read(&row) else { return Ok(Some(Near { row, split: None })) };
        let part = index::part_of(label);
        let row = self.index_row(seals, index::row_of(number, part), parts.get(part))?;
        Ok(row.map(|row| Near { row, split: Some((parts, part)) }))
    }

    /// The record of a label.
    pub(crate) fn find(&self, seals: &Seals, root: &Root, label: &str) -> Result<Found, redb::Error> {
        match self.near(seals, root, label)? {
            Some(near) => self.find_listed(seals, label, index::mac_of(&near.row, label)),
            None => Ok(Found::Unlisted),
        }
    }

    /// The record of a label whose entry in the index is `listed`.
    pub(super) fn find_listed(
        &self,
        seals: &Seals,
        label: &str,
        listed: Option<&Mac>,
    ) -> Result<Found, redb::Error> {
        let row = self.keys.get(label)?;
        let (Some(row), Some(listed)) = (&row, listed) else {
            return Ok(if row.is_none() && listed.is_none() { Found::Nothing } else { Found::Altered });
        };
        Ok(match seals.open_record(label, row.value()) {
            Some((mac, record)) if bool::from(mac.ct_eq(listed)) => Found::Record(record.to_vec()),
            _ => Found::Altered,
        })
    }

    /// The record to store instead of the record of a label in an authentic list of the index.
    /// `None` if the record stays, and for a record that is not authentic.
    pub(super) fn rewritten(
        &self,
        seals: &Seals,
        label: &str,
        listed: &Mac,
        secret: &str,
        rewrite: &Rewrite<'_>,
    ) -> Result<Option<Vec<u8>>, redb::Error> {
        let (Ok(label), Found::Record(record)) =
            (label.parse::<Label>(), self.find_listed(seals, label, Some(listed))?)
        else {
            return Ok(None);
        };
        Ok(rewrite(&label, &record, secret))
    }

    /// Rows in the order of their names, from the first name after `after`.
    pub(crate) fn rows_after(
        &self,
        after: Option<&str>,
    ) -> Result<Range<'_, &'static str, &'static [u8]>, redb::Error> {
        use core::ops::Bound::{Excluded, Unbounded};
        Ok(self.keys.range::<&str>((after.map_or(Unbounded, Excluded), Unbounded))?)
    }

    /// Up to `limit` records in the order of their labels, from the first label after `after`;
    /// `None` if [`Self::page`] has to search the whole index, because there is something that no
    /// daemon wrote. Only [`Self::is_whole`] finds a record that is missing, if the table has
    /// another one in its place, or a wrong length.
    pub(crate) fn short_page(
        &self,
        seals: &Seals,
        root: &Root,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<FoundPage>, redb::Error> {
        if !self.has_all_entries(root)? {
            return Ok(None);
        }
        let mut rows = Vec::new();
        for row in self.rows_after(after)?.take(limit) {
            let (name, row) = row?;
            let Some((label, record)) = self.authentic(seals, root, name.value(), row.value())? else {
                return Ok(None);
            };
            rows.push((label, Found::Record(record.to_vec())));
        }
        Ok(Some(FoundPage { rows, altered_lists: BTreeSet::new() }))
    }

    /// True if everything is authentic, and no record is missing. Takes little memory.
    pub(super) fn is_whole(&self, seals: &Seals, root: &Root) -> Result<bool, redb::Error> {
        if !self.has_all_entries(root)? {
            return Ok(false);
        }
        // Counted here: the length that the table has of itself is not authenticated.
        let (mut records, mut before) = (0, String::new());
        for row in self.keys.iter()? {
            let (name, row) = row?;
            let is_next = before.as_str() < name.value();
            if !is_next || self.authentic(seals, root, name.value(), row.value())?.is_none() {
                return Ok(false);
            }
            records += 1;
            name.value().clone_into(&mut before);
        }
        let mut entries = 0;
        for number in 0..LISTS {
            let Some(list) = self.list(seals, root, number)? else { return Ok(false) };
            entries += list.len();
        }
        Ok(records == entries)
    }

    /// True if there are as many records as the index has entries.
    fn has_all_entries(&self, root: &Root) -> Result<bool, redb::Error> {
        Ok(root.entries == Some(self.keys.len()?))
    }

    /// The label and the record in a row of the table of records; `None` if the index has another
    /// one, or none.
    fn authentic<'r>(
        &self,
        seals: &Seals,
        root: &Root,
        name: &str,
        row: &'r [u8],
    ) -> Result<Option<(Label, &'r [u8])>, redb::Error> {
        let Ok(label) = name.parse::<Label>() else { return Ok(None) };
        let near = self.near(seals, root, name)?;
        let listed = near.as_ref().and_then(|near| index::mac_of(&near.row, name));
        Ok(match (seals.open_record(name, row), listed) {
            (Some((mac, record)), Some(listed)) if mac.ct_eq(listed).into() => Some((label, record)),
            _ => None,
        })
    }

    /// Up to `limit` records in the order of their labels, from the first label after `after`. A
    /// label counts if the index or the table of records has the label. Reads the whole index.
    pub(crate) fn page(
        &self,
        seals: &Seals,
        root: &Root,
        after: Option<&str>,
        limit: usize,
    ) -> Result<FoundPage, redb::Error> {
        let (mut lists, mut altered_lists) = (Vec::new(), BTreeSet::new());
        for number in 0..LISTS {
            let list = self.list(seals, root, number)?;
            altered_lists.extend(list.is_none().then_some(number));
            lists.push(list);
        }
        let listed = lists.iter().flatten().flat_map(List::keys);
        let listed = listed.filter(|label| after.is_none_or(|after| after < label.as_str()));
        let mut labels: BTreeSet<String> = listed.cloned().collect();
        let mut left = limit;
        for row in self.rows_after(after)? {
            let row = row?.0;
            if left == 0 {
                break;
            }
            // Nobody can ask for a key of another name, so such a row takes no place in the list.
            if row.value().parse::<Label>().is_ok() {
                labels.insert(row.value().to_owned());
                left -= 1;
            }
        }
        let mut rows = Vec::new();
        for text in labels.into_iter().take(limit) {
            let Ok(label) = text.parse() else { continue };
            let found = match lists.get(index::list_of(&text) as usize) {
                Some(Some(list)) => self.find_listed(seals, &text, list.get(&text))?,
                // A part of the list may be as it was.
                _ => self.find(seals, root, &text)?,
            };
            rows.push((label, found));
        }
        Ok(FoundPage { rows, altered_lists })
    }
}

/// A row of the index that has the entry of a label.
struct Near {
    /// Entries, encoded.
    row: Vec<u8>,
    /// The parts of the list and the number of this part, if the list is split.
    split: Option<(Parts, u32)>,
}

impl<'t> Writing<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            keys: transaction.open_table(KEYS)?,
            meta: transaction.open_table(META)?,
            index: transaction.open_table(INDEX)?,
        })
    }

    /// Writes or removes a record. Returns false, and changes nothing, if the list of the record in
    /// the index was altered.
    pub(crate) fn write(
        &mut self,
        seals: &Seals,
        root: &mut Root,
        label: &str,
        record: Option<&[u8]>,
    ) -> Result<bool, redb::Error> {
        let Some(Near { row, split }) = self.near(seals, root, label)? else { return Ok(false) };
        let Some(mut entries) = index::decode(&row) else { return Ok(false) };
        let before = entries.len();
        match record {
            Some(record) => {
                let (mac, row) = seals.seal_record(label, record);
                self.keys.insert(label, row.as_slice())?;
                entries.insert(label.to_owned(), mac);
            }
            None => {
                self.keys.remove(label)?;
                entries.remove(label);
            }
        }
        let number = index::list_of(label);
        match split {
            None if entries.len() <= LONGEST => {
                root.set(number, self.write_row(seals, number, &index::encode(&entries))?);
            }
            None => self.split_list(seals, root, number, &entries)?,
            Some((mut parts, part)) => {
                let row = index::row_of(number, part);
                parts.set(part, self.write_row(seals, row, &index::encode(&entries))?);
                root.set(number, self.write_row(seals, number, &parts.to_row())?);
            }
        }
        root.count(before, entries.len());
        Ok(true)
    }

    /// Writes a list of the index.
    pub(crate) fn write_list(
        &mut self,
        seals: &Seals,
        root: &mut Root,
        number: u32,
        list: &List,
    ) -> Result<(), redb::Error> {
        match self.list(seals, root, number)? {
            Some(before) => root.count(before.len(), list.len()),
            None => root.entries = None,
        }
        let is_split = self.index.get(number)?.is_some_and(|row| Parts::read(row.value()).is_some());
        if is_split || list.len() > LONGEST {
            return self.split_list(seals, root, number, list);
        }
        root.set(number, self.write_row(seals, number, &index::encode(list))?);
        Ok(())
    }

    /// Writes a list of the index in parts.
    fn split_list(
        &mut self,
        seals: &Seals,
        root: &mut Root,
        number: u32,
        list: &List,
    ) -> Result<(), redb::Error> {
        let mut of_parts: BTreeMap<u32, List> = (0..PARTS).map(|part| (part, List::new())).collect();
        for (label, mac) in list {
            of_parts.entry(index::part_of(label)).or_default().insert(label.clone(), *mac);
        }
        let mut parts = Parts::new();
        for (part, entries) in &of_parts {
            let row = index::row_of(number, *part);
            parts.set(*part, self.write_row(seals, row, &index::encode(entries))?);
        }
        root.set(number, self.write_row(seals, number, &parts.to_row())?);
        Ok(())
    }

    /// Writes a row of the index. Returns its MAC.
    fn write_row(&mut self, seals: &Seals, number: u32, row: &[u8]) -> Result<Mac, redb::Error> {
        self.index.insert(number, row)?;
        Ok(seals.of_list(number, row))
    }

    /// Authenticates the metadata and the root of the index as they are now.
    pub(crate) fn seal(&mut self, seals: &Seals, root: &Root) -> Result<(), redb::Error> {
        match self.entries(seals, root)? {
            Some(count) => drop(self.meta.insert(ENTRIES, count.to_string().as_str())?),
            None => drop(self.meta.remove(ENTRIES)?),
        }
        let mut metadata = self.metadata()?;
        metadata.remove(SEAL);
        self.index.insert(ROOT, root.as_bytes())?;
        self.meta.insert(SEAL, STANDARD.encode(seal_of(seals, &metadata, root)).as_str())?;
        Ok(())
    }
}

fn seal_of(seals: &Seals, metadata: &BTreeMap<String, String>, root: &Root) -> Mac {
    let parts = metadata.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
    seals.of_meta(&parts.chain([root.as_bytes()]).collect::<Vec<_>>())
}

pub(crate) const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
pub(crate) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
pub(crate) const INDEX: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("index");
