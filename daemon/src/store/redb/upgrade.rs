//! Brings a store of the format before to the present format: wraps the blobs in its records.
//!
//! A change in the file would leave the old records in free parts of the file. So the rows go to a
//! new file, which then gets the name of the store. Whatever happens, the file with the name is the
//! old store or the new one.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use keyward_proto::Label;
use redb::backends::FileBackend;
use redb::{Database, ReadableTable};

use super::RedbStore;
use super::tables::{Reading, Writing};
use crate::ground::ownership;
use crate::store::error::refused;
use crate::store::index::{LISTS, Root};
use crate::store::metadata::{FORMAT, SEAL, SECRET, THIS_FORMAT};
use crate::store::store_key::Seals;
use crate::store::{StoreError, Upgrade};

/// Brings a store to the present format.
///
/// # Errors
/// [`StoreError`]; the store is as before.
pub(super) fn upgrade(store: &RedbStore, seals: &Seals, upgrade: &Upgrade<'_>) -> Result<(), StoreError> {
    let path = store.file.path();
    let part = path.with_extension(PART);
    let failed = |reason| StoreError::Io(part.clone(), reason);
    // The remains of an earlier attempt.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let done = fill(store, seals, upgrade, &part);
    if done.is_err() {
        let _ = fs::remove_file(&part);
    }
    done?;
    tracing::info!(
        "the key store {} has another format now, in which a purge reaches copies of the file, too; copies from before have their keys as they were, so destroy them when you do not need them any more",
        path.display()
    );
    Ok(())
}

fn fill(store: &RedbStore, seals: &Seals, upgrade: &Upgrade<'_>, part: &Path) -> Result<(), StoreError> {
    let failed = |reason| StoreError::Io(part.to_owned(), reason);
    ownership::make_file(part).map_err(|error| refused(part, error))?;
    let file = ownership::open_to_write(part).map_err(|error| refused(part, error))?;
    let has_keys = store.read(|tables| Ok(tables.keys.iter()?.next().is_some()))?;
    let secret = if has_keys { (upgrade.secret)()? } else { String::new() };
    store.read(|tables| {
        let root = tables.root(seals)?.ok_or_else(|| store.altered())?;
        let backend = FileBackend::new(file.try_clone().map_err(failed)?)?;
        let database: Database = redb::Builder::new().create_with_backend(backend)?;
        let transaction = database.begin_write()?;
        rewrite(tables, &mut Writing::open(&transaction)?, seals, root, &secret, upgrade)?;
        Ok(transaction.commit()?)
    })?;
    file.sync_all().map_err(failed)?;
    store.file.exchange(file, part)
}

fn rewrite(
    old: &Reading,
    new: &mut Writing<'_>,
    seals: &Seals,
    mut root: Root,
    secret: &str,
    upgrade: &Upgrade<'_>,
) -> Result<(), redb::Error> {
    // All rows first, also the ones that no list vouches for: a repair decides about them.
    let mut macs = HashMap::new();
    for row in old.keys.iter()? {
        let (name, row) = row?;
        let rewritten = name.value().parse::<Label>().ok().and_then(|label| {
            let (before, record) = seals.open_record(label.as_str(), row.value())?;
            let record = (upgrade.rewrite)(&label, record, secret)?;
            let (now, row) = seals.seal_record(label.as_str(), &record);
            macs.insert(label.to_string(), (before, now));
            Some(row)
        });
        new.keys.insert(name.value(), rewritten.as_deref().unwrap_or(row.value()))?;
    }
    for number in 0..LISTS {
        let Some(mut list) = old.list(seals, &root, number)? else {
            // An altered list stays altered.
            if let Some(bytes) = old.index.get(number)? {
                new.index.insert(number, bytes.value())?;
            }
            continue;
        };
        for (label, mac) in &mut list {
            if let Some((before, now)) = macs.get(label)
                && before == mac
            {
                *mac = *now;
            }
        }
        if !list.is_empty() {
            new.write_list(seals, &mut root, number, &list)?;
        }
    }
    for (name, value) in old.metadata()?.iter().filter(|(name, _)| *name != SEAL) {
        new.meta.insert(name.as_str(), value.as_str())?;
    }
    new.meta.insert(FORMAT, THIS_FORMAT)?;
    if !secret.is_empty() {
        new.meta.insert(SECRET, secret)?;
    }
    new.seal(seals, &root)
}

const PART: &str = "redb.new";
