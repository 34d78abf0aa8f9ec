//! Flags as text, read once into the types of a [`SpecRequest`](super::SpecRequest).
//!
//! Every error names the flag's value and says what would have been right.

use std::path::PathBuf;

use crate::error::{Error, IoContext, Result, quote};

mod environment;
mod mount;
mod namespace;
mod network;
mod resources;
mod security;

pub use super::user::{parse_group, parse_user};
pub use environment::{parse_env, parse_env_file, parse_label_file};
pub use mount::{parse_device, parse_device_rule, parse_mount, parse_tmpfs, parse_volume};
pub use namespace::{NamespaceWish, parse_namespace, parse_users};
pub use network::{
    NetworkWish, parse_address, parse_dns_option, parse_domain, parse_host, parse_network,
    parse_publish, parse_sysctl,
};
pub(in crate::spec) use resources::ulimit_name;
pub use resources::{
    parse_cpu_shares, parse_cpus, parse_memory, parse_number, parse_pids_limit, parse_swap,
    parse_ulimit,
};
pub use security::parse_security;

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal by name (`TERM`, `SIGTERM`, `RTMIN+3`) or number (1 to 64).
pub fn parse_signal(text: &str) -> Result<i32> {
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let number = |text: &str| match text.parse::<u8>() {
        Ok(n) if text.bytes().all(|b| b.is_ascii_digit()) => Some(i32::from(n)),
        _ => None,
    };
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let found = if let Some(n) = number(text) {
        (1..=RTMAX).contains(&n).then_some(n)
    } else if let Some(index) = SIGNALS.iter().position(|known| *known == name) {
        i32::try_from(index + 1).ok()
    } else {
        match name {
            "IOT" => Some(6),
            "POLL" => Some(29),
            "CLD" => Some(17),
            "RTMIN" => Some(RTMIN),
            "RTMAX" => Some(RTMAX),
            _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
                (Some(n), _) => number(n).map(|n| RTMIN + n),
                (_, Some(n)) => number(n).map(|n| RTMAX - n),
                _ => None,
            }
            .filter(|n| (RTMIN..=RTMAX).contains(n)),
        }
    };
    found.ok_or_else(|| {
        Error::invalid(format!(
            "signal {}: want a name like TERM or a number from 1 to 64",
            quote(text)
        ))
    })
}

fn absolute(path: &str) -> Result<PathBuf> {
    if path.contains('\0') {
        return Err(Error::invalid(format!(
            "path {}: it holds a NUL",
            quote(path)
        )));
    }
    std::path::absolute(path).io_context(|| format!("path {}", quote(path)))
}

/// Every error is one short line.
#[cfg(test)]
fn refused<T: std::fmt::Debug>(result: Result<T>, text: &str) {
    let line = result.expect_err(text).to_string();
    assert!(
        line.len() < 600 && !line.chars().any(char::is_control),
        "{line}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_never_panics() {
        const PIECES: [&str; 24] = [
            "/",
            ":",
            ",",
            "=",
            ".",
            "..",
            "ro",
            "type",
            "source",
            "tmpfs",
            "size",
            "-1",
            "0x0",
            "4294967296",
            "9223372036854775807",
            "k",
            "é",
            "\0",
            "\n",
            "SIG",
            "RTMIN+",
            "seccomp",
            " ",
            "nofile",
        ];
        let mut state = 88172645463325252u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for _ in 0..20_000 {
            let text: String = (0..next() % 8)
                .map(|_| PIECES[next() % PIECES.len()])
                .collect();
            let errors = [
                parse_memory(&text).err(),
                parse_cpus(&text).err(),
                parse_ulimit(&text).err(),
                parse_volume(&text).err(),
                parse_mount(&text).err(),
                parse_tmpfs(&text).err(),
                parse_device(&text).err(),
                parse_env(&text).err(),
                parse_signal(&text).err(),
                parse_user(&text).err(),
                parse_security(&text).err(),
                parse_network(&text).err(),
                parse_swap(&text).err(),
                parse_pids_limit(&text).err(),
                parse_cpu_shares(&text).err(),
                parse_namespace("--pid", &text).err(),
                parse_users(&text).err(),
                parse_group(&text).err(),
                parse_host(&text).err(),
                parse_address("--dns", &text).err(),
                parse_domain(&text).err(),
                parse_dns_option(&text).err(),
                parse_publish(&text).err(),
                parse_sysctl(&text).err(),
                parse_device_rule(&text).err(),
            ];
            for error in errors.into_iter().flatten() {
                refused::<()>(Err(error), &text);
            }
        }
    }

    #[test]
    fn signals() {
        for (text, want) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("15", 15),
            ("64", 64),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("CHLD", 17),
            ("SYS", 31),
            ("WINCH", 28),
        ] {
            assert_eq!(parse_signal(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "-1",
            "TERMX",
            "SIG",
            "RTMIN+31",
            "RTMAX-40",
            "1 5",
            "4294967305",
        ] {
            refused(parse_signal(bad), bad);
        }
    }
}
