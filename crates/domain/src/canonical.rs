//! Canonical JSON: keys sorted by code point, no white space; the form that is hashed.

use serde::Serialize;
use serde_json::Value;

/// The canonical bytes of a value. Objects are sorted here, whatever map type `serde_json` was built with.
pub fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("records have string keys and finite numbers");
    let mut out = Vec::with_capacity(256);
    write(&value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<_> = fields.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            for (n, key) in keys.into_iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                scalar(&Value::String(key.clone()), out);
                out.push(b':');
                write(&fields[key], out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => scalar(value, out),
    }
}

fn scalar(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth_and_nothing_is_added() {
        let value = serde_json::json!({"b": [1, {"z": null, "a": "ü\n"}], "a": true});
        assert_eq!(bytes(&value), "{\"a\":true,\"b\":[1,{\"a\":\"ü\\n\",\"z\":null}]}".as_bytes());
    }
}
