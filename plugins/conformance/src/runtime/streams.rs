//! Streams: descriptors, pipes and terminals.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use containerkit::runtime::{CreateRequest, ExecRequest, Stdio};
use containerkit::{Error, ErrorKind, IoContext, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::host::{Exit, Host, PATIENCE, captured, null_stdio, pipe, process, tracked, wait};
use super::{Factory, case};
use crate::{Case, ensure, expect_kind};

pub(super) const CASES: [Case<dyn Factory>; 5] = [
    case(
        "DRV-R-33",
        "a process has three descriptors and no more",
        descriptors,
    ),
    case(
        "DRV-R-34",
        "what is written to stdin arrives, and its end too",
        stdin,
    ),
    case("DRV-R-35", "a MiB on stdout arrives whole", flood),
    case(
        "DRV-R-36",
        "a terminal comes through the console socket",
        terminal,
    ),
    case("DRV-R-37", "streams and terminal must agree", mismatch),
];

fn descriptors(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    // One that the caller forgot to mark close-on-exec must not reach it either.
    let null = std::fs::File::open("/dev/null").io_context(|| "open /dev/null")?;
    let _forgotten = crate::sys::inheritable(null.as_fd()).io_context(|| "copy it")?;
    let script = "for f in /proc/$$/fd/*; do [ -e $f ] && echo ${f##*/}; done";
    for fused in [false, true] {
        let (stdio, out) = captured()?;
        let id = if fused { "fds-run" } else { "fds-create" };
        let bundle = host.script(script)?;
        let container = match fused {
            true => host.run_on(id, bundle, stdio)?,
            false => {
                let container = host.create_on(id, bundle, stdio)?;
                host.runtime.start(&container.id)?;
                container
            }
        };
        container.wait()?;
        let text = out.text()?;
        ensure(text == "0\n1\n2\n", || {
            format!("{id}: want 0, 1 and 2, init has {text:?}")
        })?;
    }
    let container = host.sleeper("fds-exec")?;
    let (_, text) = container.script(script)?;
    ensure(text == "0\n1\n2\n", || {
        format!("want 0, 1 and 2, exec has {text:?}")
    })
}

fn stdin(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let (stdin, write) = pipe()?;
    let (read, stdout) = pipe()?;
    let (_errors, stderr) = pipe()?;
    let stdio = Stdio::Fds {
        stdin,
        stdout,
        stderr,
    };
    let container = host.run_on("cat", host.bundle_with(&["cat"], |_| {})?, stdio)?;
    let mut write = File::from(write);
    write.write_all(b"hello\n").io_context(|| "write")?;
    drop(write);
    let exit = container.wait()?;
    let mut text = String::new();
    File::from(read)
        .read_to_string(&mut text)
        .io_context(|| "read")?;
    ensure(exit == Exit::Code(0) && text == "hello\n", || {
        format!("{exit:?}, {text:?}")
    })
}

fn flood(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let (stdio, out) = captured()?;
    let reader = std::thread::spawn(move || out.text());
    let script = "head -c 1048576 /dev/zero | tr '\\000' x";
    let container = host.run_on("flood", host.script(script)?, stdio)?;
    let exit = container.wait()?;
    let text = reader
        .join()
        .map_err(|_| Error::internal("the reader panicked"))??;
    let whole = text.len() == 1 << 20 && text.bytes().all(|b| b == b'x');
    ensure(exit == Exit::Code(0) && whole, || {
        format!("{exit:?}, {} bytes", text.len())
    })
}

fn terminal(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    // The folder may be too deep for a socket's name: name it by descriptor.
    let folder = containerkit::fs::open_dir(host.fixture.folder())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let socket = format!("/proc/{}/fd/{number}/console", std::process::id());
    let listener = UnixListener::bind(&socket).io_context(|| "listen")?;
    listener.set_nonblocking(true).io_context(|| "listen")?;

    let receiver = std::thread::spawn(move || receive(&listener));
    let bundle = host.bundle_with(&["sh", "-c", "tty; exit 9"], |spec| {
        spec["process"]["terminal"] = true.into();
    })?;
    let container = host.run_on("tty", bundle, Stdio::Console(socket.clone().into()))?;
    let master = receiver
        .join()
        .map_err(|_| Error::internal("the receiver panicked"))??;
    let exit = container.wait()?;
    let text = read_terminal(master);
    ensure(exit == Exit::Code(9), || format!("exit {exit:?}"))?;
    ensure(
        text.contains("/dev/") && !text.contains("not a tty"),
        || format!("init: {text:?}"),
    )?;

    std::fs::remove_file(&socket).io_context(|| "remove the socket")?;
    let listener = UnixListener::bind(&socket).io_context(|| "listen")?;
    listener.set_nonblocking(true).io_context(|| "listen")?;
    let receiver = std::thread::spawn(move || receive(&listener));
    let container = host.sleeper("tty-exec")?;
    let mut process = process(&["sh", "-c", "tty; exit 8"])?;
    process.set_terminal(Some(true));
    let request = ExecRequest {
        process,
        stdio: Stdio::Console(socket.into()),
    };
    let started = tracked(|| host.runtime.exec(&container.id, request))?;
    let master = receiver
        .join()
        .map_err(|_| Error::internal("the receiver panicked"))??;
    let exit = wait(&started)?;
    let text = read_terminal(master);
    ensure(exit == Exit::Code(8) && text.contains("/dev/"), || {
        format!("exec: {exit:?}, {text:?}")
    })
}

fn mismatch(factory: &dyn Factory) -> Result<()> {
    let host = Host::new(factory)?;
    let id = "mismatch".parse()?;
    let bundle = host.bundle_with(&["true"], |spec| {
        spec["process"]["terminal"] = true.into();
    })?;
    let stdio = null_stdio()?;
    expect_kind(
        host.runtime.create(&id, CreateRequest { bundle, stdio }),
        ErrorKind::InvalidArgument,
        "a terminal without a console",
    )?;
    let bundle = host.script("true")?;
    let stdio = Stdio::Console("/nowhere".into());
    expect_kind(
        host.runtime.create(&id, CreateRequest { bundle, stdio }),
        ErrorKind::InvalidArgument,
        "a console without a terminal",
    )?;
    let bundle = host.bundle_with(&["true"], |spec| {
        spec["process"]["terminal"] = true.into();
    })?;
    let stdio = Stdio::Console(format!("/{}", "x".repeat(107)).into());
    expect_kind(
        host.runtime.create(&id, CreateRequest { bundle, stdio }),
        ErrorKind::InvalidArgument,
        "a console with too long a name",
    )?;
    ensure(host.runtime.list()?.is_empty(), || {
        "a container is left".into()
    })
}

/// The descriptor that arrives on a console socket.
fn receive(listener: &UnixListener) -> Result<OwnedFd> {
    let deadline = Instant::now() + PATIENCE;
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    return Err(Error::internal("no terminal arrives"));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(Error::io("accept", error)),
        }
    };
    let mut bytes = [0u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .io_context(|| "receive a terminal")?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| Error::internal("a message without a terminal"))
}

/// All that was written; the master of a closed terminal fails with EIO.
fn read_terminal(master: OwnedFd) -> String {
    let mut data = Vec::new();
    let _ = File::from(master).read_to_end(&mut data);
    String::from_utf8_lossy(&data).into_owned()
}
