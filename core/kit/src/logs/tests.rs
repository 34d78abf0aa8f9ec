use super::*;

fn files(dir: &Path, max_size: u64, max_file: u32) -> LogFiles {
    LogFiles {
        folder: dir.join("log"),
        max_size,
        max_file,
    }
}

fn texts(entries: &[Entry]) -> String {
    let mut all = String::new();
    for entry in entries {
        all.push_str(&String::from_utf8_lossy(&entry.text));
        if entry.whole {
            all.push('\n');
        }
    }
    all
}

fn rest(reader: &mut Reader) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        match reader.next_entries().expect("read") {
            entries if entries.is_empty() => return all,
            entries => all.extend(entries),
        }
    }
}

#[test]
fn bytes_come_back_as_they_were_and_know_their_stream() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut writer = Writer::open(files(dir.path(), 1 << 20, 2)).expect("open");
    let mut reader = Reader::open(&dir.path().join("log"));
    writer.write(Stream::Stdout, b"one\ntwo\n\nprompt> ");
    writer.write(Stream::Stderr, b"\xff\x00 \r\n");
    writer.write(Stream::Stdout, b"typed\n");
    let entries = rest(&mut reader);
    let of = |stream| {
        let some: Vec<Entry> = entries
            .iter()
            .filter(|entry| entry.stream == stream)
            .cloned()
            .collect();
        some
    };
    assert_eq!(texts(&of(Stream::Stdout)), "one\ntwo\n\nprompt> typed\n");
    assert_eq!(of(Stream::Stderr)[0].text, b"\xff\x00 \r");
    writer.write(Stream::Stdout, b"more");
    assert_eq!(texts(&rest(&mut reader)), "more");
}

#[test]
fn what_is_written_later_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut writer = Writer::open(files(dir.path(), 64, 9)).expect("open");
    writer.write(Stream::Stdout, b"one\ntwo\n");
    let mut now = Reader::open(&dir.path().join("log"));
    now.until_now();
    let mut follower = Reader::open(&dir.path().join("log"));
    // Into the same file, and into the next.
    writer.write(Stream::Stdout, b"three\n");
    writer.write(Stream::Stdout, b"four\n");
    assert_eq!(texts(&now.tail(1).expect("tail")), "two\n");
    assert!(rest(&mut now).is_empty());
    assert_eq!(texts(&follower.tail(1).expect("tail")), "four\n");
    writer.write(Stream::Stdout, b"five\n");
    assert_eq!(texts(&rest(&mut follower)), "five\n");
    // Whose file goes meanwhile has nothing to read.
    let mut late = Reader::open(&dir.path().join("log"));
    late.until_now();
    std::fs::remove_dir_all(dir.path().join("log")).expect("remove");
    assert!(rest(&mut late).is_empty());
}

#[test]
fn a_reader_misses_nothing_while_files_come_and_go() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut writer = Writer::open(files(dir.path(), 4096, 3)).expect("open");
    let mut reader = Reader::open(&dir.path().join("log"));
    let (mut written, mut read) = (String::new(), String::new());
    for n in 0..2000 {
        let line = format!("line {n} {}\n", "x".repeat(n % 97));
        writer.write(Stream::Stdout, line.as_bytes());
        written.push_str(&line);
        // Never more than two files behind.
        if n % 40 == 0 {
            read.push_str(&texts(&rest(&mut reader)));
        }
    }
    read.push_str(&texts(&rest(&mut reader)));
    assert_eq!(read, written);
    let sizes: Vec<u64> = std::fs::read_dir(dir.path().join("log"))
        .expect("folder")
        .map(|entry| entry.expect("entry").metadata().expect("stat").len())
        .collect();
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 4096 + 200), "{sizes:?}");
}

#[test]
fn the_tail_counts_lines_and_not_their_pieces() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut writer = Writer::open(files(dir.path(), 4096, 100)).expect("open");
    for n in 0..500 {
        writer.write(Stream::Stdout, format!("a{n} ").as_bytes());
        writer.write(Stream::Stdout, format!("b{n}\n").as_bytes());
    }
    let tail = |count| {
        let mut reader = Reader::open(&dir.path().join("log"));
        texts(&reader.tail(count).expect("tail"))
    };
    assert_eq!(tail(0), "");
    assert_eq!(tail(2), "a498 b498\na499 b499\n");
    assert_eq!(tail(10_000).lines().count(), 500);
    writer.write(Stream::Stdout, b"open");
    assert_eq!(tail(1), "open");
    assert_eq!(tail(2), "a499 b499\nopen");
    let mut none = Reader::open(&dir.path().join("none"));
    assert_eq!(none.tail(5), Ok(Vec::new()));
}

#[test]
fn a_torn_line_costs_itself_only() {
    let dir = tempfile::tempdir().expect("tempdir");
    let files = files(dir.path(), 1 << 20, 2);
    let mut writer = Writer::open(files.clone()).expect("open");
    writer.write(Stream::Stdout, b"one\n");
    drop(writer);
    let path = path_of(&files.folder, 1);
    let mut data = std::fs::read(&path).expect("read");
    data.extend_from_slice(b"2016-10-06T00:17:09.6697");
    std::fs::write(&path, data).expect("write");
    let mut writer = Writer::open(files.clone()).expect("open again");
    writer.write(Stream::Stdout, b"two\n");
    assert_eq!(texts(&rest(&mut Reader::open(&files.folder))), "one\ntwo\n");
}

#[test]
fn damaged_lines_are_none() {
    for bad in [
        "",
        "x",
        "2016-10-06T00:17:09.669794202Z stdout F",
        "2016-10-06T00:17:09.669794202Z stdin F x",
        "2016-10-06T00:17:09.669794202Z stdout X x",
        "yesterday stdout F x",
    ] {
        assert_eq!(Entry::parse(bad.as_bytes()), None, "{bad:?}");
    }
    let tagged = Entry::parse(b"2016-10-06T00:17:09.669794202Z stderr P:tag a b");
    let tagged = tagged.expect("more tags are allowed");
    assert_eq!((tagged.text.as_slice(), tagged.whole), (&b"a b"[..], false));
}
