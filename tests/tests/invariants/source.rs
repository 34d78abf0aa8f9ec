//! The workspace's files, and Rust source without comments and text.

use std::path::Path;
use std::sync::OnceLock;

/// A Rust file.
pub(crate) struct Source {
    /// Relative to the workspace.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// Comments and the insides of strings blanked, lines kept.
    pub(crate) code: String,
}

impl Source {
    /// The names of its tests.
    pub(crate) fn tests(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut expected = false;
        for line in self.code.lines().map(str::trim) {
            if line.starts_with("#[test]") {
                expected = true;
            } else if let (true, Some(rest)) = (expected, line.strip_prefix("fn ")) {
                names.push(rest.split('(').next().unwrap_or_default().to_owned());
                expected = false;
            }
        }
        names
    }
}

/// Every Rust file below the workspace, build products left out; read once.
pub(crate) fn sources(root: &Path) -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| read_sources(root))
}

fn read_sources(root: &Path) -> Vec<Source> {
    let found: Vec<Source> = texts(root)
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| Source {
            path,
            code: code(&text),
            text,
        })
        .collect();
    assert!(found.len() > 40, "the scan saw {} files only", found.len());
    found
}

/// Every text file below the workspace: path and content, in path order.
pub(crate) fn texts(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().unwrap();
            // In a second worktree `.git` is a file.
            if name == "target" || name == ".git" {
                continue;
            }
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file()
                && let Ok(text) = std::fs::read_to_string(entry.path())
            {
                let path = entry.path().strip_prefix(root).unwrap().to_owned();
                found.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Whether `word` stands in `code` as a whole identifier.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(is_part)
            && !code[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

/// Blanks comments and the insides of strings and characters.
pub(crate) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let skip_to = |out: &mut String, from: usize, to: usize| {
        for c in &chars[from..to.min(chars.len())] {
            out.push(if *c == '\n' { '\n' } else { ' ' });
        }
    };
    while i < chars.len() {
        let previous_is_word = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        match at(i) {
            '/' if at(i + 1) == '/' => {
                let mut end = i;
                while end < chars.len() && at(end) != '\n' {
                    end += 1;
                }
                skip_to(&mut out, i, end);
                i = end;
            }
            '/' if at(i + 1) == '*' => {
                let (mut end, mut depth) = (i + 2, 1);
                while end < chars.len() && depth > 0 {
                    match (at(end), at(end + 1)) {
                        ('/', '*') => (depth, end) = (depth + 1, end + 2),
                        ('*', '/') => (depth, end) = (depth - 1, end + 2),
                        _ => end += 1,
                    }
                }
                skip_to(&mut out, i, end);
                i = end;
            }
            'r' if !(previous_is_word && at(i - 1) != 'b' && at(i - 1) != 'c')
                && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '#' | '"'))) =>
            {
                let mut hashes = 0;
                while at(i + 1 + hashes) == '#' {
                    hashes += 1;
                }
                let mut end = i + 2 + hashes;
                while end < chars.len()
                    && !(at(end) == '"' && (1..=hashes).all(|n| at(end + n) == '#'))
                {
                    end += 1;
                }
                out.push('"');
                skip_to(&mut out, i, end + hashes);
                out.push('"');
                i = end + 1 + hashes;
            }
            '"' => {
                let mut end = i + 1;
                while end < chars.len() && at(end) != '"' {
                    end += if at(end) == '\\' { 2 } else { 1 };
                }
                out.push('"');
                skip_to(&mut out, i + 1, end);
                out.push('"');
                i = end + 1;
            }
            // A character; else it is a lifetime.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                let mut end = i + if at(i + 1) == '\\' { 3 } else { 2 };
                while end < chars.len() && at(end) != '\'' {
                    end += 1;
                }
                skip_to(&mut out, i, end + 1);
                i = end + 1;
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

#[test]
fn the_scan_tells_code_from_text() {
    let text = r####"
        // word_a
        let x = "word_b \" word_b"; /* word_c /* word_c */ word_c */ word_d();
        let y = r#"word_e " word_e"#; let z = '"'; word_f(); let q = '\''; word_g();
        fn f<'a>(x: &'a str) -> &'a str { word_h } // word_a
    "####;
    let code = code(text);
    for hidden in ["word_a", "word_b", "word_c", "word_e"] {
        assert!(!code.contains(hidden), "{hidden} in {code}");
    }
    for shown in ["word_d", "word_f", "word_g", "word_h"] {
        assert!(has_word(&code, shown), "{shown} not in {code}");
    }
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(!has_word("unsafe_code", "unsafe") && has_word("(unsafe {", "unsafe"));
}
