//! `jam admin`: what an administrator asks of a running server.

use clap::{Args, Subcommand};
use jam_domain::token::TokenHash;
use jam_domain::{PackageId, ReportId, ServiceId};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::answer::Answer;
use crate::cli::client::{Call, Client, Payload, Repeat};
use crate::cli::connection;
use crate::cli::fault::Fault;
use crate::table::Table;

type Columns = &'static [(&'static str, &'static str)];

/// `jam admin`.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The administrator's token [default: the token of every other command]
    #[arg(long, global = true, value_name = "T")]
    admin_token: Option<String>,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Shows the rate limit's buckets in use, or empties one
    RateLimits {
        /// Empty the bucket with this key
        #[arg(long, value_name = "KEY")]
        reset: Option<String>,
    },
    /// Shows the overrides of settings, sets one or takes one back
    Toggles {
        /// Override this setting
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value, conflicts_with = "delete")]
        set: Option<(String, Value)>,
        /// Take this override back
        #[arg(long, value_name = "KEY")]
        delete: Option<String>,
    },
    /// Shows the last cleanup, or runs one now
    Cleanup {
        /// Clean up now
        #[arg(long)]
        run: bool,
        /// Only say what would go
        #[arg(long, requires = "run")]
        dry_run: bool,
    },
    /// Shows a package's dispute, or ends it
    Disputes {
        /// The disputed package
        #[arg(long, value_name = "ID")]
        package: PackageId,
        /// End it with this report
        #[arg(long, value_name = "REPORT", conflicts_with = "reject")]
        accept: Option<ReportId>,
        /// End it without a report
        #[arg(long)]
        reject: bool,
    },
    /// Shows the tokens that may act for a service, adds one or takes one away
    Delegates {
        /// The service
        #[arg(long, value_name = "S")]
        service: ServiceId,
        /// Add the token with this SHA-256
        #[arg(long, value_name = "SHA256", conflicts_with = "remove")]
        add: Option<TokenHash>,
        /// Take away the token with this SHA-256
        #[arg(long, value_name = "SHA256")]
        remove: Option<TokenHash>,
    },
}

/// `jam admin`: one call each, its answer as it is; a list also as a table and as names.
pub async fn run(client: &Client, args: AdminArgs) -> Result<Answer, Fault> {
    let AdminArgs { admin_token, command } = args;
    let other = match admin_token.as_deref().map(str::trim) {
        Some("") => return Err(Fault::Usage("--admin-token is empty".into())),
        Some(token) => Some(client.with_bearer(connection::bearer(token)?)),
        None => None,
    };
    let columns = columns_of(&command);
    let reply = other.as_ref().unwrap_or(client).send(call_of(command)).await?;
    if reply.body.is_empty() {
        return Ok(Answer::json(json!({"done": true})).with_text("done\n"));
    }
    let json: Value = reply.json()?;
    let name = |item: &Value| item.get(columns[0].1).and_then(Value::as_str).map(str::to_owned);
    let Some(items) = json.get("items").and_then(Value::as_array) else {
        let named = name(&json);
        let answer = Answer::json(json);
        return Ok(if let Some(named) = named { answer.with_names(vec![named]) } else { answer });
    };
    let (names, table) = (items.iter().filter_map(name).collect(), Table::of_records(columns, items));
    Ok(Answer::json(json).with_names(names).with_table(table))
}

/// The columns of what is listed; the first one is what an entry is called in the commands that change it.
fn columns_of(command: &AdminCommand) -> Columns {
    match command {
        AdminCommand::RateLimits { .. } => {
            &[("KEY", "key"), ("LIMIT", "limit"), ("REMAINING", "remaining"), ("RESET", "reset")]
        }
        AdminCommand::Toggles { .. } => {
            &[("KEY", "key"), ("VALUE", "value"), ("OVERRODE", "overrode"), ("SET", "set_at"), ("BY", "set_by")]
        }
        AdminCommand::Delegates { .. } => {
            &[("SHA256", "sha256"), ("ID", "id"), ("NAME", "name"), ("SET", "set_at"), ("BY", "set_by")]
        }
        AdminCommand::Cleanup { .. } | AdminCommand::Disputes { .. } => &[("ID", "id")],
    }
}

fn call_of(command: AdminCommand) -> Call {
    match command {
        AdminCommand::RateLimits { reset: None } => Call::get(&["jam", "admin", "rate-limits"]),
        AdminCommand::RateLimits { reset: Some(key) } => change(Method::POST, &["rate-limits"], &json!({"key": key})),
        AdminCommand::Toggles { set: Some((key, value)), delete: _ } => {
            change(Method::POST, &["toggles"], &json!({"key": key, "value": value}))
        }
        AdminCommand::Toggles { set: None, delete: Some(key) } => {
            change(Method::DELETE, &["toggles", &key], &json!({}))
        }
        AdminCommand::Toggles { set: None, delete: None } => Call::get(&["jam", "admin", "toggles"]),
        AdminCommand::Cleanup { run: false, dry_run: _ } => Call::get(&["jam", "admin", "cleanup", "status"]),
        AdminCommand::Cleanup { run: true, dry_run } => {
            change(Method::POST, &["cleanup", "run"], &json!({})).with("dry_run", dry_run.then_some("true"))
        }
        AdminCommand::Disputes { package, accept: Some(report), reject: _ } => {
            let path = ["disputes", &package.to_string(), "accept"];
            change(Method::POST, &path, &json!({"report_id": report}))
        }
        AdminCommand::Disputes { package, accept: None, reject: true } => {
            change(Method::POST, &["disputes", &package.to_string(), "reject"], &json!({}))
        }
        AdminCommand::Disputes { package, accept: None, reject: false } => {
            Call::get(&["jam", "admin", "disputes", &package.to_string()])
        }
        AdminCommand::Delegates { service, add, remove } => delegates(&service, add, remove),
    }
}

fn delegates(service: &ServiceId, add: Option<TokenHash>, remove: Option<TokenHash>) -> Call {
    let path = ["services", service.as_str(), "delegates"];
    match (add, remove) {
        (Some(token), _) => change(Method::POST, &path, &json!({"sha256": token})),
        (None, Some(token)) => change(Method::DELETE, &path, &json!({"sha256": token})),
        (None, None) => Call::get(&[&["jam", "admin"][..], &path].concat()),
    }
}

/// A call that changes something. Each names the state that is wanted, so a call that was turned away may be repeated.
fn change(method: Method, path: &[&str], body: &Value) -> Call {
    let mut call = Call::new(method, &[&["jam", "admin"][..], path].concat(), Repeat::WhenTurnedAway);
    if body.as_object().is_some_and(|fields| !fields.is_empty()) {
        call.payload = Payload::Json(body.to_string().into());
    }
    call
}

/// `key=value`; a value that is a number, true or false is sent as such.
fn key_and_value(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, e.g. rate_limit_per_minute=30")?;
    let value = match serde_json::from_str(value) {
        Ok(Value::Bool(flag)) => Value::Bool(flag),
        Ok(Value::Number(number)) => Value::Number(number),
        Ok(Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_)) | Err(_) => Value::String(value.into()),
    };
    Ok((key.to_owned(), value))
}
