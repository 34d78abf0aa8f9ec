//! `[registry."HOST"]`.

use super::*;

#[test]
fn registries_are_laid_key_by_key() {
    let config = from(
        "[registry.\"docker.io\"]\nmirrors = [\"http://127.0.0.1:5000\", \"m.example/hub\"]\n\
         [registry.\"r.example:5000\"]\nplain_http = true\nca = \"/ca.pem\"\ntimeout = 9\n",
    )
    .expect("load");
    let hub = &config.registries["docker.io"];
    assert_eq!(hub.mirrors.as_ref().map(Vec::len), Some(2));
    assert_eq!(hub.plain_http, None);
    assert_eq!(
        hub.origin("mirrors").expect("origin").to_string(),
        "/c.toml:2:11"
    );
    let other = &config.registries["r.example:5000"];
    assert_eq!(other.plain_http, Some(true));
    assert_eq!(other.timeout, Some(std::time::Duration::from_secs(9)));
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, want) in [
        (
            "[registry.\"r.example\"]\nmirors = []",
            "/c.toml:2:1: unknown key \"mirors\" in [registry.\"r.example\"]; did you mean \"mirrors\"?",
        ),
        (
            "[registry]\nca = \"/x\"",
            "/c.toml:2:1: registry: ca stands without a registry; write [registry.\"HOST\"]",
        ),
        (
            "[registry.\"https://r.example\"]\n",
            "is no registry as image names begin with it",
        ),
        (
            "[registry.\"r\"]\n",
            "is no registry as image names begin with it",
        ),
        (
            "[registry.\"r.example\"]\nmirrors = [\"https://u@m.example\"]",
            "/c.toml:2:12: registry.\"r.example\".mirrors: \"https://u@m.example\": want HOST[:PORT]",
        ),
        (
            "[registry.\"r.example\"]\nmirrors = [\"m.example/../x\"]",
            "its path is no prefix of a repository",
        ),
        (
            "[registry.\"r.example\"]\ntoken_realms = [\"auth.example\"]",
            "want https:// or http:// before the host",
        ),
        (
            "[registry.\"r.example\"]\ntoken_realms = [\"https://auth.example/token\"]",
            "want no path behind the host",
        ),
        (
            "[registry.\"r.example\"]\nplain_http = \"yes\"",
            "want a boolean, found a string",
        ),
        (
            "[registry.\"r.example\"]\nca = \"ca.pem\"",
            "is relative; want an absolute path",
        ),
        (
            "[registry.\"r.example\"]\nhelper = \"../x\"",
            "is no name of a helper",
        ),
        (
            "[registry.\"r.example\"]\nidle_timeout = 0",
            "want at least a second",
        ),
    ] {
        let error = from(text).expect_err(text).to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
}
