//! Signing without a registry: vectors made by cosign, and what must not pass.

#![allow(clippy::unwrap_used)]

mod keys;
mod memory;
mod refusals;
mod store;

use containerkit::{Digest, Reference};

use super::*;
use memory::Memory;

/// A key of cosign's and what it signed with it, as published with the tests
/// of a client library; checked with Python's `cryptography`.
const COSIGN_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENptdY/l3nB0yqkXLBWkZWQwo6+cu
OSWS1X9vPavpiQOoTTGC0xX57OojUadxF1cdQmrsiReWg2Wn4FneJfa8xw==
-----END PUBLIC KEY-----
";
const BUSYBOX: (&str, &str, &str) = (
    "registry-testing.svc.lan/busybox",
    "sha256:f3cfc9d0dbf931d3db4685ec659b7ac68e2a578219da4aae65427886e649b06b",
    "MEUCIQD6q/COgzOyW0YH1Dk+CCYSt4uAhm3FDHUwvPI55zwnlwIgE0ZK58ZOWpZw8YVmBapJhBqCfdPekIknimuO0xH8Jh8=",
);
const ALPINE: (&str, &str, &str) = (
    "registry-testing.svc.lan/alpine",
    "sha256:69704ef328d05a9f806b6b8502915e6a0a4faa4d72018dc42343f511490daf8a",
    "MEUCIQDcb5mP/PmZhB5ywI01N/R1T5hqyIjgwebdIA4DA6Gp7QIgIVEq/Wr7aajgwP9c7MJFIlScfW035TrdnNAwoOQsEcw=",
);

fn text_of(repository: &str, digest: &str) -> String {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"{repository}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
    )
}

fn any(keys: &[&PrivateKey]) -> Rule {
    Rule::Any(keys.iter().map(|key| key.public().unwrap()).collect())
}

fn all(keys: &[&PrivateKey]) -> Rule {
    Rule::All(keys.iter().map(|key| key.public().unwrap()).collect())
}

fn image(text: &str) -> Reference {
    text.parse().unwrap()
}

#[test]
fn what_cosign_signed_verifies() {
    let key = PublicKey::from_pem(COSIGN_PUBLIC.as_bytes()).unwrap();
    assert_eq!(key.to_pem().unwrap(), COSIGN_PUBLIC);
    for (repository, digest, signature) in [BUSYBOX, ALPINE] {
        let registry = Memory::new();
        let reference = image(repository);
        let digest: Digest = digest.parse().unwrap();
        let text = text_of(repository, &digest.to_string());
        registry.tagged(&reference, &digest, &[(text.as_bytes(), signature)]);
        let rule = Rule::Any(vec![key.clone()]);
        let signers = permit(&registry, &rule, &reference, &digest).unwrap();
        assert_eq!(signers[0].key, *key.id());
        assert_eq!(signers[0].payload, Payload::of(&reference, &digest));
        // Any tag of the repository: cosign names none.
        permit(
            &registry,
            &rule,
            &reference.with_tag("v7").unwrap(),
            &digest,
        )
        .unwrap();
    }
}

#[test]
fn a_payload_has_cosigns_bytes() {
    let (repository, digest, _) = BUSYBOX;
    let payload = Payload::of(&image(repository), &digest.parse().unwrap());
    let bytes = payload.to_bytes().unwrap();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        text_of(repository, digest)
    );
    let hub = Payload::of(&image("busybox:1"), &digest.parse().unwrap());
    assert_eq!(hub.repository, "docker.io/library/busybox");
}

#[test]
fn cosigns_own_name_of_docker_hub_is_docker_hub() {
    let (_, digest, _) = BUSYBOX;
    let text = text_of("index.docker.io/library/busybox", digest);
    let payload = Payload::parse(text.as_bytes()).unwrap();
    payload
        .covers(&image("busybox"), &digest.parse().unwrap())
        .unwrap();
}

#[test]
fn a_tag_that_was_signed_is_the_only_one() {
    let (_, digest, _) = BUSYBOX;
    let text = text_of("example.com:5000/app:v1", digest);
    let payload = Payload::parse(text.as_bytes()).unwrap();
    let digest: Digest = digest.parse().unwrap();
    let covers = |text: &str| payload.covers(&image(text), &digest).is_ok();
    assert!(covers("example.com:5000/app:v1"));
    assert!(!covers("example.com:5000/app:v2"));
    assert!(!covers("example.com:5000/app"));
    assert!(!covers("example.com/app:v1"));
    assert!(covers(&format!("example.com:5000/app@{digest}")));
}

#[test]
fn rules_without_keys_ask_no_registry() {
    let registry = Memory::new();
    registry.down();
    let (repository, digest, _) = BUSYBOX;
    let (reference, digest) = (image(repository), digest.parse().unwrap());
    let permit = |rule: Rule| permit(&registry, &rule, &reference, &digest);
    assert_eq!(permit(Rule::Accept).unwrap(), []);
    let error = permit(Rule::Reject).unwrap_err();
    assert_eq!(error.kind(), containerkit::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("rejects"), "{error}");
}
