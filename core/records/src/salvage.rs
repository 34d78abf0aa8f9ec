//! What can still be read of a damaged database.

use std::path::Path;

use containerkit::record::{ContainerRecord, ImageRecord, Records};
use containerkit::{ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};
use serde::de::DeserializeOwned;

use crate::SqliteRecords;

/// How much could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Images recorded anew.
    pub images: usize,
    /// Containers recorded anew.
    pub containers: usize,
}

/// Records in `to` what can be read of the damaged database at `from`. Leases
/// are not: nobody who holds one works on these records any more.
pub fn salvage(from: &Path, to: &SqliteRecords) -> Result<Salvaged> {
    let mut saved = Salvaged::default();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(db) = Connection::open_with_flags(from, flags) else {
        return Ok(saved);
    };
    for image in readable::<ImageRecord>(&db, "image", "name") {
        to.put_image(&image)?;
        saved.images += 1;
    }
    for container in readable::<ContainerRecord>(&db, "container", "id") {
        match to.create_container(&container) {
            Ok(()) => saved.containers += 1,
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Ok(saved)
}

/// From both ends: a damaged page in the middle costs what is on it.
fn readable<T: DeserializeOwned>(db: &Connection, table: &str, key: &str) -> Vec<T> {
    let mut found = std::collections::BTreeMap::new();
    for order in ["ASC", "DESC"] {
        let sql = format!("SELECT {key}, record FROM {table} ORDER BY rowid {order}");
        let Ok(mut query) = db.prepare(&sql) else {
            continue;
        };
        let rows = query.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        });
        for row in rows.into_iter().flatten() {
            let Ok((name, text)) = row else { break };
            if let Ok(record) = serde_json::from_str::<T>(&text) {
                found.entry(name).or_insert(record);
            }
        }
    }
    found.into_values().collect()
}
