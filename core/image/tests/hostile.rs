//! Streams that are damaged or lie: each is refused in one line, with nothing
//! written outside, and none hangs.

#![allow(clippy::unwrap_used)]

mod support;

use containerkit::ErrorKind::{DataLoss, InvalidArgument, ResourceExhausted};
use containerkit_image::WhiteoutForm::Remove;
use containerkit_image::{ApplyOptions, Limits, apply};
use std::os::fd::AsFd;
use support::{
    Cell, Entry, apply_bytes, assert_one_line, dir, entry, file, header, link, padded, symlink, tar,
};

fn refused(name: &str, layer: &[u8], kind: containerkit::ErrorKind) {
    let cell = Cell::new();
    let error = apply_bytes(&cell.root(), layer, Remove).expect_err(name);
    assert_eq!(error.kind(), kind, "{name}: {error}");
    assert_one_line(&error);
    cell.check();
}

#[test]
fn a_stream_that_is_cut_off_anywhere() {
    let layer = tar(&[
        dir("d", 0o755),
        file("d/file", &"x".repeat(2000)).pax("mtime", "1.5"),
        file("last", "y"),
    ]);
    let end = layer.len() - 1024;
    for cut in (1..end).step_by(37) {
        let cell = Cell::new();
        match apply_bytes(&cell.root(), &layer[..cut], Remove) {
            Err(error) => assert_eq!(error.kind(), DataLoss, "{cut}: {error}"),
            // Between entries it may end.
            Ok(_) => assert_eq!(cut % 512, 0, "{cut}"),
        }
        cell.check();
    }
}

#[test]
fn damaged_headers() {
    refused("garbage", &[b'x'; 2048], DataLoss);
    let mut layer = tar(&[file("a", "1")]);
    layer[0] = b'b';
    refused("checksum", &layer, DataLoss);
    let lone = [file("a", "1").bytes(), vec![0; 512], tar(&[file("b", "2")])].concat();
    refused("lone zero block", &lone, InvalidArgument);
    for flag in [b'Z', b'M', b'V', 0xff] {
        refused("unknown type", &tar(&[entry(flag, "a")]), InvalidArgument);
    }
    refused(
        "whiteout device",
        &tar(&[entry(b'3', "a")]),
        InvalidArgument,
    );
}

#[test]
fn sizes_that_lie() {
    for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let mut liar = entry(flag, "liar");
        liar.link = b"x".to_vec();
        liar.device = (1, 3);
        liar.data = file("hidden", "").bytes();
        refused("data of what has none", &tar(&[liar]), InvalidArgument);
    }
    let huge = Entry {
        size: Some(u64::MAX),
        ..file("a", "x")
    };
    refused("overflow", &tar(&[huge]), ResourceExhausted);
    let long = Entry {
        size: Some(1 << 30),
        ..file("a", "x")
    };
    refused("more than there is", &tar(&[long]), DataLoss);
    refused(
        "negative pax size",
        &tar(&[file("a", "x").pax("size", "-1")]),
        InvalidArgument,
    );
    refused(
        "pax size overflow",
        &tar(&[file("a", "x").pax("size", "18446744073709551616")]),
        InvalidArgument,
    );
    let mut negative = file("a", "x").bytes();
    negative[124..136].copy_from_slice(&[0xff; 12]);
    support::checksum(&mut negative[..512]);
    refused("negative size", &negative, InvalidArgument);
}

/// Header and extension disagree on the size: the extension holds, and what
/// a reader of the header would take for an entry stays data.
#[test]
fn pax_and_header_sizes_cannot_be_played_against_each_other() {
    let hidden = file("hidden", "smuggled").bytes();
    let mut outer = Entry {
        data: hidden.clone(),
        size: Some(0),
        ..file("outer", "")
    }
    .pax("size", hidden.len().to_string());
    let cell = Cell::new();
    let layer = tar(&[outer.clone(), file("after", "x")]);
    assert_eq!(
        apply_bytes(&cell.root(), &layer, Remove).unwrap().entries,
        2
    );
    assert_eq!(std::fs::read(cell.root().join("outer")).unwrap(), hidden);
    assert!(!cell.root().join("hidden").exists());
    assert!(cell.root().join("after").exists());
    // The other way round the hidden header is not a header either.
    outer.pax = vec![(b"size".to_vec(), b"8".to_vec())];
    outer.size = None;
    let cell = Cell::new();
    let result = apply_bytes(&cell.root(), &tar(&[outer]), Remove);
    assert!(cell.root().join("hidden").exists() == result.is_ok());
    cell.check();
}

#[test]
fn owners_out_of_range() {
    for uid in [u64::from(u32::MAX), 1 << 32, u64::MAX >> 1] {
        let uid = Entry {
            uid,
            ..file("a", "")
        };
        refused("uid", &tar(&[uid]), InvalidArgument);
    }
    for uid in ["4294967295", "4294967296", "-1", "0x0", "", " 0"] {
        let layer = tar(&[file("a", "").pax("uid", uid)]);
        if uid.is_empty() {
            // Takes the record back.
            apply_bytes(&Cell::new().root(), &layer, Remove).unwrap();
            continue;
        }
        refused("pax uid", &layer, InvalidArgument);
        refused(
            "pax gid",
            &tar(&[file("a", "").pax("gid", uid)]),
            InvalidArgument,
        );
    }
}

#[test]
fn malformed_extensions() {
    for body in [
        &b"garbage"[..],
        b"99 path=a\n",
        b"8 path=a\n",
        b"6 path=",
        b"\n",
    ] {
        let mut layer = header(b'x', b"pax", b"", body.len() as u64, &entry(b'x', "pax"));
        layer.extend(padded(body));
        layer.extend(tar(&[file("a", "1")]));
        refused("pax", &layer, InvalidArgument);
    }
    let pax = |flag: u8, body: &[u8]| {
        let mut out = header(flag, b"pax", b"", body.len() as u64, &entry(flag, "pax"));
        out.extend(padded(body));
        out
    };
    let record = support::record(b"comment", b"x");
    let twice = [
        pax(b'x', &record),
        pax(b'x', &record),
        tar(&[file("a", "1")]),
    ]
    .concat();
    refused("two pax headers", &twice, InvalidArgument);
    refused(
        "pax at the end",
        &[pax(b'x', &record), vec![0; 1024]].concat(),
        DataLoss,
    );
    refused("pax and nothing", &pax(b'x', &record), DataLoss);
    let path = support::record(b"path", b"other");
    refused(
        "global path",
        &[pax(b'g', &path), tar(&[file("a", "1")])].concat(),
        InvalidArgument,
    );
    let cell = Cell::new();
    let comment = [pax(b'g', &record), tar(&[file("a", "1")])].concat();
    apply_bytes(&cell.root(), &comment, Remove).expect("a global comment is fine");
    refused(
        "sparse map",
        &tar(&[file("a", "x")
            .pax("GNU.sparse.map", "0,1")
            .pax("GNU.sparse.size", "0")]),
        InvalidArgument,
    );
    refused(
        "sparse without size",
        &tar(&[file("a", "x").pax("GNU.sparse.map", "0,1")]),
        InvalidArgument,
    );
    refused(
        "sparse format",
        &tar(&[file("a", "x")
            .pax("GNU.sparse.major", "9")
            .pax("GNU.sparse.size", "1")]),
        InvalidArgument,
    );
    let nul = file("a", "x").pax("path", b"a\0b");
    refused("NUL in a name", &tar(&[nul]), InvalidArgument);
}

#[test]
fn names_that_are_too_long() {
    let component = "n".repeat(300);
    refused("component", &tar(&[file(&component, "x")]), InvalidArgument);
    refused(
        "folder",
        &tar(&[file(&format!("{component}/x"), "x")]),
        InvalidArgument,
    );
    let path = "d/".repeat(40_000) + "x";
    refused("path", &tar(&[file(&path, "x")]), InvalidArgument);
    let target = "t".repeat(100_000);
    refused(
        "symlink target",
        &tar(&[support::symlink(&target, "s")]),
        InvalidArgument,
    );
    refused(
        "hard link target",
        &tar(&[link(&target, "h")]),
        InvalidArgument,
    );
}

#[test]
fn hard_links_to_what_cannot_be_linked() {
    for layer in [
        vec![link("nothing", "h")],
        vec![link("", "h")],
        vec![link("/", "h")],
        vec![dir("d", 0o755), link("d", "h")],
        vec![link("h", "h")],
        vec![link("../canary", "h")],
        vec![link("../../../../../../../../etc/hostname", "h")],
        vec![support::symlink("", "s")],
    ] {
        let cell = Cell::new();
        let error = apply_bytes(&cell.root(), &tar(&layer), Remove).expect_err("link");
        assert_one_line(&error);
        assert!(!cell.root().join("h").exists());
        cell.check();
    }
    // A link to itself is nothing to do.
    let cell = Cell::new();
    let layer = tar(&[file("h", "x"), link("./h", "h")]);
    apply_bytes(&cell.root(), &layer, Remove).expect("itself");
    assert_eq!(std::fs::read(cell.root().join("h")).unwrap(), b"x");
}

#[test]
fn limits_hold() {
    let run = |layer: &[u8], limits: Limits| {
        let cell = Cell::new();
        let fd = containerkit::fs::open_dir(&cell.root()).unwrap();
        let options = ApplyOptions {
            limits,
            ..ApplyOptions::default()
        };
        let error = apply(&mut &layer[..], fd.as_fd(), &options).expect_err("limit");
        assert_eq!(error.kind(), ResourceExhausted, "{error}");
        assert_one_line(&error);
    };
    let many: Vec<Entry> = (0..20).map(|n| file(&n.to_string(), "")).collect();
    run(
        &tar(&many),
        Limits {
            entries: 10,
            ..Limits::default()
        },
    );
    let metadata = file("a", "").xattr("user.a", vec![b'x'; 3000]);
    run(
        &tar(&[metadata]),
        Limits {
            metadata: 2000,
            ..Limits::default()
        },
    );
    run(
        &tar(&[file("a", &"x".repeat(9000))]),
        Limits {
            bytes: 5000,
            ..Limits::default()
        },
    );
    let mut trailing = tar(&[file("a", "x")]);
    trailing.extend(vec![0; 100_000]);
    run(
        &trailing,
        Limits {
            bytes: 50_000,
            ..Limits::default()
        },
    );
    let sparse = file("a", "x")
        .pax("GNU.sparse.map", "0,1")
        .pax("GNU.sparse.size", (1u64 << 60).to_string());
    run(&tar(&[sparse]), Limits::default());
    // A header that claims more metadata than the machine has.
    let claim = header(b'L', b"long", b"", 1 << 33, &entry(b'L', ""));
    run(&claim, Limits::default());
}

/// Every byte of a small archive changed, one at a time: whatever comes of
/// it, it ends, and nothing leaves the root.
#[test]
fn bit_rot_never_panics() {
    let layer = tar(&[
        dir("d", 0o755),
        file("d/f", "data").xattr("user.x", "1"),
        support::symlink("../..", "d/s"),
        link("d/f", "d/h"),
        file("d/.wh.x", ""),
    ]);
    let cell = Cell::new();
    for index in 0..layer.len() {
        if layer[index] == 0 && index % 7 != 0 {
            continue;
        }
        let mut broken = layer.clone();
        broken[index] ^= 0x55;
        // A checksum that is right lets the damage through to what is behind.
        let block = index / 512 * 512;
        if broken[block + 257..block + 262] == *b"ustar" {
            support::checksum(&mut broken[block..block + 512]);
        }
        if let Err(error) = apply_bytes(&cell.root(), &broken, Remove) {
            assert_one_line(&error);
        }
    }
    cell.check();
}

/// Drops a file into a folder once the stream has been read so far: what an
/// entry after that still looks at, it finds.
struct Intruder<'a> {
    layer: &'a [u8],
    at: usize,
    read: usize,
    file: std::path::PathBuf,
}

impl std::io::Read for Intruder<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.read == self.at {
            std::fs::write(&self.file, "from outside")?;
        }
        // Whole blocks, so that the place is met.
        let part = buf.len().min(512).min(self.layer.len() - self.read);
        buf[..part].copy_from_slice(&self.layer[self.read..self.read + part]);
        self.read += part;
        Ok(part)
    }
}

/// Listing a folder again for each of a million whiteouts would take for
/// ever: what is clean of lower layers stays so.
#[test]
fn a_folder_is_cleared_once_however_often_the_layer_says_so() {
    let added = [dir("d", 0o755), dir("d/e", 0o755), file("d/e/f", "x")];
    for (first, again) in [
        ("d/.wh..wh..opq", "d/.wh..wh..opq"),
        ("d/.wh..wh..opq", "d/e/.wh..wh..opq"),
        (".wh.d", ".wh.d"),
        (".wh.d", "d/.wh.e"),
        ("d/e/.wh..wh..opq", "d/.wh..wh..opq"),
    ] {
        let cell = Cell::new();
        let lower = cell.root().join("d/e");
        std::fs::create_dir_all(&lower).unwrap();
        std::fs::write(lower.join("lower"), "x").unwrap();
        let mut layer: Vec<u8> = added.iter().flat_map(Entry::bytes).collect();
        layer.extend(file(first, "").bytes());
        let at = layer.len();
        layer.extend(tar(&[file(again, "")]));
        let mut stream = Intruder {
            layer: &layer,
            at,
            read: 0,
            file: lower.join("intruder"),
        };
        let fd = containerkit::fs::open_dir(&cell.root()).unwrap();
        apply(&mut stream, fd.as_fd(), &ApplyOptions::default()).expect(first);
        let shown = format!("{first}, {again}");
        assert!(!lower.join("lower").exists(), "{shown}: cleared");
        assert!(lower.join("f").exists(), "{shown}: kept");
        assert!(lower.join("intruder").exists(), "{shown}: not listed again");
        cell.check();
    }
}

/// Each link goes on to the next and then in and out of a folder, thousands
/// of times: without a bound one entry would take half a minute.
#[test]
fn symlinks_that_multiply_the_way_are_bounded() {
    for links in [3, 39] {
        let mut layer = vec![dir("x", 0o755)];
        let detour = "../x/".repeat(790);
        for number in 0..links {
            let target = format!("/L{}/{detour}", number + 1);
            layer.push(symlink(&target, &format!("L{number}")));
        }
        layer.push(symlink("x", &format!("L{links}")));
        layer.push(file("L0/victim", "x"));
        let cell = Cell::new();
        let error = support::apply_to(&cell.root(), &layer).expect_err("too long a way");
        assert_eq!(error.kind(), InvalidArgument, "{error}");
        assert!(error.to_string().contains("L0/victim"), "{error}");
        assert!(error.to_string().contains("4096 components"), "{error}");
        assert_one_line(&error);
        cell.check();
    }
    // One such link is what the kernel follows too.
    let cell = Cell::new();
    let target = format!("/x/{}", "../x/".repeat(790));
    let layer = [
        dir("x", 0o755),
        symlink(&target, "L"),
        file("L/a", "1"),
        file("L/b/c", "2"),
        link("L/b/c", "L/d"),
    ];
    support::apply_to(&cell.root(), &layer).unwrap();
    for name in ["a", "b/c", "d"] {
        assert!(cell.root().join("x").join(name).exists(), "{name}");
    }
    cell.check();
}

#[test]
fn extended_attributes_are_counted() {
    let with = |count: usize| {
        let mut entry = file("a", "");
        for number in 0..count {
            entry = entry.xattr(&format!("system.containerkit{number}"), "x");
        }
        tar(&[entry])
    };
    // Kept apart by the error of setting one that no file system has.
    let cell = Cell::new();
    let outcome = apply_bytes(&cell.root(), &with(1024), Remove);
    if let Err(error) = &outcome {
        assert!(!error.to_string().contains("1024 extended"), "{error}");
    }
    refused("too many", &with(1025), ResourceExhausted);
    // The last of a name counts, and counts once.
    let mut entry = file("a", "");
    for number in 0..3000 {
        entry = entry.xattr("user.containerkit", format!("{number}"));
    }
    let cell = Cell::new();
    apply_bytes(&cell.root(), &tar(&[entry]), Remove).unwrap();
    let mut value = [0; 16];
    let path = cell.root().join("a");
    let length = rustix::fs::lgetxattr(&path, "user.containerkit", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"2999");
}
