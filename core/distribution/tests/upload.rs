//! Pushes: what is there, what is mounted, and what goes on.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use containerkit::content::{Expected, ingest};
use containerkit::{ErrorKind, Labels, Reference, Result};
use containerkit_distribution::{
    CopyOptions, Platforms, Registry, Settings, accept, describe, push,
};
use serde_json::json;
use support::*;

/// A registry that takes uploads as the spec says.
#[derive(Default)]
struct Taken {
    uploads: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    /// Repositories from which anything can be mounted.
    mounts: Vec<String>,
    /// Bytes of a PATCH after which the connection breaks, once.
    breaks: Option<usize>,
    /// A manifest that another writer puts in the place of the first tagged one.
    other: Option<Vec<u8>>,
    /// Then nothing is answered until a test says so.
    dies: bool,
    dead: bool,
}

fn registry(taken: &Arc<Mutex<Taken>>) -> Server {
    let taken = Arc::clone(taken);
    Server::start(move |asked| answer(&mut taken.lock().unwrap(), asked))
}

fn answer(taken: &mut Taken, asked: &Asked) -> Reply {
    if taken.dead {
        return Reply::new(200).body(Body::Cut(Vec::new(), 10));
    }
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let parameter = |key: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .clone()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.to_string())
    };
    let name = path.rsplit('/').next().unwrap().to_string();
    if path.contains("/manifests/") {
        if asked.method != "PUT" {
            return match taken.manifests.get(&name) {
                Some(data) => Reply::ok(data.clone()).header("content-type", INDEX),
                None => Reply::new(404),
            };
        }
        let digest = digest(&asked.body).to_string();
        let other = taken.other.take_if(|_| !name.contains(':'));
        let tagged = other.unwrap_or_else(|| asked.body.clone());
        taken.manifests.insert(name, tagged);
        taken.manifests.insert(digest.clone(), asked.body.clone());
        return Reply::new(201).header("docker-content-digest", digest);
    }
    if path.ends_with("/blobs/uploads/") {
        let mounts = parameter("from").is_some_and(|from| taken.mounts.contains(&from));
        if mounts {
            let digest = parameter("mount").unwrap();
            taken.blobs.insert(digest, Vec::new());
            return Reply::new(201);
        }
        let id = format!("u{}", taken.uploads.len());
        taken.uploads.insert(id.clone(), Vec::new());
        return Reply::new(202).header("location", format!("{path}{id}?state=1"));
    }
    if path.contains("/blobs/uploads/") {
        let breaks = taken.breaks;
        let Some(held) = taken.uploads.get_mut(&name) else {
            return Reply::new(404);
        };
        if asked.method == "PATCH" {
            let range = asked.header("content-range").unwrap();
            let start: usize = range.split('-').next().unwrap().parse().unwrap();
            if start != held.len() {
                return Reply::new(416);
            }
            if let Some(at) = breaks.filter(|at| held.len() + asked.body.len() > *at) {
                let part = at - held.len();
                held.extend(&asked.body[..part]);
                taken.breaks = None;
                taken.dead = taken.dies;
                return Reply::new(202).body(Body::Cut(Vec::new(), 10));
            }
        }
        held.extend(&asked.body);
        let (data, end) = (held.clone(), held.len().saturating_sub(1));
        if asked.method == "PUT" {
            let wanted = parameter("digest").unwrap();
            if digest(&data).to_string() != wanted {
                return Reply::new(400);
            }
            taken.uploads.remove(&name);
            taken.blobs.insert(wanted, data);
            return Reply::new(201);
        }
        let status = if asked.method == "GET" { 204 } else { 202 };
        return Reply::new(status)
            .header("location", format!("{path}?state=2"))
            .header("range", format!("0-{end}"));
    }
    match taken.blobs.contains_key(&name) {
        true => Reply::ok(*b""),
        false => Reply::new(404),
    }
}

/// An artifact of one blob in a store, pushed.
fn push_blob(store: &Store, settings: Settings, reference: &Reference, data: &[u8]) -> Result<()> {
    let open = store.open();
    let mut content = Content::default();
    let target = content.image(&[data], "amd64", None);
    let all = content
        .blobs
        .values()
        .chain(content.manifests.values().map(|(_, data)| data));
    for bytes in all {
        let name = format!("put-{}", digest(bytes).hex()).parse().unwrap();
        let expected = Expected {
            size: None,
            digest: Some(digest(bytes)),
        };
        ingest(&*open, &name, &expected, &Labels::new(), &mut &bytes[..]).unwrap();
    }
    let target = serde_json::from_value(target).unwrap();
    let options = CopyOptions {
        platforms: Platforms::All,
        check: &accept,
        progress: &|_| {},
    };
    push(
        &Registry::new(settings),
        &*open,
        &target,
        reference,
        &options,
    )
    .map(drop)
}

#[test]
fn what_is_there_is_not_sent_again() {
    let taken = Arc::new(Mutex::new(Taken::default()));
    let server = registry(&taken);
    let store = Store::new();
    let data = noise(50_000, 1);
    let reference = server.reference("a/b:v1");
    push_blob(&store, settings(&[&server]), &reference, &data).unwrap();
    assert!(taken.lock().unwrap().blobs[&digest(&data).to_string()] == data);
    assert!(taken.lock().unwrap().manifests.contains_key("v1"));
    let sent = server.count("PUT", "/blobs/uploads/");
    push_blob(&store, settings(&[&server]), &reference, &data).unwrap();
    assert_eq!(server.count("PUT", "/blobs/uploads/"), sent);
}

#[test]
fn a_big_blob_goes_in_chunks_that_go_on() {
    let taken = Arc::new(Mutex::new(Taken {
        breaks: Some(25 << 20),
        ..Taken::default()
    }));
    let server = registry(&taken);
    let data = noise(40 << 20, 2);
    let mut settings = settings(&[&server]);
    let folder = tempfile::tempdir().unwrap();
    settings.uploads = Some(folder.path().join("uploads"));
    push_blob(&Store::new(), settings, &server.reference("a:v1"), &data).unwrap();
    assert!(taken.lock().unwrap().blobs[&digest(&data).to_string()] == data);
    let sent: usize = server
        .asked()
        .iter()
        .filter(|asked| asked.method == "PATCH")
        .map(|asked| asked.body.len())
        .sum();
    // 7 MiB of the second chunk were lost with its connection.
    assert_eq!(sent, (40 << 20) + (7 << 20));
    let left: Vec<_> = std::fs::read_dir(folder.path().join("uploads"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn another_process_goes_on_with_an_upload() {
    let taken = Arc::new(Mutex::new(Taken {
        breaks: Some(20 << 20),
        dies: true,
        ..Taken::default()
    }));
    let server = registry(&taken);
    let data = noise(40 << 20, 3);
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&[&server]);
    settings.uploads = Some(folder.path().to_path_buf());
    let mut once = settings.clone();
    once.retry.attempts = 1;
    let store = Store::new();
    let reference = server.reference("a:v1");
    push_blob(&store, once, &reference, &data).unwrap_err();
    taken.lock().unwrap().dead = false;
    let before = server.asked().len();
    push_blob(&store, settings, &reference, &data).unwrap();
    assert!(taken.lock().unwrap().blobs[&digest(&data).to_string()] == data);
    let sent: usize = server.asked()[before..]
        .iter()
        .filter(|asked| asked.method == "PATCH")
        .map(|asked| asked.body.len())
        .sum();
    assert_eq!(sent, 20 << 20);
}

#[test]
fn referrers_are_listed_under_the_fallback_tag() {
    let taken = Arc::new(Mutex::new(Taken::default()));
    let server = registry(&taken);
    let registry = Registry::new(settings(&[&server]));
    let reference = server.reference("a:v1");
    let config = registry.put_blob(&reference, "application/vnd.oci.empty.v1+json", b"{}");
    let config = config.unwrap();
    let subject = digest(b"subject");
    let described = describe(MANIFEST, &subject, 7).unwrap();
    let put = |kind: &str| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
            "config": config, "layers": [config], "subject": described,
            "annotations": { "kind": kind },
        });
        let data = manifest.to_string().into_bytes();
        let reference = reference.with_digest(digest(&data));
        registry.put_manifest(&reference, MANIFEST, &data).unwrap()
    };
    let (one, two) = (put("text/one"), put("text/two"));
    put("text/two");
    let all = registry.referrers(&reference, &subject, None).unwrap();
    let digests: Vec<_> = all.iter().map(|found| found.digest().clone()).collect();
    assert_eq!(digests, [one.digest().clone(), two.digest().clone()]);
    let two_only = registry
        .referrers(&reference, &subject, Some("text/two"))
        .unwrap();
    assert_eq!(two_only.len(), 1);
    let annotations = two_only[0].annotations().as_ref().unwrap();
    assert_eq!(annotations["kind"], "text/two");
    let none = registry.referrers(&reference, &digest(b"other"), None);
    assert!(none.unwrap().is_empty());
}

#[test]
fn lists_of_referrers_lose_nothing_to_mirrors_and_other_writers() {
    let other = describe(MANIFEST, &digest(b"other"), 5).unwrap();
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [other] });
    let taken = Arc::new(Mutex::new(Taken {
        other: Some(list.to_string().into_bytes()),
        ..Taken::default()
    }));
    let server = registry(&taken);
    // It knows an empty list, for ever.
    let empty = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }).to_string();
    let mirror = Server::start(move |_| Reply::ok(empty.clone()).header("content-type", INDEX));
    let mut settings = settings(&[&server, &mirror]);
    let own = settings.registries.get_mut(&server.address).unwrap();
    own.mirrors = vec![format!("http://{}", mirror.address).parse().unwrap()];
    let registry = Registry::new(settings);
    let reference = server.reference("a:v1");
    let subject = digest(b"subject");
    let described = describe(MANIFEST, &subject, 7).unwrap();
    let mut wanted = vec![other.digest().clone()];
    for kind in ["text/one", "text/two"] {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
            "config": described, "layers": [], "subject": described,
        });
        let data = manifest.to_string().into_bytes();
        let reference = reference.with_digest(digest(&data));
        let put = registry.put_manifest(&reference, MANIFEST, &data).unwrap();
        wanted.push(put.digest().clone());
    }
    let all = registry.referrers(&reference, &subject, None).unwrap();
    let digests: Vec<_> = all.iter().map(|found| found.digest().clone()).collect();
    assert_eq!(digests, wanted);
    assert!(mirror.asked().is_empty());
}

#[test]
fn an_upload_of_a_newer_format_is_refused_by_name() {
    let taken = Arc::new(Mutex::new(Taken {
        breaks: Some(20 << 20),
        dies: true,
        ..Taken::default()
    }));
    let server = registry(&taken);
    let data = noise(40 << 20, 4);
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&[&server]);
    settings.uploads = Some(folder.path().to_path_buf());
    settings.retry.attempts = 1;
    let store = Store::new();
    let reference = server.reference("a:v1");
    push_blob(&store, settings.clone(), &reference, &data).unwrap_err();
    taken.lock().unwrap().dead = false;
    let kept = std::fs::read_dir(folder.path()).unwrap();
    let kept = kept
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "json"))
        .unwrap();
    std::fs::write(&kept, "{\"version\": 2, \"where\": []}").unwrap();
    let error = push_blob(&store, settings.clone(), &reference, &data).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    says(&error, &[kept.to_str().unwrap(), "version 2", "version 1"]);
    std::fs::remove_file(&kept).unwrap();
    push_blob(&store, settings, &reference, &data).unwrap();
}
