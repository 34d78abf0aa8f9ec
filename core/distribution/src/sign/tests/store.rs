//! Where signatures are kept, and that none is lost.

use super::*;

fn signed_once() -> (Memory, Reference, Digest, PrivateKey) {
    let registry = Memory::new();
    let image = image("example.com/team/app:v1");
    let digest = registry.image(&image, b"{}");
    let key = PrivateKey::generate().unwrap();
    let signed = sign(&registry, &image, &key).unwrap();
    assert_eq!(signed.digest, digest);
    assert_eq!(
        signed.tag.as_deref(),
        Some(format!("sha256-{}.sig", digest.hex()).as_str())
    );
    (registry, image, digest, key)
}

#[test]
fn a_signature_is_found_by_tag_and_as_a_referrer() {
    let (registry, image, digest, key) = signed_once();
    let rule = any(&[&key]);
    assert_eq!(gather(&registry, &image, &digest).unwrap().len(), 1);
    // By either alone.
    registry.forget(&Memory::tag_of(&image, &digest));
    permit(&registry, &rule, &image, &digest).unwrap();
    let (registry, image, digest, key) = signed_once();
    registry.forget_referrers();
    permit(&registry, &any(&[&key]), &image, &digest).unwrap();
    permit(&registry, &rule, &image, &digest).unwrap_err();
}

#[test]
fn signing_again_adds_and_the_same_key_changes_nothing() {
    let (registry, image, digest, first) = signed_once();
    let tag = Memory::tag_of(&image, &digest);
    let before = registry.document(&tag);
    sign(&registry, &image, &first).unwrap();
    assert_eq!(registry.document(&tag), before);
    assert_eq!(registry.count(&digest), 1);
    let second = PrivateKey::generate().unwrap();
    sign(&registry, &image, &second).unwrap();
    let after = registry.document(&tag);
    assert_eq!(after["layers"].as_array().unwrap().len(), 2);
    assert_eq!(after["layers"][0], before["layers"][0]);
    assert_eq!(registry.count(&digest), 2);
    let signers = permit(&registry, &all(&[&first, &second]), &image, &digest).unwrap();
    assert_eq!(signers.len(), 2);
    let third = PrivateKey::generate().unwrap();
    permit(&registry, &any(&[&third, &second]), &image, &digest).unwrap();
    let error = permit(&registry, &all(&[&first, &third]), &image, &digest).unwrap_err();
    let id = third.public().unwrap().id().short().to_string();
    assert!(error.to_string().contains(&id), "{error}");
}

/// What cosign wrote stays as it is, with what we do not know of it.
#[test]
fn a_signature_of_cosigns_and_its_annotations_are_kept() {
    let registry = Memory::new();
    let (repository, _, signature) = BUSYBOX;
    let reference = image(repository);
    let digest = registry.image(&reference, b"{}");
    let text = text_of(repository, &digest.to_string());
    let mut layer = Memory::layer(text.as_bytes(), signature);
    layer["annotations"]["dev.sigstore.cosign/bundle"] = "{}".into();
    registry.store(text.as_bytes());
    let mut document = Memory::manifest_of(&[layer.clone()]);
    document["annotations"] = serde_json::json!({ "a": "b" });
    registry.tag(&reference, &digest, &document);
    sign(&registry, &reference, &PrivateKey::generate().unwrap()).unwrap();
    let after = registry.document(&Memory::tag_of(&reference, &digest));
    assert_eq!(after["layers"][0], layer);
    assert_eq!(after["annotations"], document["annotations"]);
    assert_eq!(after["layers"].as_array().unwrap().len(), 2);
    // Both are of one payload, whose blob is there once.
    assert_eq!(gather(&registry, &reference, &digest).unwrap().len(), 2);
}

#[test]
fn of_two_signers_at_once_neither_is_lost() {
    let (registry, image, digest, _) = signed_once();
    let [ours, theirs] = [(); 2].map(|()| PrivateKey::generate().unwrap());
    let rule = all(&[&ours, &theirs]);
    let before = registry.document(&Memory::tag_of(&image, &digest));
    // Another's write, begun from what was there before, follows ours.
    let other = image.clone();
    registry.meanwhile(move |registry| {
        let digest = registry.resolve(&other).unwrap();
        let digest: Digest = digest.digest().as_ref().parse().unwrap();
        registry.tag(&other, &digest, &before);
        sign(registry, &other, &theirs).unwrap();
    });
    sign(&registry, &image, &ours).unwrap();
    registry.forget_referrers();
    permit(&registry, &rule, &image, &digest).unwrap();
}

#[test]
fn what_is_there_and_malformed_is_not_written_over() {
    let (registry, image, digest, key) = signed_once();
    registry.tag(&image, &digest, &serde_json::json!({ "layers": 1 }));
    let error = sign(&registry, &image, &key).unwrap_err();
    assert_eq!(
        error.kind(),
        containerkit::ErrorKind::InvalidArgument,
        "{error}"
    );
    assert_eq!(
        registry.document(&Memory::tag_of(&image, &digest))["layers"],
        1
    );
}
