//! `content`: the content store's primitives.

use std::fs::File;
use std::io::Write;

use containerkit::content::{self, BlobFilter, BlobInfo, ContentStore, Expected};
use containerkit::value::all_pages;
use containerkit::{Digest, Error, ErrorKind, IngestRef, Labels, Result};
use serde_json::json;

use crate::Outcome;
use crate::app::{App, label_changes};
use crate::args::ContentCommand;
use crate::output::{self, Format, human_size};

pub(crate) fn run(app: &App, command: ContentCommand) -> Result<Outcome> {
    let store = app.content()?;
    let store = &*store.driver;
    match command {
        ContentCommand::Ls => ls(app, store),
        ContentCommand::Get { digest } => get(store, &digest.parse()?),
        ContentCommand::Info { digest } => info(app, &store.info(&digest.parse()?)?),
        ContentCommand::Verify { digests } => verify(app, store, &digests),
        ContentCommand::Ingest { name, digest, size } => {
            let expected = Expected {
                size,
                digest: digest.map(|digest| digest.parse()).transpose()?,
            };
            ingest(app, store, &name.parse()?, &expected)
        }
        ContentCommand::Status => status(app, store),
        ContentCommand::Abort { name } => {
            store.abort(&name.parse()?)?;
            Ok(Outcome::Success)
        }
        ContentCommand::Delete { digests } => delete(app, store, &digests),
        ContentCommand::Label { digest, labels } => info(
            app,
            &store.update(&digest.parse()?, &label_changes(&labels)?)?,
        ),
    }
}

fn blobs(store: &dyn ContentStore) -> Result<Vec<BlobInfo>> {
    let filter = BlobFilter::default();
    all_pages(
        |page| store.walk(&filter, page),
        |blob| blob.digest.to_string(),
    )
}

fn ls(app: &App, store: &dyn ContentStore) -> Result<Outcome> {
    let blobs = blobs(store)?;
    if app.format == Format::Json {
        output::print_json(&blobs)?;
    } else {
        let rows: Vec<Vec<String>> = blobs
            .iter()
            .map(|blob| {
                let labels: Vec<String> = blob
                    .labels
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect();
                vec![
                    blob.digest.to_string(),
                    human_size(blob.size),
                    blob.created.to_string(),
                    labels.join(","),
                ]
            })
            .collect();
        output::print_table(&["DIGEST", "SIZE", "CREATED", "LABELS"], &rows);
    }
    Ok(Outcome::Success)
}

fn get(store: &dyn ContentStore, digest: &Digest) -> Result<Outcome> {
    let reader = store.reader(digest)?;
    let mut stdout = std::io::stdout().lock();
    let copied = match reader.as_fd()? {
        Some(fd) => std::io::copy(&mut File::from(fd), &mut stdout),
        None => std::io::copy(&mut content::BlobStream::new(reader), &mut stdout),
    };
    copied
        .and_then(|_| stdout.flush())
        .map_err(|e| Error::io(format!("write blob {digest} to standard output"), e))?;
    Ok(Outcome::Success)
}

fn info(app: &App, blob: &BlobInfo) -> Result<Outcome> {
    if app.format == Format::Json {
        output::print_json(blob)?;
    } else {
        output::print_line(&format!("digest   {}", blob.digest));
        output::print_line(&format!("size     {}", blob.size));
        output::print_line(&format!("created  {}", blob.created));
        output::print_line(&format!("updated  {}", blob.updated));
        for (key, value) in &blob.labels {
            output::print_line(&format!("label    {key}={value}"));
        }
    }
    Ok(Outcome::Success)
}

/// Hashes every byte again; what is damaged is listed, and the command fails.
/// A blob that was listed and is gone by its turn was deleted meanwhile.
fn verify(app: &App, store: &dyn ContentStore, digests: &[String]) -> Result<Outcome> {
    let all = digests.is_empty();
    let digests: Vec<Digest> = if all {
        blobs(store)?.into_iter().map(|blob| blob.digest).collect()
    } else {
        digests
            .iter()
            .map(|digest| digest.parse())
            .collect::<Result<_>>()?
    };
    let mut report = Vec::new();
    let mut damaged = 0usize;
    for digest in &digests {
        let outcome = verify_one(store, digest);
        match &outcome {
            Err(error) if error.kind() == ErrorKind::NotFound && all => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error.clone()),
            Err(error) => {
                damaged += 1;
                if app.format == Format::Text {
                    output::print_line(&format!("damaged {digest}: {error}"));
                }
            }
            Ok(()) => {}
        }
        report.push(json!({
            "digest": digest,
            "ok": outcome.is_ok(),
            "reason": outcome.err().map(|error| error.to_string()),
        }));
    }
    if app.format == Format::Json {
        output::print_json(&report)?;
    } else {
        output::print_line(&format!(
            "{} blobs verified, {damaged} damaged",
            report.len()
        ));
        for status in store.list_statuses()? {
            output::print_line(&format!(
                "ingest {} holds {} bytes and can be resumed",
                status.name, status.offset
            ));
        }
    }
    match damaged {
        0 => Ok(Outcome::Success),
        _ => Err(Error::data_loss(format!(
            "content store {}: {damaged} of {} blobs are damaged",
            app.config.default.content,
            report.len()
        ))
        .with_hint(
            "`containerkit content delete DIGEST`, then import or pull what needs it again",
        )),
    }
}

fn verify_one(store: &dyn ContentStore, digest: &Digest) -> Result<()> {
    let reader = store.reader(digest)?;
    let mut hasher = digest.algorithm().hasher();
    let mut buf = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let read = reader.read_at(&mut buf, offset)?;
        if read == 0 {
            break;
        }
        hasher.update(&buf[..read]);
        offset += read as u64;
    }
    let found = hasher.finish();
    if found == *digest {
        Ok(())
    } else {
        Err(Error::data_loss(format!(
            "its {offset} bytes have the digest {found}"
        )))
    }
}

fn ingest(
    app: &App,
    store: &dyn ContentStore,
    name: &IngestRef,
    expected: &Expected,
) -> Result<Outcome> {
    let blob = content::ingest(
        store,
        name,
        expected,
        &Labels::new(),
        &mut std::io::stdin().lock(),
    )?;
    if app.format == Format::Json {
        output::print_json(&blob)?;
    } else {
        output::print_line(&blob.digest.to_string());
    }
    Ok(Outcome::Success)
}

fn status(app: &App, store: &dyn ContentStore) -> Result<Outcome> {
    let list = store.list_statuses()?;
    if app.format == Format::Json {
        output::print_json(&list)?;
    } else {
        let rows: Vec<Vec<String>> = list
            .iter()
            .map(|s| {
                vec![
                    s.name.to_string(),
                    s.offset.to_string(),
                    s.total.map_or("-".into(), |total| total.to_string()),
                    s.updated.to_string(),
                    s.holder.map_or("-".into(), |pid| pid.to_string()),
                ]
            })
            .collect();
        output::print_table(&["REF", "OFFSET", "TOTAL", "UPDATED", "HOLDER"], &rows);
    }
    Ok(Outcome::Success)
}

fn delete(app: &App, store: &dyn ContentStore, digests: &[String]) -> Result<Outcome> {
    let digests: Vec<Digest> = digests
        .iter()
        .map(|digest| digest.parse())
        .collect::<Result<_>>()?;
    for digest in &digests {
        store.delete(digest)?;
    }
    let deleted: Vec<String> = digests.iter().map(Digest::to_string).collect();
    output::print_names(app.format, &deleted)?;
    Ok(Outcome::Success)
}
