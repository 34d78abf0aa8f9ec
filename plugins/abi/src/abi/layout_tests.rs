//! The layout of everything that crosses, as text, against the copy that is
//! kept beside this file for this version. A change of the mirror without a
//! new version fails here; a new version keeps its own copy.

use std::collections::HashSet;
use std::fmt::Write;

use abi_stable::StableAbi;
use abi_stable::std_types::utypeid::UTypeId;
use abi_stable::type_layout::{TLData, TypeLayout};

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

#[test]
fn the_layout_of_this_version_is_the_one_that_is_kept() {
    let mut dump = Dump::default();
    visit(DriverModule_Ref::LAYOUT, &mut dump);
    let found = dump.text;
    let version = env!("CARGO_PKG_VERSION");
    let path = format!(
        "{}/src/abi/layout-{version}.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if kept == found {
        return;
    }
    let difference = kept
        .lines()
        .zip(found.lines())
        .find(|(kept, found)| kept != found);
    let fresh = std::env::temp_dir().join(format!("layout-{version}.txt"));
    std::fs::write(&fresh, &found).expect("write the layout that was found");
    panic!(
        "the ABI changed: {difference:?}\nWithin a major version only append (ABI.md); raise the \
         version in Cargo.toml and keep {} as {path}",
        fresh.display()
    );
}
