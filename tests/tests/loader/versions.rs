//! What grows: versions of the ABI beside each other, and changes that are none.

use containerkit_tests::fixtures::{Edit, variant};

use super::*;

/// A by-value struct with one field more.
const STRUCT: [Edit; 2] = [
    Edit {
        file: "plugins/abi/src/abi/value.rs",
        from: "pub inodes: u64,",
        to: "pub inodes: u64,\n    pub spare: u64,",
    },
    Edit {
        file: "plugins/abi/src/abi/convert.rs",
        from: "inodes: usage.inodes,\n        ext",
        to: "inodes: usage.inodes,\n        spare: 0,\n        ext",
    },
];

/// The same under the same version.
fn changed_struct() -> PathBuf {
    variant("struct", &STRUCT)
}

#[test]
fn a_struct_changed_without_a_version() {
    let out = changed_struct();
    let dir = folder();
    let path = copy(&out.join("libfixture_memory.so"), dir.path(), "lib.so");
    let error = refused(&path, ErrorKind::Incompatible, "its data layout differs");
    let text = error.to_string();
    assert!(text.contains("FUsage"), "{text}");
    assert!(
        text.contains("size in bytes: expected 48, found 56"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("rebuild"));
}

/// The next minor version of the SDK: a method more with a default body, which
/// its drivers answer otherwise, a host service more, which only its core has,
/// and a field more of the module.
fn minor() -> PathBuf {
    let mirror = "plugins/abi/src/abi/mirror.rs";
    let export = "plugins/abi/src/abi/export.rs";
    variant(
        "minor",
        &[
            raised(),
            Edit {
                file: mirror,
                from: "}\npub type FSnapshotterBox",
                to: "    fn later(&self) -> u32 { 7 }\n}\npub type FSnapshotterBox",
            },
            Edit {
                file: export,
                from: "FSnapshotter for Export<T> {",
                to: "FSnapshotter for Export<T> {\n    fn later(&self) -> u32 { 8 }",
            },
            Edit {
                file: "plugins/abi/src/abi/proxy.rs",
                from: "|d| d.prepare(key.as_str().into(), name_out(parent), labels_out(labels)),",
                to: "|d| {\n                \
                     let later = format!(\"later={}\", d.later());\n                \
                     let made = d.prepare(key.as_str().into(), name_out(parent), labels_out(labels));\n                \
                     made.map(|mut mounts| { mounts[0].options.push(later.into()); mounts })\n            },",
            },
            Edit {
                file: mirror,
                from: "}\npub type FHostArc",
                to: "    fn rootless(&self) -> bool { false }\n}\npub type FHostArc",
            },
            Edit {
                file: "plugins/abi/src/abi/context.rs",
                from: "impl FHost for HostContext {",
                to: "impl FHost for HostContext {\n    fn rootless(&self) -> bool { true }",
            },
            Edit {
                file: export,
                from: "guard(\"open\", || T::open(context(host)?))",
                to: "guard(\"open\", || {\n        \
                     assert_eq!(host.rootless(), host.instance().as_str() == \"newer\");\n        \
                     T::open(context(host)?)\n    })",
            },
            Edit {
                file: "tests/fixtures/host/src/main.rs",
                from: "NAME: &str = \"one\"",
                to: "NAME: &str = \"newer\"",
            },
            Edit {
                file: mirror,
                from: "}\n\nimpl RootModule for DriverModule_Ref",
                to: "    pub later: u32,\n}\n\nimpl RootModule for DriverModule_Ref",
            },
            Edit {
                file: "plugins/abi/src/export.rs",
                from: "$crate::abi::mirror::DriverModule {",
                to: "$crate::abi::mirror::DriverModule {\n                    later: 9,",
            },
        ],
    )
}

/// The SDK's version raised to the next.
fn raised() -> Edit {
    let line = |version: AbiVersion| format!("version = \"{version}\"").leak();
    Edit {
        file: "plugins/abi/Cargo.toml",
        from: line(AbiVersion::CURRENT),
        to: line(next()),
    }
}

fn next() -> AbiVersion {
    AbiVersion {
        minor: AbiVersion::CURRENT.minor + 1,
        patch: 0,
        ..AbiVersion::CURRENT
    }
}

/// Every order of some things.
fn orders<T: Clone>(things: &[T]) -> Vec<Vec<T>> {
    if things.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for first in 0..things.len() {
        let mut rest = things.to_vec();
        let thing = rest.remove(first);
        for mut order in orders(&rest) {
            order.insert(0, thing.clone());
            all.push(order);
        }
    }
    all
}

#[test]
fn drivers_of_every_minor_version_serve_in_every_core_in_any_order() {
    let dir = folder();
    let ours = AbiVersion::CURRENT;
    let newer = minor();
    let newer_driver = copy(&newer.join("libfixture_memory.so"), dir.path(), "new.so");
    let mut drivers = vec![
        (ours.to_string(), "memory", memory(&dir)),
        (next().to_string(), "memory", newer_driver),
    ];
    for (version, path) in fixtures::published() {
        drivers.push((version.clone(), "published", path.clone()));
    }
    for (core, host) in [
        (ours, fixtures::host()),
        (next(), newer.join("fixture-host")),
    ] {
        for order in orders(&drivers) {
            let paths = order.iter().map(|(_, _, path)| path);
            let output = Command::new(&host).args(paths).output().unwrap();
            let mut want = String::new();
            for (number, (version, name, _)) in order.iter().enumerate() {
                // The method that was appended: its default body, or its own.
                let later = match (core == next(), *version == next().to_string()) {
                    (false, _) => "",
                    (true, false) => ",later=7",
                    (true, true) => ",later=8",
                };
                want += &format!(
                    "{core} {version} {name} /nowhere/{number}/key rbind,rw,number=0{later}\n"
                );
            }
            let found = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(found, want, "{errors}");
        }
    }
}

#[test]
fn a_newer_core_catches_a_struct_changed_without_a_version() {
    let changed = changed_struct().join("libfixture_memory.so");
    let output = Command::new(minor().join("fixture-host"))
        .arg(&changed)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("FUsage"),
        "{text}"
    );
}

/// What is no minor change, though it comes with a new minor version.
#[test]
fn a_struct_changed_with_a_minor_version_is_caught() {
    let [value, convert] = STRUCT;
    let out = variant("raised", &[raised(), value, convert]);
    let dir = folder();
    let path = copy(&out.join("libfixture_memory.so"), dir.path(), "lib.so");
    refused(&path, ErrorKind::Incompatible, "its data layout differs");
    for older in fixtures::published().values() {
        let output = Command::new(out.join("fixture-host")).arg(older).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains("FUsage"),
            "{text}"
        );
    }
}
