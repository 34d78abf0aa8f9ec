//! A repository of a registry, as source and as sink.

use std::io::Read;

use containerkit::document;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{Digest, Error, ErrorKind, Reference, Result};

use super::{Name, Sink, Source, Under, found};
use crate::client::Registry;
use crate::deadline::Deadline;
use crate::event::{How, Watcher};
use crate::fetch::Span;
use crate::http;
use crate::manifest::Manifest;
use crate::settings::Endpoint;
use crate::tree::Documents;
use crate::upload::Upload;

pub(super) struct Remote<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    endpoint: Endpoint,
}

impl<'a> Remote<'a> {
    pub(super) fn new(registry: &'a Registry, reference: &'a Reference) -> Result<Remote<'a>> {
        Ok(Remote {
            registry,
            reference,
            endpoint: registry.settings().registry(reference)?,
        })
    }
}

impl Documents for Remote<'_> {
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let found = self.registry.document(self.reference, descriptor)?;
        Ok(found.data)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.registry.blob(self.reference, descriptor)
    }
}

impl Source for Remote<'_> {
    fn find(&self, name: &Name) -> Result<Option<Manifest>> {
        match name {
            Name::Own => self.registry.manifest(self.reference).map(Some),
            Name::Tag(tag) => found(self.registry.manifest(&self.reference.with_tag(tag)?)),
        }
    }

    fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>> {
        self.registry.referrers(self.reference, digest, None)
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        let digest = document::digest_of(blob)?;
        Ok(Box::new(Resuming {
            registry: self.registry.clone(),
            reference: self.reference.clone(),
            digest,
            size: blob.size(),
            offset,
            data: None,
            deadline: self.registry.settings().deadline(&self.endpoint.domain),
            failures: 0,
        }))
    }

    fn home(&self, _digest: &Digest, domain: &str) -> Option<String> {
        (self.reference.domain() == domain).then(|| self.reference.path().to_string())
    }
}

impl Sink for Remote<'_> {
    fn blob(&self, blob: &Descriptor, source: &dyn Source, watch: Watcher<'_>) -> Result<How> {
        let digest = document::digest_of(blob)?;
        let from = source.home(&digest, self.reference.domain());
        Upload {
            registry: self.registry,
            endpoint: &self.endpoint,
            digest: &digest,
            size: blob.size(),
            from: from.as_deref(),
            deadline: self.registry.settings().deadline(&self.endpoint.domain),
            open: &|offset| source.open(blob, offset),
            watch,
        }
        .run()
    }

    fn document(&self, descriptor: &Descriptor, data: &[u8], under: Under<'_>) -> Result<()> {
        let digest = document::digest_of(descriptor)?;
        let reference = match under {
            Under::Tag(tag) => self.reference.with_tag(tag)?,
            _ if self.registry.has_manifest(&self.endpoint, &digest)? => return Ok(()),
            _ => self.reference.with_digest(digest.clone()),
        };
        let put = self
            .registry
            .put_manifest(&reference, descriptor.media_type().as_ref(), data)?;
        match document::digest_of(&put)? == digest {
            true => Ok(()),
            // The registry names tagged manifests by sha256; a target that has
            // another algorithm is put by its digest too.
            false => self
                .registry
                .put_manifest(
                    &self.reference.with_digest(digest),
                    descriptor.media_type().as_ref(),
                    data,
                )
                .map(drop),
        }
    }
}

/// A blob that is opened anew where its connection broke.
struct Resuming {
    registry: Registry,
    reference: Reference,
    digest: Digest,
    size: u64,
    offset: u64,
    data: Option<Box<dyn Read + Send>>,
    deadline: Deadline,
    failures: u32,
}

impl Resuming {
    fn open(&self) -> Result<Box<dyn Read + Send>> {
        let span = Span {
            start: self.offset,
            end: self.size,
            size: self.size,
        };
        self.registry.each(&self.reference, |endpoint| {
            let opened = self
                .registry
                .open_blob(endpoint, &self.digest, span, self.deadline)?;
            let mut data = opened.data;
            let skip = self.offset - opened.start;
            let skipped = std::io::copy(&mut (&mut data).take(skip), &mut std::io::sink());
            match skipped {
                Ok(skipped) if skipped == skip => Ok(data),
                Ok(_) => Err(Error::data_loss(format!(
                    "{}: the data ends before {}",
                    endpoint.origin, self.offset
                ))),
                Err(error) => Err(http::read_error(&endpoint.url("blobs"), error)),
            }
        })
    }

    fn attempt(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut data = match self.data.take() {
            Some(data) => data,
            None => self.open()?,
        };
        match data.read(buf) {
            Ok(0) if self.offset < self.size => Err(Error::new(
                ErrorKind::Unavailable,
                format!("the data ends at {} of {} bytes", self.offset, self.size),
            )),
            Ok(read) => {
                self.data = Some(data);
                Ok(read)
            }
            Err(error) => {
                Err(Error::new(ErrorKind::Unavailable, "the connection broke").with_source(error))
            }
        }
    }
}

impl Read for Resuming {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.offset == self.size && self.data.is_none() {
            return Ok(0);
        }
        loop {
            match self.attempt(buf) {
                Ok(read) => {
                    self.offset += read as u64;
                    if self.offset > self.size {
                        let error = Error::data_loss("the data goes on after its size");
                        return Err(std::io::Error::other(error));
                    }
                    return Ok(read);
                }
                Err(error) => {
                    self.deadline.check().map_err(std::io::Error::other)?;
                    self.failures += 1;
                    let http = &self.registry.0.http;
                    if !http::may_pass(&error) || self.failures >= http.retry.attempts {
                        return Err(std::io::Error::other(error));
                    }
                    http.pause(self.failures - 1, None)
                        .map_err(std::io::Error::other)?;
                }
            }
        }
    }
}
