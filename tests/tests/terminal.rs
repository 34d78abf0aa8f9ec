//! `run -it` and a key's password, on a pseudo-terminal.

#![allow(clippy::unwrap_used)]

use containerkit_tests::kit::Kit;
use containerkit_tests::user::User;
use rustix::termios::LocalModes;

#[test]
fn a_terminal_has_the_users_size_and_follows_it() {
    let kit = Kit::with_busybox();
    let mut user = User::runs(&kit, &["run", "--rm", "-it", "busybox", "sh"]);
    user.types("stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo all-tty\n");
    user.sees("33 101");
    user.sees("xterm");
    user.sees("all-tty");
    user.resizes(20, 60);
    // The new size travels beside what is typed.
    user.types("until [ \"$(stty size)\" = '20 60' ]; do sleep 0.05; done; echo resi''zed\n");
    user.sees("resized");
    user.types("exit 7\n");
    assert_eq!(user.status(), Some(7));
    kit.assert_clean();
}

#[test]
fn control_c_is_the_containers_to_handle() {
    let kit = Kit::with_busybox();
    let mut user = User::runs(&kit, &["run", "--rm", "-it", "busybox", "sh"]);
    user.types("trap 'echo cau''ght; exit 9' INT; echo rea''dy; while :; do sleep 0.1; done\n");
    user.sees("ready");
    user.types("\u{3}");
    user.sees("caught");
    assert_eq!(user.status(), Some(9));
    kit.assert_clean();
}

#[test]
fn the_users_terminal_is_as_before_and_output_is_whole() {
    let kit = Kit::with_busybox();
    let mut user = User::runs(
        &kit,
        &[
            "run",
            "--rm",
            "-it",
            "busybox",
            "sh",
            "-c",
            "seq 1 20000; echo e''nd",
        ],
    );
    let before = rustix::termios::tcgetattr(&user.master).unwrap();
    user.sees("\r\n20000\r\nend\r\n");
    assert_eq!(user.status(), Some(0));
    let after = rustix::termios::tcgetattr(&user.master).unwrap();
    assert_eq!(
        after.local_modes | before.local_modes,
        after.local_modes,
        "echo and lines are back"
    );
    kit.assert_clean();
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let kit = Kit::new();
    let prefix = kit.path("k");
    let prefix = prefix.to_str().unwrap();
    let file = format!("{prefix}.key");
    let mut user = User::runs(&kit, &["key", "generate", prefix]);
    user.sees("new password of ");
    user.types("wr\u{15}pax\u{7f}ss\r");
    let shown = user.sees("the same again: ");
    assert!(!shown.contains("wr") && !shown.contains("pa"), "{shown:?}");
    user.types("pass\r");
    let shown = user.sees("k.pub");
    assert!(!shown.contains("pass"), "{shown:?}");
    assert_eq!(user.status(), Some(0));
    let after = rustix::termios::tcgetattr(&user.master).unwrap();
    // As a terminal begins; before is too early or too late to look.
    let usual = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
    assert!(after.local_modes.contains(usual), "{after:?}");
    let opened = |password: &str| {
        let output = kit
            .command(["key", "public", &file])
            .env("CONTAINERKIT_KEY_PASSWORD", password)
            .output()
            .unwrap();
        output.status.code()
    };
    assert_eq!((opened("pass"), opened("pax")), (Some(0), Some(1)));

    let mut user = User::runs(&kit, &["key", "public", &file]);
    user.sees("password of ");
    user.types("\u{3}");
    user.sees("error: ");
    assert_eq!(user.status(), Some(1));
    let mut user = User::runs(&kit, &["key", "generate", &format!("{prefix}2")]);
    user.sees("new password of ");
    user.types("one\r");
    user.sees("the same again: ");
    user.types("two\r");
    user.sees("differ");
    assert_eq!(user.status(), Some(1));
}
