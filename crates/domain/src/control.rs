//! What administrators set at run time: overrides of settings, quotas of services, delegates of services.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fields::{Fields, object_of, whole};
use crate::names::{ServiceId, TokenId};
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::time::Timestamp;
use crate::token::TokenHash;

/// The largest value of each number, as in the settings.
const MAX_RATE: u64 = 10_000_000;
pub(crate) const MAX_PENDING: u64 = 10_000_000;
pub(crate) const MAX_BYTES: u64 = 1_099_511_627_776;
/// Characters of a delegate's name at most.
const MAX_DELEGATE_NAME: usize = 128;

/// A setting that can be overridden at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Toggle {
    /// Whether `/jam/*` is served.
    Enabled,
    /// Requests a minute for one token.
    RateLimitPerMinute,
    /// Largest preimage in bytes.
    MaxPreimageBytes,
    /// Packages pending at once.
    MaxPendingPackages,
}

impl Toggle {
    /// Every toggle.
    pub const ALL: [Self; 4] =
        [Self::Enabled, Self::RateLimitPerMinute, Self::MaxPreimageBytes, Self::MaxPendingPackages];

    /// The key of the setting.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::RateLimitPerMinute => "rate_limit_per_minute",
            Self::MaxPreimageBytes => "max_preimage_bytes",
            Self::MaxPendingPackages => "max_pending_packages",
        }
    }

    /// The value of the setting.
    pub fn of(self, settings: &Settings) -> Toggled {
        match self {
            Self::Enabled => Toggled::Enabled(settings.enabled),
            Self::RateLimitPerMinute => Toggled::RateLimitPerMinute(settings.rate_limit_per_minute),
            Self::MaxPreimageBytes => Toggled::MaxPreimageBytes(settings.max_preimage_bytes),
            Self::MaxPendingPackages => Toggled::MaxPendingPackages(settings.max_pending_packages),
        }
    }

    /// A value of this setting; refused with words that follow the key.
    pub fn value(self, value: &Value) -> Result<Toggled, String> {
        let number = |most: u64| {
            let number = whole(value).filter(|number| *number <= most);
            number.ok_or_else(|| format!("must be a whole number from 0 to {most}"))
        };
        let small = |most: u64| number(most).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        match self {
            Self::Enabled => value.as_bool().map(Toggled::Enabled).ok_or_else(|| "must be true or false".into()),
            Self::RateLimitPerMinute => small(MAX_RATE).map(Toggled::RateLimitPerMinute),
            Self::MaxPreimageBytes => number(MAX_BYTES).map(Toggled::MaxPreimageBytes),
            Self::MaxPendingPackages => small(MAX_PENDING).map(Toggled::MaxPendingPackages),
        }
    }
}

impl fmt::Display for Toggle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Toggle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::as_str);
        let known = Self::ALL.into_iter().find(|toggle| toggle.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is not one of {}", names.join(", ")))
    }
}

/// A value of a setting that can be overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toggled {
    /// Of `enabled`.
    Enabled(bool),
    /// Of `rate_limit_per_minute`.
    RateLimitPerMinute(u32),
    /// Of `max_preimage_bytes`.
    MaxPreimageBytes(u64),
    /// Of `max_pending_packages`.
    MaxPendingPackages(u32),
}

impl Toggled {
    /// The setting.
    pub fn toggle(self) -> Toggle {
        match self {
            Self::Enabled(_) => Toggle::Enabled,
            Self::RateLimitPerMinute(_) => Toggle::RateLimitPerMinute,
            Self::MaxPreimageBytes(_) => Toggle::MaxPreimageBytes,
            Self::MaxPendingPackages(_) => Toggle::MaxPendingPackages,
        }
    }

    /// The value as JSON.
    pub fn json(self) -> Value {
        match self {
            Self::Enabled(flag) => flag.into(),
            Self::RateLimitPerMinute(number) | Self::MaxPendingPackages(number) => number.into(),
            Self::MaxPreimageBytes(number) => number.into(),
        }
    }

    /// Gives the setting this value.
    pub fn put(self, settings: &mut Settings) {
        match self {
            Self::Enabled(flag) => settings.enabled = flag,
            Self::RateLimitPerMinute(number) => settings.rate_limit_per_minute = number,
            Self::MaxPreimageBytes(number) => settings.max_preimage_bytes = number,
            Self::MaxPendingPackages(number) => settings.max_pending_packages = number,
        }
    }
}

/// An override: a value, and the setting's own value that it stands in front of. It lasts until that one changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// The value in force.
    pub value: Toggled,
    /// The setting's own value when the override was set.
    pub overrode: Toggled,
}

impl Override {
    /// Whether the setting's own value is still the one that was overridden.
    pub fn lasts(self, settings: &Settings) -> bool {
        self.overrode.toggle().of(settings) == self.overrode
    }
}

/// A token that may act for one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    /// The service.
    pub service_id: ServiceId,
    /// The hash of the token.
    pub sha256: TokenHash,
    /// For people.
    pub name: Option<String>,
    /// How the server's own tokens listed it when it was made; `None`: they did not, it is a token of its own.
    pub listed: Option<Listed>,
}

/// The entry that a delegate's token had among the server's own tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name: the tokens that come after it have the same.
    pub name: Option<String>,
}

/// Reads the body of a request that sets an override.
pub fn toggled(body: &[u8]) -> Result<Toggled, Refusal> {
    let mut fields = Fields::new(object_of(body)?, "");
    let toggle: Toggle = fields.required_text("key", str::parse)?;
    let value = fields.take("value").ok_or_else(|| Refusal::field("value", "is missing"))?;
    fields.finish()?;
    toggle.value(&value).map_err(|problem| Refusal::field("value", problem))
}

/// Reads the body of a request that adds a delegate.
pub fn delegate(service_id: ServiceId, body: &[u8]) -> Result<Delegate, Refusal> {
    let mut fields = Fields::new(object_of(body)?, "");
    let name = |text: &str| match text.chars().count() {
        1..=MAX_DELEGATE_NAME if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(format!("must be 1 to {MAX_DELEGATE_NAME} characters, none of them a control character")),
    };
    let sha256 = fields.required_text("sha256", str::parse)?;
    let read = Delegate { service_id, sha256, name: fields.text("name", name)?, listed: None };
    fields.finish()?;
    Ok(read)
}

/// Reads the body of a request that takes a delegate away, or of one that names a key.
pub fn named<T>(key: &str, body: &[u8]) -> Result<T, Refusal>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    let mut fields = Fields::new(object_of(body)?, "");
    let value = fields.required_text(key, |text| text.parse().map_err(|problem: T::Err| problem.to_string()))?;
    fields.finish()?;
    Ok(value)
}

/// What is set at run time, by what it is set on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ControlKey {
    /// An override of this setting.
    Override(Toggle),
    /// The quota of this service.
    Quota(ServiceId),
    /// The token with this hash may act for the service.
    Delegate(ServiceId, TokenHash),
}

impl ControlKey {
    /// The word of its kind in the store.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Override(_) => "override",
            Self::Quota(_) => "quota",
            Self::Delegate(..) => "delegate",
        }
    }

    /// Its name within its kind.
    pub fn name(&self) -> String {
        match self {
            Self::Override(toggle) => toggle.to_string(),
            Self::Quota(service) => service.to_string(),
            // No service id has a slash.
            Self::Delegate(service, hash) => format!("{service}/{hash}"),
        }
    }

    /// What the audit names: of a delegate the service, its token stands in what was changed.
    pub fn target(&self) -> String {
        match self {
            Self::Override(toggle) => toggle.to_string(),
            Self::Quota(service) | Self::Delegate(service, _) => service.to_string(),
        }
    }

    /// Reads what [`Self::kind`] and [`Self::name`] wrote.
    pub fn read(kind: &str, name: &str) -> Result<Self, String> {
        match kind {
            "override" => name.parse().map(Self::Override),
            "quota" => name.parse().map(Self::Quota),
            "delegate" => {
                let (service, hash) = name.split_once('/').ok_or_else(|| format!("{name:?} is no delegate"))?;
                Ok(Self::Delegate(service.parse()?, hash.parse()?))
            }
            other => Err(format!("{other:?} is no kind of control")),
        }
    }
}

/// One thing that is set at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// On what.
    pub key: ControlKey,
    /// To what.
    pub value: Value,
    /// When.
    pub set_at: Timestamp,
    /// By whom.
    pub set_by: TokenId,
}

/// Everything that is set at run time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controls {
    /// Grows with each change.
    pub version: u64,
    /// In the order of their keys.
    pub list: Vec<Control>,
}

/// What is to become of a control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Set it to this.
    Set(Value),
    /// Take it away.
    Remove,
    /// Take it away because the setting below has changed, if it still is this.
    End(Value),
}

impl Override {
    /// As it is stored.
    pub fn stored(self) -> Value {
        json!({"value": self.value.json(), "overrode": self.overrode.json()})
    }

    /// What was stored of this setting.
    pub fn read(toggle: Toggle, stored: &Value) -> Result<Self, String> {
        Ok(Self { value: toggle.value(&stored["value"])?, overrode: toggle.value(&stored["overrode"])? })
    }
}

impl Delegate {
    /// As it is stored, beside its key.
    pub fn stored(&self) -> Value {
        match &self.listed {
            None => json!({"name": self.name}),
            Some(Listed { name }) => json!({"name": self.name, "listed": {"name": name}}),
        }
    }

    /// What was stored under this key.
    pub fn read(service_id: &ServiceId, sha256: TokenHash, stored: &Value) -> Self {
        let name = |of: &Value| of["name"].as_str().map(str::to_owned);
        let listed = stored.get("listed").map(|listed| Listed { name: name(listed) });
        Self { service_id: service_id.clone(), sha256, name: name(stored), listed }
    }

    /// Its key.
    pub fn key(&self) -> ControlKey {
        ControlKey::Delegate(self.service_id.clone(), self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JamSettings, Profile};

    fn settings() -> Settings {
        JamSettings::default().resolve(Profile::Staging).unwrap()
    }

    #[test]
    fn every_toggle_is_read_written_and_put_where_it_was_read() {
        for (toggle, value) in Toggle::ALL.into_iter().zip([json!(false), json!(7), json!(8), json!(0)]) {
            assert_eq!(toggle.as_str().parse(), Ok(toggle));
            let toggled = toggle.value(&value).unwrap();
            assert_eq!((toggled.toggle(), toggled.json()), (toggle, value));
            let mut changed = settings();
            toggled.put(&mut changed);
            assert_eq!(toggle.of(&changed), toggled);
            assert_ne!(changed, settings());
            let stored = Override { value: toggled, overrode: toggle.of(&settings()) };
            assert_eq!(Override::read(toggle, &stored.stored()), Ok(stored));
            assert!(stored.lasts(&settings()) && !stored.lasts(&changed));
        }
    }

    #[test]
    fn a_wrong_toggle_is_refused_by_field() {
        for (body, field) in [
            (json!({"value": 1}), "key"),
            (json!({"key": "store", "value": 1}), "key"),
            (json!({"key": "enabled"}), "value"),
            (json!({"key": "enabled", "value": 1}), "value"),
            (json!({"key": "rate_limit_per_minute", "value": true}), "value"),
            (json!({"key": "rate_limit_per_minute", "value": MAX_RATE + 1}), "value"),
            (json!({"key": "max_preimage_bytes", "value": -1}), "value"),
            (json!({"key": "max_pending_packages", "value": 1, "more": 1}), "more"),
        ] {
            let refusal = toggled(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(refusal.details, Some(json!({"field": field})), "{body}");
        }
    }

    #[test]
    fn a_key_survives_its_words() {
        let service: ServiceId = "a:b".parse().unwrap();
        let delegated = ControlKey::Delegate(service.clone(), TokenHash::of("t"));
        for key in [ControlKey::Override(Toggle::Enabled), ControlKey::Quota(service), delegated] {
            assert_eq!(ControlKey::read(key.kind(), &key.name()), Ok(key));
        }
        assert!(ControlKey::read("delegate", "a").is_err() && ControlKey::read("mood", "a").is_err());
    }

    #[test]
    fn a_delegate_is_a_hash_and_never_a_token() {
        let service: ServiceId = "s".parse().unwrap();
        let hash = TokenHash::of("t");
        let read = |body: Value| delegate(service.clone(), body.to_string().as_bytes());
        assert_eq!(read(json!({"sha256": hash, "name": "shop"})).unwrap().name.as_deref(), Some("shop"));
        for body in [json!({}), json!({"sha256": "t"}), json!({"token": "t"}), json!({"sha256": hash, "name": ""})] {
            assert!(read(body).is_err());
        }
        let stranger = read(json!({"sha256": hash, "name": "shop"})).unwrap();
        for listed in [None, Some(Listed { name: None }), Some(Listed { name: Some("demo".into()) })] {
            let delegate = Delegate { listed, ..stranger.clone() };
            assert_eq!(Delegate::read(&service, hash, &delegate.stored()), delegate, "as it is stored");
        }
    }
}
