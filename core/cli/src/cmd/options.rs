//! The flags of `run` and `create` as requests: read and checked before
//! anything is made.

use std::path::PathBuf;

use containerkit::spec::{self, NetworkMode, SpecRequest};
use containerkit::{Error, IoContext, Labels, Result};

use crate::app::split_pair;
use crate::args::{Net, RunArgs};

/// `--label`.
pub(crate) fn labels(args: &RunArgs) -> Result<Labels> {
    let labels = pairs(&args.label, "label")?;
    containerkit::value::check_labels(&labels)?;
    Ok(labels)
}

/// Every flag that the container's spec is made of.
pub(crate) fn spec_request(args: &RunArgs) -> Result<SpecRequest> {
    let mut env = Vec::new();
    for file in &args.env_file {
        env.extend(spec::parse::parse_env_file(file)?);
    }
    env.extend(args.env.iter().cloned());
    let mut mounts = Vec::new();
    for text in &args.volume {
        mounts.push(spec::parse::parse_volume(&absolute_source(text)?)?);
    }
    for text in &args.mount {
        mounts.push(spec::parse::parse_mount(text)?);
    }
    for text in &args.tmpfs {
        mounts.push(spec::parse::parse_tmpfs(text)?);
    }
    let command = match &args.rootfs {
        Some(_) => args.words.clone(),
        None => args.words[1..].to_vec(),
    };
    let list = |words: &[String], parse: fn(&str) -> Result<_>| {
        words
            .iter()
            .map(|word| parse(word))
            .collect::<Result<Vec<_>>>()
    };
    Ok(SpecRequest {
        command,
        entrypoint: args.entrypoint.clone().map(|word| vec![word]),
        env,
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        hostname: args.hostname.clone(),
        terminal: args.tty,
        console_size: crate::terminal::size().map(|size| (size.ws_row, size.ws_col)),
        read_only: args.read_only,
        privileged: args.privileged,
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
        mounts,
        devices: args
            .device
            .iter()
            .map(|text| spec::parse::parse_device(text))
            .collect::<Result<_>>()?,
        memory: args
            .memory
            .as_deref()
            .map(spec::parse::parse_memory)
            .transpose()?,
        cpus: args
            .cpus
            .as_deref()
            .map(spec::parse::parse_cpus)
            .transpose()?,
        pids_limit: args
            .pids_limit
            .as_deref()
            .map(parse_pids_limit)
            .transpose()?,
        ulimits: list(&args.ulimit, spec::parse::parse_ulimit)?,
        network: match args.net {
            Net::None => NetworkMode::None,
            Net::Host => NetworkMode::Host,
        },
        security: args
            .security_opt
            .iter()
            .map(|text| spec::parse::parse_security(text))
            .collect::<Result<_>>()?,
        annotations: pairs(&args.annotation, "annotation")?,
        stop_signal: args.stop_signal.clone(),
        ..SpecRequest::default()
    })
}

fn parse_pids_limit(text: &str) -> Result<i64> {
    text.parse().map_err(|_| {
        Error::invalid(format!(
            "limit of tasks {}: want an integer, 0 or less for none",
            containerkit::quote(text)
        ))
    })
}

/// A relative source that is meant as a path (`./x`) made absolute.
fn absolute_source(text: &str) -> Result<String> {
    match text.split_once(':') {
        Some((source, rest)) if source.starts_with('.') => {
            let full: PathBuf =
                std::path::absolute(source).io_context(|| "find the current folder")?;
            Ok(format!("{}:{rest}", full.display()))
        }
        _ => Ok(text.to_string()),
    }
}

fn pairs(words: &[String], what: &str) -> Result<Labels> {
    words
        .iter()
        .map(|word| split_pair(word, what).map(|(k, v)| (k.to_string(), v.to_string())))
        .collect()
}
