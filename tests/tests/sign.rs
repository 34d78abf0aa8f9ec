//! Signatures at a real registry, and policies on every way in.

#![allow(clippy::unwrap_used)]

use containerkit_tests::image::{Layer, TestImage, busybox};
use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::peer::{openssl, python};
use containerkit_tests::registry::RegistryServer;
use containerkit_tests::steps::Steps;
use serde_json::{Value, json};

/// A kit, a registry with an image that nobody has signed, and two key pairs.
struct Place {
    kit: Kit,
    registry: RegistryServer,
    image: String,
}

impl Place {
    fn new() -> Place {
        let kit = Kit::with_busybox();
        let registry = RegistryServer::default();
        let image = registry.name("team/app:v1");
        let place = Place {
            kit,
            registry,
            image,
        };
        place.policy("");
        place
            .kit
            .run(["image", "push", "busybox", &place.image])
            .ok();
        for name in ["ann", "bob"] {
            let prefix = place.kit.path(name);
            place
                .run(&["key", "generate", prefix.to_str().unwrap()])
                .ok();
        }
        place
    }

    /// The configuration with these lines of a policy.
    fn policy(&self, lines: &str) {
        let policy = match lines {
            "" => String::new(),
            lines => format!("[policy]\n{lines}\n"),
        };
        let address = &self.registry.address;
        self.kit.configure(&format!(
            "[registry.\"{address}\"]\nplain_http = true\n{policy}"
        ));
    }

    fn run(&self, args: &[&str]) -> Ran {
        let output = self
            .kit
            .command(args)
            .env("CONTAINERKIT_KEY_PASSWORD", "pass")
            .output()
            .unwrap();
        Ran::new(&output)
    }

    fn file(&self, name: &str) -> String {
        self.kit.path(name).to_str().unwrap().to_string()
    }

    fn sign(&self, key: &str, image: &str) -> Ran {
        let key = self.file(&format!("{key}.key"));
        self.run(&["image", "sign", "--key", &key, image])
    }

    fn verify(&self, key: &str, image: &str) -> Ran {
        let key = self.file(&format!("{key}.pub"));
        self.run(&["image", "verify", "--key", &key, image])
    }

    fn pull(&self) -> Ran {
        self.run(&["image", "pull", &self.image])
    }

    /// The name of an image there that is another one, pushed under this name.
    fn push_other(&self, image: &str) {
        let layout = self.kit.path("other-layout");
        let mut layer = Layer::new();
        layer.file("other", 0o644, b"other");
        let other = TestImage {
            layers: vec![layer.finish()],
            ..busybox()
        };
        other.write_layout(&layout);
        let layout = layout.to_str().unwrap();
        let args = ["image", "import", layout, "--name", "other", "--no-unpack"];
        self.run(&args).ok();
        self.run(&["image", "push", "other", image]).ok();
    }

    /// Forgets the image, so that nothing of it is known.
    fn forget(&self) {
        let root = self.kit.root();
        std::fs::remove_dir_all(root).unwrap();
    }

    /// Nothing was recorded, unpacked or run.
    #[track_caller]
    fn assert_untouched(&self) {
        let list = |args: &[&str]| self.run(args).ok().json();
        assert_eq!(list(&["image", "ls", "--format", "json"]), json!([]));
        assert_eq!(list(&["snapshot", "ls", "--format", "json"]), json!([]));
        assert_eq!(list(&["ps", "--all", "--format", "json"]), json!([]));
    }
}

#[test]
fn signing_that_is_killed_is_finished_by_the_next() {
    let place = Place::new();
    let steps = Steps::new(place.kit.path("steps"));
    let sign = |key: &str, image: &str| {
        let key = place.file(&format!("{key}.key"));
        let mut command = place.kit.command(["image", "sign", "--key", &key, image]);
        command.env("CONTAINERKIT_KEY_PASSWORD", "pass");
        command
    };
    for (number, step) in ["sign.payload", "sign.referrer", "sign.tagged"]
        .iter()
        .enumerate()
    {
        let image = place.registry.name(&format!("team/app{number}:v1"));
        place.run(&["image", "push", "busybox", &image]).ok();
        place.sign("bob", &image).ok();
        let killed = steps.kill(&mut sign("ann", &image), step);
        assert_eq!(killed.status, 137, "{killed:?}");
        // What another signed stays, and ours is there or not.
        place.verify("bob", &image).ok();
        let ran = place.verify("ann", &image);
        match *step {
            "sign.payload" => drop(ran.refused(1, &["by other keys"])),
            _ => drop(ran.ok()),
        }
        place.sign("ann", &image).ok();
        let layout = place.file(&format!("layout{number}"));
        place.run(&["image", "copy", &image, &layout]).ok();
        let count = std::fs::read_to_string(format!("{layout}/index.json"))
            .unwrap()
            .matches("\"digest\"")
            .count();
        assert_eq!(count, 4, "the image, the tag and two referrers");
        place.verify("ann", &image).ok();
        place.verify("bob", &image).ok();
    }
}

/// A mirror that is old, or somebody else's, says neither what is signed nor
/// what has been signed before.
#[test]
fn signing_asks_the_registry_itself() {
    let place = Place::new();
    let image = &place.image;
    let mirror = RegistryServer::default();
    place.sign("ann", image).ok();
    let digest = |ran: Ran| ran.ok().json()["digest"].clone();
    let verify = |key: &str| {
        let key = place.file(&format!("{key}.pub"));
        place.run(&["image", "verify", "--key", &key, image, "--format", "json"])
    };
    let before = digest(verify("ann"));
    let configured = format!("[registry.\"{}\"]\nplain_http = true\n", mirror.address);
    place.kit.configure(&configured);
    place.push_other(&mirror.name("team/app:v1"));
    let address = &place.registry.address;
    place.kit.configure(&format!(
        "[registry.\"{address}\"]\nplain_http = true\nmirrors = [\"http://{}\"]\n",
        mirror.address
    ));
    let explained = place.run(&["registry", "explain", image]).ok();
    assert!(explained.stdout.contains(&mirror.address), "{explained:?}");
    let key = place.file("bob.key");
    let signed = place.run(&["image", "sign", "--key", &key, image, "--format", "json"]);
    assert_eq!(digest(signed), before);
    for key in ["ann", "bob"] {
        assert_eq!(digest(verify(key)), before);
    }
}

/// The document of a descriptor in a layout.
fn blob(place: &Place, layout: &str, digest: &str) -> Vec<u8> {
    let path = format!("{layout}/blobs/{}", digest.replace(':', "/"));
    std::fs::read(place.kit.path(&path)).unwrap()
}

#[test]
fn what_is_signed_verifies_and_nothing_else() {
    let place = Place::new();
    let image = &place.image;
    place
        .verify("ann", image)
        .refused(1, &["none of the keys", "no signature"]);
    let signed = place.sign("ann", image).ok();
    assert!(signed.stdout.contains("signed by key"), "{signed:?}");
    let verified = place.verify("ann", image).ok();
    assert!(verified.stdout.contains("verified"), "{verified:?}");
    place
        .verify("bob", image)
        .refused(1, &["none of the keys", "by other keys"]);
    // By digest too, and by any other tag of the same manifest.
    let (name, _) = image.rsplit_once(':').unwrap();
    let json = place.run(&[
        "image",
        "verify",
        "--key",
        &place.file("ann.pub"),
        image,
        "--format",
        "json",
    ]);
    let json = json.ok().json();
    let digest = json["digest"].as_str().unwrap();
    assert_eq!(json["signers"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(json["signers"][0]["repository"], name);
    place.verify("ann", &format!("{name}@{digest}")).ok();
    place
        .run(&["image", "push", "busybox", &format!("{name}:v2")])
        .ok();
    place.verify("ann", &format!("{name}:v2")).ok();
    // Another manifest under the same tag.
    place.push_other(image);
    place.verify("ann", image).refused(1, &["no signature"]);
    place.verify("ann", &format!("{name}@{digest}")).ok();
    // The same manifest in another repository, signatures and all.
    let copied = place.registry.name("elsewhere/app:v1");
    place
        .run(&["image", "copy", &format!("{name}:v2"), &copied])
        .ok();
    place
        .verify("ann", &copied)
        .refused(1, &["it is for repository", "team/app"]);
    place.sign("ann", &copied).ok();
    place.verify("ann", &copied).ok();
}

#[test]
fn signatures_are_added_and_openssl_and_python_verify_them() {
    let place = Place::new();
    for key in ["ann", "bob", "ann"] {
        place.sign(key, &place.image).ok();
    }
    place.verify("ann", &place.image).ok();
    place.verify("bob", &place.image).ok();
    let layout = place.file("layout");
    place.run(&["image", "copy", &place.image, &layout]).ok();
    let index: Value = serde_json::from_slice(&blob_index(&place)).unwrap();
    let manifests = index["manifests"].as_array().unwrap();
    let of = |manifest: &Value| -> Value {
        let digest = manifest["digest"].as_str().unwrap();
        serde_json::from_slice(&blob(&place, "layout", digest)).unwrap()
    };
    let tagged = manifests
        .iter()
        .find(|m| {
            let name = &m["annotations"]["org.opencontainers.image.ref.name"];
            name.as_str().is_some_and(|name| name.ends_with(".sig"))
        })
        .unwrap_or_else(|| panic!("no tag of signatures: {index}"));
    let layers = of(tagged)["layers"].as_array().unwrap().clone();
    assert_eq!(layers.len(), 2, "signing twice by one key adds nothing");
    let referrers = manifests
        .iter()
        .filter(|m| of(m)["artifactType"] == "application/vnd.dev.cosign.artifact.sig.v1+json")
        .count();
    assert_eq!(referrers, 2, "{index}");
    for (layer, key) in layers.iter().zip(["ann", "bob"]) {
        let payload = blob(&place, "layout", layer["digest"].as_str().unwrap());
        let document: Value = serde_json::from_slice(&payload).unwrap();
        let (repository, _) = place.image.rsplit_once(':').unwrap();
        assert_eq!(
            document["critical"]["identity"]["docker-reference"],
            repository
        );
        std::fs::write(place.kit.path("payload"), &payload).unwrap();
        let text = layer["annotations"]["dev.cosignproject.cosign/signature"]
            .as_str()
            .unwrap();
        std::fs::write(place.kit.path("signature.b64"), text).unwrap();
        let [public, payload, b64, der] = [
            &format!("{key}.pub"),
            "payload",
            "signature.b64",
            "signature",
        ]
        .map(|name| place.file(name));
        openssl(&["base64", "-d", "-A", "-in", &b64, "-out", &der]);
        let verified = openssl(&[
            "dgst",
            "-sha256",
            "-verify",
            &public,
            "-signature",
            &der,
            &payload,
        ]);
        assert_eq!(verified.trim(), "Verified OK");
        python(
            "import sys, base64
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
read = lambda n: open(sys.argv[n], 'rb').read()
load_pem_public_key(read(1)).verify(base64.b64decode(read(2), validate=True), read(3), ECDSA(SHA256()))",
            &[&public, &b64, &payload],
        );
    }
}

fn blob_index(place: &Place) -> Vec<u8> {
    std::fs::read(place.kit.path("layout/index.json")).unwrap()
}

/// As cosign would: the payload written by hand, signed by openssl with a key
/// of its own making, stored under the tag alone.
#[test]
fn what_others_signed_verifies() {
    let place = Place::new();
    let (name, _) = place.image.rsplit_once(':').unwrap();
    let layout = place.file("images");
    place.run(&["image", "copy", &place.image, &layout]).ok();
    let index: Value =
        serde_json::from_slice(&std::fs::read(place.kit.path("images/index.json")).unwrap())
            .unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let [key, public, payload, der] =
        ["their.key", "their.pub", "payload", "signature"].map(|name| place.file(name));
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        &key,
    ]);
    openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]);
    let text = json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        },
        "optional": { "creator": "somebody" },
    })
    .to_string();
    std::fs::write(&payload, &text).unwrap();
    openssl(&["dgst", "-sha256", "-sign", &key, "-out", &der, &payload]);
    let signature = openssl(&["base64", "-A", "-in", &der]);
    let tag = format!("{}.sig", digest.replace(':', "-"));
    let layout = SignatureLayout::write(&place, &tag, &text, signature.trim());
    place
        .run(&["image", "copy", &layout, &format!("{name}:{tag}")])
        .ok();
    let args = ["image", "verify", "--key", &public, &place.image];
    let verified = place.run(&[&args[..], &["--format", "json"]].concat());
    let json = verified.ok().json();
    assert_eq!(json["signers"][0]["optional"]["creator"], "somebody");
    // Ours goes beside it.
    place.sign("ann", &place.image).ok();
    place.run(&args).ok();
    place.verify("ann", &place.image).ok();
    // One that is damaged spoils them all.
    let layout = SignatureLayout::write(&place, &tag, &text, &signature.trim()[..40]);
    place
        .run(&["image", "copy", &layout, &format!("{name}:{tag}")])
        .ok();
    place.run(&args).refused(1, &["cannot verify"]);
    place
        .sign("ann", &place.image)
        .refused(1, &["signature of payload"]);
}

/// A layout with one manifest of signatures.
struct SignatureLayout;

impl SignatureLayout {
    fn write(place: &Place, tag: &str, payload: &str, signature: &str) -> String {
        let dir = place.kit.path("signature-layout");
        let _ = std::fs::remove_dir_all(&dir);
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let add = |media_type: &str, data: &[u8]| -> Value {
            let digest = containerkit::Algorithm::Sha256.digest(data);
            std::fs::write(blobs.join(digest.hex()), data).unwrap();
            json!({ "mediaType": media_type, "digest": digest, "size": data.len() })
        };
        let config = add("application/vnd.oci.image.config.v1+json", b"{}");
        let mut layer = add(
            "application/vnd.dev.cosign.simplesigning.v1+json",
            payload.as_bytes(),
        );
        layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer],
        });
        let mut entry = add(media_type, manifest.to_string().as_bytes());
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        format!("oci:{}:{tag}", dir.display())
    }
}

#[test]
fn a_policy_is_asked_before_anything_is_unpacked() {
    let place = Place::new();
    place.forget();
    let address = &place.registry.address;
    let any = format!("\"{address}\" = {{ any = [\"ann.pub\", \"bob.pub\"] }}");
    place.policy(&any);
    let image = place.image.as_str();
    let refused = place.pull().refused(1, &[image, "no signature"]);
    assert!(refused.stderr.contains(address.as_str()), "{refused:?}");
    place.assert_untouched();
    place
        .run(&["run", "--rm", image, "true"])
        .refused(125, &["no signature"]);
    place.assert_untouched();
    place.sign("bob", image).ok();
    place.run(&["run", "--rm", image, "true"]).ok();
    place.pull().ok();
    // All of the keys: one is missing, then not.
    place.forget();
    let all = format!("\"{address}\" = {{ all = [\"ann.pub\", \"bob.pub\"] }}");
    place.policy(&all);
    place.pull().refused(1, &["has not signed"]);
    place.assert_untouched();
    place.sign("ann", image).ok();
    place.pull().ok();
    // The narrowest rule is the one that counts.
    place.forget();
    place.policy(&format!("{all}\n\"{address}/team\" = \"reject\""));
    place.pull().refused(1, &["rejects"]);
    place.assert_untouched();
    place.policy(&format!(
        "\"*\" = \"reject\"\n\"{address}/team/app:v1\" = \"accept\""
    ));
    place.pull().ok();
    place
        .run(&["image", "pull", &place.registry.name("team/app:v2")])
        .refused(1, &[]);
}

#[test]
fn run_needs_no_registry_until_the_rule_changes() {
    let mut place = Place::new();
    place.forget();
    let address = place.registry.address.clone();
    let image = place.image.clone();
    place.sign("ann", &image).ok();
    place.policy(&format!("\"{address}\" = {{ any = [\"ann.pub\"] }}"));
    place.pull().ok();
    place.registry.kill();
    place.run(&["run", "--rm", &image, "true"]).ok();
    // The same key from elsewhere is the same rule.
    std::fs::copy(place.kit.path("ann.pub"), place.kit.path("copy.pub")).unwrap();
    place.policy(&format!("\"{address}\" = {{ any = [\"copy.pub\"] }}"));
    place.run(&["run", "--rm", &image, "true"]).ok();
    for rule in [
        "{ any = [\"bob.pub\"] }",
        "{ any = [\"ann.pub\", \"bob.pub\"] }",
        "{ all = [\"ann.pub\"] }",
    ] {
        place.policy(&format!("\"{address}\" = {rule}"));
        place
            .run(&["run", "--rm", &image, "true"])
            .refused(125, &["cannot verify"]);
    }
    place.policy(&format!("\"{address}\" = \"reject\""));
    for args in [
        &["run", "--rm", &image, "true"][..],
        &["create", &image, "true"],
        &["image", "unpack", &image],
    ] {
        let ran = place.run(args);
        assert!(ran.status != 0 && ran.stderr.contains("rejects"), "{ran:?}");
    }
    // Another name of the same image is no way round it.
    place.policy(&format!(
        "\"*\" = \"reject\"\n\"{address}\" = {{ any = [\"ann.pub\"] }}"
    ));
    place.run(&["image", "tag", &image, "mine"]).ok();
    place
        .run(&["run", "--rm", "mine", "true"])
        .refused(125, &["rejects"]);
    place.run(&["run", "--rm", &image, "true"]).ok();
    place.kit.assert_clean();
}

#[test]
fn an_import_asks_when_it_is_told_to_and_run_always() {
    let place = Place::new();
    let layout = place.file("busybox-layout");
    let address = &place.registry.address;
    place.forget();
    place.policy(&format!("\"{address}\" = {{ any = [\"ann.pub\"] }}"));
    let import = ["image", "import", &layout, "--name", &place.image];
    let with_policy = [&import[..], &["--policy"]].concat();
    place.run(&with_policy).refused(1, &["no signature"]);
    place.assert_untouched();
    place.run(&import).ok();
    place
        .run(&["run", "--rm", &place.image, "true"])
        .refused(125, &["no signature"]);
    place.sign("ann", &place.image).ok();
    place.run(&with_policy).ok();
    place.run(&["run", "--rm", &place.image, "true"]).ok();
}

/// A copy in a layout has its signatures with it; no registry is needed.
#[test]
fn an_import_is_verified_by_what_came_with_it() {
    let mut place = Place::new();
    let image = place.image.clone();
    let address = place.registry.address.clone();
    place.sign("ann", &image).ok();
    let layout = place.file("copy");
    place.run(&["image", "copy", &image, &layout]).ok();
    place.registry.kill();
    place.forget();
    let import = |more: &[&str]| {
        let args = [&["image", "import", &layout, "--name", &image], more].concat();
        place.run(&args)
    };
    place.policy(&format!("\"{address}\" = {{ any = [\"bob.pub\"] }}"));
    import(&["--policy"]).refused(1, &["by other keys"]);
    place.assert_untouched();
    place.policy(&format!("\"{address}\" = {{ any = [\"ann.pub\"] }}"));
    import(&["--policy"]).ok();
    place.run(&["run", "--rm", &image, "true"]).ok();
    let images = place.run(&["image", "ls", "--format", "json"]).ok().json();
    assert_eq!(
        images.as_array().unwrap().len(),
        1,
        "signatures are no images"
    );
    // Under another name the signature is somebody else's.
    place.policy("\"docker.io\" = { any = [\"ann.pub\"] }");
    let args = ["image", "import", &layout, "--name", "busybox", "--policy"];
    place
        .run(&args)
        .refused(1, &["it is for repository", &address]);
    // Nothing in the layout says who signed: the registry would.
    let plain = place.file("busybox-layout");
    place.policy(&format!("\"{address}\" = {{ any = [\"ann.pub\"] }}"));
    let other = format!("{address}/team/other");
    let args = ["image", "import", &plain, "--name", &other, "--policy"];
    place.run(&args).refused(1, &["cannot verify"]);
}

#[test]
fn verify_by_policy_says_which() {
    let mut place = Place::new();
    let address = place.registry.address.clone();
    let image = place.image.clone();
    let verify = ["image", "verify", "--policy", &image];
    let accepted = place.run(&verify).ok();
    assert!(accepted.stdout.contains("policy of \"*\""), "{accepted:?}");
    place.policy(&format!("\"{address}/team\" = {{ any = [\"ann.pub\"] }}"));
    place.run(&verify).refused(1, &["no signature"]);
    place.sign("ann", &image).ok();
    let json = place.run(&[&verify[..], &["--format", "json"]].concat());
    let json = json.ok().json();
    assert_eq!(json["policy"], format!("{address}/team"));
    assert_eq!(json["signers"].as_array().unwrap().len(), 1);
    // Neither or both ways is no way.
    place
        .run(&["image", "verify", &image])
        .refused(2, &["--key"]);
    let key = place.file("ann.pub");
    place
        .run(&["image", "verify", "--policy", "--key", &key, &image])
        .refused(2, &["--policy"]);
    place.registry.kill();
    for args in [
        &verify[..],
        &["image", "verify", "--key", &key, &image],
        &["image", "sign", "--key", &place.file("ann.key"), &image],
    ] {
        place.run(args).refused(1, &[&address]);
    }
}

#[test]
fn a_key_that_cannot_be_read_lets_nothing_in() {
    let place = Place::new();
    let address = &place.registry.address;
    place.sign("ann", &place.image).ok();
    for (file, why) in [
        ("gone.pub", "gone.pub"),
        ("ann.key", "private key"),
        ("containerkit.toml", "not PEM"),
    ] {
        place.policy(&format!(
            "\"{address}\" = {{ any = [\"ann.pub\", \"{file}\"] }}"
        ));
        let ran = place
            .pull()
            .refused(1, &["containerkit.toml:4:", file, why]);
        assert!(!ran.stderr.contains("signature"), "{ran:?}");
        place
            .run(&["config", "check"])
            .refused(1, &["containerkit.toml:4:", why]);
    }
    // A wrong password, and a public key to sign with.
    let key = place.file("ann.key");
    let output = place
        .kit
        .command(["image", "sign", "--key", &key, &place.image])
        .env("CONTAINERKIT_KEY_PASSWORD", "wrong")
        .output()
        .unwrap();
    Ran::new(&output).refused(1, &["ann.key", "password is wrong"]);
    place
        .run(&[
            "image",
            "sign",
            "--key",
            &place.file("ann.pub"),
            &place.image,
        ])
        .refused(1, &["ann.pub", "public key"]);
}
