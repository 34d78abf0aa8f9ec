//! The invariants of ARCHITECTURE.md, held by `cargo metadata` and a scan of
//! the source. A failure names the file or the package, the rule and the mend.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use containerkit::ErrorKind;
use serde_json::Value;

#[path = "invariants/source.rs"]
mod source;

use source::{Source, has_word, sources, texts};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_path_buf()
}

// ---- packages ------------------------------------------------------------

struct Package {
    name: String,
    /// Folder relative to the workspace.
    folder: String,
    dependencies: Vec<Dependency>,
    crate_types: Vec<String>,
}

struct Dependency {
    name: String,
    dev: bool,
    features: Vec<String>,
}

impl Package {
    fn is_so(&self) -> bool {
        self.folder.starts_with("drivers/") && self.folder.ends_with("/so")
    }

    fn is_driver(&self) -> bool {
        self.folder.starts_with("drivers/") && !self.is_so()
    }
}

fn packages() -> BTreeMap<String, Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--offline",
            "--no-deps",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("run cargo metadata");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {stderr}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON of cargo metadata");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| -> Vec<Value> { value.as_array().cloned().unwrap_or_default() };
    let found: BTreeMap<String, Package> = list(&metadata["packages"])
        .iter()
        .map(|package| {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let folder = manifest.parent().unwrap().strip_prefix(root()).unwrap();
            let dependencies = list(&package["dependencies"])
                .iter()
                .map(|dependency| Dependency {
                    name: text(&dependency["name"]),
                    dev: text(&dependency["kind"]) == "dev",
                    features: list(&dependency["features"]).iter().map(text).collect(),
                })
                .collect();
            let package = Package {
                name: text(&package["name"]),
                folder: folder.to_string_lossy().into_owned(),
                dependencies,
                crate_types: list(&package["targets"])
                    .iter()
                    .filter(|target| text(&list(&target["kind"])[0]) != "custom-build")
                    .flat_map(|target| {
                        list(&target["crate_types"])
                            .iter()
                            .map(text)
                            .collect::<Vec<_>>()
                    })
                    .collect(),
            };
            (package.name.clone(), package)
        })
        .collect();
    assert!(
        found.len() >= 10,
        "cargo metadata shows {} packages only",
        found.len()
    );
    found
}

fn is_house(name: &str) -> bool {
    name == "containerkit" || name.starts_with("containerkit-")
}

// ---- I1 --------------------------------------------------------------------

#[test]
fn i1_kit_is_plain() {
    let packages = packages();
    let kit = &packages["containerkit"];
    for dependency in &kit.dependencies {
        let name = &dependency.name;
        assert!(
            !["libloading", "abi_stable", "toml", "toml_edit", "dlopen2"].contains(&name.as_str()),
            "core/kit depends on {name}: dlopen, TOML and the ABI live in plugins/ and config/"
        );
        assert!(
            !is_house(name),
            "core/kit depends on {name}: everything points at the kit, the kit at nothing"
        );
    }
    let mut seen = 0;
    for source in sources(&root()) {
        if !source.path.starts_with("core/kit/src/") {
            continue;
        }
        seen += 1;
        for word in [
            "dlopen",
            "dlsym",
            "libloading",
            "abi_stable",
            "sabi",
            "StableAbi",
            "RString",
            "RVec",
            "RResult",
        ] {
            assert!(
                !has_word(&source.code, word),
                "{}: `{word}` has no place in core/kit",
                source.path
            );
        }
        if source.path != "core/kit/src/sys.rs" {
            for word in ["unsafe", "unsafe_code"] {
                assert!(
                    !has_word(&source.code, word),
                    "{}: unsafe code of core/kit lives in core/kit/src/sys.rs alone",
                    source.path
                );
            }
        }
    }
    assert!(seen > 10, "the scan saw {seen} files of core/kit");
}

/// Beyond I1: everywhere unsafe lives where it is looked for.
#[test]
fn unsafe_lives_in_known_places() {
    for source in sources(&root()) {
        let known = source.path.ends_with("/sys.rs")
            || source.path.starts_with("plugins/abi/src/")
            || source.path.starts_with("tests/");
        assert!(
            known || !has_word(&source.code, "unsafe"),
            "{}: unsafe lives in a module `sys` of its crate, or in plugins/abi",
            source.path
        );
        if !has_word(&source.code, "unsafe") || source.path.starts_with("tests/") {
            continue;
        }
        assert!(
            source.text.contains("SAFETY:") || source.text.contains("# Safety"),
            "{}: unsafe without a SAFETY comment",
            source.path
        );
    }
}

// ---- I2 --------------------------------------------------------------------

#[test]
fn i2_abi_stable_is_hidden() {
    for package in packages().values() {
        for dependency in &package.dependencies {
            assert!(
                !dependency.name.starts_with("abi_stable") || package.name == "containerkit-plugin",
                "{} depends on {}: only containerkit-plugin may",
                package.name,
                dependency.name
            );
        }
    }
    let mut hidden = 0;
    for source in sources(&root()) {
        let names = has_word(&source.code, "abi_stable") || has_word(&source.code, "sabi");
        if source.path.starts_with("plugins/abi/src/abi/") {
            hidden += usize::from(names);
            continue;
        }
        // What was published is older than today's substrate.
        if source.path.starts_with("tests/fixtures/published/") {
            continue;
        }
        assert!(
            !names,
            "{}: abi_stable is named outside plugins/abi/src/abi/",
            source.path
        );
    }
    assert!(
        hidden > 0,
        "plugins/abi/src/abi/ does not name abi_stable: is the scan right?"
    );
}

// ---- I3 --------------------------------------------------------------------

/// Who may depend on whom. `core/cli` and `tests` see everything but the `so`
/// crates; drivers and their `so` crates follow a pattern; all others are here.
const STAR: &[(&str, &[&str])] = &[
    ("containerkit", &[]),
    ("containerkit-records", &["containerkit"]),
    ("containerkit-image", &["containerkit"]),
    ("containerkit-distribution", &["containerkit"]),
    ("containerkit-init", &["containerkit"]),
    (
        "containerkit-shim",
        &["containerkit", "containerkit-plugin"],
    ),
    ("containerkit-plugin", &["containerkit"]),
    ("containerkit-conformance", &["containerkit"]),
    (
        "containerkit-config",
        &["containerkit", "containerkit-plugin"],
    ),
];

/// Whose tests may use more than their library.
const STAR_OF_TESTS: &[(&str, &[&str])] = &[
    ("containerkit-plugin", &["containerkit-conformance"]),
    ("containerkit-conformance", &[]),
    // What is written into an upper folder is seen through overlay.
    ("containerkit-image", &["containerkit-overlay"]),
    // What is pulled is resumed by a store that resumes.
    ("containerkit-distribution", &["containerkit-local"]),
];

#[test]
fn i3_drivers_stand_alone() {
    let packages = packages();
    let mut drivers = 0;
    for package in packages.values() {
        for dependency in package.dependencies.iter().filter(|d| is_house(&d.name)) {
            let target = packages.get(&dependency.name);
            let edge = format!("{} -> {}", package.name, dependency.name);
            assert!(
                !target.is_some_and(Package::is_so),
                "{edge}: a `so` crate is loaded, never linked"
            );
            let sees_all = ["core/cli", "tests"].contains(&package.folder.as_str());
            let allowed = if sees_all {
                true
            } else if package.is_so() {
                let library = package.name.strip_suffix("-so").unwrap_or_default();
                dependency.name == library || dependency.name == "containerkit-plugin"
            } else if package.is_driver() {
                let dev = dependency.dev && dependency.name == "containerkit-conformance";
                dependency.name == "containerkit" || dev
            } else {
                let row = |table: &[(&str, &'static [&'static str])]| {
                    table
                        .iter()
                        .find(|(name, _)| *name == package.name)
                        .map(|(_, allowed)| *allowed)
                };
                let Some(row_of_library) = row(STAR) else {
                    panic!("{} is new: give it a row in STAR", package.name);
                };
                let name = dependency.name.as_str();
                let in_tests = row(STAR_OF_TESTS).unwrap_or_default();
                row_of_library.contains(&name) || (dependency.dev && in_tests.contains(&name))
            };
            assert!(
                allowed,
                "{edge}: dependencies form a star round core/kit (DESIGN of the house)"
            );
        }
        if package.is_so() {
            drivers += 1;
            check_so(package);
        }
        if package.is_driver() {
            assert!(
                packages.contains_key(&format!("{}-so", package.name)),
                "{}: a driver has a `so` crate beside it",
                package.name
            );
        }
    }
    assert!(drivers >= 3, "the scan saw {drivers} `so` crates");
}

/// A `so` crate is its manifest and one line.
fn check_so(package: &Package) {
    let name = &package.name;
    assert_eq!(
        package.crate_types,
        ["cdylib"],
        "{name} makes a shared object and nothing else"
    );
    for dependency in &package.dependencies {
        assert!(
            is_house(&dependency.name),
            "{name} depends on {}",
            dependency.name
        );
        assert!(
            dependency.features.is_empty(),
            "{name}: a driver has no use for the features {:?} of {}",
            dependency.features,
            dependency.name
        );
    }
    let files: Vec<&Source> = sources(&root())
        .iter()
        .filter(|source| source.path.starts_with(&format!("{}/", package.folder)))
        .collect();
    assert_eq!(files.len(), 1, "{name} has one source file");
    let code: Vec<&str> = files[0]
        .code
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    assert!(
        code.len() == 1 && code[0].starts_with("containerkit_plugin::export_driver!("),
        "{}: want one export_driver! line, found {code:?}",
        files[0].path
    );
}

/// Drivers name kit's traits, and never what loads or configures them.
#[test]
fn i3_drivers_name_no_loader() {
    for source in sources(&root()) {
        let driver = source.path.starts_with("drivers/") && !source.path.contains("/so/");
        for word in ["containerkit_plugin", "containerkit_config", "libloading"] {
            assert!(
                !driver || !has_word(&source.code, word),
                "{}: a driver's library names {word}",
                source.path
            );
        }
    }
}

// ---- I4 --------------------------------------------------------------------

#[test]
fn i4_libraries_are_never_unloaded() {
    let mut forgotten = false;
    for source in sources(&root()) {
        if source.path.starts_with("tests/") {
            continue;
        }
        for call in ["dlclose", "dlmopen"] {
            assert!(!has_word(&source.code, call), "{}: {call}", source.path);
        }
        if !has_word(&source.code, "libloading") {
            continue;
        }
        assert!(
            source.path.starts_with("plugins/abi/src/host/"),
            "{}: only plugins/abi/src/host/ loads libraries",
            source.path
        );
        assert!(
            !source.code.contains(".close()"),
            "{}: a library is closed",
            source.path
        );
        if source.code.contains("Library::open") || source.code.contains("Library::new") {
            forgotten |= source.code.contains("forget(library)");
            assert!(
                source.code.contains("forget(library)"),
                "{}: what is opened is forgotten, so that nothing unloads it",
                source.path
            );
        }
    }
    assert!(
        forgotten,
        "no place that opens a library was found: is the scan right?"
    );
}

// ---- I5 --------------------------------------------------------------------

/// `tests/tests/boundary.rs` holds I5 with drivers that panic; here only that
/// it still does.
#[test]
fn i5_panics_are_caught_and_tested() {
    let sources = sources(&root());
    let guarded = sources.iter().any(|source| {
        source.path.starts_with("plugins/abi/src/abi/") && has_word(&source.code, "catch_unwind")
    });
    assert!(guarded, "nothing in plugins/abi/src/abi/ catches a panic");
    for test in [
        "a_panic_in_any_method_is_an_error_of_that_method",
        "a_panic_in_drop_ends_nothing",
        "a_reader_or_writer_that_panics_says_so",
    ] {
        let there = sources
            .iter()
            .filter(|source| source.path.starts_with("tests/tests/"))
            .any(|source| source.tests().iter().any(|known| known == test));
        assert!(there, "the test {test}, which holds I5, is gone");
    }
}

// ---- I6 --------------------------------------------------------------------

/// Codes cross the ABI and are stored: none is ever given away again.
const KINDS: [(&str, u32); 14] = [
    ("not_found", 1),
    ("already_exists", 2),
    ("invalid_argument", 3),
    ("failed_precondition", 4),
    ("permission_denied", 5),
    ("resource_exhausted", 6),
    ("conflict", 7),
    ("unavailable", 8),
    ("data_loss", 9),
    ("unimplemented", 10),
    ("incompatible", 11),
    ("timeout", 12),
    ("cancelled", 13),
    ("internal", 14),
];

#[test]
fn i6_errors_are_closed() {
    let found: Vec<(&str, u32)> = ErrorKind::ALL
        .iter()
        .map(|k| (k.name(), k.code()))
        .collect();
    assert_eq!(found, KINDS, "a kind's name and code are for ever");
    let homes: Vec<&str> = sources(&root())
        .iter()
        .filter(|source| source.code.contains("enum ErrorKind"))
        .map(|source| source.path.as_str())
        .collect();
    assert_eq!(
        homes,
        ["core/kit/src/error.rs"],
        "ErrorKind is defined in one file"
    );
    for package in packages().values() {
        for dependency in &package.dependencies {
            assert!(
                !["anyhow", "eyre", "color-eyre", "failure"].contains(&dependency.name.as_str()),
                "{} depends on {}: containerkit::Error is the error",
                package.name,
                dependency.name
            );
        }
    }
}

// ---- I7 --------------------------------------------------------------------

/// Every format that one version writes and another may read: where its
/// version is, and the test that a newer one is refused.
const FORMATS: &[(&str, &str, &str, &str, &str)] = &[
    (
        "the record database",
        "core/records/src/schema.rs",
        "const VERSION",
        "core/records/tests/",
        "a_newer_schema_is_refused_by_name",
    ),
    (
        "the shim's request and a container's state files",
        "core/kit/src/shim/request.rs",
        "const PROTOCOL",
        "core/kit/src/shim/",
        "damaged_newer_and_foreign_files_are_told_apart",
    ),
    (
        "a bundle's config.json",
        "core/kit/src/spec/build.rs",
        "const OCI_VERSION",
        "core/kit/src/bundle.rs",
        "a_newer_spec_is_refused_by_name",
    ),
    (
        "the content store's metadata",
        "drivers/local/src/file.rs",
        "const VERSION",
        "drivers/local/",
        "newer_formats_are_refused_by_name",
    ),
    (
        "the snapshot database",
        "drivers/overlay/src/database.rs",
        "const VERSION",
        "drivers/overlay/",
        "a_newer_database_is_refused_by_name",
    ),
    (
        "the configuration",
        "config/src/layer.rs",
        "const VERSION",
        "config/src/tests.rs",
        "each_mistake_is_told_with_its_place",
    ),
];

#[test]
fn i7_formats_are_versioned() {
    let sources = sources(&root());
    for (format, file, constant, tests, name) in FORMATS {
        let home = sources.iter().find(|source| source.path == *file);
        let home = home.unwrap_or_else(|| panic!("{format}: {file} is gone; mend FORMATS"));
        assert!(
            home.code.contains(constant),
            "{format}: {file} has no `{constant}`"
        );
        let tested = sources
            .iter()
            .filter(|source| source.path.starts_with(tests))
            .any(|source| source.tests().iter().any(|test| test.contains(name)));
        assert!(tested, "{format}: no test named like `{name}` in {tests}");
    }
    // Whoever keeps a database has a row above.
    for package in packages()
        .values()
        .filter(|package| package.folder != "tests")
    {
        let database = package
            .dependencies
            .iter()
            .any(|d| d.name == "rusqlite" && !d.dev);
        let row = FORMATS
            .iter()
            .any(|(_, file, ..)| file.starts_with(&format!("{}/", package.folder)));
        assert!(
            !database || row,
            "{} keeps a database and has no row in FORMATS",
            package.name
        );
    }
}

// ---- the house --------------------------------------------------------------

#[test]
fn the_top_level_has_the_houses_folders_only() {
    for entry in std::fs::read_dir(root()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().unwrap().is_dir() || name.starts_with('.') {
            continue;
        }
        assert!(
            ["config", "core", "drivers", "plugins", "target", "tests"].contains(&name.as_str()),
            "{name}/ is no folder of the house; see ARCHITECTURE.md"
        );
    }
}

#[test]
fn the_document_names_the_tests() {
    let document =
        std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let tests: Vec<String> = sources(&root())
        .iter()
        .filter(|source| source.path.starts_with("tests/tests/"))
        .flat_map(Source::tests)
        .collect();
    for number in 1..=7 {
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| I{number} |")))
            .unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for I{number}"));
        let holder = row.rsplit('`').nth(1).unwrap_or_default();
        assert!(
            tests.iter().any(|test| test == holder) || root().join(holder).is_file(),
            "ARCHITECTURE.md says that {holder:?} holds I{number}, and there is no such test"
        );
    }
    for package in packages().values().filter(|package| !package.is_so()) {
        let parent = package.folder.split('/').next().unwrap_or_default();
        let named = document.contains(&package.name)
            || (parent == "drivers" && document.contains("drivers/NAME"));
        assert!(named, "ARCHITECTURE.md does not name {}", package.name);
    }
}

/// Longer than 700 lines is a table, and says so here.
const TABLES: &[(&str, &str)] = &[(
    "drivers/local/tests/regression.rs",
    "one small case after another, each with its story",
)];

#[test]
fn files_are_short() {
    for source in sources(&root()) {
        let lines = source.text.lines().count();
        assert!(
            lines <= 700 || TABLES.iter().any(|(path, _)| *path == source.path),
            "{} has {lines} lines: split it, or give it a row in TABLES if it is one",
            source.path
        );
    }
}

#[test]
fn no_test_is_ignored() {
    for source in sources(&root()) {
        let squeezed: String = source.code.split_whitespace().collect();
        assert!(
            !squeezed.contains("#[ignore"),
            "{}: an ignored test holds nothing",
            source.path
        );
    }
}

#[test]
fn nothing_names_one_machine() {
    let machine = [
        concat!("/tmp", "/wt"),
        concat!("/tmp", "/images"),
        concat!("/work", "/main"),
        concat!("/work", "/shared"),
        concat!("/root", "/.cargo"),
    ];
    for (path, text) in texts(&root()) {
        // A worktree's says where its repository is.
        if path == ".git" {
            continue;
        }
        for needle in machine {
            assert!(
                !text.contains(needle),
                "{path} names {needle}, a path of one machine"
            );
        }
    }
}
