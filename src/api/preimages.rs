//! Preimages: uploaded and read as streams, never held whole.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use futures::StreamExt;
use hyper::body::Incoming;
use jam_domain::byte_range::{Part, matches_etag, part};
use jam_domain::names::is_media_type;
use jam_domain::{Code, Preimage, PreimageHash, Refusal, StoreKind};
use jam_store::{BlobBody, Put, StoreError, Upload};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::Instant;

use super::admit::{Admitted, announced};
use super::body::checked;
use super::fault::{Fault, Plane, json_response, not_found, ok, refused};
use super::metrics::QuotaReject;
use super::room::Turn;
use super::state::Api;

/// Bytes of a download that are held at once, whatever the blob's size: what the store and the socket buffer.
const WINDOW: u64 = 1 << 20;
/// Characters of a media type at most.
const MAX_MEDIA_TYPE: usize = 255;

/// PUT /jam/preimages/{hash}.
pub async fn put(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    let started = Instant::now();
    let hash = hash_of(admitted)?;
    let media_type = media_type_of(api, admitted)?;
    let size_hint = announced(admitted.headers);
    // The memory store holds every blob whole anyway; while it arrives it counts whole.
    let whole = admitted.settings.store == StoreKind::Memory;
    let held = if whole { size_hint.unwrap_or(admitted.cap) } else { api.store.upload_window() };
    let _turn = api.gate.blobs.turn(&admitted.caller.bucket, held.min(size_hint.unwrap_or(u64::MAX))).await?;
    let upload = Upload { hash, size_hint, media_type, uploader: admitted.caller.id.clone(), now: admitted.now };
    let put =
        api.store.put_preimage(upload, checked(body, hash, admitted.cap, admitted.patience)).await.map_err(Fault::from);
    let put = put.inspect_err(|fault| rejected(api, admitted, fault))?;
    let metrics = &api.pulse.metrics;
    metrics.preimage_put.inc();
    metrics.preimage_put_duration.observe(started.elapsed().as_secs_f64());
    let (status, preimage) = match put {
        Put::Created(preimage) => (StatusCode::CREATED, preimage),
        Put::AlreadyThere(preimage) => (StatusCode::OK, preimage),
    };
    if status == StatusCode::CREATED {
        metrics.preimage_bytes.inc_by(preimage.size);
    }
    tracing::info!(
        hash = %preimage.hash, size = preimage.size, media_type = preimage.media_type, store = api.store_name(),
        token_hash = admitted.caller.id.as_str(), quota_hit = false, created = status == StatusCode::CREATED, "preimage"
    );
    let mut response = json_response(status, &preimage);
    tag(response.headers_mut(), &preimage);
    Ok(response)
}

fn rejected(api: &Api, admitted: &Admitted<'_>, fault: &Fault) {
    if fault.code() == Code::TooLarge {
        api.pulse.metrics.quota_reject(QuotaReject::TooLarge);
        let token = admitted.caller.id.as_str();
        tracing::info!(
            token_hash = token,
            reason = "too_large",
            limit = admitted.cap,
            quota_hit = true,
            "preimage refused"
        );
    }
}

/// HEAD /jam/preimages/{hash}.
pub async fn head(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    api.pulse.metrics.preimage_head.inc();
    let preimage = record(api, admitted).await?;
    let mut response = Response::new(Body::empty());
    if is_known(admitted, &preimage) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        describe(response.headers_mut(), &preimage, preimage.size);
    }
    tag(response.headers_mut(), &preimage);
    Ok(response)
}

/// GET /jam/preimages/{hash}: whole, in part, or not again.
pub async fn read(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    api.pulse.metrics.preimage_get.inc();
    let hash = hash_of(admitted)?;
    let conditional = [IF_NONE_MATCH, RANGE].iter().any(|name| admitted.headers.contains_key(name));
    if !conditional {
        return send(api, admitted, hash, None).await;
    }
    let preimage = record(api, admitted).await?;
    if is_known(admitted, &preimage) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        tag(response.headers_mut(), &preimage);
        return Ok(response);
    }
    match part(range_header(admitted.headers, &preimage), preimage.size) {
        Part::Whole => send(api, admitted, hash, None).await,
        Part::Bytes(range) => send(api, admitted, hash, Some(range)).await,
        Part::OutOfRange => Ok(out_of_range(&preimage)),
    }
}

/// GET /jam/preimages/{hash}/meta.
pub async fn meta(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    Ok(ok(&record(api, admitted).await?))
}

/// DELETE /jam/preimages/{hash}.
pub async fn delete(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    let hash = hash_of(admitted)?;
    match api.store.delete_preimage(hash, &admitted.by()).await? {
        Some(true) => {
            tracing::info!(%hash, store = api.store_name(), token_hash = admitted.caller.id.as_str(), "preimage deleted");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        Some(false) => Err(Refusal::new(Code::Conflict, "packages refer to this preimage").into()),
        None => Err(not_found("preimage").into()),
    }
}

async fn record(api: &Api, admitted: &Admitted<'_>) -> Result<Preimage, Fault> {
    let hash = hash_of(admitted)?;
    Ok(api.store.preimage(hash).await?.ok_or_else(|| not_found("preimage"))?)
}

async fn send(
    api: &Api,
    admitted: &Admitted<'_>,
    hash: PreimageHash,
    range: Option<Range<u64>>,
) -> Result<Response, Fault> {
    let held = range.as_ref().map_or(WINDOW, |r| (r.end - r.start).min(WINDOW));
    let turn = api.gate.blobs.turn(&admitted.caller.bucket, held).await?;
    let asked = range.clone().unwrap_or(0..u64::MAX);
    let (preimage, bytes) = api.store.read_preimage(hash, asked).await?.ok_or_else(|| not_found("preimage"))?;
    let mut response = Response::new(sent(bytes, turn));
    if let Some(Range { start, end }) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        describe(response.headers_mut(), &preimage, end - start);
        set(response.headers_mut(), CONTENT_RANGE, &format!("bytes {start}-{}/{}", end - 1, preimage.size));
    } else {
        describe(response.headers_mut(), &preimage, preimage.size);
    }
    tag(response.headers_mut(), &preimage);
    Ok(response)
}

/// The bytes on their way out; the turn is given back when the last one has left, or the client has.
fn sent(bytes: BlobBody, turn: Turn) -> Body {
    let held = Arc::new(turn);
    // Bytes leave when the request's own future has ended; what is said of them is said of that request all the same.
    let lines = tracing::Span::current();
    Body::from_stream(bytes.map(move |chunk| {
        let _held = &held;
        let complain = |error: &StoreError| tracing::error!(%error, "a preimage broke off on its way out");
        chunk.inspect_err(|error| lines.in_scope(|| complain(error)))
    }))
}

fn hash_of(admitted: &Admitted<'_>) -> Result<PreimageHash, Refusal> {
    admitted.segment.parse().map_err(|problem: String| Refusal::field("hash", problem))
}

fn media_type_of(api: &Api, admitted: &Admitted<'_>) -> Result<String, Refusal> {
    let mut lines = admitted.headers.get_all(CONTENT_TYPE).iter();
    let sent = lines.next().map_or(Ok("application/octet-stream"), |value| value.to_str());
    let wrong =
        || Refusal::field("Content-Type", format!("must be one media type of at most {MAX_MEDIA_TYPE} characters"));
    let media_type = sent.map_err(|_| wrong())?.trim();
    let essence = media_type.split(';').next().unwrap_or_default().trim_end();
    if lines.next().is_some() || media_type.len() > MAX_MEDIA_TYPE || !is_media_type(essence) {
        return Err(wrong());
    }
    if admitted.settings.accepts_media_type(media_type) {
        return Ok(media_type.to_owned());
    }
    api.pulse.metrics.quota_reject(QuotaReject::UnsupportedMedia);
    let allowed = admitted.settings.allowed_media_types.join(", ");
    tracing::info!(
        token_hash = admitted.caller.id.as_str(),
        reason = "unsupported_media",
        limit = allowed,
        media_type,
        quota_hit = true,
        "preimage refused"
    );
    Err(Refusal::new(Code::UnsupportedMediaType, format!("{media_type} is not allowed here, only {allowed}")))
}

fn is_known(admitted: &Admitted<'_>, preimage: &Preimage) -> bool {
    let etag = preimage.hash.to_string();
    let lines = admitted.headers.get_all(IF_NONE_MATCH);
    lines.iter().filter_map(|line| line.to_str().ok()).any(|line| matches_etag(line, &etag))
}

fn range_header<'a>(headers: &'a HeaderMap, preimage: &Preimage) -> Option<&'a str> {
    let still_the_same = headers.get(IF_RANGE).is_none_or(|tag| tag == &format!("\"{}\"", preimage.hash));
    headers.get(RANGE).filter(|_| still_the_same)?.to_str().ok()
}

fn out_of_range(preimage: &Preimage) -> Response {
    let refusal = Refusal::field("Range", format!("lies outside of the {} bytes", preimage.size));
    let mut response = refused(&refusal, Plane::Jam);
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    set(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{}", preimage.size));
    response
}

fn describe(headers: &mut HeaderMap, preimage: &Preimage, length: u64) {
    set(headers, CONTENT_TYPE, &preimage.media_type);
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // The media type is the uploader's word: a browser must not make more of it.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-preimage-size", preimage.size.into());
    set(headers, "x-preimage-hash", &preimage.hash.to_string());
    set(headers, "x-preimage-media-type", &preimage.media_type);
}

fn tag(headers: &mut HeaderMap, preimage: &Preimage) {
    set(headers, ETAG, &format!("\"{}\"", preimage.hash));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, immutable"));
}

fn set(headers: &mut HeaderMap, name: impl axum::http::header::IntoHeaderName, text: &str) {
    // What is stored came in through a header, so that it fits into one again.
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}
