//! The configuration's policy on images: asked before anything of one is
//! unpacked, on the digest that is unpacked then.
//!
//! What a pull or an import found is noted with the image's record: under the
//! label [`LABEL`] stands a hash of the rule, its keys, the name and the
//! digest. As long as all of these are the same, `run` needs no registry; when
//! one has changed, it asks again, and refuses what it cannot verify.

use containerkit::record::ImageRecord;
use containerkit::{
    Algorithm, Cancel, Context as _, Digest, Error, Labels, Pattern, Reference, Result,
};
use containerkit_config::{Config, Policy, PolicyRule};
use containerkit_distribution::sign::{self, PublicKey, Rule, Signatures, Signer, Stored};

use crate::app::App;
use crate::args::registry::Access;
use crate::cmd::registry;

/// The label of an image's record.
const LABEL: &str = "containerkit.policy";

/// What the configuration asks of an image.
pub(crate) struct Wanted {
    pub(crate) pattern: Pattern,
    pub(crate) rule: Rule,
    origin: String,
}

impl Wanted {
    /// The rule for an image, with its keys read. A key that cannot be read
    /// lets nothing in.
    pub(crate) fn of(config: &Config, image: &Reference) -> Result<Wanted> {
        let (pattern, policy) = config.policy(image)?;
        Ok(Wanted {
            pattern: pattern.clone(),
            rule: rule(pattern, policy)?,
            origin: policy.origin.to_string(),
        })
    }

    /// Lets an image pass, or refuses it.
    pub(crate) fn permit(
        &self,
        signatures: &dyn Signatures,
        image: &Reference,
        digest: &Digest,
    ) -> Result<Vec<Signer>> {
        sign::permit(signatures, &self.rule, image, digest).map_err(|error| {
            let hint = format!(
                "the policy is that of \"{}\", {}",
                self.pattern, self.origin
            );
            match error.hint() {
                Some(other) => error.clone().with_hint(format!("{other}\n{hint}")),
                None => error.with_hint(hint),
            }
        })
    }

    /// The labels of a record whose image has passed.
    pub(crate) fn labels(&self, image: &Reference, digest: &Digest) -> Labels {
        let note = self.note(image, digest);
        note.map(|note| (LABEL.to_string(), note))
            .into_iter()
            .collect()
    }

    /// What the label of a record says once the rule was met; nothing for
    /// rules that need no registry.
    fn note(&self, image: &Reference, digest: &Digest) -> Option<String> {
        let (kind, keys) = match &self.rule {
            Rule::Accept | Rule::Reject => return None,
            Rule::Any(keys) => ("any", keys),
            Rule::All(keys) => ("all", keys),
        };
        let mut ids: Vec<String> = keys.iter().map(|key| key.id().to_string()).collect();
        ids.sort();
        let text = format!("1 {image} {digest} {kind} {}", ids.join(" "));
        Some(Algorithm::Sha256.digest(text.as_bytes()).to_string())
    }
}

fn rule(pattern: &Pattern, policy: &Policy) -> Result<Rule> {
    let keys = policy.rule.keys().iter().map(|key| {
        PublicKey::read(&key.path).context(|| format!("{}: policy.\"{pattern}\"", key.origin))
    });
    let keys: Vec<PublicKey> = keys.collect::<Result<_>>()?;
    Ok(match policy.rule {
        PolicyRule::Accept => Rule::Accept,
        PolicyRule::Reject => Rule::Reject,
        PolicyRule::Any(_) => Rule::Any(keys),
        PolicyRule::All(_) => Rule::All(keys),
    })
}

/// Lets an image pass with the digest of its record, or refuses it. What is to
/// be noted with the record is returned.
pub(crate) fn permit(app: &App, record: &ImageRecord, access: &Access) -> Result<Labels> {
    let (name, digest) = (&record.name, &record.digest);
    let wanted = Wanted::of(&app.config, name)?;
    let labels = wanted.labels(name, digest);
    let noted = labels.get(LABEL);
    let known = noted.is_some() && record.labels.get(LABEL) == noted;
    if wanted.rule != Rule::Accept && !known {
        let registry = registry::client(app, access, &[name.domain()], Cancel::default())?;
        wanted.permit(&registry, name, digest)?;
    }
    Ok(labels)
}

/// [`permit`] for an image that was imported: by the signatures that came with
/// it, and where there are none, by those at its registry.
pub(crate) fn permit_imported(
    app: &App,
    record: &ImageRecord,
    access: &Access,
    beside: &Stored<'_>,
) -> Result<Labels> {
    let (name, digest) = (&record.name, &record.digest);
    let wanted = Wanted::of(&app.config, name)?;
    let labels = wanted.labels(name, digest);
    if labels.is_empty() || sign::gather(beside, name, digest)?.is_empty() {
        return permit(app, record, access);
    }
    wanted.permit(beside, name, digest)?;
    Ok(labels)
}

/// The policies whose keys cannot be read.
pub(crate) fn problems(config: &Config) -> Vec<Error> {
    let policies = config.policies.iter();
    policies
        .filter_map(|(pattern, policy)| rule(pattern, policy).err())
        .collect()
}
