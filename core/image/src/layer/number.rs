//! Numbers in tar headers: octal text, or base-256 when the top bit is set.

use containerkit::{Error, Result};

/// A field that may not be negative.
pub(crate) fn unsigned(field: &[u8], what: &str) -> Result<u64> {
    u64::try_from(parse(field, what)?)
        .map_err(|_| Error::invalid(format!("the {what} is negative or too large")))
}

/// A field that may be negative (times).
pub(crate) fn signed(field: &[u8], what: &str) -> Result<i64> {
    i64::try_from(parse(field, what)?)
        .map_err(|_| Error::invalid(format!("the {what} is too large")))
}

fn parse(field: &[u8], what: &str) -> Result<i128> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => binary(field, what),
        _ => octal(field, what),
    }
}

/// Two's complement, big endian, in the 7 bits of the first byte and the rest.
fn binary(field: &[u8], what: &str) -> Result<i128> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (index, byte) in field.iter().enumerate() {
        let byte = match index {
            0 if negative => byte | 0x80,
            0 => byte & 0x7f,
            _ => *byte,
        };
        // 12 bytes are 96 bits: this cannot overflow.
        value = (value << 8) | i128::from(byte);
        if !(i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value) {
            return Err(Error::invalid(format!("the {what} is too large")));
        }
    }
    Ok(value)
}

fn octal(field: &[u8], what: &str) -> Result<i128> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let mut value: i128 = 0;
    for byte in field[..end].trim_ascii() {
        match byte {
            b'0'..=b'7' => value = value * 8 + i128::from(byte - b'0'),
            _ => return Err(Error::invalid(format!("the {what} is not a number"))),
        }
    }
    Ok(value)
}

/// Decimal digits only, as in extension headers.
pub(crate) fn decimal(text: &[u8], what: &str) -> Result<u64> {
    let bad = || {
        Error::invalid(format!(
            "the {what} {} is not a number that fits",
            crate::show(text)
        ))
    };
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    text.iter()
        .try_fold(0u64, |value, digit| {
            value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_binary_fields() {
        assert_eq!(unsigned(b"0000644\0", "mode"), Ok(0o644));
        assert_eq!(unsigned(b"  644 \0\0", "mode"), Ok(0o644));
        assert_eq!(unsigned(b"\0\0\0\0\0\0\0\0", "mode"), Ok(0));
        assert_eq!(unsigned(b"77777777777\0", "size"), Ok(0o77777777777));
        let mut big = [0u8; 12];
        big[0] = 0x80;
        big[4..].copy_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(unsigned(&big, "size"), Ok(u64::MAX));
        big[3] = 1;
        assert!(unsigned(&big, "size").is_err());
        assert_eq!(signed(&[0xff; 12], "mtime"), Ok(-1));
        assert!(unsigned(&[0xff; 12], "size").is_err());
        assert!(unsigned(b"-1\0\0\0\0\0\0", "size").is_err());
        assert!(unsigned(b"0x10\0\0\0\0", "uid").is_err());
        assert!(unsigned(b"8\0\0\0\0\0\0\0", "uid").is_err());
    }

    #[test]
    fn decimals_are_strict() {
        assert_eq!(decimal(b"18446744073709551615", "size"), Ok(u64::MAX));
        for bad in ["", "-1", "+1", "1 ", "0x0", "18446744073709551616", "1e3"] {
            assert!(decimal(bad.as_bytes(), "size").is_err(), "{bad}");
        }
    }
}
