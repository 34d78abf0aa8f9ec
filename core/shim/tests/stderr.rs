//! The standard error of a container, and that of the runtime, which is
//! another matter.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use support::*;

fn numbers(to: u32) -> String {
    (1..=to).map(|n| format!("{n}\n")).collect()
}

#[test]
fn a_mebibyte_arrives_whole_and_in_order_whenever_it_is_read() {
    for late in [false, true] {
        // The second fits into the pipes, and is read after the end.
        let to = if late { 20_000 } else { 200_000 };
        let world = World::new(&format!("busybox seq 1 {to} >&2; echo out; exit 3"));
        let (output, stdout) = std::io::pipe().unwrap();
        let (errors, stderr) = std::io::pipe().unwrap();
        if late {
            rustix::pipe::fcntl_setpipe_size(&stderr, 1 << 20).unwrap();
        }
        let mut shim = world
            .launch([null(), stdout.into(), stderr.into()])
            .unwrap();
        shim.wait_started().unwrap();
        let mut text = String::new();
        if !late {
            text = read_all(errors.try_clone().unwrap().into());
        }
        assert_eq!(shim.wait_exit().unwrap().status(), 3);
        if late {
            text = read_all(errors.into());
        }
        assert!(text == numbers(to), "{} bytes", text.len());
        assert_eq!(read_all(output.into()), "out\n");
        shim.finish().unwrap();
        world.assert_gone();
    }
}

#[test]
fn what_the_runtime_says_is_not_for_the_user() {
    // More than a pipe usually takes, so that it would wait for a reader.
    let script = "#!/bin/sh\ncase \"$*\" in *' run '*|*' create '*) ;; *) exit 1 ;; esac\n\
         echo SIGSEGV: no panic >&2\nseq 1 40000 >&2\nexit 1\n";
    for level in ["debug", "warn"] {
        let mut world = World::new("exit 0");
        let fake = world.path("fake");
        fs::write(&fake, script).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        let options = &mut world.request.runtime.options;
        options.insert("binary".into(), fake.display().to_string().into());
        options.insert("timeout_seconds".into(), 10.into());
        world.request.log_level = level.into();
        let (errors, stderr) = std::io::pipe().unwrap();
        let mut shim = world.launch([null(), null(), stderr.into()]).unwrap();
        let begun = Instant::now();
        shim.wait_started().unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5), "it was held up");
        assert_eq!(read_all(errors.into()), "");
        let _ = shim.finish();
        let log = world.log();
        assert_eq!(log.contains("SIGSEGV"), level == "debug", "{log}");
        assert!(log.len() < 128 << 10, "{} bytes", log.len());
        world.assert_gone();
    }

    let world = World::with_args(&["/bin/missing"]);
    let (errors, stderr) = std::io::pipe().unwrap();
    let mut shim = world.launch([null(), null(), stderr.into()]).unwrap();
    shim.wait_started().unwrap_err();
    assert_eq!(read_all(errors.into()), "");
    shim.finish().unwrap();
}

#[test]
fn two_outputs_on_one_file_keep_their_order() {
    let world = World::new("for i in $(busybox seq 1 300); do echo $i; echo $i >&2; done");
    let both = fs::File::create(world.path("both")).unwrap();
    // One is opened anew: it is the file that counts and not the descriptor.
    let append = |file: &str| {
        let mut options = fs::OpenOptions::new();
        options.append(true).open(world.path(file)).unwrap()
    };
    drop(both);
    let (stdout, stderr) = (append("both"), append("both"));
    let mut shim = world
        .launch([null(), stdout.into(), stderr.into()])
        .unwrap();
    shim.wait_started().unwrap();
    shim.wait_exit().unwrap();
    let expected: String = (1..=300).map(|n| format!("{n}\n{n}\n")).collect();
    assert_eq!(fs::read_to_string(world.path("both")).unwrap(), expected);
    shim.finish().unwrap();
}

#[test]
fn a_reader_that_is_gone_does_not_hold_the_container_up() {
    let world = World::new("busybox seq 1 500000 >&2; exit 7");
    let (errors, stderr) = std::io::pipe().unwrap();
    drop(errors);
    let mut shim = world.launch([null(), null(), stderr.into()]).unwrap();
    shim.wait_started().unwrap();
    assert_eq!(shim.wait_exit().unwrap().status(), 7);
    shim.finish().unwrap();
    world.assert_gone();
}

#[test]
fn a_reader_that_stalls_does_not_keep_an_ended_container() {
    let world = World::new("busybox seq 1 100000 >&2; exit 7");
    let (errors, stderr) = std::io::pipe().unwrap();
    let begun = Instant::now();
    let mut shim = world.launch([null(), null(), stderr.into()]).unwrap();
    shim.wait_started().unwrap();
    assert_eq!(shim.wait_exit().unwrap().status(), 7);
    assert!(begun.elapsed() > Duration::from_secs(8), "it did not wait");
    shim.finish().unwrap();
    world.assert_gone();
    let mut first = [0; 4];
    { errors }.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"1\n2\n");
}

#[test]
fn a_slow_reader_gets_everything_and_non_blocking_is_no_end() {
    use rustix::fs::{OFlags, fcntl_setfl};
    let world = World::new("busybox seq 1 100000 >&2; exit 7");
    let (errors, stderr) = std::io::pipe().unwrap();
    fcntl_setfl(&stderr, OFlags::NONBLOCK).unwrap();
    let mut shim = world.launch([null(), null(), stderr.into()]).unwrap();
    shim.wait_started().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(read_all(errors.into()), numbers(100_000));
    assert_eq!(shim.wait_exit().unwrap().status(), 7);
    shim.finish().unwrap();
}
