//! "Did you mean".

use containerkit::quote;

/// The nearest of `known`, when it is near enough to be meant.
pub(crate) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > 64 {
        return None;
    }
    let limit = |name: &str| text.len().max(name.len()) / 3;
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(text, name), name))
        .filter(|(distance, name)| *distance <= limit(name))
        .min()
        .map(|(_, name)| name)
}

/// `; did you mean "runtime"?`, or what there is to choose from.
pub(crate) fn ending<'a>(text: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(name) = nearest(text, known.clone()) {
        return format!("; did you mean {}?", quote(name));
    }
    let mut list: Vec<&str> = known.into_iter().collect();
    let more = list.len() > 20;
    list.truncate(20);
    match list.as_slice() {
        [] => "; there is none".into(),
        list => format!(
            "; known: {}{}",
            list.join(", "),
            if more { ", …" } else { "" }
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_meant_and_far_is_not() {
        let known = ["runtime", "root", "state"];
        assert_eq!(nearest("runtme", known), Some("runtime"));
        assert_eq!(nearest("rutnime", known), Some("runtime"));
        assert_eq!(nearest("stat", known), Some("state"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), known), None);
        assert_eq!(ending("banana", known), "; known: runtime, root, state");
        assert_eq!(ending("x", []), "; there is none");
    }
}
