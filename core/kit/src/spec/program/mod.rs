//! Whether a process's program is there, asked before any runtime is.
//!
//! A runtime says so too, but on the container's own standard error and in
//! words of its own. Where this cannot know (a mount may bring the program),
//! it leaves the answer to the runtime.

mod elf;
mod format;

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ExecFailure, Result, quote};
use crate::fs::Root;
use format::Format;

/// Where the reaper of a container lies that wants one: in the `/dev` that the
/// runtime makes, which no image has a say in.
pub const INIT_PATH: &str = "/dev/containerkit-init";

/// Fails with [`ExecFailure`] when the spec's program does not exist in the
/// root file system, nobody may execute it, or the kernel could not: its
/// interpreter is missing, or it is no program of this machine.
pub fn check(spec: &Spec, rootfs: &Root) -> Result<()> {
    let Some(process) = spec.process() else {
        return Ok(());
    };
    let args = process.args().as_deref().unwrap_or_default();
    let program = match args {
        [init, dashes, program, ..] if init == INIT_PATH && dashes == "--" => program,
        [program, ..] => program,
        [] => return Ok(()),
    };
    if is_too_long(program) {
        return Err(error(
            program,
            ExecFailure::NotFound,
            "its name is longer than a file's can be",
        ));
    }
    let candidates = candidates(
        program,
        process.cwd(),
        process.env().as_deref().unwrap_or(&[]),
    );
    let mounted: Vec<PathBuf> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| lexical(mount.destination()))
        .collect();
    let mut not_executable = false;
    for candidate in &candidates {
        if is_covered(rootfs, candidate, &mounted) {
            return Ok(());
        }
        match look(rootfs, candidate) {
            Found::Executable => {
                let Some((failure, why)) = refusal(rootfs, candidate, process.cwd(), &mounted)
                else {
                    return Ok(());
                };
                return Err(error(program, failure, &why));
            }
            Found::Unknown => return Ok(()),
            Found::Otherwise => not_executable = true,
            Found::Nothing => {}
        }
    }
    let (failure, why) = match (not_executable, program.contains('/')) {
        (true, _) => (ExecFailure::NotExecutable, "it is not an executable file"),
        (false, true) => (
            ExecFailure::NotFound,
            "no such file in the root file system",
        ),
        (false, false) => (
            ExecFailure::NotFound,
            "no such program in the container's PATH",
        ),
    };
    Err(error(program, failure, why))
}

fn is_too_long(program: &str) -> bool {
    const NAME_MAX: usize = 255;
    const PATH_MAX: usize = 4096;
    program.len() >= PATH_MAX || program.split('/').any(|name| name.len() > NAME_MAX)
}

fn error(program: &str, failure: ExecFailure, why: &str) -> Error {
    Error::not_found(format!("program {}: {why}", quote(program))).with_exec_failure(failure)
}

/// Why the kernel would not execute the file, as far as that is certain. Of an
/// interpreter it is only asked whether it is there.
fn refusal(
    rootfs: &Root,
    path: &Path,
    cwd: &Path,
    mounted: &[PathBuf],
) -> Option<(ExecFailure, String)> {
    let file = std::fs::File::from(open(rootfs, path)?);
    let interpreter = match format::of(&file, format::has_helpers) {
        Format::Other => return None,
        Format::Refused(why) => return Some((ExecFailure::NotExecutable, why.to_owned())),
        Format::Interpreted(interpreter) => interpreter,
    };
    let place = cwd.join(&interpreter);
    if is_covered(rootfs, &place, mounted) {
        return None;
    }
    let (failure, why) = match look(rootfs, &place) {
        Found::Executable | Found::Unknown => return None,
        Found::Nothing => (
            ExecFailure::NotFound,
            "does not exist in the root file system",
        ),
        Found::Otherwise => (ExecFailure::NotExecutable, "is not an executable file"),
    };
    let shown = quote(&interpreter.to_string_lossy());
    Some((failure, format!("its interpreter {shown} {why}")))
}

/// A regular file, for reading; `None` leaves the answer to the runtime.
fn open(rootfs: &Root, path: &Path) -> Option<OwnedFd> {
    // O_NONBLOCK: a fifo that took the file's place must not hold us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rootfs.open_at(path, flags, 0).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(fd)
}

/// Whether the way to the path, symlinks followed, passes a mount.
fn is_covered(rootfs: &Root, path: &Path, mounted: &[PathBuf]) -> bool {
    let is_under = |path: &Path| mounted.iter().any(|target| path.starts_with(target));
    let mut covered = is_under(&lexical(path));
    let Some(path) = path.to_str() else {
        return true;
    };
    let walked = super::path::walk(rootfs, path, "program", |here| {
        covered |= is_under(Path::new(here));
        covered
    });
    covered || walked.is_err()
}

enum Found {
    Executable,
    Otherwise,
    Nothing,
    Unknown,
}

fn look(rootfs: &Root, path: &Path) -> Found {
    let fd = match rootfs.open_at(path, OFlags::PATH, 0) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Found::Nothing,
        Err(_) => return Found::Unknown,
    };
    match rustix::fs::fstat(&fd) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            Found::Otherwise
        }
        Ok(stat) if stat.st_mode & 0o111 == 0 => Found::Otherwise,
        Ok(_) => Found::Executable,
        Err(_) => Found::Unknown,
    }
}

/// Where execvp(3) looks.
fn candidates(program: &str, cwd: &Path, env: &[String]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![cwd.join(program)];
    }
    let path = env
        .iter()
        .find_map(|pair| pair.strip_prefix("PATH="))
        .unwrap_or("/bin:/usr/bin");
    path.split(':')
        .map(|dir| cwd.join(dir).join(program))
        .collect()
}

/// Without `.` and `..`, as far as that can be told from the text.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn result(args: &[&str], mount: Option<&str>) -> Result<()> {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = |name: &str, mode: u32, data: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, data).expect("write");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        };
        let whole = elf::sample(None);
        file("yes", 0o755, &whole);
        file("no", 0o644, &whole);
        let mut foreign = whole;
        foreign[18] = 243;
        file("foreign", 0o755, &foreign);
        file("empty", 0o755, b"");
        file("garbage", 0o755, b"echo hello\n");
        for (name, interpreter) in [
            ("good", "/yes"),
            ("relative", "yes"),
            ("by-link", "/link"),
            ("bad", "/nosuch/ld.so"),
            ("plain", "/no"),
            ("folder", "/"),
            ("mounted", "/data/sh"),
            ("linked", "/in/sh"),
        ] {
            let script = format!("#!{interpreter} -e\n");
            file(&format!("{name}.sh"), 0o755, script.as_bytes());
            file(name, 0o755, &elf::sample(Some(interpreter)));
        }
        std::os::unix::fs::symlink("/yes", dir.path().join("link")).expect("symlink");
        std::os::unix::fs::symlink("data", dir.path().join("in")).expect("symlink");
        let mounts: Vec<serde_json::Value> = mount
            .iter()
            .map(|m| serde_json::json!({ "destination": m }))
            .collect();
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "process": { "cwd": "/", "args": args, "env": ["PATH=/none:/"], "user": { "uid": 0, "gid": 0 } },
            "mounts": mounts,
        }))
        .expect("spec");
        check(&spec, &Root::open(dir.path()).expect("root"))
    }

    fn outcome(args: &[&str], mount: Option<&str>) -> Option<ExecFailure> {
        result(args, mount)
            .err()
            .and_then(|error| error.exec_failure())
    }

    #[test]
    fn an_interpreter_is_looked_for_too() {
        use ExecFailure::{NotExecutable, NotFound};
        for suffix in ["", ".sh"] {
            for (name, want) in [
                ("good", None),
                ("relative", None),
                ("by-link", None),
                ("bad", Some(NotFound)),
                ("mounted", Some(NotFound)),
                ("linked", Some(NotFound)),
                ("plain", Some(NotExecutable)),
                ("folder", Some(NotExecutable)),
            ] {
                let program = format!("{name}{suffix}");
                assert_eq!(outcome(&[&program], None), want, "{program}");
            }
            for name in ["mounted", "linked"] {
                let program = format!("/{name}{suffix}");
                assert_eq!(outcome(&[&program], Some("/data")), None, "{program}");
            }
        }
        let error = result(&["/bad.sh"], None).expect_err("no interpreter");
        assert_eq!(
            error.message(),
            "program \"/bad.sh\": its interpreter \"/nosuch/ld.so\" does not exist in the root file system"
        );
    }

    #[test]
    fn what_the_kernel_cannot_execute_is_refused() {
        // Where the host has helpers for further formats they decide.
        let want = (!format::has_helpers()).then_some(ExecFailure::NotExecutable);
        for program in ["empty", "/garbage", "foreign"] {
            assert_eq!(outcome(&[program], None), want, "{program}");
        }
    }

    #[test]
    fn programs_are_found_in_the_root_and_nowhere_else() {
        for program in ["yes", "/yes", "./yes", "/link", "/../yes"] {
            assert_eq!(outcome(&[program], None), None, "{program}");
        }
        let long = format!("/{}", "x".repeat(256));
        let deep = "/x".repeat(2048);
        for program in [
            "/etc/passwd",
            "nosuch",
            "/none/x",
            "yes/x",
            &long,
            &long[1..],
            &deep,
        ] {
            assert_eq!(
                outcome(&[program], None),
                Some(ExecFailure::NotFound),
                "{program}"
            );
        }
        for program in ["no", "/no", "/"] {
            assert_eq!(
                outcome(&[program], None),
                Some(ExecFailure::NotExecutable),
                "{program}"
            );
        }
        assert_eq!(
            outcome(&["/data/x"], Some("/data/")),
            None,
            "a mount may bring it"
        );
        assert_eq!(
            outcome(&["/in/x"], Some("/data")),
            None,
            "a symlink leads to a mount"
        );
    }
}
