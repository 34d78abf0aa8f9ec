//! Content digests: `algorithm:hex`, parsed once and then trusted.
//!
//! Grammar and algorithms: OCI image-spec `descriptor.md`, "Digests".

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::error::{Error, Result, quote};

/// The registered algorithms that containerkit accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hex characters.
    Sha256,
    /// SHA-512, 128 hex characters.
    Sha512,
}

impl Algorithm {
    /// Both algorithms.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The name in a digest.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Characters of the hex part.
    pub const fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }

    /// Starts a running hash.
    pub fn hasher(self) -> Hasher {
        match self {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
        }
    }

    /// The digest of `data`.
    pub fn digest(self, data: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(data);
        hasher.finish()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest whose algorithm is known and whose hex part has the right length
/// and is lowercase: it can be used as a file name.
///
/// ```
/// use containerkit::Digest;
/// let text = format!("sha256:{}", "0".repeat(64));
/// assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
/// assert!("sha256:../../etc/passwd".parse::<Digest>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The lowercase hex part.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first 12 hex characters, for people.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest> {
        let refuse = |why: &str| Error::invalid(format!("digest {}: {why}", quote(text)));
        let (name, hex) = text
            .split_once(':')
            .ok_or_else(|| refuse("want ALGORITHM:HEX"))?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| refuse("the algorithm is neither sha256 nor sha512"))?;
        if hex.len() != algorithm.hex_len() {
            return Err(refuse(&format!(
                "{name} has {} hex characters, this has {}",
                algorithm.hex_len(),
                hex.len()
            )));
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(refuse("want lowercase hex characters"));
        }
        Ok(Digest {
            algorithm,
            hex: hex.into(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::ids::serde_as_text!(Digest);

/// A running hash.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(sha2::Sha256),
    /// SHA-512.
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Hasher::Sha256(_) => Algorithm::Sha256,
            Hasher::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Hashes more bytes.
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(data),
            Hasher::Sha512(hasher) => hasher.update(data),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let hex = match self {
            Hasher::Sha256(hasher) => to_hex(&hasher.finalize()),
            Hasher::Sha512(hasher) => to_hex(&hasher.finalize()),
        };
        Digest {
            algorithm,
            hex: hex.into(),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm())
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        hex.push(DIGITS[usize::from(byte >> 4)] as char);
        hex.push(DIGITS[usize::from(byte & 15)] as char);
    }
    hex
}

/// The chain ID of a list of DiffIDs, base layer first: OCI image-spec
/// `config.md`, "Layer ChainID". `None` for an image without layers.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(first.clone(), |chain, diff| {
        Algorithm::Sha256.digest(format!("{chain} {diff}").as_bytes())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors() {
        assert_eq!(
            Algorithm::Sha256.digest(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert!(
            Algorithm::Sha512
                .digest(b"abc")
                .hex()
                .starts_with("ddaf35a193617aba")
        );
    }

    #[test]
    fn refuses_what_lies_or_climbs() {
        let zeros = "0".repeat(64);
        for bad in [
            "",
            ":",
            "sha256:",
            "sha256",
            "sha256:../../x",
            &format!("sha256:{}", "A".repeat(64)),
            &format!("SHA256:{zeros}"),
            &format!("md5:{}", "0".repeat(32)),
            &format!("sha512:{zeros}"),
            &format!("sha256:{zeros}0"),
            &format!("sha256:{zeros}\n"),
            &format!("sha256:{}\0", "0".repeat(63)),
            &format!(" sha256:{zeros}"),
            &format!("sha256:{}", "x".repeat(300)),
            &format!("sha256:{}", "é".repeat(32)),
        ] {
            let error = bad.parse::<Digest>().expect_err(bad);
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn chain_ids_follow_the_spec() {
        let a = Algorithm::Sha256.digest(b"a");
        let b = Algorithm::Sha256.digest(b"b");
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(std::slice::from_ref(&a)), Some(a.clone()));
        let want = Algorithm::Sha256.digest(format!("{a} {b}").as_bytes());
        assert_eq!(chain_id(&[a, b]), Some(want));
    }
}
