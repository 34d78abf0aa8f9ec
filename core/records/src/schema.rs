//! The tables, and the ladder from older versions.
//!
//! `PRAGMA user_version` is the version, `application_id` tells our files
//! from others'. A record is JSON; what is searched by stands in columns.

use containerkit::{Error, ErrorKind};
use rusqlite::{Connection, Transaction};

use crate::store::Fail;

/// Marks a file as ours: "CkRc".
pub(crate) const APPLICATION_ID: i32 = 0x436b_5263;

type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Step N takes a database of version N to N + 1. Append only.
const LADDER: [Step; 2] = [first, leases];

/// The version that this build writes.
pub(crate) const VERSION: i32 = LADDER.len() as i32;

fn first(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE image (
            name   TEXT PRIMARY KEY,
            digest TEXT NOT NULL,
            record TEXT NOT NULL
        ) STRICT;
        CREATE INDEX image_digest ON image (digest);
        CREATE TABLE container (
            id           TEXT PRIMARY KEY,
            name         TEXT NOT NULL UNIQUE,
            image_digest TEXT,
            record       TEXT NOT NULL
        ) STRICT;
        CREATE INDEX container_image ON container (image_digest)
            WHERE image_digest IS NOT NULL;
        CREATE TABLE lease (
            id     TEXT PRIMARY KEY,
            record TEXT NOT NULL
        ) STRICT;",
    )
}

/// What leases keep stands in rows, so that one more costs no rewriting; the
/// instance of a blob is empty, for it is kept in every store.
fn leases(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE lease_object (
            lease    TEXT NOT NULL REFERENCES lease (id),
            instance TEXT NOT NULL,
            id       TEXT NOT NULL,
            PRIMARY KEY (lease, instance, id)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE condemned (
            instance TEXT NOT NULL,
            id       TEXT NOT NULL,
            holder   TEXT NOT NULL,
            PRIMARY KEY (instance, id)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX condemned_holder ON condemned (holder);
        INSERT OR IGNORE INTO lease_object
            SELECT lease.id, '', held.value
            FROM lease, json_each(lease.record, '$.blobs') AS held
            WHERE json_valid(lease.record);
        INSERT OR IGNORE INTO lease_object
            SELECT lease.id, held.value ->> 0, held.value ->> 1
            FROM lease, json_each(lease.record, '$.snapshots') AS held
            WHERE json_valid(lease.record);
        UPDATE lease SET record = json_remove(record, '$.blobs', '$.snapshots')
            WHERE json_valid(record);",
    )
}

/// The version of a database, once it is known to be ours and not newer.
pub(crate) fn version(db: &Connection, path: &std::path::Path) -> Result<i32, Fail> {
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION_ID {
        return Err(Fail::Kit(
            Error::data_loss(format!(
                "{} is a SQLite file, but no record database of containerkit",
                path.display()
            ))
            .with_hint("move it away, or name another root"),
        ));
    }
    let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(Fail::Kit(
            Error::new(
                ErrorKind::Incompatible,
                format!(
                    "record database {} has schema version {version}; \
                     this containerkit supports up to {VERSION}",
                    path.display()
                ),
            )
            .with_hint("use the newer containerkit that wrote it"),
        ));
    }
    if version < 1 {
        return Err(Fail::Kit(Error::data_loss(format!(
            "record database {} has schema version {version}, which never was",
            path.display()
        ))));
    }
    Ok(version)
}

/// Climbs from `from` to [`VERSION`] in one transaction.
pub(crate) fn migrate(db: &mut Connection, from: i32) -> Result<(), Fail> {
    let db = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Another process may have climbed while we waited for our turn.
    let now: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let start = usize::try_from(now.max(from)).unwrap_or(0);
    for step in LADDER.iter().skip(start) {
        step(&db)?;
    }
    if start < LADDER.len() {
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
        db.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(db.commit()?)
}
