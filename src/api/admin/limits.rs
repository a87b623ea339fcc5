//! The rate limit's buckets: looked at, and emptied.

use axum::response::Response;
use hyper::body::Incoming;
use jam_domain::audit::{Act, Deed};
use jam_domain::control::named;
use jam_domain::limit::{Rate, Verdict};
use jam_domain::page::MAX_LIMIT;
use jam_domain::{Settings, Timestamp};
use serde_json::json;

use super::gone;
use crate::api::admit::Admitted;
use crate::api::body::received;
use crate::api::controls;
use crate::api::fault::{Fault, not_found, ok};
use crate::api::limiter::InUse;
use crate::api::shapes::admin::{BucketInUse, Items};
use crate::api::state::Api;

/// GET /jam/admin/rate-limits: the buckets that are not empty, by key.
pub async fn all(api: &Api, admitted: &Admitted<'_>) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    // Against the limits that are in force everywhere.
    controls::refresh(api).await?;
    let most = match admitted.query.number("limit")? {
        None | Some(0) => MAX_LIMIT,
        Some(limit) => u32::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
    };
    let (used, settings) = (api.gate.limiter.buckets(most, admitted.now).await?, api.settings());
    let items = used.into_iter().filter_map(|bucket| shown(&settings, bucket, admitted.now));
    Ok(ok(&Items { items: items.collect::<Vec<_>>() }))
}

/// A bucket against the limit in force; one whose limit was turned off counts for nothing.
fn shown(settings: &Settings, InUse { key, bucket }: InUse, now: Timestamp) -> Option<BucketInUse> {
    let of_service = key.strip_prefix("service:").and_then(|service| service.parse().ok());
    let per_minute = match &of_service {
        Some(service) => settings.service_packages_per_minute(service),
        None => settings.rate_limit_per_minute,
    };
    let Verdict { bucket: _, limit, remaining, reset, retry_after: _ } =
        Rate::per_minute(per_minute)?.look(bucket, now);
    Some(BucketInUse { key, limit, remaining, reset })
}

/// POST /jam/admin/rate-limits {key}. The line of the audit is written first: a reset that nobody knows of must not be.
pub async fn reset(api: &Api, admitted: &Admitted<'_>, body: &mut Incoming) -> Result<Response, Fault> {
    admitted.caller.may_touch_all()?;
    let key: String = named("key", &received(api, admitted, body).await?.0)?;
    let used = api.gate.limiter.buckets(u32::MAX, admitted.now).await?;
    let Some(found) = used.into_iter().find(|bucket| bucket.key == key) else {
        return Err(not_found("bucket in use").into());
    };
    let before = shown(&admitted.settings, found, admitted.now).map(|bucket| json!({"remaining": bucket.remaining}));
    let deed = Deed::of(&admitted.by(), Act::ResetBucket, &key, before.unwrap_or_default(), json!(null));
    api.store.note(deed).await?;
    api.gate.limiter.reset(&key).await?;
    tracing::info!(key, token_hash = admitted.caller.id.as_str(), "bucket emptied");
    Ok(gone())
}
