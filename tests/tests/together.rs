//! Sixteen processes at once on one ref, digest, key and image: one wins, the
//! others wait or are told who was first, and nothing is left behind.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::process::{Child, Stdio};

use containerkit::Algorithm;
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::stores::{assert_accounted, assert_sound};

const COUNT: usize = 16;

/// Starts a command many times at once, and returns how each ended.
fn together(kit: &Kit, args: &[&str], input: &[u8]) -> Vec<Ran> {
    let file = kit.path("input");
    std::fs::write(&file, input).unwrap();
    let children: Vec<Child> = (0..COUNT)
        .map(|_| {
            let mut command = kit.command(args);
            command.stdin(File::open(&file).unwrap());
            let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let outputs = children.into_iter().map(Child::wait_with_output);
    outputs.map(|output| Ran::new(&output.unwrap())).collect()
}

/// How many succeeded; the others must have failed with one of these words.
#[track_caller]
fn winners(all: Vec<Ran>, words: &[&str]) -> usize {
    let (won, lost): (Vec<Ran>, Vec<Ran>) = all.into_iter().partition(|ran| ran.status == 0);
    for ran in lost {
        let ran = ran.refused(1, &[]);
        let told = words.iter().any(|word| ran.stderr.contains(word));
        assert!(told, "want one of {words:?} in {ran:?}");
    }
    won.len()
}

#[test]
fn one_ref_and_one_digest() {
    let kit = Kit::new();
    let data = vec![7; 3_000_000];
    let digest = Algorithm::Sha256.digest(&data).to_string();
    let ingest = ["content", "ingest", "--ref", "r", "--digest", &digest];
    let won = winners(
        together(&kit, &ingest, &data),
        &["ingest r is held by process"],
    );
    assert!(won >= 1, "nobody won");
    // Whoever was refused comes again, and it is there.
    assert_eq!(winners(together(&kit, &ingest, &data), &[]), COUNT);
    let all = kit.run(["content", "ls", "--format", "json"]).ok().json();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    kit.run(["content", "verify"]).ok();
    assert_accounted(&kit);
    let deleted = together(&kit, &["content", "delete", &digest], b"");
    assert_eq!(winners(deleted, &["there is none"]), 1);
    assert_accounted(&kit);
}

#[test]
fn one_key_from_prepare_to_remove() {
    let kit = Kit::new();
    // A root that nobody has opened yet.
    let prepared = together(&kit, &["snapshot", "prepare", "a"], b"");
    assert_eq!(winners(prepared, &["exists"]), 1);
    let late = ["does not exist", "exists", "is held by", "in use"];
    let committed = together(&kit, &["snapshot", "commit", "c", "a"], b"");
    assert_eq!(winners(committed, &late), 1);
    let viewed = together(&kit, &["snapshot", "view", "v", "c"], b"");
    assert_eq!(winners(viewed, &["exists"]), 1);
    let refused = together(&kit, &["snapshot", "rm", "c"], b"");
    assert_eq!(winners(refused, &["v"]), 0, "it has a child");
    for key in ["v", "c"] {
        let removed = together(&kit, &["snapshot", "rm", key], b"");
        assert_eq!(winners(removed, &late), 1);
    }
    assert_sound(&kit);
    assert_accounted(&kit);
}

#[test]
fn one_image() {
    let kit = Kit::new();
    let layout = kit.path("layout");
    containerkit_tests::image::busybox().write_layout(&layout);
    let layout = layout.to_str().unwrap();
    let import = ["image", "import", layout, "--name", "busybox"];
    assert_eq!(winners(together(&kit, &import, b""), &[]), COUNT);
    assert_accounted(&kit);
    let run = ["run", "--rm", "busybox", "sh", "-c", "exit 7"];
    for ran in together(&kit, &run, b"") {
        assert_eq!(ran.status, 7, "{ran:?}");
    }
    kit.assert_clean();
    kit.run(["content", "verify"]).ok();
}
