//! `run -it` on a pseudo-terminal.

#![allow(clippy::unwrap_used)]

use containerkit_tests::kit::Kit;
use containerkit_tests::user::User;

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
