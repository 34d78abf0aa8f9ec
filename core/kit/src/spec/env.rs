//! The environment and the words of the process.

use oci_spec::image::Config as ImageConfig;

use super::SpecRequest;
use crate::error::{Error, Result, quote};

/// Where programs are looked for when neither image nor user says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Key and value, in the order in which the keys first came.
#[derive(Default)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    /// Of entries `K=V`; others are dropped.
    pub(super) fn of(entries: &[String]) -> Environment {
        let mut environment = Environment::default();
        for entry in entries {
            if let Some((key, value)) = entry.split_once('=').filter(|(key, _)| !key.is_empty()) {
                environment.set(key, value);
            }
        }
        environment
    }

    pub(super) fn set(&mut self, key: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.0.push((key.to_owned(), value.to_owned())),
        }
    }

    pub(super) fn set_default(&mut self, key: &str, value: &str) {
        if !self.0.iter().any(|(known, _)| known == key) {
            self.set(key, value);
        }
    }

    /// Applies what a user says: `K=V`, or `K` for the caller's value.
    pub(super) fn apply(
        &mut self,
        entries: &[String],
        caller: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<()> {
        for entry in entries {
            super::parse::parse_env(entry)?;
            match entry.split_once('=') {
                Some((key, value)) => self.set(key, value),
                None => match caller(entry) {
                    None => self.0.retain(|(key, _)| key != entry),
                    Some(value) => {
                        let value = value.into_string().map_err(|_| {
                            Error::invalid(format!(
                                "environment {}: its value here is not UTF-8",
                                quote(entry)
                            ))
                        })?;
                        self.set(entry, &value);
                    }
                },
            }
        }
        Ok(())
    }

    pub(super) fn into_entries(self) -> Result<Vec<String>> {
        for (key, value) in &self.0 {
            if key.contains('\0') || value.contains('\0') {
                return Err(Error::invalid(format!(
                    "environment {}: it holds a NUL",
                    quote(key)
                )));
            }
        }
        Ok(self
            .0
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect())
    }
}

/// The environment of the container's process.
pub(super) fn environment(
    request: &SpecRequest,
    image: &ImageConfig,
    home: &str,
    hostname: &str,
    caller: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<Vec<String>> {
    let mut environment = Environment::of(&[]);
    environment.set("PATH", PATH);
    environment.set("HOSTNAME", hostname);
    if request.terminal {
        environment.set("TERM", "xterm");
    }
    for (key, value) in Environment::of(image.env().as_deref().unwrap_or_default()).0 {
        environment.set(&key, &value);
    }
    environment.apply(&request.env, caller)?;
    environment.set_default("HOME", home);
    environment.into_entries()
}

/// Entrypoint and command, as image and user say together.
pub(super) fn arguments(request: &SpecRequest, image: &ImageConfig) -> Result<Vec<String>> {
    let mut args: Vec<String> = match &request.entrypoint {
        // One empty word is how a shell writes an empty entrypoint.
        Some(entrypoint) if entrypoint.iter().all(String::is_empty) => Vec::new(),
        Some(entrypoint) => entrypoint.clone(),
        None => image.entrypoint().clone().unwrap_or_default(),
    };
    if !request.command.is_empty() {
        args.extend(request.command.iter().cloned());
    } else if request.entrypoint.is_none() {
        args.extend(image.cmd().clone().unwrap_or_default());
    }
    match args.first() {
        None => Err(
            Error::invalid("no command: the image names none and none was given")
                .with_hint("write the command after IMAGE, like `containerkit run IMAGE /bin/sh`"),
        ),
        Some(first) if first.is_empty() => Err(Error::invalid("the command's name is empty")),
        Some(_) => match args.iter().find(|arg| arg.contains('\0')) {
            Some(arg) => Err(Error::invalid(format!(
                "argument {}: it holds a NUL",
                quote(arg)
            ))),
            None => Ok(args),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image(entrypoint: &[&str], cmd: &[&str], env: &[&str]) -> ImageConfig {
        let mut image = ImageConfig::default();
        image
            .set_entrypoint((!entrypoint.is_empty()).then(|| words(entrypoint)))
            .set_cmd((!cmd.is_empty()).then(|| words(cmd)))
            .set_env(Some(words(env)));
        image
    }

    #[test]
    fn entrypoint_and_command_join() {
        type Words = &'static [&'static str];
        let cases: [(Words, Words, Option<Words>, Words, Words); 8] = [
            (&["/e"], &["c"], None, &[], &["/e", "c"]),
            (&["/e"], &["c"], None, &["x", "y"], &["/e", "x", "y"]),
            (&[], &["c"], None, &[], &["c"]),
            (&[], &["c"], None, &["x"], &["x"]),
            (&["/e"], &["c"], Some(&["/n"]), &[], &["/n"]),
            (&["/e"], &["c"], Some(&["/n"]), &["x"], &["/n", "x"]),
            (&["/e"], &["c"], Some(&[""]), &["x"], &["x"]),
            (&["/e"], &["c"], Some(&[]), &["x"], &["x"]),
        ];
        for (entrypoint, cmd, override_, command, want) in cases {
            let request = SpecRequest {
                entrypoint: override_.map(words),
                command: words(command),
                ..SpecRequest::default()
            };
            let args = arguments(&request, &image(entrypoint, cmd, &[])).expect("args");
            assert_eq!(args, want);
        }
        let mut request = SpecRequest::default();
        let error = arguments(&request, &image(&[], &[], &[])).expect_err("nothing to run");
        assert!(error.to_string().contains("no command"), "{error}");
        request.entrypoint = Some(vec![String::new()]);
        assert!(arguments(&request, &image(&["/e"], &["c"], &[])).is_err());
        request.command = words(&[""]);
        assert!(arguments(&request, &image(&[], &[], &[])).is_err());
        request.command = words(&["a", "b\0c"]);
        assert!(arguments(&request, &image(&[], &[], &[])).is_err());
    }

    #[test]
    fn the_last_one_to_speak_wins() {
        let mut request = SpecRequest {
            env: words(&["A=user", "B", "GONE", "A=last", "E="]),
            terminal: true,
            ..SpecRequest::default()
        };
        let config = image(
            &[],
            &[],
            &["A=image", "GONE=x", "PATH=/bin", "bad", "=bad", "A=image2"],
        );
        let caller = |key: &str| (key == "B").then(|| "caller".into());
        let env = environment(&request, &config, "/home", "host", caller).expect("env");
        assert_eq!(
            env,
            [
                "PATH=/bin",
                "HOSTNAME=host",
                "TERM=xterm",
                "A=last",
                "B=caller",
                "E=",
                "HOME=/home"
            ]
        );
        request.env = words(&["HOME=/mine", "=x"]);
        assert!(environment(&request, &config, "/", "h", caller).is_err());
        request.env.pop();
        let env = environment(&request, &config, "/", "h", caller).expect("env");
        assert!(env.contains(&"HOME=/mine".to_owned()), "{env:?}");
        let nul = image(&[], &[], &["A=\0"]);
        assert!(environment(&request, &nul, "/", "h", caller).is_err());
    }
}
