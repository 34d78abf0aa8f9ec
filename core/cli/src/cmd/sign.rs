//! `image sign` and `image verify`: signatures at an image's registry.

use containerkit::document::digest_of;
use containerkit::{Cancel, Reference, Result, quote};
use containerkit_distribution::sign::{
    self, Home, PrivateKey, PublicKey, Repository as _, Rule, Signer,
};
use serde_json::json;

use crate::Outcome;
use crate::app::App;
use crate::args::registry::Access;
use crate::args::sign::{SignArgs, VerifyArgs};
use crate::cmd::registry;
use crate::output::{self, Format};
use crate::password;
use crate::policy::Wanted;

pub(crate) fn sign(app: &App, args: &SignArgs) -> Result<Outcome> {
    let image: Reference = args.image.parse()?;
    let shown = quote(&args.key.to_string_lossy());
    let key = PrivateKey::read(&args.key, || password::existing(&format!("key {shown}")))?;
    let id = key.public()?.id().clone();
    let registry = home(app, &image, &args.access)?;
    let signed = sign::sign(&registry, &image, &key)?;
    match app.format {
        Format::Json => output::print_json(&json!({
            "name": image,
            "digest": signed.digest,
            "signature": signed.signature,
            "tag": signed.tag,
            "key": id,
        }))?,
        Format::Text => output::print_line(&format!(
            "{}@{} signed by key {}",
            image.repository(),
            signed.digest,
            id.short()
        )),
    }
    Ok(Outcome::Success)
}

pub(crate) fn verify(app: &App, args: &VerifyArgs) -> Result<Outcome> {
    let image: Reference = args.image.parse()?;
    let registry = home(app, &image, &args.access)?;
    let (digest, signers, pattern) = match &args.key {
        Some(file) => {
            let rule = Rule::Any(vec![PublicKey::read(file)?]);
            let digest = digest_of(&registry.resolve(&image)?)?;
            let signers = sign::permit(&registry, &rule, &image, &digest)?;
            (digest, signers, None)
        }
        None => {
            let wanted = Wanted::of(&app.config, &image)?;
            let digest = digest_of(&registry.resolve(&image)?)?;
            let signers = wanted.permit(&registry, &image, &digest)?;
            (digest, signers, Some(wanted.pattern))
        }
    };
    if app.format == Format::Json {
        let signers: Vec<_> = signers.iter().map(signer).collect();
        output::print_json(&json!({
            "name": image,
            "digest": digest,
            "policy": pattern,
            "signers": signers,
        }))?;
        return Ok(Outcome::Success);
    }
    let by = match pattern {
        Some(pattern) => format!("permitted by the policy of \"{pattern}\""),
        None => "verified".into(),
    };
    output::print_line(&format!("{}@{digest} {by}", image.repository()));
    for Signer { key, .. } in &signers {
        output::print_line(&format!("signed by key {key}"));
    }
    Ok(Outcome::Success)
}

fn home(app: &App, image: &Reference, access: &Access) -> Result<Home> {
    let client = registry::client(app, access, &[image.domain()], Cancel::default())?;
    Ok(Home::of(&client))
}

fn signer(signer: &Signer) -> serde_json::Value {
    json!({
        "key": signer.key,
        "repository": signer.payload.repository,
        "tag": signer.payload.tag,
        "optional": signer.payload.optional,
    })
}
