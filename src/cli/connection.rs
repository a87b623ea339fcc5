//! The flags that say which server and as whom, and the client made of them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::cli::client::Client;
use crate::cli::fault::Fault;

/// Where the server is and who asks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// The server
    #[arg(
        long,
        global = true,
        env = "SERVICE_LAYER_ADDR",
        value_name = "URL",
        default_value = "http://localhost:8080"
    )]
    pub addr: String,
    /// The bearer token
    #[arg(long, global = true, env = "SERVICE_LAYER_TOKEN", value_name = "T", hide_env_values = true)]
    pub token: Option<String>,
    /// A file with the bearer token; it wins over --token
    #[arg(long, global = true, value_name = "F")]
    pub token_file: Option<PathBuf>,
    /// How long one call may take, its retries included; an upload or download: how long it may stand still
    #[arg(long, global = true, value_name = "15s", default_value = "15s", value_parser = duration)]
    pub timeout: Duration,
    /// The tenant, sent as X-Tenant-ID
    #[arg(long, global = true, value_name = "ID")]
    pub tenant: Option<String>,
    /// The span (W3C Trace Context) that the calls are made in, of whoever runs this
    #[arg(long, global = true, env = "TRACEPARENT", hide = true)]
    pub traceparent: Option<String>,
}

impl ConnectionArgs {
    /// The client of this server; refuses an address or a token that can't be sent. Reads the token file.
    pub fn client(&self) -> Result<Client, Fault> {
        let bearer = match self.read_token()? {
            Some(token) => Some(bearer(&token)?),
            None => None,
        };
        let tenant = self.tenant.as_deref().map(|tenant| header(tenant, "--tenant", false)).transpose()?;
        // One that no header can carry is as good as none: it is not ours to complain about.
        let trace = self.traceparent.as_deref().and_then(|span| HeaderValue::from_str(span.trim()).ok());
        Ok(Client::new(self.base()?, bearer, tenant, self.timeout)?.in_trace(trace))
    }

    /// The address as a URL; `host:port` alone is plain HTTP.
    pub fn base(&self) -> Result<Url, Fault> {
        let text = self.addr.trim();
        // What may be a password is in no message.
        if text.contains('@') {
            return Err(Fault::Usage(
                "an address with an @ is not taken: a user name and password are not sent; set --addr or \
                 SERVICE_LAYER_ADDR to http://HOST:PORT and --token or SERVICE_LAYER_TOKEN to the token"
                    .into(),
            ));
        }
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let wrong = |why: &str| {
            Fault::Usage(format!(
                "{text:?} is not an address: {why}; set --addr or SERVICE_LAYER_ADDR to http://HOST:PORT"
            ))
        };
        let url = Url::parse(&full).map_err(|why| wrong(&why.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("it starts with neither http:// nor https://"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it has a ? or # part"));
        }
        Ok(url)
    }

    fn read_token(&self) -> Result<Option<String>, Fault> {
        let text = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|cause| Fault::reading(path, cause))?;
                if text.trim().is_empty() {
                    return Err(Fault::Usage(format!("{}: the token file is empty", path.display())));
                }
                Some(text)
            }
            None => self.token.clone(),
        };
        Ok(text.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()))
    }
}

/// A token as the header that carries it.
pub fn bearer(token: &str) -> Result<HeaderValue, Fault> {
    header(&format!("Bearer {}", token.trim()), "the token", true)
}

fn header(text: &str, what: &str, secret: bool) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Fault::Usage(format!("{what} has characters that a header can't carry")))?;
    value.set_sensitive(secret);
    Ok(value)
}

/// `15s`, `1m30s`, `500ms`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 15s, 500ms or 1m30s");
    if let Ok(seconds) = text.parse::<u32>() {
        return positive(Duration::from_secs(u64::from(seconds)));
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(wrong()),
        };
        sum = one.checked_mul(number).and_then(|part| sum.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    positive(sum)
}

fn positive(duration: Duration) -> Result<Duration, String> {
    if duration.is_zero() { Err("it must be longer than nothing".into()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addr: &str) -> ConnectionArgs {
        ConnectionArgs {
            addr: addr.into(),
            token: None,
            token_file: None,
            timeout: Duration::from_secs(1),
            tenant: None,
            traceparent: None,
        }
    }

    #[test]
    fn a_duration_is_read_as_people_write_it() {
        let millis = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(millis("15s"), Ok(15_000));
        assert_eq!(millis("1m30s"), Ok(90_000));
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("7"), Ok(7_000));
        for wrong in ["", "s", "15x", "1.5s", "-1s", "0s", "99999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_address_needs_no_scheme_and_a_wrong_one_is_refused() {
        assert_eq!(at("localhost:8080").base().unwrap().as_str(), "http://localhost:8080/");
        assert_eq!(at("https://a.example/prefix/").base().unwrap().as_str(), "https://a.example/prefix/");
        for wrong in ["", "ftp://a", "http://", "http://a?b=c"] {
            assert!(at(wrong).base().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        for addr in ["http://user:sekret@host", "ftp://user:sekret@host", "user:sekret@host?x", "http://:sek/ret@h:x#"]
        {
            let line = at(addr).base().unwrap_err().line();
            assert!(line.starts_with("an address with an @ is not taken") && !line.contains("sek"), "{line}");
        }
    }
}
