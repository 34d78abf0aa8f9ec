//! Mounts and devices as text.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{absolute, parse_memory};
use crate::error::{Error, Result, quote};
use crate::mount::Access;
use crate::spec::path::{clean, is_within};
use crate::spec::{DeviceRequest, MountRequest, MountSource};

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

/// The parts between commas. One that begins with `"` goes to the next `"`,
/// commas included, and holds `""` for `"`: paths may have both.
fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, after) = rest.split_once(',').unwrap_or((rest, ""));
            fields.push(field.to_owned());
            if after.is_empty() {
                return Some(fields);
            }
            rest = after;
            continue;
        };
        rest = loop {
            let (part, after) = quoted.split_once('"')?;
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    quoted = more;
                }
                None => break after,
            }
        };
        fields.push(field);
        if rest.is_empty() {
            return Some(fields);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// `type=bind|tmpfs|volume,source=…,target=…[,readonly][,…]` of `--mount`; a
/// part with a comma in it is put in double quotes.
pub fn parse_mount(text: &str) -> Result<MountRequest> {
    let bad = |why: &str| {
        Error::invalid(format!("mount {}: {why}", quote(text)))
            .with_hint("write type=bind,source=PATH,target=PATH[,readonly]")
    };
    let (mut kind, mut source, mut target) = (None, None, None);
    let mut rest = Vec::new();
    let fields = fields(text).ok_or_else(|| bad("a quoted part does not end at a comma"))?;
    for part in fields
        .iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
    {
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
        // Relabelling is SELinux's, consistency a remote desktop's: nothing
        // is to be done for them.
        "z" | "Z" | "cached" | "consistent" | "delegated" => {}
        _ if FLAGS.contains(&option) => mount.options.push(option.to_owned()),
        _ => return Err(format!("unknown option {}", quote(option))),
    }
    Ok(())
}

/// A `--device-cgroup-rule`: `TYPE MAJOR:MINOR ACCESS`, TYPE one of `a`, `b`
/// and `c`, a number or `*`, ACCESS any of `r`, `w` and `m`.
pub fn parse_device_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || {
        Error::invalid(format!(
            "device cgroup rule {}: want TYPE MAJOR:MINOR ACCESS",
            quote(text)
        ))
        .with_hint("like 'c 10:200 rwm', or 'b *:* r'")
    };
    let words: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = words[..] else {
        return Err(bad());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => text
            .parse::<u32>()
            .map(|n| Some(i64::from(n)))
            .map_err(|_| bad()),
        _ => Err(bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if !is_access(access) {
        return Err(bad());
    }
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(kind))
        .set_major(number(major)?)
        .set_minor(number(minor)?)
        .set_access(Some(access.to_owned()));
    Ok(rule)
}

/// Any of `r`, `w` and `m`, each once.
fn is_access(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'))
        && (1..text.len()).all(|n| !text[..n].contains(&text[n..=n]))
}

/// `HOST[:CONTAINER[:rwm]]` of `--device`; HOST may be a folder of nodes.
pub fn parse_device(text: &str) -> Result<DeviceRequest> {
    let bad = |why: &str| {
        Error::invalid(format!("device {}: {why}", quote(text)))
            .with_hint("write /dev/x[:/dev/y[:rwm]]")
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
    if ["/proc", "/sys"]
        .iter()
        .any(|dir| is_within(&container, dir))
    {
        return Err(bad("no device is made in /proc or /sys"));
    }
    if host.contains('\0') {
        return Err(bad("it holds a NUL"));
    }
    Ok(DeviceRequest {
        host: PathBuf::from(host),
        container,
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::refused;
    use super::*;

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
        let mount = parse_mount(r#"type=bind,"source=/a,""b"" c:d\e",target=/c,"#).expect("quoted");
        assert_eq!(mount.source, MountSource::Path(r#"/a,"b" c:d\e"#.into()));
        for bad in [
            r#"type=bind,"source=/a,target=/c"#,
            r#""source=/a"x,target=/c"#,
        ] {
            refused(parse_mount(bad), bad);
        }
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
            "/dev/a:/dev/b:rr",
            "/dev/a:/proc/x",
            "/dev/a:/dev/../sys/x",
            "/dev/a\0",
        ] {
            refused(parse_device(bad), bad);
        }
    }

    #[test]
    fn device_rules() {
        for (text, shown) in [("c 10:200 rwm", "c 10:200 rwm"), ("b *:* r", "b *:* r")] {
            assert_eq!(parse_device_rule(text).expect(text).to_string(), shown);
        }
        for bad in [
            "",
            "c 10:200",
            "x 1:2 r",
            "c 1 r",
            "c 1:2 x",
            "c 1:2 rr",
            "c -1:2 r",
            "c 1:2  r",
            "c 4294967296:0 r",
            "c :1 r",
        ] {
            refused(parse_device_rule(bad), bad);
        }
    }
}
