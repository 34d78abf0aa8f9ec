//! A whole OCI runtime spec of the user's, in place of flags.
//!
//! It is taken as it is. The kit sets what is the kit's: where the root file
//! system is, which cgroup the container has (what is left of it is found and
//! removed there), and whether there is a terminal (the streams are the
//! supervisor's). Relative sources of bind mounts are relative to the file's
//! folder, as they would be in a bundle.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use serde_json::Value;

use super::caps::CapabilitySet;
use super::{BuiltSpec, SpecRequest, build, check, limits, linux, path};
use crate::bundle::{CONFIG_LIMIT, check_version};
use crate::error::{Error, Result, quote};
use crate::fs::{Root, read_file};
use crate::idmap::{IdMap, IdMapping};
use crate::ids::ContainerId;

/// A spec, and the file that it came from.
#[derive(Clone, Debug)]
pub struct WholeSpec {
    spec: Box<Spec>,
    file: PathBuf,
}

/// Reads a spec from a file. What is in it but not understood here is told in
/// the log, for it would be lost.
pub fn read_whole(file: &Path) -> Result<WholeSpec> {
    let shown = format!("spec {}", quote(&file.to_string_lossy()));
    let data = read_file(file, CONFIG_LIMIT).map_err(|error| error.context("spec"))?;
    let invalid = |error: serde_json::Error| {
        Error::invalid(format!("{shown}: {error}"))
            .with_hint("want an OCI runtime spec, as `runc spec` writes one")
    };
    let value: Value = serde_json::from_slice(&data).map_err(invalid)?;
    let spec: Spec = serde_json::from_value(value.clone()).map_err(invalid)?;
    check_version(spec.version(), &shown)?;
    let known = serde_json::to_value(&spec).map_err(invalid)?;
    let mut lost = Vec::new();
    missing(&value, &known, "", &mut lost);
    if !lost.is_empty() {
        lost.truncate(10);
        ::log::warn!(
            "{shown}: not understood here and left out: {}",
            lost.join(", ")
        );
    }
    let file = std::path::absolute(file).map_err(|error| Error::io(shown, error))?;
    Ok(WholeSpec {
        spec: Box::new(spec),
        file,
    })
}

/// Keys that are in `given` and not in `known`; empty values say nothing.
fn missing(given: &Value, known: &Value, at: &str, lost: &mut Vec<String>) {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given {
                let here = match at {
                    "" => key.clone(),
                    at => format!("{at}.{key}"),
                };
                match known.get(key) {
                    Some(known) => missing(value, known, &here, lost),
                    None if is_empty(value) => {}
                    None => lost.push(quote(&here)),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                missing(given, known, &format!("{at}[{index}]"), lost);
            }
        }
        _ => {}
    }
}

impl WholeSpec {
    /// The spec as it was read.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The root file system that it names, which is beside the file when the
    /// name is relative.
    pub fn root(&self) -> Option<PathBuf> {
        let root = self.spec.root().as_ref()?;
        Some(self.folder().join(root.path()))
    }

    /// The mapped users that it asks for.
    pub(super) fn mapping(&self) -> Result<Option<IdMapping>> {
        mapping_of(&self.spec).map_err(|error| self.bad(error.message()))
    }

    fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::invalid(format!(
            "spec {}: {why}",
            quote(&self.file.to_string_lossy())
        ))
    }

    /// Refuses what no runtime here could run safely.
    pub(super) fn check(&self, request: &SpecRequest) -> Result<()> {
        let spec = &self.spec;
        let Some(process) = spec.process() else {
            return Err(self.bad("it has no process"));
        };
        let args = match request.command.is_empty() {
            true => process.args().as_deref().unwrap_or_default(),
            false => request.command.as_slice(),
        };
        if args.first().is_none_or(String::is_empty) {
            return Err(self.bad("its process has no program"));
        }
        let env = process.env().as_deref().unwrap_or_default();
        if args.iter().chain(env).any(|text| text.contains('\0')) {
            return Err(self.bad("an argument or variable holds a NUL"));
        }
        let cwd = process.cwd().to_string_lossy();
        path::clean(&cwd, "working folder").map_err(|error| self.bad(error.message()))?;
        let Some(linux) = spec.linux() else {
            return Err(self.bad("it has no linux object, and only Linux containers run here"));
        };
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        if !namespaces
            .iter()
            .any(|n| n.typ() == LinuxNamespaceType::Mount)
        {
            return Err(self
                .bad("it asks for no mount namespace")
                .with_hint("without one its mounts would be the host's"));
        }
        for mount in spec.mounts().iter().flatten() {
            let target = mount.destination();
            if !target.is_absolute() || target.to_string_lossy().contains('\0') {
                let target = quote(&target.to_string_lossy());
                return Err(self.bad(format!("mount target {target}: want an absolute path")));
            }
        }
        let ulimits = process.rlimits().as_deref().unwrap_or_default();
        limits::check_ulimits(ulimits, CapabilitySet::available()?)
            .map_err(|error| error.context(format!("spec {}", self.file.display())))?;
        self.mapping()?;
        build::stop_signal(request, &Default::default())?;
        check::check_annotations(request)
    }

    pub(super) fn build(
        &self,
        request: &SpecRequest,
        id: &ContainerId,
        rootfs: &Root,
    ) -> Result<BuiltSpec> {
        self.check(request)?;
        let mut spec = (*self.spec).clone();
        let mut root = spec.root().clone().unwrap_or_default();
        root.set_path("rootfs".into());
        spec.set_root(Some(root));
        if let Some(process) = spec.process_mut() {
            path::workdir(rootfs, &process.cwd().to_string_lossy())?;
            process.set_terminal(Some(request.terminal));
            build::set_console_size(process, request);
            if !request.command.is_empty() {
                process.set_args(Some(request.command.clone()));
            }
        }
        if let Some(linux) = spec.linux_mut() {
            linux.set_cgroups_path(Some(linux::cgroups_path(request, id)?.into()));
        }
        for mount in spec.mounts_mut().iter_mut().flatten() {
            let is_bind = mount.typ().as_deref() == Some("bind")
                || mount
                    .options()
                    .iter()
                    .flatten()
                    .any(|option| matches!(option.as_str(), "bind" | "rbind"));
            let relative = mount
                .source()
                .as_ref()
                .filter(|source| is_bind && source.is_relative())
                .map(|source| plain(&self.folder().join(source)));
            if let Some(source) = relative {
                mount.set_source(Some(source));
            }
        }
        if !request.annotations.is_empty() {
            let mut annotations = spec.annotations().clone().unwrap_or_default();
            annotations.extend(request.annotations.clone());
            spec.set_annotations(Some(annotations));
        }
        let image = request.image.clone().unwrap_or_default();
        Ok(BuiltSpec {
            spec,
            stop_signal: build::stop_signal(request, &image)?,
            volumes: Vec::new(),
            files: Vec::new(),
        })
    }
}

/// The mapped users of a spec's container; `None` where it has the host's, or
/// joins others.
pub fn mapping_of(spec: &Spec) -> Result<Option<IdMapping>> {
    let Some(linux) = spec.linux() else {
        return Ok(None);
    };
    let maps = |list: &Option<Vec<LinuxIdMapping>>| -> Vec<IdMap> {
        let map = |map: &LinuxIdMapping| IdMap {
            container: map.container_id(),
            host: map.host_id(),
            count: map.size(),
        };
        list.iter().flatten().map(map).collect()
    };
    let has_users = linux
        .namespaces()
        .iter()
        .flatten()
        .any(|n| n.typ() == LinuxNamespaceType::User && n.path().is_none());
    if !has_users {
        return Ok(None);
    }
    IdMapping::new(maps(linux.uid_mappings()), maps(linux.gid_mappings())).map(Some)
}

/// Without `.`, which some runtimes do not take.
fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}
