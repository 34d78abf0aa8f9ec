//! The JSON schema of the file, for editors.

use serde_json::{Value, json};

use crate::config::Config;
use crate::registry::Registry;

impl Config {
    /// The JSON schema (2020-12) of a configuration file.
    pub fn schema() -> Value {
        let absolute = json!({ "type": "string", "pattern": "^/" });
        let name = json!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9_.-]{0,63}$" });
        let seconds = json!({
            "description": "Seconds that one call into a driver may take before the command ends; 0 is for ever.",
            "type": "integer",
            "minimum": 0,
            "maximum": 604_800,
        });
        let instances = |what: &str| {
            json!({
                "description": format!("The {what} instances, by name."),
                "type": "object",
                "propertyNames": name,
                "additionalProperties": { "$ref": "#/$defs/instance" },
            })
        };
        let keys = |name: &str, description: &str| {
            json!({
                "type": "object",
                "additionalProperties": false,
                "required": [name],
                "properties": {
                    name: {
                        "description": description,
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 64,
                        "items": {
                            "description": "A public key in PEM; a relative path is beside this file.",
                            "type": "string",
                            "minLength": 1,
                        },
                    },
                },
            })
        };
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "containerkit configuration",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "version": { "description": "The format of this file.", "const": 1 },
                "root": with(&absolute, "What lasts: blobs, snapshots, records."),
                "state": with(&absolute, "What a reboot ends: bundles, sockets, locks."),
                "log_level": {
                    "description": "What is logged.",
                    "enum": ["off", "error", "warn", "info", "debug", "trace"],
                },
                "driver_path": {
                    "description": "Where a driver's bare file name is looked for.",
                    "type": "array",
                    "items": absolute,
                },
                "call_timeout": seconds,
                "default": {
                    "description": "The instances that serve when a command names no other.",
                    "type": "object",
                    "additionalProperties": false,
                    "properties": { "runtime": name, "snapshotter": name, "content": name },
                },
                "runtime": instances("runtime"),
                "snapshotter": instances("snapshotter"),
                "content": instances("content"),
                "registry": {
                    "description": "How registries are reached, by HOST[:PORT] as image names begin with it.",
                    "type": "object",
                    "additionalProperties": { "$ref": "#/$defs/registry" },
                },
                "policy": {
                    "description": "What is asked of images before they are used, by pattern.",
                    "type": "object",
                    "additionalProperties": { "$ref": "#/$defs/policy" },
                },
            },
            "$defs": {
                "registry": Registry::schema(),
                "policy": {
                    "oneOf": [
                        { "enum": ["accept", "reject"] },
                        keys("any", "A signature by one of these keys."),
                        keys("all", "A signature by each of these keys."),
                    ],
                },
                "instance": {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "driver": {
                            "description": "The shared object: a bare file name or an absolute path.",
                            "type": "string",
                            "pattern": "^(/.*|[^/]+)$",
                        },
                        "sha256": {
                            "description": "Its hash; another file is refused.",
                            "type": "string",
                            "pattern": "^(sha256:)?[0-9a-f]{64}$",
                        },
                        "call_timeout": seconds,
                        "options": {
                            "description": "What the driver takes; see `containerkit driver inspect`.",
                            "type": "object",
                        },
                    },
                },
            },
        })
    }
}

fn with(schema: &Value, description: &str) -> Value {
    let mut schema = schema.clone();
    schema["description"] = description.into();
    schema
}
