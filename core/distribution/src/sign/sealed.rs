//! cosign's encryption of a private key: JSON that names scrypt and NaCl's
//! secretbox with their parameters, as the go-tuf library writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use containerkit::{Error, ErrorKind, Result, quote};
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{Key, KeyInit, Nonce, XSalsa20Poly1305};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What cosign writes today.
const COST: u64 = 1 << 16;
const BLOCK: u32 = 8;
const LANES: u32 = 1;

/// The parameters of a file decide what opening it costs: memory is 128·N·r
/// bytes, time grows with N·r·p. These allow four times cosign's own cost.
const COST_LIMIT: u64 = 1 << 18;
const WORK_LIMIT: u64 = 1 << 22;

const KDF: &str = "scrypt";
const CIPHER: &str = "nacl/secretbox";

#[derive(Serialize, Deserialize)]
struct Sealed {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Serialize, Deserialize)]
struct Params {
    #[serde(rename = "N")]
    cost: u64,
    #[serde(rename = "r")]
    block: u32,
    #[serde(rename = "p")]
    lanes: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl Params {
    /// The derivation, once its cost is known to be bearable.
    fn checked(&self) -> Result<scrypt::Params> {
        let refuse = |why: &str| {
            Error::invalid(format!(
                "its scrypt parameters N={} r={} p={} {why}",
                self.cost, self.block, self.lanes
            ))
        };
        if !self.cost.is_power_of_two() || self.cost < 2 {
            return Err(refuse("are none: N is no power of two"));
        }
        let work = self
            .cost
            .saturating_mul(self.block.into())
            .saturating_mul(self.lanes.into());
        if self.cost > COST_LIMIT || work > WORK_LIMIT {
            return Err(
                refuse("cost more than a key file may").with_kind(ErrorKind::ResourceExhausted)
            );
        }
        // A power of two that is at most COST_LIMIT.
        let log = self.cost.trailing_zeros() as u8;
        scrypt::Params::new(log, self.block, self.lanes).map_err(|_| refuse("are none"))
    }

    fn derive(&self, password: &[u8], salt: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
        let params = self.checked()?;
        let mut key = Zeroizing::new([0u8; 32]);
        scrypt::scrypt(password, salt, &params, &mut *key)
            .map_err(|e| Error::internal("derive a key by scrypt").with_source(e))?;
        Ok(key)
    }
}

fn decode(what: &str, text: &str) -> Result<Vec<u8>> {
    BASE64
        .decode(text)
        .map_err(|_| Error::invalid(format!("its {what} is not base64")))
}

/// The secret in a sealed document. A wrong password is `PermissionDenied`.
pub(super) fn open(document: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let sealed: Sealed = serde_json::from_slice(document)
        .map_err(|_| Error::invalid("inside of its PEM is not the JSON that cosign writes"))?;
    for (what, found, known) in [
        ("key derivation", &sealed.kdf.name, KDF),
        ("cipher", &sealed.cipher.name, CIPHER),
    ] {
        if found != known {
            return Err(Error::new(
                ErrorKind::Unimplemented,
                format!("its {what} is {}, and {known} is known", quote(found)),
            ));
        }
    }
    let salt = decode("salt", &sealed.kdf.salt)?;
    let nonce = decode("nonce", &sealed.cipher.nonce)?;
    let ciphertext = decode("ciphertext", &sealed.ciphertext)?;
    let nonce: [u8; 24] = nonce
        .try_into()
        .map_err(|_| Error::invalid("its nonce has not 24 bytes"))?;
    let key = sealed.kdf.params.derive(password, &salt)?;
    XSalsa20Poly1305::new(Key::from_slice(&*key))
        .decrypt(Nonce::from_slice(&nonce), &*ciphertext)
        .map(Zeroizing::new)
        .map_err(|_| {
            Error::new(
                ErrorKind::PermissionDenied,
                "the password is wrong, or the file is damaged",
            )
        })
}

/// A sealed document of a secret.
pub(super) fn seal(secret: &[u8], password: &[u8]) -> Result<Vec<u8>> {
    let salt = random::<32>()?;
    let nonce = random::<24>()?;
    let params = Params {
        cost: COST,
        block: BLOCK,
        lanes: LANES,
    };
    let key = params.derive(password, &salt)?;
    let ciphertext = XSalsa20Poly1305::new(Key::from_slice(&*key))
        .encrypt(Nonce::from_slice(&nonce), secret)
        .map_err(|_| Error::internal("encrypt a key"))?;
    let sealed = Sealed {
        kdf: Kdf {
            name: KDF.into(),
            params,
            salt: BASE64.encode(salt),
        },
        cipher: Cipher {
            name: CIPHER.into(),
            nonce: BASE64.encode(nonce),
        },
        ciphertext: BASE64.encode(&ciphertext),
    };
    serde_json::to_vec(&sealed).map_err(|e| Error::internal("write JSON").with_source(e))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| Error::io("read random bytes of the kernel", errno))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_is_sealed_opens_with_its_password_only() {
        let sealed = seal(b"secret", b"pass").expect("seal");
        assert_eq!(&**open(&sealed, b"pass").expect("open"), b"secret");
        for wrong in [&b"Pass"[..], b"", b"pass "] {
            let error = open(&sealed, wrong).expect_err("wrong");
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        }
        // Salt and nonce are new each time.
        assert_ne!(sealed, seal(b"secret", b"pass").expect("seal"));
        let empty = seal(b"secret", b"").expect("seal");
        assert_eq!(&**open(&empty, b"").expect("open"), b"secret");
    }

    #[test]
    fn a_file_does_not_choose_what_opening_it_costs() {
        let sealed = seal(b"secret", b"pass").expect("seal");
        let document: Value = serde_json::from_slice(&sealed).expect("JSON");
        for (params, kind) in [
            (
                json!({"N": 1u64 << 40, "r": 8, "p": 1}),
                ErrorKind::ResourceExhausted,
            ),
            (
                json!({"N": 1 << 19, "r": 1, "p": 1}),
                ErrorKind::ResourceExhausted,
            ),
            (
                json!({"N": 65536, "r": u32::MAX, "p": 1}),
                ErrorKind::ResourceExhausted,
            ),
            (
                json!({"N": 65536, "r": 8, "p": 1000}),
                ErrorKind::ResourceExhausted,
            ),
            (
                json!({"N": 65537, "r": 8, "p": 1}),
                ErrorKind::InvalidArgument,
            ),
            (json!({"N": 0, "r": 8, "p": 1}), ErrorKind::InvalidArgument),
            (json!({"N": 1, "r": 8, "p": 1}), ErrorKind::InvalidArgument),
            (
                json!({"N": 65536, "r": 0, "p": 1}),
                ErrorKind::InvalidArgument,
            ),
            (
                json!({"N": 65536, "r": 8, "p": 0}),
                ErrorKind::InvalidArgument,
            ),
            (json!({"N": -1, "r": 8, "p": 1}), ErrorKind::InvalidArgument),
        ] {
            let mut bad = document.clone();
            bad["kdf"]["params"] = params.clone();
            let error = open(bad.to_string().as_bytes(), b"pass").expect_err("bad");
            assert_eq!(error.kind(), kind, "{params}: {error}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let sealed = seal(b"secret", b"pass").expect("seal");
        let document: Value = serde_json::from_slice(&sealed).expect("JSON");
        for (at, value) in [
            ("/kdf/name", json!("argon2")),
            ("/cipher/name", json!("none")),
            ("/kdf/salt", json!("*")),
            ("/cipher/nonce", json!("AAAA")),
            ("/ciphertext", json!("AAA")),
            ("/ciphertext", json!("")),
            ("/ciphertext", json!(null)),
        ] {
            let mut bad = document.clone();
            *bad.pointer_mut(at).expect("member") = value;
            assert!(open(bad.to_string().as_bytes(), b"pass").is_err(), "{at}");
        }
        assert!(open(b"", b"pass").is_err());
        assert!(open(b"[]", b"pass").is_err());
    }
}
