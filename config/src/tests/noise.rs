//! Files that nobody meant.

use super::dump::RICH;
use super::*;

#[test]
fn noise_never_panics() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    let place = Place::new(None, &[]);
    let path = place.dir.path().join("noise.toml");
    let flags = Flags {
        config: Some(path.clone()),
        ..Flags::default()
    };
    let words = [
        "[",
        "]",
        "=",
        "\"",
        "'",
        ".",
        "runtime",
        "default",
        "{",
        "}",
        "\n",
        ",",
        "1",
        "é",
        "\0",
        "options",
        "driver",
        "version",
        "#",
        "\\u",
        "inf",
        "1979-05-27",
    ];
    for round in 0..1500 {
        let mut bytes: Vec<u8> = match round % 3 {
            0 => (0..random() % 300).map(|_| random() as u8).collect(),
            1 => (0..random() % 60)
                .flat_map(|_| words[random() % words.len()].bytes())
                .collect(),
            _ => [Config::default_toml(), RICH].concat().into_bytes(),
        };
        if round % 3 == 2 {
            for _ in 0..1 + random() % 8 {
                if bytes.is_empty() {
                    break;
                }
                let at = random() % bytes.len();
                match random() % 3 {
                    0 => bytes[at] = random() as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
        }
        let result = match String::from_utf8(bytes) {
            Ok(text) => from(&text),
            Err(error) => {
                std::fs::write(&path, error.as_bytes()).expect("write");
                place.load(&flags)
            }
        };
        if let Err(error) = result {
            let line = error.to_string();
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(line.len() < 2000, "{line}");
        }
    }
    // Deep nesting ends at a limit and not at the end of the stack.
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
    ] {
        std::fs::write(&path, text).expect("write");
        let error = place.load(&flags).expect_err("deep").to_string();
        assert!(error.len() < 2000, "{error}");
    }
}

#[test]
fn a_large_file_of_anything_takes_time_in_proportion() {
    let many = |part: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for n in 0.. {
            let next = part(n);
            if text.len() + next.len() > 1 << 18 {
                return text;
            }
            text.push_str(&next);
        }
        text
    };
    let started = std::time::Instant::now();
    let lines = many(&|n| format!("[runtime.r{n}]\ndriver='x'\n"));
    assert!(from(&lines).expect("instances").instances.len() > 8_000);
    let row = many(&|n| format!("o{n}=1,"));
    from(&format!("runtime.runc.options={{{row}o=1}}")).expect("one line");
    let options = many(&|n| format!("options.k{n} = [1]\n"));
    from(&format!("[runtime.runc]\n{options}")).expect("options");
    for bad in [
        many(&|n| format!("k{n} = 1\n")),
        many(&|n| format!("[runtime.r{n}]\n")),
        many(&|_| "[[runtime]]\n".into()),
        many(&|_| "a.".into()),
        many(&|_| "[a]\n".into()),
        many(&|_| "\"".into()),
        format!("root = \"{}\"", many(&|_| "é".into())),
    ] {
        let error = from(&bad).expect_err("bad").to_string();
        assert!(error.len() < 2000, "{}", error.len());
    }
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(15), "{took:?}");
}
