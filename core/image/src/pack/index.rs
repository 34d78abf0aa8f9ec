//! One image of the images of several platforms.

use containerkit::content::ContentStore;
use containerkit::oci_spec::image::Descriptor;
use containerkit::platform::Offered;
use containerkit::{Error, Result};
use serde_json::{Value, json};

use super::{INDEX, store_json};
use crate::document::json_error;
use crate::resolve;

/// Stores an index of the images behind these names, in their order, which is
/// one of preference. Of an image that is an index itself, each platform that
/// is there is taken. No platform may come twice.
pub fn index(store: &dyn ContentStore, sources: &[(String, Descriptor)]) -> Result<Descriptor> {
    let mut manifests: Vec<Value> = Vec::new();
    let mut platforms: Vec<(Offered, &str)> = Vec::new();
    for (name, target) in sources {
        let mut any = false;
        for (descriptor, platform) in resolve::manifests(store, target)? {
            let missing = resolve::is_complete(store, &descriptor)?;
            if let Some(missing) = missing.first() {
                log::warn!("{name}: {platform} is left out, for blob {missing} is not here");
                continue;
            }
            any = true;
            if let Some((_, other)) = platforms.iter().find(|(known, _)| *known == platform) {
                return Err(
                    Error::invalid(format!("{name}: {platform} is in {other} already"))
                        .with_hint("give each platform once"),
                );
            }
            manifests.push(json!({
                "mediaType": descriptor.media_type().to_string(),
                "digest": descriptor.digest().to_string(),
                "size": descriptor.size(),
                "platform": platform.to_json(),
            }));
            platforms.push((platform, name));
        }
        if !any {
            return Err(
                Error::precondition(format!("{name}: none of its platforms is complete"))
                    .with_hint("pull or import it again"),
            );
        }
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    serde_json::from_value(store_json(store, INDEX, &index)?).map_err(json_error)
}
