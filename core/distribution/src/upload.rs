//! A blob to a registry: found there, mounted from another repository, sent
//! whole, or in chunks. A chunked upload is remembered in a file, so that a
//! later process can ask the registry how far it came and go on.

mod session;

use std::io::Read;
use std::time::{Duration, Instant};

use containerkit::oci_spec::image::Descriptor;
use containerkit::{Algorithm, Cancel, Digest, Error, ErrorKind, Reference, Result};
use ureq::http::Method;

use crate::client::{Access, Registry, refuse_downgrade};
use crate::deadline::Deadline;
use crate::event::{Event, How, Transfer, Watcher};
use crate::http::{self, Answer, Call};
use crate::manifest::describe;
use crate::origin::Url;
use crate::settings::Endpoint;
use session::Session;

/// Blobs up to this many bytes are sent whole.
const WHOLE: u64 = 16 << 20;
/// Bytes of a chunk, unless the registry wants larger ones.
const CHUNK: u64 = 16 << 20;

/// So many bytes make an attempt that failed worth another without counting.
const FORWARD: u64 = 256 << 10;

/// Opens the data from an offset, as often as it is asked to.
pub(crate) type Open<'a> = &'a (dyn Fn(u64) -> Result<Box<dyn Read + Send>> + Sync);

/// What goes where.
pub(crate) struct Upload<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
    /// A repository of the same registry that has the blob.
    pub(crate) from: Option<&'a str>,
    pub(crate) deadline: Deadline,
    pub(crate) open: Open<'a>,
    pub(crate) watch: Watcher<'a>,
}

impl Registry {
    /// Stores a small blob at the registry.
    pub fn put_blob(
        &self,
        reference: &Reference,
        media_type: &str,
        data: &[u8],
    ) -> Result<Descriptor> {
        let digest = Algorithm::Sha256.digest(data);
        let endpoint = self.settings().registry(reference)?;
        let owned = data.to_vec();
        let open = |offset: u64| -> Result<Box<dyn Read + Send>> {
            let rest = owned.get(offset as usize..).unwrap_or_default();
            Ok(Box::new(std::io::Cursor::new(rest.to_vec())))
        };
        Upload {
            registry: self,
            endpoint: &endpoint,
            digest: &digest,
            size: data.len() as u64,
            from: None,
            deadline: self.settings().deadline(&endpoint.domain),
            open: &open,
            watch: &|_| {},
        }
        .run()?;
        describe(media_type, &digest, data.len() as u64)
    }

    /// Whether the registry itself has a blob.
    pub(crate) fn has_blob(&self, endpoint: &Endpoint, digest: &Digest) -> Result<bool> {
        let url = endpoint.url(&format!("blobs/{digest}"));
        self.has(endpoint, &Call::new(Method::HEAD, url))
    }
}

/// Where an upload stands.
struct Place {
    location: Url,
    offset: u64,
    /// The registry's smallest chunk.
    chunk: u64,
}

/// What became of a step.
enum Step {
    Done,
    /// From here on; an upload that the registry forgot begins anew.
    Again(Option<Place>),
}

impl Upload<'_> {
    pub(crate) fn run(&self) -> Result<How> {
        let how = self.transfer()?;
        (self.watch)(Event::End {
            transfer: Transfer::Upload,
            digest: self.digest.clone(),
            how,
        });
        Ok(how)
    }

    fn transfer(&self) -> Result<How> {
        if self.registry.has_blob(self.endpoint, self.digest)? {
            return Ok(How::There);
        }
        let retry = &self.registry.0.http.retry;
        let folder = self.registry.settings().uploads.as_deref();
        let session = match folder.filter(|_| self.size > WHOLE) {
            Some(folder) => Session::take(folder, self.endpoint, self.digest)?,
            None => None,
        };
        let mut place = match Session::location_of(session.as_ref())? {
            Some(location) => self.status(&location)?,
            None => None,
        };
        let mut failures = 0;
        loop {
            let begun = match place.take() {
                Some(begun) => begun,
                None => match self.begin()? {
                    Some(begun) => begun,
                    None => return Ok(How::Mounted),
                },
            };
            let before = begun.offset;
            if let Some(session) = &session {
                session.keep(&begun.location)?;
            }
            let ended = match self.size > WHOLE {
                true => self.chunk(begun),
                false => self.whole(begun),
            };
            let (next, failure) = match ended {
                Ok(Step::Done) => {
                    if let Some(session) = session {
                        session.end();
                    }
                    return Ok(How::Moved);
                }
                Ok(Step::Again(next)) => (next, None),
                Err(error) if http::may_pass(&error) => {
                    self.deadline
                        .check()
                        .map_err(|late| late.with_source_text(error.to_string()))?;
                    let next = match Session::location_of(session.as_ref())? {
                        Some(location) => self.status(&location)?,
                        None => None,
                    };
                    (next, Some(error))
                }
                Err(error) => return Err(error),
            };
            let enough = (before + FORWARD).min(self.size);
            let forward = next.as_ref().is_some_and(|next| next.offset >= enough);
            if !forward {
                failures += 1;
                if failures >= retry.attempts {
                    return Err(failure.unwrap_or_else(|| {
                        Error::new(
                            ErrorKind::Unavailable,
                            format!(
                                "{}: the upload of {} gets no further",
                                self.endpoint.origin, self.digest
                            ),
                        )
                    }));
                }
                self.registry.0.http.pause(failures - 1, None)?;
            } else if failure.is_none() {
                failures = 0;
            }
            place = next;
        }
    }

    /// Begins an upload; `None` when the blob was mounted instead.
    fn begin(&self) -> Result<Option<Place>> {
        let mut url = self.endpoint.url("blobs/uploads/");
        let mut access = Access::Push;
        if let Some(from) = self.from.filter(|from| *from != self.endpoint.repository) {
            url = url
                .with_query("mount", &self.digest.to_string())
                .with_query("from", from);
            access = Access::Mount(from);
        }
        let mut answer = self.registry.ask(
            self.endpoint,
            access,
            &Call::new(Method::POST, url).bytes(b""),
        )?;
        if access != Access::Push && matches!(answer.status, 401 | 403 | 404) {
            // Not allowed to read the other one is no reason not to push.
            let call = Call::new(Method::POST, self.endpoint.url("blobs/uploads/")).bytes(b"");
            answer = self.registry.ask(self.endpoint, Access::Push, &call)?;
        }
        match answer.status {
            201 if access != Access::Push => Ok(None),
            202 => self.place(&answer, 0).map(Some),
            _ => Err(answer.error()),
        }
    }

    fn place(&self, answer: &Answer, offset: u64) -> Result<Place> {
        let location = answer.header("location").ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                format!("{}: the registry tells no place to upload to", answer.url),
            )
        })?;
        let location = answer.url.join(location)?;
        refuse_downgrade(&answer.url, &location)?;
        Ok(Place {
            location,
            offset,
            chunk: answer
                .number("oci-chunk-min-length")
                .unwrap_or(0)
                .min(1 << 30),
        })
    }

    /// How far an upload came; `None` when the registry knows it no more.
    fn status(&self, location: &Url) -> Result<Option<Place>> {
        let call = Call::get(location.clone());
        let answer = self.registry.ask(self.endpoint, Access::Push, &call)?;
        let held = held(&answer);
        match (answer.is_success(), held) {
            (true, Some(held)) if held <= self.size => {
                let mut place = match answer.header("location") {
                    Some(_) => self.place(&answer, held)?,
                    None => Place {
                        location: location.clone(),
                        offset: held,
                        chunk: 0,
                    },
                };
                place.offset = held;
                Ok(Some(place))
            }
            _ => Ok(None),
        }
    }

    fn data(&self, offset: u64) -> Result<Watched<'_>> {
        if offset < self.size || offset == 0 {
            (self.watch)(Event::Begin {
                transfer: Transfer::Upload,
                digest: self.digest.clone(),
                size: self.size,
                offset,
            });
        }
        Ok(Watched {
            data: (self.open)(offset)?,
            upload: self,
            cancel: &self.registry.0.http.cancel,
            bytes: offset,
            told: Instant::now(),
        })
    }

    fn whole(&self, place: Place) -> Result<Step> {
        let url = place
            .location
            .with_query("digest", &self.digest.to_string());
        let answer = self.send(Method::PUT, &url, 0, self.size, None)?;
        match answer.status {
            _ if answer.is_success() => Ok(Step::Done),
            status if http::status_may_pass(status) => self.wait(answer),
            _ => Err(answer.error()),
        }
    }

    /// The next chunk, or the end after the last.
    fn chunk(&self, place: Place) -> Result<Step> {
        if place.offset == self.size {
            let url = place
                .location
                .with_query("digest", &self.digest.to_string());
            let call = Call::new(Method::PUT, url).bytes(b"").blob(self.deadline);
            let answer = self.registry.ask(self.endpoint, Access::Push, &call)?;
            return match answer.is_success() {
                true => Ok(Step::Done),
                false => Err(answer.error()),
            };
        }
        let length = CHUNK.max(place.chunk).min(self.size - place.offset);
        let range = format!("{}-{}", place.offset, place.offset + length - 1);
        let answer = self.send(
            Method::PATCH,
            &place.location,
            place.offset,
            length,
            Some(range),
        )?;
        match answer.status {
            202 | 201 | 204 => {
                containerkit::step("upload.chunk-sent");
                let end = held(&answer).unwrap_or(place.offset + length);
                if end > self.size || end < place.offset {
                    return Ok(Step::Again(None));
                }
                let mut next = self.place(&answer, end)?;
                next.chunk = place.chunk;
                Ok(Step::Again(Some(next)))
            }
            // Somebody is at another place than we thought.
            404 | 409 | 416 => Ok(Step::Again(self.status(&place.location)?)),
            status if http::status_may_pass(status) => {
                let location = place.location;
                self.wait(answer)?;
                Ok(Step::Again(self.status(&location)?))
            }
            _ => Err(answer.error()),
        }
    }

    fn wait(&self, answer: Answer) -> Result<Step> {
        if let Some(asked) = http::retry_after(&answer) {
            self.registry.0.http.pause(0, Some(asked))?;
        }
        log::info!("{}, trying again", answer.error());
        Ok(Step::Again(None))
    }

    fn send(
        &self,
        method: Method,
        url: &Url,
        offset: u64,
        length: u64,
        range: Option<String>,
    ) -> Result<Answer> {
        let once = || {
            let mut call = Call::new(method.clone(), url.clone())
                .header("content-type", "application/octet-stream")
                .blob(self.deadline);
            if let Some(range) = &range {
                call = call.header("content-range", range.clone());
            }
            let mut data = self.data(offset)?.take(length);
            self.registry
                .send(self.endpoint, Access::Push, call, &mut data, length)
        };
        let answer = once()?;
        if answer.status == 401
            && url.origin == self.endpoint.origin
            && self
                .registry
                .authorize_again(self.endpoint, Access::Push, &answer)?
        {
            return once();
        }
        Ok(answer)
    }
}

/// The bytes that `Range: 0-N` says are held. `0-0` is how none is told.
fn held(answer: &Answer) -> Option<u64> {
    let text = answer.header("range")?;
    let (start, end) = text
        .strip_prefix("bytes=")
        .unwrap_or(text)
        .split_once('-')?;
    let end: u64 = end.parse().ok()?;
    match (start, end) {
        ("0", 0) => Some(0),
        ("0", end) => end.checked_add(1),
        _ => None,
    }
}

/// Data on its way out.
struct Watched<'a> {
    data: Box<dyn Read + Send>,
    upload: &'a Upload<'a>,
    cancel: &'a Cancel,
    bytes: u64,
    told: Instant,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.cancel.check().map_err(std::io::Error::other)?;
        let read = self.data.read(buf)?;
        self.bytes += read as u64;
        if self.told.elapsed() >= Duration::from_millis(100) {
            self.told = Instant::now();
            (self.upload.watch)(Event::Progress {
                digest: self.upload.digest.clone(),
                bytes: self.bytes,
            });
        }
        Ok(read)
    }
}
