//! The settings of one process: flag, environment, file, profile and default made into one proven value, or every mistake.

mod file;
mod keys;
mod services;
mod show;
mod strays;
mod wiring;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use jam_domain::{JamSettings, Profile, Settings, StoreKind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::tokens::Tokens;

pub use keys::SettingsArgs;
pub use show::show;
pub use strays::strays;
pub use wiring::{Secret, Wiring};

use keys::{Form, Key, Part, find};

/// Who gave a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody: the default of this build.
    Default,
    /// The profile's baseline.
    Profile(Profile),
    /// The file of `--config`.
    File,
    /// This environment variable.
    Environment(&'static str),
    /// The environment, by the variable that the mistake names.
    Variable,
    /// This flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(Profile::Local) => f.write_str("profile local"),
            Self::Profile(Profile::Staging) => f.write_str("profile staging"),
            Self::Profile(Profile::Production) => f.write_str("profile production"),
            Self::File => f.write_str("file"),
            Self::Variable => f.write_str("environment"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One mistake in the settings: a line that begins with the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key.
    pub key: String,
    /// What is wrong and what to do.
    pub problem: String,
    /// Who gave the value, when somebody did.
    pub source: Option<Source>,
}

impl Mistake {
    fn of(key: &str, problem: impl Into<String>, source: Option<Source>) -> Self {
        Self { key: key.to_owned(), problem: problem.into(), source }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.problem)?;
        match self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

/// What the settings are for: not every program needs every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Serving the API: tokens have to come from somewhere.
    Serve,
    /// Processing or migrating: nobody presents a token.
    Work,
}

/// The settings in force.
pub struct Loaded {
    /// The `runtime.jam` block.
    pub settings: Settings,
    /// The wiring of this process.
    pub wiring: Wiring,
    /// Who gave each value that somebody gave.
    pub sources: BTreeMap<&'static str, Source>,
}

type Values = BTreeMap<&'static str, (Value, Source)>;

/// Reads every layer and proves the result. Reads the files that the arguments name.
pub fn load(args: &SettingsArgs, purpose: Purpose) -> Result<Loaded, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut values = Values::new();
    overlay_file(args.config.as_deref(), &mut values, &mut mistakes);
    overlay_given(args, &mut values, &mut mistakes);
    let sources: BTreeMap<_, _> = values.iter().map(|(name, (_, source))| (*name, *source)).collect();
    let settings = block_in_force(&values, &mut mistakes);
    let wiring = Wiring::prove(part(&values, Part::Wiring), &mut mistakes);
    // What has the wrong type is not missing as well.
    let named = |key: &str| mistakes.iter().any(|mistake| mistake.key == key);
    let between: Vec<_> = wiring.mistakes_with(&settings, purpose).into_iter().filter(|m| !named(&m.key)).collect();
    mistakes.extend(between);
    if purpose == Purpose::Serve {
        let opened = [Tokens::open(&wiring).map(drop), Tokens::open_admin(&wiring).map(drop)];
        for line in opened.into_iter().filter_map(Result::err) {
            let (key, problem) = line.split_once(": ").unwrap_or(("tokens_file", &line));
            mistakes.push(Mistake::of(key, problem, None));
        }
    }
    for mistake in &mut mistakes {
        mistake.source = mistake.source.or_else(|| sources.get(mistake.key.as_str()).copied());
    }
    if mistakes.is_empty() { Ok(Loaded { settings, wiring, sources }) } else { Err(mistakes) }
}

fn overlay_file(path: Option<&Path>, values: &mut Values, mistakes: &mut Vec<Mistake>) {
    let Some(path) = path else { return };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) => return mistakes.push(Mistake::of("config", format!("can't read {}: {e}", path.display()), None)),
    };
    let (written, wrong) = file::read(&text);
    mistakes.extend(wrong);
    for file::Written { name, value } in written {
        let key = find(name).expect("the file reader returns names of the table");
        overlay(key, value, Source::File, values, mistakes);
    }
}

fn overlay_given(args: &SettingsArgs, values: &mut Values, mistakes: &mut Vec<Mistake>) {
    // The last one written wins: the environment first, then flags; of two rows with one name the earlier row last.
    let (flags, environment): (Vec<_>, Vec<_>) = args.given.iter().partition(|g| matches!(g.source, Source::Flag(_)));
    for given in environment.into_iter().rev().chain(flags.into_iter().rev()) {
        match value_of(given.key, &given.text) {
            Ok(value) => overlay(given.key, value, given.source, values, mistakes),
            Err(problem) => mistakes.push(Mistake::of(given.key.name, problem, Some(given.source))),
        }
    }
}

fn overlay(key: &Key, value: Value, source: Source, values: &mut Values, mistakes: &mut Vec<Mistake>) {
    match check(key, &value) {
        Ok(()) => drop(values.insert(key.name, (value, source))),
        Err(_) if key.name == "services" && value.is_array() => {
            let wrong = services::mistakes(&value).into_iter();
            mistakes.extend(wrong.map(|(place, problem)| Mistake::of(&place, problem, Some(source))));
            // What is right in the list may still be too much, or there twice.
            values.insert(key.name, (services::right_part(&value), source));
        }
        Err(problem) => mistakes.push(Mistake::of(key.name, problem, Some(source))),
    }
}

fn check(key: &Key, value: &Value) -> Result<(), String> {
    let mut alone = Map::new();
    alone.insert(key.name.into(), value.clone());
    let checked = match key.part {
        Part::Block => serde_json::from_value::<JamSettings>(Value::Object(alone)).map(drop),
        Part::Wiring => serde_json::from_value::<wiring::Values>(Value::Object(alone)).map(drop),
        Part::Profile => serde_json::from_value::<Profile>(value.clone()).map(drop),
    };
    checked.map_err(|e| if key.secret { "has the wrong type".into() } else { format!("is wrong: {e}") })
}

/// The value that a text stands for.
fn value_of(key: &Key, text: &str) -> Result<Value, String> {
    let text = text.trim();
    match key.form {
        Form::Flag => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Bool(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Bool(false)),
            _ => Err(format!("is wrong: {text:?} is neither true nor false")),
        },
        Form::Number => match text.parse::<u64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => Err(format!("is wrong: {text:?} is not a whole number from 0")),
        },
        Form::Text => Ok(text.into()),
        Form::List => Ok(text.split([',', ';']).map(str::trim).filter(|one| !one.is_empty()).collect()),
        Form::File => list_of_file(text, key.name),
    }
}

fn list_of_file(path: &str, name: &str) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("can't read {path}: {e}"))?;
    let value: Value = yaml(&text).map_err(|e| format!("is wrong: {path} {e}"))?;
    // Either the list itself or the file's own way of writing it, `services: […]`.
    Ok(value.get(name).cloned().unwrap_or(value))
}

/// Reads one YAML document.
pub(super) fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // Without snippets: what stands around a mistake may be a secret.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| one_line("is not YAML", &e))
}

/// Reads every document of a YAML file.
fn yaml_documents(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|e| one_line("is not YAML", &e))
}

fn one_line(what: &str, error: &serde_saphyr::Error) -> String {
    format!("{what}: {}", error.to_string().lines().next().unwrap_or_default())
}

fn part(values: &Values, wanted: Part) -> Value {
    let of_part = values.iter().filter(|(name, _)| find(name).is_some_and(|key| key.part == wanted));
    Value::Object(of_part.map(|(name, (value, _))| ((*name).to_owned(), value.clone())).collect())
}

fn block_in_force(values: &Values, mistakes: &mut Vec<Mistake>) -> Settings {
    let profile = values.get("profile").and_then(|(value, _)| serde_json::from_value(value.clone()).ok());
    let block: JamSettings = serde_json::from_value(part(values, Part::Block))
        .expect("every value was checked by itself, and keys are distinct");
    let (settings, wrong) = block.resolve_all(profile.unwrap_or_default());
    mistakes.extend(wrong.into_iter().map(|m| Mistake::of(m.key, m.problem, None)));
    settings
}

/// Whether the store needs a DSN and has none.
fn lacks_dsn(settings: &Settings, wiring: &Wiring) -> bool {
    settings.store == StoreKind::Postgres && wiring.pg_dsn.is_none()
}

#[cfg(test)]
mod tests;
