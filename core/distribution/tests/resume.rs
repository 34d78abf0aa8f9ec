//! What was moved once is not moved again.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use containerkit::content::{BlobStream, ContentStore};
use containerkit::{ErrorKind, PlatformChoice};
use containerkit_distribution::{Platforms, PullOptions, Registry, accept, pull};
use std::io::Read;
use support::*;

#[test]
fn an_image_is_pulled_once() {
    let (one, two) = (noise(200_000, 1), noise(10, 2));
    let mut content = Content::default();
    content.image(&[&one, &two], "amd64", Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    let reference = server.reference("a/b:v1");
    let target = store.pull(settings(&[&server]), &reference).unwrap();
    assert!(store.has(&one) && store.has(&two));
    assert_eq!(server.count("GET", "/blobs/"), 3);
    let again = store.pull(settings(&[&server]), &reference).unwrap();
    assert_eq!(again, target);
    assert_eq!(server.count("GET", "/blobs/"), 3);
    assert_eq!(store.ingests(), 0);
}

#[test]
fn one_platform_is_pulled_or_all() {
    let (amd, arm) = (noise(1000, 3), noise(1000, 4));
    let mut content = Content::default();
    let mut children = Vec::new();
    for (layer, architecture) in [(&amd, "amd64"), (&arm, "arm64")] {
        let mut child = content.image(&[layer], architecture, None);
        child["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        children.push(child);
    }
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": children,
    });
    content.document(&index, INDEX, Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    let reference = server.reference("a:v1");
    let choice = |text: &str| Platforms::One(text.parse::<PlatformChoice>().unwrap());
    store
        .pull_for(settings(&[&server]), &reference, choice("linux/arm64"))
        .unwrap();
    assert!(store.has(&arm) && !store.has(&amd));
    let error = store
        .pull_for(settings(&[&server]), &reference, choice("linux/s390x"))
        .unwrap_err();
    says(&error, &["linux/s390x", "linux/amd64", "linux/arm64"]);
    store
        .pull_for(settings(&[&server]), &reference, Platforms::All)
        .unwrap();
    assert!(store.has(&amd));
}

/// The layer's first answer breaks off; then ranges are served, or not.
fn breaking(layer: &[u8], at: usize, ranges: bool) -> Server {
    let mut content = Content::default();
    content.image(&[layer], "amd64", Some("v1"));
    let (data, path) = (layer.to_vec(), format!("/blobs/{}", digest(layer)));
    let first = AtomicUsize::new(0);
    Server::start(move |asked| {
        if !asked.path.ends_with(&path) {
            return content.serve(asked);
        }
        if first.fetch_add(1, Ordering::Relaxed) == 0 {
            return Reply::new(200).body(Body::Cut(data[..at].to_vec(), data.len()));
        }
        match asked.range().filter(|_| ranges) {
            Some((start, end)) => Reply::part(&data, start, end),
            None => Reply::ok(data.clone()),
        }
    })
}

#[test]
fn a_broken_download_goes_on_where_it_was() {
    let layer = noise(1_000_000, 5);
    let server = breaking(&layer, 900_000, true);
    let store = Store::new();
    let reference = server.reference("a:v1");
    store.pull(settings(&[&server]), &reference).unwrap();
    assert!(store.has(&layer));
    let ranges: Vec<_> = server.asked().iter().filter_map(Asked::range).collect();
    assert_eq!(ranges, [(900_000, 999_999)]);
}

#[test]
fn a_killed_pull_is_gone_on_with_by_the_next_process() {
    let layer = noise(1_000_000, 6);
    let server = breaking(&layer, 600_000, true);
    let store = Store::new();
    let reference = server.reference("a:v1");
    let mut once = settings(&[&server]);
    once.retry.attempts = 1;
    let error = store.pull(once, &reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(store.ingests(), 1);
    store.pull(settings(&[&server]), &reference).unwrap();
    assert!(store.has(&layer));
    let ranges: Vec<_> = server.asked().iter().filter_map(Asked::range).collect();
    assert_eq!(ranges, [(600_000, 999_999)]);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_beginning() {
    let layer = noise(500_000, 7);
    let server = breaking(&layer, 300_000, false);
    let store = Store::new();
    store
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap();
    assert!(store.has(&layer));
}

#[test]
fn wrong_bytes_of_an_earlier_attempt_are_found_out() {
    let layer = noise(400_000, 8);
    let mut content = Content::default();
    content.image(&[&layer], "amd64", Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    let name = format!("pull-sha256-{}", digest(&layer).hex());
    let expected = containerkit::content::Expected {
        size: Some(400_000),
        digest: Some(digest(&layer)),
    };
    let open = store.open();
    let mut writer = open.writer(&name.parse().unwrap(), &expected).unwrap();
    writer.write(&noise(100_000, 9)).unwrap();
    drop(writer);
    store
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap();
    assert!(store.has(&layer));
}

#[test]
fn big_blobs_come_over_several_connections() {
    let layer = noise(70 << 20, 10);
    let mut content = Content::default();
    content.image(&[&layer], "amd64", Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    store
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap();
    assert!(store.has(&layer));
    let ranges: Vec<_> = server.asked().iter().filter_map(Asked::range).collect();
    assert_eq!(ranges.len(), 18, "{ranges:?}");
    let bytes: usize = ranges.iter().map(|(start, end)| end + 1 - start).sum();
    assert_eq!(bytes, layer.len());
}

#[test]
fn two_pulls_fetch_each_blob_once() {
    let layers: Vec<Vec<u8>> = (0..6).map(|n| noise(300_000, 20 + n)).collect();
    let slices: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let mut content = Content::default();
    content.image(&slices, "amd64", Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    let reference = server.reference("a:v1");
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| store.pull(settings(&[&server]), &reference)))
            .collect();
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert!(layers.iter().all(|layer| store.has(layer)));
    assert_eq!(server.count("GET", "/blobs/"), 7);
}

#[test]
fn layers_are_read_while_they_come() {
    let (first, second) = (noise(3_000_000, 30), noise(2_000_000, 31));
    let mut content = Content::default();
    content.image(&[&first, &second], "amd64", Some("v1"));
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    let options = PullOptions {
        platforms: Platforms::All,
        check: &accept,
        hold: &|_| Ok(()),
        progress: &|_| {},
    };
    let read = |arriving: &dyn ContentStore, data: &[u8]| {
        let reader = arriving.reader(&digest(data)).unwrap();
        assert_eq!(reader.size(), data.len() as u64);
        let mut found = Vec::new();
        BlobStream::new(reader).read_to_end(&mut found).unwrap();
        assert!(found == data);
    };
    let registry = Registry::new(settings(&[&server]));
    pull(
        &registry,
        &store.open(),
        &server.reference("a:v1"),
        &options,
        |arriving, _| {
            read(arriving, &second);
            read(arriving, &first);
            // And again, when it is stored.
            read(arriving, &second);
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(server.count("GET", "/blobs/"), 3);
}

#[test]
fn who_reads_a_layer_that_fails_hears_why() {
    let layer = noise(500_000, 32);
    let mut content = Content::default();
    content.image(&[&layer], "amd64", Some("v1"));
    let wrong = noise(500_000, 33);
    content.blobs.insert(digest(&layer).to_string(), wrong);
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    let options = PullOptions {
        platforms: Platforms::All,
        check: &accept,
        hold: &|_| Ok(()),
        progress: &|_| {},
    };
    let heard = Mutex::new(None);
    let registry = Registry::new(settings(&[&server]));
    let error = pull(
        &registry,
        &store.open(),
        &server.reference("a:v1"),
        &options,
        |arriving, _| {
            let mut found = Vec::new();
            let read = BlobStream::new(arriving.reader(&digest(&layer))?).read_to_end(&mut found);
            *heard.lock().unwrap() = read.err().map(|error| error.to_string());
            Ok(())
        },
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    let heard = heard.lock().unwrap().clone().unwrap();
    assert!(heard.contains("another digest"), "{heard}");
}

#[test]
fn mirrors_serve_and_the_registry_steps_in() {
    let layer = noise(50_000, 40);
    let mut content = Content::default();
    content.image(&[&layer], "amd64", Some("v1"));
    let honest = content.clone();
    let registry = Server::start(move |asked| honest.serve(asked));
    // One that is broken, one that lies about the layer.
    let broken = Server::start(|_| Reply::new(500));
    let path = format!("/blobs/{}", digest(&layer));
    let lying = Server::start(move |asked| match asked.path.ends_with(&path) {
        true => Reply::ok(noise(50_000, 41)),
        false => {
            assert!(asked.path.starts_with("/v2/hub/a/"), "{asked:?}");
            content.serve(asked)
        }
    });
    let mut settings = settings(&[&registry, &broken, &lying]);
    let own = settings.registries.get_mut(&registry.address).unwrap();
    own.mirrors = vec![
        format!("http://{}", broken.address).parse().unwrap(),
        format!("http://{}/hub", lying.address).parse().unwrap(),
    ];
    let store = Store::new();
    store.pull(settings, &registry.reference("a:v1")).unwrap();
    assert!(store.has(&layer));
    assert_eq!(registry.count("GET", "/manifests/"), 0);
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

#[test]
fn every_blob_is_held_before_it_is_looked_for() {
    let layer = noise(1000, 50);
    let mut content = Content::default();
    content.image(&[&layer], "amd64", Some("v1"));
    let wanted: std::collections::BTreeSet<String> = content
        .blobs
        .keys()
        .chain(content.manifests.keys().filter(|name| *name != "v1"))
        .cloned()
        .collect();
    let server = Server::start(move |asked| content.serve(asked));
    let store = Store::new();
    let held = Mutex::new(std::collections::BTreeSet::new());
    let hold = |blobs: &[containerkit::Digest]| {
        assert_eq!(server.count("GET", "/blobs/"), 0);
        let texts = blobs.iter().map(ToString::to_string);
        held.lock().unwrap().extend(texts);
        Ok(())
    };
    let options = PullOptions {
        platforms: Platforms::All,
        check: &accept,
        hold: &hold,
        progress: &|_| {},
    };
    let registry = Registry::new(settings(&[&server]));
    let reference = server.reference("a:v1");
    pull(
        &registry,
        &store.open(),
        &reference,
        &options,
        |_, _| Ok(()),
    )
    .unwrap();
    assert_eq!(*held.lock().unwrap(), wanted);
}
