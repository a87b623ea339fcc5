//! Which optional kinds the API server serves: asked again and again, because their definitions come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use jam_plan::Kind;
use kube::Client;
use tokio::sync::watch;

use super::watch::chain;

/// How often the API server is asked. Discovery is cheap for it, and needs no right.
const PAUSE: Duration = Duration::from_secs(10);

/// The optional kinds that are served; `None` while nobody has asked.
#[derive(Debug)]
pub struct Served(watch::Sender<Option<BTreeSet<Kind>>>);

impl Default for Served {
    fn default() -> Self {
        Self(watch::channel(None).0)
    }
}

impl Served {
    /// The optional kinds that are not served.
    pub fn missing(&self) -> BTreeSet<Kind> {
        let served = self.0.borrow();
        Kind::optional().filter(|kind| !served.as_ref().is_some_and(|served| served.contains(kind))).collect()
    }

    /// Waits until the kind is served, and calls back when it is known that it is not yet.
    pub async fn comes(&self, kind: Kind, not_yet: impl Fn()) {
        let comes = |served: &Option<BTreeSet<Kind>>| match served {
            Some(served) if served.contains(&kind) => true,
            Some(_) => {
                not_yet();
                false
            }
            None => false,
        };
        // The sender lives as long as this does.
        let _ = self.0.subscribe().wait_for(comes).await;
    }

    /// Waits until the kind is served no longer.
    pub async fn goes(&self, kind: Kind) {
        let gone = |served: &Option<BTreeSet<Kind>>| served.as_ref().is_some_and(|served| !served.contains(&kind));
        let _ = self.0.subscribe().wait_for(gone).await;
    }

    /// Asks once.
    pub async fn ask(&self, client: &Client) {
        self.0.send_replace(Some(ask(client, BTreeSet::new()).await));
    }

    /// Asks for as long as it is polled; `on` hears which kinds came or went.
    pub async fn keep_asking(&self, client: &Client, on: impl Fn(&BTreeSet<Kind>)) {
        loop {
            let before = self.0.borrow().clone();
            let now = ask(client, before.clone().unwrap_or_default()).await;
            if before.as_ref() != Some(&now) {
                let changed: BTreeSet<Kind> = now.symmetric_difference(&before.unwrap_or_default()).copied().collect();
                tracing::info!(served = words(&now), changed = words(&changed), "optional kinds");
                self.0.send_replace(Some(now));
                on(&changed);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn words(kinds: &BTreeSet<Kind>) -> String {
    kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(",")
}

/// The optional kinds that are served now. Where the API server does not answer, what was known still holds.
async fn ask(client: &Client, mut served: BTreeSet<Kind>) -> BTreeSet<Kind> {
    let versions: BTreeSet<String> = Kind::optional().map(Kind::api_version).collect();
    for version in versions {
        let resources = match client.list_api_group_resources(&version).await {
            Ok(list) => list.resources,
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => {
                tracing::debug!(version, error = chain(&error), "discovery failed");
                continue;
            }
        };
        for kind in Kind::optional().filter(|kind| kind.api_version() == version) {
            let (_, _, word, plural) = kind.coordinates();
            if resources.iter().any(|resource| resource.kind == word && resource.name == plural) {
                served.insert(kind);
            } else {
                served.remove(&kind);
            }
        }
    }
    served
}
