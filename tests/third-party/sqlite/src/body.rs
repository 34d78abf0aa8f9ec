//! Bodies: the bytes of an ingest or a blob, as chunks in the order of their
//! starts, without gaps.

use containerkit_plugin::{Algorithm, Error, Hasher, Result, log};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::database::{Database, Durability, Fail};

/// The largest chunk.
pub(crate) const CHUNK: usize = 256 << 10;
/// Up to here a small write is added to the last chunk instead of making one.
const SMALL: usize = 16 << 10;
/// Chunks that one transaction deletes.
const BATCH: u32 = 32;

/// A body without bytes.
pub(crate) fn new(db: &Transaction<'_>) -> Result<i64, Fail> {
    db.execute("INSERT INTO body DEFAULT VALUES", [])?;
    Ok(db.last_insert_rowid())
}

/// Appends at `offset`, the body's size.
pub(crate) fn append(
    db: &Transaction<'_>,
    body: i64,
    mut offset: u64,
    mut data: &[u8],
) -> Result<(), Fail> {
    if data.len() < SMALL
        && let Some((start, held)) = last(db, body)?
        && held + data.len() as u64 <= SMALL as u64
    {
        db.prepare_cached(
            "UPDATE chunk SET data = CAST(data || ?3 AS BLOB) WHERE body = ?1 AND start = ?2",
        )?
        .execute(params![body, start, data])?;
        return Ok(());
    }
    while !data.is_empty() {
        let (chunk, rest) = data.split_at(data.len().min(CHUNK));
        db.prepare_cached("INSERT INTO chunk (body, start, data) VALUES (?1, ?2, ?3)")?
            .execute(params![body, number(offset)?, chunk])?;
        offset += chunk.len() as u64;
        data = rest;
    }
    Ok(())
}

/// Start and length of the last chunk.
fn last(db: &Transaction<'_>, body: i64) -> rusqlite::Result<Option<(i64, u64)>> {
    db.prepare_cached(
        "SELECT start, length(data) FROM chunk WHERE body = ?1 ORDER BY start DESC LIMIT 1",
    )?
    .query_row([body], |row| Ok((row.get(0)?, unsigned(row, 1)?)))
    .optional()
}

/// Cuts the body to `size` bytes. A cut of a body of many chunks is one
/// transaction all the same: half a cut would be a body with a hole.
pub(crate) fn cut(db: &Transaction<'_>, body: i64, size: u64) -> Result<(), Fail> {
    let size = number(size)?;
    db.execute(
        "DELETE FROM chunk WHERE body = ?1 AND start >= ?2",
        [body, size],
    )?;
    db.execute(
        "UPDATE chunk SET data = substr(data, 1, ?2 - start)
         WHERE body = ?1 AND start = (SELECT max(start) FROM chunk WHERE body = ?1)",
        [body, size],
    )?;
    Ok(())
}

/// Puts the chunk that holds `offset` into `chunk` and returns its start.
/// `None`: there is no such chunk.
pub(crate) fn chunk_at(
    db: &rusqlite::Connection,
    body: i64,
    offset: u64,
    chunk: &mut Vec<u8>,
) -> Result<Option<u64>, Fail> {
    let mut query = db.prepare_cached(
        "SELECT start, data FROM chunk WHERE body = ?1 AND start <= ?2
         ORDER BY start DESC LIMIT 1",
    )?;
    let mut rows = query.query([body, number(offset)?])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let start = unsigned(row, 0)?;
    let data = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
    if start + data.len() as u64 <= offset {
        return Ok(None);
    }
    chunk.clear();
    chunk.extend_from_slice(data);
    Ok(Some(start))
}

/// Hashes the first `size` bytes, one chunk and one transaction at a time.
pub(crate) fn hash(
    database: &Database,
    body: i64,
    size: u64,
    algorithm: Algorithm,
) -> Result<Hasher> {
    let mut hasher = algorithm.hasher();
    let (mut offset, mut chunk) = (0, Vec::new());
    while offset < size {
        let found = database.read(|db| chunk_at(db, body, offset, &mut chunk))?;
        if found != Some(offset) {
            return Err(Error::data_loss(format!(
                "its bytes from {offset} on are missing in the database"
            )));
        }
        let wanted =
            usize::try_from(size - offset).map_or(chunk.len(), |left| left.min(chunk.len()));
        hasher.update(&chunk[..wanted]);
        offset += wanted as u64;
    }
    Ok(hasher)
}

/// The body is nobody's; its chunks go with [`sweep`].
pub(crate) fn kill(db: &Transaction<'_>, body: i64) -> Result<(), Fail> {
    db.execute("UPDATE body SET dead = 1 WHERE id = ?1", [body])?;
    Ok(())
}

/// Removes the chunks of dead bodies, batch by batch. Many may do so at once.
/// Tidying: whoever called has done what it was asked to.
pub(crate) fn sweep(database: &Database) {
    loop {
        match sweep_batch(database) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                log::warn!("chunks of deleted blobs are left to the next opening: {error}");
                return;
            }
        }
    }
}

fn sweep_batch(database: &Database) -> Result<bool> {
    const DEAD: &str = "SELECT id FROM body WHERE dead LIMIT 1";
    // Looked for as a reader, who waits for nobody.
    let any = database.read(|db| Ok(db.query_row(DEAD, [], |_| Ok(())).optional()?))?;
    if any.is_none() {
        return Ok(false);
    }
    database.write(Durability::Volatile, |db| {
        let dead: Option<i64> = db.query_row(DEAD, [], |row| row.get(0)).optional()?;
        let Some(body) = dead else { return Ok(false) };
        let gone = db.execute(
            "DELETE FROM chunk WHERE rowid IN (SELECT rowid FROM chunk WHERE body = ?1 LIMIT ?2)",
            params![body, BATCH],
        )?;
        if gone < BATCH as usize {
            db.execute("DELETE FROM body WHERE id = ?1", [body])?;
        }
        Ok(true)
    })
}

/// An offset or size out of a column.
pub(crate) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// An offset or size as SQLite keeps it.
pub(crate) fn number(value: u64) -> Result<i64, Fail> {
    i64::try_from(value).map_err(|_| Fail::Kit(Error::invalid(format!("{value} bytes: too many"))))
}
