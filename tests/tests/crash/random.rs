//! SIGKILL at random moments, from outside.

use std::time::{Duration, Instant};

use super::*;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

/// A command of those that change the stores; its input.
fn some_command<'a>(
    dice: &mut Dice,
    layout: &'a str,
    inputs: &'a [(PathBuf, String)],
) -> (Vec<&'a str>, Option<&'a Path>) {
    const ACTIVE: [&str; 3] = ["a0", "a1", "a2"];
    const COMMITTED: [&str; 3] = ["c0", "c1", "c2"];
    const NAMES: [&str; 2] = ["one", "two"];
    let active = ACTIVE[dice.roll(3)];
    let committed = COMMITTED[dice.roll(3)];
    let name = NAMES[dice.roll(2)];
    let (input, digest) = &inputs[dice.roll(inputs.len())];
    match dice.roll(12) {
        0 | 1 => (vec!["content", "ingest", "--ref", name], Some(input)),
        2 => (
            vec!["content", "ingest", "--ref", name, "--digest", digest],
            Some(input),
        ),
        3 => (vec!["content", "delete", digest], None),
        4 | 5 => (vec!["image", "import", layout, "--name", name], None),
        6 => (vec!["image", "rm", name], None),
        7 => (vec!["snapshot", "prepare", active], None),
        8 => (vec!["snapshot", "prepare", active, committed], None),
        9 => (vec!["snapshot", "commit", committed, active], None),
        10 => (vec!["snapshot", "rm", committed], None),
        _ => (vec!["snapshot", "rm", active], None),
    }
}

#[test]
fn two_hundred_kills_at_random_moments() {
    let seed = std::env::var("CRASH_SEED").map_or_else(
        |_| containerkit::Timestamp::now().unix_nanos().unsigned_abs(),
        |seed| seed.parse().expect("CRASH_SEED is a number"),
    );
    println!("CRASH_SEED={seed} repeats the commands and the pauses");
    let mut dice = Dice(seed | 1);
    let kit = Kit::new();
    let layout = kit.path("layout");
    small_image().write_layout(&layout);
    let layout = layout.to_str().unwrap();
    let inputs: Vec<_> = [0usize, 10, 200_000, 3_000_000]
        .into_iter()
        .map(|size| write(&kit, &format!("input-{size}"), &vec![b'x'; size]))
        .collect();
    let begin = Instant::now();
    let mut hits = 0;
    // Microseconds: a machine that is faster than the kills is hit sooner.
    let mut longest = 20_000.0f64;
    for round in 0..200 {
        // Two at once, so that the living meet the killed.
        let mut children: Vec<_> = (0..2)
            .map(|_| {
                let (args, stdin) = some_command(&mut dice, layout, &inputs);
                let mut command = kit.command(&args);
                if let Some(path) = stdin {
                    command.stdin(File::open(path).unwrap());
                }
                let child = command
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                (args, child)
            })
            .collect();
        std::thread::sleep(Duration::from_micros(dice.roll(longest as usize) as u64));
        children[0].1.kill().unwrap();
        let before = hits;
        for (args, child) in children {
            let ran = Ran::new(&child.wait_with_output().unwrap());
            hits += usize::from(ran.status == 137);
            // The other, and one that was faster than its kill: a clean answer.
            match ran.status {
                0 | 137 => {}
                _ => drop(ran.refused(1, &[])),
            }
            println!("{round}: {args:?}");
        }
        let scale = if hits > before { 1.05 } else { 0.8 };
        longest = (longest * scale).clamp(1_000.0, 50_000.0);
        assert_sound(&kit);
        if round % 20 == 0 {
            settle(&kit, &inputs);
        }
    }
    settle(&kit, &inputs);
    // Everything still works.
    for folder in snapshots(&kit)
        .into_keys()
        .filter(|key| key.starts_with('a'))
    {
        remove(&kit, &folder);
    }
    kit.run(["image", "import", layout, "--name", "last"]).ok();
    for (input, digest) in &inputs {
        let mut command = kit.command(["content", "ingest", "--ref", "last"]);
        Ran::new(&command.stdin(File::open(input).unwrap()).output().unwrap()).ok();
        assert_eq!(blob(&kit, digest).unwrap(), std::fs::read(input).unwrap());
    }
    assert_accounted(&kit);
    println!("{hits} kills hit a command, {:?}", begin.elapsed());
    assert!(
        hits >= 100,
        "only {hits} of 200 kills hit a command: the pauses are too long"
    );
}

/// Ends what may be there half, by the commands that end it; then nothing is
/// left that is not told of.
fn settle(kit: &Kit, inputs: &[(PathBuf, String)]) {
    let store = stores::content(kit);
    for status in store.list_statuses().unwrap() {
        store.abort(&status.name).unwrap();
    }
    for (_, digest) in inputs {
        if let Some(data) = blob(kit, digest) {
            assert_eq!(Algorithm::Sha256.digest(&data).to_string(), *digest);
        }
    }
    assert_accounted(kit);
}
