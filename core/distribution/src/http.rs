//! One HTTP exchange: limits, timeouts, retries, and no more redirects than
//! asked for.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use containerkit::{Cancel, Error, ErrorKind, Result, fs, quote};
use ureq::http::{HeaderMap, Method, Request, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, SendBody};

use crate::deadline::Deadline;
use crate::origin::{Scheme, Url};
use crate::settings::{Endpoint, Retry};

/// What a whole document may take to come.
const DOCUMENT_TIME: Duration = Duration::from_secs(120);
/// How often it is looked whether the end is asked for.
const TICK: Duration = Duration::from_millis(50);
/// What is read of an answer that tells an error.
const ERROR_BODY: u64 = 16 << 10;
const ERROR_TIME: Duration = Duration::from_secs(5);

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
}

/// How long the answer may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A document: all of it within two minutes.
    Document,
    /// A blob: whoever reads it watches its pace, until then.
    Blob(Deadline),
}

pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) payload: Payload<'a>,
    pub(crate) extent: Extent,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, url: Url) -> Call<'a> {
        Call {
            method,
            url,
            headers: Vec::new(),
            payload: Payload::None,
            extent: Extent::Document,
        }
    }

    pub(crate) fn get(url: Url) -> Call<'a> {
        Call::new(Method::GET, url)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Call<'a> {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn bytes(mut self, data: &'a [u8]) -> Call<'a> {
        self.payload = Payload::Bytes(data);
        self
    }

    pub(crate) fn blob(mut self, deadline: Deadline) -> Call<'a> {
        self.extent = Extent::Blob(deadline);
        self
    }
}

/// An answer whose body is not read yet.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HeaderMap,
    body: ureq::Body,
    pub(crate) url: Url,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.filter_map(|value| value.to_str().ok()).collect()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as it comes.
    pub(crate) fn into_reader(self) -> impl Read + Send + 'static {
        self.body.into_reader()
    }

    /// The body, at most `limit` bytes of it.
    pub(crate) fn small(self, limit: u64) -> Result<Vec<u8>> {
        let url = self.url.clone();
        let mut data = Vec::new();
        self.into_reader()
            .take(limit + 1)
            .read_to_end(&mut data)
            .map_err(|error| read_error(&url, error))?;
        if data.len() as u64 > limit {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("{url}: the answer has more than the {limit} bytes allowed"),
            ));
        }
        Ok(data)
    }

    /// The error that this answer tells.
    pub(crate) fn error(self) -> Error {
        let (status, url) = (self.status, self.url.clone());
        let kind = match status {
            401 | 403 => ErrorKind::PermissionDenied,
            404 => ErrorKind::NotFound,
            429 => ErrorKind::ResourceExhausted,
            400 | 405 | 413 | 416 => ErrorKind::FailedPrecondition,
            _ => ErrorKind::Unavailable,
        };
        let body = {
            let mut data = Vec::new();
            let mut body = self.into_reader().take(ERROR_BODY);
            let (begun, mut piece) = (Instant::now(), [0; 4096]);
            // A complaint that trickles is not waited for.
            while begun.elapsed() < ERROR_TIME {
                match body.read(&mut piece) {
                    Ok(read) if read > 0 => data.extend_from_slice(&piece[..read]),
                    _ => break,
                }
            }
            data
        };
        let told = told(&body).map_or(String::new(), |text| format!(": {text}"));
        let error = Error::new(kind, format!("{url} answers with status {status}{told}"));
        match status {
            401 => error.with_hint(format!(
                "give --creds USER:PASS, or log in with `containerkit login {}`",
                url.origin.authority()
            )),
            _ => error,
        }
    }
}

/// What an error body of the distribution spec says, harmless on a terminal.
fn told(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Told {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let told: Told = serde_json::from_slice(body).ok()?;
    let one = told.errors.into_iter().next()?;
    Some(quote(format!("{} {}", one.code, one.message).trim()))
}

/// An error while a body was read.
pub(crate) fn read_error(url: &Url, error: std::io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let timed_out = matches!(inner, Some(ureq::Error::Timeout(_)))
        || error.kind() == std::io::ErrorKind::TimedOut;
    Error::new(
        match timed_out {
            true => ErrorKind::Timeout,
            false => ErrorKind::Unavailable,
        },
        format!("read {url}"),
    )
    .with_source_text(plain(&error.to_string()))
}

/// Text of a library that may quote a server.
fn plain(text: &str) -> String {
    text.chars()
        .take(300)
        .flat_map(|c| match c.is_control() {
            true => c.escape_debug().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}

/// What the connections to a place are made with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Manner {
    pub(crate) scheme: Scheme,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) idle: Duration,
}

type Agents = Mutex<HashMap<Manner, Agent>>;

/// Connections, kept alive and shared by all threads.
pub(crate) struct Http {
    agents: Arc<Agents>,
    pub(crate) retry: Retry,
    pub(crate) cancel: Cancel,
}

impl Http {
    pub(crate) fn new(retry: Retry, cancel: Cancel) -> Http {
        Http {
            agents: Arc::default(),
            retry,
            cancel,
        }
    }

    fn agent(&self, manner: &Manner) -> Result<Agent> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(manner) {
            return Ok(agent.clone());
        }
        let agent = agent(manner)?;
        if agents.is_empty() {
            self.watch()?;
        }
        agents.insert(manner.clone(), agent.clone());
        Ok(agent)
    }

    /// Closes every connection when the end is asked for: whoever waits for a
    /// silent server would wait until its time is out.
    fn watch(&self) -> Result<()> {
        let (agents, cancel) = (Arc::downgrade(&self.agents), self.cancel.clone());
        let watch = move || {
            while let Some(agents) = agents.upgrade() {
                if cancel.check().is_err() {
                    let agents = agents.lock().unwrap_or_else(PoisonError::into_inner);
                    agents.values().cloned().for_each(Agent::shutdown);
                    return;
                }
                drop(agents);
                std::thread::sleep(TICK);
            }
        };
        std::thread::Builder::new()
            .name("cancel".into())
            .spawn(watch)
            .map(drop)
            .map_err(|error| Error::io("start a thread", error))
    }

    /// One exchange, not repeated.
    pub(crate) fn once(&self, manner: &Manner, call: &Call<'_>) -> Result<Answer> {
        match call.payload {
            Payload::None => self.exchange(manner, call, SendBody::none(), None),
            Payload::Bytes(mut data) => {
                let size = data.len() as u64;
                self.exchange(manner, call, SendBody::from_reader(&mut data), Some(size))
            }
        }
    }

    /// One exchange that sends a stream of a known size.
    pub(crate) fn stream(
        &self,
        manner: &Manner,
        call: &Call<'_>,
        mut data: &mut dyn Read,
        size: u64,
    ) -> Result<Answer> {
        self.exchange(manner, call, SendBody::from_reader(&mut data), Some(size))
    }

    fn exchange(
        &self,
        manner: &Manner,
        call: &Call<'_>,
        body: SendBody<'_>,
        size: Option<u64>,
    ) -> Result<Answer> {
        self.cancel.check()?;
        let agent = self.agent(manner)?;
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.url.full());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let sends = matches!(call.method, Method::PUT | Method::PATCH | Method::POST);
        if sends || size.is_some() {
            request = request.header(header::CONTENT_LENGTH, size.unwrap_or(0));
        }
        let request = request.body(body).map_err(|error| {
            Error::invalid(format!("{}: it makes no request", call.url)).with_source(error)
        })?;
        let mut configured = agent.configure_request(request);
        let allowed = match call.extent {
            Extent::Document => Some(DOCUMENT_TIME),
            Extent::Blob(deadline) => {
                deadline.check()?;
                deadline.left()
            }
        };
        if allowed.is_some() {
            configured = configured.timeout_global(allowed);
        }
        log::debug!("{} {}", call.method, call.url);
        let answer = agent
            .run(configured.build())
            .map_err(|error| match self.cancel.check() {
                Ok(()) => failure(&call.url, error),
                Err(cancelled) => cancelled,
            })?;
        let (parts, body) = answer.into_parts();
        log::debug!("{} {}: {}", call.method, call.url, parts.status);
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            url: call.url.clone(),
        })
    }

    /// Sleeps before another attempt, if there is to be one.
    pub(crate) fn pause(&self, attempt: u32, asked: Option<Duration>) -> Result<()> {
        let pause = match asked {
            Some(asked) => asked,
            None => {
                let doubled = self.retry.pause * 2u32.saturating_pow(attempt.min(16));
                // Clients that failed together shall not come back together.
                doubled.mul_f64(0.75 + 0.5 * chance())
            }
        };
        let end = Instant::now() + pause.min(self.retry.longest);
        loop {
            self.cancel.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK));
        }
    }
}

/// 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0u8; 4];
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// Whether a failure may pass by itself.
pub(crate) fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
}

/// Whether a status may pass by itself.
pub(crate) fn status_may_pass(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After` in seconds, or as a date.
pub(crate) fn retry_after(answer: &Answer) -> Option<Duration> {
    let text = answer.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(text).ok()?;
    let left = then.duration_since(std::time::SystemTime::now());
    Some(left.unwrap_or_default())
}

fn failure(url: &Url, error: ureq::Error) -> Error {
    use ureq::Error as E;
    let (kind, hint) = match &error {
        E::Timeout(_) => (ErrorKind::Timeout, None),
        E::Rustls(_) | E::Tls(_) | E::Pem(_) => (ErrorKind::FailedPrecondition, tls_hint(url)),
        E::Io(inner) if inner.kind() == std::io::ErrorKind::InvalidData => {
            (ErrorKind::FailedPrecondition, tls_hint(url))
        }
        E::Io(inner) if inner.kind() == std::io::ErrorKind::TimedOut => (ErrorKind::Timeout, None),
        E::InvalidProxyUrl => (ErrorKind::InvalidArgument, None),
        E::HostNotFound => (ErrorKind::FailedPrecondition, None),
        // Nobody will know it a second later, unlike a server that is asked
        // about it and does not answer.
        E::Io(inner) if inner.to_string().contains("Name or service not known") => {
            (ErrorKind::FailedPrecondition, None)
        }
        _ => (ErrorKind::Unavailable, None),
    };
    let text = match &error {
        E::HostNotFound => "there is no such host".to_string(),
        other => plain(&other.to_string()),
    };
    let error = Error::new(kind, format!("{}: {text}", url.origin));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn tls_hint(url: &Url) -> Option<String> {
    let domain = url.origin.authority();
    Some(format!(
        "where its certificate is of a private authority, set `ca` in [registry.\"{domain}\"]; where it speaks plain HTTP, `plain_http` or --plain-http"
    ))
}

/// The proxy that the environment names for an endpoint, without secrets.
pub fn proxy_of(endpoint: &Endpoint) -> Option<String> {
    let proxy = ureq::Proxy::try_from_env()?;
    let uri = endpoint.origin.to_string().parse().ok()?;
    match proxy.is_no_proxy(&uri) {
        true => None,
        false => Some(format!("{}:{}", proxy.host(), proxy.port())),
    }
}

fn agent(manner: &Manner) -> Result<Agent> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("containerkit/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(manner.idle.min(Duration::from_secs(10))))
        .timeout_per_read(Some(manner.idle))
        .timeout_per_write(Some(manner.idle))
        .input_buffer_size(128 << 10)
        .output_buffer_size(128 << 10);
    if manner.scheme == Scheme::Https {
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::Specific(Arc::new(roots(manner)?)))
            .build();
        config = config.tls_config(tls);
    }
    Ok(Agent::new_with_config(config.build()))
}

/// The host's certificates and the registry's own.
fn roots(manner: &Manner) -> Result<Vec<Certificate<'static>>> {
    let native = rustls_native_certs::load_native_certs();
    for error in native.errors {
        log::warn!("certificates of this host: {error}");
    }
    let mut roots: Vec<Certificate<'static>> = native
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    if let Some(path) = &manner.ca {
        let pem = fs::read_file(path, 4 << 20)?;
        let before = roots.len();
        for item in ureq::tls::parse_pem(&pem) {
            let item = item.map_err(|error| {
                Error::invalid(format!("{}: it is not PEM", path.display())).with_source(error)
            })?;
            if let PemItem::Certificate(certificate) = item {
                roots.push(certificate);
            }
        }
        if roots.len() == before {
            return Err(Error::invalid(format!(
                "{}: there is no certificate in it",
                path.display()
            )));
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_do_no_harm() {
        let body = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"a\\u001b[31m\\nb\"}]}";
        let text = told(body.as_bytes()).expect("told");
        assert!(text.contains("DENIED"), "{text}");
        assert!(!text.chars().any(char::is_control), "{text}");
        assert_eq!(told(b"<html>"), None);
        assert_eq!(told(br#"{"errors":[]}"#), None);
    }
}
