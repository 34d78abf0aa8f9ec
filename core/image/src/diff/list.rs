//! From what a walk found to what a layer holds, in its order.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::walk::{Changed, Found};
use super::{Change, ChangeKind};
use crate::apply::clamp;

/// Paths whose order is that of a walk: a folder, all that is in it, and then
/// what comes after it. No name holds a NUL.
type Key = Vec<u8>;

fn key(path: &[u8]) -> Key {
    path.iter()
        .map(|byte| if *byte == b'/' { 0 } else { *byte })
        .collect()
}

fn path(key: &[u8]) -> Vec<u8> {
    key.iter()
        .map(|byte| if *byte == 0 { b'/' } else { *byte })
        .collect()
}

/// All that is in the layer, in order.
pub(super) fn list(found: Found, mount_points: &[PathBuf]) -> Vec<Change> {
    let mut changes: BTreeMap<Key, Changed> = found
        .changes
        .into_iter()
        .map(|(path, changed)| (key(&path), changed))
        .collect();
    drop_mount_points(&mut changes, mount_points);
    let mut all: BTreeMap<Key, ChangeKind> = changes
        .into_iter()
        .map(|(key, changed)| (key, changed.kind))
        .collect();
    // A name that did not change would keep the old file.
    for names in found.links.into_values() {
        let names: Vec<Key> = names.iter().map(|name| key(name)).collect();
        if names.iter().any(|name| all.contains_key(name)) {
            for name in names {
                all.entry(name).or_insert(ChangeKind::Kept);
            }
        }
    }
    let keys: Vec<Key> = all.keys().cloned().collect();
    for key in &keys {
        let mut above = &key[..];
        while let Some(slash) = above.iter().rposition(|byte| *byte == 0) {
            above = &above[..slash];
            if all.contains_key(above) {
                break;
            }
            all.insert(above.to_vec(), ChangeKind::Kept);
        }
    }
    all.into_iter()
        .map(|(key, kind)| Change {
            path: path(&key),
            kind,
        })
        .collect()
}

/// What a runtime made to mount on is nothing that the container did.
fn drop_mount_points(changes: &mut BTreeMap<Key, Changed>, mount_points: &[PathBuf]) {
    let mut points: Vec<Key> = mount_points
        .iter()
        .map(|point| key(&clamp(point.as_os_str().as_bytes())))
        .collect();
    // What is in a mount point before the point itself.
    points.sort_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        let made = changes
            .get(&point)
            .is_some_and(|changed| changed.kind == ChangeKind::Added && changed.hollow);
        if !made || point.is_empty() || any_below(changes, &point) {
            continue;
        }
        changes.remove(&point);
        // Nor is the time that making it gave the folder above.
        let above = point.iter().rposition(|byte| *byte == 0).unwrap_or(0);
        let above = &point[..above];
        if changes.get(above).is_some_and(|changed| changed.touched) && !any_below(changes, above) {
            changes.remove(above);
        }
    }
}

fn any_below(changes: &BTreeMap<Key, Changed>, folder: &[u8]) -> bool {
    let start = [folder, &[0]].concat();
    let next = changes.range(start.clone()..).next();
    next.is_some_and(|(key, _)| key.starts_with(&start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(changes: &[(&str, ChangeKind)], links: &[&[&str]]) -> Found {
        let changed = |(path, kind): &(&str, ChangeKind)| {
            let changed = Changed {
                kind: *kind,
                hollow: true,
                touched: *kind == ChangeKind::Modified,
            };
            (path.as_bytes().to_vec(), changed)
        };
        let bytes = |names: &&[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        Found {
            changes: changes.iter().map(changed).collect(),
            links: links
                .iter()
                .zip(1..)
                .map(|(names, inode)| ((0, inode), bytes(names)))
                .collect(),
        }
    }

    fn text(changes: &[Change]) -> String {
        changes
            .iter()
            .map(|change| {
                let path = String::from_utf8_lossy(&change.path);
                format!("{}{path} ", change.kind.letter())
            })
            .collect()
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_after_their_elders() {
        use ChangeKind::*;
        let changes = list(
            found(
                &[("a-b", Added), ("a/b/c", Modified), ("a.b", Deleted)],
                &[],
            ),
            &[],
        );
        assert_eq!(text(&changes), ".a .a/b Ca/b/c Aa-b Da.b ");
    }

    #[test]
    fn a_changed_name_brings_the_others() {
        use ChangeKind::*;
        let changes = list(
            found(&[("d2/l1", Added)], &[&["d1/f1", "d2/l1"], &["x", "y"]]),
            &[],
        );
        assert_eq!(text(&changes), ".d1 .d1/f1 .d2 Ad2/l1 ");
    }

    #[test]
    fn mount_points_are_no_changes_unless_something_is_in_them() {
        use ChangeKind::*;
        let points = ["/proc", "/dev", "/dev/pts", "/etc/hosts", "/data", "/old"];
        let changes = list(
            found(
                &[
                    ("proc", Added),
                    ("dev", Added),
                    ("dev/pts", Added),
                    ("etc", Modified),
                    ("etc/hosts", Added),
                    ("data", Added),
                    ("data/file", Added),
                    ("old", Modified),
                ],
                &[],
            ),
            &points.map(PathBuf::from),
        );
        assert_eq!(text(&changes), "Adata Adata/file Cold ");
    }
}
