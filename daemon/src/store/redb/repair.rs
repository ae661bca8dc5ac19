//! Finds the rows of a store that are not authentic, and rebuilds lists of the index.

use std::collections::BTreeMap;

use keyward_proto::Label;
use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{Found, Tables, Writing};
use crate::store::index::{self, LISTS, List, Root};
use crate::store::store_key::Seals;
use crate::store::{Alterations, Rebuilt};

impl<K, M, I> Tables<K, M, I>
where
    K: ReadableTable<&'static str, &'static [u8]> + ReadableTableMetadata,
    M: ReadableTable<&'static str, &'static str>,
    I: ReadableTable<u32, &'static [u8]>,
{
    /// Everything that is not authentic, except the metadata and the root.
    pub(super) fn altered(&self, seals: &Seals, root: &Root) -> Result<Alterations, redb::Error> {
        if self.is_whole(seals, root)? {
            return Ok(Alterations::default());
        }
        let mut altered = Alterations::default();
        let mut lists = Vec::new();
        for number in 0..LISTS {
            let list = self.list(seals, root, number)?;
            // Not an empty list: the entries are lost, and a key of the list may have left no other
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
                // A part of the list may be as it was.
                Ok(label) => {
                    if list.is_some() || !matches!(self.find(seals, root, label.as_str())?, Found::Record(_))
                    {
                        altered.labels.insert(label);
                    }
                }
            }
        }
        Ok(altered)
    }
}

impl Writing<'_> {
    /// Rebuilds the lists that were altered from the records that are authentic. An old copy of a
    /// record is authentic, too: `revise` gives the record to store instead, and `None` removes the
    /// record.
    pub(super) fn rebuild(
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
            let genuine = seals.open_record(&name, &row).and_then(|(_, record)| revise(&label, record));
            match genuine {
                Some(record) => {
                    let (mac, row) = seals.seal_record(&name, &record);
                    self.keys.insert(name.as_str(), row.as_slice())?;
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
}
