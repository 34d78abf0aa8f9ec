//! Security options as text.

use super::absolute;
use crate::error::{Error, Result, quote};
use crate::spec::SecurityOption;

/// A `--security-opt`: `seccomp=unconfined|builtin|FILE`,
/// `no-new-privileges[=true|false]`, `apparmor=unconfined|PROFILE`,
/// `systempaths=unconfined`, `label=disable`; `:` may stand for `=`. `None`:
/// it changes nothing here.
pub fn parse_security(text: &str) -> Result<Option<SecurityOption>> {
    let (key, value) = match text.split_once(['=', ':']) {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    let option = match (key, value) {
        ("seccomp", Some("unconfined")) => SecurityOption::SeccompUnconfined,
        ("seccomp", Some("builtin" | "default")) => SecurityOption::SeccompDefault,
        ("seccomp", Some(path)) if !path.is_empty() => SecurityOption::SeccompFile(absolute(path)?),
        ("no-new-privileges", None | Some("true" | "1")) => SecurityOption::NoNewPrivileges(true),
        ("no-new-privileges", Some("false" | "0")) => SecurityOption::NoNewPrivileges(false),
        ("apparmor", Some(name)) if is_profile(name) => SecurityOption::AppArmor(name.to_owned()),
        ("systempaths", Some("unconfined")) => SecurityOption::SystemPathsUnconfined,
        // Nothing is labelled, so that there is nothing to switch off.
        ("label", Some("disable")) => return Ok(None),
        ("label", Some(_)) => {
            return Err(Error::invalid(format!(
                "security option {}: SELinux labels are not set here",
                quote(text)
            ))
            .with_hint("leave it out; label=disable is accepted"));
        }
        _ => {
            return Err(Error::invalid(format!(
                "security option {}: it is unknown, or its value is",
                quote(text)
            ))
            .with_hint("want seccomp=FILE|unconfined, no-new-privileges, apparmor=PROFILE|unconfined or systempaths=unconfined"));
        }
    };
    Ok(Some(option))
}

fn is_profile(name: &str) -> bool {
    (1..=256).contains(&name.len()) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::super::refused;
    use super::*;

    #[test]
    fn security_options() {
        for (text, want) in [
            ("seccomp=unconfined", SecurityOption::SeccompUnconfined),
            ("seccomp:unconfined", SecurityOption::SeccompUnconfined),
            ("seccomp=builtin", SecurityOption::SeccompDefault),
            (
                "seccomp=/x.json",
                SecurityOption::SeccompFile("/x.json".into()),
            ),
            ("no-new-privileges", SecurityOption::NoNewPrivileges(true)),
            (
                "no-new-privileges:false",
                SecurityOption::NoNewPrivileges(false),
            ),
            ("apparmor=web", SecurityOption::AppArmor("web".into())),
            (
                "systempaths=unconfined",
                SecurityOption::SystemPathsUnconfined,
            ),
        ] {
            assert_eq!(parse_security(text), Ok(Some(want)), "{text}");
        }
        assert_eq!(parse_security("label=disable"), Ok(None));
        for bad in [
            "",
            "seccomp",
            "seccomp=",
            "seccomp=a\0b",
            "apparmor",
            "apparmor=",
            "apparmor=a\nb",
            "label=type:x",
            "no-new-privileges=maybe",
            "systempaths=open",
            "x=y",
        ] {
            refused(parse_security(bad), bad);
        }
    }
}
