//! `key`: files, passwords, and what other programs make of them. The others
//! are openssl, and Python with libsodium (PyNaCl) and `cryptography`.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use containerkit_tests::kit::{Kit, Ran};
use containerkit_tests::peer::{openssl, python};
use containerkit_tests::steps::{Steps, tree};

fn generate(kit: &Kit, prefix: &Path, password: &str) -> Ran {
    let output = kit
        .command(["key", "generate", prefix.to_str().unwrap()])
        .env("CONTAINERKIT_KEY_PASSWORD", password)
        .output()
        .unwrap();
    Ran::new(&output)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_pair_is_made_and_never_over_another() {
    let kit = Kit::new();
    let prefix = kit.path("my key");
    let (private, public) = (kit.path("my key.key"), kit.path("my key.pub"));
    let made = generate(&kit, &prefix, "pass").ok();
    assert_eq!(
        made.stdout,
        format!("{}\n{}\n", private.display(), public.display())
    );
    assert_eq!((mode(&private), mode(&public)), (0o600, 0o644));
    let before = std::fs::read(&private).unwrap();
    generate(&kit, &prefix, "pass").refused(1, &["my key.key", "exists"]);
    std::fs::remove_file(&public).unwrap();
    let again = generate(&kit, &prefix, "pass").refused(1, &["exists"]);
    assert!(again.stderr.contains("key public"), "{again:?}");
    assert_eq!(std::fs::read(&private).unwrap(), before);
    assert!(!public.exists());
    // Where only the public one is, the private one is not made either.
    std::fs::rename(&private, &public).unwrap();
    generate(&kit, &prefix, "pass").refused(1, &["my key.pub", "exists"]);
    assert!(!private.exists());
    assert_eq!(
        std::fs::read_dir(kit.path("")).unwrap().count(),
        1,
        "nothing else is left, and a key needs neither root nor state"
    );
}

#[test]
fn a_pair_that_is_killed_is_whole_or_not_there() {
    let kit = Kit::new();
    let folder = kit.path("keys");
    std::fs::create_dir(&folder).unwrap();
    let steps = Steps::new(kit.path("steps"));
    let command = |kit: &Kit, prefix: &str| {
        let prefix = folder.join(prefix);
        let mut command = kit.command(["key", "generate", prefix.to_str().unwrap()]);
        command.env("CONTAINERKIT_KEY_PASSWORD", "pass");
        command
    };
    let (ran, reached) = steps.count(&mut command(&kit, "whole"));
    ran.ok();
    for place in 1..=reached.len() {
        let prefix = format!("k{place}");
        let killed = steps.kill(&mut command(&kit, &prefix), place);
        assert_eq!(killed.status, 137, "{killed:?}");
        let (private, public) = (
            folder.join(format!("{prefix}.key")),
            folder.join(format!("{prefix}.pub")),
        );
        if !private.exists() {
            assert!(!public.exists());
            generate(&kit, &folder.join(&prefix), "pass").ok();
        } else {
            // The half that is missing can be had from the one that is there.
            let printed = kit
                .command(["key", "public", private.to_str().unwrap()])
                .env("CONTAINERKIT_KEY_PASSWORD", "pass")
                .output()
                .unwrap();
            let printed = Ran::new(&printed).ok();
            assert_eq!(mode(&private), 0o600);
            if public.exists() {
                assert_eq!(std::fs::read_to_string(&public).unwrap(), printed.stdout);
            }
        }
    }
    let others: Vec<String> = tree(&folder)
        .into_iter()
        .filter(|file| !file.contains(".key ") && !file.contains(".pub "))
        .collect();
    assert!(others.is_empty(), "left behind: {others:?}");
}

#[test]
fn what_cannot_be_a_pair_is_refused() {
    let kit = Kit::new();
    generate(&kit, &kit.path("no/such"), "pass").refused(1, &["no/such.key"]);
    generate(&kit, Path::new("/"), "pass").refused(1, &["folder"]);
    generate(&kit, &kit.path("").join("x/"), "pass").refused(1, &["folder"]);
    kit.run(["key", "generate"]).refused(2, &["PREFIX"]);
    kit.run(["key", "public", "/dev/null"])
        .refused(1, &["/dev/null", "regular file"]);
}

#[test]
fn a_password_comes_from_either_variable_or_is_missed() {
    let kit = Kit::new();
    let prefix = kit.path("k");
    kit.command(["key", "generate", prefix.to_str().unwrap()])
        .env_remove("CONTAINERKIT_KEY_PASSWORD")
        .env_remove("COSIGN_PASSWORD")
        .output()
        .map(|output| Ran::new(&output))
        .unwrap()
        .refused(1, &["no terminal"]);
    assert!(!kit.path("k.key").exists());
    generate(&kit, &prefix, "").ok();
    let file = kit.path("k.key");
    let public = |variable: &str, value: &str| {
        let output = kit
            .command(["key", "public", file.to_str().unwrap()])
            .env_remove("CONTAINERKIT_KEY_PASSWORD")
            .env_remove("COSIGN_PASSWORD")
            .env(variable, value)
            .output()
            .unwrap();
        Ran::new(&output)
    };
    let pem = std::fs::read_to_string(kit.path("k.pub")).unwrap();
    for variable in ["CONTAINERKIT_KEY_PASSWORD", "COSIGN_PASSWORD"] {
        assert_eq!(public(variable, "").ok().stdout, pem);
        public(variable, "x").refused(1, &["password is wrong", "k.key"]);
    }
}

#[test]
fn others_open_our_keys() {
    let kit = Kit::new();
    generate(&kit, &kit.path("k"), "pass wörd").ok();
    let plain = python(
        "import sys, json, base64
from nacl.hashlib import scrypt
from nacl.secret import SecretBox
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, NoEncryption
lines = open(sys.argv[1]).read().split('\\n')
assert lines[0] == '-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----' and lines[-2].startswith('-----END')
box = json.loads(base64.b64decode(''.join(lines[1:-2])))
kdf, cipher = box['kdf'], box['cipher']
assert kdf['name'] == 'scrypt' and cipher['name'] == 'nacl/secretbox'
n, r, p = (kdf['params'][x] for x in 'Nrp')
key = scrypt(sys.argv[2].encode(), base64.b64decode(kdf['salt']), n=n, r=r, p=p, dklen=32, maxmem=1 << 28)
der = SecretBox(key).decrypt(base64.b64decode(box['ciphertext']), base64.b64decode(cipher['nonce']))
key = load_der_private_key(der, None)
assert key.curve.name == 'secp256r1'
print(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), end='')",
        &[kit.path("k.key").to_str().unwrap(), "pass wörd"],
    );
    std::fs::write(kit.path("plain.key"), &plain).unwrap();
    let file = kit.path("plain.key");
    let file = file.to_str().unwrap();
    let ours = std::fs::read_to_string(kit.path("k.pub")).unwrap();
    assert_eq!(openssl(&["pkey", "-in", file, "-pubout"]), ours);
    // And the plain form is read without a password.
    assert_eq!(kit.run(["key", "public", file]).ok().stdout, ours);
}

#[test]
fn we_open_keys_of_others() {
    let kit = Kit::new();
    let path = |name: &str| kit.path(name).to_str().unwrap().to_string();
    let plain = openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    std::fs::write(kit.path("plain.key"), &plain).unwrap();
    let public = openssl(&["pkey", "-in", &path("plain.key"), "-pubout"]);
    // As cosign wrote keys at first: half the cost, and the other name.
    let sealed = python(
        "import sys, json, base64, os, textwrap
from nacl.hashlib import scrypt
from nacl.secret import SecretBox
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, NoEncryption
key = load_pem_private_key(open(sys.argv[1], 'rb').read(), None)
der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
salt, nonce = os.urandom(32), os.urandom(24)
secret = scrypt(b'pass', salt, n=32768, r=8, p=1, dklen=32, maxmem=1 << 28)
b64 = lambda b: base64.b64encode(b).decode()
box = {'kdf': {'name': 'scrypt', 'params': {'N': 32768, 'r': 8, 'p': 1}, 'salt': b64(salt)},
       'cipher': {'name': 'nacl/secretbox', 'nonce': b64(nonce)},
       'ciphertext': b64(SecretBox(secret).encrypt(der, nonce).ciphertext)}
name = 'ENCRYPTED COSIGN PRIVATE KEY'
print('-----BEGIN %s-----' % name)
print('\\n'.join(textwrap.wrap(b64(json.dumps(box).encode()), 64)))
print('-----END %s-----' % name)",
        &[&path("plain.key")],
    );
    std::fs::write(kit.path("sealed.key"), sealed).unwrap();
    let output = kit
        .command(["key", "public", &path("sealed.key")])
        .env("COSIGN_PASSWORD", "pass")
        .env_remove("CONTAINERKIT_KEY_PASSWORD")
        .output()
        .unwrap();
    assert_eq!(Ran::new(&output).ok().stdout, public);
    // Other curves, other kinds and other forms are named.
    let other = openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-384",
    ]);
    let ed25519 = openssl(&["genpkey", "-algorithm", "ED25519"]);
    let old = openssl(&["pkey", "-in", &path("plain.key"), "-traditional"]);
    for (text, why) in [
        (other.as_str(), "P-256"),
        (&ed25519, "P-256"),
        (&old, "EC PRIVATE KEY"),
    ] {
        std::fs::write(kit.path("other.key"), text).unwrap();
        kit.run(["key", "public", &path("other.key")])
            .refused(1, &["other.key", why]);
    }
}
