//! Contract values to mirror values (`*_out`) and back (`*_in`). What comes
//! back is parsed again: a name is a name only by its parser.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use abi_stable::std_types::{RNone, ROption, RSome, RStr, RString, RVec, Tuple2};
use containerkit::content::{BlobFilter, BlobInfo, Expected, IngestStatus};
use containerkit::runtime::{CreateRequest, ExecRequest, StartedProcess, Stdio};
use containerkit::snapshot::{CommitOptions, SnapshotFilter, SnapshotInfo, SnapshotKind};
use containerkit::{
    Error, ErrorKind, ExecFailure, LabelChanges, Labels, Mount, Page, Result, Usage, quote,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fd;
use super::value::*;

/// Longer text in an error is cut.
const TEXT_LIMIT: usize = 16 * 1024;
/// More JSON than any answer needs.
const JSON_LIMIT: usize = 64 << 20;

/// Text that crossed, whatever bytes it holds.
pub(super) fn text_in(text: RString) -> String {
    let bytes: Vec<u8> = text.into_bytes().into();
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

/// Text for people: one line of bounded length, of which no more is copied.
pub(super) fn line_in(text: RString) -> String {
    let bytes = text.as_bytes();
    let head = &bytes[..bytes.len().min(TEXT_LIMIT)];
    let mut text = String::from_utf8_lossy(head).into_owned();
    if bytes.len() > TEXT_LIMIT {
        text.push('…');
    }
    if text.chars().any(char::is_control) {
        text = text
            .chars()
            .flat_map(|c| {
                let plain = (!c.is_control()).then_some(c);
                plain.into_iter().chain(
                    c.is_control()
                        .then(|| c.escape_default())
                        .into_iter()
                        .flatten(),
                )
            })
            .collect();
    }
    text
}

fn optional_out(text: Option<&str>) -> ROption<RString> {
    text.map(RString::from).into()
}

/// A name that crossed, parsed again.
pub fn parse_in<T: FromStr<Err = Error>>(text: RString) -> Result<T> {
    text_in(text).parse()
}

/// A name in an argument.
pub fn parse_arg<T: FromStr<Err = Error>>(text: RStr<'_>) -> Result<T> {
    text.as_str().parse()
}

/// An optional name in an argument.
pub fn parse_optional_arg<T: FromStr<Err = Error>>(text: ROption<RStr<'_>>) -> Result<Option<T>> {
    text.into_option().map(parse_arg).transpose()
}

fn parse_optional_in<T: FromStr<Err = Error>>(text: ROption<RString>) -> Result<Option<T>> {
    text.into_option().map(parse_in).transpose()
}

/// An error on its way out.
pub fn error_out(error: Error) -> FError {
    FError {
        kind: error.kind().code(),
        exec: error.exec_failure().map_or(0, |failure| failure as u32),
        message: error.message().into(),
        driver: optional_out(error.driver()),
        operation: optional_out(error.operation()),
        source: optional_out(error.source_text()),
        hint: optional_out(error.hint()),
        ext: RString::new(),
    }
}

/// An error that arrived, made safe to print.
pub fn error_in(error: FError) -> Error {
    let mut result = Error::new(ErrorKind::from_code(error.kind), line_in(error.message));
    if let RSome(source) = error.source {
        result = result.with_source_text(line_in(source));
    }
    if let RSome(hint) = error.hint {
        result = result.with_hint(line_in(hint));
    }
    if let Some(failure) = ExecFailure::from_code(error.exec) {
        result = result.with_exec_failure(failure);
    }
    if let (RSome(driver), RSome(operation)) = (error.driver, error.operation) {
        result = result.in_driver(&line_in(driver), &line_in(operation));
    }
    result
}

/// A value as JSON.
pub fn json_out<T: Serialize>(value: &T) -> Result<RString> {
    serde_json::to_string(value)
        .map(RString::from)
        .map_err(|error| Error::internal("a value cannot be written as JSON").with_source(error))
}

/// JSON in an argument.
pub fn json_arg<T: DeserializeOwned>(text: RStr<'_>) -> Result<T> {
    serde_json::from_str(text.as_str())
        .map_err(|error| Error::invalid("an argument's JSON cannot be read").with_source(error))
}

/// JSON that a driver returned.
pub fn json_in<T: DeserializeOwned>(text: RString) -> Result<T> {
    if text.len() > JSON_LIMIT {
        return Err(broken(format!("it returned {} bytes of JSON", text.len())));
    }
    let text = text_in(text);
    serde_json::from_str(&text).map_err(|error| {
        broken(format!("it returned {} for JSON", quote(&text))).with_source(error)
    })
}

/// A driver broke the contract.
pub fn broken(what: impl std::fmt::Display) -> Error {
    Error::internal(format!("the driver breaks its contract: {what}"))
        .with_hint("this is a defect of the driver: tell its author, with this line")
}

pub fn path_out(path: &Path) -> RVec<u8> {
    path.as_os_str().as_bytes().to_vec().into()
}

pub fn path_in(bytes: RVec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.into()))
}

pub fn path_arg(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

pub fn labels_out(labels: &Labels) -> FLabels {
    labels
        .iter()
        .map(|(key, value)| Tuple2(key.as_str().into(), value.as_str().into()))
        .collect()
}

pub fn labels_in(labels: FLabels) -> Labels {
    labels
        .into_iter()
        .map(|Tuple2(key, value)| (text_in(key), text_in(value)))
        .collect()
}

fn optional_labels_out<'a>(
    labels: impl Iterator<Item = (&'a String, &'a Option<String>)>,
) -> FOptionalLabels {
    labels
        .map(|(key, value)| Tuple2(key.as_str().into(), optional_out(value.as_deref())))
        .collect()
}

fn optional_labels_in(labels: FOptionalLabels) -> impl Iterator<Item = (String, Option<String>)> {
    labels
        .into_iter()
        .map(|Tuple2(key, value)| (text_in(key), value.into_option().map(text_in)))
}

pub fn changes_out(changes: &LabelChanges) -> FLabelChanges {
    FLabelChanges {
        replace_all: changes.replace_all,
        set: optional_labels_out(changes.set.iter()),
        ext: RString::new(),
    }
}

pub fn changes_in(changes: FLabelChanges) -> LabelChanges {
    LabelChanges {
        replace_all: changes.replace_all,
        set: optional_labels_in(changes.set).collect(),
    }
}

pub fn page_out(page: &Page) -> FPage {
    FPage {
        after: optional_out(page.after.as_deref()),
        limit: page.limit,
        ext: RString::new(),
    }
}

pub fn page_in(page: FPage) -> Page {
    Page {
        after: page.after.into_option().map(text_in),
        limit: page.limit,
    }
}

pub fn usage_out(usage: Usage) -> FUsage {
    FUsage {
        size: usage.size,
        inodes: usage.inodes,
        ext: RString::new(),
    }
}

pub fn mounts_out(mounts: Vec<Mount>) -> RVec<FMount> {
    mounts
        .into_iter()
        .map(|mount| FMount {
            fstype: mount.fstype.into(),
            source: mount.source.into(),
            target: mount.target.into(),
            options: mount.options.into_iter().map(RString::from).collect(),
            ext: RString::new(),
        })
        .collect()
}

pub fn snapshot_out(info: SnapshotInfo) -> FSnapshotInfo {
    FSnapshotInfo {
        key: info.key.as_str().into(),
        kind: info.kind.code(),
        parent: optional_out(info.parent.as_ref().map(AsRef::as_ref)),
        labels: labels_out(&info.labels),
        created: info.created.unix_nanos(),
        updated: info.updated.unix_nanos(),
        ext: RString::new(),
    }
}

pub fn snapshot_filter_out(filter: &SnapshotFilter) -> FSnapshotFilter {
    FSnapshotFilter {
        kind: filter.kind.map_or(0, SnapshotKind::code),
        by_parent: filter.parent.is_some(),
        parent: optional_out(filter.parent.iter().flatten().next().map(AsRef::as_ref)),
        labels: optional_labels_out(filter.labels.iter().map(|(key, value)| (key, value))),
        ext: RString::new(),
    }
}

pub fn snapshot_filter_in(filter: FSnapshotFilter) -> Result<SnapshotFilter> {
    let kind = match filter.kind {
        0 => None,
        code => Some(
            SnapshotKind::from_code(code)
                .ok_or_else(|| Error::invalid(format!("snapshot kind {code} is not known")))?,
        ),
    };
    let parent = parse_optional_in(filter.parent)?;
    Ok(SnapshotFilter {
        kind,
        parent: filter.by_parent.then_some(parent),
        labels: optional_labels_in(filter.labels).collect(),
    })
}

pub fn commit_out(options: &CommitOptions) -> FCommitOptions {
    FCommitOptions {
        labels: labels_out(&options.labels),
        parent: optional_out(options.parent.as_ref().map(AsRef::as_ref)),
        ext: RString::new(),
    }
}

pub fn commit_in(options: FCommitOptions) -> Result<CommitOptions> {
    Ok(CommitOptions {
        labels: labels_in(options.labels),
        parent: parse_optional_in(options.parent)?,
    })
}

pub fn blob_out(info: BlobInfo) -> FBlobInfo {
    FBlobInfo {
        digest: info.digest.to_string().into(),
        size: info.size,
        labels: labels_out(&info.labels),
        created: info.created.unix_nanos(),
        updated: info.updated.unix_nanos(),
        ext: RString::new(),
    }
}

pub fn blob_filter_out(filter: &BlobFilter) -> FBlobFilter {
    FBlobFilter {
        labels: optional_labels_out(filter.labels.iter().map(|(key, value)| (key, value))),
        ext: RString::new(),
    }
}

pub fn blob_filter_in(filter: FBlobFilter) -> BlobFilter {
    BlobFilter {
        labels: optional_labels_in(filter.labels).collect(),
    }
}

pub fn expected_out(expected: &Expected) -> FExpected {
    FExpected {
        size: expected.size.into(),
        digest: expected
            .digest
            .as_ref()
            .map(|digest| digest.to_string().into())
            .into(),
        ext: RString::new(),
    }
}

pub fn expected_in(expected: FExpected) -> Result<Expected> {
    Ok(Expected {
        size: expected.size.into_option(),
        digest: parse_optional_in(expected.digest)?,
    })
}

pub fn status_out(status: IngestStatus) -> FIngestStatus {
    FIngestStatus {
        name: status.name.as_str().into(),
        offset: status.offset,
        total: status.total.into(),
        expected: status
            .expected
            .as_ref()
            .map(|digest| digest.to_string().into())
            .into(),
        started: status.started.unix_nanos(),
        updated: status.updated.unix_nanos(),
        holder: status.holder.into(),
        ext: RString::new(),
    }
}

fn stdio_out(stdio: Stdio) -> FStdio {
    let (fds, console) = match stdio {
        Stdio::Fds {
            stdin,
            stdout,
            stderr,
        } => ([stdin, stdout, stderr].map(fd::give), RVec::new()),
        Stdio::Console(path) => ([-1; 3], path_out(&path)),
    };
    FStdio {
        stdin: fds[0],
        stdout: fds[1],
        stderr: fds[2],
        console,
        ext: RString::new(),
    }
}

fn stdio_in(stdio: FStdio) -> Result<Stdio> {
    // Taken first, so that they are closed whatever comes.
    let fds = [stdio.stdin, stdio.stdout, stdio.stderr].map(fd::take);
    if !stdio.console.is_empty() {
        return Ok(Stdio::Console(path_in(stdio.console)));
    }
    match fds {
        [Some(stdin), Some(stdout), Some(stderr)] => Ok(Stdio::Fds {
            stdin,
            stdout,
            stderr,
        }),
        _ => Err(Error::invalid("standard streams without a descriptor")),
    }
}

pub fn create_out(request: CreateRequest) -> FCreateRequest {
    FCreateRequest {
        bundle: path_out(&request.bundle),
        stdio: stdio_out(request.stdio),
        ext: RString::new(),
    }
}

pub fn create_in(request: FCreateRequest) -> Result<CreateRequest> {
    Ok(CreateRequest {
        stdio: stdio_in(request.stdio)?,
        bundle: path_in(request.bundle),
    })
}

pub fn exec_out(request: ExecRequest) -> Result<FExecRequest> {
    Ok(FExecRequest {
        process_json: json_out(&request.process)?,
        stdio: stdio_out(request.stdio),
        ext: RString::new(),
    })
}

pub fn exec_in(request: FExecRequest) -> Result<ExecRequest> {
    let stdio = stdio_in(request.stdio)?;
    Ok(ExecRequest {
        process: json_arg(request.process_json.as_rstr())?,
        stdio,
    })
}

pub fn started_out(process: StartedProcess) -> FStarted {
    FStarted {
        pid: process.pid,
        pidfd: process.pidfd.map_or(-1, fd::give),
        start_time: process.start_time,
        ext: RString::new(),
    }
}

/// `None` in mirror form, for an optional name in an argument.
pub fn name_out<'a, T: AsRef<str> + ?Sized>(name: Option<&'a T>) -> ROption<RStr<'a>> {
    match name {
        Some(name) => RSome(name.as_ref().into()),
        None => RNone,
    }
}
