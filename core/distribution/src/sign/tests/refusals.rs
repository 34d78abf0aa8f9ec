//! What must not pass. Each case begins with a signature that does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use containerkit::{Error, ErrorKind};
use serde_json::{Value, json};

use super::*;

/// An image with one good signature under cosign's tag.
struct Case {
    registry: Memory,
    image: Reference,
    digest: Digest,
    key: PrivateKey,
    payload: Vec<u8>,
    signature: String,
}

fn case() -> Case {
    let registry = Memory::new();
    let image = image("example.com/team/app:v1");
    let digest = registry.image(&image, b"{}");
    let key = PrivateKey::generate().unwrap();
    let payload = Payload::of(&image, &digest).to_bytes().unwrap();
    let signature = BASE64.encode(key.sign(&payload).to_der());
    let case = Case {
        registry,
        image,
        digest,
        key,
        payload,
        signature,
    };
    case.put(&case.payload, &case.signature);
    case.permit().unwrap();
    case
}

impl Case {
    fn put(&self, payload: &[u8], signature: &str) {
        let all = [(payload, signature)];
        self.registry.tagged(&self.image, &self.digest, &all);
    }

    fn put_signed(&self, payload: &[u8]) {
        self.put(payload, &BASE64.encode(self.key.sign(payload).to_der()));
    }

    fn permit(&self) -> containerkit::Result<Vec<Signer>> {
        permit(
            &self.registry,
            &any(&[&self.key]),
            &self.image,
            &self.digest,
        )
    }

    #[track_caller]
    fn refused(&self, kind: ErrorKind, why: &str) -> Error {
        let error = self.permit().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(why), "{why:?} in {error}");
        assert!(!error.to_string().chars().any(char::is_control), "{error}");
        error
    }
}

#[test]
fn nothing_is_no_signature() {
    let case = case();
    case.registry
        .forget(&Memory::tag_of(&case.image, &case.digest));
    case.refused(ErrorKind::PermissionDenied, "no signature");
    // A manifest without any, and one of other things.
    for layers in [
        json!([]),
        json!([{ "mediaType": "text/plain", "digest": case.digest, "size": 1 }]),
    ] {
        let mut document = Memory::manifest_of(&[]);
        document["layers"] = layers;
        case.registry.tag(&case.image, &case.digest, &document);
        case.refused(ErrorKind::PermissionDenied, "no signature");
    }
}

#[test]
fn no_keys_are_satisfied_by_nothing() {
    let case = case();
    for rule in [Rule::Any(vec![]), Rule::All(vec![])] {
        let error = permit(&case.registry, &rule, &case.image, &case.digest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
}

#[test]
fn another_keys_signature_does_not_count() {
    let case = case();
    let other = PrivateKey::generate().unwrap();
    let signature = BASE64.encode(other.sign(&case.payload).to_der());
    case.put(&case.payload, &signature);
    case.refused(ErrorKind::PermissionDenied, "one signature by other keys");
}

#[test]
fn a_payload_that_was_altered_does_not_count() {
    let case = case();
    let text = String::from_utf8(case.payload.clone()).unwrap();
    case.put(text.replace("null", "{} ").as_bytes(), &case.signature);
    case.refused(ErrorKind::PermissionDenied, "by other keys");
    // Altered behind the registry's own digest.
    case.put(&case.payload, &case.signature);
    case.registry
        .lie(&case.payload, text.replace("app", "apq").as_bytes());
    case.refused(ErrorKind::FailedPrecondition, "digest");
    case.registry.lie(&case.payload, b"");
    case.refused(ErrorKind::FailedPrecondition, "bytes");
}

#[test]
fn a_signature_for_something_else_does_not_count() {
    let case = case();
    let other: Digest = BUSYBOX.1.parse().unwrap();
    case.put_signed(&Payload::of(&case.image, &other).to_bytes().unwrap());
    case.refused(ErrorKind::PermissionDenied, BUSYBOX.1);
    for elsewhere in [
        "example.com/team/other:v1",
        "example.com/team",
        "example.org/team/app:v1",
        "example.com:5000/team/app:v1",
    ] {
        let payload = Payload::of(&image(elsewhere), &case.digest);
        case.put_signed(&payload.to_bytes().unwrap());
        case.refused(ErrorKind::PermissionDenied, "it is for repository");
    }
    let tagged = text_of("example.com/team/app:v2", &case.digest.to_string());
    case.put_signed(tagged.as_bytes());
    case.refused(ErrorKind::PermissionDenied, "it is for tag v2");
}

#[test]
fn a_signature_that_is_no_signature_refuses_all() {
    let case = case();
    let good = Memory::layer(&case.payload, &case.signature);
    let der = BASE64.decode(&case.signature).unwrap();
    let encode = |bytes: &[u8]| BASE64.encode(bytes);
    let mut long_form = der.clone();
    long_form.insert(1, 0x81);
    let trailing = [&der[..], b"\0"].concat();
    let zero = [0x30, 6, 2, 1, 0, 2, 1, 0];
    for bad in [
        String::new(),
        case.signature[..case.signature.len() - 1].to_string(),
        case.signature[..20].to_string(),
        format!("{} ", case.signature),
        format!("{}\n", case.signature),
        case.signature.replace('/', "_").replace('M', "-"),
        encode(b"junk"),
        encode(&der[..der.len() - 1]),
        encode(&trailing),
        encode(&long_form),
        encode(&zero),
        encode(&[0x30, 0x80]),
        encode(&[0xff; 64]),
        "A".repeat(1000),
        "\u{1b}[31m".into(),
    ] {
        let layers = [good.clone(), Memory::layer(&case.payload, &bad)];
        let document = Memory::manifest_of(&layers);
        case.registry.tag(&case.image, &case.digest, &document);
        case.refused(ErrorKind::InvalidArgument, "signature of payload");
    }
    let mut bare = good.clone();
    bare["annotations"] = json!({});
    case.registry.tag(
        &case.image,
        &case.digest,
        &Memory::manifest_of(&[good, bare]),
    );
    case.refused(ErrorKind::InvalidArgument, "is missing");
}

/// Go does not bring S into its lower half, so half of cosign's signatures
/// are high; either half verifies and says the same.
#[test]
fn a_high_s_is_a_signature() {
    let case = case();
    let low = case.key.sign(&case.payload);
    let (r, s) = low.split_scalars();
    let other = p256::ecdsa::Signature::from_scalars(*r, -*s).unwrap();
    assert_ne!(low, other);
    case.put(&case.payload, &BASE64.encode(other.to_der()));
    case.permit().unwrap();
}

#[test]
fn what_one_of_our_keys_signed_must_be_a_payload() {
    let case = case();
    let good = String::from_utf8(case.payload.clone()).unwrap();
    for (from, to) in [
        (
            "cosign container image signature",
            "atomic container signature",
        ),
        ("\"optional\":null", "\"optional\":[]"),
        ("\"optional\":null", "\"optional\":null,\"more\":1"),
        ("\"optional\":null", "\"optional\":null,\"optional\":null"),
        ("\"critical\":{", "\"critical\":{\"more\":1,"),
        ("\"image\":{", "\"image\":{\"more\":1,"),
        ("sha256:", "sha256:0"),
        ("sha256:", "md5:"),
        ("example.com/team/app", ""),
        ("example.com/team/app", "EXAMPLE/../x"),
        (
            "\"identity\":{\"docker-reference\":\"example.com/team/app\"}",
            "\"identity\":{}",
        ),
        ("}", ""),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        case.put_signed(bad.as_bytes());
        case.refused(ErrorKind::InvalidArgument, "malformed");
    }
    let two = good.replace("team/app", &format!("team/app@{}", BUSYBOX.1));
    case.put_signed(two.as_bytes());
    case.refused(ErrorKind::InvalidArgument, "two digests");
    // The same bytes by a stranger are nobody's claim, and are not read.
    let stranger = PrivateKey::generate().unwrap();
    case.put(b"junk", &BASE64.encode(stranger.sign(b"junk").to_der()));
    case.refused(ErrorKind::PermissionDenied, "by other keys");
}

#[test]
fn too_many_and_too_large_are_refused_unread() {
    let case = case();
    let good = Memory::layer(&case.payload, &case.signature);
    let many = vec![good.clone(); MOST + 1];
    case.registry
        .tag(&case.image, &case.digest, &Memory::manifest_of(&many));
    case.refused(ErrorKind::ResourceExhausted, "65 signatures");
    let mut large = good.clone();
    large["size"] = json!(65 << 10);
    case.registry
        .tag(&case.image, &case.digest, &Memory::manifest_of(&[large]));
    case.refused(ErrorKind::ResourceExhausted, "more than 65536");
    let mut document = Memory::manifest_of(std::slice::from_ref(&good));
    document["annotations"] = json!({ "a": "x".repeat(1 << 20) });
    case.registry.tag(&case.image, &case.digest, &document);
    case.refused(ErrorKind::ResourceExhausted, "more than 1048576");
    case.put(&case.payload, &case.signature);
    for n in 0..=MOST {
        case.registry
            .list(&case.digest, memory::descriptor("x", &n.to_le_bytes()));
    }
    case.refused(ErrorKind::ResourceExhausted, "65 signatures");
}

#[test]
fn a_manifest_of_signatures_is_nothing_else() {
    let case = case();
    let good = Memory::manifest_of(&[Memory::layer(&case.payload, &case.signature)]);
    let with = |name: &str, value: Value| {
        let mut document = good.clone();
        document[name] = value;
        document
    };
    for bad in [
        json!(1),
        json!({}),
        with("schemaVersion", json!(1)),
        with("manifests", json!([])),
        with(
            "mediaType",
            json!("application/vnd.oci.image.index.v1+json"),
        ),
        with("layers", json!({})),
        with("layers", json!([{ "mediaType": "x", "size": -1 }])),
    ] {
        case.registry.tag(&case.image, &case.digest, &bad);
        let error = case.permit().unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::InvalidArgument | ErrorKind::Unimplemented
            ),
            "{error}: {bad}"
        );
    }
}

#[test]
fn a_referrer_that_is_none_is_refused() {
    let case = case();
    let other = case.image.with_tag("other").unwrap();
    let other_digest = case.registry.image(&other, b"{\"other\":1}");
    let signed = sign(&case.registry, &other, &case.key).unwrap();
    // Another image's signature, listed for ours.
    let listed = case
        .registry
        .resolve(&other.with_digest(signed.signature.clone()))
        .unwrap();
    case.registry.list(&case.digest, listed);
    case.refused(ErrorKind::InvalidArgument, "and is none");
    assert_ne!(case.digest, other_digest);
    // One that is not there.
    let case = self::case();
    case.registry
        .list(&case.digest, memory::descriptor("x", b"gone"));
    case.refused(ErrorKind::DataLoss, "is not there");
}

#[test]
fn a_registry_that_does_not_answer_lets_nothing_in() {
    let case = case();
    case.registry.down();
    case.refused(ErrorKind::Unavailable, "down");
    let error = sign(&case.registry, &case.image, &case.key).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
