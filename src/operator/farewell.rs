//! What is said of an instance that is gone: which token Secrets it leaves to the next of its name.

use std::sync::Arc;

use jam_plan::{Kind, Reason, names};
use kube::Resource;
use kube::runtime::events::{Event, EventType};

use super::children::Children;
use super::instruments::Instruments;
use super::key::Key;
use super::reconcile::Guarded;

/// Secrets that are named; the label finds the others.
const NAMED: usize = 10;

/// Says in an event what stays of an instance. Nothing waits for it: the instance is gone, and each Secret says the same.
pub fn say(instruments: &Arc<Instruments>, instance: &Guarded, children: &Children) {
    let key = Key::of(instance);
    let (Ok(last), Some(note)) = (&instance.0, note(&key, children)) else { return };
    let (instruments, reference) = (Arc::clone(instruments), last.object_ref(&()));
    tokio::spawn(async move {
        let (type_, reason) = (EventType::Normal, Reason::Deleting.as_str().to_owned());
        let event = Event { type_, reason, note: Some(note), action: "Delete".into(), secondary: None };
        instruments.say(&key, event, &reference).await;
    });
}

/// The sentence about the Secrets that no owner takes along; nothing where there are none.
fn note(key: &Key, children: &Children) -> Option<String> {
    let mut kept: Vec<String> = children
        .of(key)
        .into_iter()
        .filter_map(|child| {
            (child.object.kind == Kind::Secret && child.controller.is_none() && !child.deleting)
                .then_some(child.object.name)
        })
        .collect();
    kept.sort();
    let (count, Key { namespace, name }) = (kept.len(), key);
    kept.truncate(NAMED);
    let (listed, label) = (kept.join(", "), names::INSTANCE);
    (count > 0).then(|| {
        format!(
            "deleted; deletionPolicy Retain keeps {count} token Secrets for the next instance of this name. To remove them: \
             kubectl -n {namespace} delete secret -l {label}={name}. They are: {listed}."
        )
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    use super::*;

    fn secret(name: &str, owned: bool) -> ObjectMeta {
        let labels = [(names::MANAGED_BY.0, names::MANAGED_BY.1), (names::INSTANCE, "main")];
        let reference = OwnerReference { controller: Some(true), uid: "uid".into(), ..OwnerReference::default() };
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some("jam".into()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: owned.then(|| vec![reference]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn what_stays_is_named_and_what_goes_along_is_not() {
        let (children, key) = (Children::default(), Key::new("jam", "main"));
        children.seen(Kind::Secret, &secret("main-token-hashes", true));
        assert_eq!(note(&key, &children), None);
        children.seen(Kind::Secret, &secret("main-token-demo", false));
        let note = note(&key, &children).unwrap();
        assert!(note.contains("keeps 1 token Secrets") && note.contains("main-token-demo"), "{note}");
        assert!(note.contains("kubectl -n jam delete secret -l jam.network/instance=main."), "{note}");
        assert!(!note.contains("hashes"), "{note}");
    }
}
