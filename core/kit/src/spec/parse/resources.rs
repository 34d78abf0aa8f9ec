//! Limits as text.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use crate::error::{Error, Result, quote};

/// Bytes: a whole number with one of the suffixes b, k, m, g, t (powers of
/// 1024, any case, `kb` and `kib` too).
///
/// ```
/// use containerkit::spec::parse::parse_memory;
/// assert_eq!(parse_memory("512m"), Ok(512 << 20));
/// assert!(parse_memory("1q").is_err());
/// ```
pub fn parse_memory(text: &str) -> Result<i64> {
    let bad = |why: &str| {
        Error::invalid(format!("size {}: {why}", quote(text)))
            .with_hint("a size is a whole number and a unit: 512m, 2g, 65536k, 1073741824")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(bad("want a number first"));
    }
    let unit = unit.to_ascii_lowercase();
    let shift = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit.ends_with("ib") => return Err(bad("want the unit b, k, m, g or t")),
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad("want the unit b, k, m, g or t")),
    };
    let number: i64 = number.parse().map_err(|_| bad("it is too large"))?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err(bad("it is zero")),
        Some(bytes) => Ok(bytes),
        None => Err(bad("it is too large")),
    }
}

/// CPUs: a positive decimal number, at least 0.01.
pub fn parse_cpus(text: &str) -> Result<f64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>() {
        Ok(cpus) if plain && (0.01..=1_000_000.0).contains(&cpus) => Ok(cpus),
        _ => Err(Error::invalid(format!(
            "CPUs {}: want a decimal number from 0.01, like 1.5",
            quote(text)
        ))),
    }
}

const ULIMITS: [(&str, PosixRlimitType); 16] = {
    use PosixRlimitType::*;
    [
        ("as", RlimitAs),
        ("core", RlimitCore),
        ("cpu", RlimitCpu),
        ("data", RlimitData),
        ("fsize", RlimitFsize),
        ("locks", RlimitLocks),
        ("memlock", RlimitMemlock),
        ("msgqueue", RlimitMsgqueue),
        ("nice", RlimitNice),
        ("nofile", RlimitNofile),
        ("nproc", RlimitNproc),
        ("rss", RlimitRss),
        ("rtprio", RlimitRtprio),
        ("rttime", RlimitRttime),
        ("sigpending", RlimitSigpending),
        ("stack", RlimitStack),
    ]
};

/// The `--ulimit` name of a limit.
pub(in crate::spec) fn ulimit_name(kind: PosixRlimitType) -> &'static str {
    ULIMITS
        .iter()
        .find(|(_, known)| *known == kind)
        .map_or("unknown", |(name, _)| name)
}

/// `NAME=SOFT[:HARD]`; numbers, or `-1` or `unlimited`.
pub fn parse_ulimit(text: &str) -> Result<PosixRlimit> {
    let bad = |why: &str| {
        Error::invalid(format!("ulimit {}: {why}", quote(text)))
            .with_hint("write NAME=SOFT[:HARD], like nofile=1024:2048")
    };
    let (name, value) = text.split_once('=').ok_or_else(|| bad("there is no ="))?;
    let (_, kind) = ULIMITS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| bad("unknown limit"))?;
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().map_err(|_| bad("want a number"))
        }
        _ => Err(bad("want a number")),
    };
    let (soft, hard) = match value.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(value)?, number(value)?),
    };
    if soft > hard {
        return Err(bad("the soft limit is above the hard one"));
    }
    PosixRlimitBuilder::default()
        .typ(*kind)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|error| bad("it cannot be built").with_source(error))
}

/// Bytes of memory and swap together, or `-1` for any amount of swap.
pub fn parse_swap(text: &str) -> Result<i64> {
    match text {
        "-1" => Ok(-1),
        _ => parse_memory(text),
    }
}

/// A whole number in a range, which the error names.
pub fn parse_number(what: &str, text: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if plain && range.contains(&number) => Ok(number),
        _ => Err(Error::invalid(format!(
            "{what} {}: want a whole number from {} to {}",
            quote(text),
            range.start(),
            range.end()
        ))),
    }
}

/// A limit of tasks; 0 or -1 for none.
pub fn parse_pids_limit(text: &str) -> Result<i64> {
    parse_number("limit of tasks", text, -1..=4 << 20)
}

/// The weight of `--cpu-shares`, 2 to 262144; 0 is the same as none.
pub fn parse_cpu_shares(text: &str) -> Result<Option<u64>> {
    match parse_number("CPU shares", text, 0..=262_144)? {
        0 => Ok(None),
        1 => Err(Error::invalid("CPU shares \"1\": want 2 to 262144")),
        shares => Ok(Some(shares.unsigned_abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::refused;
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("1", 1),
            ("10b", 10),
            ("2k", 2048),
            ("2K", 2048),
            ("2kb", 2048),
            ("2KiB", 2048),
            ("512m", 512 << 20),
            ("3g", 3 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse_memory(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "m",
            "1q",
            "1.5g",
            "-1",
            "+1",
            "0",
            "0m",
            "1 m",
            "9223372036854775808",
            "8388608t",
            "ib",
            "1ib",
            "1bb",
            "1\n",
            "１m",
        ] {
            refused(parse_memory(bad), bad);
        }
    }

    #[test]
    fn cpus() {
        assert_eq!(parse_cpus("1.5"), Ok(1.5));
        assert_eq!(parse_cpus(".5"), Ok(0.5));
        for bad in ["", "0", "-1", "nan", "inf", "1e3", "0.001", "x", "1,5", "."] {
            refused(parse_cpus(bad), bad);
        }
    }

    #[test]
    fn ulimits() {
        let limit = parse_ulimit("nofile=1024:2048").expect("nofile");
        assert_eq!(limit.typ(), PosixRlimitType::RlimitNofile);
        assert_eq!((limit.soft(), limit.hard()), (1024, 2048));
        let limit = parse_ulimit("core=-1").expect("core");
        assert_eq!((limit.soft(), limit.hard()), (u64::MAX, u64::MAX));
        for bad in [
            "",
            "nofile",
            "nofile=",
            "nofile=2:1",
            "x=1",
            "nofile=1:2:3",
            "nofile=+1",
        ] {
            refused(parse_ulimit(bad), bad);
        }
        for (name, kind) in ULIMITS {
            assert_eq!(ulimit_name(kind), name);
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_pids_limit("-1"), Ok(-1));
        assert_eq!(parse_pids_limit("100"), Ok(100));
        assert_eq!(parse_cpu_shares("0"), Ok(None));
        assert_eq!(parse_cpu_shares("512"), Ok(Some(512)));
        assert_eq!(parse_swap("-1"), Ok(-1));
        assert_eq!(parse_swap("1g"), Ok(1 << 30));
        for bad in [
            "",
            "-",
            "x",
            "1.5",
            "+1",
            "-2",
            "99999999999999999999",
            "1 ",
            "4194305",
        ] {
            refused(parse_pids_limit(bad), bad);
        }
        for bad in ["", "1", "-1", "262145"] {
            refused(parse_cpu_shares(bad), bad);
        }
        for bad in ["", "-2", "1q"] {
            refused(parse_swap(bad), bad);
        }
    }
}
