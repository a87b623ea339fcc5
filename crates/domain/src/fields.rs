//! Reading a JSON object of a request field by field, so that every refusal names the field and nothing is ignored.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::refusal::{Code, Refusal};
use crate::unambiguous::Unambiguous;

/// The fields of one object that are not read yet, and where the object stands in the request.
pub(crate) struct Fields {
    rest: Map<String, Value>,
    place: String,
}

/// The object in a request's body.
pub(crate) fn object_of(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_slice(body).map(|Unambiguous(value)| value) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(Refusal::new(Code::BadRequest, "the body is not a JSON object"))
        }
        Err(e) => Err(Refusal::new(Code::BadRequest, format!("the body is not JSON: {e}"))),
    }
}

/// The whole number that a JSON value is. JSON has one kind of number: 7.0 is 7.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // above 2^53 not every whole number has a float of its own
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && (0.0..=EXACT).contains(float));
    value.as_u64().or_else(|| format!("{:.0}", float()?).parse().ok())
}

impl Fields {
    /// The fields of an object; `place` is "" for the body itself, else e.g. `items[3]`.
    pub(crate) fn new(rest: Map<String, Value>, place: impl Into<String>) -> Self {
        Self { rest, place: place.into() }
    }

    /// The name of a field as a refusal shows it.
    pub(crate) fn name(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> Refusal {
        Refusal::field(self.name(key), problem)
    }

    /// Refuses fields that only the server writes.
    pub(crate) fn refuse_server_made(&self, keys: &[&str]) -> Result<(), Refusal> {
        match keys.iter().find(|key| self.rest.contains_key(**key)) {
            Some(key) => Err(self.wrong(key, "is set by the server: leave it out")),
            None => Ok(()),
        }
    }

    /// Takes a field; null is the same as left out.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.rest.remove(key).filter(|value| !value.is_null())
    }

    /// Takes a text that `check` turns into something.
    pub(crate) fn text<T>(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Refusal> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => check(&text).map(Some).map_err(|problem| self.wrong(key, problem)),
            Some(_) => Err(self.wrong(key, "must be a string")),
        }
    }

    /// The same, and it may not be left out.
    pub(crate) fn required_text<T>(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Refusal> {
        self.text(key, check)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    /// Takes an unsigned integer of this range.
    pub(crate) fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match whole(&value).filter(|n| range.contains(n)) {
                Some(number) => Ok(Some(number)),
                None => {
                    Err(self.wrong(key, format!("must be a whole number from {} to {}", range.start(), range.end())))
                }
            },
        }
    }

    /// Takes a list of texts that `check` turns into something.
    pub(crate) fn texts<T>(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, Refusal> {
        let values = match self.take(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values,
            Some(_) => return Err(self.wrong(key, "must be a list of strings")),
        };
        let read = |(n, value): (usize, &Value)| {
            let name = format!("{}[{n}]", self.name(key));
            let text = value.as_str().ok_or_else(|| Refusal::field(&name, "must be a string"))?;
            check(text).map_err(|problem| Refusal::field(name, problem))
        };
        values.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// Refuses what was not read.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        match self.rest.keys().next() {
            Some(key) => Err(self.wrong(key, "is not a field of this object")),
            None => Ok(()),
        }
    }
}
