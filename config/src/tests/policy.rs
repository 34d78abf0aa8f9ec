//! Which images may be used.

use super::*;
use crate::{Policy, PolicyRule};

fn rule<'a>(config: &'a Config, image: &str) -> (String, &'a Policy) {
    let image = image.parse().expect("image");
    let (pattern, policy) = config.policy(&image).expect("policy");
    (pattern.to_string(), policy)
}

#[test]
fn everything_is_accepted_unless_told_otherwise() {
    let config = from("").expect("load");
    let (pattern, policy) = rule(&config, "busybox");
    assert_eq!((pattern.as_str(), &policy.rule), ("*", &PolicyRule::Accept));
    assert!(policy.origin.to_string().contains("built-in default"));
}

#[test]
fn the_narrowest_pattern_counts_and_keys_are_beside_the_file() {
    let config = Config::from_toml(
        r#"[policy]
"*" = "reject"
"docker.io/library" = "accept"
"example.com" = { any = ["a.pub", "/abs/b.pub"] }
[policy."example.com/team"]
all = ["keys/c.pub"]
"#,
        Path::new("/etc/kit/c.toml"),
    )
    .expect("load");
    let keys = |image: &str| -> Vec<String> {
        let (_, policy) = rule(&config, image);
        let keys = policy.rule.keys().iter();
        keys.map(|key| format!("{} {}", key.path.display(), key.origin))
            .collect()
    };
    assert_eq!(rule(&config, "quay.io/x").1.rule, PolicyRule::Reject);
    assert_eq!(rule(&config, "busybox").1.rule, PolicyRule::Accept);
    assert_eq!(rule(&config, "example.com/x").1.rule.name(), "any");
    assert_eq!(
        keys("example.com/x"),
        [
            "/etc/kit/a.pub /etc/kit/c.toml:4:26",
            "/abs/b.pub /etc/kit/c.toml:4:35"
        ]
    );
    assert_eq!(rule(&config, "example.com/team/x").1.rule.name(), "all");
    assert_eq!(
        keys("example.com/team/x"),
        ["/etc/kit/keys/c.pub /etc/kit/c.toml:6:8"]
    );
}

#[test]
fn a_later_file_overrides_pattern_by_pattern() {
    let main = "[policy]\n\"*\" = \"reject\"\n\"example.com\" = { any = [\"a.pub\"] }\n";
    let over = "[policy]\n\"EXAMPLE.com:443\" = { all = [\"b.pub\"] }\n";
    let place = Place::new(Some(main), &[("10.toml", over)]);
    let config = place.load(&Flags::default()).expect("load");
    assert_eq!(rule(&config, "busybox").1.rule, PolicyRule::Reject);
    let (pattern, policy) = rule(&config, "example.com/x");
    assert_eq!(
        (pattern.as_str(), policy.rule.name()),
        ("example.com", "all")
    );
    let beside = place.dir.path().join("conf.d/b.pub");
    assert_eq!(policy.rule.keys()[0].path, beside);
}

#[test]
fn a_wrong_policy_is_an_error_with_its_place() {
    for (text, want) in [
        (
            "policy = 1",
            "/c.toml:1:10: policy: want a table, found an integer",
        ),
        (
            "[policy]\nbusybox = \"accept\"",
            "/c.toml:2:1: policy: pattern \"busybox\": ",
        ),
        (
            "[policy]\n\"docker.io/library/*\" = \"accept\"",
            "/c.toml:2:1: policy: pattern ",
        ),
        (
            "[policy]\n\"*\" = \"acept\"",
            "/c.toml:2:7: policy.\"*\": want \"accept\"",
        ),
        (
            "[policy]\n\"*\" = true",
            "/c.toml:2:7: policy.\"*\": want \"accept\"",
        ),
        (
            "[policy]\n\"*\" = {}",
            "/c.toml:2:1: policy.\"*\": it is empty",
        ),
        (
            "[policy]\n\"*\" = { any = [] }",
            "/c.toml:2:15: policy.\"*\": want at least one key file",
        ),
        (
            "[policy]\n\"*\" = { any = \"a.pub\" }",
            "/c.toml:2:15: policy.\"*\": want an array of key files, found a string",
        ),
        (
            "[policy]\n\"*\" = { any = [1] }",
            "/c.toml:2:16: policy.\"*\": want a string",
        ),
        (
            "[policy]\n\"*\" = { any = [\"\"] }",
            "/c.toml:2:16: policy.\"*\": the name of a key file is empty",
        ),
        (
            "[policy]\n\"*\" = { any = [\"a\"], all = [\"b\"] }",
            "/c.toml:2:22: policy.\"*\": want one of `any` and `all`",
        ),
        (
            "[policy]\n\"*\" = { key = [\"a\"] }",
            "/c.toml:2:9: unknown key \"key\" in [policy.\"*\"]",
        ),
        (
            "[policy]\n\"docker.io\" = \"accept\"\n\"index.docker.io\" = \"reject\"",
            "/c.toml:3:1: policy: \"index.docker.io\" and \"docker.io\" are one pattern",
        ),
        (
            "[polcy]\n",
            "unknown key \"polcy\"; did you mean \"policy\"?",
        ),
    ] {
        let error = from(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let error = error.to_string();
        assert!(error.contains(want), "{error}\n{want}");
    }
    let many = vec!["\"k\""; 65].join(",");
    let text = format!("[policy]\n\"*\" = {{ all = [{many}] }}");
    let error = from(&text).expect_err("many").to_string();
    assert!(error.contains("65 keys"), "{error}");
}
