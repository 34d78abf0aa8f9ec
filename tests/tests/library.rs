//! The libraries alone: the example `story` is run as it is told, by two
//! processes.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use containerkit_tests::kit::{Kit, Ran, built};

#[test]
fn the_story_of_a_container_is_told_by_two_programs() {
    let kit = Kit::new();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args([
            "build",
            "--quiet",
            "--locked",
            "--example",
            "story",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .arg("--target-dir")
        .arg(built().parent().unwrap());
    if built().ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    let layout = kit.path("layout");
    containerkit_tests::image::busybox().write_layout(&layout);
    let story = |words: &[&std::ffi::OsStr]| {
        let output = Command::new(built().join("examples/story"))
            .args(words)
            .output();
        Ran::new(&output.unwrap())
    };
    // The kit's own folders, so that its command tells what is left.
    let folder = kit.root().parent().unwrap().to_path_buf();
    let begun = story(&["begin".as_ref(), folder.as_ref(), layout.as_ref()]).ok();
    assert_eq!(
        begun.stdout.lines().collect::<Vec<_>>(),
        [
            "created true",
            "running true",
            "exec 1 0: hello 0",
            "exec 2 1: hello 1",
            "exec 3 2: hello 2",
        ]
    );
    let row = kit.run(["ps", "--format", "json"]).ok().json()[0].clone();
    assert_eq!(
        (&row["name"], &row["status"]),
        (&"story".into(), &"running".into())
    );
    let gone_on = story(&["go-on".as_ref(), folder.as_ref()]).ok();
    assert_eq!(
        gone_on.stdout.lines().collect::<Vec<_>>(),
        [
            "loaded true",
            "signalled Exec(4): 143",
            "ended 137",
            "deleted true"
        ]
    );
    kit.assert_clean();
}
