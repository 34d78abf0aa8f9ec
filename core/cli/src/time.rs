//! Points in time as users type them.

use std::time::{Duration, SystemTime};

use containerkit::{Error, Result, Timestamp, quote};

/// RFC 3339, a date, seconds since 1970 with or without a fraction, or an age
/// such as `90s`, `10m`, `1h30m`.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    for suffix in ["T00:00:00Z", ":00Z", "Z"] {
        if text.contains('-')
            && let Ok(time) = format!("{text}{suffix}").parse::<Timestamp>()
        {
            return Ok(time);
        }
    }
    if let Some(time) = seconds(text) {
        return Ok(Timestamp::from(SystemTime::UNIX_EPOCH + time));
    }
    if let Some(age) = age(text) {
        let then = SystemTime::now().checked_sub(age);
        return Ok(Timestamp::from(then.unwrap_or(SystemTime::UNIX_EPOCH)));
    }
    Err(Error::invalid(format!("time {}", quote(text)))
        .with_source_text("want RFC 3339, seconds since 1970, or an age such as 10m"))
}

/// An age such as `90s`, `10m`, `1h30m`.
pub(crate) fn parse_age(text: &str) -> Result<Duration> {
    age(text).ok_or_else(|| {
        Error::invalid(format!("age {}", quote(text))).with_source_text("want one such as 10m")
    })
}

/// `1700000000` or `1700000000.123456789`.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    // Beyond the year 9999 there is no text for it.
    let whole = whole.parse().ok().filter(|s| *s < 253_402_300_800)?;
    Some(Duration::new(whole, nanos))
}

/// `1h30m`: numbers, each with a unit.
fn age(text: &str) -> Option<Duration> {
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_in_every_form() {
        let at = |text: &str| parse_time(text).map(|time| time.to_string());
        for text in [
            "2023-11-14T22:13:20Z",
            "2023-11-14T22:13:20",
            "1700000000",
            "1700000000.000",
        ] {
            assert_eq!(at(text).expect(text), "2023-11-14T22:13:20.000000000Z");
        }
        assert_eq!(
            at("2023-11-14").expect("date"),
            "2023-11-14T00:00:00.000000000Z"
        );
        let age = parse_time("1h30m").expect("age").age().as_secs();
        assert!((5400..5410).contains(&age), "{age}");
        for bad in [
            "",
            "x",
            "10",
            "-1",
            "10x",
            "1.5h",
            "99999999999999999999",
            "9h9",
        ] {
            // Ten seconds after 1970 is a time.
            assert_eq!(at(bad).is_err(), bad != "10", "{bad}");
        }
    }
}
