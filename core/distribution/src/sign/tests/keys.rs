//! Key files.

use containerkit::ErrorKind;

use super::*;

/// Made by `cosign generate-key-pair` with an empty password.
const COSIGN_PRIVATE: &str = "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiJFY3pJR3Z0bnpFcCsxaEpudERnbGI1UnoxN3gwQVMy
YklvWGRNcDQrU1NJPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJtSVVKbG1OMzNINExvZ0dhaG5MamdmK3R4SmJwci93MCJ9LCJj
aXBoZXJ0ZXh0IjoiM3FtS2FidXRuYm1WT1IvTkZGM2NDaUErTXp1WWQ5L0VERDVI
MVlUSGhQVzZsSzAvdjVqdDZCQzlsME12NGV5am9qZkl0d3B6a2JJOXQrZGx5VXZ3
VUgvMWZjbkFZT2dEdXRLQzkvSkNiOE02SVY2VHpVaDF5c0ZFWDFzeG9xb1FzeUpL
bjM0UVlldFNlaVdDaGtmUHUyZXByQjFEV0pwekdzTGZIakxNVTkzOEdmNk1xM1A0
N0ZSd2syZzY1cFZnSGMwVWV1L1N1OUs0Zmc9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
";
/// Its public half, derived with Python's `cryptography`.
const COSIGN_PRIVATES_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGmsWpZNuu+SUX70n3lVK4JLsaoV7
T+rhea2rQUu29EQiatoLB06QdsmSd+GsQGlQzfcDtsKPzb+B2zLggrWZjg==
-----END PUBLIC KEY-----
";
const PLAIN: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAbUSDapDt/yShCq1
rzJwhGj9fMQd21E5SXmln12o8J+hRANCAAQfFCADQhM36xItBLLsGZmMDe5hqtPc
gRx8+8Zf40O4VAyyv3KO5HePY23r/kVZ+YkXwS55sYSpF5F++AQml0PP
-----END PRIVATE KEY-----
";

fn password(text: &str) -> impl FnOnce() -> containerkit::Result<Password> {
    let text = text.to_string();
    move || Ok(Password::new(text))
}

fn unasked() -> containerkit::Result<Password> {
    panic!("no password is wanted")
}

#[test]
fn a_key_that_cosign_made_opens() {
    // Before 2.0 cosign wrote the other name, and nothing else was different.
    for name in ["SIGSTORE", "COSIGN"] {
        let pem = COSIGN_PRIVATE.replace("SIGSTORE", name);
        let key = PrivateKey::from_pem(pem.as_bytes(), password("")).unwrap();
        let public = key.public().unwrap();
        assert_eq!(public.to_pem().unwrap(), COSIGN_PRIVATES_PUBLIC);
        assert!(public.verifies(b"data", &key.sign(b"data")));
        let error = PrivateKey::from_pem(pem.as_bytes(), password("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
}

#[test]
fn a_plain_key_asks_for_no_password() {
    let key = PrivateKey::from_pem(PLAIN.as_bytes(), unasked).unwrap();
    let signature = key.sign(b"data");
    assert!(key.public().unwrap().verifies(b"data", &signature));
    assert!(!key.public().unwrap().verifies(b"date", &signature));
    assert_eq!(signature, key.sign(b"data"));
}

#[test]
fn a_key_comes_back_from_its_own_pem() {
    let key = PrivateKey::generate().unwrap();
    let secret = Password::new("pass wörd".into());
    let pem = key.to_sealed_pem(&secret).unwrap();
    assert!(pem.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
    assert!(pem.lines().all(|line| line.len() <= 64));
    let again = PrivateKey::from_pem(pem.as_bytes(), password("pass wörd")).unwrap();
    assert_eq!(again.public().unwrap(), key.public().unwrap());
    assert_ne!(
        PrivateKey::generate().unwrap().public().unwrap(),
        key.public().unwrap()
    );
}

#[test]
fn what_is_no_such_key_says_what_it_is() {
    let rename = |name: &str| PLAIN.replace("PRIVATE KEY", name);
    // Ed25519, and P-384.
    let ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    for (pem, why) in [
        (String::new(), "not PEM"),
        ("garbage".into(), "not PEM"),
        (PLAIN.replace("MIG", "M*G"), "not PEM"),
        (rename("EC PRIVATE KEY"), "EC PRIVATE KEY"),
        (rename("ENCRYPTED PRIVATE KEY"), "ENCRYPTED PRIVATE KEY"),
        (rename("CERTIFICATE"), "CERTIFICATE"),
        (COSIGN_PUBLIC.into(), "public key"),
        (PLAIN.replace("MIGH", "MIGI"), "no ECDSA key"),
        (
            "-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----\nbm90IGEga2V5\n-----END ENCRYPTED COSIGN PRIVATE KEY-----\n".into(),
            "JSON",
        ),
    ] {
        let error = PrivateKey::from_pem(pem.as_bytes(), password("")).unwrap_err();
        assert!(error.to_string().contains(why), "{error}: {pem}");
    }
    for (pem, why) in [
        (String::new(), "not PEM"),
        (PLAIN.into(), "private key"),
        (COSIGN_PRIVATE.into(), "private key"),
        (ed25519.into(), "no ECDSA key"),
        (COSIGN_PUBLIC.replace("MFkw", "MFkx"), "no ECDSA key"),
        // Not a point of the curve.
        (COSIGN_PUBLIC.replace("ENptd", "ENptc"), "no ECDSA key"),
    ] {
        let error = PublicKey::from_pem(pem.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}: {pem}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}
