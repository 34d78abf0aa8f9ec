//! Leases.

use containerkit::record::LeaseRecord;
use containerkit::{ContainerId, Page, Result};
use rusqlite::params;

use crate::store::{Store, Sync, encode, page};

pub(crate) fn put(store: &Store, lease: &LeaseRecord) -> Result<()> {
    // One with an end guards work that a power cut ends too.
    let sync = match lease.expires {
        Some(_) => Sync::Normal,
        None => Sync::Full,
    };
    store.write(sync, |db| {
        db.prepare_cached("INSERT OR REPLACE INTO lease (id, record) VALUES (?, ?)")?
            .execute(params![lease.id.as_str(), encode(lease)?])?;
        Ok(())
    })
}

pub(crate) fn list(store: &Store, which: &Page) -> Result<Vec<LeaseRecord>> {
    store.read(|db| {
        page(
            db,
            "SELECT id, record FROM lease WHERE id > ? ORDER BY id LIMIT ?",
            "lease",
            which,
        )
    })
}

pub(crate) fn delete(store: &Store, id: &ContainerId) -> Result<()> {
    // Lost with the power it only keeps more.
    store.write(Sync::Normal, |db| {
        db.prepare_cached("DELETE FROM lease WHERE id = ?")?
            .execute([id.as_str()])?;
        Ok(())
    })
}
