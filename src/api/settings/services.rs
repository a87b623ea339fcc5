//! The limits of single services: a list of mappings, whose mistakes are found one by one.

use jam_domain::settings::ServiceLimits;
use serde_json::{Map, Value};

/// Every mistake in the list, each with its place, e.g. `services[2].retention_days`.
pub fn mistakes(list: &Value) -> Vec<(String, String)> {
    let entries = list.as_array().into_iter().flatten().enumerate();
    entries.flat_map(|(n, entry)| of_entry(&format!("services[{n}]"), entry)).collect()
}

/// The entries that have an id, each with those of its fields that are right by themselves.
pub fn right_part(list: &Value) -> Value {
    list.as_array().into_iter().flatten().filter_map(right_fields).collect()
}

fn right_fields(entry: &Value) -> Option<Value> {
    let fields = entry.as_object()?;
    let id = fields.get("id").filter(|id| of_id_and(id, None).is_ok())?;
    let right = fields.iter().filter(|field| of_id_and(id, Some(*field)).is_ok());
    let right = Value::Object(right.map(|(name, value)| (name.clone(), value.clone())).collect());
    let whole = serde_json::from_value::<ServiceLimits>(right.clone()).is_ok();
    Some(if whole { right } else { Value::Object(Map::from_iter([("id".to_owned(), id.clone())])) })
}

fn of_id_and(id: &Value, field: Option<(&String, &Value)>) -> Result<ServiceLimits, serde_json::Error> {
    let mut alone = Map::from_iter([("id".to_owned(), id.clone())]);
    alone.extend(field.map(|(name, value)| (name.clone(), value.clone())));
    serde_json::from_value(Value::Object(alone))
}

fn of_entry(place: &str, entry: &Value) -> Vec<(String, String)> {
    let Err(whole) = serde_json::from_value::<ServiceLimits>(entry.clone()) else { return Vec::new() };
    let wrong = |why: &serde_json::Error| format!("is wrong: {why}");
    let Some(fields) = entry.as_object() else { return vec![(place.to_owned(), wrong(&whole))] };
    let mut found = Vec::new();
    if !fields.contains_key("id") {
        found.push((format!("{place}.id"), "is missing".to_owned()));
    }
    for (name, value) in fields {
        // Each field by itself, beside an id that is right.
        if let Err(why) = of_id_and(&Value::from("any"), Some((name, value))) {
            let unknown = why.to_string().starts_with("unknown field");
            found.push((format!("{place}.{name}"), if unknown { "is not a setting".into() } else { wrong(&why) }));
        }
    }
    // What is wrong in none of its fields alone, such as both spellings of one.
    if found.is_empty() {
        found.push((place.to_owned(), wrong(&whole)));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_mistake_of_every_entry_is_found_at_its_place() {
        let list = json!([
            {"id": "a", "retention_days": 3},
            {"id": "b c", "max_packages_per_minute": -1, "colour": "red"},
            {"retentionDays": "x"},
            7,
            {"id": "d", "retention_days": 1, "retentionDays": 2},
        ]);
        let places: Vec<_> = mistakes(&list).into_iter().map(|(place, _)| place).collect();
        assert_eq!(
            places,
            [
                "services[1].colour",
                "services[1].id",
                "services[1].max_packages_per_minute",
                "services[2].id",
                "services[2].retentionDays",
                "services[3]",
                "services[4]"
            ]
        );
    }
}
