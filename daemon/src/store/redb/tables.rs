//! The tables of the key store in one transaction. Rows are checked when they are read, and
//! authenticated when they are written.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Label;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};
use subtle::ConstantTimeEq;

use crate::store::index::{self, LISTS, List, ROOT, Root};
use crate::store::metadata::{FORMAT, SEAL};
use crate::store::store_key::{Mac, Seals};

/// The record of a label, if there is one.
pub(crate) enum Found {
    Nothing,
    /// The record, as it was written last.
    Record(Vec<u8>),
    /// Something else than was written last.
    Altered,
    /// Nothing that counts: the list of the index that says which record it is was altered.
    Unlisted,
}

/// What in a store is not as it was written last.
#[derive(Default)]
pub(crate) struct Alterations {
    /// The labels of records, of those without a list to vouch for them too.
    pub(crate) labels: BTreeSet<Label>,
    /// The numbers of lists of the index.
    pub(crate) lists: BTreeSet<u32>,
    /// How many records have names that no key can have.
    pub(crate) nameless: usize,
}

/// The outcome of making altered lists of the index anew.
#[derive(Default)]
pub(crate) struct Rebuilt {
    /// The numbers of the lists.
    pub(crate) lists: BTreeSet<u32>,
    /// The labels of records of these lists that are genuine, if perhaps old.
    pub(crate) kept: Vec<Label>,
    /// The labels of records of these lists that were removed, for they are not genuine.
    pub(crate) removed: Vec<Label>,
    /// How many records were removed that have names that no key can have.
    pub(crate) nameless: usize,
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
    K: ReadableTable<&'static str, &'static [u8]>,
    M: ReadableTable<&'static str, &'static str>,
    I: ReadableTable<u32, &'static [u8]>,
{
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, redb::Error> {
        Ok(self.meta.get(name)?.map(|value| value.value().to_owned()))
    }

    /// The facts about the store, by name.
    pub(crate) fn facts(&self) -> Result<BTreeMap<String, String>, redb::Error> {
        let mut facts = BTreeMap::new();
        for row in self.meta.iter()? {
            let (name, value) = row?;
            facts.insert(name.value().to_owned(), value.value().to_owned());
        }
        Ok(facts)
    }

    /// True if nothing was ever stored.
    pub(crate) fn is_new(&self) -> Result<bool, redb::Error> {
        let is_new = self.facts()?.keys().all(|name| name == FORMAT);
        Ok(is_new && self.keys.is_empty()? && self.index.is_empty()?)
    }

    /// The root of the index, if that and the facts are as they were written last.
    pub(crate) fn root(&self, seals: &Seals) -> Result<Option<Root>, redb::Error> {
        let mut facts = self.facts()?;
        let seal = facts.remove(SEAL).and_then(|seal| STANDARD.decode(seal).ok()).unwrap_or_default();
        let Some(root) = self.index.get(ROOT)?.and_then(|bytes| Root::read(bytes.value())) else {
            return Ok(None);
        };
        let is_genuine: bool = seal.ct_eq(&mac_of(seals, &facts, &root)).into();
        Ok(is_genuine.then_some(root))
    }

    /// A list of the index; `None` if it is not as it was written last.
    pub(crate) fn list(&self, seals: &Seals, root: &Root, number: u32) -> Result<Option<List>, redb::Error> {
        let row = self.index.get(number)?;
        let bytes = row.as_ref().map(|row| row.value());
        let mac = bytes.map_or_else(Mac::default, |bytes| seals.of_list(number, bytes));
        let is_genuine: bool = mac.ct_eq(&root.get(number)).into();
        Ok(if is_genuine { index::decode(bytes.unwrap_or_default()) } else { None })
    }

    /// The record of a label.
    pub(crate) fn find(&self, seals: &Seals, root: &Root, label: &str) -> Result<Found, redb::Error> {
        match self.list(seals, root, index::list_of(label))? {
            Some(list) => self.find_listed(seals, label, list.get(label)),
            None => Ok(Found::Unlisted),
        }
    }

    /// The record of a label of which the index says this.
    fn find_listed(&self, seals: &Seals, label: &str, listed: Option<&Mac>) -> Result<Found, redb::Error> {
        let row = self.keys.get(label)?;
        let (Some(row), Some(listed)) = (&row, listed) else {
            return Ok(if row.is_none() && listed.is_none() { Found::Nothing } else { Found::Altered });
        };
        Ok(match open_record(seals, label, row.value()) {
            Some((mac, record)) if bool::from(mac.ct_eq(listed)) => Found::Record(record.to_vec()),
            _ => Found::Altered,
        })
    }

    /// All that is not as it was written last.
    pub(crate) fn altered(&self, seals: &Seals, root: &Root) -> Result<Alterations, redb::Error> {
        let mut altered = Alterations::default();
        let mut lists = Vec::new();
        for number in 0..LISTS {
            let list = self.list(seals, root, number)?;
            // Not an empty list: what it said is lost, and a key of it may have left no other
            // trace.
            altered.lists.extend(list.is_none().then_some(number));
            for (label, mac) in list.iter().flatten() {
                if let Found::Altered = self.find_listed(seals, label, Some(mac))? {
                    altered.labels.extend(label.parse::<Label>().ok());
                }
            }
            lists.push(list);
        }
        for row in self.keys.iter()? {
            let row = row?.0;
            let label = row.value();
            let list = lists.get(index::list_of(label) as usize).and_then(Option::as_ref);
            match label.parse::<Label>() {
                Err(_) => altered.nameless += 1,
                Ok(_) if list.is_some_and(|list| list.contains_key(label)) => {}
                Ok(label) => drop(altered.labels.insert(label)),
            }
        }
        Ok(altered)
    }

    /// Up to `limit` records in the order of their labels from the first one after `after`, with
    /// those that the index has and the table of records has not, and the other way round. Notes
    /// the lists of the index that were altered.
    pub(crate) fn page(
        &self,
        seals: &Seals,
        root: &Root,
        after: Option<&str>,
        limit: usize,
        altered_lists: &mut BTreeSet<u32>,
    ) -> Result<Vec<(Label, Found)>, redb::Error> {
        use core::ops::Bound::{Excluded, Unbounded};
        let mut lists = Vec::new();
        for number in 0..LISTS {
            let list = self.list(seals, root, number)?;
            altered_lists.extend(list.is_none().then_some(number));
            lists.push(list);
        }
        let listed = lists.iter().flatten().flat_map(List::keys);
        let listed = listed.filter(|label| after.is_none_or(|after| after < label.as_str()));
        let mut labels: BTreeSet<String> = listed.cloned().collect();
        let mut left = limit;
        for row in self.keys.range::<&str>((after.map_or(Unbounded, Excluded), Unbounded))? {
            let row = row?.0;
            if left == 0 {
                break;
            }
            // Nobody can ask for a key of another name, so it takes no place in the list either.
            if row.value().parse::<Label>().is_ok() {
                labels.insert(row.value().to_owned());
                left -= 1;
            }
        }
        let mut page = Vec::new();
        for text in labels.into_iter().take(limit) {
            let Ok(label) = text.parse() else { continue };
            let found = match lists.get(index::list_of(&text) as usize) {
                Some(Some(list)) => self.find_listed(seals, &text, list.get(&text))?,
                _ => Found::Unlisted,
            };
            page.push((label, found));
        }
        Ok(page)
    }
}

impl<'t> Writing<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            keys: transaction.open_table(KEYS)?,
            meta: transaction.open_table(META)?,
            index: transaction.open_table(INDEX)?,
        })
    }

    /// Writes or removes a record. False if its list in the index was altered: then nothing is
    /// changed.
    pub(crate) fn write(
        &mut self,
        seals: &Seals,
        root: &mut Root,
        label: &str,
        record: Option<&[u8]>,
    ) -> Result<bool, redb::Error> {
        let number = index::list_of(label);
        let Some(mut list) = self.list(seals, root, number)? else { return Ok(false) };
        match record {
            Some(record) => {
                let mac = seals.of_record(label, record);
                self.keys.insert(label, [&mac, record].concat().as_slice())?;
                list.insert(label.to_owned(), mac);
            }
            None => {
                self.keys.remove(label)?;
                list.remove(label);
            }
        }
        self.write_list(seals, root, number, &list)?;
        Ok(true)
    }

    /// Makes lists that were altered anew, of the records that are genuine. `revise` gives what is
    /// to stand in the place of each, since an old copy of a record is genuine as well; `None`
    /// removes it.
    pub(crate) fn rebuild(
        &mut self,
        seals: &Seals,
        root: &mut Root,
        mut revise: impl FnMut(&Label, &[u8]) -> Option<Vec<u8>>,
    ) -> Result<Rebuilt, redb::Error> {
        let mut rebuilt = Rebuilt::default();
        let mut lists: BTreeMap<u32, List> = BTreeMap::new();
        for number in 0..LISTS {
            if self.list(seals, root, number)?.is_none() {
                lists.insert(number, List::new());
            }
        }
        let names = self.keys.iter()?.map(|row| Ok(row?.0.value().to_owned()));
        for name in names.collect::<Result<Vec<String>, redb::Error>>()? {
            let Ok(label) = name.parse::<Label>() else {
                self.keys.remove(name.as_str())?;
                rebuilt.nameless += 1;
                continue;
            };
            let Some(list) = lists.get_mut(&index::list_of(&name)) else { continue };
            let row = self.keys.get(name.as_str())?.map(|row| row.value().to_vec()).unwrap_or_default();
            let genuine = open_record(seals, &name, &row).and_then(|(_, record)| revise(&label, record));
            match genuine {
                Some(record) => {
                    let mac = seals.of_record(&name, &record);
                    self.keys.insert(name.as_str(), [&mac, &*record].concat().as_slice())?;
                    list.insert(name, mac);
                    rebuilt.kept.push(label);
                }
                None => {
                    self.keys.remove(name.as_str())?;
                    rebuilt.removed.push(label);
                }
            }
        }
        for (number, list) in &lists {
            self.write_list(seals, root, *number, list)?;
        }
        rebuilt.lists = lists.into_keys().collect();
        Ok(rebuilt)
    }

    /// Writes a list of the index.
    pub(crate) fn write_list(
        &mut self,
        seals: &Seals,
        root: &mut Root,
        number: u32,
        list: &List,
    ) -> Result<(), redb::Error> {
        let bytes = index::encode(list);
        self.index.insert(number, bytes.as_slice())?;
        root.set(number, seals.of_list(number, &bytes));
        Ok(())
    }

    /// Authenticates the facts and the root of the index as they are now.
    pub(crate) fn seal(&mut self, seals: &Seals, root: &Root) -> Result<(), redb::Error> {
        let mut facts = self.facts()?;
        facts.remove(SEAL);
        self.index.insert(ROOT, root.as_bytes())?;
        self.meta.insert(SEAL, STANDARD.encode(mac_of(seals, &facts, root)).as_str())?;
        Ok(())
    }
}

/// A row of the table of records: the MAC, and the record if that is of this label.
pub(crate) fn open_record<'r>(seals: &Seals, label: &str, row: &'r [u8]) -> Option<(Mac, &'r [u8])> {
    let (mac, record) = row.split_first_chunk::<32>()?;
    let is_genuine: bool = mac.ct_eq(&seals.of_record(label, record)).into();
    is_genuine.then_some((*mac, record))
}

fn mac_of(seals: &Seals, facts: &BTreeMap<String, String>, root: &Root) -> Mac {
    let facts = facts.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
    seals.of_meta(&facts.chain([root.as_bytes()]).collect::<Vec<_>>())
}

pub(crate) const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
pub(crate) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
pub(crate) const INDEX: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("index");
