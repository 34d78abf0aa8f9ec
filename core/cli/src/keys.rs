//! The keys that leave a terminal without ending what runs there.

use containerkit::{Error, Result, quote};

/// Finds the sequence among what is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    sequence: Vec<u8>,
    /// So much of it has been typed and is withheld.
    matched: usize,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// For the container.
    Text(Vec<u8>),
    /// For the container, and then the sequence.
    Leave(Vec<u8>),
}

impl Keys {
    /// `ctrl-X` or single characters, with commas between; empty for none.
    pub(crate) fn parse(text: &str) -> Result<Keys> {
        let key = |word: &str| match word.as_bytes() {
            [key] if key.is_ascii() && !key.is_ascii_control() => Some(*key),
            [
                b'c' | b'C',
                b't' | b'T',
                b'r' | b'R',
                b'l' | b'L',
                b'-',
                key,
            ] => match key.to_ascii_lowercase() {
                key @ b'a'..=b'z' => Some(key - b'a' + 1),
                b'@' => Some(0),
                key @ b'['..=b'_' => Some(key - b'[' + 27),
                _ => None,
            },
            _ => None,
        };
        let words = text.split(',').filter(|_| !text.is_empty());
        let sequence = words
            .map(|word| {
                key(word).ok_or_else(|| {
                    Error::invalid(format!("--detach-keys {}", quote(text)))
                        .with_source_text("want ctrl-X or characters, with commas between")
                })
            })
            .collect::<Result<Vec<u8>>>()?;
        Ok(Keys {
            sequence,
            matched: 0,
        })
    }

    /// Takes what was typed; what may be the beginning of the sequence is
    /// withheld until that is decided.
    pub(crate) fn scan(&mut self, typed: &[u8]) -> Typed {
        let mut text = Vec::with_capacity(typed.len());
        for byte in typed {
            while self.matched > 0 && self.sequence.get(self.matched) != Some(byte) {
                // The beginning of what was withheld was meant; its rest may
                // begin the sequence once more.
                let withheld = self.sequence[..self.matched].to_vec();
                self.matched -= 1;
                while !withheld.ends_with(&self.sequence[..self.matched]) {
                    self.matched -= 1;
                }
                text.extend_from_slice(&withheld[..withheld.len() - self.matched]);
            }
            if self.sequence.get(self.matched) != Some(byte) {
                text.push(*byte);
                continue;
            }
            self.matched += 1;
            if self.matched == self.sequence.len() {
                self.matched = 0;
                return Typed::Leave(text);
            }
        }
        Typed::Text(text)
    }
}

impl Default for Keys {
    /// Ctrl-P, Ctrl-Q.
    fn default() -> Keys {
        Keys {
            sequence: vec![16, 17],
            matched: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Typed {
        Typed::Text(bytes.to_vec())
    }

    #[test]
    fn the_sequence_is_found_wherever_reads_end() {
        let mut keys = Keys::default();
        assert_eq!(keys.scan(b"ab\x10"), text(b"ab"));
        assert_eq!(keys.scan(b"c"), text(b"\x10c"));
        assert_eq!(keys.scan(b"\x10\x10"), text(b"\x10"));
        assert_eq!(keys.scan(b"\x11rest"), Typed::Leave(vec![]));
        let mut keys = Keys::parse("a,a,b").expect("keys");
        assert_eq!(keys.scan(b"aaab"), Typed::Leave(b"a".to_vec()));
        let mut none = Keys::parse("").expect("none");
        assert_eq!(none.scan(b"\x10\x11"), text(b"\x10\x11"));
    }

    #[test]
    fn keys_have_names() {
        assert_eq!(Keys::parse("ctrl-p,ctrl-q"), Ok(Keys::default()));
        assert_eq!(Keys::parse("ctrl-],x").expect("keys").sequence, [29, b'x']);
        for bad in ["ctrl-", "ctrl-1", "ab", ",", "ctrl-a,", "\n"] {
            assert!(Keys::parse(bad).is_err(), "{bad:?}");
        }
    }
}
