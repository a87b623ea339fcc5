//! What a bundle, a condition or evidence must not show: the values that are known to be secret, wherever they stand, and everything that looks like one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use regex::{Captures, Regex};
use serde_json::Value;

/// What stands where something was.
pub const REDACTED: &str = "(redacted)";
/// A shorter value would be found in words that have nothing to do with it; a token or DSN is longer. A shorter password of a
/// DSN is taken out where it stands alone.
const SHORTEST: usize = 4;
/// Words at whose end the name of a secret is known.
const NAMES: &str = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|dsn|authorization|credentials?|private[_-]?key|(?:api|access|signing)[_-]?key(?:[_-]?id)?)";

/// Takes secrets out of texts and objects.
pub struct Redactor {
    known: Vec<String>,
    /// Passwords that are too short to be looked for within words.
    short: Vec<String>,
    patterns: Vec<(Regex, Shape)>,
}

/// What is left of a match.
enum Shape {
    /// Nothing.
    Whole,
    /// The first group, then the mark, then the last group.
    Between,
    /// A digest named as one stays: `sha256:…`.
    UnlessDigest,
}

impl Redactor {
    /// One that knows these values and every form in which they are usually written.
    pub fn knowing(secrets: impl IntoIterator<Item = String>) -> Self {
        let secrets: Vec<String> = secrets.into_iter().collect();
        let mut known: Vec<String> = secrets.iter().flat_map(|secret| forms(secret)).collect();
        let short = secrets.iter().flat_map(|secret| passwords(secret));
        let mut short: Vec<String> = short.filter(|one| (1..SHORTEST).contains(&one.len())).collect();
        short.sort();
        short.dedup();
        // The longest first: a DSN before the password in it.
        known.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        known.dedup();
        Self { known, short, patterns: patterns() }
    }

    /// The text without what is secret in it.
    pub fn text(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in &self.known {
            if clean.contains(secret) {
                clean = clean.replace(secret, REDACTED);
            }
        }
        for secret in &self.short {
            clean = without_word(&clean, secret);
        }
        for (pattern, shape) in &self.patterns {
            let replaced = pattern.replace_all(&clean, |found: &Captures<'_>| {
                let group = |number: usize| found.get(number).map_or("", |group| group.as_str());
                match shape {
                    // Another pattern was here before.
                    Shape::Between if group(0)[group(1).len()..].starts_with("(redacted") => group(0).to_owned(),
                    Shape::Whole => REDACTED.to_owned(),
                    Shape::Between => format!("{}{REDACTED}{}", group(1), group(2)),
                    Shape::UnlessDigest if group(1).is_empty() => REDACTED.to_owned(),
                    Shape::UnlessDigest => group(0).to_owned(),
                }
            });
            clean = replaced.into_owned();
        }
        clean
    }

    /// The object without what is secret in it; `env` keeps the values of our own variables only.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => {
                let mut after_flag = false;
                for item in items {
                    if after_flag && item.is_string() {
                        *item = REDACTED.into();
                    }
                    after_flag = item.as_str().is_some_and(|word| word.starts_with('-') && is_secret_name(word));
                    self.value(item);
                }
            }
            Value::Object(fields) => {
                let variable = fields.get("name").and_then(Value::as_str).map(str::to_owned);
                let foreign = variable.is_some_and(|name| !name.starts_with("JAM_") || is_secret_name(&name));
                for (key, inner) in fields.iter_mut() {
                    if inner.is_string() && (is_secret_name(key) || (foreign && key == "value")) {
                        *inner = REDACTED.into();
                    }
                    self.value(inner);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The text without this word where it is none of a longer one.
fn without_word(text: &str, word: &str) -> String {
    let is_part = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
    let (mut clean, mut from) = (String::with_capacity(text.len()), 0);
    for (at, _) in text.match_indices(word) {
        let end = at + word.len();
        if !is_part(text[..at].chars().next_back()) && !is_part(text[end..].chars().next()) {
            clean.push_str(&text[from..at]);
            clean.push_str(REDACTED);
            from = end;
        }
    }
    clean + &text[from..]
}

fn patterns() -> Vec<(Regex, Shape)> {
    let quoted = r#"\\"[^"]*\\"|"(?:[^"\\]|\\.)*"|'[^']*'"#;
    [
        (r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)".to_owned(), Shape::Whole),
        (r#"([A-Za-z][A-Za-z0-9+.-]*://)[^\s"'<>]*(@)"#.into(), Shape::Between),
        (r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}".into(), Shape::Between),
        (format!(r#"(?i)({NAMES}["'\\]*[ \t]*[:=][ \t]*)(?:{quoted})"#), Shape::Between),
        (format!(r#"(?i)({NAMES}["'\\]*[ \t]*:[ \t]+)[^"'\s,}}][^\r\n,}}]*"#), Shape::Between),
        (format!(r#"(?i)({NAMES}["'\\]*[:=])[^"'\s,;&}})\]]+"#), Shape::Between),
        (format!(r#"(?i)(--?[a-z-]*{NAMES}[ =])[^\s"',]+"#), Shape::Between),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.?[A-Za-z0-9_-]*".into(), Shape::Whole),
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b".into(), Shape::Whole),
        // The form of the tokens that the operator makes; of hashes as well, which nobody needs here.
        (r"(sha256:)?\b[0-9A-Fa-f]{40,}\b".into(), Shape::UnlessDigest),
    ]
    .map(|(pattern, shape)| (Regex::new(&pattern).expect("written here"), shape))
    .into()
}

/// Whether a name says that its value is secret: `pg_dsn`, `DB_PASSWORD`, `--admin-token`; not `token_hash`, `secretName`.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let ends = ["password", "passwd", "passphrase", "pwd", "secret", "token", "dsn", "authorization", "credential"];
    let keys = [
        "credentials",
        "private_key",
        "privatekey",
        "api_key",
        "apikey",
        "access_key",
        "accesskey",
        "access_key_id",
        "tokens",
    ];
    ends.iter().chain(&keys).any(|end| name.ends_with(end))
}

/// A secret as it is, in base64, percent-encoded, escaped in JSON, each of its lines, and the password in it when it is a URL.
fn forms(secret: &str) -> Vec<String> {
    let mut plain = vec![secret.to_owned(), secret.trim().to_owned()];
    plain.extend(secret.lines().map(|line| line.trim().to_owned()));
    let url = secret.contains("://") && secret.contains('@');
    plain.extend(passwords(secret));
    let mut all: Vec<String> = plain
        .iter()
        .filter(|form| form.len() >= SHORTEST)
        .flat_map(|form| {
            let json = Value::String(form.clone()).to_string();
            [
                form.clone(),
                json[1..json.len() - 1].replace('/', "\\/"),
                STANDARD.encode(form),
                STANDARD.encode(format!("{form}\n")),
                utf8_percent_encode(form, NON_ALPHANUMERIC).to_string(),
                json[1..json.len() - 1].to_owned(),
            ]
        })
        .collect();
    // Of a URL the user and the password go by a pattern; which host it was helps.
    all.retain(|form| !(url && form.contains("://") && form.contains('@')));
    all.sort();
    all.dedup();
    all
}

/// The passwords in a DSN, as they stand there and decoded.
fn passwords(secret: &str) -> Vec<String> {
    let userinfo = secret.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(userinfo, _)| userinfo);
    let first = userinfo.and_then(|userinfo| Some(userinfo.split_once(':')?.1));
    // libpq's other form, host=db password=hunter2, and a URL's parameter.
    let words = secret.split(|c: char| c.is_whitespace() || matches!(c, '?' | '&'));
    let written = first.into_iter().chain(words.filter_map(|word| word.strip_prefix("password=")));
    written.flat_map(|one| [one.to_owned(), percent_decode_str(one).decode_utf8_lossy().into_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_taken_out_of_a_text_and_what_helps_stays() {
        let redactor = Redactor::knowing([]);
        let token = "0123456789abcdef".repeat(4);
        for (text, clean) in [
            ("dial postgres://jam:p%40ss/w@db:5432/jam failed", "dial postgres://(redacted)@db:5432/jam failed"),
            ("Authorization: Bearer abc.def-123", "Authorization: (redacted)"),
            ("sent Bearer abcdef123 twice", "sent Bearer (redacted) twice"),
            (r#"{"token":"a b","token_hash":"0a1b2c3d"}"#, r#"{"token":(redacted),"token_hash":"0a1b2c3d"}"#),
            (r#"{\"pg_dsn\":\"host=db\",\"n\":1}"#, r#"{\"pg_dsn\":(redacted),\"n\":1}"#),
            ("password: correct horse battery", "password: (redacted)"),
            (r#"{"token":"abc"}"#, r#"{"token":(redacted)}"#),
            ("host=db password=hunter2 dbname=jam", "host=db password=(redacted) dbname=jam"),
            ("run --admin-token s3cr3t --listen x", "run --admin-token (redacted) --listen x"),
            ("secretName: main-token-hashes", "secretName: main-token-hashes"),
            ("rotation waits for pod main-1", "rotation waits for pod main-1"),
            ("image jam@sha256:", "image jam@sha256:"),
        ] {
            assert_eq!(redactor.text(text), clean);
        }
        assert_eq!(redactor.text(&format!("x{token}")), format!("x{token}"), "part of a longer word");
        assert_eq!(redactor.text(&format!("got {token}!")), "got (redacted)!");
        let digest = format!("jam@sha256:{token}");
        assert_eq!(redactor.text(&digest), digest, "the digest of an image is what helps");
        let key = "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nafter";
        assert_eq!(redactor.text(key), "(redacted)\nafter");
    }

    #[test]
    fn a_known_value_is_found_in_every_form_in_which_it_is_written() {
        let redactor = Redactor::knowing(["postgres://jam:s%2Fcret@db/jam".to_owned(), "my \"own\" token".into()]);
        for hidden in
            ["postgres://jam:s%2Fcret@db/jam", "s%2Fcret", "s/cret", "my \"own\" token", r#"my \"own\" token"#]
        {
            assert!(!redactor.text(&format!("saw {hidden} there")).contains(hidden), "{hidden}");
        }
        let encoded = STANDARD.encode("my \"own\" token");
        assert_eq!(redactor.text(&encoded), REDACTED);
    }

    #[test]
    fn a_short_password_of_a_dsn_is_taken_out_where_it_stands_alone() {
        for dsn in ["postgres://jam:a%2B1@db/jam", "host=db password=a+1 dbname=jam"] {
            let clean = Redactor::knowing([dsn.to_owned()]).text("user jam with a+1, not \"a+1\": data+1 and a+12");
            assert_eq!(clean, "user jam with (redacted), not \"(redacted)\": data+1 and a+12");
        }
        let of_others = Redactor::knowing(["db".to_owned()]);
        assert_eq!(of_others.text("db does not answer"), "db does not answer", "a short value is no password");
        let decoded = Redactor::knowing(["postgres://jam:ab@db/jam".to_owned()]);
        assert_eq!(decoded.text("ab abc cab ab"), "(redacted) abc cab (redacted)");
    }

    #[test]
    fn an_object_loses_values_of_foreign_variables_secret_fields_and_words_after_secret_flags() {
        let mut pod = json!({
            "env": [{"name": "SIDECAR", "value": "hunter2"}, {"name": "JAM_LOG", "value": "debug"}, {"name": "JAM_ALLOWED_TOKENS", "value": "x"}],
            "args": ["serve", "--token", "hunter2", "--log", "info"],
            "token": "hunter2", "tokens": ["fine"], "secretName": "db",
        });
        Redactor::knowing([]).value(&mut pod);
        let wanted = json!({
            "env": [{"name": "SIDECAR", "value": REDACTED}, {"name": "JAM_LOG", "value": "debug"}, {"name": "JAM_ALLOWED_TOKENS", "value": REDACTED}],
            "args": ["serve", "--token", REDACTED, "--log", "info"],
            "token": REDACTED, "tokens": ["fine"], "secretName": "db",
        });
        assert_eq!(pod, wanted);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
        #[test]
        fn no_spelling_of_a_dsns_password_is_left_whatever_a_program_prints(
            end in "[!-~]{1,20}",
            parameter in proptest::bool::ANY,
            before in "[ -~\n]{0,20}",
        ) {
            // It begins as nothing else in the text does.
            let password = format!("Zq9{end}");
            let encoded = utf8_percent_encode(&password, NON_ALPHANUMERIC).to_string();
            let escaped = Value::String(password.clone()).to_string();
            let dsn = if parameter {
                format!("postgres://db:5432/jam?user=jam&password={encoded}&sslmode=disable")
            } else {
                format!("postgres://jam:{encoded}@db:5432/jam")
            };
            let base64 = STANDARD.encode(&password);
            let redactor = Redactor::knowing([dsn.clone()]);
            let said = [
                format!("{before}{dsn} does not answer"),
                format!("{before}host=db password={password} dbname=jam"),
                format!("{before}{{\"password\":{escaped},\"dsn\":\"{}\"}}", dsn.replace('/', "\\/")),
                format!("{before}FATAL: {password} is wrong, and so is {encoded}"),
                format!("{before}data: {base64}"),
            ];
            for text in said {
                let clean = redactor.text(&text);
                for form in [&password, &encoded, &escaped[1..escaped.len() - 1].to_owned(), &base64] {
                    proptest::prop_assert!(!clean.contains(form), "{form} is left of {text:?}: {clean:?}");
                }
            }
        }
    }
}
