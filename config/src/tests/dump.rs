//! The configuration written out again.

use super::*;

pub(super) const RICH: &str = r#"
version = 1
root = "/srv/a, b: \"c\" \\ d é #x"
state = "/run/x"
log_level = "trace"
driver_path = []
[default]
runtime = "a.b"
[runtime."a.b"]
driver = "/opt/x y.so"
sha256 = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
[runtime."a.b".options]
"odd key" = "tab\there\u007f"
n = 0x1F
f = 1.5
yes = true
list = ["a", "b"]
table = { "x.y" = "1", z = { w = [1, 2] } }
[registry."r.example:5000"]
mirrors = ["https://m.example/hub", "m2.example:81"]
plain_http = false
ca = "/etc/ca.pem"
helper = "pass"
token_realms = ["https://auth.example"]
idle_timeout = 5
timeout = 0
[policy]
"*" = "reject"
"example.com/a:v1" = { any = ["/k/a \"b\".pub", "rel/c.pub"] }
"*.example.com" = { all = ["../d.pub"] }
"#;

#[test]
fn a_dump_reads_back_as_the_same_configuration() {
    for text in ["", RICH, "[runtime.crun]\noptions.root = \"/r\"\n"] {
        let config = from(text).expect("load");
        let again = from(&config.dump()).expect("dump reads back");
        assert_eq!(plain(&again), plain(&config));
        assert_eq!(again.root, config.root);
        assert_eq!(again.driver_path, config.driver_path);
        assert_eq!(again.default, config.default);
        for (pattern, policy) in &config.policies {
            let paths = |policy: &crate::Policy| {
                let keys = policy.rule.keys().iter();
                keys.map(|key| key.path.clone()).collect::<Vec<_>>()
            };
            let other = &again.policies[pattern];
            assert_eq!(other.rule.name(), policy.rule.name());
            assert_eq!(paths(other), paths(policy));
        }
        assert_eq!(again.policies.len(), config.policies.len());
        assert_eq!(again.instances.len(), config.instances.len());
        assert_eq!(again.to_json()["registry"], config.to_json()["registry"]);
        for (key, instance) in &config.instances {
            let other = &again.instances[key];
            assert_eq!(other.driver, instance.driver);
            assert_eq!(other.sha256, instance.sha256);
            assert_eq!(other.options, instance.options);
        }
    }
}

#[test]
fn a_dump_looks_like_this() {
    let config = from("root = \"/r\"\n[runtime.crun]\noptions.root = \"/x\"\n").expect("load");
    let dump = config.dump();
    let head: Vec<&str> = dump.lines().take(3).collect();
    assert_eq!(head[0], "version = 1");
    assert_eq!(head[1], "root = \"/r\"  # /c.toml:1:8");
    assert!(head[2].starts_with("state = \"/run/containerkit\"  # the built-in default, line "));
    assert!(
        dump.contains("\n[runtime.crun]\ndriver = \"libcontainerkit_runc.so\"  # the built-in")
    );
    assert!(
        dump.contains("\noptions.root = \"/x\"  # /c.toml:3:9\n"),
        "{dump}"
    );
}

#[test]
fn a_dump_in_json_has_the_keys_of_toml() {
    let config = from(RICH).expect("load");
    let value = config.to_json();
    assert_eq!(value["default"]["runtime"], "a.b");
    assert_eq!(value["runtime"]["a.b"]["options"]["n"], 31);
    assert_eq!(value["runtime"]["crun"]["options"]["binary"], "crun");
    assert_eq!(value["files"], json!(["/c.toml"]));
    // But for `files` it is what the TOML says.
    let toml: toml::Table = config.dump().parse().expect("dump");
    let mut toml = serde_json::to_value(toml).expect("json");
    for kind in ["runtime", "snapshotter", "content"] {
        for (name, instance) in toml[kind].as_object_mut().expect("table") {
            let options = instance.get("options").cloned().unwrap_or(json!({}));
            instance["options"] = options;
            assert_eq!(*instance, value[kind][name], "{kind}.{name}");
        }
    }
    for key in [
        "version",
        "root",
        "state",
        "log_level",
        "driver_path",
        "default",
    ] {
        assert_eq!(toml[key], value[key]);
    }
}

#[test]
fn the_schema_knows_every_key() {
    let schema = Config::schema();
    let text = Config::default_toml();
    let table: toml::Table = text.parse().expect("default");
    for key in table.keys() {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
    for key in ["driver", "sha256", "options"] {
        assert!(schema["$defs"]["instance"]["properties"].get(key).is_some());
    }
    assert_eq!(schema["additionalProperties"], false);
}
