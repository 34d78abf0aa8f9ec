//! Debian's `docker-registry` on a port of its own, and what stands beside it
//! in tests: a token server, a private authority, a wire that breaks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The user of a registry that asks for one.
pub const CREDS: &str = "user:secret";
/// `secret`, as htpasswd files have it.
const HASH: &str = "$2b$04$Gqhdra0t2eaduHTkgi7SJ.X3yi6oqB9dGqa6F7R2Wav1iZolQY0GC";
/// `CREDS` in Basic.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// By everybody.
    #[default]
    None,
    /// With a user and password.
    Htpasswd,
    /// With a token of a server beside it.
    Token,
}

/// How bytes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// In the clear.
    #[default]
    Plain,
    /// By TLS, with a certificate of [`RegistryServer::ca`].
    Tls,
}

/// A registry that ends with this value.
pub struct RegistryServer {
    child: Child,
    dir: tempfile::TempDir,
    /// `127.0.0.1:PORT`.
    pub address: String,
    log: Arc<Mutex<Vec<String>>>,
    tokens: Option<TokenServer>,
}

impl Default for RegistryServer {
    fn default() -> RegistryServer {
        RegistryServer::start(Guard::None, Wire::Plain)
    }
}

impl RegistryServer {
    /// Starts one and waits until it listens.
    pub fn start(guard: Guard, wire: Wire) -> RegistryServer {
        let dir = tempfile::Builder::new()
            .prefix("containerkit-registry.")
            .tempdir()
            .unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "formatter": "json", "accesslog": { "disabled": true } },
            "storage": {
                "filesystem": { "rootdirectory": path("data") },
                "delete": { "enabled": true },
            },
            "http": { "addr": "127.0.0.1:0" },
        });
        let mut tokens = None;
        match guard {
            Guard::None => {}
            Guard::Htpasswd => {
                std::fs::write(path("htpasswd"), format!("user:{HASH}\n")).unwrap();
                config["auth"] =
                    json!({ "htpasswd": { "realm": "test", "path": path("htpasswd") } });
            }
            Guard::Token => {
                let server = TokenServer::start(dir.path());
                config["auth"] = json!({ "token": {
                    "realm": format!("http://{}/token", server.address),
                    "service": "test", "issuer": "issuer",
                    "rootcertbundle": path("token.crt"),
                } });
                tokens = Some(server);
            }
        }
        if wire == Wire::Tls {
            certificates(dir.path());
            config["http"]["tls"] =
                json!({ "certificate": path("server.crt"), "key": path("server.key") });
        }
        // JSON is YAML.
        std::fs::write(path("config.yml"), config.to_string()).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed by `make setup`");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("docker-registry did not start: {seen:#?}");
            };
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(['"', ',']).unwrap_or(rest.len());
                break rest[..end].trim().to_string();
            }
            seen.push(line);
        };
        let log = Arc::new(Mutex::new(seen));
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        RegistryServer {
            child,
            dir,
            address,
            log,
            tokens,
        }
    }

    /// The certificate of the authority that signed the server's.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// `ADDRESS/NAME`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// What was asked so far that holds this, as the server's log has it.
    pub fn logged(&self, part: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.contains(part)).count()
    }

    /// Requests for tokens, and those among them with the right credentials.
    pub fn tokens(&self) -> (u64, u64) {
        let tokens = self.tokens.as_ref().expect("a token server");
        (
            tokens.asked.load(Ordering::Relaxed),
            tokens.known.load(Ordering::Relaxed),
        )
    }
}

impl RegistryServer {
    /// Ends it, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn openssl(dir: &Path, args: &[&str]) {
    let ran = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("openssl is installed by `make setup`");
    assert!(ran.status.success(), "{args:?}: {ran:?}");
}

/// An authority, and a certificate for 127.0.0.1 that it signed.
fn certificates(dir: &Path) {
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let ec = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let ca = ["req", "-x509", "-subj", "/CN=test authority", "-days", "2"];
    let files = ["-keyout", "ca.key", "-out", "ca.crt"];
    openssl(dir, &[&ca[..], &ec[..], &files[..]].concat());
    let request = ["req", "-subj", "/CN=127.0.0.1"];
    let files = ["-keyout", "server.key", "-out", "server.csr"];
    openssl(dir, &[&request[..], &ec[..], &files[..]].concat());
    openssl(
        dir,
        &[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "san",
            "-out",
            "server.crt",
        ],
    );
}

/// Gives tokens for what is asked, to whoever knows the password.
struct TokenServer {
    address: String,
    asked: Arc<AtomicU64>,
    known: Arc<AtomicU64>,
}

impl TokenServer {
    fn start(dir: &Path) -> TokenServer {
        let certificate = [
            "req",
            "-x509",
            "-subj",
            "/CN=issuer",
            "-days",
            "2",
            "-nodes",
        ];
        let files = [
            "-newkey",
            "rsa:2048",
            "-keyout",
            "token.key",
            "-out",
            "token.crt",
        ];
        openssl(dir, &[&certificate[..], &files[..]].concat());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, known) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (dir, counts) = (dir.to_path_buf(), (Arc::clone(&asked), Arc::clone(&known)));
        // It ends with the process: nothing tells it to.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (dir, counts) = (dir.clone(), (Arc::clone(&counts.0), Arc::clone(&counts.1)));
                std::thread::spawn(move || give(stream, &dir, &counts));
            }
        });
        TokenServer {
            address,
            asked,
            known,
        }
    }
}

fn give(mut stream: TcpStream, dir: &Path, counts: &(Arc<AtomicU64>, Arc<AtomicU64>)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_string());
    }
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else {
        return;
    };
    counts.0.fetch_add(1, Ordering::Relaxed);
    let known = lines.iter().any(|line| {
        line.to_ascii_lowercase().starts_with("authorization: ") && line.ends_with(BASIC)
    });
    counts.1.fetch_add(u64::from(known), Ordering::Relaxed);
    let access: Vec<Value> = path
        .split(['?', '&'])
        .filter_map(|pair| pair.strip_prefix("scope="))
        .filter_map(|scope| {
            let scope = scope
                .replace("%2C", ",")
                .replace("%3A", ":")
                .replace("%2F", "/");
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(json!({ "type": kind, "name": name, "actions": actions }))
        })
        .filter(|_| known)
        .collect();
    let body = json!({ "token": token(dir, &access), "expires_in": 300 }).to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// A JSON web token, signed with the key whose certificate the registry has.
fn token(dir: &Path, access: &[Value]) -> String {
    let pem = std::fs::read_to_string(dir.join("token.crt")).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
    let claims = json!({
        "iss": "issuer", "sub": "user", "aud": "test", "access": access, "jti": "1",
        "iat": now - 60, "nbf": now - 60, "exp": now + 300,
    });
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(head.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(dir.join("token.key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let signed = child.wait_with_output().unwrap().stdout;
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signed))
}

/// `user:secret` as docker's files have it.
pub fn encoded() -> String {
    STANDARD.encode(CREDS)
}

/// A wire to a server that lets so many bytes come back and then no more,
/// without closing.
pub struct BreakingWire {
    /// `127.0.0.1:PORT`.
    pub address: String,
    passed: Arc<AtomicU64>,
    limit: Arc<AtomicU64>,
}

impl BreakingWire {
    /// To this address.
    pub fn to(target: &str, limit: u64) -> BreakingWire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let passed = Arc::new(AtomicU64::new(0));
        let limit = Arc::new(AtomicU64::new(limit));
        let (target, count, most) = (target.to_string(), Arc::clone(&passed), Arc::clone(&limit));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else {
                    return;
                };
                let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut up, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
                let (count, most) = (Arc::clone(&count), Arc::clone(&most));
                std::thread::spawn(move || back(server, client, &count, &most));
            }
        });
        BreakingWire {
            address,
            passed,
            limit,
        }
    }

    /// Bytes that came back so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Waits until the wire holds everything back.
    pub fn wait_until_full(&self) {
        while self.passed() < self.limit.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// From now on everything passes, and is counted anew.
    pub fn open(&self) {
        self.passed.store(0, Ordering::Relaxed);
        self.limit.store(u64::MAX, Ordering::Relaxed);
    }
}

fn back(mut server: TcpStream, mut client: TcpStream, count: &AtomicU64, most: &AtomicU64) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        while count.load(Ordering::Relaxed) >= most.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        match server.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                count.fetch_add(read as u64, Ordering::Relaxed);
                if client.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
}
