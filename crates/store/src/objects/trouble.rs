//! What can go wrong between here and the blob store, in words that no credential gets into.

use crate::{StoreError, innermost};

/// Why an object could not be written, read or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// There is no such object.
    #[error("the object is not there")]
    Missing,
    /// It answers, and will not serve us before somebody changes something.
    #[error("the blob store {place} refuses: {why}")]
    Refused {
        /// Which blob store.
        place: String,
        /// What it said, and what to do.
        why: String,
    },
    /// It does not answer: try again later.
    #[error("the blob store {place} does not answer: {why}")]
    Away {
        /// Which blob store.
        place: String,
        /// What happened.
        why: String,
    },
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        // What is refused now can be put right without a new release, and then the same request succeeds.
        StoreError::Unavailable(trouble.to_string())
    }
}

/// What the codes of <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html> mean that somebody has to act on.
fn advice(code: &str) -> Option<&'static str> {
    match code {
        "NoSuchBucket" => Some("create the bucket, or correct its name"),
        // NotSignedUp is how some servers say that they do not know the key.
        "InvalidAccessKeyId" | "NotSignedUp" => {
            Some("the access key is unknown there: check AWS_ACCESS_KEY_ID and the endpoint")
        }
        "SignatureDoesNotMatch" => Some("the secret key is wrong: check AWS_SECRET_ACCESS_KEY and AWS_REGION"),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            Some("the session is over: renew AWS_SESSION_TOKEN")
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => {
            Some("allow this key s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload there")
        }
        "RequestTimeTooSkewed" => Some("set this machine's clock"),
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
            Some("the bucket is in another region: set AWS_REGION")
        }
        _ => None,
    }
}

/// The code in an answer of S3. The rest of the answer repeats key and signature, so nothing else of it is told.
pub(super) fn code_in(text: &str) -> Option<&str> {
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    (!code.is_empty() && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
}

/// The words of the status in an error of the library, where the answer had no code.
fn status_in(text: &str) -> Option<&str> {
    let rest = text.split_once("status code: ")?.1;
    Some(rest.split(':').next().unwrap_or(rest).trim())
}

pub(super) fn trouble(place: &str, anonymous: bool, error: &object_store::Error) -> Trouble {
    let (text, place) = (error.to_string(), place.to_owned());
    let code = code_in(&text);
    if let Some((code, advice)) = code.and_then(|code| Some((code, advice(code)?))) {
        return Trouble::Refused { place, why: format!("{code}; {advice}") };
    }
    match error {
        object_store::Error::NotFound { .. } => Trouble::Missing,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            let said = code.or_else(|| status_in(&text)).unwrap_or("permission denied");
            Trouble::Refused { place, why: format!("{said}; check the credentials and what they are allowed") }
        }
        // The library's own enum, which may grow: whatever else it is may pass.
        _ => {
            let answered = code.or_else(|| status_in(&text)).map(|said| format!("it answered {said}"));
            let mut why = answered.unwrap_or_else(|| innermost(error));
            if anonymous {
                why.push_str("; no AWS_ACCESS_KEY_ID is set, so the node was asked for credentials");
            }
            Trouble::Away { place, why }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(answer: &str) -> Trouble {
        let path = "p".to_owned();
        trouble("s3://b", false, &object_store::Error::PermissionDenied { path, source: answer.to_owned().into() })
    }

    #[test]
    fn of_what_s3_answers_only_the_code_is_told() {
        let answer = "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>hush</AWSAccessKeyId></Error>";
        let Trouble::Refused { place, why } = denied(answer) else { panic!("it is refused") };
        assert_eq!(place, "s3://b");
        assert!(why.starts_with("SignatureDoesNotMatch; the secret key is wrong"), "{why}");
        let told = denied("Server returned non-2xx status code: 403 Forbidden: hush").to_string();
        assert!(told.contains("403 Forbidden") && !told.contains("hush"), "{told}");
        let (path, answer) = ("p".to_owned(), "404: <Code>NoSuchBucket</Code>");
        let gone = object_store::Error::NotFound { path, source: answer.into() };
        let told = trouble("s3://b", false, &gone).to_string();
        assert_eq!(told, "the blob store s3://b refuses: NoSuchBucket; create the bucket, or correct its name");
        let told = denied("<Code>hush!</Code>").to_string();
        assert!(!told.contains("hush"), "{told}");
    }
}
