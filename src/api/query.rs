//! The query of a request: each parameter at most once, each value proven.

use std::collections::HashSet;
use std::str::FromStr;

use axum::extract::Query as Pairs;
use axum::http::Uri;
use jam_domain::page::{DEFAULT_LIMIT, MAX_LIMIT, PageRequest, Start};
use jam_domain::{Code, Refusal};

/// Parameters that a query has at most. No call knows as many; more cost time and mean nothing.
const MOST: usize = 64;

/// The parameters of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of the address after `?`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.split('&').count() > MOST {
            return Err(Refusal::new(Code::BadRequest, format!("the query has more than {MOST} parameters")));
        }
        let wrong = || Refusal::new(Code::BadRequest, "the query can't be read");
        let uri = Uri::builder().path_and_query(format!("/?{text}")).build().map_err(|_| wrong())?;
        let Pairs(pairs) = Pairs::<Vec<(String, String)>>::try_from_uri(&uri).map_err(|_| wrong())?;
        let mut seen = HashSet::new();
        match pairs.iter().find(|(name, _)| !seen.insert(name)) {
            Some((twice, _)) => Err(Refusal::field(twice.as_str(), "is given twice")),
            None => Ok(Self(pairs)),
        }
    }

    /// A parameter's text; one that is empty counts as left out.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|text| !text.is_empty())
    }

    fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter as something that its text stands for.
    pub fn value<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refusal>
    where
        T::Err: std::fmt::Display,
    {
        self.text(name).map(|text| text.parse().map_err(|problem| Refusal::field(name, problem))).transpose()
    }

    /// A number; what is no number is refused by the parameter's name.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let wrong = |text: &str| Refusal::field(name, format!("{text:?} is not a whole number from 0"));
        self.text(name).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }

    /// Whether a flag is set: its name alone sets it. Whoever asks for `?dry_run` does not want the run.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.raw(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(text) => Err(Refusal::field(name, format!("{text:?} is neither true nor false"))),
        }
    }

    /// Refuses what is none of these: for a call that does something else when one is misspelt.
    pub fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => {
                Err(Refusal::field(name.as_str(), format!("is no parameter of this call; it has {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// Which page: `limit` with `offset` or `cursor`. A limit above the most is the most; 0 is the default, as it was
    /// for the prior client.
    pub fn page<C: FromStr>(&self) -> Result<PageRequest<C>, Refusal>
    where
        C::Err: std::fmt::Display,
    {
        let limit = match self.number("limit")? {
            None | Some(0) => DEFAULT_LIMIT,
            Some(limit) => u32::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
        };
        let start = match (self.number("offset")?, self.value::<C>("cursor")?) {
            (Some(_), Some(_)) => return Err(Refusal::field("offset", "and cursor exclude each other")),
            (_, Some(cursor)) => Start::After(cursor),
            (offset, None) => Start::Offset(offset.unwrap_or(0).min(i64::MAX as u64)),
        };
        Ok(PageRequest { limit, start })
    }
}

#[cfg(test)]
mod tests {
    use jam_domain::page::TimeCursor;

    use super::*;

    fn page(text: &str) -> Result<PageRequest<TimeCursor>, Refusal> {
        Query::parse(text)?.page()
    }

    #[test]
    fn a_limit_is_clamped_and_a_malformed_one_refused() {
        assert_eq!(page("").unwrap().limit, 50);
        assert_eq!(page("limit=7").unwrap().limit, 7);
        assert_eq!(page("limit=99999999999").unwrap().limit, 200);
        assert_eq!(page("limit=0").unwrap().limit, 50);
        for wrong in [
            "limit=x",
            "limit=-1",
            "offset=1.5",
            "cursor=%25",
            "limit=1&limit=2",
            "offset=1&cursor=x",
            "limit=99999999999999999999",
        ] {
            assert_eq!(page(wrong).unwrap_err().code, Code::Validation, "{wrong}");
        }
    }

    #[test]
    fn a_flag_is_set_by_its_name_alone() {
        let set = |text: &str| Query::parse(text)?.flag("dry_run");
        for text in ["dry_run", "dry_run=", "a=b&dry_run", "dry_run=true", "dry_run=1"] {
            assert_eq!(set(text), Ok(true), "{text}");
        }
        for text in ["", "dry_run=false", "dry_run=0", "dry_runs"] {
            assert_eq!(set(text), Ok(false), "{text}");
        }
        assert_eq!(set("dry_run=maybe").unwrap_err().code, Code::Validation);
    }

    #[test]
    fn a_query_has_a_bounded_number_of_parameters() {
        let many = |n: usize| (0..n).map(|i| format!("p{i}=1")).collect::<Vec<_>>().join("&");
        assert!(Query::parse(&many(MOST)).is_ok());
        for text in [many(MOST + 1), "&".repeat(60_000)] {
            assert_eq!(Query::parse(&text).unwrap_err().code, Code::BadRequest);
        }
    }

    #[test]
    fn escapes_are_decoded() {
        assert_eq!(Query::parse("a=b%3Ac+d").unwrap().text("a"), Some("b:c d"));
    }
}
