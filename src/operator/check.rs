//! Plain HTTP questions inside the cluster: to pods, and to an operator by `jam-operator check`.

use std::time::Duration;

/// How long `check` waits for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that goes to no proxy: what it asks is in the cluster.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    // An error means that a provider was installed before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build()
}

/// Succeeds when the address answers 200.
pub async fn ask(url: &str) -> Result<(), String> {
    let told = |error: reqwest::Error| super::watch::chain(&error);
    let answer = client().map_err(told)?.get(url).timeout(PATIENCE).send().await.map_err(told)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    Err(format!("{url} answers {status}: {}", answer.text().await.unwrap_or_default().trim()))
}
