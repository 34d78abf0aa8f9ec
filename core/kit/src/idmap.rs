//! Users and groups of a container that are other users and groups of the
//! host (user_namespaces(7)).
//!
//! The container's root is then nobody on the host. Its files keep the ids
//! that they have on disk: layers are mounted through an
//! [id-mapped mount](IdMapping::mounts), which shows id 0 as the host's id of
//! the container's root, and nothing is copied or changed. What the container
//! writes belongs to the mapped ids, on disk too.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, IoContext, Result, quote};
use crate::fs::read_file;
use crate::ids::ContainerId;
use crate::mount::Mount;

/// What a container gets when nobody says how many.
const DEFAULT_SIZE: u32 = 1 << 16;

/// What is taken where `/etc/subuid` and `/etc/subgid` give root nothing: the
/// range that systemd keeps for containers.
const FALLBACK: Range = Range {
    start: 0x0008_0000,
    count: 0x6ff8_0000,
};

const FILE_LIMIT: u64 = 4 << 20;

/// The kernel takes no more lines.
const LINES: usize = 340;

/// The option of a [`Mount`] that maps: every `lowerdir+=` after it, or the
/// source of a bind.
pub(crate) const OPTION: &str = "idmap";

/// A run of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// The first in the container.
    pub container: u32,
    /// The first on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

impl FromStr for IdMap {
    type Err = Error;

    /// `CONTAINER:HOST:COUNT`.
    fn from_str(text: &str) -> Result<IdMap> {
        let numbers: Option<Vec<u32>> = text
            .split(':')
            .map(|part| match part.bytes().all(|b| b.is_ascii_digit()) {
                true => part.parse().ok(),
                false => None,
            })
            .collect();
        match numbers.as_deref() {
            Some(&[container, host, count])
                if count > 0
                    && container.checked_add(count).is_some()
                    && host.checked_add(count).is_some() =>
            {
                Ok(IdMap {
                    container,
                    host,
                    count,
                })
            }
            _ => Err(Error::invalid(format!(
                "mapping of ids {}: want CONTAINER:HOST:COUNT, like 0:100000:65536",
                quote(text)
            ))),
        }
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.container, self.host, self.count)
    }
}

/// A mapping of users and one of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMapping {
    uids: Vec<IdMap>,
    gids: Vec<IdMap>,
}

impl IdMapping {
    /// Refuses mappings that overlap or leave the container without a root.
    pub fn new(uids: Vec<IdMap>, gids: Vec<IdMap>) -> Result<IdMapping> {
        for (what, maps) in [("users", &uids), ("groups", &gids)] {
            let bad = |why: &str| Err(Error::invalid(format!("mapping of {what}: {why}")));
            if maps.len() > LINES {
                return bad(&format!("more than the kernel's {LINES} ranges"));
            }
            if find(maps, 0).is_none() {
                return bad("id 0, the container's root, is not in it");
            }
            let overlap = |start: fn(&IdMap) -> u32| {
                let mut sorted: Vec<(u32, u32)> =
                    maps.iter().map(|map| (start(map), map.count)).collect();
                sorted.sort_unstable();
                sorted
                    .windows(2)
                    .any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
            };
            if overlap(|map| map.container) || overlap(|map| map.host) {
                return bad("two ranges overlap");
            }
        }
        Ok(IdMapping { uids, gids })
    }

    /// Of the users.
    pub fn uids(&self) -> &[IdMap] {
        &self.uids
    }

    /// Of the groups.
    pub fn gids(&self) -> &[IdMap] {
        &self.gids
    }

    /// The host's id of a user of the container.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        find(&self.uids, uid)
    }

    /// The host's id of a group of the container.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        find(&self.gids, gid)
    }

    /// Whether an id of the host belongs to the container.
    fn has_host_uid(&self, uid: u32) -> bool {
        self.uids
            .iter()
            .any(|map| (map.host..map.host + map.count).contains(&uid))
    }

    /// The mounts of a root file system for a container with these users:
    /// layers and folders are mapped. The folder of an overlay that is written
    /// to is given to the mapped owner once; one that is his already stays.
    pub fn mounts(&self, mounts: Vec<Mount>) -> Result<Vec<Mount>> {
        mounts.into_iter().map(|mount| self.mount(mount)).collect()
    }

    fn mount(&self, mut mount: Mount) -> Result<Mount> {
        let option = format!("{OPTION}={self}");
        if mount.fstype == "overlay" {
            for option in &mount.options {
                if let Some(upper) = option.strip_prefix("upperdir=") {
                    self.give(Path::new(upper))?;
                }
            }
            let first = mount
                .options
                .iter()
                .position(|option| option.starts_with("lowerdir+="));
            mount.options.insert(first.unwrap_or(0), option);
            return Ok(mount);
        }
        let is_bind = mount.fstype == "bind"
            || mount
                .options
                .iter()
                .any(|o| matches!(o.as_str(), "bind" | "rbind"));
        if !is_bind {
            return Err(Error::precondition(format!(
                "the users of a {} file system cannot be mapped",
                quote(&mount.fstype)
            )));
        }
        let meta = std::fs::metadata(&mount.source)
            .io_context(|| format!("stat {}", quote(&mount.source)))?;
        // A folder that was made for mapped users has their ids on disk.
        if !self.has_host_uid(meta.uid()) {
            mount.options.push(option);
        }
        Ok(mount)
    }

    fn give(&self, upper: &Path) -> Result<()> {
        let what = || {
            format!(
                "give {} to the mapped users",
                quote(&upper.to_string_lossy())
            )
        };
        let meta = std::fs::symlink_metadata(upper).io_context(what)?;
        if self.has_host_uid(meta.uid()) {
            return Ok(());
        }
        let (uid, gid) = (self.host_uid(meta.uid()), self.host_gid(meta.gid()));
        std::os::unix::fs::lchown(upper, uid, gid).io_context(what)
    }

    /// Refuses a path that the container's root could not pass to.
    pub fn check_reach(&self, path: &Path) -> Result<()> {
        for folder in path.ancestors().skip(1) {
            let Ok(meta) = std::fs::metadata(folder) else {
                continue;
            };
            if meta.mode() & 0o001 == 0 && !self.has_host_uid(meta.uid()) {
                return Err(Error::precondition(format!(
                    "folder {}: mapped users cannot pass it on their way to {}",
                    quote(&folder.to_string_lossy()),
                    quote(&path.to_string_lossy())
                ))
                .with_hint(format!("chmod o+x {}", folder.display())));
            }
        }
        Ok(())
    }
}

/// `CONTAINER:HOST:COUNT,…` of the users, `;`, and of the groups.
impl fmt::Display for IdMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |maps: &[IdMap]| {
            let words: Vec<String> = maps.iter().map(IdMap::to_string).collect();
            words.join(",")
        };
        write!(f, "{};{}", list(&self.uids), list(&self.gids))
    }
}

impl FromStr for IdMapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<IdMapping> {
        let list = |text: &str| text.split(',').map(str::parse).collect::<Result<Vec<_>>>();
        let (uids, gids) = text.split_once(';').unwrap_or((text, text));
        IdMapping::new(list(uids)?, list(gids)?)
    }
}

fn find(maps: &[IdMap], id: u32) -> Option<u32> {
    maps.iter()
        .find(|map| id >= map.container && id - map.container < map.count)
        .map(|map| map.host + (id - map.container))
}

/// Which users a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UserNamespace {
    /// The host's.
    #[default]
    Host,
    /// A range of its own out of what `/etc/subuid` and `/etc/subgid` give to
    /// `containers`, else to `root`, else of 524288 to 1879048191. The
    /// container's id says which one, so that two rarely share one.
    Auto {
        /// How many ids; 65536 without it.
        size: Option<u32>,
    },
    /// These.
    Mapped(IdMapping),
}

impl UserNamespace {
    /// The mapping of the container `id`; the same each time it is asked for,
    /// as long as the host's files say the same.
    pub fn mapping(&self, id: &ContainerId) -> Result<Option<IdMapping>> {
        let size = match self {
            UserNamespace::Host => return Ok(None),
            UserNamespace::Mapped(mapping) => return Ok(Some(mapping.clone())),
            UserNamespace::Auto { size } => size.unwrap_or(DEFAULT_SIZE),
        };
        let choose = |path: &str| {
            let text = match read_file(Path::new(path), FILE_LIMIT) {
                Ok(data) => String::from_utf8_lossy(&data).into_owned(),
                Err(error) if error.kind() == crate::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(error),
            };
            let host = slot(&subordinate(&text), size, hash(id)).ok_or_else(|| {
                Error::precondition(format!(
                    "{path} gives containers no range of {size} ids in one piece"
                ))
                .with_hint("ask for less with --userns auto:size=N, or name a range with --uidmap")
            })?;
            Ok(vec![IdMap {
                container: 0,
                host,
                count: size,
            }])
        };
        IdMapping::new(choose("/etc/subuid")?, choose("/etc/subgid")?).map(Some)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    count: u32,
}

/// What a subuid(5) file gives to containers that root makes.
fn subordinate(text: &str) -> Vec<Range> {
    let of = |names: &[&str]| -> Vec<Range> {
        text.lines()
            .filter_map(|line| {
                let mut fields = line.trim().split(':');
                names.contains(&fields.next()?).then_some(())?;
                let start = fields.next()?.parse().ok()?;
                let count = fields.next()?.parse().ok()?;
                u32::checked_add(start, count).map(|_| Range { start, count })
            })
            .collect()
    };
    [&["containers"][..], &["root", "0"]]
        .into_iter()
        .map(of)
        .find(|ranges| !ranges.is_empty())
        .unwrap_or_else(|| vec![FALLBACK])
}

/// The start of one of the pieces of `size` ids.
fn slot(ranges: &[Range], size: u32, hash: u64) -> Option<u32> {
    let pieces = |range: &Range| u64::from(range.count.checked_div(size).unwrap_or(0));
    let total: u64 = ranges.iter().map(pieces).sum();
    let mut number = hash.checked_rem(total)?;
    for range in ranges {
        if number < pieces(range) {
            // Less than the range's count, which is a u32.
            return Some(range.start + number as u32 * size);
        }
        number -= pieces(range);
    }
    None
}

/// FNV-1a: stable, and ids are random already.
fn hash(id: &ContainerId) -> u64 {
    id.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Access;

    fn mapping(text: &str) -> IdMapping {
        text.parse().expect(text)
    }

    #[test]
    fn a_mapping_is_read_and_written() {
        let map = mapping("0:100000:1000,1000:1000:1");
        assert_eq!(map.to_string().parse::<IdMapping>(), Ok(map.clone()));
        assert_eq!(map.host_uid(0), Some(100_000));
        assert_eq!(map.host_uid(999), Some(100_999));
        assert_eq!(map.host_gid(1000), Some(1000));
        assert_eq!(map.host_uid(1001), None);
        for bad in [
            "",
            "0",
            "0:1",
            "0:1:0",
            "0:-1:1",
            "0:4294967295:2",
            "1:100000:5",
            "0:1:2:3",
            "0:1:5,3:9:2",
            "0:1:5,5:3:2",
            "0:1:+5",
            "a:b:c",
            "0:1:5;",
        ] {
            assert!(bad.parse::<IdMapping>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_of_the_hosts_files_are_cut_into_pieces() {
        let text = "alice:100000:65536\n# x\nroot:200000:65536\ncontainers:1000000:131072\nbad\ncontainers:x:1\n";
        let ranges = subordinate(text);
        assert_eq!(ranges.len(), 1);
        assert_eq!(slot(&ranges, 65536, 0), Some(1_000_000));
        assert_eq!(slot(&ranges, 65536, 3), Some(1_065_536));
        assert_eq!(slot(&ranges, 131_072, 7), Some(1_000_000));
        assert_eq!(slot(&ranges, 131_073, 7), None);
        assert_eq!(slot(&ranges, 0, 7), None);
        assert_eq!(subordinate("root:5:6\n"), [Range { start: 5, count: 6 }]);
        assert_eq!(subordinate("alice:5:6\n"), [FALLBACK]);
        let last = slot(&[FALLBACK], DEFAULT_SIZE, u64::MAX).expect("slot");
        assert!(last + DEFAULT_SIZE <= FALLBACK.start + FALLBACK.count);
        let id: ContainerId = "0123456789abcdef".parse().expect("id");
        let auto = UserNamespace::Auto { size: Some(10) };
        assert_eq!(auto.mapping(&id), auto.mapping(&id));
    }

    #[test]
    fn layers_are_mapped_and_a_read_only_look_sees_the_same() {
        let dir = tempfile::tempdir().expect("tempdir");
        let upper = dir.path().join("upper");
        std::fs::create_dir(&upper).expect("mkdir");
        // Every id is its own here, so that this needs no privilege.
        let own = mapping("0:0:2147483647");
        let mount = Mount {
            fstype: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                "index=off".into(),
                "lowerdir+=/b".into(),
                format!("upperdir={}", upper.display()),
                "workdir=/w".into(),
            ],
        };
        let mounts = own.mounts(vec![mount]).expect("mounts");
        let map = format!("idmap={own}");
        assert_eq!(
            mounts[0].options[1..3],
            [map.clone(), "lowerdir+=/b".into()]
        );
        // The upper's files have their ids on the host already.
        let look = mounts[0].clone().read_only();
        let lower = format!("lowerdir+={}", upper.display());
        assert_eq!(look.options[1..3], [lower, map]);

        let bind = Mount::bind(dir.path(), Access::ReadWrite);
        let other = mapping("0:2000000000:10");
        let mapped = other.mounts(vec![bind.clone()]).expect("bind");
        assert!(mapped[0].options.iter().any(|o| o.starts_with("idmap=")));
        assert_eq!(own.mounts(vec![bind.clone()]).expect("bind"), [bind]);
        let tmpfs = Mount {
            fstype: "tmpfs".into(),
            ..Mount::default()
        };
        assert!(other.mounts(vec![tmpfs]).is_err());
    }

    #[test]
    fn a_private_folder_on_the_way_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let inner = dir.path().join("a/b");
        crate::fs::ensure_dir(&inner, 0o711).expect("mkdir");
        let chmod = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), mode).expect("chmod");
        };
        let map = mapping("0:2000000000:10");
        chmod(0o700);
        let error = map.check_reach(&inner).expect_err("a private folder");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("chmod")),
            "{error}"
        );
        chmod(0o711);
        map.check_reach(&inner).expect("open");
    }
}
