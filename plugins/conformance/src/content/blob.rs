//! Cases of committed blobs.

use std::fs::File;
use std::io::{Read, Write};

use containerkit::content::{BlobFilter, ContentStore, read_exact_at};
use containerkit::{Algorithm, Digest, ErrorKind, LabelChanges, Page, Result, Timestamp};

use super::*;
use crate::ensure;

type Store = dyn Factory;

fn pairs(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn changes(set: &[(&str, Option<&str>)]) -> LabelChanges {
    LabelChanges {
        replace_all: false,
        set: set
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)))
            .collect(),
    }
}

pub(super) fn empty_store(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let digest = Algorithm::Sha256.digest(b"nothing");
    let name = name("nothing")?;
    let kind = ErrorKind::NotFound;
    let text = failure(store.info(&digest), kind, "info")?.to_string();
    ensure(text.contains(digest.hex()), || {
        format!("the error does not name the digest: {text}")
    })?;
    failure(store.reader(&digest), kind, "reader")?;
    failure(store.delete(&digest), kind, "delete")?;
    failure(store.update(&digest, &changes(&[])), kind, "update")?;
    failure(store.abort(&name), kind, "abort")?;
    let text = failure(store.status(&name), kind, "status")?.to_string();
    ensure(text.contains("nothing"), || {
        format!("the error does not name the ref: {text}")
    })?;
    equal(store.list_statuses()?.len(), 0, "ingests")?;
    let all = store.walk(&BlobFilter::default(), &Page::default())?;
    equal(all.len(), 0, "blobs")
}

pub(super) fn small(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    for data in [&b""[..], b"x", b"a small blob"] {
        let info = put(&*store, data, &no_labels())?;
        equal(info.size, data.len() as u64, "size")?;
        same(&*store, &info.digest, data)?;
        let reader = store.reader(&info.digest)?;
        let mut buf = [7; 4096];
        equal(reader.read_at(&mut buf, 0)?, data.len(), "bytes read")?;
        ensure(buf.starts_with(data), || "other bytes".into())?;
        ensure(buf[data.len()..].iter().all(|byte| *byte == 7), || {
            "bytes after the end were written to".into()
        })?;
        equal(store.info(&info.digest)?, info, "info")?;
    }
    Ok(())
}

pub(super) fn bounds(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(5_000, 1);
    let digest = put(&*store, &data, &no_labels())?.digest;
    let reader = store.reader(&digest)?;
    let mut buf = [0; 100];
    for beyond in [5_000, 5_001, 1 << 40, i64::MAX as u64, u64::MAX] {
        equal(reader.read_at(&mut buf, beyond)?, 0, "read beyond the end")?;
    }
    equal(reader.read_at(&mut [], 10)?, 0, "read of nothing")?;
    equal(reader.read_at(&mut buf, 4_990)?, 10, "read across the end")?;
    equal(&buf[..10], &data[4_990..], "its bytes")?;
    read_exact_at(&*reader, &mut buf, 1_234)?;
    equal(&buf[..], &data[1_234..1_334], "bytes in the middle")?;
    failure(
        read_exact_at(&*reader, &mut buf, 4_950),
        ErrorKind::DataLoss,
        "reading more than there is",
    )
    .map(drop)
}

pub(super) fn descriptor(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(5_000, 1);
    let digest = put(&*store, &data, &no_labels())?.digest;
    let reader = store.reader(&digest)?;
    let Some(first) = reader.as_fd()? else {
        return ensure(!store.capabilities().fd, || {
            "FD is claimed, and as_fd gives none".into()
        });
    };
    ensure(store.capabilities().fd, || {
        "as_fd gives a descriptor, and FD is not claimed".into()
    })?;
    let mut first = File::from(first);
    let mut found = Vec::new();
    first
        .read_to_end(&mut found)
        .map_err(|error| Error::io("read the descriptor", error))?;
    equal(found.len(), data.len(), "bytes of the descriptor")?;
    ensure(found == data, || "other bytes in the descriptor".into())?;
    let second = reader
        .as_fd()?
        .ok_or_else(|| Error::internal("the second as_fd gives none"))?;
    let mut second = File::from(second);
    let mut start = [0; 10];
    second
        .read_exact(&mut start)
        .map_err(|error| Error::io("read the second descriptor", error))?;
    equal(&start[..], &data[..10], "the second descriptor's start")?;
    let flags = rustix::io::fcntl_getfd(&second).map_err(|e| Error::io("fcntl", e))?;
    ensure(flags.contains(rustix::io::FdFlags::CLOEXEC), || {
        "the descriptor is not close-on-exec".into()
    })?;
    ensure(second.write(b"x").is_err(), || {
        "the descriptor is writable".into()
    })?;
    drop(reader);
    equal(second.read(&mut start).ok(), Some(10), "after the reader")
}

pub(super) fn labels(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let first = pairs(&[("a", "1"), ("b", "2"), ("empty", "")]);
    let info = put(&*store, b"data", &first)?;
    equal(&info.labels, &first, "labels from commit")?;
    equal(&store.info(&info.digest)?, &info, "info after commit")?;
    let steps = [
        (
            changes(&[("b", Some("3")), ("c", Some("4"))]),
            pairs(&[("a", "1"), ("b", "3"), ("c", "4"), ("empty", "")]),
        ),
        (
            changes(&[("a", None), ("unknown", None), ("empty", None)]),
            pairs(&[("b", "3"), ("c", "4")]),
        ),
        (
            LabelChanges {
                replace_all: true,
                ..changes(&[("d", Some("5"))])
            },
            pairs(&[("d", "5")]),
        ),
        (changes(&[("d", None)]), pairs(&[])),
    ];
    let mut updated = info.updated;
    for (change, want) in steps {
        let after = store.update(&info.digest, &change)?;
        equal(&after.labels, &want, "labels from update")?;
        equal(&store.info(&info.digest)?, &after, "info after update")?;
        equal(after.created, info.created, "created")?;
        ensure(after.updated >= updated, || "updated went back".into())?;
        updated = after.updated;
    }
    ensure(updated > info.updated, || "updated did not move".into())?;
    same(&*store, &info.digest, b"data")
}

pub(super) fn bad_labels(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let long = "v".repeat(5_000);
    let longest = "v".repeat(4_096);
    let bad = [("", "v"), ("k", long.as_str()), ("k\n", "v"), ("k", "\0")];
    let mut writer = store.writer(&name("labels")?, &any())?;
    writer.write(b"data")?;
    let kind = ErrorKind::InvalidArgument;
    for (key, value) in bad {
        failure(
            writer.commit(&any(), &pairs(&[(key, value)])),
            kind,
            "commit with a bad label",
        )?;
    }
    let kept = pairs(&[("k", &longest)]);
    let info = writer.commit(&any(), &kept)?;
    for (key, value) in bad {
        failure(
            store.update(&info.digest, &changes(&[(key, Some(value))])),
            kind,
            "update with a bad label",
        )?;
    }
    equal(store.info(&info.digest)?, info, "the blob afterwards")
}

pub(super) fn times(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let mut writer = store.writer(&name("times")?, &any())?;
    writer.write(b"data")?;
    std::thread::sleep(std::time::Duration::from_millis(20));
    let before = Timestamp::now();
    let info = writer.commit(&any(), &no_labels())?;
    let after = Timestamp::now();
    ensure(before <= info.created && info.created <= after, || {
        format!("created {}, want {before} to {after}", info.created)
    })?;
    equal(info.updated, info.created, "updated of a new blob")?;
    equal(&store.info(&info.digest)?, &info, "info")?;
    let before = Timestamp::now();
    let changed = store.update(&info.digest, &changes(&[("a", Some("1"))]))?;
    let after = Timestamp::now();
    equal(changed.created, info.created, "created after update")?;
    ensure(
        before <= changed.updated && changed.updated <= after,
        || format!("updated {}, want {before} to {after}", changed.updated),
    )
}

pub(super) fn delete(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(5_000, 1);
    let digest = put(&*store, &data, &pairs(&[("a", "1")]))?.digest;
    let reader = store.reader(&digest)?;
    store.delete(&digest)?;
    let kind = ErrorKind::NotFound;
    failure(store.info(&digest), kind, "info after delete")?;
    failure(store.reader(&digest), kind, "reader after delete")?;
    failure(store.delete(&digest), kind, "delete after delete")?;
    let all = store.walk(&BlobFilter::default(), &Page::default())?;
    equal(all.len(), 0, "blobs after delete")?;
    let mut found = vec![0; data.len()];
    read_exact_at(&*reader, &mut found, 0)?;
    ensure(found == data, || "an open reader reads other bytes".into())?;
    let info = put(&*store, &data, &no_labels())?;
    equal(info.labels, no_labels(), "labels of a blob made anew")
}

fn digests(
    store: &dyn ContentStore,
    filter: &BlobFilter,
    after: Option<String>,
    limit: u32,
) -> Result<Vec<Digest>> {
    let found = store.walk(filter, &Page { after, limit })?;
    for info in &found {
        equal(&store.info(&info.digest)?, info, "walk and info")?;
    }
    Ok(found.into_iter().map(|info| info.digest).collect())
}

pub(super) fn pages(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let mut all = Vec::new();
    for n in 0..20u8 {
        all.push(put(&*store, &[n], &no_labels())?.digest);
    }
    for n in 0..3u8 {
        let expected = Expected {
            size: None,
            digest: Some(Algorithm::Sha512.digest(&[n])),
        };
        let mut writer = store.writer(&name("long")?, &expected)?;
        writer.write(&[n])?;
        all.push(writer.commit(&any(), &no_labels())?.digest);
    }
    all.sort_by_key(ToString::to_string);
    let everything = BlobFilter::default();
    for limit in [1, 2, 7, 22, 23, 24, 1000, u32::MAX] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = digests(&*store, &everything, after, limit)?;
            ensure(page.len() as u64 <= u64::from(limit), || {
                format!("a page of {} for a limit of {limit}", page.len())
            })?;
            let full = page.len() as u64 == u64::from(limit);
            after = page.last().map(ToString::to_string);
            found.extend(page);
            if !full {
                break;
            }
        }
        equal(&found, &all, &format!("pages of {limit}"))?;
    }
    // Names that no blob has: between, before and after all.
    let between = format!("{}x", all[9]);
    let page = digests(&*store, &everything, Some(between), 2)?;
    equal(&page[..], &all[10..12], "after a name that is not there")?;
    let page = digests(&*store, &everything, Some("a".into()), 2)?;
    equal(&page[..], &all[..2], "after a name before all")?;
    let page = digests(&*store, &everything, Some("sha256;".into()), 9)?;
    equal(&page[..], &all[20..], "after all of one algorithm")?;
    let page = digests(&*store, &everything, Some("z".into()), 2)?;
    equal(page.len(), 0, "after a name after all")
}

pub(super) fn filters(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let mut want: Vec<(Digest, Labels)> = Vec::new();
    let sets: [&[(&str, &str)]; 5] = [
        &[],
        &[("a", "1")],
        &[("a", "2")],
        &[("a", "1"), ("b", "1")],
        &[("b", "2")],
    ];
    for n in 0..10u8 {
        let labels = pairs(sets[usize::from(n) % 5]);
        want.push((put(&*store, &[n], &labels)?.digest, labels));
    }
    want.sort_by_key(|(digest, _)| digest.to_string());
    let filters: [&[(&str, Option<&str>)]; 7] = [
        &[],
        &[("a", None)],
        &[("a", Some("1"))],
        &[("a", Some("1")), ("b", None)],
        &[("b", Some("2"))],
        &[("b", Some(""))],
        &[("c", None)],
    ];
    for filter in filters {
        let passes = |labels: &Labels| {
            filter.iter().all(|(key, value)| {
                labels
                    .get(*key)
                    .is_some_and(|found| value.is_none_or(|value| found == value))
            })
        };
        let expected: Vec<Digest> = want
            .iter()
            .filter(|(_, labels)| passes(labels))
            .map(|(digest, _)| digest.clone())
            .collect();
        let labels = filter
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)))
            .collect();
        let blob_filter = BlobFilter { labels };
        let found = digests(&*store, &blob_filter, None, 100)?;
        equal(&found, &expected, &format!("filter {filter:?}"))?;
        let first = digests(&*store, &blob_filter, None, 1)?;
        equal(
            first.first(),
            expected.first(),
            &format!("first of filter {filter:?}"),
        )?;
    }
    Ok(())
}

pub(super) fn capabilities(factory: &Store) -> Result<()> {
    let fixture = factory.fixture()?;
    let (first, second) = (fixture.open()?, fixture.open()?);
    let can = first.capabilities();
    put(&*first, b"data", &no_labels())?;
    equal(first.capabilities(), can, "capabilities after a commit")?;
    equal(
        second.capabilities(),
        can,
        "capabilities of another opening",
    )
}
