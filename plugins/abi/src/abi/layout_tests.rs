//! Everything that crosses, as text: layouts, the declaration, codes and JSON
//! documents. Each version keeps its copy beside this file. A change without a
//! new version fails here, and so does a version that did not only grow.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::mem::offset_of;

use abi_stable::StableAbi;
use abi_stable::std_types::utypeid::UTypeId;
use abi_stable::type_layout::{TLData, TypeLayout};
use containerkit::content::ContentCapabilities;
use containerkit::runtime::{
    CheckpointRequest, ProcessEntry, RuntimeCapabilities, RuntimeInfo, RuntimeState, RuntimeStatus,
    Stats,
};
use containerkit::snapshot::{SnapshotKind, SnapshotterCapabilities};
use containerkit::{DriverInfo, DriverKind, ErrorKind, ExecFailure, OptionKind, OptionSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::declaration::{DriverDeclaration, MAGIC, SYMBOL};
use super::mirror::DriverModule_Ref;

/// Every type that is reached, in the order in which it is.
#[derive(Default)]
struct Dump {
    seen: HashSet<UTypeId>,
    text: String,
}

fn visit(layout: &'static TypeLayout, dump: &mut Dump) {
    if !dump.seen.insert(layout.get_utypeid()) {
        return;
    }
    let mut text = format!(
        "{} ({} {}) size {} align {}\n",
        layout.full_type(),
        layout.package(),
        layout.mod_path(),
        layout.size(),
        layout.alignment()
    );
    let mut next = Vec::new();
    if let TLData::PrefixType(prefix) = layout.data() {
        let _ = writeln!(text, "  fixed {}", prefix.first_suffix_field);
    }
    let fields = layout.get_fields().into_iter().flat_map(|f| f.iter());
    for field in fields.chain(layout.phantom_fields().iter()) {
        let _ = writeln!(text, "  {}: {}", field.name(), field.full_type());
        for function in field.function_range().iter() {
            let words = function.to_string();
            let words: Vec<&str> = words.split_whitespace().collect();
            let _ = writeln!(text, "    {}", words.join(" "));
            let returned = function.return_type_layout().into_iter();
            for part in function.param_type_layouts.iter().chain(returned) {
                next.push(part());
            }
        }
        next.push(field.layout());
    }
    dump.text.push_str(&text);
    for layout in next {
        visit(layout, dump);
    }
}

/// What is read from the file of a driver.
fn declaration(text: &mut String) {
    let magic = String::from_utf8_lossy(&MAGIC);
    let size = size_of::<DriverDeclaration>();
    let _ = writeln!(text, "declaration {SYMBOL} {magic} size {size}");
    for (name, offset) in [
        ("size", offset_of!(DriverDeclaration, size)),
        ("major", offset_of!(DriverDeclaration, major)),
        ("minor", offset_of!(DriverDeclaration, minor)),
        ("patch", offset_of!(DriverDeclaration, patch)),
        ("kinds", offset_of!(DriverDeclaration, kinds)),
        ("rustc", offset_of!(DriverDeclaration, rustc)),
        ("header", offset_of!(DriverDeclaration, header)),
    ] {
        let _ = writeln!(text, "  {name}: at {offset}");
    }
}

/// Numbers and what they mean.
fn codes(text: &mut String) {
    let mut write = |what: &str, name: &str, code: u64| {
        let _ = writeln!(text, "code {what} {code} {name}");
    };
    for kind in ErrorKind::ALL {
        write("ErrorKind", kind.name(), kind.code().into());
    }
    for kind in DriverKind::ALL {
        write("DriverKind", kind.name(), kind.bit().into());
    }
    for code in 0..16 {
        if let Some(kind) = SnapshotKind::from_code(code) {
            write("SnapshotKind", &format!("{kind:?}"), code.into());
        }
        if let Some(status) = RuntimeStatus::from_code(code) {
            write("RuntimeStatus", &format!("{status:?}"), code.into());
        }
        if let Some(failure) = ExecFailure::from_code(code) {
            write("ExecFailure", &format!("{failure:?}"), code.into());
        }
    }
    for bit in (0..64).map(|shift| 1u64 << shift) {
        let capabilities = [
            ("Runtime", RuntimeCapabilities::from_bits(bit).names()),
            (
                "Snapshotter",
                SnapshotterCapabilities::from_bits(bit).names(),
            ),
            ("Content", ContentCapabilities::from_bits(bit).names()),
        ];
        for (what, names) in capabilities {
            for name in names {
                write(what, name, bit);
            }
        }
    }
}

/// A document with every key, written; and whether an older one is read.
type Document = (&'static str, fn() -> String, fn(&str) -> bool);

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a document is JSON")
}

fn reads<T: DeserializeOwned>(text: &str) -> bool {
    serde_json::from_str::<T>(text).is_ok()
}

fn driver_info() -> DriverInfo {
    let kinds = [
        OptionKind::String,
        OptionKind::Path,
        OptionKind::Integer,
        OptionKind::Boolean,
        OptionKind::StringList,
        OptionKind::StringMap,
    ];
    DriverInfo {
        name: "name".into(),
        version: "1".into(),
        kind: DriverKind::Snapshotter,
        options: kinds
            .into_iter()
            .map(|kind| OptionSpec::new("name", kind, "default", "help"))
            .collect(),
    }
}

fn runtime_info() -> RuntimeInfo {
    RuntimeInfo {
        name: "name".into(),
        version: "1".into(),
        spec: Some("1.0.2".into()),
        binary: Some("/bin/name".into()),
        features: Some(Value::Null),
    }
}

fn runtime_state() -> RuntimeState {
    RuntimeState {
        id: "id".parse().expect("an id"),
        status: RuntimeStatus::Running,
        pid: Some(2),
        bundle: "/bundle".into(),
        annotations: [("key".to_owned(), "value".to_owned())].into(),
    }
}

fn stats() -> Stats {
    Stats {
        memory_limit: Some(1),
        pids_limit: Some(1),
        ..Stats::default()
    }
}

fn checkpoint() -> CheckpointRequest {
    CheckpointRequest {
        image_path: "/image".into(),
        work_path: Some("/work".into()),
        ..CheckpointRequest::default()
    }
}

const DOCUMENTS: [Document; 6] = [
    ("DriverInfo", || json(&driver_info()), reads::<DriverInfo>),
    (
        "RuntimeInfo",
        || json(&runtime_info()),
        reads::<RuntimeInfo>,
    ),
    (
        "RuntimeState",
        || json(&runtime_state()),
        reads::<RuntimeState>,
    ),
    (
        "ProcessEntry",
        || json(&ProcessEntry { pid: 2 }),
        reads::<ProcessEntry>,
    ),
    ("Stats", || json(&stats()), reads::<Stats>),
    (
        "CheckpointRequest",
        || json(&checkpoint()),
        reads::<CheckpointRequest>,
    ),
];

/// All of it.
fn dump() -> String {
    let mut dump = Dump::default();
    visit(DriverModule_Ref::LAYOUT, &mut dump);
    declaration(&mut dump.text);
    codes(&mut dump.text);
    for (name, write, _) in DOCUMENTS {
        let _ = writeln!(dump.text, "document {name} {}", write());
    }
    dump.text
}

fn folder() -> String {
    format!("{}/src/abi", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_layout_of_this_version_is_the_one_that_is_kept() {
    let found = dump();
    let version = env!("CARGO_PKG_VERSION");
    let path = format!("{}/layout-{version}.txt", folder());
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if kept == found {
        return;
    }
    let lines = kept.lines().zip(found.lines());
    let difference = lines
        .clone()
        .find(|(kept, found)| kept != found)
        .map(|(kept, found)| format!("{kept:?} became {found:?}"))
        .unwrap_or_else(|| format!("{} lines agree, others are new or gone", lines.count()));
    let fresh = std::env::temp_dir().join(format!("layout-{version}.txt"));
    std::fs::write(&fresh, &found).expect("write the layout that was found");
    panic!(
        "the ABI changed: {difference}\nWithin a major version only append (ABI.md); raise the \
         version in Cargo.toml and keep {} as {path}",
        fresh.display()
    );
}

/// A type with its fields, or a line that stands alone.
type Part<'a> = Vec<&'a str>;

/// The parts by their first words; types of one name are told apart by what
/// they have.
fn parts(text: &str) -> BTreeMap<&str, Vec<Part<'_>>> {
    let mut parts: BTreeMap<&str, Vec<Part<'_>>> = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        if line.starts_with(' ') {
            if let Some(part) = parts.get_mut(name).and_then(|parts| parts.last_mut()) {
                part.push(line);
            }
            continue;
        }
        // `code WHAT NUMBER …`, `document NAME …`, `TYPE (PACKAGE MODULE) …`
        let spaces = match line.split(' ').next() {
            Some("code") => 2,
            Some("document" | "declaration") => 1,
            _ => line
                .find(')')
                .map_or(0, |end| line[..end].matches(' ').count()),
        };
        let end = line.match_indices(' ').nth(spaces);
        name = end.map_or(line, |(end, _)| &line[..end]);
        parts.entry(name).or_default().push(vec![line]);
    }
    parts
}

/// Whether what was there is still there in its place, and only what may grow
/// has grown.
fn grown(name: &str, old: &[&str], new: &[&str]) -> bool {
    if let Some((_, _, reads)) = DOCUMENTS
        .iter()
        .find(|(document, ..)| name == format!("document {document}"))
    {
        let text = |part: &[&str]| part[0].strip_prefix(name).unwrap_or_default().to_owned();
        let keys = |part: &[&str]| serde_json::from_str::<Map<String, Value>>(&text(part));
        let (Ok(had), Ok(has)) = (keys(old), keys(new)) else {
            return false;
        };
        return reads(&text(old)) && had.keys().all(|key| has.contains_key(key));
    }
    let open = old.get(1).is_some_and(|line| line.starts_with("  fixed "));
    if !open {
        return old == new;
    }
    // Its size may grow, with what is appended.
    new.len() >= old.len() && old[1..] == new[1..old.len()]
}

#[test]
fn this_version_only_grew() {
    let found = dump();
    let found = parts(&found);
    let mut versions = 0;
    for entry in std::fs::read_dir(folder()).expect("read the folder") {
        let path = entry.expect("read the folder").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let version = name
            .and_then(|name| name.strip_prefix("layout-"))
            .and_then(|name| name.strip_suffix(".txt"));
        let Some(version) = version else { continue };
        let major = concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".");
        if !version.starts_with(major) {
            continue;
        }
        versions += 1;
        let kept = std::fs::read_to_string(&path).expect("read a layout");
        for (name, old) in parts(&kept) {
            let new = found.get(name).map(Vec::as_slice).unwrap_or_default();
            for old in old {
                assert!(
                    new.iter().any(|new| grown(name, &old, new)),
                    "{name} of {version} became another, which is a new major version (ABI.md): \
                     {old:#?}\nnow {new:#?}"
                );
            }
        }
    }
    assert!(versions > 0, "no layout of this major version is kept");
}

#[test]
fn what_is_growth_and_what_is_not() {
    let table = ["VTable (a b) size 16 align 8", "  fixed 1", "  one: u32"];
    let with = |size: &'static str, lines: &[&'static str]| [&[size, "  fixed 1"], lines].concat();
    let header = "VTable (a b) size 24 align 8";
    for (new, grew) in [
        (with(header, &["  one: u32", "  two: u32"]), true),
        (with(table[0], &["  one: u32"]), true),
        (with(header, &["  two: u32", "  one: u32"]), false),
        (with(header, &["  one: u64"]), false),
        (with(header, &[]), false),
        (vec![header, "  fixed 2", "  one: u32", "  two: u32"], false),
    ] {
        assert_eq!(grown("VTable (a b)", &table, &new), grew, "{new:?}");
    }
    let value = ["FUsage (a b) size 8 align 8", "  size: u64"];
    let more = ["FUsage (a b) size 8 align 8", "  size: u64", "  flag: ()"];
    assert!(grown("FUsage (a b)", &value, &value));
    assert!(!grown("FUsage (a b)", &value, &more));
    let old = [r#"document ProcessEntry {"pid":2}"#];
    for (new, grew) in [
        (r#"document ProcessEntry {"pid":2,"more":1}"#, true),
        (r#"document ProcessEntry {"number":2}"#, false),
    ] {
        assert_eq!(grown("document ProcessEntry", &old, &[new]), grew, "{new}");
    }
}
