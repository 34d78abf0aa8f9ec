//! A driver's options against its schema.

use std::path::Path;

use containerkit::{DriverInfo, DriverKind, Error, InstanceName, Result, quote};

use serde_json::{Map, Value};

use crate::config::Instance;
use crate::layer::parse_options;
use crate::source::Source;
use crate::suggest;

/// The options of a driver in a TOML file of their own.
pub fn read_options(path: &Path) -> Result<Map<String, Value>> {
    let path = std::path::absolute(path).map_err(|e| Error::io("find the current folder", e))?;
    parse_options(&Source::read(&path)?)
}

/// Refuses options that the driver does not have or whose type is wrong, with
/// the place of the first one in its file.
pub fn check_options(
    kind: DriverKind,
    name: &InstanceName,
    instance: &Instance,
    info: &DriverInfo,
) -> Result<()> {
    let mut mistakes = Vec::new();
    for (option, value) in &instance.options {
        let origin = instance.option_origin(option);
        let why = match info.options.iter().find(|spec| spec.name == *option) {
            Some(spec) if spec.kind.accepts(value) => continue,
            Some(spec) => format!("want {}", spec.kind.name()),
            None => format!(
                "driver {} has no such option{}",
                info.name,
                suggest::ending(option, info.options.iter().map(|spec| spec.name.as_str()))
            ),
        };
        mistakes.push((
            place(origin),
            format!("{origin}: {kind}.{name}.options: {}: {why}", quote(option)),
        ));
    }
    match mistakes.into_iter().min() {
        None => Ok(()),
        Some((_, why)) => Err(Error::invalid(why).with_hint(format!(
            "list them with `containerkit driver inspect {name}`"
        ))),
    }
}

fn place(origin: &crate::Origin) -> (usize, usize) {
    match origin {
        crate::Origin::File { line, column, .. } => (*line, *column),
        crate::Origin::BuiltIn { line } => (*line, 0),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use containerkit::{OptionKind, OptionSpec};
    use std::path::Path;

    fn check(options: &str) -> Result<()> {
        let text = format!("[runtime.runc]\noptions = {{ {options} }}\n");
        let config = Config::from_toml(&text, Path::new("/c.toml")).expect("config");
        let name: InstanceName = "runc".parse().expect("name");
        let info = DriverInfo {
            name: "runc".into(),
            version: "1".into(),
            kind: DriverKind::Runtime,
            options: vec![
                OptionSpec::new("binary", OptionKind::Path, "", ""),
                OptionSpec::new("deadline", OptionKind::Integer, "", ""),
                OptionSpec::new("args", OptionKind::StringList, "", ""),
                OptionSpec::new("debug", OptionKind::Boolean, "", ""),
                OptionSpec::new("env", OptionKind::StringMap, "", ""),
            ],
        };
        let instance = config
            .instance(DriverKind::Runtime, &name)
            .expect("instance");
        check_options(DriverKind::Runtime, &name, instance, &info)
    }

    #[test]
    fn options_are_checked_with_their_place() {
        check("").expect("none");
        check(r#"binary = "crun", deadline = 3, args = ["a"], debug = true, env = { A = "b" }"#)
            .expect("all");
        for (options, want) in [
            (
                r#"binry = "crun""#,
                "/c.toml:2:13: runtime.runc.options: \"binry\": driver runc has no such option; \
                 did you mean \"binary\"?",
            ),
            (
                r#"debug = true, zzz = 1"#,
                "/c.toml:2:27: runtime.runc.options: \"zzz\": driver runc has no such option; \
                 known: binary, deadline, args, debug, env",
            ),
            (
                r#"zoo = 1, abc = 2"#,
                "/c.toml:2:13: runtime.runc.options: \"zoo\"",
            ),
            ("deadline = \"3\"", "\"deadline\": want an integer"),
            ("binary = 1", "\"binary\": want an absolute path"),
            (r#"binary = """#, "\"binary\": want an absolute path"),
            (
                r#"binary = "rel/crun""#,
                "\"binary\": want an absolute path",
            ),
            (
                r#"binary = "a\u0000b""#,
                "\"binary\": want an absolute path",
            ),
            ("args = [1]", "\"args\": want an array of strings"),
            ("debug = 0", "\"debug\": want true or false"),
            ("env = { A = 1 }", "\"env\": want a table of strings"),
        ] {
            let error = check(options).expect_err(options).to_string();
            assert!(error.contains(want), "{error}\n{want}");
        }
    }
}
