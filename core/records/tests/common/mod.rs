//! Records to test with.
#![allow(dead_code)]

use containerkit::process::ProcessIdentity;
use containerkit::record::{
    AfterExit, ContainerRecord, DriverStamp, ImageRecord, LeaseRecord, Lifetime,
};
use containerkit::{Algorithm, Labels, Timestamp};

pub(crate) fn image(name: &str, data: &str) -> ImageRecord {
    let now = Timestamp::now();
    ImageRecord {
        name: name.parse().expect("reference"),
        digest: Algorithm::Sha256.digest(data.as_bytes()),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        size: data.len() as u64,
        content: "local".parse().expect("instance"),
        labels: Labels::new(),
        created: now,
        updated: now,
    }
}

pub(crate) fn container(id: &str, name: &str) -> ContainerRecord {
    let stamp = |name: &str| DriverStamp {
        instance: name.parse().expect("instance"),
        driver: name.into(),
        version: "1.0.0".into(),
    };
    ContainerRecord {
        id: id.parse().expect("id"),
        name: name.parse().expect("name"),
        image: Some(
            "docker.io/library/busybox:latest"
                .parse()
                .expect("reference"),
        ),
        image_digest: Some(Algorithm::Sha256.digest(b"image")),
        runtime: stamp("runc"),
        snapshotter: Some(stamp("overlay")),
        snapshot: Some(id.parse().expect("key")),
        after_exit: AfterExit::Keep,
        lifetime: Lifetime::Durable,
        labels: Labels::new(),
        created: Timestamp::now(),
        creator: ProcessIdentity::of(std::process::id()).expect("self"),
    }
}

pub(crate) fn lease(id: &str) -> LeaseRecord {
    LeaseRecord {
        id: id.parse().expect("id"),
        expires: None,
        created: Timestamp::now(),
        holder: None,
        blobs: vec![Algorithm::Sha256.digest(id.as_bytes())],
        snapshots: vec![("overlay".parse().expect("i"), "a/b".parse().expect("k"))],
    }
}
