//! Checks JSON against as much of JSON Schema as `summary.schema.json` uses.

use serde_json::{Map, Value};

/// What of a summary is not as the committed schema says.
pub(crate) fn breaches(summary: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(include_str!("../../summary.schema.json")).unwrap();
    let mut found = Vec::new();
    check("summary", summary, &schema, &schema, &mut found);
    found
}

fn check(place: &str, value: &Value, schema: &Value, root: &Value, found: &mut Vec<String>) {
    let empty = Map::new();
    let rules = schema.as_object().unwrap();
    let properties = rules
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    for (rule, wanted) in rules {
        let holds = match rule.as_str() {
            "$schema" | "$defs" | "title" | "description" | "properties" => true,
            "$ref" => {
                let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                check(place, value, root.pointer(pointer).unwrap(), root, found);
                true
            }
            "type" => match wanted.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_u64() || value.is_i64(),
                "number" => value.is_number(),
                other => panic!("the type {other} is not known here"),
            },
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => value.as_f64() >= wanted.as_f64(),
            "maximum" => value.as_f64() <= wanted.as_f64(),
            "required" => wanted
                .as_array()
                .unwrap()
                .iter()
                .all(|name| value.get(name.as_str().unwrap()).is_some()),
            "items" => {
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(&format!("{place}[{at}]"), item, wanted, root, found);
                }
                true
            }
            "additionalProperties" => {
                let members = value.as_object().unwrap_or(&empty);
                let others = members
                    .iter()
                    .filter(|(name, _)| !properties.contains_key(*name));
                for (name, member) in others {
                    let place = format!("{place}.{name}");
                    if *wanted == Value::Bool(false) {
                        found.push(format!("{place} is not in the schema"));
                    } else {
                        check(&place, member, wanted, root, found);
                    }
                }
                true
            }
            other => panic!("the rule {other} is not known here"),
        };
        if !holds {
            found.push(format!("{place} breaks {rule} {wanted}: {value}"));
        }
    }
    for (name, schema) in properties {
        if let Some(member) = value.get(name) {
            check(&format!("{place}.{name}"), member, schema, root, found);
        }
    }
}
