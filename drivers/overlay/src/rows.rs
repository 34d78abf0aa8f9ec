//! The queries. Each finds its rows by an index, so that no call grows with
//! the snapshots that it does not touch.

use containerkit::snapshot::{SnapshotFilter, SnapshotInfo, SnapshotKind};
use containerkit::{Error, Labels, Page, Result, SnapshotKey, Timestamp, Usage};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use crate::database::sql_error;

/// A snapshot as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The name of its folder.
    pub(crate) id: i64,
    /// The folder below it.
    pub(crate) parent: Option<i64>,
    /// How many folders its chain has, its own included.
    pub(crate) layers: i64,
    pub(crate) info: SnapshotInfo,
    /// Of a committed one, once somebody has asked.
    pub(crate) usage: Option<Usage>,
}

const SELECT: &str = "SELECT s.id, s.key, s.kind, p.key, s.created, s.updated, s.layers,
    s.size, s.inodes,
    (SELECT json_group_object(name, value) FROM labels WHERE snapshot = s.id), s.parent
    FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent";

fn snapshot(row: &Row<'_>) -> rusqlite::Result<Result<Snapshot>> {
    let key: String = row.get(1)?;
    let kind: u32 = row.get(2)?;
    let parent: Option<String> = row.get(3)?;
    let labels: String = row.get(9)?;
    let size: Option<i64> = row.get(7)?;
    let inodes: Option<i64> = row.get(8)?;
    let (id, layers) = (row.get(0)?, row.get(6)?);
    let parent_id = row.get(10)?;
    let created = Timestamp::from_unix_nanos(row.get(4)?);
    let updated = Timestamp::from_unix_nanos(row.get(5)?);
    let damaged = || Error::data_loss(format!("row {id} of the snapshot metadata is damaged"));
    let build = move || {
        Ok(Snapshot {
            id,
            parent: parent_id,
            layers,
            usage: size.zip(inodes).map(|(size, inodes)| Usage {
                size: size.max(0) as u64,
                inodes: inodes.max(0) as u64,
            }),
            info: SnapshotInfo {
                key: key.parse().map_err(|_| damaged())?,
                kind: SnapshotKind::from_code(kind).ok_or_else(damaged)?,
                parent: match parent {
                    Some(parent) => Some(parent.parse().map_err(|_| damaged())?),
                    None => None,
                },
                labels: serde_json::from_str(&labels).map_err(|_| damaged())?,
                created,
                updated,
            },
        })
    };
    Ok(build())
}

/// The snapshot with this key, if there is one.
pub(crate) fn find(db: &Connection, key: &SnapshotKey) -> Result<Option<Snapshot>> {
    db.prepare_cached(&format!("{SELECT} WHERE s.key = ?1"))
        .and_then(|mut query| query.query_row([key.as_str()], snapshot).optional())
        .map_err(sql_error)?
        .transpose()
}

/// The snapshot with this key.
pub(crate) fn get(db: &Connection, key: &SnapshotKey) -> Result<Snapshot> {
    find(db, key)?.ok_or_else(|| Error::not_found(format!("snapshot {key} does not exist")))
}

/// Refuses a key that is taken.
pub(crate) fn check_free(db: &Connection, key: &SnapshotKey) -> Result<()> {
    match find(db, key)? {
        None => Ok(()),
        Some(taken) => Err(Error::already_exists(format!(
            "snapshot {key} exists already, {}",
            taken.info.kind
        ))),
    }
}

/// The committed snapshot that is to be a parent.
pub(crate) fn parent(db: &Connection, key: &SnapshotKey) -> Result<Snapshot> {
    let parent = find(db, key)?
        .ok_or_else(|| Error::not_found(format!("parent snapshot {key} does not exist")))?;
    if parent.info.kind != SnapshotKind::Committed {
        return Err(Error::precondition(format!(
            "snapshot {key} is {} and cannot be a parent: commit it first",
            parent.info.kind
        )));
    }
    Ok(parent)
}

/// Adds a snapshot; the result is its id.
pub(crate) fn insert(
    db: &Connection,
    key: &SnapshotKey,
    kind: SnapshotKind,
    parent: Option<&Snapshot>,
    labels: &Labels,
) -> Result<i64> {
    let now = Timestamp::now().unix_nanos();
    let layers = parent.map_or(0, |parent| parent.layers) + 1;
    db.prepare_cached(
        "INSERT INTO snapshots (key, kind, parent, layers, created, updated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
    )
    .and_then(|mut query| {
        query.insert(params![
            key.as_str(),
            kind.code(),
            parent.map(|parent| parent.id),
            layers,
            now
        ])
    })
    .map_err(sql_error)
    .and_then(|id| set_labels(db, id, labels).map(|()| id))
}

/// Makes the snapshot committed under a new key, on this parent.
pub(crate) fn commit(
    db: &Connection,
    id: i64,
    name: &SnapshotKey,
    parent: Option<&Snapshot>,
    labels: &Labels,
) -> Result<()> {
    let layers = parent.map_or(0, |parent| parent.layers) + 1;
    db.prepare_cached(
        "UPDATE snapshots SET key = ?2, kind = ?3, parent = ?4, layers = ?5,
         created = ?6, updated = ?6, size = NULL, inodes = NULL WHERE id = ?1",
    )
    .and_then(|mut query| {
        query.execute(params![
            id,
            name.as_str(),
            SnapshotKind::Committed.code(),
            parent.map(|parent| parent.id),
            layers,
            Timestamp::now().unix_nanos()
        ])
    })
    .map_err(sql_error)?;
    set_labels(db, id, labels)
}

/// Replaces the labels.
pub(crate) fn set_labels(db: &Connection, id: i64, labels: &Labels) -> Result<()> {
    let set = || {
        db.prepare_cached("DELETE FROM labels WHERE snapshot = ?1")?
            .execute([id])?;
        let mut query =
            db.prepare_cached("INSERT INTO labels (snapshot, name, value) VALUES (?1, ?2, ?3)")?;
        for (name, value) in labels {
            query.execute(params![id, name, value])?;
        }
        Ok(())
    };
    set().map_err(sql_error)
}

/// Moves `updated`, never backwards and never standing still.
pub(crate) fn touch(db: &Connection, snapshot: &Snapshot) -> Result<()> {
    let now = Timestamp::now()
        .unix_nanos()
        .max(snapshot.info.updated.unix_nanos().saturating_add(1));
    db.prepare_cached("UPDATE snapshots SET updated = ?2 WHERE id = ?1")
        .and_then(|mut query| query.execute(params![snapshot.id, now]))
        .map_err(sql_error)?;
    Ok(())
}

/// Remembers what a committed snapshot takes.
pub(crate) fn set_usage(db: &Connection, id: i64, usage: Usage) -> Result<()> {
    db.prepare_cached("UPDATE snapshots SET size = ?2, inodes = ?3 WHERE id = ?1 AND kind = 3")
        .and_then(|mut query| {
            query.execute(params![
                id,
                i64::try_from(usage.size).unwrap_or(i64::MAX),
                i64::try_from(usage.inodes).unwrap_or(i64::MAX)
            ])
        })
        .map_err(sql_error)?;
    Ok(())
}

/// One child of the snapshot, if it has any.
pub(crate) fn a_child(db: &Connection, id: i64) -> Result<Option<String>> {
    db.prepare_cached("SELECT key FROM snapshots WHERE parent = ?1 ORDER BY key LIMIT 1")
        .and_then(|mut query| query.query_row([id], |row| row.get(0)).optional())
        .map_err(sql_error)
}

/// Forgets the snapshot.
pub(crate) fn delete(db: &Connection, id: i64) -> Result<()> {
    db.prepare_cached("DELETE FROM snapshots WHERE id = ?1")
        .and_then(|mut query| query.execute([id]))
        .map_err(sql_error)?;
    Ok(())
}

/// Whether a folder has a row.
pub(crate) fn has_id(db: &Connection, id: i64) -> Result<bool> {
    db.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")
        .and_then(|mut query| query.exists([id]))
        .map_err(sql_error)
}

/// The ids of a chain, topmost first, beginning with `id`.
pub(crate) fn chain(db: &Connection, id: Option<i64>) -> Result<Vec<i64>> {
    let Some(id) = id else {
        return Ok(Vec::new());
    };
    let list = || {
        db.prepare_cached(
            "WITH RECURSIVE chain (id, parent, depth) AS (
                 SELECT id, parent, 0 FROM snapshots WHERE id = ?1
                 UNION ALL
                 SELECT s.id, s.parent, chain.depth + 1
                 FROM snapshots s JOIN chain ON s.id = chain.parent
             ) SELECT id FROM chain ORDER BY depth",
        )?
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<_>>>()
    };
    list().map_err(sql_error)
}

/// One page of what passes the filter.
pub(crate) fn walk(
    db: &Connection,
    filter: &SnapshotFilter,
    page: &Page,
) -> Result<Vec<SnapshotInfo>> {
    let mut sql = format!("{SELECT} WHERE s.key > ?");
    let mut values = vec![Value::Text(page.after.clone().unwrap_or_default())];
    if let Some(kind) = filter.kind {
        sql.push_str(" AND s.kind = ?");
        values.push(Value::Integer(kind.code().into()));
    }
    match &filter.parent {
        None => {}
        Some(None) => sql.push_str(" AND s.parent IS NULL"),
        Some(Some(parent)) => {
            sql.push_str(" AND s.parent = (SELECT id FROM snapshots WHERE key = ?)");
            values.push(Value::Text(parent.as_str().into()));
        }
    }
    for (name, value) in &filter.labels {
        sql.push_str(" AND s.id IN (SELECT snapshot FROM labels WHERE name = ?");
        values.push(Value::Text(name.clone()));
        if let Some(value) = value {
            sql.push_str(" AND value = ?");
            values.push(Value::Text(value.clone()));
        }
        sql.push(')');
    }
    sql.push_str(" ORDER BY s.key LIMIT ?");
    values.push(Value::Integer(page.limit.max(1).into()));
    let rows = || {
        db.prepare_cached(&sql)?
            .query_map(params_from_iter(values), snapshot)?
            .collect::<rusqlite::Result<Vec<_>>>()
    };
    rows()
        .map_err(sql_error)?
        .into_iter()
        .map(|row| row.map(|row| row.info))
        .collect()
}

/// Every id with its key, for the check after a reboot.
pub(crate) fn all_ids(db: &Connection) -> Result<Vec<(i64, String)>> {
    let list = || {
        db.prepare("SELECT id, key FROM snapshots ORDER BY id DESC")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()
    };
    list().map_err(sql_error)
}

/// The number that the next snapshot gets, whose folder a killed process may
/// have made already.
pub(crate) fn next_id(db: &Connection) -> Result<i64> {
    db.prepare_cached("SELECT seq + 1 FROM sqlite_sequence WHERE name = 'snapshots'")
        .and_then(|mut query| query.query_row([], |row| row.get(0)).optional())
        .map(|next| next.unwrap_or(1))
        .map_err(sql_error)
}

/// Notes what is to be deleted.
pub(crate) fn add_garbage(db: &Connection, path: &str) -> Result<()> {
    db.prepare_cached("INSERT OR IGNORE INTO garbage (path) VALUES (?1)")
        .and_then(|mut query| query.execute([path]))
        .map_err(sql_error)?;
    Ok(())
}

/// What is to be deleted.
pub(crate) fn garbage(db: &Connection) -> Result<Vec<String>> {
    let list = || {
        db.prepare_cached("SELECT path FROM garbage ORDER BY path")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<_>>>()
    };
    list().map_err(sql_error)
}

/// Forgets what has been set aside.
pub(crate) fn drop_garbage(db: &Connection, path: &str) -> Result<()> {
    db.prepare_cached("DELETE FROM garbage WHERE path = ?1")
        .and_then(|mut query| query.execute([path]))
        .map_err(sql_error)?;
    Ok(())
}

/// A remembered fact of this root.
pub(crate) fn meta(db: &Connection, name: &str) -> Result<Option<String>> {
    db.prepare_cached("SELECT value FROM meta WHERE name = ?1")
        .and_then(|mut query| query.query_row([name], |row| row.get(0)).optional())
        .map_err(sql_error)
}

/// Remembers a fact of this root.
pub(crate) fn set_meta(db: &Connection, name: &str, value: &str) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")
        .and_then(|mut query| query.execute([name, value]))
        .map_err(sql_error)?;
    Ok(())
}
