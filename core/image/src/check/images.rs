//! From names to layers: what is missing, and what a descriptor says wrongly.

use std::collections::HashSet;

use containerkit::record::ImageRecord;
use containerkit::{ContentStore, Digest, Error, ErrorKind, Result};

use super::{Course, Finding, State, refetch};
use crate::PlatformChoice;
use crate::resolve::{self, Image};
use crate::unpack::scratch;

/// What is wrong with one manifest of an image.
enum Fault {
    /// It is not what it should be, or says what is not so.
    Damaged(String),
    /// Blobs are missing.
    Missing(String),
}

impl Course<'_> {
    pub(super) fn images(&mut self) -> Result<()> {
        let images = match &self.options.images {
            Some(images) => images.clone(),
            None => self.roots.images.clone(),
        };
        let mut read = HashSet::new();
        for record in images {
            self.options.cancel.check()?;
            self.checked.images += 1;
            let Some(place) = self
                .stores
                .contents
                .iter()
                .position(|store| store.stamp.instance == record.content)
            else {
                let why = format!("content store {} cannot be opened", record.content);
                let finding = Finding::new("image", &record.name, State::Unchecked, why);
                self.checked.findings.push(finding);
                continue;
            };
            let store = self.stores.contents[place].clone();
            match self.image(&*store.driver, &record, &mut read) {
                Ok(()) => {}
                Err(error) if of_the_image(&error) => {
                    let state = match error.kind() {
                        ErrorKind::NotFound => State::Incomplete,
                        _ => State::Damaged,
                    };
                    self.blame(&record, state, error.to_string());
                }
                Err(error) => return Err(error.context(format!("image {}", record.name))),
            }
        }
        Ok(())
    }

    fn image(
        &mut self,
        store: &dyn ContentStore,
        record: &ImageRecord,
        read: &mut HashSet<(Digest, Digest)>,
    ) -> Result<()> {
        let target = resolve::descriptor(record)?;
        let host = PlatformChoice::host();
        let manifests = resolve::manifests(store, &target)?;
        let best = manifests
            .iter()
            .filter_map(|(descriptor, offered)| Some((host.rank(offered)?, descriptor)))
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, descriptor)| descriptor.digest().clone());
        let (mut whole, mut faults) = (0, Vec::new());
        for (descriptor, offered) in &manifests {
            let fault = match resolve::image(store, descriptor) {
                Ok(image) => {
                    let fault = self.layers(store, &image, read)?;
                    self.resolved.push((record.clone(), image));
                    fault
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Some(Fault::Missing(error.to_string()))
                }
                Err(error) if of_the_image(&error) => Some(Fault::Damaged(error.to_string())),
                Err(error) => return Err(error),
            };
            match fault {
                None => whole += 1,
                Some(fault) => {
                    let ours = best.as_ref() == Some(descriptor.digest());
                    faults.push((ours, offered.to_string(), fault));
                }
            }
        }
        // Of other platforms parts may be missing, unless there is nothing else.
        let alone = whole == 0 && best.is_none();
        for (ours, platform, fault) in faults {
            match fault {
                Fault::Damaged(why) => {
                    self.blame(record, State::Damaged, format!("{platform}: {why}"));
                }
                Fault::Missing(why) if ours || alone => {
                    self.blame(record, State::Incomplete, format!("{platform}: {why}"));
                }
                Fault::Missing(why) => log::info!("image {}: {platform}: {why}", record.name),
            }
        }
        Ok(())
    }

    /// Config and layers of one manifest.
    fn layers(
        &self,
        store: &dyn ContentStore,
        image: &Image,
        read: &mut HashSet<(Digest, Digest)>,
    ) -> Result<Option<Fault>> {
        let mut missing = Vec::new();
        for layer in &image.layers {
            let info = match store.info(&layer.digest) {
                Ok(info) => info,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    missing.push(layer.digest.to_string());
                    continue;
                }
                // Told as a damaged blob.
                Err(error) if error.kind() == ErrorKind::DataLoss => continue,
                Err(error) => return Err(error),
            };
            if self.bad_blobs.contains(&layer.digest) {
                continue;
            }
            if info.size != layer.descriptor.size() {
                return Ok(Some(Fault::Damaged(format!(
                    "layer {} has {} bytes, the manifest says {}",
                    layer.digest,
                    info.size,
                    layer.descriptor.size()
                ))));
            }
            if !read.insert((layer.digest.clone(), layer.diff_id.clone())) {
                continue;
            }
            let options = self.options;
            match scratch::read(store, layer, &options.limits, &options.cancel) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    missing.push(layer.digest.to_string());
                }
                Err(error) => {
                    options.cancel.check()?;
                    let why = format!("layer {}: {error}", layer.digest);
                    return Ok(Some(Fault::Damaged(why)));
                }
            }
        }
        Ok(match missing.as_slice() {
            [] => None,
            [one] => Some(Fault::Missing(format!("layer {one} is missing"))),
            [first, ..] => Some(Fault::Missing(format!(
                "{} layers are missing, such as {first}",
                missing.len()
            ))),
        })
    }

    /// Tells of an image, unless its name is gone by now, and with it, rightly,
    /// its blobs.
    fn blame(&mut self, record: &ImageRecord, state: State, why: String) {
        let gone = match self.stores.records.image(&record.name) {
            Ok(now) => now.digest != record.digest,
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        if !gone {
            let finding = Finding::new("image", &record.name, state, why).mend(refetch(record));
            self.checked.findings.push(finding.of(&record.content));
        }
    }
}

/// Whether an error is about what is stored, and not about reaching it.
fn of_the_image(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::DataLoss
            | ErrorKind::FailedPrecondition
            | ErrorKind::InvalidArgument
            | ErrorKind::ResourceExhausted
            | ErrorKind::Unimplemented
    )
}
