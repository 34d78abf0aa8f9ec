//! PAX extended headers: `LENGTH KEY=VALUE\n`, values being any bytes.
//!
//! Records are cut by their length and never by newlines, which an xattr's
//! value may hold. What is malformed is an error: a record that one reader
//! skips and another honours is how entries are hidden.

use std::collections::BTreeMap;

use containerkit::{Error, Result};

use super::number::decimal;
use crate::limits::exhausted;

const XATTR: &[u8] = b"SCHILY.xattr.";
/// Extended attributes of one entry; real ones have a handful.
const XATTRS: usize = 1024;

/// What the records of one header say. An empty value takes a record back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) sparse: Sparse,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    /// `realsize` (1.0) or `size` (0.0, 0.1).
    pub(crate) size: Option<u64>,
    /// `map` (0.1), or `offset` and `numbytes` in turn (0.0), as numbers.
    pub(crate) map: Vec<u64>,
    pub(crate) used: bool,
}

/// Parses the body of an `x` or `g` header.
pub(crate) fn parse(mut data: &[u8]) -> Result<Pax> {
    let mut pax = Pax::default();
    while !data.is_empty() {
        // Some writers fill the body with NULs.
        if data.iter().all(|b| *b == 0) {
            break;
        }
        let (key, value, rest) = record(data)?;
        data = rest;
        pax.take(key, value)?;
    }
    Ok(pax)
}

fn record(data: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let bad = || Error::invalid("an extended header is malformed");
    let space = data
        .iter()
        .take(21)
        .position(|b| *b == b' ')
        .ok_or_else(bad)?;
    let length = decimal(&data[..space], "length of an extended record")?;
    let length = usize::try_from(length).map_err(|_| bad())?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return Err(bad());
    }
    let body = &data[space + 1..length - 1];
    let equals = body.iter().position(|b| *b == b'=').ok_or_else(bad)?;
    if equals == 0 {
        return Err(bad());
    }
    Ok((&body[..equals], &body[equals + 1..], &data[length..]))
}

impl Pax {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let number = |what: &str| -> Result<Option<u64>> {
            if value.is_empty() {
                return Ok(None);
            }
            decimal(value, what).map(Some)
        };
        match key {
            b"path" => self.path = name(key, value)?,
            b"linkpath" => self.link = name(key, value)?,
            b"size" => self.size = number("size")?,
            b"uid" => self.uid = number("user id")?,
            b"gid" => self.gid = number("group id")?,
            b"mtime" => {
                self.mtime = match value {
                    b"" => None,
                    value => Some(time(value)?),
                }
            }
            _ if key.starts_with(XATTR) => {
                let name = &key[XATTR.len()..];
                if name.is_empty() || name.len() > 255 || name.contains(&0) {
                    return Err(Error::invalid(format!(
                        "the name {} of an extended attribute is not valid",
                        crate::show(name)
                    )));
                }
                if value.len() > 64 << 10 {
                    return Err(Error::invalid(format!(
                        "the extended attribute {} has more than 65536 bytes",
                        crate::show(name)
                    )));
                }
                self.xattrs.insert(name.to_vec(), value.to_vec());
                if self.xattrs.len() > XATTRS {
                    return Err(exhausted(format!(
                        "an entry has more than the {XATTRS} extended attributes allowed"
                    )));
                }
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                self.sparse.used = true;
                let number = || decimal(value, "sparse map");
                match &key[b"GNU.sparse.".len()..] {
                    b"major" => self.sparse.major = Some(number()?),
                    b"minor" => self.sparse.minor = Some(number()?),
                    b"name" => self.sparse.name = name(key, value)?,
                    b"size" | b"realsize" => self.sparse.size = Some(number()?),
                    b"offset" if self.sparse.map.len().is_multiple_of(2) => {
                        self.sparse.map.push(number()?)
                    }
                    b"numbytes" if !self.sparse.map.len().is_multiple_of(2) => {
                        self.sparse.map.push(number()?);
                    }
                    b"offset" | b"numbytes" => {
                        return Err(Error::invalid("a sparse map is malformed"));
                    }
                    b"map" => {
                        self.sparse.map = value
                            .split(|b| *b == b',')
                            .map(|part| decimal(part, "sparse map"))
                            .collect::<Result<_>>()?;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn name(key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(Error::invalid(format!(
            "the extended record {} holds a NUL",
            crate::show(key)
        )));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// `[-]SECONDS[.FRACTION]`; digits below a nanosecond are cut.
fn time(text: &[u8]) -> Result<(i64, u32)> {
    let bad = || Error::invalid(format!("the time {} is not a number", crate::show(text)));
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (seconds, fraction) = match digits.iter().position(|b| *b == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &b""[..]),
    };
    let seconds = decimal(seconds, "time")?;
    let seconds = i64::try_from(seconds).map_err(|_| bad())?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let mut nanos = 0u32;
    for index in 0..9 {
        nanos = nanos * 10
            + fraction
                .get(index)
                .map_or(0, |digit| u32::from(digit - b'0'));
    }
    Ok(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_hold_any_bytes() {
        let pax = parse(b"30 SCHILY.xattr.user.a=1\n2\0=3\n12 path=a/b\n").expect("parse");
        let want = BTreeMap::from([(b"user.a".to_vec(), b"1\n2\0=3".to_vec())]);
        assert_eq!(pax.xattrs, want);
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
    }

    #[test]
    fn times_have_nanoseconds_and_signs() {
        assert_eq!(time(b"1.5"), Ok((1, 500_000_000)));
        assert_eq!(time(b"1.1234567899"), Ok((1, 123_456_789)));
        assert_eq!(time(b"-1.25"), Ok((-2, 750_000_000)));
        assert_eq!(time(b"-1"), Ok((-1, 0)));
        for bad in ["", ".", "x", "1.x", "--1", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in [
            &b"garbage"[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"6 a=bX",
            b"99 a=b\n",
            b"4 a\n\n",
            b"5 =b\n",
            b"-6 a=b\n",
            b"0 a=b\n",
            b"11 path=a\0b\n\n",
            b"9 size=-1\n",
            b"17 SCHILY.xattr.=\n",
        ] {
            if bad == b"5 a=b\n" {
                // Length 5 ends before the newline.
                assert!(parse(bad).is_err());
                continue;
            }
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(parse(b"6 a=b\n").expect("good"), Pax::default());
    }
}
