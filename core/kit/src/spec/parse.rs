//! Flags as text, read once into the types of a [`SpecRequest`](super::SpecRequest).
//!
//! Every error names the flag's value and says what would have been right.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::path::clean;
use super::{DeviceRequest, MountRequest, MountSource, NetworkMode, SecurityOption};
use crate::error::{Error, IoContext, Result, quote};
use crate::mount::Access;

pub use super::user::parse_user;

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
pub(super) fn ulimit_name(kind: PosixRlimitType) -> &'static str {
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

/// `SRC:DST[:OPTIONS]` of `-v`: SRC is a path when it begins with `/` or `.`,
/// else a volume's name. OPTIONS are `ro` or `rw` and mount options.
pub fn parse_volume(text: &str) -> Result<MountRequest> {
    let bad = |why: &str| {
        Error::invalid(format!("volume {}: {why}", quote(text)))
            .with_hint("write SOURCE:TARGET[:ro]; a path that holds a colon needs --mount")
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        [_] => return Err(bad("the target is missing")),
        _ => return Err(bad("it has too many colons")),
    };
    if source.is_empty() || target.is_empty() {
        return Err(bad("source or target is empty"));
    }
    let source = if source.starts_with(['/', '.']) {
        MountSource::Path(absolute(source)?)
    } else {
        let name = source.parse::<crate::ids::ContainerId>();
        MountSource::Volume(
            name.map_err(|_| bad("want a path or a volume's name"))?
                .to_string(),
        )
    };
    let mut mount = MountRequest {
        source,
        target: clean(target, "mount target")?,
        access: Access::ReadWrite,
        options: Vec::new(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        bind_option(&mut mount, option).map_err(|why| bad(&why))?;
    }
    Ok(mount)
}

/// `type=bind|tmpfs|volume,source=…,target=…[,readonly][,…]` of `--mount`.
pub fn parse_mount(text: &str) -> Result<MountRequest> {
    let bad = |why: &str| {
        Error::invalid(format!("mount {}: {why}", quote(text)))
            .with_hint("write type=bind,source=PATH,target=PATH[,readonly]")
    };
    let (mut kind, mut source, mut target) = (None, None, None);
    let mut rest = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (part, None),
        };
        match (key, value) {
            ("type", Some(value)) => kind = Some(value),
            ("source" | "src", Some(value)) => source = Some(value),
            ("target" | "dst" | "destination", Some(value)) => target = Some(value),
            _ => rest.push((key, value)),
        }
    }
    let target = clean(
        target.ok_or_else(|| bad("the target is missing"))?,
        "mount target",
    )?;
    let kind = kind.unwrap_or(match source {
        Some(_) => "volume",
        None => "tmpfs",
    });
    let source = match (kind, source) {
        ("tmpfs", None) => MountSource::Tmpfs,
        ("tmpfs", Some(_)) => return Err(bad("a tmpfs has no source")),
        ("bind", Some(source)) if !source.is_empty() => MountSource::Path(absolute(source)?),
        ("volume", Some(name)) if !name.is_empty() => MountSource::Volume(name.to_owned()),
        ("bind" | "volume", _) => return Err(bad("the source is missing")),
        _ => return Err(bad("want the type bind, tmpfs or volume")),
    };
    let is_tmpfs = source == MountSource::Tmpfs;
    let mut mount = MountRequest {
        source,
        target,
        access: Access::ReadWrite,
        options: Vec::new(),
    };
    for (key, value) in rest {
        match (key, value) {
            ("readonly" | "ro", None | Some("true" | "1")) => mount.access = Access::ReadOnly,
            ("readonly" | "ro", Some("false" | "0")) => mount.access = Access::ReadWrite,
            ("tmpfs-size", Some(value)) if is_tmpfs => {
                mount.options.push(format!("size={}", parse_memory(value)?));
            }
            ("tmpfs-mode", Some(value)) if is_tmpfs => {
                mount
                    .options
                    .push(tmpfs_option("mode", Some(value)).map_err(|e| bad(&e))?);
            }
            ("bind-propagation", Some(value)) if !is_tmpfs => {
                bind_option(&mut mount, value).map_err(|why| bad(&why))?;
            }
            (key, value) if is_tmpfs => match tmpfs_option(key, value) {
                Ok(option) => mount.options.push(option),
                Err(why) => return Err(bad(&why)),
            },
            (key, None) => bind_option(&mut mount, key).map_err(|why| bad(&why))?,
            (key, Some(_)) => return Err(bad(&format!("unknown key {}", quote(key)))),
        }
    }
    Ok(mount)
}

/// `TARGET[:OPTIONS]` of `--tmpfs`, `/tmp:size=64m,mode=1777`.
pub fn parse_tmpfs(text: &str) -> Result<MountRequest> {
    let bad = |why: &str| {
        Error::invalid(format!("tmpfs {}: {why}", quote(text)))
            .with_hint("write TARGET[:OPTIONS], like /tmp:size=64m,mode=1777")
    };
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = MountRequest {
        source: MountSource::Tmpfs,
        target: clean(target, "mount target")?,
        access: Access::ReadWrite,
        options: Vec::new(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        match key {
            "ro" => mount.access = Access::ReadOnly,
            "rw" => mount.access = Access::ReadWrite,
            _ => mount
                .options
                .push(tmpfs_option(key, value).map_err(|why| bad(&why))?),
        }
    }
    Ok(mount)
}

/// One option of a tmpfs, as the kernel wants it.
fn tmpfs_option(key: &str, value: Option<&str>) -> Result<String, String> {
    const FLAGS: [&str; 10] = [
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "atime",
        "noatime",
        "relatime",
        "strictatime",
    ];
    let digits = |value: &str, valid: fn(&u8) -> bool| {
        !value.is_empty() && value.len() <= 10 && value.as_bytes().iter().all(valid)
    };
    match (key, value) {
        ("size", Some(value)) => match parse_memory(value) {
            Ok(bytes) => Ok(format!("size={bytes}")),
            Err(error) => Err(error.message().to_owned()),
        },
        ("mode", Some(value)) if digits(value, |b| matches!(b, b'0'..=b'7')) => {
            Ok(format!("mode={value}"))
        }
        ("uid" | "gid" | "nr_inodes", Some(value)) if digits(value, u8::is_ascii_digit) => {
            Ok(format!("{key}={value}"))
        }
        (flag, None) if FLAGS.contains(&flag) => Ok(flag.to_owned()),
        _ => Err(format!("unknown option {}", quote(key))),
    }
}

/// One option of a bind mount.
fn bind_option(mount: &mut MountRequest, option: &str) -> Result<(), String> {
    const FLAGS: [&str; 16] = [
        "exec", "noexec", "suid", "nosuid", "dev", "nodev", "bind", "rbind", "private", "rprivate",
        "slave", "rslave", "shared", "rshared", "noatime", "relatime",
    ];
    match option {
        "ro" | "readonly" => mount.access = Access::ReadOnly,
        "rw" => mount.access = Access::ReadWrite,
        _ if FLAGS.contains(&option) => mount.options.push(option.to_owned()),
        _ => return Err(format!("unknown option {}", quote(option))),
    }
    Ok(())
}

/// `HOST[:CONTAINER[:rwm]]` of `--device`.
pub fn parse_device(text: &str) -> Result<DeviceRequest> {
    let bad = |why: &str| {
        Error::invalid(format!("device {}: {why}", quote(text)))
            .with_hint("write /dev/x[:/dev/y[:rwm]]")
    };
    let is_access = |part: &str| {
        !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if is_access(access) => (host, host, access),
        [host, container] => (host, container, "rwm"),
        [host, container, access] if is_access(access) => (host, container, access),
        [_, _, _] => return Err(bad("the last part is any of r, w and m")),
        _ => return Err(bad("it has too many colons")),
    };
    if !host.starts_with('/') {
        return Err(bad("want an absolute path"));
    }
    let container = clean(container, "device path")?;
    if container == "/" {
        return Err(bad("the path in the container is a folder"));
    }
    Ok(DeviceRequest {
        host: PathBuf::from(host),
        container,
        access: access.to_owned(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every error is one short line that names the value.
    fn refused<T: std::fmt::Debug>(result: Result<T>, text: &str) {
        let line = result.expect_err(text).to_string();
        assert!(
            line.len() < 600 && !line.chars().any(char::is_control),
            "{line}"
        );
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
    fn volumes_and_mounts() {
        let mount = parse_volume("/a:/b/../c:ro").expect("bind");
        assert_eq!(mount.source, MountSource::Path("/a".into()));
        assert_eq!(
            (mount.target.as_str(), mount.access),
            ("/c", Access::ReadOnly)
        );
        let mount = parse_volume("data:/var/lib").expect("named");
        assert_eq!(mount.source, MountSource::Volume("data".into()));
        let mount = parse_volume("./x:/y").expect("relative");
        assert!(matches!(mount.source, MountSource::Path(path) if path.is_absolute()));
        for bad in [
            "",
            "/a",
            ":/b",
            "/a:",
            "/a:b",
            "/a:/b:zz",
            "/a:/b:ro:x",
            "a b:/c",
            "../x",
            "a/b:/c",
        ] {
            refused(parse_volume(bad), bad);
        }

        let mount = parse_mount("type=bind,source=/a:b,target=/c,readonly").expect("mount");
        assert_eq!(mount.source, MountSource::Path("/a:b".into()));
        assert_eq!(mount.access, Access::ReadOnly);
        let mount = parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700").expect("tmpfs");
        assert_eq!(mount.options, ["size=1048576", "mode=0700"]);
        let mount = parse_mount("type=volume,src=v,dst=/t").expect("volume");
        assert_eq!(mount.source, MountSource::Volume("v".into()));
        for bad in [
            "",
            "type=bind,target=/a",
            "type=bind,source=/a",
            "type=x,source=/a,target=/b",
            "type=tmpfs,source=/a,target=/b",
            "type=bind,source=/a,target=b",
            "type=bind,source=/a,target=/b,size=1",
            "type=bind,source=/a,target=/b,lowerdir",
        ] {
            refused(parse_mount(bad), bad);
        }

        let mount = parse_tmpfs("/tmp:size=64m,mode=1777,exec").expect("tmpfs");
        assert_eq!(mount.options, ["size=67108864", "mode=1777", "exec"]);
        for bad in [
            "",
            "tmp",
            "/t:size=1q",
            "/t:mode=9",
            "/t:mpol=x",
            "/t:uid=-1",
            "/t:size",
        ] {
            refused(parse_tmpfs(bad), bad);
        }
    }

    #[test]
    fn devices() {
        let device = parse_device("/dev/null:/dev/y:r").expect("device");
        assert_eq!(
            (device.container.as_str(), device.access.as_str()),
            ("/dev/y", "r")
        );
        assert_eq!(parse_device("/dev/fuse:rw").expect("short").access, "rw");
        assert_eq!(
            parse_device("/dev/fuse").expect("plain").container,
            "/dev/fuse"
        );
        for bad in [
            "",
            "null",
            "/dev/a:b",
            "/dev/a:/dev/b:x",
            "/a:/b:r:w",
            "/dev/a:/",
        ] {
            refused(parse_device(bad), bad);
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
