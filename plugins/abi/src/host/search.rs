//! Where a driver's file is found.

use std::path::{Path, PathBuf};

/// One place that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The file.
    pub path: PathBuf,
    /// `found`, or why not.
    pub outcome: String,
}

/// Finds a driver's file, and tells every place that was tried, in order.
///
/// An absolute path is itself. A bare name is looked for in each entry of
/// `driver_path`; then, with `beside_binary`, in the folder of the running
/// binary (and the one above, for a test binary in cargo's `deps`) and in
/// `../lib/containerkit/drivers` beside that folder. The first that exists is
/// taken, and is used or refused: a driver that does not load is never passed
/// over for another. The environment is not asked.
pub fn search(
    name: &str,
    driver_path: &[PathBuf],
    beside_binary: bool,
) -> (Option<PathBuf>, Vec<Tried>) {
    let mut tried = Vec::new();
    let path = Path::new(name);
    if path.is_absolute() {
        let found = try_file(path.to_path_buf(), &mut tried);
        return (found, tried);
    }
    if name.is_empty() || name.contains(['/', '\0']) || matches!(name, "." | "..") {
        tried.push(Tried {
            path: path.to_path_buf(),
            outcome: "neither an absolute path nor a bare file name".into(),
        });
        return (None, tried);
    }
    let mut folders: Vec<PathBuf> = driver_path.to_vec();
    if beside_binary {
        folders.extend(binary_folders());
    }
    for folder in folders {
        if !folder.is_absolute() {
            tried.push(Tried {
                path: folder.join(name),
                outcome: "the folder is not an absolute path".into(),
            });
            continue;
        }
        if let Some(found) = try_file(folder.join(name), &mut tried) {
            return (Some(found), tried);
        }
    }
    (None, tried)
}

fn binary_folders() -> Vec<PathBuf> {
    let Ok(binary) = std::env::current_exe() else {
        return Vec::new();
    };
    let Some(folder) = binary.parent() else {
        return Vec::new();
    };
    let mut folders = vec![folder.to_path_buf()];
    if folder.file_name().is_some_and(|name| name == "deps") {
        folders.extend(folder.parent().map(Path::to_path_buf));
    }
    if let Some(above) = folder.parent() {
        folders.push(above.join("lib/containerkit/drivers"));
    }
    folders
}

fn try_file(path: PathBuf, tried: &mut Vec<Tried>) -> Option<PathBuf> {
    let outcome = match std::fs::metadata(&path) {
        Ok(_) => {
            tried.push(Tried {
                path: path.clone(),
                outcome: "found".into(),
            });
            return Some(path);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "not there".into(),
        Err(error) => error.to_string(),
    };
    tried.push(Tried { path, outcome });
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_found_in_order_and_every_place_is_told() {
        let first = tempfile::tempdir().expect("tempdir");
        let second = tempfile::tempdir().expect("tempdir");
        let path = [first.path().to_path_buf(), second.path().to_path_buf()];
        let (found, tried) = search("libx.so", &path, true);
        assert_eq!(found, None);
        assert!(tried.len() >= 5, "{tried:?}");
        std::fs::write(second.path().join("libx.so"), "").expect("write");
        let (found, tried) = search("libx.so", &path, true);
        assert_eq!(found, Some(second.path().join("libx.so")));
        assert_eq!(tried[0].outcome, "not there");
        assert_eq!(tried[1].outcome, "found");
        std::fs::write(first.path().join("libx.so"), "").expect("write");
        assert_eq!(
            search("libx.so", &path, true).0,
            Some(first.path().join("libx.so"))
        );
    }

    #[test]
    fn what_is_no_name_is_searched_nowhere() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("a")).expect("mkdir");
        std::fs::write(dir.path().join("a/x.so"), "").expect("write");
        let path = [dir.path().to_path_buf(), PathBuf::from("relative")];
        for name in ["", ".", "..", "a/x.so", "../x", "a\0b"] {
            let (found, tried) = search(name, &path, true);
            assert_eq!(found, None, "{name:?}");
            assert_eq!(tried.len(), 1, "{name:?}");
        }
        let (_, tried) = search("x.so", &path, false);
        assert_eq!(tried.len(), 2);
        assert!(tried[1].outcome.contains("absolute"), "{tried:?}");
    }
}
