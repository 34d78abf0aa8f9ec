//! Manifests, indexes and configs: JSON that is told apart before it is
//! believed. Image and registry code read them through here alone.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::content::ContentStore;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result, quote};
use crate::mounter::OVERLAY_LAYERS;

/// The largest manifest, index or config that is read, in bytes.
pub const DOCUMENT: u64 = 4 << 20;
/// How deep indexes may be nested.
pub const DEPTH: u32 = 4;
/// Documents read for one image.
pub const DOCUMENTS: u32 = 512;

/// What a descriptor can point at in an image.
#[derive(Debug)]
pub enum Document {
    /// Of manifests and further indexes.
    Index(Box<ImageIndex>),
    /// Of one image or artifact.
    Manifest(Box<ImageManifest>),
}

/// The digest of a descriptor, if it is one that can be stored.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest().as_ref().parse()
}

/// The members by which documents are told apart.
#[derive(Deserialize)]
struct Probe {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

/// The error of JSON that came from elsewhere, as one line.
pub fn json_error(error: serde_json::Error) -> Error {
    // serde quotes what it found: that text is the image's.
    let text = error.to_string();
    Error::invalid(format!("its JSON is not valid: {}", plain(&text)))
}

/// Escapes control characters and cuts, without quotes around; the quotes in
/// it are the parser's own.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars().take(200) {
        match c {
            '\'' | '"' | '\\' => plain.push(c),
            c => plain.extend(c.escape_debug()),
        }
    }
    plain
}

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Whether a descriptor's media type is that of an index or a manifest.
pub fn is_document(media_type: &str) -> bool {
    INDEXES.contains(&media_type) || MANIFESTS.contains(&media_type)
}

/// Whether it is an index's.
pub fn is_index(media_type: &str) -> bool {
    INDEXES.contains(&media_type)
}

/// Refuses an image with more layers than can ever be stacked, before any of
/// them is fetched or stored. Artifacts may have what they like.
pub fn check_layers(manifest: &ImageManifest) -> Result<()> {
    let count = manifest.layers().len();
    if !is_config(manifest.config().media_type().as_ref()) || count <= OVERLAY_LAYERS {
        return Ok(());
    }
    Err(too_many_layers(count, OVERLAY_LAYERS))
}

/// The error of an image with more layers than the limit.
pub fn too_many_layers(count: usize, limit: usize) -> Error {
    Error::new(
        ErrorKind::ResourceExhausted,
        format!("the image has {count} layers, more than the {limit} that can be stacked"),
    )
    .with_hint("squash some layers of the image")
}

/// Whether a blob of this type is an image's config, which is read whole.
pub fn is_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    )
}

/// Parses an index or a manifest. One that could be read as both, or whose
/// media type is not the one it was announced with, is refused: two readers
/// would run two images under one digest.
pub fn parse(data: &[u8], announced: &str) -> Result<Document> {
    let probe: Probe = serde_json::from_slice(data).map_err(json_error)?;
    if probe.fs_layers.is_some() || probe.schema_version == Some(1) {
        return Err(Error::new(
            ErrorKind::Unimplemented,
            "it is a schema 1 manifest, which is obsolete",
        ));
    }
    let ambiguous = probe.manifests.is_some() && (probe.config.is_some() || probe.layers.is_some());
    if ambiguous {
        return Err(Error::invalid(
            "it is ambiguous: both `manifests` and `config` or `layers` are there",
        ));
    }
    if let Some(inside) = &probe.media_type
        && inside != announced
    {
        return Err(Error::invalid(format!(
            "it calls itself {} and was announced as {}",
            quote(inside),
            quote(announced)
        )));
    }
    if INDEXES.contains(&announced) {
        if probe.manifests.is_none() {
            return Err(Error::invalid("it is announced as an index and is none"));
        }
        return Ok(Document::Index(Box::new(
            serde_json::from_slice(data).map_err(json_error)?,
        )));
    }
    if MANIFESTS.contains(&announced) {
        if probe.config.is_none() || probe.layers.is_none() {
            return Err(Error::invalid("it is announced as a manifest and is none"));
        }
        return Ok(Document::Manifest(Box::new(
            serde_json::from_slice(data).map_err(json_error)?,
        )));
    }
    Err(Error::invalid(format!(
        "the media type {} is neither an index nor a manifest",
        quote(announced)
    )))
}

/// What a document that was not announced must be announced as.
pub fn describe(data: &[u8], digest: &Digest) -> Result<Descriptor> {
    let probe: Probe = serde_json::from_slice(data).map_err(json_error)?;
    let media_type = match (probe.media_type, probe.manifests) {
        (Some(media_type), _) => media_type,
        (None, Some(_)) => INDEXES[0].to_string(),
        (None, None) => MANIFESTS[0].to_string(),
    };
    let descriptor = serde_json::json!({
        "mediaType": media_type, "digest": digest, "size": data.len(),
    });
    serde_json::from_value(descriptor).map_err(json_error)
}

/// An index or a manifest by its content alone, where nothing announces it;
/// `None` for everything else, such as a layer.
pub fn recognize(data: &[u8]) -> Option<Document> {
    if !data.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let probe: Probe = serde_json::from_slice(data).ok()?;
    let kinds = match (&probe.manifests, &probe.config, &probe.layers) {
        (Some(_), None, None) => INDEXES,
        (None, Some(_), Some(_)) => MANIFESTS,
        _ => return None,
    };
    let announced = probe.media_type.as_deref().unwrap_or(kinds[0]);
    parse(data, announced).ok()
}

/// Parses a config. Members that are null, as some tools write them, count
/// as absent.
pub fn parse_config(data: &[u8]) -> Result<ImageConfiguration> {
    match serde_json::from_slice(data) {
        Ok(config) => return Ok(config),
        // Two readers would see two configs.
        Err(error) if error.to_string().starts_with("duplicate field") => {
            return Err(json_error(error));
        }
        Err(_) => {}
    }
    let mut value: serde_json::Value = serde_json::from_slice(data).map_err(json_error)?;
    drop_nulls(&mut value);
    serde_json::from_value(value).map_err(json_error)
}

fn drop_nulls(value: &mut serde_json::Value) {
    // Depth is bounded by the parser's own recursion limit.
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A whole blob of a descriptor: size limit, size and digest checked.
pub fn read(store: &dyn ContentStore, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let digest = digest_of(descriptor)?;
    if descriptor.size() > DOCUMENT {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "{digest} has {} bytes, more than the {DOCUMENT} that a manifest, index or config may have",
                descriptor.size()
            ),
        ));
    }
    let data = crate::content::read_blob(store, &digest, DOCUMENT)?;
    if data.len() as u64 != descriptor.size() {
        return Err(Error::precondition(format!(
            "{digest} has {} bytes, its descriptor says {}",
            data.len(),
            descriptor.size()
        )));
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = MANIFESTS[0];

    fn manifest(extra: &str) -> String {
        let digest = format!("sha256:{}", "0".repeat(64));
        let descriptor = format!(
            r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}}"#
        );
        format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]{extra}}}"#)
    }

    #[test]
    fn what_could_be_two_things_is_refused() {
        assert!(parse(manifest("").as_bytes(), OCI).is_ok());
        for extra in [
            r#","manifests":[]"#,
            r#","mediaType":"application/vnd.oci.image.index.v1+json""#,
            r#","layers":[]"#,
            r#","fsLayers":[]"#,
        ] {
            let error = parse(manifest(extra).as_bytes(), OCI).expect_err(extra);
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert!(parse(manifest("").as_bytes(), INDEXES[0]).is_err());
        assert!(parse(manifest("").as_bytes(), "text/plain").is_err());
        assert!(parse(br#"{"schemaVersion":2,"manifests":[]}"#, OCI).is_err());
    }

    #[test]
    fn lying_descriptors_do_not_parse() {
        for (from, to) in [
            ("\"size\":2", "\"size\":-2"),
            ("\"size\":2", "\"size\":2.5"),
            ("\"size\":2", "\"size\":99999999999999999999"),
        ] {
            let text = manifest("").replace(from, to);
            assert!(parse(text.as_bytes(), OCI).is_err(), "{to}");
        }
    }

    #[test]
    fn json_errors_are_one_line() {
        for bad in [
            "",
            "[]",
            "{\"a\n\u{1b}",
            "\u{0}",
            "{\"schemaVersion\":\"\\n\\u001b[31m\"}",
        ] {
            let error = parse(bad.as_bytes(), OCI).expect_err("bad").to_string();
            assert!(!error.chars().any(char::is_control), "{error:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes(), OCI).is_err());
    }

    #[test]
    fn json_errors_are_escaped_once() {
        let text = manifest("").replace("sha256:", "sha256");
        let error = parse(text.as_bytes(), OCI).expect_err("digest").to_string();
        assert!(!error.contains('\\'), "{error}");
    }

    #[test]
    fn configs_with_nulls_are_read() {
        let config = parse_config(
            br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Volumes":null,"ExposedPorts":null,"Labels":null},"rootfs":{"type":"layers","diff_ids":[]},"history":null}"#,
        )
        .expect("config");
        let twice = br#"{"architecture":"amd64","os":"linux","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert!(parse_config(twice).is_err());
        let cmd = config.config().as_ref().and_then(|c| c.cmd().clone());
        assert_eq!(cmd, Some(vec!["sh".to_string()]));
    }
}
