//! Registries that lie, trickle, break off or never end.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerkit::{ErrorKind, Reference};
use containerkit_distribution::{Platforms, Registry, Settings};
use serde_json::json;
use support::*;

/// A registry whose one layer is answered by a test.
fn with_layer(
    layer: &[u8],
    answer: impl Fn(&Asked, &[u8]) -> Reply + Send + Sync + 'static,
) -> Server {
    let mut content = Content::default();
    content.image(&[layer], "amd64", Some("v1"));
    let data = layer.to_vec();
    let path = format!("/blobs/{}", digest(layer));
    Server::start(move |asked| match asked.path.ends_with(&path) {
        true => answer(asked, &data),
        false => content.serve(asked),
    })
}

#[test]
fn bodies_longer_than_their_size_are_cut_off() {
    let layer = noise(100_000, 1);
    for endless in [false, true] {
        let server = with_layer(&layer, move |_, data| {
            let longer = [data, b"x"].concat();
            Reply::new(200).body(match endless {
                true => Body::Endless,
                false => Body::Unsized(longer),
            })
        });
        let store = Store::new();
        let error = store
            .pull(settings(&[&server]), &server.reference("a:v1"))
            .unwrap_err();
        says(&error, &["goes on after the 100000 bytes"]);
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(!store.has(&layer));
        assert_eq!(store.ingests(), 0);
    }
}

#[test]
fn announced_lengths_that_lie_are_refused_before_a_byte() {
    let layer = noise(1000, 2);
    let server = with_layer(&layer, |_, data| Reply::ok([data, b"x"].concat()));
    let store = Store::new();
    let error = store
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    says(&error, &["announces 1001 bytes", "says 1000"]);
    assert_eq!(store.ingests(), 0);
}

#[test]
fn wrong_bytes_leave_nothing() {
    let layer = noise(70_000, 3);
    let server = with_layer(&layer, |_, data| Reply::ok(noise(data.len(), 4)));
    let store = Store::new();
    let error = store
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    says(&error, &["another digest"]);
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert_eq!(store.ingests(), 0);
}

#[test]
fn a_content_range_that_is_another_part_is_refused() {
    let layer = noise(50_000, 5);
    let lies: [fn(usize, usize, usize) -> String; 4] = [
        |_, end, size| format!("bytes 0-{end}/{size}"),
        |start, end, size| format!("bytes {start}-{}/{size}", end - 1),
        |start, end, size| format!("bytes {start}-{end}/{}", size + 1),
        |_, _, _| "nonsense".into(),
    ];
    for lie in lies {
        let cut = AtomicUsize::new(0);
        let server = with_layer(&layer, move |asked, data| match asked.range() {
            None if cut.fetch_add(1, Ordering::Relaxed) == 0 => {
                Reply::new(200).body(Body::Cut(data[..20_000].to_vec(), data.len()))
            }
            None => Reply::new(500),
            Some((start, end)) => Reply::new(206)
                .header("content-range", lie(start, end, data.len()))
                .body(Body::Whole(data[start..=end].to_vec())),
        });
        let store = Store::new();
        let error = store
            .pull(settings(&[&server]), &server.reference("a:v1"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
        says(&error, &["Content-Range"]);
        assert!(!store.has(&layer));
    }
}

#[test]
fn silence_is_given_up() {
    let layer = noise(1000, 6);
    let server = with_layer(&layer, |_, _| Reply::new(200).body(Body::Silent));
    let mut settings = settings(&[&server]);
    settings.retry.attempts = 2;
    let registry = settings.registries.get_mut(&server.address).unwrap();
    registry.idle_timeout = Duration::from_millis(200);
    let error = Store::new()
        .pull(settings, &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(server.count("GET", "/blobs/sha256"), 3); // the config, and two tries
}

#[test]
fn a_transfer_that_runs_ends_with_its_time() {
    // One stream, and one of parts: fast enough never to be idle.
    for size in [1 << 30, 100_000] {
        let layer = noise(1000, 8);
        let mut content = Content::default();
        content.image(&[&layer], "amd64", None);
        let mut image: serde_json::Value = content
            .manifests
            .values()
            .map(|(_, data)| serde_json::from_slice(data).unwrap())
            .next()
            .unwrap();
        image["layers"][0]["size"] = json!(size);
        content.document(&image, MANIFEST, Some("v1"));
        let path = format!("/blobs/{}", digest(&layer));
        let server = Server::start(move |asked| match asked.range() {
            Some((start, end)) => Reply::new(206)
                .header("content-range", format!("bytes {start}-{end}/{size}"))
                .body(Body::Slow(end + 1 - start)),
            None if asked.path.ends_with(&path) => Reply::new(200).body(Body::Slow(size)),
            None => content.serve(asked),
        });
        let mut settings = settings(&[&server]);
        let registry = settings.registries.get_mut(&server.address).unwrap();
        registry.timeout = Some(Duration::from_millis(100));
        let error = Store::new()
            .pull(settings, &server.reference("a:v1"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        says(&error, &["longer than the registry's timeout allows"]);
    }
}

#[test]
fn who_gives_up_does_not_wait_for_a_silent_server() {
    let layer = noise(1000, 6);
    let cancel = containerkit::Cancel::default();
    let asked = cancel.clone();
    let server = with_layer(&layer, move |_, _| {
        asked.cancel();
        Reply::new(200).body(Body::Silent)
    });
    let mut settings = settings(&[&server]);
    settings.cancel = cancel;
    let registry = settings.registries.get_mut(&server.address).unwrap();
    registry.idle_timeout = Duration::from_secs(3600);
    let error = Store::new()
        .pull(settings, &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

#[test]
fn documents_are_bounded() {
    let server = Server::start(|_| {
        Reply::new(200)
            .header("content-type", MANIFEST)
            .body(Body::Endless)
    });
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");

    // A descriptor that says so is not even asked for.
    let child = json!({ "mediaType": MANIFEST, "digest": digest(b"x"), "size": 5 << 20,
        "platform": { "os": "linux", "architecture": "amd64" } });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child] });
    let mut content = Content::default();
    content.document(&index, INDEX, Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert_eq!(server.asked().len(), 1);

    let config = json!({ "mediaType": CONFIG, "digest": digest(b"x"), "size": 5 << 20 });
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] });
    let mut content = Content::default();
    content.document(&manifest, MANIFEST, Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
}

#[test]
fn documents_that_are_two_things_are_refused() {
    let descriptor = json!({ "mediaType": CONFIG, "digest": digest(b"{}"), "size": 2 });
    let manifest = |extra: serde_json::Value| {
        let mut value = json!({ "schemaVersion": 2, "config": descriptor, "layers": [] });
        for (key, member) in extra.as_object().unwrap() {
            value[key] = member.clone();
        }
        value
    };
    for (value, media_type, word) in [
        (manifest(json!({ "manifests": [] })), MANIFEST, "ambiguous"),
        (
            manifest(json!({ "mediaType": INDEX })),
            MANIFEST,
            "announced as",
        ),
        (
            manifest(json!({ "mediaType": MANIFEST })),
            INDEX,
            "announced as",
        ),
        (manifest(json!({})), INDEX, "index"),
        (manifest(json!({ "fsLayers": [] })), MANIFEST, "schema 1"),
        (
            json!({ "schemaVersion": 2, "mediaType": "text/\u{1b}[31m" }),
            "application/json",
            "neither an index nor a manifest",
        ),
    ] {
        let mut content = Content::default();
        content.document(&value, media_type, Some("v1"));
        let server = Server::start(move |asked| content.serve(asked));
        let error = Store::new()
            .pull(settings(&[&server]), &server.reference("a:v1"))
            .unwrap_err();
        says(&error, &[word]);
    }
}

#[test]
fn a_child_that_is_not_what_its_index_says_is_refused() {
    let mut content = Content::default();
    let mut child = content.image(&[b"layer"], "amd64", None);
    child["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    child["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child] });
    content.document(&index, INDEX, Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    says(&error, &["was announced as"]);
}

#[test]
fn indexes_nested_deeply_or_without_end_are_refused() {
    let mut content = Content::default();
    let mut below = content.image(&[b"layer"], "amd64", None);
    for depth in 0..6 {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [below] });
        below = content.document(&index, INDEX, (depth == 5).then_some("deep"));
    }
    let many: Vec<_> = (0..600)
        .map(|n| {
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [],
                "annotations": { "n": n.to_string() } });
            content.document(&index, INDEX, None)
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": many });
    content.document(&index, INDEX, Some("many"));
    // One that answers with itself, whatever is asked for.
    let data = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{INDEX}","digest":"{}","size":400}}]}}"#,
        digest(b"itself")
    );
    content
        .manifests
        .insert("itself".into(), (INDEX.into(), data.clone().into()));
    let itself = digest(b"itself").to_string();
    content
        .manifests
        .insert(itself, (INDEX.into(), data.into()));
    let server = Server::start(move |asked| content.serve(asked));
    for (tag, word) in [
        ("deep", "nested more than 4 deep"),
        ("many", "more than 512 manifests"),
        ("itself", "its bytes have the digest"),
    ] {
        for platforms in [
            Platforms::All,
            Platforms::One("linux/amd64".parse().unwrap()),
        ] {
            let reference = server.reference(&format!("a:{tag}"));
            let error = Store::new()
                .pull_for(settings(&[&server]), &reference, platforms)
                .unwrap_err();
            says(&error, &[word]);
        }
    }
}

#[test]
fn what_a_server_says_does_no_harm_on_a_terminal() {
    let body = "{\"errors\":[{\"code\":\"\\u001b[31mX\",\"message\":\"a\\r\\nb\\u0007\u{202e}\"}]}";
    let server = Server::start(move |_| Reply::new(403).body(Body::Whole(body.into())));
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    says(&error, &["403"]);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    // A body that never ends is no reason to read it all.
    let server = Server::start(|_| Reply::new(404).body(Body::Endless));
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn failures_that_pass_are_waited_out() {
    let layer = noise(30_000, 7);
    let turn = AtomicUsize::new(0);
    let server = with_layer(&layer, move |_, data| {
        match turn.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::new(503),
            1 => Reply::new(429).header("retry-after", "0"),
            // Reset before a byte of the body.
            2 => Reply::new(200).body(Body::Cut(Vec::new(), data.len())),
            _ => Reply::ok(data),
        }
    });
    let store = Store::new();
    let pulled = store.pull(settings(&[&server]), &server.reference("a:v1"));
    pulled.unwrap();
    assert!(store.has(&layer));

    let server = with_layer(&layer, |_, _| Reply::new(503).header("retry-after", "0"));
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    says(&error, &["503"]);
    // The config, and four tries.
    assert_eq!(server.count("GET", "/blobs/"), 5);
}

#[test]
fn documents_that_break_off_are_asked_for_again() {
    let mut content = Content::default();
    content.image(&[&noise(1000, 9)], "amd64", Some("v1"));
    let broken = Mutex::new(std::collections::BTreeSet::new());
    let server = Server::start(move |asked| {
        let whole = content.serve(asked);
        match (
            broken.lock().unwrap().insert(asked.path.clone()),
            whole.body,
        ) {
            (true, Body::Whole(data)) => Reply {
                body: Body::Cut(data[..10].to_vec(), data.len()),
                ..whole
            },
            (_, body) => Reply { body, ..whole },
        }
    });
    Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap();
    assert_eq!(server.count("GET", "/manifests/v1"), 2);
}

#[test]
fn redirects_end_somewhere() {
    let server =
        Server::start(|asked| Reply::new(307).header("location", format!("{}x", asked.path)));
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    says(&error, &["redirects more than 5 times"]);
}

#[test]
fn foreign_urls_are_not_asked() {
    let elsewhere = Server::start(|_| Reply::ok(*b"foreign"));
    let mut content = Content::default();
    let config = content.blob(b"{}", CONFIG);
    let layer = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": digest(b"foreign"), "size": 7,
        "urls": [format!("http://{}/layer", elsewhere.address)],
    });
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    content.document(&manifest, MANIFEST, Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let error = Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn a_check_that_fails_ends_it_before_anything_is_stored() {
    let mut content = Content::default();
    content.image(&[b"layer"], "amd64", Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    let seen: Mutex<Vec<(Reference, containerkit::Digest)>> = Mutex::default();
    let check = |reference: &Reference, digest: &containerkit::Digest| {
        seen.lock()
            .unwrap()
            .push((reference.clone(), digest.clone()));
        Err(containerkit::Error::precondition("no policy allows it"))
    };
    let options = containerkit_distribution::PullOptions {
        platforms: Platforms::All,
        check: &check,
        hold: &|_| Ok(()),
        progress: &|_| {},
    };
    let registry = Registry::new(settings(&[&server]));
    let reference = server.reference("a:v1");
    let error =
        containerkit_distribution::pull(&registry, &store.open(), &reference, &options, |_, _| {
            Ok(())
        })
        .unwrap_err();
    says(&error, &["no policy allows it"]);
    assert_eq!(server.asked().len(), 1);
    let want = registry.resolve(&reference).unwrap().digest().to_string();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].0, seen[0].1.to_string()), (&reference, want));
}

#[test]
fn nothing_is_spoken_in_the_clear_unless_it_is_said() {
    let server = Server::start(|_| Reply::new(200));
    let error = Registry::new(Settings::default())
        .resolve(&server.reference("a:v1"))
        .unwrap_err();
    says(&error, &["https://"]);
    let asked = Arc::new(server.asked());
    assert!(asked.iter().all(|asked| asked.method != "GET"), "{asked:?}");
}
