//! Process 1 of a container: starts the command, hands signals on to it,
//! reaps what nobody waits for, and ends with the command's status.
//!
//! `containerkit-init -- PROGRAM [ARGUMENT…]`. A program that is not found is
//! status 127, one that cannot be executed 126. At its end the kernel ends
//! everything else in its pid namespace.

mod sys;

use std::ffi::OsString;
use std::process::Command;

fn main() {
    std::process::exit(run());
}

fn run() -> i32 {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_none_or(|word| word != "--") {
        return usage();
    }
    let Some(program) = words.next() else {
        return usage();
    };
    // Before the command, so that none of its signals is missed.
    let signals = sys::Signals::block();
    // In a pid namespace that is not its own, orphans come here all the same.
    sys::become_subreaper();
    let has_terminal = sys::is_terminal_ours();
    let mut command = Command::new(&program);
    command.args(words);
    sys::before_exec(&mut command, signals, has_terminal);
    let child = match command.spawn() {
        Ok(child) => child.id(),
        Err(error) => return not_executed(&program, &error),
    };
    drop(command);
    loop {
        match signals.wait() {
            sys::CHILD => {
                if let Some(status) = reap(child) {
                    return status;
                }
            }
            number => sys::signal(child, number),
        }
    }
}

/// Reaps all that have ended; the status when the command is among them.
fn reap(child: u32) -> Option<i32> {
    let mut ended = None;
    while let Some((pid, status)) = sys::wait() {
        if pid == child {
            ended = Some(status);
        }
    }
    ended
}

fn usage() -> i32 {
    eprintln!("containerkit-init: usage: containerkit-init -- PROGRAM [ARGUMENT...]");
    2
}

fn not_executed(program: &OsString, error: &std::io::Error) -> i32 {
    eprintln!("containerkit-init: {}: {error}", program.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => 127,
        _ => 126,
    }
}

