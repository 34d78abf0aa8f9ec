//! ECDSA P-256 keys and their PEM forms.

use std::fmt;
use std::path::Path;

use containerkit::{Algorithm, Context as _, Digest, Error, ErrorKind, Result, fs, quote};
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::Generate as _;
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use p256::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use zeroize::Zeroizing;

use super::sealed;

/// No key file is larger.
const FILE_LIMIT: u64 = 64 << 10;

const PUBLIC: &str = "PUBLIC KEY";
const PLAIN: &str = "PRIVATE KEY";
/// What cosign writes since 2.0, and what it wrote before.
const SEALED: [&str; 2] = [
    "ENCRYPTED SIGSTORE PRIVATE KEY",
    "ENCRYPTED COSIGN PRIVATE KEY",
];

/// A password, gone from memory when it is dropped.
pub type Password = Zeroizing<String>;

/// A key that verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    id: Digest,
}

impl PublicKey {
    fn new(key: VerifyingKey) -> Result<PublicKey> {
        let der = key
            .to_public_key_der()
            .map_err(|e| Error::internal("write a public key").with_source(e))?;
        Ok(PublicKey {
            key,
            id: Algorithm::Sha256.digest(der.as_bytes()),
        })
    }

    /// Reads a file of PEM (`PUBLIC KEY`, SubjectPublicKeyInfo).
    pub fn read(path: &Path) -> Result<PublicKey> {
        let pem = Zeroizing::new(fs::read_file(path, FILE_LIMIT)?);
        PublicKey::from_pem(&pem).context(|| name(path))
    }

    /// From PEM.
    pub fn from_pem(pem: &[u8]) -> Result<PublicKey> {
        let (label, der) = decode(pem)?;
        if label == PLAIN || SEALED.contains(&label) {
            return Err(
                Error::invalid("it is a private key; a public one is wanted").with_hint(
                    "`containerkit key public FILE` prints the public key of a private one",
                ),
            );
        }
        if label != PUBLIC {
            return Err(unknown(label));
        }
        let key = VerifyingKey::from_public_key_der(&der).map_err(|_| other_kind())?;
        PublicKey::new(key)
    }

    /// As PEM.
    pub fn to_pem(&self) -> Result<String> {
        self.key
            .to_public_key_pem(LineEnding::LF)
            .map_err(|e| Error::internal("write a public key").with_source(e))
    }

    /// The SHA-256 of its DER: what the key is called.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// Whether this key's owner signed these bytes.
    pub fn verifies(&self, data: &[u8], signature: &Signature) -> bool {
        self.key.verify(data, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

/// A key that signs.
pub struct PrivateKey {
    key: SigningKey,
}

impl PrivateKey {
    /// A new one.
    pub fn generate() -> Result<PrivateKey> {
        let key = SigningKey::try_generate()
            .map_err(|e| Error::internal("read random bytes of the kernel").with_source(e))?;
        Ok(PrivateKey { key })
    }

    /// Reads a file of PEM: plain PKCS#8 or cosign's encrypted form, for which
    /// alone `password` is asked.
    pub fn read(path: &Path, password: impl FnOnce() -> Result<Password>) -> Result<PrivateKey> {
        let pem = Zeroizing::new(fs::read_file(path, FILE_LIMIT)?);
        PrivateKey::from_pem(&pem, password).context(|| name(path))
    }

    /// From PEM.
    pub fn from_pem(pem: &[u8], password: impl FnOnce() -> Result<Password>) -> Result<PrivateKey> {
        let (label, inside) = decode(pem)?;
        let der = match label {
            PLAIN => inside,
            label if SEALED.contains(&label) => sealed::open(&inside, password()?.as_bytes())?,
            PUBLIC => {
                return Err(Error::invalid(
                    "it is a public key; a private one is wanted",
                ));
            }
            label => return Err(unknown(label)),
        };
        let key = SigningKey::from_pkcs8_der(&der).map_err(|_| other_kind())?;
        Ok(PrivateKey { key })
    }

    /// As PEM, encrypted by a password as cosign does.
    pub fn to_sealed_pem(&self, password: &Password) -> Result<String> {
        let der = self
            .key
            .to_pkcs8_der()
            .map_err(|e| Error::internal("write a private key").with_source(e))?;
        let document = sealed::seal(der.as_bytes(), password.as_bytes())?;
        pem_rfc7468::encode_string(SEALED[0], LineEnding::LF, &document)
            .map_err(|e| Error::internal("write PEM").with_source(e))
    }

    /// The other half.
    pub fn public(&self) -> Result<PublicKey> {
        PublicKey::new(*self.key.verifying_key())
    }

    /// The signature of these bytes, always the same for the same bytes.
    pub fn sign(&self, data: &[u8]) -> Signature {
        self.key.sign(data)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

fn name(path: &Path) -> String {
    format!("key {}", quote(&path.to_string_lossy()))
}

fn decode(pem: &[u8]) -> Result<(&str, Zeroizing<Vec<u8>>)> {
    match pem_rfc7468::decode_vec(pem) {
        Ok((label, inside)) => Ok((label, Zeroizing::new(inside))),
        Err(error) => Err(Error::invalid("it is not PEM").with_source(error)),
    }
}

fn other_kind() -> Error {
    Error::new(
        ErrorKind::Unimplemented,
        "it is no ECDSA key on the curve P-256",
    )
    .with_hint("`containerkit key generate PREFIX` makes one")
}

fn unknown(label: &str) -> Error {
    let error = Error::new(
        ErrorKind::Unimplemented,
        format!("it is PEM of the kind {}", quote(label)),
    );
    match label {
        "EC PRIVATE KEY" => {
            error.with_hint("`openssl pkcs8 -topk8 -nocrypt -in FILE` makes it PKCS#8")
        }
        "ENCRYPTED PRIVATE KEY" => error.with_hint("`openssl pkcs8 -in FILE` takes its password off"),
        _ => error.with_hint(
            "want `PRIVATE KEY` (PKCS#8) or `ENCRYPTED SIGSTORE PRIVATE KEY` to sign, `PUBLIC KEY` to verify",
        ),
    }
}
