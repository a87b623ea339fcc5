//! `jam preimage`: upload, look at, download.

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jam_domain::{Code, Preimage, PreimageHash};
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::cli::answer::Answer;
use crate::cli::args::PreimageArgs;
use crate::cli::client::{Call, Client, Payload, Repeat, Reply};
use crate::cli::destination::Destination;
use crate::cli::fault::{Fault, Refused};
use crate::cli::outage::Class;
use crate::cli::progress::{Meter, size as readable};
use crate::cli::status;

/// `jam preimage`.
pub async fn run(client: &Client, args: PreimageArgs) -> Result<Answer, Fault> {
    let PreimageArgs { file, hash, content_type, stat, meta, get, destination } = args;
    match (file, hash, destination) {
        (Some(file), expected, _) => upload(client, file, expected, content_type).await,
        (None, Some(hash), _) if stat => headers(client, hash).await,
        (None, Some(hash), _) if meta => record(client, hash).await,
        (None, Some(hash), Some(destination)) if get => download(client, hash, &destination).await,
        (None, _, _) => Err(Fault::Usage("give --file F, or --stat, --meta or --get with --hash H".into())),
    }
}

async fn upload(
    client: &Client,
    path: PathBuf,
    expected: Option<PreimageHash>,
    content_type: Option<String>,
) -> Result<Answer, Fault> {
    let (hash, size) = hash_file(&path)?;
    if let Some(expected) = expected.filter(|expected| *expected != hash) {
        return Err(Fault::Usage(format!("{} hashes to {hash}, not to {expected}", path.display())));
    }
    let media_type = content_type.as_deref().unwrap_or("application/octet-stream");
    let media_type = HeaderValue::from_str(media_type)
        .map_err(|_| Fault::Usage(format!("--content-type {media_type:?} is not a media type")))?;
    let mut call = Call::new(Method::PUT, &["jam", "preimages", &hash.to_string()], Repeat::Always);
    call.headers.insert(CONTENT_TYPE, media_type);
    call.payload = Payload::File { path, size, meter: Arc::new(Meter::new(size)) };
    let reply = match client.send(call).await {
        Err(fault) => return Err(explain_broken_upload(client, fault, size).await),
        Ok(reply) => reply,
    };
    let preimage: Preimage = reply.json()?;
    let text = match reply.status {
        201 => format!("uploaded preimage {hash}\n"),
        _ => format!("preimage {hash} is already there\n"),
    };
    Ok(Answer::json(to_json(&preimage)).with_text(text).with_names(vec![hash.to_string()]))
}

/// A server that refuses early may close the connection before its answer is read: its limit tells why.
async fn explain_broken_upload(client: &Client, fault: Fault, size: u64) -> Fault {
    let Fault::Unreachable { class: Class::ProviderUnavailable, .. } = fault else { return fault };
    let Ok(limits) = status::read(client, None).await else { return fault };
    match limits.get("max_preimage_bytes").and_then(Value::as_u64) {
        Some(most) if most > 0 && size > most => Fault::Refused(Refused {
            status: Code::TooLarge.status(),
            code: Code::TooLarge.as_str().into(),
            message: format!("the file has {}, the server takes {} at most", readable(size), readable(most)),
            retry_after: None,
            details: None,
        }),
        _ => fault,
    }
}

/// Hash and length; refuses what can't be read twice, such as a pipe.
fn hash_file(path: &Path) -> Result<(PreimageHash, u64), Fault> {
    let failed = |cause| Fault::reading(path, cause);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Fault::Usage(format!("{} is not a regular file: it is hashed first, then sent", path.display())));
    }
    let (mut hasher, mut size, mut chunk) = (Sha256::new(), 0, vec![0; 128 * 1024]);
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => return Ok((PreimageHash(hasher.finalize().into()), size)),
            read => {
                hasher.update(&chunk[..read]);
                size += read as u64;
            }
        }
    }
}

async fn headers(client: &Client, hash: PreimageHash) -> Result<Answer, Fault> {
    let call = Call::new(Method::HEAD, &["jam", "preimages", &hash.to_string()], Repeat::Always);
    let reply = client.send(call).await.map_err(|fault| name_missing(fault, hash))?;
    let size = length_of(&reply);
    let media_type = reply.header("x-preimage-media-type").or(reply.header("content-type")).unwrap_or("-").to_owned();
    let text = format!(
        "hash={hash} size={} media_type={media_type}\n",
        size.map_or_else(|| "-".into(), |size| size.to_string())
    );
    let json = json!({"hash": hash, "size": size, "media_type": media_type});
    Ok(Answer::json(json).with_text(text).with_names(vec![hash.to_string()]))
}

fn length_of(reply: &Reply) -> Option<u64> {
    reply.header("x-preimage-size").or(reply.header(CONTENT_LENGTH.as_str())).and_then(|text| text.parse().ok())
}

async fn record(client: &Client, hash: PreimageHash) -> Result<Answer, Fault> {
    let call = Call::get(&["jam", "preimages", &hash.to_string(), "meta"]);
    let fields: Map<String, Value> = client.send(call).await.map_err(|fault| name_missing(fault, hash))?.json()?;
    Ok(Answer::json(Value::Object(fields)).with_names(vec![hash.to_string()]))
}

async fn download(client: &Client, hash: PreimageHash, destination: &Path) -> Result<Answer, Fault> {
    if destination == Path::new("-") {
        fetch(client, hash, &mut std::io::stdout().lock(), Fault::Output).await?;
        return Ok(Answer::text(String::new()));
    }
    let failed = |cause| Fault::writing(destination, cause);
    let mut out = Destination::open(destination).map_err(failed)?;
    let size = fetch(client, hash, &mut out, failed).await?;
    out.keep().map_err(failed)?;
    let json = json!({"hash": hash, "size": size, "file": destination.to_string_lossy()});
    let text = format!("saved preimage {hash} to {} ({})\n", destination.display(), readable(size));
    Ok(Answer::json(json).with_text(text).with_names(vec![hash.to_string()]))
}

/// Writes the bytes as they come and compares their hash at the end; gives their number.
async fn fetch<W: Write>(
    client: &Client,
    hash: PreimageHash,
    out: &mut W,
    failed: impl Fn(std::io::Error) -> Fault,
) -> Result<u64, Fault> {
    let call = Call::get(&["jam", "preimages", &hash.to_string()]);
    let mut response = client.open(&call).await.map_err(|fault| name_missing(fault, hash))?;
    let meter = Meter::new(response.content_length().unwrap_or_default());
    let mut hasher = Sha256::new();
    while let Some(chunk) = client.within(response.chunk()).await? {
        hasher.update(&chunk);
        meter.add(chunk.len() as u64);
        out.write_all(&chunk).map_err(&failed)?;
    }
    out.flush().map_err(&failed)?;
    let got = PreimageHash(hasher.finalize().into());
    if got == hash {
        Ok(meter.moved())
    } else {
        Err(Fault::Corrupt(format!("the bytes that came hash to {got}, not to {hash}: they are not kept")))
    }
}

/// Reads the bytes and keeps none: whether their hash is this one.
pub async fn compare(client: &Client, hash: PreimageHash) -> Result<(), Fault> {
    fetch(client, hash, &mut std::io::sink(), Fault::Output).await.map(drop)
}

/// A 404 of HEAD has no body: the hash is named here.
fn name_missing(fault: Fault, hash: PreimageHash) -> Fault {
    match fault {
        Fault::Refused(refused) if refused.status == 404 => {
            Fault::not_found(format!("preimage {hash} is not stored; upload it with `slctl jam preimage --file F`"))
        }
        other => other,
    }
}

fn to_json(preimage: &Preimage) -> Value {
    serde_json::to_value(preimage).expect("a record has string keys and finite numbers")
}
