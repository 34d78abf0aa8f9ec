//! Users by name or id, looked up in the container's own files.

use crate::error::{Error, ErrorKind, Result, quote};
use crate::fs::Root;
use crate::idmap::IdMapping;

/// Ids are at most this: beyond it some code somewhere takes the number for a
/// negative one, and a negative one for root (CVE-2024-40635).
pub const MAX_ID: u32 = i32::MAX as u32;

/// An `/etc/passwd` or `/etc/group` larger than this is refused.
pub const FILE_LIMIT: u64 = 4 << 20;

/// A user in more groups than this is refused: runc reads tens of thousands
/// of them for minutes.
pub const GROUPS: usize = 1024;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, sorted; the group id among them, so that a file
    /// which denies the group denies this user too.
    pub additional_gids: Vec<u32>,
    /// Home folder; `/` when the container's files do not know the user.
    pub home: String,
}

/// A user as typed: `USER[:GROUP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName {
    /// The user.
    pub user: NameOrId,
    /// The group, when one is named.
    pub group: Option<NameOrId>,
}

/// A name, or a number in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameOrId {
    /// A name to look up.
    Name(String),
    /// A number; digits are never a name.
    Id(u32),
}

/// Reads an id: decimal digits only, at most [`MAX_ID`].
pub fn parse_id(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

/// Reads `USER[:GROUP]`; empty is root.
pub fn parse_user(text: &str) -> Result<UserName> {
    if text.is_empty() {
        return Ok(UserName {
            user: NameOrId::Id(0),
            group: None,
        });
    }
    let part = |part: &str| name_or_id("user", text, part);
    match text.split_once(':') {
        None => Ok(UserName {
            user: part(text)?,
            group: None,
        }),
        Some((user, group)) => Ok(UserName {
            user: part(user)?,
            group: Some(part(group)?),
        }),
    }
}

/// Reads a group: a name or an id.
pub fn parse_group(text: &str) -> Result<NameOrId> {
    name_or_id("group", text, text)
}

/// One part of `text`, which errors show.
fn name_or_id(what: &str, text: &str, part: &str) -> Result<NameOrId> {
    let bad = |why: &str| Error::invalid(format!("{what} {}: {why}", quote(text)));
    // What begins like a number is one: nobody is called -1 or 0x0, and a
    // name like 4294967296 could only be meant to deceive.
    if part.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        return match parse_id(part) {
            Some(id) => Ok(NameOrId::Id(id)),
            None => Err(bad("want a name or an id from 0 to 2147483647")),
        };
    }
    if part.is_empty() {
        return Err(bad("a user or group is missing beside the colon"));
    }
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | ',' | ':');
    if part.contains(is_odd) {
        return Err(bad("want a name or an id from 0 to 2147483647"));
    }
    Ok(NameOrId::Name(part.to_owned()))
}

/// Resolves `USER[:GROUP]` by `/etc/passwd` and `/etc/group` in the root.
///
/// Without a group, the user's own and those that list it apply (OCI
/// image-spec `config.md`, "User"); with one, only that one.
pub fn resolve(root: &Root, text: &str) -> Result<ResolvedUser> {
    let wanted = parse_user(text)?;
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;

    let entry = passwd.lines().find_map(|line| match &wanted.user {
        NameOrId::Name(name) => Passwd::parse(line).filter(|entry| entry.name == name),
        NameOrId::Id(id) => {
            Passwd::parse(line).filter(|entry| parse_id(entry.uid).is_some_and(|uid| uid == *id))
        }
    });
    let (uid, own_gid) = match (&wanted.user, &entry) {
        (NameOrId::Id(id), None) => (*id, 0),
        (NameOrId::Name(name), None) => {
            return Err(Error::not_found(format!(
                "user {}: the image's /etc/passwd does not name it",
                quote(name)
            ))
            .with_hint("give a numeric id instead"));
        }
        (_, Some(entry)) => (
            id_in_file(entry.uid, entry.name, "/etc/passwd")?,
            id_in_file(entry.gid, entry.name, "/etc/passwd")?,
        ),
    };

    let mut additional_gids = Vec::new();
    let gid = match &wanted.group {
        Some(NameOrId::Id(id)) => *id,
        Some(NameOrId::Name(name)) => group_by_name(&group, name)?,
        None => {
            if let Some(user) = &entry {
                for entry in group.lines().filter_map(Group::parse) {
                    if entry.members.split(',').any(|member| member == user.name) {
                        additional_gids.push(id_in_file(entry.gid, entry.name, "/etc/group")?);
                    }
                }
            }
            own_gid
        }
    };
    additional_gids.push(gid);
    additional_gids.sort_unstable();
    additional_gids.dedup();
    if additional_gids.len() > GROUPS {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "user {}: the image's /etc/group lists it in {} groups, more than the {GROUPS} allowed",
                quote(text),
                additional_gids.len()
            ),
        )
        .with_hint("name one group: --user USER:GROUP"));
    }
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| home.starts_with('/') && !home.chars().any(char::is_control))
        .unwrap_or("/")
        .to_owned();
    Ok(ResolvedUser {
        uid,
        gid,
        additional_gids,
        home,
    })
}

/// Adds supplementary groups, names or ids.
pub fn add_groups(root: &Root, user: &mut ResolvedUser, groups: &[String]) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let file = read(root, "/etc/group")?;
    for text in groups {
        let gid = match parse_group(text)? {
            NameOrId::Id(id) => id,
            NameOrId::Name(name) => group_by_name(&file, &name)?,
        };
        user.additional_gids.push(gid);
    }
    user.additional_gids.sort_unstable();
    user.additional_gids.dedup();
    Ok(())
}

fn group_by_name(file: &str, name: &str) -> Result<u32> {
    let entry = file
        .lines()
        .filter_map(Group::parse)
        .find(|entry| entry.name == name)
        .ok_or_else(|| {
            Error::not_found(format!(
                "group {}: the image's /etc/group does not name it",
                quote(name)
            ))
            .with_hint("give a numeric id instead")
        })?;
    id_in_file(entry.gid, entry.name, "/etc/group")
}

impl ResolvedUser {
    /// Refuses ids that the container does not have.
    pub(super) fn check_mapped(&self, users: &IdMapping) -> Result<()> {
        let missing = |what: &str, id: u32| {
            Err(Error::invalid(format!(
                "{what} {id}: it is outside the container's mapped ids"
            ))
            .with_hint("ask for more with --userns auto:size=N or --uidmap and --gidmap"))
        };
        if users.host_uid(self.uid).is_none() {
            return missing("user", self.uid);
        }
        let gids = self.additional_gids.iter().chain([&self.gid]);
        match gids.copied().find(|gid| users.host_gid(*gid).is_none()) {
            Some(gid) => missing("group", gid),
            None => Ok(()),
        }
    }
}

/// A missing file knows nobody; one that cannot be read is an error.
fn read(root: &Root, path: &str) -> Result<String> {
    match root.read(path, FILE_LIMIT) {
        Ok(data) => Ok(String::from_utf8_lossy(&data).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error.context("image")),
    }
}

fn id_in_file(id: &str, name: &str, file: &str) -> Result<u32> {
    parse_id(id).ok_or_else(|| {
        Error::invalid(format!(
            "{}: the image's {file} gives it the id {}; want 0 to 2147483647",
            quote(name),
            quote(id)
        ))
    })
}

struct Passwd<'a> {
    name: &'a str,
    uid: &'a str,
    gid: &'a str,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    fn parse(line: &'a str) -> Option<Passwd<'a>> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let uid = fields.next()?;
        let gid = fields.next()?;
        let _comment = fields.next();
        let home = fields.next().unwrap_or("");
        Some(Passwd {
            name,
            uid,
            gid,
            home,
        })
    }
}

struct Group<'a> {
    name: &'a str,
    gid: &'a str,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Group<'a>> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let gid = fields.next()?;
        let members = fields.next().unwrap_or("");
        Some(Group { name, gid, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        app:x:1000:1001:App,,,:/home/app:/bin/sh\n\
        1000:x:0:0:evil:/:/bin/sh\n\
        big:x:4294967296:0::/:\n\
        hex:x:0x0:0::/:\n\
        minus:x:-1:0::/:\n\
        nohome:x:7:7::\n\
        broken\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\nweb:x:33:app\napp:x:1001:\n\
        huge:x:4294967296:nobody\n";

    fn rootfs() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        std::fs::write(dir.path().join("etc/passwd"), PASSWD).expect("write");
        std::fs::write(dir.path().join("etc/group"), GROUP).expect("write");
        let root = Root::open(dir.path()).expect("root");
        (dir, root)
    }

    #[test]
    fn names_and_ids_resolve() {
        let (_dir, root) = rootfs();
        for (text, uid, gid, gids, home) in [
            ("", 0, 0, &[0, 10][..], "/root"),
            ("root", 0, 0, &[0, 10], "/root"),
            ("app", 1000, 1001, &[10, 33, 1001], "/home/app"),
            ("1000", 1000, 1001, &[10, 33, 1001], "/home/app"),
            ("app:web", 1000, 33, &[33], "/home/app"),
            ("app:0", 1000, 0, &[0], "/home/app"),
            ("5:6", 5, 6, &[6], "/"),
            ("5", 5, 0, &[0], "/"),
            ("nohome", 7, 7, &[7], "/"),
            ("2147483647", 2147483647, 0, &[0], "/"),
        ] {
            let user = resolve(&root, text).expect(text);
            assert_eq!((user.uid, user.gid), (uid, gid), "{text}");
            assert_eq!(user.additional_gids, gids, "{text}");
            assert_eq!(user.home, home, "{text}");
        }
    }

    #[test]
    fn ids_out_of_range_never_become_root() {
        let (_dir, root) = rootfs();
        for bad in [
            "4294967296",
            "2147483648",
            "-1",
            "0x0",
            "+0",
            "00000000000000000000004294967296",
            "0:-1",
            "0:4294967296",
            "big",
            "hex",
            "minus",
            "app:huge",
            ":",
            "app:",
            ":app",
            "nobody",
            "app:nobody",
            "a b",
            "a\nb",
            "broken",
        ] {
            let error = resolve(&root, bad).expect_err(bad);
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    }

    #[test]
    fn groups_are_added_and_ids_must_be_mapped() {
        let (_dir, root) = rootfs();
        let mut user = resolve(&root, "app").expect("app");
        let groups = ["web".to_owned(), "7".into(), "7".into()];
        add_groups(&root, &mut user, &groups).expect("groups");
        assert_eq!(user.additional_gids, [7, 10, 33, 1001]);
        for bad in ["nobody", "-1", "", "a:b", "4294967296", "huge"] {
            assert!(
                add_groups(&root, &mut user, &[bad.to_owned()]).is_err(),
                "{bad}"
            );
        }
        let users = |count: u32| format!("0:100000:{count}").parse().expect("mapping");
        user.check_mapped(&users(1002)).expect("all are there");
        for count in [1000, 1001] {
            assert!(user.check_mapped(&users(count)).is_err(), "{count}");
        }
    }

    #[test]
    fn a_user_in_too_many_groups_is_refused() {
        let (dir, root) = rootfs();
        let write = |count: usize| {
            let groups: String = (2..count + 1)
                .map(|n| format!("g{n}:x:{n}:root\n"))
                .collect();
            std::fs::write(dir.path().join("etc/group"), groups).expect("write");
        };
        // The user's own counts too.
        write(GROUPS);
        let user = resolve(&root, "root").expect("as many as allowed");
        assert_eq!(user.additional_gids.len(), GROUPS);
        write(GROUPS + 1);
        let error = resolve(&root, "root").expect_err("one more");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        resolve(&root, "root:g7").expect("one named");
    }

    #[test]
    fn the_hosts_files_are_never_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).expect("mkdir");
        std::os::unix::fs::symlink("../../../../../../etc/group", etc.join("group"))
            .expect("symlink");
        std::os::unix::fs::symlink("/etc/shadow-of-host", etc.join("passwd")).expect("symlink");
        let root = Root::open(dir.path()).expect("root");
        // The first leads to itself in the root, the second to nothing.
        assert!(resolve(&root, "root").is_err());
        std::fs::remove_file(etc.join("group")).expect("rm");
        assert_eq!(resolve(&root, "3").expect("numeric").uid, 3);

        std::fs::remove_file(etc.join("passwd")).expect("rm");
        let file = std::fs::File::create(etc.join("passwd")).expect("create");
        file.set_len(FILE_LIMIT + 1).expect("grow");
        let error = resolve(&root, "0").expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }
}
