//! The loader: each way in which a file is no driver of ours has its own one
//! line, and nothing of such a file ever runs.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use containerkit_plugin::{
    AbiVersion, Algorithm, DriverContext, DriverKind, Error, ErrorKind, Library, declaration,
};
use containerkit_tests::fixtures::{self, compile_c, copy, library, set_mode};
use tempfile::TempDir;

#[path = "loader/versions.rs"]
mod versions;

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o700);
    dir
}

fn memory(dir: &TempDir) -> PathBuf {
    copy(&library("memory"), dir.path(), "libmemory.so")
}

fn context(dir: &TempDir, options: serde_json::Value) -> DriverContext {
    let serde_json::Value::Object(options) = options else {
        panic!("options are an object");
    };
    DriverContext::new("one".parse().unwrap(), dir.path(), dir.path()).with_options(options)
}

/// One line, which names the file, and where there is one the mend.
fn check_line(error: &Error, path: &Path) -> String {
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.len() < 700, "{text:?}");
    assert!(text.contains(path.to_str().unwrap()), "{text:?}");
    text
}

#[track_caller]
fn refused(path: &Path, kind: ErrorKind, words: &str) -> Error {
    let error = Library::load(path, None).expect_err(words);
    let text = check_line(&error, path);
    assert!(text.contains(words), "want {words:?} in {text:?}");
    assert_eq!(error.kind(), kind, "{text}");
    error
}

/// As `refused`, also where the file is only read.
#[track_caller]
fn unreadable(path: &Path, kind: ErrorKind, words: &str) -> Error {
    let error = declaration(path).expect_err(words);
    assert!(error.to_string().contains(words), "{error}");
    refused(path, kind, words)
}

#[test]
fn missing_file() {
    let dir = folder();
    let path = dir.path().join("libnone.so");
    let error = unreadable(&path, ErrorKind::NotFound, "No such file");
    assert!(error.hint().unwrap().contains("driver_path"));
}

#[test]
fn not_a_file() {
    let dir = folder();
    let sub = dir.path().join("libdir.so");
    fs::create_dir(&sub).unwrap();
    set_mode(&sub, 0o755);
    unreadable(&sub, ErrorKind::InvalidArgument, "it is a folder");
    let fifo = dir.path().join("fifo.so");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    unreadable(&fifo, ErrorKind::InvalidArgument, "not a regular file");
    let through = fifo.join("x.so");
    unreadable(&through, ErrorKind::Unavailable, "Not a directory");
    unreadable(Path::new("lib.so"), ErrorKind::InvalidArgument, "absolute");
    let circle = dir.path().join("circle.so");
    symlink("circle.so", &circle).unwrap();
    unreadable(&circle, ErrorKind::Unavailable, "symbolic links");
}

#[test]
fn empty_and_garbage() {
    let dir = folder();
    let path = dir.path().join("lib.so");
    fs::write(&path, "").unwrap();
    set_mode(&path, 0o755);
    unreadable(&path, ErrorKind::DataLoss, "empty");
    for garbage in [&b"x"[..], b"not a library at all\n", &[0xff; 5000]] {
        fs::write(&path, garbage).unwrap();
        unreadable(&path, ErrorKind::Incompatible, "not an ELF file");
    }
    fs::write(&path, b"\x7fELF\x02\x01\x01").unwrap();
    unreadable(&path, ErrorKind::DataLoss, "truncated");
    let mut rest = b"\x7fELF\x02\x01\x01".to_vec();
    rest.resize(4096, 0xff);
    fs::write(&path, rest).unwrap();
    unreadable(&path, ErrorKind::Incompatible, "built for machine 65535");
}

#[test]
fn truncated_at_every_page() {
    let dir = folder();
    let path = memory(&dir);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let full = file.metadata().unwrap().len();
    let mut size = full.next_multiple_of(4096) - 4096;
    let mut cuts = 0;
    while size > 0 {
        file.set_len(size).unwrap();
        refused(&path, ErrorKind::DataLoss, "truncated");
        size -= 4096;
        cuts += 1;
    }
    assert!(cuts > 50, "{cuts} cuts of {full} bytes");
    file.set_len(0).unwrap();
    refused(&path, ErrorKind::DataLoss, "empty");
}

#[test]
fn another_architecture() {
    let dir = folder();
    let path = memory(&dir);
    let (machine, name) = if cfg!(target_arch = "aarch64") {
        (62u16, "x86_64")
    } else {
        (183u16, "aarch64")
    };
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&machine.to_ne_bytes(), 18).unwrap();
    unreadable(
        &path,
        ErrorKind::Incompatible,
        &format!(
            "built for {name}, this program is for {}",
            std::env::consts::ARCH
        ),
    );
    // A 32-bit one.
    file.write_all_at(&[1], 4).unwrap();
    unreadable(&path, ErrorKind::Incompatible, "a 32-bit little-endian one");
}

#[test]
fn an_ordinary_library() {
    let found = Command::new("gcc")
        .arg("-print-file-name=libm.so.6")
        .output()
        .unwrap();
    let libm = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    unreadable(&libm, ErrorKind::Incompatible, "not a containerkit driver");
    let exe = std::env::current_exe().unwrap();
    let dir = folder();
    let exe = copy(&exe, dir.path(), "program.so");
    unreadable(&exe, ErrorKind::Incompatible, "not a containerkit driver");
}

/// What the C compiler needs for a declaration that looks right.
fn c_declaration(magic: &str, major: u32, rest: &str) -> String {
    format!(
        "#include <stdint.h>\n\
         struct {{ char magic[16]; uint32_t size, major, minor, patch, kinds, reserved; \
         char rustc[48]; const void *header; }} containerkit_driver_decl = \
         {{ \"{magic}\", 96, {major}, 0, 0, 2, 0, \"cc\", 0 }};\n{rest}\n"
    )
}

#[test]
fn undefined_symbol() {
    let dir = folder();
    let rest = "extern void not_there(void); void (*wanted)(void) = not_there;";
    let source = c_declaration("containerkit-drv", AbiVersion::CURRENT.major, rest);
    let path = compile_c(&source, dir.path(), "libundef.so");
    assert!(declaration(&path).is_ok(), "the file itself is whole");
    let error = refused(
        &path,
        ErrorKind::Incompatible,
        "undefined symbol: not_there",
    );
    assert!(!error.to_string().contains("/proc/self/fd"), "{error}");
    // Nor does a failure spoil the next load.
    Library::load(&memory(&dir), None).unwrap();
}

#[test]
fn constructors_of_a_foreign_library_never_run() {
    let dir = folder();
    let mark = dir.path().join("mark");
    let constructor = format!(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void) \
         {{ FILE *f = fopen(\"{}\", \"w\"); if (f) fclose(f); }}",
        mark.display()
    );
    let plain = compile_c(&constructor, dir.path(), "libplain.so");
    unreadable(
        &plain,
        ErrorKind::Incompatible,
        "no symbol containerkit_driver_decl",
    );
    let major = AbiVersion::CURRENT.major;
    let source = c_declaration("something-elsedrv", major, &constructor).replace("elsedrv", "els");
    let other = compile_c(&source, dir.path(), "libother.so");
    unreadable(
        &other,
        ErrorKind::Incompatible,
        "begins with something else",
    );
    let source = c_declaration("containerkit-drv", major + 1, &constructor);
    let newer = compile_c(&source, dir.path(), "libnewer.so");
    refused(&newer, ErrorKind::Incompatible, "this program needs");
    assert!(!mark.exists(), "a constructor ran");
    // It would have, had anybody loaded it.
    let loaded = Command::new("true").env("LD_PRELOAD", &plain).status();
    assert!(loaded.unwrap().success() && mark.exists());
}

/// The declaration's place in a file.
fn declaration_at(path: &Path) -> u64 {
    let data = fs::read(path).unwrap();
    let magic = b"containerkit-drv";
    let mut places = (0..data.len() - 100)
        .filter(|at| data[*at..].starts_with(magic) && data[*at + 20..*at + 24] == [1, 0, 0, 0]);
    let at = places.next().unwrap();
    assert_eq!(places.next(), None, "one declaration");
    at as u64
}

#[test]
fn another_major_version() {
    let dir = folder();
    for (major, hint) in [(0u32, "rebuild"), (2, "update containerkit")] {
        let path = memory(&dir);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&major.to_ne_bytes(), declaration_at(&path) + 20)
            .unwrap();
        let words = format!("built with containerkit-plugin {major}.0.0, this program needs 1.x");
        let error = refused(&path, ErrorKind::Incompatible, &words);
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        assert_eq!(declaration(&path).unwrap().abi_version.major, major);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn wrong_kind() {
    let dir = folder();
    let path = memory(&dir);
    let library = Library::load(&path, None).unwrap();
    assert_eq!(
        library.kinds(),
        [DriverKind::Snapshotter, DriverKind::Content]
    );
    let error = library
        .runtime(context(&dir, serde_json::json!({})))
        .map(drop)
        .expect_err("it is no runtime");
    let text = check_line(&error, &path);
    assert!(
        text.contains("configured as a runtime, it is a driver of snapshotter and content"),
        "{text}"
    );
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert!(library.info(DriverKind::Volume).is_err());
}

#[test]
fn others_may_write() {
    let dir = folder();
    let path = memory(&dir);
    for mode in [0o775, 0o757, 0o666] {
        set_mode(&path, mode);
        let error = unreadable(&path, ErrorKind::PermissionDenied, "others may write it");
        assert!(error.hint().unwrap().starts_with("chmod go-w"));
    }
    set_mode(&path, 0o755);
    let outer = dir.path().join("outer");
    let inner = outer.join("inner");
    fs::create_dir_all(&inner).unwrap();
    set_mode(&inner, 0o755);
    let nested = copy(&path, &inner, "lib.so");
    for mode in [0o775, 0o757, 0o777] {
        set_mode(&outer, mode);
        let error = unreadable(
            &nested,
            ErrorKind::PermissionDenied,
            "others may write the folder",
        );
        assert!(
            error.to_string().contains(&format!("{} ", outer.display())),
            "{error}"
        );
    }
    // A link from a safe folder through an unsafe one is not safe.
    let link = dir.path().join("link.so");
    symlink(&nested, &link).unwrap();
    unreadable(
        &link,
        ErrorKind::PermissionDenied,
        "others may write the folder",
    );
    let middle = outer.join("middle.so");
    symlink(&path, &middle).unwrap();
    let start = dir.path().join("start.so");
    symlink("outer/middle.so", &start).unwrap();
    unreadable(
        &start,
        ErrorKind::PermissionDenied,
        "others may write the folder",
    );
    set_mode(&outer, 0o755);
    for good in [&nested, &link, &start] {
        Library::load(good, None).unwrap();
    }
}

#[test]
fn sticky_folders_of_root_and_owners() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give files away.
        return;
    }
    let dir = folder();
    let sticky = dir.path().join("sticky");
    fs::create_dir(&sticky).unwrap();
    set_mode(&sticky, 0o1777);
    let path = copy(&library("memory"), &sticky, "lib.so");
    Library::load(&path, None).unwrap();
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    let error = unreadable(&path, ErrorKind::PermissionDenied, "belongs to user 12345");
    assert!(error.hint().is_some());
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    std::os::unix::fs::chown(&sticky, Some(12345), None).unwrap();
    unreadable(
        &path,
        ErrorKind::PermissionDenied,
        "others may write the folder",
    );
}

#[test]
fn pinned_digest() {
    let dir = folder();
    let path = memory(&dir);
    let data = fs::read(&path).unwrap();
    let wrong = Algorithm::Sha256.digest(b"another file");
    let error = Library::load(&path, Some(&wrong)).expect_err("wrong pin");
    let text = check_line(&error, &path);
    let right = Algorithm::Sha256.digest(&data);
    assert!(text.contains(&format!("its digest is {right}")), "{text}");
    assert!(text.contains(&format!("pins {wrong}")), "{text}");
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    for pin in [right.clone(), Algorithm::Sha512.digest(&data)] {
        let library = Library::load(&path, Some(&pin)).unwrap();
        assert_eq!(library.sha256().unwrap(), right);
        // The copy is in use, whatever becomes of the file.
        fs::write(&path, "changed").unwrap();
        assert!(library.info(DriverKind::Content).is_ok());
        assert_eq!(library.sha256().unwrap(), right);
        assert!(Library::load(&path, Some(&pin)).is_err());
        fs::remove_file(&path).unwrap();
        fs::write(&path, &data).unwrap();
        set_mode(&path, 0o755);
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains("memfd:containerkit-driver"));
    // Without a pin it is the file itself.
    let library = Library::load(&path, None).unwrap();
    assert_eq!(library.sha256().unwrap(), right);
}

#[test]
fn the_constructor_fails_panics_or_refuses_its_options() {
    let dir = folder();
    let path = memory(&dir);
    let library = Library::load(&path, None).unwrap();
    let open = |options: serde_json::Value| {
        library
            .snapshotter(context(&dir, options))
            .map(drop)
            .expect_err("open")
    };
    let error = open(serde_json::json!({"fail": "open"}));
    let text = check_line(&error, &path);
    assert!(
        text.contains(r"first\nsecond \u{1b}[31m: the cause"),
        "{text}"
    );
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(
        (error.driver(), error.operation()),
        (Some("one"), Some("open"))
    );
    let error = open(serde_json::json!({"panic": "open"}));
    let text = check_line(&error, &path);
    assert!(
        text.contains("the driver panicked in open: asked to panic at "),
        "{text}"
    );
    assert!(text.contains("lib.rs:"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Internal);
    let error = open(serde_json::json!({"panic": "capabilities"}));
    assert_eq!(error.operation(), Some("capabilities"), "{error}");
    let error = open(serde_json::json!({"nonsense": 1}));
    let text = check_line(&error, &path);
    assert!(
        text.contains(r#"unknown option "nonsense"; known: panic, fail, lie"#),
        "{text}"
    );
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let error = open(serde_json::json!({"fail": true}));
    assert!(check_line(&error, &path).contains("option fail: want a string"));
    // None of it spoiled the library.
    library
        .snapshotter(context(&dir, serde_json::json!({})))
        .unwrap();
}

#[test]
fn two_drivers_one_after_the_other_are_two() {
    let dir = folder();
    let process = copy(&library("process"), dir.path(), "libprocess.so");
    let memory = memory(&dir);
    for _ in 0..3 {
        let first = Library::load(&process, None).unwrap();
        // What fails in between frees its descriptor for the next.
        let broken = dir.path().join("broken.so");
        fs::write(&broken, "x").unwrap();
        set_mode(&broken, 0o755);
        refused(&broken, ErrorKind::Incompatible, "not an ELF file");
        let second = Library::load(&memory, None).unwrap();
        assert_eq!(first.info(DriverKind::Runtime).unwrap().name, "process");
        assert_eq!(second.info(DriverKind::Content).unwrap().name, "blobs");
        assert_ne!(first.sha256().unwrap(), second.sha256().unwrap());
    }
    // A copy at another path is another library, with statics of its own.
    let twin = copy(&memory, dir.path(), "libtwin.so");
    let twin = Library::load(&twin, None).unwrap();
    assert_eq!(twin.path(), dir.path().join("libtwin.so"));
    assert_eq!(twin.info(DriverKind::Snapshotter).unwrap().name, "memory");
}

#[test]
fn the_same_file_is_loaded_once() {
    let dir = folder();
    let path = memory(&dir);
    let first = Library::load(&path, None).unwrap();
    assert!(std::sync::Arc::ptr_eq(
        &first,
        &Library::load(&path, None).unwrap()
    ));
    // Replaced by another file, it is another library.
    fs::remove_file(&path).unwrap();
    copy(&library("process"), dir.path(), "libmemory.so");
    let second = Library::load(&path, None).unwrap();
    assert_eq!(second.kinds(), [DriverKind::Runtime]);
    assert_eq!(first.kinds().len(), 2);
}

#[test]
fn one_root_has_one_instance() {
    let dir = folder();
    let library = Library::load(&memory(&dir), None).unwrap();
    let open = |name: &str| {
        let context = DriverContext::new(name.parse().unwrap(), dir.path(), dir.path());
        library.snapshotter(context)
    };
    let one = open("one").unwrap();
    let again = open("one").unwrap();
    let error = open("two").map(drop).expect_err("the root is taken");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(
        error
            .to_string()
            .contains("instances one and two have one root"),
        "{error}"
    );
    drop((one, again));
    open("two").unwrap();
}

#[test]
fn a_declaration_is_read_without_loading() {
    let path = fixtures::library("process");
    let dir = folder();
    let path = copy(&path, dir.path(), "lib.so");
    let found = declaration(&path).unwrap();
    assert_eq!(found.abi_version, AbiVersion::CURRENT);
    assert_eq!(found.kinds, [DriverKind::Runtime]);
    assert!(found.rustc.starts_with("rustc 1."), "{}", found.rustc);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(path.to_str().unwrap()));
}
