//! What programs hold on to: inodes, open files, sockets, the folder they are in.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use containerkit::mounter::{mount_all, unmount};
use containerkit::{IoContext, Result};

use super::lab::{Lab, Tree};
use super::{Factory, Row};
use crate::{ensure, equal};

pub(super) const CASES: [Row; 4] = [
    (
        "DRV-S-39",
        "a unix socket is bound, reached, and kept",
        sockets,
    ),
    (
        "DRV-S-62",
        "a folder keeps its inode while it changes",
        folders,
    ),
    (
        "DRV-S-63",
        "a file keeps its inode when it is first written",
        files,
    ),
    (
        "DRV-S-64",
        "a process in a folder is told its path",
        working_folder,
    ),
];

/// Sends a byte through the socket.
fn talk(tree: &Tree, path: &str, listener: &UnixListener) -> Result<()> {
    let mut client = UnixStream::connect(tree.at(path)).io_context(|| format!("reach {path}"))?;
    let (mut server, _) = listener.accept().io_context(|| "accept")?;
    client.write_all(b"x").io_context(|| "send")?;
    let mut byte = [0];
    server.read_exact(&mut byte).io_context(|| "receive")?;
    equal(byte, *b"x", "the byte")
}

fn sockets(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    let bind = |tree: &Tree| UnixListener::bind(tree.at("run/sock")).io_context(|| "bind");
    lab.layer("a", None, |tree| {
        tree.mkdir("run")?;
        let listener = bind(tree)?;
        talk(tree, "run/sock", &listener)
    })?;
    lab.layer("b", Some("a"), |tree| {
        let kind = tree.stat("run/sock")?.file_type();
        ensure(kind.is_socket(), || format!("a socket became {kind:?}"))?;
        ensure(bind(tree).is_err(), || "bound over a socket".into())?;
        tree.remove("run/sock")?;
        let listener = bind(tree)?;
        talk(tree, "run/sock", &listener)
    })?;
    let kind = lab.view("b")?.stat("run/sock")?.file_type();
    ensure(kind.is_socket(), || format!("a socket became {kind:?}"))
}

fn folders(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        tree.mkdir("dir/sub")?;
        tree.write("dir/f", "1")
    })?;
    lab.layer("b", Some("a"), |tree| {
        let ids = || -> Result<(u64, u64)> { Ok((tree.stat("dir")?.ino(), tree.stat(".")?.ino())) };
        let before = ids()?;
        tree.write("dir/new", "2")?;
        equal(ids()?, before, "inodes after a new file")?;
        fs::set_permissions(tree.at("dir"), fs::Permissions::from_mode(0o700))
            .io_context(|| "chmod")?;
        equal(ids()?, before, "inodes after chmod")?;
        tree.remove("dir/f")?;
        tree.remove("dir/sub")?;
        equal(ids()?, before, "inodes after removals")?;
        tree.mkdir("other")?;
        equal(ids()?, before, "inodes after a new folder")
    })?;
    ensure(lab.view("b")?.exists("dir/new"), || {
        "dir/new is gone".into()
    })
}

fn files(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| tree.write("f", "old"))?;
    lab.layer("b", Some("a"), |tree| {
        let early = fs::File::open(tree.at("f")).io_context(|| "open f")?;
        let before = early.metadata().io_context(|| "stat f")?.ino();
        equal(
            tree.stat("f")?.ino(),
            before,
            "the inode by path and by descriptor",
        )?;
        fs::set_permissions(tree.at("f"), fs::Permissions::from_mode(0o600))
            .io_context(|| "chmod")?;
        equal(tree.stat("f")?.ino(), before, "the inode after chmod")?;
        tree.write("f", "new")?;
        equal(tree.stat("f")?.ino(), before, "the inode after a write")?;
        let still = early.metadata().io_context(|| "stat f again")?.ino();
        equal(still, before, "the inode of the early descriptor")?;
        equal(tree.read("f")?.as_str(), "new", "the content by path")
    })?;
    equal(
        lab.view("b")?.read("f")?.as_str(),
        "new",
        "the content in a view",
    )
}

fn working_folder(factory: &Factory) -> Result<()> {
    let lab = Lab::new(factory)?;
    lab.layer("a", None, |tree| {
        tree.mkdir("dir/sub")?;
        tree.write("dir/sub/f", "1")
    })?;
    let target = lab.dir.join("target");
    fs::create_dir(&target).io_context(|| "make a mount point")?;
    mount_all(&lab.prepare("b", Some("a"))?, &target)?;
    let folder = target.join("dir/sub");
    let script = "pwd -P && : > new && rm f && chmod 700 . && pwd -P && cd .. && pwd -P";
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .current_dir(&folder)
        .output()
        .io_context(|| "start a shell")?;
    unmount(&target)?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let real = lab
        .dir
        .canonicalize()
        .io_context(|| "own folder")?
        .join("target/dir");
    let want = format!("{0}/sub\n{0}/sub\n{0}\n", real.display());
    equal(found, want, "what pwd says")
}
