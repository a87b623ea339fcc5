//! What pods said, without what is secret in it: whatever a program prints, no condition, event or evidence repeats a DSN or a token.

use futures::future::try_join_all;
use jam_plan::observed::{JobState, PreviewSaid};
use jam_plan::{JamInstance, Observed, names, resolve, tokens};

use super::context::Context;
use super::error::Error;
use super::key::Key;
use super::observe;
use crate::redact::Redactor;

/// Cleans every word that a pod has said.
pub async fn clean(context: &Context, instance: &JamInstance, observed: &mut Observed) -> Result<(), Error> {
    let mut words = said(observed);
    if words.is_empty() {
        return Ok(());
    }
    let redactor = redactor(context, instance).await?;
    for word in &mut words {
        **word = redactor.text(word);
    }
    Ok(())
}

/// The words of pods among what was observed.
fn said(observed: &mut Observed) -> Vec<&mut String> {
    let mut words: Vec<&mut String> = Vec::new();
    for job in &mut observed.migration_jobs {
        match &mut job.state {
            JobState::Failed { exit_code: _, message } => words.push(message),
            JobState::Running | JobState::Complete => {}
        }
    }
    for preview in &mut observed.migration_previews {
        match &mut preview.said {
            PreviewSaid::Would(words_of) | PreviewSaid::Failed(words_of) => words.push(words_of),
            PreviewSaid::Nothing => {}
        }
    }
    words.extend(observed.cleanup.iter_mut().filter_map(|state| state.last.as_mut()?.failure.as_mut()));
    words.extend([&mut observed.trouble, &mut observed.migration_trouble].into_iter().flatten());
    words.extend(observed.database.as_mut().filter(|probe| !probe.reachable).map(|probe| &mut probe.message));
    words
}

/// One that knows what this instance's pods are given: the DSN, the keys to the blob store, every token.
pub async fn redactor(context: &Context, instance: &JamInstance) -> Result<Redactor, Error> {
    let (key, spec) = (Key::of(instance), &instance.spec);
    let (dsn, its_key) = resolve::dsn_reference(instance).unzip();
    let own = [tokens::own_tokens(spec), tokens::admin_tokens(spec)].into_iter().flatten();
    let consumers = tokens::consumers(spec).into_iter().map(|one| names::consumer_secret(&key.name, &one.name));
    let blobs = resolve::blob_secret(spec).map(str::to_owned);
    let whole = own.map(|(_, name)| name.to_owned()).chain(blobs).map(|name| (name, Values::All));
    let consumers = consumers.map(|name| (name, Values::Tokens));
    let all = whole.chain(consumers).chain(dsn.zip(its_key).map(|(name, key)| (name, Values::Of(key))));
    let read = all.map(|(name, wanted)| {
        let key = &key;
        async move {
            let data = observe::secret(context, key, &name).await?.and_then(|secret| secret.data).unwrap_or_default();
            let values = data.into_iter().filter(|(key, _)| wanted.has(key));
            Ok::<_, Error>(values.map(|(_, value)| String::from_utf8_lossy(&value.0).into_owned()).collect::<Vec<_>>())
        }
    });
    Ok(Redactor::knowing(try_join_all(read).await?.into_iter().flatten()))
}

/// What of a Secret is secret.
enum Values {
    All,
    Of(String),
    /// Of a consumer's all but the id and the end of its token.
    Tokens,
}

impl Values {
    fn has(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(one) => one == key,
            Self::Tokens => !matches!(key, "id" | "not-after"),
        }
    }
}
