//! The flags of `run` and `create` as requests: read and checked before
//! anything is made.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use containerkit::container::Containers;
use containerkit::idmap::{IdMapping, UserNamespace};
use containerkit::spec::parse::{self, NamespaceWish, NetworkWish};
use containerkit::spec::{
    self, Dns, Limits, LogOptions, NamespaceMode, Namespaces, NetworkMode, SpecRequest,
};
use containerkit::{Error, Labels, Result};

use crate::app::{existing_dir, split_pair};
use crate::args::options::{LimitArgs, RunArgs, SpecArgs};

/// Where the root file system comes from.
pub(crate) enum Source<'a> {
    /// A folder, absolute.
    Directory(PathBuf),
    /// An image, as it was typed.
    Image(&'a str),
}

/// `IMAGE`, `--rootfs`, or what `--spec` names.
pub(crate) fn source<'a>(args: &'a RunArgs, spec: &SpecRequest) -> Result<Source<'a>> {
    if let Some(dir) = &args.rootfs {
        return existing_dir(dir)
            .map(Source::Directory)
            .map_err(|error| error.context("--rootfs"));
    }
    match (
        args.words.first(),
        spec.whole.as_ref().and_then(|w| w.root()),
    ) {
        (Some(image), _) => Ok(Source::Image(image)),
        (None, Some(dir)) => existing_dir(&dir)
            .map(Source::Directory)
            .map_err(|error| error.context("root file system of the spec")),
        (None, None) => Err(Error::invalid("IMAGE is missing")
            .with_hint("`containerkit image ls` lists what is there; --rootfs DIR runs a folder")),
    }
}

/// `--label` and `--label-file`.
pub(crate) fn labels(args: &RunArgs) -> Result<Labels> {
    let mut labels = Labels::new();
    for file in &args.label_file {
        let lines = parse::parse_label_file(file).map_err(|error| error.context("--label-file"))?;
        labels.extend(pairs(&lines, "label")?);
    }
    labels.extend(pairs(&args.label, "label")?);
    containerkit::value::check_labels(&labels)?;
    Ok(labels)
}

/// `--log-opt`.
pub(crate) fn log(args: &RunArgs) -> Result<LogOptions> {
    LogOptions::parse(&args.log_opt)
}

/// Every flag that the container's spec is made of. `root` is where what the
/// kit brings along is installed.
pub(crate) fn spec_request(
    args: &RunArgs,
    containers: &Containers,
    root: &Path,
) -> Result<SpecRequest> {
    let make = &args.make;
    let takes_all = args.rootfs.is_some() || args.words.is_empty();
    let command = args.words[usize::from(!takes_all)..].to_vec();
    let whole = args.spec.as_deref().map(spec::read_whole).transpose();
    for text in &make.publish {
        parse::parse_publish(text)?;
    }
    let mut request = SpecRequest {
        command,
        whole: whole.map_err(|error| error.context("--spec"))?,
        terminal: args.tty,
        console_size: crate::terminal::size().map(|size| (size.ws_row, size.ws_col)),
        annotations: pairs(&args.annotation, "annotation")?,
        stop_signal: args.stop_signal.clone(),
        ..SpecRequest::default()
    };
    process(make, &mut request)?;
    files(make, &mut request)?;
    names(make, &mut request)?;
    request.limits = limits(&args.limits)?;
    request.ulimits = each("--ulimit", &make.ulimit, parse::parse_ulimit)?;
    let security = each("--security-opt", &make.security_opt, parse::parse_security)?;
    request.security = security.into_iter().flatten().collect();
    request.users = users(make)?;
    namespaces(args, containers, &mut request)?;
    for text in &make.sysctl {
        let (key, value) = parse::parse_sysctl(text)?;
        request.sysctls.insert(key, value);
    }
    request.check()?;
    if make.init {
        request.init = Some(containerkit_init::install(root)?);
    }
    Ok(request)
}

fn process(make: &SpecArgs, request: &mut SpecRequest) -> Result<()> {
    for file in &make.env_file {
        let entries = parse::parse_env_file(file).map_err(|error| error.context("--env-file"))?;
        request.env.extend(entries);
    }
    request
        .env
        .extend(each("--env", &make.env, parse::parse_env)?);
    request.entrypoint = make.entrypoint.clone().map(|word| vec![word]);
    request.workdir.clone_from(&make.workdir);
    request.user.clone_from(&make.user);
    request.groups.clone_from(&make.group_add);
    request.privileged = make.privileged;
    request.cap_add.clone_from(&make.cap_add);
    request.cap_drop.clone_from(&make.cap_drop);
    request.oom_score_adj = one("--oom-score-adj", &make.oom_score_adj, |text| {
        let score = parse::parse_number("score", text, -1000..=1000)?;
        i32::try_from(score).map_err(|_| Error::invalid("it is too large"))
    })?;
    Ok(())
}

fn files(make: &SpecArgs, request: &mut SpecRequest) -> Result<()> {
    request.read_only = make.read_only;
    let mounts = [
        each("--volume", &make.volume, parse::parse_volume)?,
        each("--mount", &make.mount, parse::parse_mount)?,
        each("--tmpfs", &make.tmpfs, parse::parse_tmpfs)?,
    ];
    request.mounts = mounts.concat();
    request.devices = each("--device", &make.device, parse::parse_device)?;
    request.device_rules = each(
        "--device-cgroup-rule",
        &make.device_cgroup_rule,
        parse::parse_device_rule,
    )?;
    request.shm_size = one("--shm-size", &make.shm_size, parse::parse_memory)?;
    Ok(())
}

fn names(make: &SpecArgs, request: &mut SpecRequest) -> Result<()> {
    request.hostname.clone_from(&make.hostname);
    request.domainname.clone_from(&make.domainname);
    let list = |words: &[String], parse: fn(&str) -> Result<String>| {
        words
            .iter()
            .map(|word| parse(word))
            .collect::<Result<Vec<_>>>()
    };
    request.hosts = make
        .add_host
        .iter()
        .map(|text| parse::parse_host(text))
        .collect::<Result<_>>()?;
    request.dns = Dns {
        servers: make
            .dns
            .iter()
            .map(|text| parse::parse_address("--dns", text))
            .collect::<Result<_>>()?,
        searches: list(&make.dns_search, parse::parse_domain)?,
        options: list(&make.dns_option, parse::parse_dns_option)?,
    };
    Ok(())
}

/// The limits of a cgroup.
pub(crate) fn limits(make: &LimitArgs) -> Result<Limits> {
    Ok(Limits {
        memory: one("--memory", &make.memory, parse::parse_memory)?,
        memory_swap: one("--memory-swap", &make.memory_swap, parse::parse_swap)?,
        memory_reservation: one(
            "--memory-reservation",
            &make.memory_reservation,
            parse::parse_memory,
        )?,
        cpus: one("--cpus", &make.cpus, parse::parse_cpus)?,
        cpu_shares: one("--cpu-shares", &make.cpu_shares, parse::parse_cpu_shares)?.flatten(),
        cpuset_cpus: make.cpuset_cpus.clone(),
        cpuset_mems: make.cpuset_mems.clone(),
        pids_limit: one("--pids-limit", &make.pids_limit, parse::parse_pids_limit)?,
    })
}

fn users(make: &SpecArgs) -> Result<UserNamespace> {
    if make.uidmap.is_empty() {
        let users = make.userns.as_deref().map(parse::parse_users).transpose()?;
        return Ok(users.unwrap_or_default());
    }
    let uids = each("--uidmap", &make.uidmap, str::parse)?;
    let gids = match make.gidmap.is_empty() {
        true => uids.clone(),
        false => each("--gidmap", &make.gidmap, str::parse)?,
    };
    IdMapping::new(uids, gids)
        .map(UserNamespace::Mapped)
        .map_err(|error| error.context("--uidmap"))
}

fn namespaces(args: &RunArgs, containers: &Containers, request: &mut SpecRequest) -> Result<()> {
    let make = &args.make;
    let joined = |flag: &str, kind: &str, id: &str| join(args, containers, flag, kind, id);
    let mode = |flag: &str, kind: &str, text: &Option<String>| {
        let Some(text) = text else {
            return Ok(NamespaceMode::Private);
        };
        match parse::parse_namespace(flag, text)? {
            NamespaceWish::Private => Ok(NamespaceMode::Private),
            NamespaceWish::Host => Ok(NamespaceMode::Host),
            NamespaceWish::Container(id) => joined(flag, kind, &id).map(NamespaceMode::Join),
        }
    };
    request.namespaces = Namespaces {
        pid: mode("--pid", "pid", &make.pid)?,
        ipc: mode("--ipc", "ipc", &make.ipc)?,
        uts: mode("--uts", "uts", &make.uts)?,
        cgroup: mode("--cgroupns", "cgroup", &make.cgroupns)?,
    };
    request.network = match make.net.as_deref().map(parse::parse_network).transpose()? {
        None | Some(NetworkWish::None) => NetworkMode::None,
        Some(NetworkWish::Host) => NetworkMode::Host,
        Some(NetworkWish::Container(id)) => NetworkMode::Namespace(joined("--net", "net", &id)?),
    };
    Ok(())
}

/// The namespace of a running container. Its path is a process's, which means
/// nothing later: a container that could be started again would then join
/// whoever has that pid.
fn join(
    args: &RunArgs,
    containers: &Containers,
    flag: &str,
    kind: &str,
    id: &str,
) -> Result<PathBuf> {
    let what = format!("{flag} container:{id}");
    if !args.rm {
        return Err(Error::precondition(format!(
            "{what}: only a container that is removed at its end can join another"
        ))
        .with_hint("use `run --rm`"));
    }
    let record = containers
        .records()
        .find_container(id)
        .map_err(|error| error.context(&what))?;
    match containers.status(&record)?.init {
        Some(process) => Ok(format!("/proc/{}/ns/{kind}", process.pid).into()),
        None => Err(Error::precondition(format!(
            "{what}: container {} is not running",
            record.name
        ))),
    }
}

/// Reads each value of a flag, which the error names.
fn each<T>(
    flag: impl Display,
    words: &[String],
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Vec<T>> {
    words
        .iter()
        .map(|word| parse(word).map_err(|error| error.context(&flag)))
        .collect()
}

fn one<T>(
    flag: impl Display,
    word: &Option<String>,
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Option<T>> {
    let read = word.as_deref().map(parse).transpose();
    read.map_err(|error| error.context(flag))
}

fn pairs(words: &[String], what: &str) -> Result<Labels> {
    words
        .iter()
        .map(|word| split_pair(word, what).map(|(k, v)| (k.to_string(), v.to_string())))
        .collect()
}
