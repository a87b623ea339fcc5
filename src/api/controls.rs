//! What administrators set at run time, in force in this process: looked for in the store twice a second, never by a request.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jam_domain::control::{Change, Control, ControlKey, Controls as Stored, Delegate, Override, Toggle};
use jam_domain::quota::Quota;
use jam_domain::{By, ServiceId, Settings, Timestamp, TokenId};
use jam_store::StoreError;
use tokio_util::sync::CancellationToken;

use super::shapes::{self, admin::Overridden};
use super::state::Api;

/// How often the store is asked whether something has changed: well within the 2 s that the contract gives.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a start waits for what is set; without an answer it goes on with its settings, and asks again.
const AT_START: Duration = Duration::from_secs(2);

/// The settings that the process was started with, and what stands in front of them.
pub struct Controls {
    own: Settings,
    current: Current,
}

/// What is in force now, for what outlives a request.
#[derive(Clone)]
pub struct Current(Arc<RwLock<Arc<InForce>>>);

impl Current {
    /// What is in force now.
    pub fn in_force(&self) -> Arc<InForce> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is in force.
pub struct InForce {
    /// The settings, overridden and with the quotas of services.
    pub settings: Arc<Settings>,
    /// The overrides, with who set each and when.
    pub overrides: Vec<(Override, Control)>,
    /// The quotas by service.
    pub quotas: BTreeMap<ServiceId, Quota>,
    /// The delegates, by service and hash.
    pub delegates: Vec<(Delegate, Control)>,
    /// The state of the store that this was made of; `None` before the first.
    version: Option<u64>,
}

impl InForce {
    /// The overrides as everybody may see them: without who set them.
    pub fn plainly(&self) -> Vec<shapes::Override> {
        let plain =
            |Overridden { key, value, overrode, set_at: _, set_by: _ }| shapes::Override { key, value, overrode };
        self.shown().into_iter().map(plain).collect()
    }

    /// The overrides as they are shown.
    pub fn shown(&self) -> Vec<Overridden> {
        self.overrides.iter().map(|(set, control)| Overridden::of(*set, control)).collect()
    }
}

impl Controls {
    /// Nothing but the settings.
    pub fn of(own: Settings) -> Self {
        let in_force = InForce {
            settings: Arc::new(own.clone()),
            overrides: Vec::new(),
            quotas: BTreeMap::new(),
            delegates: Vec::new(),
            version: None,
        };
        Self { own, current: Current(Arc::new(RwLock::new(Arc::new(in_force)))) }
    }

    /// The settings that the process was started with.
    pub fn own(&self) -> &Settings {
        &self.own
    }

    /// What is in force now.
    pub fn in_force(&self) -> Arc<InForce> {
        self.current.in_force()
    }

    /// The same for whoever goes on after its request was answered.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// Puts what was read into force, unless something later is already; returns the overrides that have ended.
    fn enforce(&self, stored: &Stored) -> Vec<Control> {
        let (in_force, ended) = sorted(&self.own, stored);
        let mut current = self.current.0.write().unwrap_or_else(PoisonError::into_inner);
        if current.version.is_none_or(|version| version <= stored.version) {
            log(&current, &in_force);
            *current = Arc::new(in_force);
        }
        ended
    }
}

/// The settings with the quotas of services: what a cleanup has to know.
pub fn with_quotas(mut settings: Settings, stored: &Stored) -> Settings {
    for control in &stored.list {
        if let ControlKey::Quota(id) = &control.key
            && let Some(quota) = quota_of(control)
        {
            let limits = quota.over(id, settings.services.get(id));
            settings.services.insert(id.clone(), limits);
        }
    }
    settings
}

fn quota_of(control: &Control) -> Option<Quota> {
    serde_json::from_value(control.value.clone()).inspect_err(|error| unreadable(control, &error.to_string())).ok()
}

/// What another release may have written: it is left alone.
fn unreadable(control: &Control, error: &str) {
    let (kind, name) = (control.key.kind(), control.key.target());
    tracing::error!(kind, name, error, "what is set at run time can't be read; it is not heeded");
}

/// What was read, by what it is set on; and the overrides whose setting has changed since.
fn sorted(own: &Settings, stored: &Stored) -> (InForce, Vec<Control>) {
    let mut settings = with_quotas(own.clone(), stored);
    let (mut overrides, mut quotas) = (Vec::new(), BTreeMap::new());
    let (mut delegates, mut ended) = (Vec::new(), Vec::new());
    for control in &stored.list {
        match &control.key {
            ControlKey::Override(toggle) => match Override::read(*toggle, &control.value) {
                Ok(set) if set.lasts(own) => overrides.push((set, control.clone())),
                Ok(_) => ended.push(control.clone()),
                Err(problem) => unreadable(control, &problem),
            },
            ControlKey::Quota(id) => quotas.extend(quota_of(control).map(|quota| (id.clone(), quota))),
            ControlKey::Delegate(service, hash) => {
                delegates.push((Delegate::read(service, *hash, &control.value), control.clone()));
            }
        }
    }
    for (set, _) in &overrides {
        set.value.put(&mut settings);
    }
    let in_force =
        InForce { settings: Arc::new(settings), overrides, quotas, delegates, version: Some(stored.version) };
    (in_force, ended)
}

fn log(before: &InForce, after: &InForce) {
    for toggle in Toggle::ALL {
        let (was, is) = (toggle.of(&before.settings), toggle.of(&after.settings));
        if was != is {
            tracing::warn!(key = toggle.as_str(), before = %was.json(), after = %is.json(), "setting changed at run time");
        }
    }
}

/// Reads what is set and puts it into force. Overrides whose setting has changed since end here, visibly: the last one to
/// speak wins, and would win again if the setting came back.
pub async fn refresh(api: &Api) -> Result<(), StoreError> {
    let stored = api.store.controls().await?;
    let ended = api.controls.enforce(&stored);
    let delegates = api.controls.in_force().delegates.iter().map(|(delegate, _)| delegate.clone()).collect();
    api.gate.tokens.delegate(delegates);
    for control in ended {
        let by = By { token_id: TokenId::settings(), at: Timestamp::now() };
        if api.store.control(&control.key, &Change::End(control.value.clone()), &by).await?.is_some() {
            let key = control.key.name();
            tracing::warn!(key, was = %control.value, "an override ended: the setting's own value has changed");
        }
    }
    Ok(())
}

/// What is set when the process starts. Should the store not say, requests are answered by the settings until it does.
pub async fn begin(api: &Api) {
    match tokio::time::timeout(AT_START, refresh(api)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "what administrators set at run time can't be read yet"),
        Err(_) => tracing::warn!("what administrators set at run time can't be read yet: the store does not answer"),
    }
}

/// Looks for changes that other replicas made, until the stop. A store that does not answer leaves in force what is.
pub async fn watch(api: Arc<Api>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if let Err(error) = look(&api).await {
            tracing::debug!(%error, "could not look for what is set at run time");
        }
    }
}

async fn look(api: &Api) -> Result<(), StoreError> {
    let version = api.store.controls_version().await?;
    if api.controls.in_force().version == Some(version) { Ok(()) } else { refresh(api).await }
}

/// Changes what is set, for an administrator, and puts it into force here before it answers; returns what was before.
pub async fn change(api: &Api, key: &ControlKey, change: Change, by: &By) -> Result<Option<Control>, StoreError> {
    let before = api.store.control(key, &change, by).await?;
    // It is stored: should it not be readable just now, the next look puts it into force.
    if let Err(error) = refresh(api).await {
        tracing::warn!(%error, "what was set at run time is not in force yet");
    }
    Ok(before)
}
