//! `status` and `jam status`: what the server is and which limits it has.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::answer::Answer;
use crate::cli::args::StatusArgs;
use crate::cli::client::{Call, Client, Repeat};
use crate::cli::fault::{Fault, Refused};
use crate::table::plain_line;

/// The fields of the line, in its order; `rate_limit_per_min` says the same as `rate_limit_per_minute`.
const FIRST: [&str; 10] = [
    "enabled",
    "store",
    "rate_limit_per_minute",
    "max_preimage_bytes",
    "max_pending_packages",
    "auth_required",
    "legacy_list_response",
    "accumulators_enabled",
    "accumulator_hash",
    "attestation_threshold",
];

/// What switched JAM off, when it was an override.
pub const SWITCHED_OFF: &str = "an administrator switched it off";
/// How that override ends.
pub const SWITCH_ON: &str = "`slctl jam admin toggles --delete enabled` switches it on again";
/// What the server says of a path that it does not have, whatever JAM is.
const NO_SUCH_PATH: &str = "there is no such path";

/// `jam status`.
pub async fn jam(client: &Client, args: StatusArgs) -> Result<Answer, Fault> {
    let status = read(client, args.service.map(|service| service.to_string())).await?;
    let text = describe(&status);
    Ok(Answer::json(Value::Object(status)).with_text(text))
}

/// `status`: health, version and the JAM block.
pub async fn system(client: &Client) -> Result<Answer, Fault> {
    let health: Value = client.send(Call::get(&["healthz"])).await?.json()?;
    let version: Map<String, Value> = client.send(Call::get(&["system", "version"])).await?.json()?;
    let status: Value = client.send(Call::get(&["system", "status"])).await?.json()?;
    let jam = status.get("jam").and_then(Value::as_object).cloned().unwrap_or_default();
    let said = |value: Option<&Value>| value.and_then(Value::as_str).map_or_else(|| "unknown".into(), plain_line);
    let mut text = format!("{} is {}\n", client.addr(), said(health.get("status")));
    let _ = writeln!(
        text,
        "version {} (commit {}, built {})",
        said(version.get("version")),
        said(version.get("commit")),
        said(version.get("built_at"))
    );
    text.push_str(&describe(&jam));
    if let Some(health) = jam.get("health").and_then(Value::as_object) {
        let _ = writeln!(text, "health {}", pairs(health.iter()));
    }
    let whole = json!({"addr": client.addr(), "health": health, "version": version, "system": status});
    Ok(Answer::json(whole).with_text(text))
}

/// `/jam/status`, with one service's root or all of them.
pub async fn read(client: &Client, service: Option<String>) -> Result<Map<String, Value>, Fault> {
    let call = Call::get(&["jam", "status"]).with("service_id", service);
    match client.send(call).await {
        Ok(reply) => reply.json(),
        // The path is always there when JAM is on.
        Err(Fault::Refused(refused)) if refused.status == 404 => Err(Fault::Refused(off(client, refused))),
        Err(fault) => Err(fault),
    }
}

fn off(client: &Client, refused: Refused) -> Refused {
    let message =
        format!("JAM is not enabled at {}: see `slctl status`; the server needs JAM_ENABLED=true", client.addr());
    Refused { message, ..refused }
}

/// The same fault, or why nothing is found: JAM is off, or the address leads to no JAM API. `/system/status` tells.
pub async fn explain_missing(client: &Client, fault: Fault) -> Fault {
    let Fault::Refused(refused) = fault else { return fault };
    if refused.status != 404 {
        return Fault::Refused(refused);
    }
    let told = client.send(Call::new(Method::GET, &["system", "status"], Repeat::Never)).await;
    let refused = match told.and_then(|reply| reply.json::<Value>()) {
        Ok(status) if is_overridden(&status) => {
            let message = format!("JAM is not enabled at {}: {SWITCHED_OFF}; {SWITCH_ON}", client.addr());
            Refused { message, ..refused }
        }
        Ok(status) if status.pointer("/jam/enabled") == Some(&Value::Bool(false)) => off(client, refused),
        Err(Fault::Refused(Refused { status: 404, message, .. })) if message == NO_SUCH_PATH => {
            let addr = client.addr();
            let message =
                format!("there is no JAM API below {addr}: set --addr or SERVICE_LAYER_ADDR to where it begins");
            Refused { message, ..refused }
        }
        Ok(_) | Err(_) => refused,
    };
    Fault::Refused(refused)
}

/// Whether JAM is off in `/system/status` because of an override and not of the settings.
pub fn is_overridden(status: &Value) -> bool {
    let is = |set: &Value| set["key"] == "enabled" && set["value"] == false;
    status.pointer("/jam/overrides").and_then(Value::as_array).is_some_and(|overrides| overrides.iter().any(is))
}

/// The line of `JAM enabled=…`, then a line a root and a line an override.
fn describe(status: &Map<String, Value>) -> String {
    let known = FIRST.iter().filter_map(|key| status.get_key_value(*key));
    let later = status.iter().filter(|(key, value)| {
        let said = FIRST.contains(&key.as_str()) || *key == "rate_limit_per_min";
        !said && (value.is_string() || value.is_number() || value.is_boolean())
    });
    let mut text = format!("JAM {}\n", pairs(known.chain(later)));
    let one = status.get("accumulator_root").filter(|root| !root.is_null());
    let many = status.get("accumulator_roots").and_then(Value::as_array);
    for root in one.into_iter().chain(many.into_iter().flatten()) {
        let field = |key: &str| root.get(key).map_or_else(|| "-".into(), scalar);
        let _ = writeln!(text, "root service={} seq={} root={}", field("service_id"), field("seq"), field("root"));
    }
    if let Some(overrides) = status.get("overrides").filter(|value| !is_empty(value)) {
        let _ = writeln!(text, "overrides {}", plain_line(&overrides.to_string()));
    }
    text
}

fn pairs<'v>(fields: impl Iterator<Item = (&'v String, &'v Value)>) -> String {
    fields.map(|(key, value)| format!("{key}={}", scalar(value))).collect::<Vec<_>>().join(" ")
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain_line(text),
        Value::Null => "-".into(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_every_limit_once_and_each_root_has_a_line() {
        let status = json!({
            "store": "memory", "enabled": true, "rate_limit_per_minute": 60, "rate_limit_per_min": 60,
            "something_new": 7, "health": {"store_ok": true}, "overrides": [],
            "accumulator_roots": [{"service_id": "s", "seq": 2, "root": "ab"}],
        });
        assert_eq!(
            describe(status.as_object().unwrap()),
            "JAM enabled=true store=memory rate_limit_per_minute=60 something_new=7\nroot service=s seq=2 root=ab\n"
        );
    }
}
