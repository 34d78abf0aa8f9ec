//! Cases of several writers, handles and refs.

use std::sync::Barrier;

use containerkit::content::BlobFilter;
use containerkit::{Algorithm, ErrorKind, IngestRef, Page, Result};

use super::*;
use crate::ensure;

type Store = dyn Factory;

pub(super) fn held(factory: &Store) -> Result<()> {
    let fixture = factory.fixture()?;
    let (first, second) = (fixture.open()?, fixture.open()?);
    let name = name("held")?;
    let mut writer = first.writer(&name, &any())?;
    let check = |step: &str| -> Result<()> {
        for store in [&first, &second] {
            let error = failure(
                store.writer(&name, &any()),
                ErrorKind::Conflict,
                &format!("a second writer {step}"),
            )?;
            let holder = store.status(&name)?.holder;
            let text = error.to_string();
            ensure(
                text.contains("held") && holder.is_some_and(|pid| text.contains(&pid.to_string())),
                || format!("the error does not name ref and holder {holder:?}: {text}"),
            )?;
        }
        Ok(())
    };
    check("at once")?;
    writer.write(b"data")?;
    check("after a write")?;
    failure(
        writer.commit(&exactly(b"other"), &no_labels()),
        ErrorKind::FailedPrecondition,
        "commit as something else",
    )?;
    check("after a failed commit")?;
    writer.truncate(2)?;
    check("after truncate")?;
    drop(writer);
    let mut writer = second.writer(&name, &any())?;
    equal(offset(&*writer)?, 2, "offset for the next holder")?;
    writer.commit(&any(), &no_labels())?;
    drop(first.writer(&name, &any())?);
    Ok(())
}

pub(super) fn abort(factory: &Store) -> Result<()> {
    let fixture = factory.fixture()?;
    let (first, second) = (fixture.open()?, fixture.open()?);
    let name = name("abort")?;
    let mut writer = first.writer(&name, &exactly(b"data"))?;
    writer.write(b"da")?;
    for store in [&first, &second] {
        failure(store.abort(&name), ErrorKind::Conflict, "abort while held")?;
    }
    writer.write(b"t")?;
    drop(writer);
    second.abort(&name)?;
    failure(first.abort(&name), ErrorKind::NotFound, "abort twice")?;
    failure(first.status(&name), ErrorKind::NotFound, "status")?;
    equal(first.list_statuses()?.len(), 0, "ingests")?;
    let writer = first.writer(&name, &any())?;
    let status = writer.status()?;
    equal(status.offset, 0, "offset of the next ingest")?;
    equal(status.total, None, "total of the next ingest")?;
    equal(status.expected, None, "expected of the next ingest")
}

pub(super) fn list(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let mut names: Vec<IngestRef> = Vec::new();
    for text in ["b", "a/z", "a", "c:1", "B"] {
        names.push(name(text)?);
    }
    let mut held = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let mut writer = store.writer(name, &any())?;
        writer.write(&vec![0; n])?;
        if n % 2 == 0 {
            held.push((name.clone(), writer));
        }
    }
    let listed = store.list_statuses()?;
    let mut sorted = names.clone();
    sorted.sort();
    let found: Vec<IngestRef> = listed.iter().map(|status| status.name.clone()).collect();
    equal(found, sorted, "refs")?;
    for status in &listed {
        let n = names.iter().position(|name| *name == status.name);
        equal(Some(status.offset as usize), n, "offset")?;
        let is_held = held.iter().any(|(name, _)| *name == status.name);
        equal(status.holder.is_some(), is_held, "holder")?;
        equal(&store.status(&status.name)?, status, "list and status")?;
    }
    Ok(())
}

pub(super) fn refs(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let long = "x".repeat(254);
    let texts = [
        "a".to_owned(),
        "A".to_owned(),
        "a/b".to_owned(),
        "a:b".to_owned(),
        "a-b".to_owned(),
        "a..b".to_owned(),
        ".a".to_owned(),
        "a/b/c/d/e/f/g".to_owned(),
        "data".to_owned(),
        "lock".to_owned(),
        "sha256:x@y+z=".to_owned(),
        format!("{long}1"),
        format!("{long}2"),
    ];
    let mut writers = Vec::new();
    for text in &texts {
        let mut writer = store.writer(&name(text)?, &any())?;
        writer.write(text.as_bytes())?;
        writers.push(writer);
    }
    equal(store.list_statuses()?.len(), texts.len(), "ingests")?;
    for (text, writer) in texts.iter().zip(&mut writers) {
        let info = writer.commit(&exactly(text.as_bytes()), &no_labels())?;
        same(&*store, &info.digest, text.as_bytes())?;
    }
    Ok(())
}

pub(super) fn reopen(factory: &Store) -> Result<()> {
    let fixture = factory.fixture()?;
    let store = fixture.open()?;
    let data = noise(1_000, 1);
    let labels = [("a".to_owned(), "1".to_owned())].into();
    let info = put(&*store, &data, &labels)?;
    let name = name("open")?;
    let mut writer = store.writer(&name, &exactly(b"data"))?;
    writer.write(b"da")?;
    drop(writer);
    let status = store.status(&name)?;
    drop(store);
    let store = fixture.open()?;
    equal(&store.info(&info.digest)?, &info, "info")?;
    let all = store.walk(&BlobFilter::default(), &Page::default())?;
    equal(all, vec![info.clone()], "walk")?;
    equal(store.list_statuses()?, vec![status], "ingests")?;
    same(&*store, &info.digest, &data)
}

pub(super) fn commit_race(factory: &Store) -> Result<()> {
    const WRITERS: usize = 8;
    let fixture = factory.fixture()?;
    let data = noise(100_000, 1);
    let digest = Algorithm::Sha256.digest(&data);
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let mut writer = fixture
            .open()?
            .writer(&name(&format!("race-{n}"))?, &any())?;
        writer.write(&data)?;
        writers.push(writer);
    }
    let barrier = Barrier::new(WRITERS);
    let results: Vec<Result<BlobInfo>> = std::thread::scope(|scope| {
        let threads: Vec<_> = writers
            .into_iter()
            .enumerate()
            .map(|(n, mut writer)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    writer.commit(&any(), &[("n".to_owned(), n.to_string())].into())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::internal("commit panicked")))
            })
            .collect()
    });
    let mut winners = Vec::new();
    for result in results {
        match result {
            Ok(info) => winners.push(info),
            Err(error) => {
                failure::<()>(Err(error), ErrorKind::AlreadyExists, "a commit that lost")?;
            }
        }
    }
    equal(winners.len(), 1, "winners")?;
    let store = fixture.open()?;
    equal(store.info(&digest)?, winners.remove(0), "the winner's blob")?;
    equal(store.list_statuses()?.len(), 0, "ingests")?;
    same(&*store, &digest, &data)
}

pub(super) fn writer_race(factory: &Store) -> Result<()> {
    const WRITERS: usize = 8;
    let fixture = factory.fixture()?;
    let mut stores = Vec::new();
    for _ in 0..WRITERS {
        stores.push(fixture.open()?);
    }
    let name = name("race")?;
    for round in 0..5 {
        let barrier = Barrier::new(WRITERS);
        let results: Vec<Result<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = stores
                .iter()
                .map(|store| {
                    let (barrier, name) = (&barrier, &name);
                    scope.spawn(move || {
                        barrier.wait();
                        let result = store.writer(name, &any());
                        barrier.wait();
                        result
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err(Error::internal("writer panicked")))
                })
                .collect()
        });
        let mut holders = Vec::new();
        for result in results {
            match result {
                Ok(writer) => holders.push(writer),
                Err(error) => {
                    failure::<()>(Err(error), ErrorKind::Conflict, "a writer that lost")?;
                }
            }
        }
        equal(holders.len(), 1, "holders")?;
        if round % 2 == 0 {
            drop(holders);
            stores[0].abort(&name)?;
        } else {
            holders[0].write(&[round])?;
            holders[0].commit(&any(), &no_labels())?;
        }
    }
    Ok(())
}

pub(super) fn side_by_side(factory: &Store) -> Result<()> {
    const ROUNDS: u8 = 5;
    let fixture = factory.fixture()?;
    let store = fixture.open()?;
    let work = |thread: u8| -> Result<()> {
        for round in 0..ROUNDS {
            let data = noise(20_000, u64::from(thread) * 100 + u64::from(round));
            let digest = Algorithm::Sha256.digest(&data);
            let mut writer = store.writer(&name(&format!("side-{thread}"))?, &any())?;
            writer.write(&data[..7])?;
            writer.write(&data[7..])?;
            writer.commit(&exactly(&data), &no_labels())?;
            same(&*store, &digest, &data)?;
            let changes = containerkit::LabelChanges {
                set: [("thread".to_owned(), Some(thread.to_string()))].into(),
                ..Default::default()
            };
            store.update(&digest, &changes)?;
            store.list_statuses()?;
            store.walk(&BlobFilter::default(), &Page::default())?;
            if round % 2 == 0 {
                store.delete(&digest)?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::internal("panicked")))
        })
    })?;
    let all = store.walk(&BlobFilter::default(), &Page::default())?;
    equal(all.len(), 4 * usize::from(ROUNDS / 2), "blobs afterwards")?;
    ensure(all.iter().all(|info| info.labels.len() == 1), || {
        format!("labels are lost: {all:?}")
    })?;
    equal(store.list_statuses()?.len(), 0, "ingests afterwards")
}

pub(super) fn guest(factory: &Store) -> Result<()> {
    let store = fresh(factory)?;
    let data = noise(5_000, 1);
    crate::guest::behaves(|number| {
        let name = name(&format!("guest-{number}"))?;
        let mut writer = store.writer(&name, &any())?;
        writer.write(&data[..100])?;
        drop(writer);
        let mut writer = store.writer(&name, &any())?;
        writer.write(&data[100..])?;
        let info = writer.commit(&any(), &no_labels())?;
        same(&*store, &info.digest, &data)?;
        drop(store.reader(&info.digest)?.as_fd()?);
        store.delete(&info.digest)
    })
}
