//! The drivers of `tests/fixtures`: built when a test first asks for them, by
//! one process at a time, offline, with the versions of their own lock file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// The folder that cargo builds this workspace in.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path");
    exe.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .expect("a test binary lies in cargo's target folder")
        .to_path_buf()
}

/// The top of this checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the checkout")
}

/// A fixture's shared object, built against this checkout: `memory` or
/// `process`.
pub fn library(name: &str) -> PathBuf {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    let out = OUT.get_or_init(|| {
        let manifest = checkout().join("tests/fixtures/Cargo.toml");
        build(&manifest, "this", &["fixture-memory", "fixture-process"])
    });
    out.join(format!("libfixture_{name}.so"))
}

/// The program of the fixtures, which loads and uses the snapshotters that it
/// is given, built against this checkout.
pub fn host() -> PathBuf {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    let out = OUT.get_or_init(|| {
        let manifest = checkout().join("tests/fixtures/Cargo.toml");
        // Apart from the drivers, which must not get its features.
        build(&manifest, "host", &["fixture-host"])
    });
    out.join("fixture-host")
}

/// The drivers of every version of the ABI that was published, by version.
pub fn published() -> &'static BTreeMap<String, PathBuf> {
    static OUT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    OUT.get_or_init(|| {
        let folder = checkout().join("tests/fixtures/published");
        let versions = fs::read_dir(folder).expect("read the published versions");
        versions
            .map(|version| {
                let version = version.expect("read the published versions");
                let name = version.file_name().into_string().expect("a version");
                let manifest = version.path().join("Cargo.toml");
                let out = build(&manifest, &name, &["containerkit-plugin"]);
                (name, out.join("libcontainerkit_plugin.so"))
            })
            .collect()
    })
}

/// The shared object of a driver that does what no driver may, as its option
/// `deeds` says: `DEED@METHOD`.
pub fn misbehave() -> PathBuf {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    let out = OUT.get_or_init(|| {
        let manifest = checkout().join("tests/fixtures/misbehave/Cargo.toml");
        build(&manifest, "misbehave", &["fixture-misbehave"])
    });
    out.join("libfixture_misbehave.so")
}

/// The folder of the third parties' drivers, built in their own workspace.
pub fn third_party() -> PathBuf {
    let target = crate::kit::built().parent().expect("the target folder");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(checkout().join("tests/third-party/Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status()
        .expect("run cargo");
    assert!(status.success(), "build tests/third-party");
    target.join("debug")
}

/// The third party's copying snapshotter.
pub fn native() -> PathBuf {
    third_party().join("libcontainerkit_native.so")
}

/// The drivers in memory over an allocator of their own.
pub fn allocator() -> PathBuf {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    let out = OUT.get_or_init(|| {
        let manifest = checkout().join("tests/fixtures/Cargo.toml");
        build(&manifest, "allocator", &["fixture-allocator"])
    });
    out.join("libfixture_allocator.so")
}

/// What the compiler says of a fixture that is built with `panic = "abort"`.
pub fn build_with_abort(package: &str) -> std::process::Output {
    let target = target_dir().join("fixtures");
    let _lock = lock(&target, "build");
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["rustc", "--offline", "--package", package])
        .arg("--manifest-path")
        .arg(checkout().join("tests/fixtures/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .args(["--", "-C", "panic=abort"])
        .output()
        .expect("run cargo")
}

/// A change of one file: what is replaced by what.
pub struct Edit {
    /// The file, from the top of the checkout.
    pub file: &'static str,
    /// What must be there.
    pub from: &'static str,
    /// What takes its place.
    pub to: &'static str,
}

/// The fixtures built against a copy of the SDK that was edited, in a folder
/// `name`: `libfixture_memory.so` and the program `fixture-host`.
pub fn variant(name: &'static str, edits: &[Edit]) -> PathBuf {
    static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().expect("no build failed before");
    if let Some(out) = built.get(name) {
        return out.clone();
    }
    let _lock = lock(&target_dir().join("fixtures"), &format!("variant-{name}"));
    let copy = target_dir().join("fixtures/variants").join(name);
    let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
    for edit in edits {
        let file = checkout().join(edit.file);
        let text = texts
            .entry(file.clone())
            .or_insert_with(|| fs::read_to_string(&file).expect("read a file to edit"));
        assert!(
            text.contains(edit.from),
            "{}: no {:?} to edit",
            edit.file,
            edit.from
        );
        *text = text.replace(edit.from, edit.to);
    }
    for folder in ["core/kit", "plugins/abi", "tests/fixtures"] {
        copy_tree(&checkout().join(folder), &copy.join(folder), &texts);
    }
    let workspace = fs::read_to_string(checkout().join("Cargo.toml")).expect("read Cargo.toml");
    let (head, rest) = workspace.split_once("members = [").expect("members");
    let (_, tail) = rest.split_once("\n]\n").expect("end of members");
    let workspace = format!("{head}members = [\"core/kit\", \"plugins/abi\"]\n{tail}");
    write(&copy.join("Cargo.toml"), workspace.as_bytes());
    let manifest = copy.join("tests/fixtures/Cargo.toml");
    build(&manifest, name, &["fixture-memory"]);
    let out = build(&manifest, name, &["fixture-host"]);
    built.insert(name, out.clone());
    out
}

/// Builds packages of a workspace and returns the folder, `out`, with copies
/// of what came of them: all workspaces share one target folder, where the
/// next would overwrite it.
fn build(manifest: &Path, out: &str, packages: &[&str]) -> PathBuf {
    let target = target_dir().join("fixtures");
    let _lock = lock(&target, "build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--offline", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .output()
        .expect("run cargo");
    assert!(
        output.status.success(),
        "build {}:\n{}",
        manifest.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let out = target.join("out").join(out);
    for package in packages {
        let library = format!("lib{}.so", package.replace('-', "_"));
        for product in [library.as_str(), package] {
            let from = target.join("debug").join(product);
            if from.is_file() {
                let to = out.join(product);
                write(&to, &fs::read(&from).expect("read a product"));
                set_mode(&to, 0o755);
            }
        }
    }
    out
}

fn lock(folder: &Path, name: &str) -> fs::File {
    fs::create_dir_all(folder).expect("make the folder of fixtures");
    let file = fs::File::create(folder.join(format!("{name}.lock"))).expect("open a lock");
    file.lock().expect("lock");
    file
}

/// Copies a folder with edits, and touches only what changed, so that cargo
/// sees no change where there is none. What is gone there goes here.
fn copy_tree(from: &Path, to: &Path, edits: &BTreeMap<PathBuf, String>) {
    for old in fs::read_dir(to).into_iter().flatten() {
        let old = old.expect("read an earlier copy");
        if from.join(old.file_name()).exists() {
            continue;
        }
        let is_dir = old.file_type().expect("file type").is_dir();
        let removed = if is_dir {
            fs::remove_dir_all(old.path())
        } else {
            fs::remove_file(old.path())
        };
        removed.expect("remove what is gone");
    }
    for entry in fs::read_dir(from).expect("read a folder to copy") {
        let entry = entry.expect("read a folder to copy");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "target" {
            continue;
        }
        if entry.file_type().expect("file type").is_dir() {
            copy_tree(&from, &to, edits);
        } else if let Some(text) = edits.get(&from) {
            write(&to, text.as_bytes());
        } else {
            write(&to, &fs::read(&from).expect("read a file to copy"));
        }
    }
}

/// Writes by rename, and only what differs: others may have it loaded.
fn write(path: &Path, data: &[u8]) {
    if fs::read(path).is_ok_and(|found| found == data) {
        return;
    }
    let folder = path.parent().expect("a file has a folder");
    fs::create_dir_all(folder).expect("make a folder");
    let fresh = path.with_extension(format!("fresh-{}", std::process::id()));
    fs::write(&fresh, data).expect("write a file");
    fs::rename(&fresh, path).expect("put a file in place");
}

/// Sets a mode whatever the umask.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a mode");
}

/// A copy of a file under another name in `folder`, mode 0755.
pub fn copy(from: &Path, folder: &Path, name: &str) -> PathBuf {
    let to = folder.join(name);
    fs::copy(from, &to).expect("copy a fixture");
    set_mode(&to, 0o755);
    to
}

/// A shared object made of C source.
pub fn compile_c(source: &str, folder: &Path, name: &str) -> PathBuf {
    let input = folder.join(format!("{name}.c"));
    fs::write(&input, source).expect("write C source");
    let output = folder.join(name);
    let done = Command::new("gcc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&output)
        .arg(&input)
        .output()
        .expect("run gcc");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    set_mode(&output, 0o755);
    output
}
