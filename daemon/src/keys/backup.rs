//! Copies of the key store.

use std::fs::File;

use redb::backends::FileBackend;
use redb::{Database, ReadableTable};

use super::{Store, StoreError};
use crate::store::redb::tables::{INDEX, KEYS, META, Reading};

impl Store {
    /// Writes the store as it is at one moment into an empty file: a store itself, with every row
    /// of this one. Changes go on meanwhile. Returns how many keys it has.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read, or the file cannot be written.
    pub(crate) fn copy_into(&self, file: &File) -> Result<u64, StoreError> {
        let copied = self.read(|tables| Ok(Ok(copy(tables, file).map_err(|error| error.to_string()))))?;
        copied.map_err(StoreError::Copy)
    }
}

fn copy(tables: &Reading, file: &File) -> Result<u64, redb::Error> {
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
