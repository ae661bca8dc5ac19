//! Copies of the store, made while changes go on.

use std::fs::File;

use redb::backends::FileBackend;
use redb::{Database, ReadableTable};

use super::tables::{INDEX, KEYS, META, Reading};

/// Writes every row of a transaction into an empty file, which is a store itself. Returns the
/// number of records.
pub(super) fn copy(tables: &Reading, file: &File) -> Result<u64, redb::Error> {
    let backend = FileBackend::new(file.try_clone()?)?;
    let database: Database = redb::Builder::new().create_with_backend(backend)?;
    let transaction = database.begin_write()?;
    let mut count = 0;
    {
        let mut keys = transaction.open_table(KEYS)?;
        for row in tables.keys.iter()? {
            let (label, record) = row?;
            keys.insert(label.value(), record.value())?;
            count += 1;
        }
        let mut meta = transaction.open_table(META)?;
        for row in tables.meta.iter()? {
            let (name, text) = row?;
            meta.insert(name.value(), text.value())?;
        }
        let mut index = transaction.open_table(INDEX)?;
        for row in tables.index.iter()? {
            let (number, list) = row?;
            index.insert(number.value(), list.value())?;
        }
    }
    transaction.commit()?;
    Ok(count)
}
