//! Flags as text, read once into the types of a [`SpecRequest`](super::SpecRequest).
//!
//! Every error names the flag's value and says what would have been right.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::{NetworkMode, SecurityOption};
use crate::error::{Error, IoContext, Result, quote};

mod mount;

pub use super::user::parse_user;
pub use mount::{parse_device, parse_mount, parse_tmpfs, parse_volume};

/// An `--env-file` larger than this is refused.
const ENV_FILE_LIMIT: u64 = 1 << 20;

/// Bytes: a whole number with one of the suffixes b, k, m, g, t (powers of
/// 1024, any case, `kb` and `kib` too).
///
/// ```
/// use containerkit::spec::parse::parse_memory;
/// assert_eq!(parse_memory("512m"), Ok(512 << 20));
/// assert!(parse_memory("1q").is_err());
/// ```
pub fn parse_memory(text: &str) -> Result<i64> {
    let bad = |why: &str| {
        Error::invalid(format!("size {}: {why}", quote(text)))
            .with_hint("a size is a whole number and a unit: 512m, 2g, 65536k, 1073741824")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(bad("want a number first"));
    }
    let unit = unit.to_ascii_lowercase();
    let shift = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit.ends_with("ib") => return Err(bad("want the unit b, k, m, g or t")),
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad("want the unit b, k, m, g or t")),
    };
    let number: i64 = number.parse().map_err(|_| bad("it is too large"))?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err(bad("it is zero")),
        Some(bytes) => Ok(bytes),
        None => Err(bad("it is too large")),
    }
}

/// CPUs: a positive decimal number, at least 0.01.
pub fn parse_cpus(text: &str) -> Result<f64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>() {
        Ok(cpus) if plain && (0.01..=1_000_000.0).contains(&cpus) => Ok(cpus),
        _ => Err(Error::invalid(format!(
            "CPUs {}: want a decimal number from 0.01, like 1.5",
            quote(text)
        ))),
    }
}

const ULIMITS: [(&str, PosixRlimitType); 16] = {
    use PosixRlimitType::*;
    [
        ("as", RlimitAs),
        ("core", RlimitCore),
        ("cpu", RlimitCpu),
        ("data", RlimitData),
        ("fsize", RlimitFsize),
        ("locks", RlimitLocks),
        ("memlock", RlimitMemlock),
        ("msgqueue", RlimitMsgqueue),
        ("nice", RlimitNice),
        ("nofile", RlimitNofile),
        ("nproc", RlimitNproc),
        ("rss", RlimitRss),
        ("rtprio", RlimitRtprio),
        ("rttime", RlimitRttime),
        ("sigpending", RlimitSigpending),
        ("stack", RlimitStack),
    ]
};

/// The `--ulimit` name of a limit.
pub(in crate::spec) fn ulimit_name(kind: PosixRlimitType) -> &'static str {
    ULIMITS
        .iter()
        .find(|(_, known)| *known == kind)
        .map_or("unknown", |(name, _)| name)
}

/// `NAME=SOFT[:HARD]`; numbers, or `-1` or `unlimited`.
pub fn parse_ulimit(text: &str) -> Result<PosixRlimit> {
    let bad = |why: &str| {
        Error::invalid(format!("ulimit {}: {why}", quote(text)))
            .with_hint("write NAME=SOFT[:HARD], like nofile=1024:2048")
    };
    let (name, value) = text.split_once('=').ok_or_else(|| bad("there is no ="))?;
    let (_, kind) = ULIMITS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| bad("unknown limit"))?;
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().map_err(|_| bad("want a number"))
        }
        _ => Err(bad("want a number")),
    };
    let (soft, hard) = match value.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(value)?, number(value)?),
    };
    if soft > hard {
        return Err(bad("the soft limit is above the hard one"));
    }
    PosixRlimitBuilder::default()
        .typ(*kind)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|error| bad("it cannot be built").with_source(error))
}

/// One entry of `-e`: `K=V` or `K`.
pub fn parse_env(text: &str) -> Result<String> {
    let key = text.split_once('=').map_or(text, |(key, _)| key);
    if key.is_empty() || text.contains('\0') {
        return Err(Error::invalid(format!(
            "environment {}: want NAME=VALUE or NAME",
            quote(text)
        )));
    }
    Ok(text.to_owned())
}

/// The lines of an `--env-file`; empty ones and those that begin with `#` are
/// left out. Values are taken as they are, quotes included.
pub fn parse_env_file(path: &Path) -> Result<Vec<String>> {
    let shown = path.display().to_string();
    let file = std::fs::File::open(path).io_context(|| format!("open {}", quote(&shown)))?;
    let data = crate::fs::read_limited(&file, &quote(&shown), ENV_FILE_LIMIT)?;
    let text = String::from_utf8(data)
        .map_err(|_| Error::invalid(format!("{}: it is not UTF-8", quote(&shown))))?;
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.contains(char::is_whitespace) {
            return Err(Error::invalid(format!(
                "{}, line {}: the name {} holds a space",
                quote(&shown),
                number + 1,
                quote(name)
            )));
        }
        let entry = parse_env(line)
            .map_err(|error| error.context(format!("{}, line {}", quote(&shown), number + 1)))?;
        entries.push(entry);
    }
    Ok(entries)
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal by name (`TERM`, `SIGTERM`, `RTMIN+3`) or number (1 to 64).
pub fn parse_signal(text: &str) -> Result<i32> {
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let number = |text: &str| match text.parse::<u8>() {
        Ok(n) if text.bytes().all(|b| b.is_ascii_digit()) => Some(i32::from(n)),
        _ => None,
    };
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let found = if let Some(n) = number(text) {
        (1..=RTMAX).contains(&n).then_some(n)
    } else if let Some(index) = SIGNALS.iter().position(|known| *known == name) {
        i32::try_from(index + 1).ok()
    } else {
        match name {
            "IOT" => Some(6),
            "POLL" => Some(29),
            "CLD" => Some(17),
            "RTMIN" => Some(RTMIN),
            "RTMAX" => Some(RTMAX),
            _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
                (Some(n), _) => number(n).map(|n| RTMIN + n),
                (_, Some(n)) => number(n).map(|n| RTMAX - n),
                _ => None,
            }
            .filter(|n| (RTMIN..=RTMAX).contains(n)),
        }
    };
    found.ok_or_else(|| {
        Error::invalid(format!(
            "signal {}: want a name like TERM or a number from 1 to 64",
            quote(text)
        ))
    })
}

/// A `--security-opt`: `seccomp=unconfined`, `seccomp=FILE`,
/// `no-new-privileges[=true|false]`.
pub fn parse_security(text: &str) -> Result<SecurityOption> {
    let (key, value) = match text.split_once(['=', ':']) {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    match (key, value) {
        ("seccomp", Some("unconfined")) => Ok(SecurityOption::SeccompUnconfined),
        ("seccomp", Some(path)) if !path.is_empty() => {
            Ok(SecurityOption::SeccompFile(absolute(path)?))
        }
        ("no-new-privileges", None | Some("true" | "1")) => {
            Ok(SecurityOption::NoNewPrivileges(true))
        }
        ("no-new-privileges", Some("false" | "0")) => Ok(SecurityOption::NoNewPrivileges(false)),
        _ => Err(Error::invalid(format!(
            "security option {}: want seccomp=unconfined, seccomp=FILE or no-new-privileges",
            quote(text)
        ))),
    }
}

/// A `--net`: `none` or `host`.
pub fn parse_network(text: &str) -> Result<NetworkMode> {
    match text {
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        _ => Err(Error::invalid(format!(
            "network {}: want none or host",
            quote(text)
        ))),
    }
}

fn absolute(path: &str) -> Result<PathBuf> {
    std::path::absolute(path).io_context(|| format!("path {}", quote(path)))
}

/// Every error is one short line.
#[cfg(test)]
fn refused<T: std::fmt::Debug>(result: Result<T>, text: &str) {
    let line = result.expect_err(text).to_string();
    assert!(
        line.len() < 600 && !line.chars().any(char::is_control),
        "{line}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_never_panics() {
        const PIECES: [&str; 24] = [
            "/",
            ":",
            ",",
            "=",
            ".",
            "..",
            "ro",
            "type",
            "source",
            "tmpfs",
            "size",
            "-1",
            "0x0",
            "4294967296",
            "9223372036854775807",
            "k",
            "é",
            "\0",
            "\n",
            "SIG",
            "RTMIN+",
            "seccomp",
            " ",
            "nofile",
        ];
        let mut state = 88172645463325252u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for _ in 0..20_000 {
            let text: String = (0..next() % 8)
                .map(|_| PIECES[next() % PIECES.len()])
                .collect();
            let errors = [
                parse_memory(&text).err(),
                parse_cpus(&text).err(),
                parse_ulimit(&text).err(),
                parse_volume(&text).err(),
                parse_mount(&text).err(),
                parse_tmpfs(&text).err(),
                parse_device(&text).err(),
                parse_env(&text).err(),
                parse_signal(&text).err(),
                parse_user(&text).err(),
                parse_security(&text).err(),
                parse_network(&text).err(),
            ];
            for error in errors.into_iter().flatten() {
                refused::<()>(Err(error), &text);
            }
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("1", 1),
            ("10b", 10),
            ("2k", 2048),
            ("2K", 2048),
            ("2kb", 2048),
            ("2KiB", 2048),
            ("512m", 512 << 20),
            ("3g", 3 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse_memory(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "m",
            "1q",
            "1.5g",
            "-1",
            "+1",
            "0",
            "0m",
            "1 m",
            "9223372036854775808",
            "8388608t",
            "ib",
            "1ib",
            "1bb",
            "1\n",
            "１m",
        ] {
            refused(parse_memory(bad), bad);
        }
    }

    #[test]
    fn cpus() {
        assert_eq!(parse_cpus("1.5"), Ok(1.5));
        assert_eq!(parse_cpus(".5"), Ok(0.5));
        for bad in ["", "0", "-1", "nan", "inf", "1e3", "0.001", "x", "1,5", "."] {
            refused(parse_cpus(bad), bad);
        }
    }

    #[test]
    fn ulimits() {
        let limit = parse_ulimit("nofile=1024:2048").expect("nofile");
        assert_eq!(limit.typ(), PosixRlimitType::RlimitNofile);
        assert_eq!((limit.soft(), limit.hard()), (1024, 2048));
        let limit = parse_ulimit("core=-1").expect("core");
        assert_eq!((limit.soft(), limit.hard()), (u64::MAX, u64::MAX));
        for bad in [
            "",
            "nofile",
            "nofile=",
            "nofile=2:1",
            "x=1",
            "nofile=1:2:3",
            "nofile=+1",
        ] {
            refused(parse_ulimit(bad), bad);
        }
        for (name, kind) in ULIMITS {
            assert_eq!(ulimit_name(kind), name);
        }
    }

    #[test]
    fn signals() {
        for (text, want) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("15", 15),
            ("64", 64),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("CHLD", 17),
            ("SYS", 31),
            ("WINCH", 28),
        ] {
            assert_eq!(parse_signal(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "-1",
            "TERMX",
            "SIG",
            "RTMIN+31",
            "RTMAX-40",
            "1 5",
            "4294967305",
        ] {
            refused(parse_signal(bad), bad);
        }
    }

    #[test]
    fn env_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("env");
        std::fs::write(&path, "# comment\n\nA=1\n  B=x y\nHOME\nC=\"q\"\n").expect("write");
        let entries = parse_env_file(&path).expect("file");
        assert_eq!(entries, ["A=1", "B=x y", "HOME", "C=\"q\""]);
        std::fs::write(&path, "A B=1\n").expect("write");
        refused(parse_env_file(&path), "space");
        std::fs::write(&path, "=1\n").expect("write");
        refused(parse_env_file(&path), "no name");
        refused(parse_env_file(&dir.path().join("missing")), "missing");
        refused(parse_env("a\0b"), "nul");
    }

    #[test]
    fn security_options() {
        assert_eq!(
            parse_security("seccomp=unconfined"),
            Ok(SecurityOption::SeccompUnconfined)
        );
        assert_eq!(
            parse_security("seccomp=/x.json"),
            Ok(SecurityOption::SeccompFile("/x.json".into()))
        );
        assert_eq!(
            parse_security("no-new-privileges"),
            Ok(SecurityOption::NoNewPrivileges(true))
        );
        for bad in [
            "",
            "seccomp",
            "seccomp=",
            "apparmor=x",
            "no-new-privileges=maybe",
        ] {
            refused(parse_security(bad), bad);
        }
        assert_eq!(parse_network("host"), Ok(NetworkMode::Host));
        refused(parse_network("bridge"), "bridge");
    }
}
