//! A registry made of a closure: it says what a test wants it to say.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerkit::content::ContentStore;
use containerkit::oci_spec::image::Descriptor;
use containerkit::{
    Algorithm, Digest, Driver, DriverContext, Error, PlatformChoice, Reference, Result,
};
use containerkit_distribution::{
    Platforms, PullOptions, Registry, RegistrySettings, Retry, Settings, accept, pull,
};
use containerkit_local::Local;
use serde_json::{Value, json};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// Whether the whole body came.
    pub whole: bool,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// `bytes=START-END` of a Range.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (start, end) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((start.parse().ok()?, end.parse().ok()?))
    }
}

/// What is answered.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

/// How the body comes.
pub enum Body {
    Whole(Vec<u8>),
    /// This much of the announced length, then the connection ends.
    Cut(Vec<u8>, usize),
    /// Without a length, until the connection ends.
    Unsized(Vec<u8>),
    /// Zeros, for as long as somebody reads.
    Endless,
    /// Nothing, for as long as the test runs.
    Silent,
    /// A little of the announced length at a time, for as long as the test runs.
    Slow(usize),
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: Body::Whole(Vec::new()),
        }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Reply {
        Reply::new(200).body(Body::Whole(body.into()))
    }

    pub fn body(mut self, body: Body) -> Reply {
        self.body = body;
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn part(data: &[u8], start: usize, end: usize) -> Reply {
        Reply::new(206)
            .header(
                "content-range",
                format!("bytes {start}-{end}/{}", data.len()),
            )
            .body(Body::Whole(data[start..=end].to_vec()))
    }
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A server on a port of its own, until it is dropped.
pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    end: Arc<AtomicBool>,
}

impl Server {
    pub fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        Server::on("127.0.0.1", handler)
    }

    pub fn on(host: &str, handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = format!("{host}:{}", listener.local_addr().unwrap().port());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, stop) = (Arc::clone(&asked), Arc::clone(&end));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, log, stop) =
                    (Arc::clone(&handler), Arc::clone(&log), Arc::clone(&stop));
                std::thread::spawn(move || serve(stream.unwrap(), &*handler, &log, &stop));
            }
        });
        Server {
            address,
            asked,
            end,
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.method == method && asked.path.contains(part))
            .count()
    }

    pub fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(&self.address);
    }
}

fn serve(stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Asked>>, stop: &AtomicBool) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_string();
        let path = words.next().unwrap_or_default().to_string();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.to_string());
        }
        let length: usize = headers
            .get("content-length")
            .map_or(0, |text| text.parse().unwrap());
        let mut body = Vec::new();
        let _ = (&mut reader).take(length as u64).read_to_end(&mut body);
        let asked = Asked {
            method,
            path,
            headers,
            whole: body.len() == length,
            body,
        };
        log.lock().unwrap().push(asked.clone());
        let reply = handler(&asked);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let (data, length) = match &reply.body {
            Body::Whole(data) => (&data[..], Some(data.len())),
            Body::Cut(data, length) => (&data[..], Some(*length)),
            Body::Unsized(data) => (&data[..], None),
            Body::Slow(length) => (&[][..], Some(*length)),
            Body::Endless | Body::Silent => (&[][..], None),
        };
        match length {
            Some(length) => head.push_str(&format!("content-length: {length}\r\n\r\n")),
            None => head.push_str("connection: close\r\n\r\n"),
        }
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        if asked.method != "HEAD" && stream.write_all(data).is_err() {
            return;
        }
        match reply.body {
            Body::Whole(_) => {}
            Body::Cut(..) | Body::Unsized(_) => {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            Body::Endless => {
                while stream.write_all(&[0; 1 << 16]).is_ok() {}
                return;
            }
            Body::Slow(_) => {
                while !stop.load(Ordering::Relaxed) && stream.write_all(&[0; 4096]).is_ok() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return;
            }
            Body::Silent => {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return;
            }
        }
    }
}

/// Blobs and manifests that an honest registry serves.
#[derive(Clone, Default)]
pub struct Content {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
}

pub fn digest(data: &[u8]) -> Digest {
    Algorithm::Sha256.digest(data)
}

/// Bytes that are not all the same, and not compressible into nothing.
pub fn noise(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

impl Content {
    pub fn blob(&mut self, data: &[u8], media_type: &str) -> Value {
        let digest = digest(data);
        self.blobs.insert(digest.to_string(), data.to_vec());
        json!({ "mediaType": media_type, "digest": digest, "size": data.len() })
    }

    /// Under its digest; `tag` too if there is one.
    pub fn document(&mut self, value: &Value, media_type: &str, tag: Option<&str>) -> Value {
        let data = value.to_string().into_bytes();
        let digest = digest(&data).to_string();
        let entry = (media_type.to_string(), data.clone());
        self.manifests.insert(digest.clone(), entry.clone());
        if let Some(tag) = tag {
            self.manifests.insert(tag.into(), entry);
        }
        json!({ "mediaType": media_type, "digest": digest, "size": data.len() })
    }

    /// An image of these layers, tagged.
    pub fn image(&mut self, layers: &[&[u8]], architecture: &str, tag: Option<&str>) -> Value {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob(config.to_string().as_bytes(), CONFIG);
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(layer, LAYER)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        self.document(&manifest, MANIFEST, tag)
    }

    /// What an honest registry says.
    pub fn serve(&self, asked: &Asked) -> Reply {
        let name = asked.path.rsplit('/').next().unwrap_or_default();
        if asked.path.contains("/manifests/") {
            return match self.manifests.get(name) {
                Some((media_type, data)) => Reply::ok(data.clone())
                    .header("content-type", media_type.clone())
                    .header("docker-content-digest", digest(data).to_string()),
                None => Reply::new(404),
            };
        }
        match (self.blobs.get(name), asked.range()) {
            (Some(data), Some((start, end))) => Reply::part(data, start, end),
            (Some(data), None) => Reply::ok(data.clone()),
            (None, _) => Reply::new(404),
        }
    }
}

/// Settings that speak plainly to these servers and lose no time.
pub fn settings(servers: &[&Server]) -> Settings {
    Settings {
        plain_http: servers
            .iter()
            .map(|server| server.address.clone())
            .collect(),
        registries: servers
            .iter()
            .map(|server| {
                let registry = RegistrySettings {
                    plain_http: true,
                    idle_timeout: Duration::from_secs(20),
                    ..RegistrySettings::default()
                };
                (server.address.clone(), registry)
            })
            .collect(),
        retry: Retry {
            attempts: 4,
            pause: Duration::from_millis(1),
            longest: Duration::from_secs(5),
        },
        ..Settings::default()
    }
}

/// A content store in a private folder.
pub struct Store {
    pub dir: tempfile::TempDir,
}

impl Store {
    pub fn new() -> Store {
        Store {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// As another process would open it.
    pub fn open(&self) -> Arc<dyn ContentStore> {
        let name = "local".parse().unwrap();
        let context = DriverContext::new(name, self.dir.path(), self.dir.path());
        Arc::new(Local::open(context).unwrap())
    }

    pub fn pull(&self, settings: Settings, reference: &Reference) -> Result<Descriptor> {
        self.pull_for(settings, reference, Platforms::One(PlatformChoice::host()))
    }

    pub fn pull_for(
        &self,
        settings: Settings,
        reference: &Reference,
        platforms: Platforms,
    ) -> Result<Descriptor> {
        let options = PullOptions {
            platforms,
            check: &accept,
            hold: &|_| Ok(()),
            progress: &|_| {},
        };
        let registry = Registry::new(settings);
        pull(&registry, &self.open(), reference, &options, |_, _| Ok(())).map(|(target, ())| target)
    }

    pub fn has(&self, data: &[u8]) -> bool {
        containerkit::content::read_blob(&*self.open(), &digest(data), 1 << 30)
            .is_ok_and(|found| found == data)
    }

    pub fn ingests(&self) -> usize {
        self.open().list_statuses().unwrap().len()
    }
}

/// Panics unless an error is one clean line that says this.
#[track_caller]
pub fn says(error: &Error, words: &[&str]) {
    let text = format!("{error} {}", error.hint().unwrap_or_default());
    assert!(!text.chars().any(char::is_control), "{text:?}");
    for word in words {
        assert!(text.contains(word), "{word:?} in {text:?}");
    }
}
