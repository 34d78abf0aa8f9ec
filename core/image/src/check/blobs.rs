//! Every blob is hashed again, as many at a time as there are cores.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use containerkit::content::{BlobFilter, BlobStream, ContentStore, Expected, ingest};
use containerkit::value::all_pages;
use containerkit::{Digest, Error, ErrorKind, InstanceName, Labels, Opened, Result};

use super::{Course, Finding, Repair, State};
use crate::document::stored_digest;
use crate::gc;

impl Course<'_> {
    pub(super) fn blobs(&mut self) -> Result<()> {
        let only = self.wanted()?;
        for store in &self.stores.contents {
            let found = all_pages(
                |page| store.walk(&BlobFilter::default(), page),
                |info| info.digest.to_string(),
            )?;
            let digests: Vec<Digest> = found
                .into_iter()
                .map(|info| info.digest)
                .filter(|digest| only.as_ref().is_none_or(|only| only.contains(digest)))
                .collect();
            self.checked.blobs += digests.len();
            for (digest, why) in self.hash(&*store.driver, &digests)? {
                self.bad_blobs.insert(digest.clone());
                let finding = self.bad_blob(store, &digest, why)?;
                self.checked.findings.push(finding);
            }
        }
        Ok(())
    }

    /// The blobs of the images that are checked; `None` for all.
    fn wanted(&self) -> Result<Option<BTreeSet<Digest>>> {
        let Some(images) = &self.options.images else {
            return Ok(None);
        };
        let mut wanted = BTreeSet::new();
        for image in images {
            wanted.extend(gc::named_by(self.stores, &image.digest)?);
        }
        Ok(Some(wanted))
    }

    /// The damaged ones, and why they are that.
    fn hash(
        &self,
        store: &dyn ContentStore,
        digests: &[Digest],
    ) -> Result<BTreeMap<Digest, String>> {
        let next = AtomicUsize::new(0);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let work = || -> Result<Vec<(Digest, String)>> {
            let mut bad = Vec::new();
            while let Some(digest) = digests.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.options.cancel.check()?;
                if let Some(why) = damage(store, digest)? {
                    bad.push((digest.clone(), why));
                }
            }
            Ok(bad)
        };
        let mut bad = BTreeMap::new();
        std::thread::scope(|scope| {
            let started: Vec<_> = (0..workers.min(digests.len()))
                .map(|_| scope.spawn(work))
                .collect();
            for thread in started {
                let found = thread
                    .join()
                    .map_err(|_| Error::internal("a defect while a blob was hashed"))?;
                bad.extend(found?);
            }
            Ok(bad)
        })
    }

    fn bad_blob(
        &self,
        store: &Opened<dyn ContentStore>,
        digest: &Digest,
        why: String,
    ) -> Result<Finding> {
        let instance = &store.stamp.instance;
        let mut finding = Finding::new("blob", digest, State::Damaged, why).of(instance);
        if self.options.repair == Repair::No {
            finding.mend = Some("`containerkit check --repair` drops or replaces it".into());
            return Ok(finding);
        }
        let labels = store.info(digest).map(|info| info.labels);
        for other in &self.stores.contents {
            if other.stamp.instance == *instance {
                continue;
            }
            let whole = stored_digest(&*other.driver, digest).is_ok_and(|found| found == *digest);
            if whole && replace(&*store.driver, &*other.driver, digest, labels.clone()?).is_ok() {
                let from: &InstanceName = &other.stamp.instance;
                finding.repaired = Some(format!("replaced by the copy in content store {from}"));
                return Ok(finding);
            }
        }
        match store.delete(digest) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                finding.mend = Some(format!("it could not be dropped: {error}"));
            }
            _ => finding.repaired = Some("dropped".into()),
        }
        Ok(finding)
    }
}

/// Why a blob is not what its digest says; `None` for a good one, and for one
/// that is gone by now.
fn damage(store: &dyn ContentStore, digest: &Digest) -> Result<Option<String>> {
    match stored_digest(store, digest) {
        Ok(found) if found == *digest => Ok(None),
        Ok(found) => Ok(Some(format!("its bytes have the digest {found}"))),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(None),
            // What the disk does not give is damage too.
            ErrorKind::DataLoss | ErrorKind::Unavailable => Ok(Some(error.to_string())),
            _ => Err(error),
        },
    }
}

fn replace(
    store: &dyn ContentStore,
    other: &dyn ContentStore,
    digest: &Digest,
    labels: Labels,
) -> Result<()> {
    let reader = other.reader(digest)?;
    let expected = Expected {
        size: Some(reader.size()),
        digest: Some(digest.clone()),
    };
    let name = format!("repair-{}-{}", digest.algorithm(), digest.hex()).parse()?;
    store.delete(digest)?;
    ingest(
        store,
        &name,
        &expected,
        &labels,
        &mut BlobStream::new(reader),
    )
    .map(drop)
}
