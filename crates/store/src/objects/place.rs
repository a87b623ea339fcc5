//! Where the objects are: the URL of the settings and the AWS variables, made into a client or into words about what is wrong.

use std::path::PathBuf;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, RetryConfig};

use super::{Backend, Inner};
use crate::innermost;

/// How long one request may take before it is tried again, and how long a connection.
const REQUEST: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(3);

/// What the URL says.
enum Place {
    Bucket { bucket: String, prefix: Path },
    Directory(PathBuf),
}

fn parse(url: &str) -> Result<Place, String> {
    if let Some(rest) = url.strip_prefix("s3://") {
        if rest.contains(['@', '?', '#']) {
            // Not repeated: it may be a key.
            return Err(
                "has a user or parameters in its s3:// URL: write s3://bucket/prefix, and give credentials by \
                        AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    .into(),
            );
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let inside = |byte: u8| plain(byte) || byte == b'-' || byte == b'.';
        let (first, last) = (bucket.bytes().next(), bucket.bytes().last());
        let ends = first.is_some_and(plain) && last.is_some_and(plain);
        if !(3..=63).contains(&bucket.len()) || !ends || !bucket.bytes().all(inside) {
            return Err(format!(
                "names the bucket {bucket:?}, which no bucket can be called: write s3://bucket/prefix"
            ));
        }
        let prefix = Path::parse(prefix).map_err(|problem| format!("has a prefix that can't be: {problem}"))?;
        return Ok(Place::Bucket { bucket: bucket.to_owned(), prefix });
    }
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Place::Directory(path.into())),
        Some(_) => Err("must name a directory by its absolute path: file:///dir".into()),
        None => Err("must be s3://bucket/prefix or file:///dir".into()),
    }
}

/// Reads the URL and those of the variables that begin with `AWS_`. Nothing is asked over the network.
pub(super) fn open(url: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Inner, String> {
    match parse(url)? {
        Place::Bucket { bucket, prefix } => {
            let (s3, at, anonymous) = bucket_of(&bucket, variables)?;
            Ok(Inner {
                backend: Backend::S3(s3),
                prefix,
                place: format!("{url} at {at}"),
                anonymous,
                last: None.into(),
            })
        }
        Place::Directory(directory) => {
            let wrong = |problem: &dyn std::fmt::Display| {
                let directory = directory.display();
                format!("names the directory {directory}: {problem}. Create it, or mount the volume that it is on")
            };
            if !std::fs::metadata(&directory).map_err(|error| wrong(&error))?.is_dir() {
                return Err(wrong(&"it is none"));
            }
            let files = LocalFileSystem::new_with_prefix(&directory).map_err(|error| wrong(&error))?.with_fsync(true);
            let backend = Backend::Files { files, root: directory };
            Ok(Inner { backend, prefix: Path::default(), place: url.to_owned(), anonymous: false, last: None.into() })
        }
    }
}

/// The client of a bucket, where it is, and whether nobody gave it credentials.
fn bucket_of(
    bucket: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(AmazonS3, String, bool), String> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(1), base: 2.0 };
    let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(5) };
    let client = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT);
    // Objects go one by one here; not every server knows how to remove several at once.
    let builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
    let mut builder = builder.with_disable_bulk_delete(true);
    for (name, value) in variables {
        // A blank variable is one that somebody left out; one that the library does not know is another program's.
        let key = name.starts_with("AWS_").then(|| name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>());
        if let Some(Ok(key)) = key
            && !value.trim().is_empty()
        {
            builder = builder.with_config(key, value.trim());
        }
    }
    let value = |key| builder.get_config_value(&key);
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
    let plain = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    let plain = plain.is_some_and(|allowed| ["1", "true", "on", "yes", "y"].contains(&&*allowed.to_ascii_lowercase()));
    if let Some(endpoint) = &endpoint {
        if endpoint.contains('@') || !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err("has an AWS_ENDPOINT_URL that is not https://host:port".into());
        }
        if endpoint.starts_with("http://") && !plain {
            return Err(format!("is at {endpoint}, without TLS: use https, or set AWS_ALLOW_HTTP=true"));
        }
    }
    let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".into());
    let sources = [
        AmazonS3ConfigKey::AccessKeyId,
        AmazonS3ConfigKey::WebIdentityTokenFile,
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
        AmazonS3ConfigKey::SkipSignature,
    ];
    let anonymous = !sources.into_iter().any(|key| value(key).is_some_and(|value| value != "false"));
    let at = endpoint.unwrap_or_else(|| format!("Amazon S3, region {region}"));
    let s3 = builder.with_bucket_name(bucket).build();
    let s3 = s3.map_err(|error| format!("can't be used with the AWS variables that are set: {}", innermost(&error)))?;
    Ok((s3, at, anonymous))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(url: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        open(url, variables).map(|inner| inner.place)
    }

    #[test]
    fn a_url_that_names_no_place_is_refused_with_what_to_write() {
        for (url, told) in [
            ("bucket/prefix", "must be s3://bucket/prefix or file:///dir"),
            ("https://bucket", "must be s3://bucket/prefix or file:///dir"),
            ("s3://B/prefix", "names the bucket \"B\""),
            ("s3:///prefix", "names the bucket \"\""),
            ("s3://bucket/a//b", "has a prefix that can't be"),
            ("file://dir", "by its absolute path"),
            ("file:///", "by its absolute path"),
            ("file:///no/such/directory", "Create it, or mount the volume"),
            ("file:///dev/null", "it is none"),
        ] {
            let refused = opened(url, &[]).unwrap_err();
            assert!(refused.contains(told), "{url}: {refused}");
        }
    }

    #[test]
    fn no_part_of_credentials_in_the_wrong_place_is_repeated() {
        let keys = [("AWS_ENDPOINT_URL", "https://hush:hush@minio")];
        for refused in
            [opened("s3://hush:hush@bucket/p", &[]), opened("s3://bucket?key=hush", &[]), opened("s3://bucket", &keys)]
        {
            let refused = refused.unwrap_err();
            assert!(!refused.contains("hush"), "{refused}");
        }
    }

    #[test]
    fn half_a_pair_of_keys_and_an_endpoint_without_tls_are_refused() {
        let half = opened("s3://bucket", &[("AWS_SECRET_ACCESS_KEY", "hush")]).unwrap_err();
        assert!(half.contains("AccessKeyId") && !half.contains("hush"), "{half}");
        let endpoint = ("AWS_ENDPOINT_URL_S3", "http://minio:9000");
        let refused = opened("s3://bucket", &[endpoint]).unwrap_err();
        assert!(refused.contains("set AWS_ALLOW_HTTP=true"), "{refused}");
        let opened = opened("s3://bucket/p/", &[endpoint, ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", " ")]);
        assert_eq!(opened.as_deref(), Ok("s3://bucket/p/ at http://minio:9000"));
    }
}
