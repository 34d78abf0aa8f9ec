//! docker's `config.json` and podman's `auth.json`, which have one form.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use containerkit::fs::{self, Durability};
use containerkit::lock::{FileLock, Wait};
use containerkit::{Error, ErrorKind, IoContext, Result, quote};
use serde_json::{Map, Value, json};

use crate::auth::keyring::key_of;

const LIMIT: u64 = 4 << 20;

/// A file of credentials. What is in it beside them is kept.
#[derive(Debug)]
pub struct AuthFile {
    path: PathBuf,
    value: Map<String, Value>,
}

/// The files that are read, in their order: `$REGISTRY_AUTH_FILE` alone where
/// it is set, else podman's, else docker's.
pub fn default_files() -> Vec<PathBuf> {
    if let Some(path) = variable("REGISTRY_AUTH_FILE") {
        return vec![path];
    }
    let podman = [
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        variable("XDG_CONFIG_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".config")))
            .map(|dir| dir.join("containers/auth.json")),
    ];
    podman.into_iter().flatten().chain(docker_file()).collect()
}

/// The file that `login` writes: `$REGISTRY_AUTH_FILE`, else docker's, which
/// podman reads too.
pub fn login_file() -> Result<PathBuf> {
    variable("REGISTRY_AUTH_FILE")
        .or_else(docker_file)
        .ok_or_else(|| {
            Error::precondition("there is no place to keep credentials: $HOME is not set")
                .with_hint("give --authfile FILE")
        })
}

fn docker_file() -> Option<PathBuf> {
    variable("DOCKER_CONFIG")
        .or_else(|| variable("HOME").map(|home| home.join(".docker")))
        .map(|dir| dir.join("config.json"))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

impl AuthFile {
    /// Reads one; `None` where there is none.
    pub fn read(path: &Path) -> Result<Option<AuthFile>> {
        let data = match fs::read_file(path, LIMIT) {
            Ok(data) => data,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let shown = path.display();
        let value = match data.iter().all(u8::is_ascii_whitespace) {
            true => Map::new(),
            false => serde_json::from_slice(&data).map_err(|_| {
                // The parser would quote what it found: that may be a secret.
                Error::invalid(format!("{shown} is no JSON object of credentials"))
            })?,
        };
        Ok(Some(AuthFile {
            path: path.to_path_buf(),
            value,
        }))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        Value::Object(self.value.clone()).to_string().into_bytes()
    }

    fn member(&self, table: &str, key: &str) -> Option<&Value> {
        self.value.get(table)?.as_object()?.get(key)
    }

    pub(crate) fn names(&self, key: &str) -> bool {
        self.member("auths", key).is_some() || self.member("credHelpers", key).is_some()
    }

    /// The helper that keeps the secrets of a key.
    fn helper(&self, key: &str) -> Option<&str> {
        self.member("credHelpers", key)
            .or_else(|| self.value.get("credsStore"))
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
    }

    pub(crate) fn source(&self, key: &str) -> String {
        let held = |name| {
            self.member("auths", key)
                .and_then(|entry| entry.get(name))
                .is_some()
        };
        match self.helper(key) {
            Some(helper) if !held("auth") && !held("identitytoken") => {
                format!(
                    "docker-credential-{helper}, named by {}",
                    self.path.display()
                )
            }
            _ => self.path.display().to_string(),
        }
    }

    /// Keeps the secret of a domain: in the helper that the file names, or in
    /// the file, which is made 0600. Says where.
    pub fn login(path: &Path, domain: &str, user: &str, password: &str) -> Result<String> {
        let key = key_of(domain);
        change(path, |file| {
            if let Some(helper) = file.helper(key) {
                let entry = json!({ "ServerURL": key, "Username": user, "Secret": password });
                run(helper, "store", &entry.to_string())?;
                file.auths()?.insert(key.into(), json!({}));
            } else {
                let auth = STANDARD.encode(format!("{user}:{password}"));
                file.auths()?.insert(key.into(), json!({ "auth": auth }));
            }
            Ok((true, file.source(key)))
        })
    }

    /// Forgets the secret of a domain; whether there was one.
    pub fn logout(path: &Path, domain: &str) -> Result<bool> {
        if AuthFile::read(path)?.is_none() {
            return Ok(false);
        }
        let key = key_of(domain);
        change(path, |file| {
            let helped = match file.helper(key) {
                Some(helper) => run(helper, "erase", key).is_ok(),
                None => false,
            };
            let known = file.names(key);
            let kept = file.auths()?.remove(key).is_some();
            Ok((kept, kept || (helped && known)))
        })
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>> {
        let path = self.path.display().to_string();
        let auths = self.value.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        auths
            .as_object_mut()
            .ok_or_else(|| Error::invalid(format!("{path}: its `auths` is no object")))
    }
}

/// Reads, changes and, when asked to, replaces a file, one process at a time.
fn change<T>(path: &Path, how: impl FnOnce(&mut AuthFile) -> Result<(bool, T)>) -> Result<T> {
    let folder = path
        .parent()
        .ok_or_else(|| Error::invalid(format!("{} is no file", path.display())))?;
    if !folder.as_os_str().is_empty() && !folder.exists() {
        std::fs::create_dir_all(folder)
            .io_context(|| format!("make folder {}", folder.display()))?;
        rustix::fs::chmod(folder, rustix::fs::Mode::from_raw_mode(0o700))
            .io_context(|| format!("chmod {}", folder.display()))?;
    }
    // What a symlink names is changed, and stays behind it.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut name = path.clone().into_os_string();
    name.push(".lock");
    let lock = FileLock::acquire(
        Path::new(&name),
        &path.display().to_string(),
        Wait::AtMost(std::time::Duration::from_secs(10)),
    )?;
    let mut file = AuthFile::read(&path)?.unwrap_or(AuthFile {
        path: path.clone(),
        value: Map::new(),
    });
    let (write, told) = how(&mut file)?;
    if write {
        let text = serde_json::to_vec_pretty(&Value::Object(file.value))
            .map_err(|error| Error::internal("write JSON").with_source(error))?;
        fs::write_atomic(&path, &text, 0o600, Durability::Synced)?;
    }
    lock.remove()?;
    Ok(told)
}

/// Runs a credential helper. What it prints may hold the secret and is not
/// repeated.
fn run(helper: &str, verb: &str, input: &str) -> Result<()> {
    if helper.contains('/') {
        return Err(Error::invalid(format!(
            "credential helper {}: a name has no slash",
            quote(helper)
        )));
    }
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .io_context(|| format!("run {}", quote(&program)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read has its reasons, and tells by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let status = child
        .wait()
        .io_context(|| format!("wait for {}", quote(&program)))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Unavailable,
            format!("{} {verb} fails: {status}", quote(&program)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::auth::{Keyring, Secret};

    #[test]
    fn login_keeps_what_else_is_there_and_logout_ends_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("sub/config.json");
        let keyring = Keyring {
            files: vec![path.clone()],
            ..Keyring::default()
        };
        assert!(!AuthFile::logout(&path, "r.example").expect("logout"));
        AuthFile::login(&path, "r.example", "u", "p:q").expect("login");
        let mode = std::fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut value: Value =
            serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("json");
        value["psFormat"] = json!("x");
        std::fs::write(&path, value.to_string()).expect("write");
        AuthFile::login(&path, "docker.io", "d", "e").expect("login");
        let found = keyring
            .find("r.example", "a", None)
            .expect("find")
            .expect("there");
        let want = Secret::Password {
            user: "u".into(),
            password: "p:q".into(),
        };
        assert_eq!(found.secret, want);
        assert!(AuthFile::logout(&path, "r.example").expect("logout"));
        assert_eq!(keyring.find("r.example", "a", None).expect("find"), None);
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains("psFormat") && text.contains("index.docker.io"));
    }

    #[test]
    fn a_broken_file_is_an_error_without_its_content() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{\"auths\": \"s3cret\" oops").expect("write");
        let error = AuthFile::read(&path).expect_err("broken").to_string();
        assert!(
            error.contains("config.json") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
