//! `WWW-Authenticate`: RFC 9110 §11.6.1, as registries use it.

use std::collections::BTreeMap;

/// What a registry wants to see. What a token is asked for is not taken from
/// here: it is known from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// The strongest challenge of a header that is understood.
pub(crate) fn parse(header: &str) -> Option<Challenge> {
    if header.len() > 8192 {
        return None;
    }
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest)?;
    Some(Challenge::Bearer {
        realm: parameters.remove("realm")?,
        service: parameters.remove("service"),
    })
}

/// `key="value", key=value`; `None` when it is something else.
fn parameters(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return Some(found);
        }
        let (key, rest) = text.split_once('=')?;
        let value = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                text = &rest[end..];
                rest[..end].trim().to_string()
            }
            Some(quoted) => {
                let mut value = String::new();
                let mut chars = quoted.char_indices();
                let end = loop {
                    match chars.next()? {
                        (at, '"') => break at + 1,
                        (_, '\\') => value.push(chars.next()?.1),
                        (_, c) => value.push(c),
                    }
                };
                text = &quoted[end..];
                value
            }
        };
        // Said twice is not understood.
        if found
            .insert(key.trim().to_ascii_lowercase(), value)
            .is_some()
        {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("basic"), Some(Challenge::Basic));
        let want = Challenge::Bearer {
            realm: "https://a.example/token".into(),
            service: Some("r, \"s\"".into()),
        };
        assert_eq!(
            parse(
                r#"Bearer realm="https://a.example/token",service="r, \"s\"", scope="repository:a/b:pull,push""#
            ),
            Some(want)
        );
        for bad in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer realm",
            "Bearer realm=\"x",
            "Bearer realm=\"x\",realm=\"y\"",
            "Bearer service=x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
