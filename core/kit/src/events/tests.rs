use std::io::Write;

use super::*;
use crate::error::ErrorKind;

fn kinds(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.kind.clone()).collect()
}

#[test]
fn number_time_and_place_agree_whoever_writes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = EventLog::new(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..12 {
                    log.append(Event::new("start").with("k", "v"))
                        .expect("append");
                }
            });
        }
    });
    let events = log.read().expect("open").next_events().expect("read");
    assert_eq!(events.len(), 96);
    for (index, pair) in events.windows(2).enumerate() {
        assert_eq!(pair[0].seq, index as u64 + 1);
        assert!(pair[0].time <= pair[1].time);
    }
}

#[test]
fn a_reader_follows_over_rotations() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = EventLog::new(dir.path());
    let mut reader = log.read().expect("open");
    assert!(reader.next_events().expect("read").is_empty());
    log.append(Event::new("create")).expect("append");
    assert_eq!(kinds(&reader.next_events().expect("read")), ["create"]);
    let mut last = 1;
    for round in 0..6 {
        for _ in 0..100 {
            log.append(Event::new("start").with("k", "v".repeat(80)))
                .expect("append");
        }
        let events = reader.next_events().expect("read");
        let seqs: Vec<u64> = events.iter().map(|event| event.seq).collect();
        let expected: Vec<u64> = (last + 1..=last + 100).collect();
        assert_eq!(seqs, expected, "round {round}");
        last += 100;
    }
    assert!(file(&log.dir, 3).exists() && !file(&log.dir, 4).exists());
    // One who comes now sees what is kept, without a hole.
    let kept = log.read().expect("open").next_events().expect("read");
    assert!(kept.len() < 601 && kept.len() > 60, "{}", kept.len());
    assert!(kept.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
    assert_eq!(kept.last().map(|event| event.seq), Some(last));
}

#[test]
fn what_a_killed_writer_left_is_cut_off() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = EventLog::new(dir.path());
    log.append(Event::new("create")).expect("append");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(log.current())
        .expect("open");
    file.write_all(b"{\"seq\":2,\"ti").expect("write");
    assert_eq!(log.append(Event::new("start")).expect("append"), 2);
    let events = log.read().expect("open").next_events().expect("read");
    assert_eq!(kinds(&events), ["create", "start"]);
    // A head that was not finished.
    std::fs::write(log.current(), "{\"vers").expect("write");
    log.append(Event::new("exit")).expect("append");
    let events = log.read().expect("open").next_events().expect("read");
    assert_eq!(kinds(&events), ["exit"]);
}

#[test]
fn another_boots_events_end_and_a_newer_log_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = EventLog::new(dir.path());
    log.append(Event::new("create")).expect("append");
    std::fs::write(log.current(), "{\"version\":1,\"boot_id\":\"other\"}\n").expect("write");
    log.append(Event::new("start")).expect("append");
    let events = log.read().expect("open").next_events().expect("read");
    assert_eq!(kinds(&events), ["start"]);

    std::fs::write(log.current(), "{\"version\":9,\"boot_id\":\"x\"}\n").expect("write");
    let error = log.append(Event::new("start")).expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    let error = log.read().expect("open").next_events().expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
}
