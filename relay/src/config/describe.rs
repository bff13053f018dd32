//! All keys at once: what there is to say, and what has been said.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::{
    args::bounds,
    layers::{Key, Origin, Value, keys},
};

/// Which keys the file may have, as a JSON Schema (draft 2020-12): for editors, and for whoever writes one by a program.
pub fn schema() -> Json {
    let keys = keys();
    let properties: Map<String, Json> = keys
        .iter()
        .map(|key| (key.name.clone(), property(key)))
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "remora-relay",
        "description": "The file of `remora-relay serve --config FILE`. Variables of the environment overrule it, and flags overrule both.",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn property(key: &Key) -> Json {
    let mut property = json!({
        "description": key.help,
        "x-flag": format!("--{}", key.flag),
        "x-variable": key.variable,
    });
    let mut value = json!({ "type": if key.is_number { "integer" } else { "string" } });
    if let Some((least, most)) = bounds(&key.name) {
        value["minimum"] = least.into();
        if let Some(most) = most {
            value["maximum"] = most.into();
        }
    }
    if !key.one_of.is_empty() {
        value["enum"] = key.one_of.clone().into();
    }
    if let Some(unit) = &key.unit {
        property["x-unit"] = unit.clone().into();
    }
    if let Some(default) = &key.default {
        let default = literal(key, default);
        property["default"] = if key.is_list {
            [default].into()
        } else {
            default
        };
    }
    let Json::Object(value) = value else {
        return property;
    };
    if key.is_list {
        // One may stand without brackets.
        property["type"] = ["array", "string"].into();
        property["items"] = Json::Object(value);
    } else if let Json::Object(property) = &mut property {
        property.extend(value);
    }
    property
}

/// A number where it is one.
fn literal(key: &Key, typed: &str) -> Json {
    match typed.parse::<u64>() {
        Ok(number) if key.is_number => number.into(),
        Ok(_) | Err(_) => typed.into(),
    }
}

/// What a key has, as JSON; nothing where it has nothing.
fn held(key: &Key, value: &Value) -> Json {
    let mut literals = value.typed.iter().map(|typed| literal(key, typed));
    if key.is_list {
        literals.collect::<Vec<_>>().into()
    } else {
        literals.next().unwrap_or(Json::Null)
    }
}

/// Every key with what it has and who said so: an object for scripts.
pub fn shown_as_json(values: &[Value]) -> Json {
    let keys = keys();
    let shown = values.iter().zip(&keys).map(|(value, key)| {
        let said = match &value.origin {
            Origin::Default => json!({ "by": "default" }),
            Origin::File(path, line) => {
                json!({ "by": "file", "file": path.to_string_lossy(), "line": line })
            }
            Origin::Environment(variable) => json!({ "by": "environment", "variable": variable }),
            Origin::Flag => json!({ "by": "flag" }),
        };
        let shown = json!({ "value": held(key, value), "said": said });
        (key.name.clone(), shown)
    });
    Json::Object(shown.collect())
}

/// The same as a file that says it all; what nobody has said and has no default is a comment.
pub fn shown_as_file(values: &[Value]) -> String {
    let keys = keys();
    let mut text = String::new();
    for (value, key) in values.iter().zip(&keys) {
        let held = held(key, value);
        let by = match &value.origin {
            Origin::Default => "default".to_owned(),
            Origin::File(path, line) => format!("{}:{line}", path.display()),
            Origin::Environment(variable) => variable.clone(),
            Origin::Flag => format!("--{}", key.flag),
        };
        // Numbers, texts and lists of texts look alike in JSON and TOML.
        let line = if value.typed.is_empty() {
            format!("# {} is not set", key.name)
        } else {
            format!("{} = {held}  # {by}", key.name)
        };
        // Into a String, which never fails.
        writeln!(text, "{line}").ok();
    }
    text
}
