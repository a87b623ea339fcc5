//! Admission: who is calling, may they, are they within their limit, and does what they send fit.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH};
use axum::http::request::Parts;
use jam_domain::client::{AddressBlock, client_address, limit_block};
use jam_domain::limit::{Rate, Verdict};
use jam_domain::page::Visible;
use jam_domain::token::{Known, Scope, TokenBook, TokenEntry, TokenHash, Unaccepted};
use jam_domain::{By, Code, Refusal, ServiceId, Settings, Timestamp, TokenId};

use super::action::{BodyRule, MAX_JSON, Permission, Rule};
use super::limiter::{Key, Limiter};
use super::metrics::{AuthFailure, Metrics, QuotaReject};
use super::query::Query;
use super::room::Room;
use super::tokens::Tokens;

/// What admission decides with.
pub struct Gate {
    /// The tokens in force.
    pub tokens: Arc<Tokens>,
    /// The tokens of administrators; `None`: there is no admin plane.
    pub admins: Option<Arc<Tokens>>,
    /// The rate limiter.
    pub limiter: Limiter,
    /// Proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<AddressBlock>,
    /// Room for blobs that are under way.
    pub blobs: Room,
    /// Room for bodies of JSON that are under way.
    pub json: Room,
    /// Room for lists on their way out.
    pub lists: Room,
    /// How long a client may keep us waiting.
    pub patience: Duration,
}

/// Who is calling.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token's id, `anonymous` without one.
    pub id: TokenId,
    /// The services that the token may touch; `None` is all.
    pub services: Visible,
    /// Whether the token is an administrator's.
    pub admin: bool,
    /// What the token file says of it; `None` without a token.
    pub entry: Option<TokenEntry>,
    /// Whose bucket the requests count in, and whose share of the room bodies take.
    pub bucket: Key,
}

/// A request that was let in.
pub struct Admitted<'a> {
    /// The segment of the path that stands for `{…}`.
    pub segment: &'a str,
    /// The query.
    pub query: Query,
    /// Who is calling.
    pub caller: Caller,
    /// The settings in force when it came.
    pub settings: Arc<Settings>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Bytes that the body may have.
    pub cap: u64,
    /// How long the client may keep us waiting for it.
    pub patience: Duration,
    /// Now.
    pub now: Timestamp,
}

impl Caller {
    fn anonymous(address: IpAddr) -> Self {
        Self {
            id: TokenId::anonymous(),
            services: None,
            admin: false,
            entry: None,
            bucket: Key::Address(limit_block(address)),
        }
    }

    fn of_entry(entry: &TokenEntry) -> Self {
        Self {
            id: entry.id.clone(),
            services: entry.services.clone(),
            admin: entry.carries(Scope::Admin),
            entry: Some(entry.clone()),
            bucket: Key::Token(entry.id.clone()),
        }
    }

    /// Refuses a token that may touch some services only, where what it asks for concerns all of them.
    pub fn may_touch_all(&self) -> Result<(), Refusal> {
        let Some(services) = &self.services else { return Ok(()) };
        let names: Vec<_> = services.iter().map(ServiceId::as_str).collect();
        let message = format!("this concerns every service, and this token may touch only {}", names.join(", "));
        Err(Refusal::new(Code::ServiceDenied, message))
    }

    /// Refuses a service that the token may not touch.
    pub fn may_touch(&self, service: &ServiceId) -> Result<(), Refusal> {
        match &self.services {
            Some(services) if !services.contains(service) => Err(denied(services, service)),
            Some(_) | None => Ok(()),
        }
    }
}

impl Admitted<'_> {
    /// Who asks, and when: for the audit.
    pub fn by(&self) -> By {
        By { token_id: self.caller.id.clone(), at: self.now }
    }

    /// Whether a list is to carry more than its items, as this flag asks; the bare array of old clients cannot.
    pub fn lists(&self, flag: &str) -> Result<bool, Refusal> {
        Ok(self.query.flag(flag)? && !self.settings.legacy_list_response)
    }

    /// Whether archived packages are asked for, which are for administrators only.
    pub fn archived(&self) -> Result<bool, Refusal> {
        match self.query.flag("archived")? {
            true if !self.caller.admin => {
                Err(Refusal::new(Code::AuthForbidden, "archived=true needs a token with scope admin"))
            }
            archived => Ok(archived),
        }
    }
}

fn denied(services: &BTreeSet<ServiceId>, service: &ServiceId) -> Refusal {
    let names: Vec<_> = services.iter().map(ServiceId::as_str).collect();
    let message = format!("this token may not touch service {service}, only {}", names.join(", "));
    Refusal::new(Code::ServiceDenied, message)
}

impl Gate {
    /// Lets a request in, or refuses it. The order is the contract's: token, scope, rate, size; the verdict of the rate
    /// limit is handed out either way.
    pub async fn admit<'a>(
        &self,
        settings: &Arc<Settings>,
        metrics: &Metrics,
        rule: &Rule,
        (parts, segment, peer): (&'a Parts, &'a str, IpAddr),
        verdict: &mut Option<Verdict>,
    ) -> Result<Admitted<'a>, Refusal> {
        let now = Timestamp::now();
        let caller = self.who(settings, rule.permission, parts, peer, now).map_err(|failure| {
            metrics.auth_failure(failure.0);
            tracing::info!(token_hash = failure.1.as_str(), reason = failure.0.as_str(), "request refused");
            failure.2
        })?;
        if rule.limited
            && let Some(rate) = Rate::per_minute(settings.rate_limit_per_minute)
        {
            self.within(&caller, rate, now, metrics, verdict).await?;
        }
        let cap = cap_of(rule.body, settings, &caller);
        fits(rule.body, cap, &parts.headers).inspect_err(|_| {
            if rule.body == BodyRule::Blob {
                metrics.quota_reject(QuotaReject::TooLarge);
            }
            tracing::info!(
                token_hash = caller.id.as_str(),
                reason = "too_large",
                limit = cap,
                quota_hit = true,
                "request refused"
            );
        })?;
        let query = match rule.permission {
            // What everyone may ask takes no parameters: whatever a probe appends is not looked at.
            Permission::Open => Query::default(),
            Permission::OpenHealth | Permission::Needs(_) | Permission::Administers => {
                Query::parse(parts.uri.query().unwrap_or_default())?
            }
        };
        let settings = settings.clone();
        Ok(Admitted { segment, query, caller, settings, headers: &parts.headers, cap, patience: self.patience, now })
    }

    fn who(
        &self,
        settings: &Settings,
        permission: Permission,
        parts: &Parts,
        peer: IpAddr,
        now: Timestamp,
    ) -> Result<Caller, (AuthFailure, TokenId, Refusal)> {
        let needed = match permission {
            Permission::Open => None,
            Permission::OpenHealth => (!settings.health_public).then_some(Scope::Read),
            Permission::Needs(scope) => Some(scope),
            Permission::Administers => Some(Scope::Admin),
        };
        let address = self.address_of(peer, &parts.headers);
        let Some(scope) = needed else { return Ok(Caller::anonymous(address)) };
        let token = bearer(&parts.headers);
        if let Some(caller) = self.administrator(token, scope, now)? {
            return Ok(caller);
        }
        let book = self.tokens.book();
        if permission == Permission::Administers {
            let Some(token) = token else { return Err(missing()) };
            return Err(match book.decide(token, now) {
                Ok(Known(entry)) => no_administrator(entry.id.clone()),
                Err(why) => unaccepted(why, TokenHash::of(token).id()),
            });
        }
        if !settings.auth_required {
            return without_auth(&book, token, scope, address, now);
        }
        let Some(token) = token else { return Err(missing()) };
        match book.decide(token, now) {
            Ok(Known(entry)) if entry.carries(scope) => Ok(Caller::of_entry(entry)),
            Ok(Known(entry)) => Err(lacks(scope, entry.id.clone())),
            Err(why) => Err(unaccepted(why, TokenHash::of(token).id())),
        }
    }

    /// The caller when the token is one of the admin token file. Being in that file is what makes an administrator: an entry
    /// that names no scopes carries all of them.
    fn administrator(
        &self,
        token: Option<&str>,
        scope: Scope,
        now: Timestamp,
    ) -> Result<Option<Caller>, (AuthFailure, TokenId, Refusal)> {
        let (Some(admins), Some(token)) = (&self.admins, token) else { return Ok(None) };
        let book = admins.book();
        let entry = match book.decide(token, now) {
            Ok(Known(entry)) => entry,
            // The other file may know the same token.
            Err(Unaccepted::Expired) if self.tokens.book().decide(token, now) == Err(Unaccepted::Unknown) => {
                return Err(unaccepted(Unaccepted::Expired, TokenHash::of(token).id()));
            }
            Err(Unaccepted::Unknown | Unaccepted::Expired | Unaccepted::NotAllowed) => return Ok(None),
        };
        let carries = |scope| entry.scopes.as_ref().is_none_or(|scopes| scopes.contains(&scope));
        if !carries(scope) {
            return Err(lacks(scope, entry.id.clone()));
        }
        Ok(Some(Caller { admin: carries(Scope::Admin), ..Caller::of_entry(entry) }))
    }

    async fn within(
        &self,
        caller: &Caller,
        rate: Rate,
        now: Timestamp,
        metrics: &Metrics,
        out: &mut Option<Verdict>,
    ) -> Result<(), Refusal> {
        let verdict = self.limiter.count(caller.bucket.clone(), rate, now).await;
        *out = Some(verdict);
        over(verdict, caller, "rate", metrics)
    }

    /// Counts a submission against the service's own limit of packages a minute.
    pub async fn service_within(
        &self,
        settings: &Settings,
        metrics: &Metrics,
        caller: &Caller,
        service: &ServiceId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        match Rate::per_minute(settings.service_packages_per_minute(service)) {
            Some(rate) => {
                let verdict = self.limiter.count(Key::Service(service.clone()), rate, now).await;
                over(verdict, caller, "service_rate", metrics)
            }
            None => Ok(()),
        }
    }

    fn address_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if self.trusted_proxies.is_empty() {
            return peer;
        }
        let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
        let hops: Vec<&str> = lines.iter().flat_map(|line| line.split(',')).collect();
        client_address(peer, hops.into_iter(), &self.trusted_proxies)
    }
}

fn over(verdict: Verdict, caller: &Caller, reason: &'static str, metrics: &Metrics) -> Result<(), Refusal> {
    let Some(seconds) = verdict.retry_after else { return Ok(()) };
    metrics.rate_limit_hits.inc();
    tracing::info!(token_hash = caller.id.as_str(), reason, limit = verdict.limit, "request refused");
    let message = format!("more than {} requests a minute: try again in {seconds} s", verdict.limit);
    Err(Refusal::new(Code::RateLimit, message).retry_after(seconds))
}

/// Where no token is required, a known one still narrows and still carries admin; any other counts as none.
fn without_auth(
    book: &TokenBook,
    token: Option<&str>,
    scope: Scope,
    address: IpAddr,
    now: Timestamp,
) -> Result<Caller, (AuthFailure, TokenId, Refusal)> {
    let known = token.and_then(|token| book.decide(token, now).ok());
    match known {
        Some(Known(entry)) if entry.carries(scope) => Ok(Caller::of_entry(entry)),
        Some(Known(entry)) => Err(lacks(scope, entry.id.clone())),
        None if Scope::DEFAULT.contains(&scope) => Ok(Caller::anonymous(address)),
        None => Err(lacks(scope, TokenId::anonymous())),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    // Of two, nobody can tell which one a proxy before this server has looked at.
    let given = given.next().filter(|_| given.next().is_none())?;
    let (scheme, token) = given.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn missing() -> (AuthFailure, TokenId, Refusal) {
    let refusal = Refusal::new(Code::AuthMissing, "a token is required: send Authorization: Bearer <token>");
    (AuthFailure::Missing, TokenId::anonymous(), refusal)
}

fn lacks(scope: Scope, id: TokenId) -> (AuthFailure, TokenId, Refusal) {
    let refusal = Refusal::new(Code::AuthForbidden, format!("this needs a token with scope {scope}"));
    (AuthFailure::Scope, id, refusal)
}

fn no_administrator(id: TokenId) -> (AuthFailure, TokenId, Refusal) {
    let refusal = Refusal::new(Code::AuthForbidden, "this needs an administrator's token, one of admin_tokens_file");
    (AuthFailure::Scope, id, refusal)
}

fn unaccepted(why: Unaccepted, id: TokenId) -> (AuthFailure, TokenId, Refusal) {
    // A token that is not accepted is as good as none: 401, so that a client reads its credentials again.
    match why {
        Unaccepted::Unknown => {
            (AuthFailure::Unknown, id, Refusal::new(Code::AuthMissing, "this token is not known (any more)"))
        }
        Unaccepted::Expired => {
            (AuthFailure::Expired, id, Refusal::new(Code::AuthMissing, "this token has expired, or is not valid yet"))
        }
        Unaccepted::NotAllowed => {
            (AuthFailure::Unknown, id, Refusal::new(Code::AuthForbidden, "this token is not in the allowlist of JAM"))
        }
    }
}

fn cap_of(body: BodyRule, settings: &Settings, caller: &Caller) -> u64 {
    match body {
        BodyRule::None => 0,
        BodyRule::Json => MAX_JSON,
        BodyRule::Blob => match settings.preimage_cap(caller.services.as_ref()) {
            0 => u64::MAX,
            cap => cap,
        },
    }
}

/// The length of the body, when it is announced.
pub fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses a body that announces more than fits; what does not announce its size is counted while it streams.
fn fits(body: BodyRule, cap: u64, headers: &HeaderMap) -> Result<(), Refusal> {
    match (body, announced(headers)) {
        (BodyRule::Json | BodyRule::Blob, Some(size)) if size > cap => Err(too_large(cap)),
        (BodyRule::None | BodyRule::Json | BodyRule::Blob, _) => Ok(()),
    }
}

/// The refusal of a body that is larger than fits.
pub fn too_large(cap: u64) -> Refusal {
    Refusal::new(Code::TooLarge, format!("the body is larger than {cap} bytes"))
        .details(serde_json::json!({"limit": cap}))
}
