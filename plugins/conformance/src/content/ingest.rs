//! Cases of one writer at a time.

use containerkit::content::{Expected, IngestWriter, ingest};
use containerkit::{Algorithm, ErrorKind, Result, Timestamp};

use super::*;
use crate::ensure;

type Store = dyn Factory;

pub(super) fn story(factory: &Store) -> Result<()> {
    let fixture = factory.fixture()?;
    let data = b"hello, world";
    let digest = Algorithm::Sha256.digest(data);
    let name = name("layer-1")?;
    let expected = exactly(data);

    let store = fixture.open()?;
    let mut writer = store.writer(&name, &expected)?;
    writer.write(&data[..5])?;
    drop(writer);
    drop(store);

    let store = fixture.open()?;
    let mut writer = store.writer(&name, &expected)?;
    let held = offset(&*writer)?;
    equal(held, 5, "offset after resuming")?;
    writer.write(&data[held as usize..])?;
    let info = writer.commit(&expected, &no_labels())?;
    equal(&info.digest, &digest, "digest")?;
    equal(info.size, 12, "size")?;
    same(&*store, &digest, data)?;
    failure(
        store.status(&name),
        ErrorKind::NotFound,
        "status after commit",
    )
    .map(drop)
}

pub(super) fn writers(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let sizes = [100, 2_000, 30_000, 30_001, 4 << 20];
    let blobs: Vec<Vec<u8>> = (0..5).map(|n| noise(sizes[n as usize], n)).collect();
    let mut open = Vec::new();
    for (n, data) in blobs.iter().enumerate() {
        let all = exactly(data);
        let expected = match n {
            0 | 4 => any(),
            1 => Expected {
                digest: None,
                ..all
            },
            2 => Expected { size: None, ..all },
            _ => all,
        };
        open.push(store.writer(&name(&format!("c{n}"))?, &expected)?);
    }
    equal(store.list_statuses()?.len(), 5, "open ingests")?;
    // A little of each in turn.
    let mut position = 0;
    while blobs.iter().any(|data| position < data.len()) {
        for (data, writer) in blobs.iter().zip(&mut open) {
            let end = data.len().min(position + 4093);
            writer.write(data.get(position..end).unwrap_or_default())?;
        }
        position += 4093;
    }
    for (data, writer) in blobs.iter().zip(&mut open) {
        let info = writer.commit(&any(), &no_labels())?;
        let digest = Algorithm::Sha256.digest(data);
        equal(&info.digest, &digest, "digest")?;
        same(&*store, &digest, data)?;
    }
    equal(store.list_statuses()?.len(), 0, "ingests after the commits")
}

pub(super) fn status_follows(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(256, 1);
    let name = name("status")?;
    let before = Timestamp::now();
    let expected = exactly(&data);
    let mut writer = store.writer(&name, &expected)?;
    let mut updated = before;
    for cut in [0, 64, 192, 256] {
        let held = offset(&*writer)? as usize;
        writer.write(&data[held..cut])?;
        for status in [writer.status()?, store.status(&name)?] {
            equal(&status.name, &name, "ref")?;
            equal(status.offset, cut as u64, "offset")?;
            equal(status.total, expected.size, "total")?;
            equal(&status.expected, &expected.digest, "expected digest")?;
            near(status.started, before, "started")?;
            near(status.updated, updated, "updated")?;
            ensure(status.holder.is_some(), || "no holder while held".into())?;
        }
        updated = Timestamp::now();
    }
    drop(writer);
    equal(store.status(&name)?.holder, None, "holder after drop")
}

/// Not before `from`, and not in the future: but for the coarse clock of a
/// file system.
fn near(time: Timestamp, from: Timestamp, what: &str) -> Result<()> {
    const SLACK: i64 = 50_000_000;
    ensure(
        time.unix_nanos() >= from.unix_nanos() - SLACK
            && time.unix_nanos() <= Timestamp::now().unix_nanos() + SLACK,
        || format!("{what} is {time}, want from {from} to now"),
    )
}

pub(super) fn commit_exists(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(300, 1);
    let kept = [("first".to_owned(), "1".to_owned())].into();
    let first = put(&*store, &data, &kept)?;
    let digest_only = Expected {
        size: None,
        digest: Some(first.digest.clone()),
    };
    for (n, expected) in [any(), digest_only, exactly(&data)].into_iter().enumerate() {
        let name = name(&format!("again-{n}"))?;
        let mut writer = store.writer(&name, &any())?;
        writer.write(&data)?;
        let other = [("second".to_owned(), "2".to_owned())].into();
        let error = failure(
            writer.commit(&expected, &other),
            ErrorKind::AlreadyExists,
            "commit of what exists",
        )?;
        ensure(error.message().contains(first.digest.hex()), || {
            format!("the error does not name the digest: {error}")
        })?;
        failure(store.status(&name), ErrorKind::NotFound, "its ingest after")?;
        // Size and digest are checked all the same.
        let mut writer = store.writer(&name, &any())?;
        writer.write(&data)?;
        failure(
            writer.commit(&exactly(b"other"), &no_labels()),
            ErrorKind::FailedPrecondition,
            "commit of what exists as something else",
        )?;
        drop(writer);
        store.abort(&name)?;
    }
    equal(store.info(&first.digest)?, first, "the blob afterwards")
}

pub(super) fn writer_exists(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(300, 1);
    let digest = put(&*store, &data, &no_labels())?.digest;
    let name = name("again")?;
    let error = failure(
        store.writer(&name, &exactly(&data)),
        ErrorKind::AlreadyExists,
        "writer for what exists",
    )?;
    ensure(error.message().contains(digest.hex()), || {
        format!("the error does not name the digest: {error}")
    })?;
    equal(store.list_statuses()?.len(), 0, "ingests")?;
    // The helper of the core takes it as success.
    let info = ingest(&*store, &name, &any(), &no_labels(), &mut &data[..])?;
    equal(info.digest, digest, "digest")
}

pub(super) fn resume(factory: &Store) -> Result<()> {
    let fixture = factory.fixture()?;
    let data = noise(100_000, 1);
    let name = name("resume")?;
    let expected = exactly(&data);
    let store = fixture.open()?;
    let mut writer = store.writer(&name, &expected)?;
    writer.write(&data[..50_000])?;
    let before = writer.status()?;
    drop(writer);
    let other = fixture.open()?;
    let between = other.status(&name)?;
    equal(between.holder, None, "holder")?;
    let mut writer = other.writer(&name, &expected)?;
    let after = writer.status()?;
    for status in [&between, &after] {
        equal(status.offset, 50_000, "offset")?;
        equal(status.total, Some(100_000), "total")?;
        equal(&status.expected, &expected.digest, "expected digest")?;
        equal(status.started, before.started, "started")?;
        near(status.updated, before.started, "updated")?;
    }
    writer.write(&data[50_000..])?;
    let info = writer.commit(&any(), &no_labels())?;
    same(&*store, &info.digest, &data)
}

pub(super) fn resume_cuts(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    for size in [500usize, 5_000, 50_000] {
        for percent in [0usize, 10, 50, 90, 100] {
            for way in ["append", "truncate", "copy"] {
                let what = format!("{size} bytes cut at {percent} %, {way}");
                let data = noise(size, (size * 1000 + percent * 10 + way.len()) as u64);
                let name = name("cut")?;
                let expected = exactly(&data);
                let cut = size * percent / 100;
                let mut writer = store.writer(&name, &expected)?;
                writer.write(&data[..cut])?;
                drop(writer);
                match way {
                    "copy" => {
                        ingest(&*store, &name, &expected, &no_labels(), &mut &data[..])?;
                    }
                    way => {
                        let mut writer = store.writer(&name, &expected)?;
                        equal(offset(&*writer)?, cut as u64, &what)?;
                        let from = if way == "truncate" {
                            writer.truncate(0)?;
                            equal(offset(&*writer)?, 0, &what)?;
                            0
                        } else {
                            cut
                        };
                        writer.write(&data[from..])?;
                        writer.commit(&any(), &no_labels())?;
                    }
                }
                same(&*store, &Algorithm::Sha256.digest(&data), &data)
                    .map_err(|error| error.context(what))?;
            }
        }
    }
    Ok(())
}

pub(super) fn truncate(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(10_000, 1);
    let name = name("truncate")?;
    let mut writer = store.writer(&name, &any())?;
    writer.write(&data)?;
    ensure(writer.truncate(10_001).is_err(), || {
        "truncate beyond the offset succeeded".into()
    })?;
    equal(offset(&*writer)?, 10_000, "offset after the refusal")?;
    for cut in [10_000, 9_999, 4_000, 0] {
        writer.truncate(cut)?;
        equal(offset(&*writer)?, cut, "offset")?;
        equal(store.status(&name)?.offset, cut, "offset from outside")?;
    }
    writer.write(&data[..7_000])?;
    writer.truncate(3_000)?;
    writer.write(b"other")?;
    let want = [&data[..3_000], b"other"].concat();
    let info = writer.commit(&any(), &no_labels())?;
    equal(&info.digest, &Algorithm::Sha256.digest(&want), "digest")?;
    same(&*store, &info.digest, &want)
}

pub(super) fn error_state(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(1_000, 1);
    let name = name("wrong")?;
    let right = exactly(&data);
    let wrong_digest = Expected {
        size: None,
        ..exactly(b"other")
    };
    let wrong_size = Expected {
        size: Some(999),
        digest: None,
    };
    let wrong_both = exactly(b"other");
    let mut writer = store.writer(&name, &any())?;
    writer.write(&data)?;
    for wrong in [&wrong_digest, &wrong_size, &wrong_both] {
        failure(
            writer.commit(wrong, &no_labels()),
            ErrorKind::FailedPrecondition,
            "commit as something else",
        )?;
        equal(offset(&*writer)?, 1_000, "offset after the refusal")?;
        failure(
            store.info(
                &right
                    .digest
                    .clone()
                    .unwrap_or_else(|| Algorithm::Sha256.digest(&data)),
            ),
            ErrorKind::NotFound,
            "the blob after the refusal",
        )?;
    }
    drop(writer);
    // What was expected when it was begun counts too, unless commit says more.
    for wrong in [&wrong_digest, &wrong_size] {
        let mut writer = store.writer(&name, wrong)?;
        equal(offset(&*writer)?, 1_000, "offset after resuming")?;
        failure(
            writer.commit(&any(), &no_labels()),
            ErrorKind::FailedPrecondition,
            "commit as expected at first",
        )?;
    }
    let mut writer = store.writer(&name, &wrong_both)?;
    writer.truncate(0)?;
    writer.write(&data)?;
    writer.commit(&right, &no_labels())?;
    same(&*store, &Algorithm::Sha256.digest(&data), &data)
}

pub(super) fn done(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    for round in ["success", "AlreadyExists"] {
        let name = name("done")?;
        let mut writer = store.writer(&name, &any())?;
        writer.write(b"data")?;
        let result = writer.commit(&any(), &no_labels());
        equal(result.is_ok(), round == "success", "commit")?;
        let kind = ErrorKind::FailedPrecondition;
        failure(writer.write(b"x"), kind, &format!("write after {round}"))?;
        failure(
            writer.write(b""),
            kind,
            &format!("empty write after {round}"),
        )?;
        failure(writer.status(), kind, &format!("status after {round}"))?;
        failure(writer.truncate(0), kind, &format!("truncate after {round}"))?;
        failure(
            writer.commit(&any(), &no_labels()),
            kind,
            &format!("commit after {round}"),
        )?;
        // The ref is free even before the writer is dropped.
        let mut next = store.writer(&name, &any())?;
        next.write(b"more")?;
        drop(writer);
        equal(store.status(&name)?.offset, 4, "the next ingest")?;
        drop(next);
        store.abort(&name)?;
    }
    Ok(())
}

pub(super) fn expectation_replaced(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(2_000, 1);
    let name = name("replaced")?;
    let mut writer = store.writer(&name, &exactly(b"other"))?;
    writer.write(&data[..1_000])?;
    drop(writer);
    let expected = Expected {
        size: Some(2_000),
        digest: Some(Algorithm::Sha512.digest(&data)),
    };
    let mut writer = store.writer(&name, &expected)?;
    let status = store.status(&name)?;
    equal(status.offset, 1_000, "offset")?;
    equal(status.total, expected.size, "total")?;
    equal(&status.expected, &expected.digest, "expected digest")?;
    writer.write(&data[1_000..])?;
    let info = writer.commit(&any(), &no_labels())?;
    equal(Some(info.digest), expected.digest, "digest")
}

pub(super) fn parts(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(3 << 20, 1);
    let digest = Algorithm::Sha256.digest(&data);
    let mut previous: Option<&str> = None;
    let plans: [(&str, &[usize]); 4] = [
        ("one", &[3 << 20]),
        ("uneven", &[1, 0, 4095, 4097, 262_143, 262_145, 1 << 20]),
        ("large", &[2 << 20]),
        ("small", &[10_007]),
    ];
    for (plan, sizes) in plans {
        let mut writer: Box<dyn IngestWriter> = store.writer(&name(plan)?, &any())?;
        let mut rest = &data[..];
        for size in sizes.iter().cycle() {
            let (part, after) = rest.split_at((*size).min(rest.len()));
            writer.write(part)?;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let info = writer.commit(&exactly(&data), &no_labels())?;
        equal(&info.digest, &digest, plan)?;
        same(&*store, &digest, &data)?;
        store.delete(&digest)?;
        previous = Some(plan);
    }
    equal(previous, Some("small"), "plans")
}

pub(super) fn sha512(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(70_000, 1);
    let digest = Algorithm::Sha512.digest(&data);
    let expected = Expected {
        size: None,
        digest: Some(digest.clone()),
    };
    let mut writer = store.writer(&name("begun")?, &expected)?;
    writer.write(&data)?;
    equal(
        &writer.commit(&any(), &no_labels())?.digest,
        &digest,
        "digest",
    )?;
    same(&*store, &digest, &data)?;
    store.delete(&digest)?;
    // Decided at commit: the bytes are hashed again.
    let mut writer = store.writer(&name("decided")?, &any())?;
    writer.write(&data)?;
    let wrong = Expected {
        size: None,
        digest: Some(Algorithm::Sha512.digest(b"other")),
    };
    failure(
        writer.commit(&wrong, &no_labels()),
        ErrorKind::FailedPrecondition,
        "commit with another sha512 digest",
    )?;
    equal(
        &writer.commit(&expected, &no_labels())?.digest,
        &digest,
        "digest",
    )?;
    // The same bytes under both algorithms are two blobs.
    let other = put(&*store, &data, &no_labels())?;
    store.delete(&other.digest)?;
    same(&*store, &digest, &data)
}
