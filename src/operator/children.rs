//! What is known of every child without its content: a few words of metadata each, kept by the watches.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{PoisonError, RwLock};

use jam_plan::observed::Child;
use jam_plan::{Kind, ObjectRef, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

use super::key::Key;
use super::served::Served;

/// One state of an object: when it is equal to the one that was compared with the plan, nothing has changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    uid: String,
    version: String,
    /// Hash of labels, annotations and owners, whose changes leave the generation alone.
    notes: u64,
}

impl Mark {
    /// The mark of an object as the API server described it.
    ///
    /// A generation moves with the spec only; kinds without one (Secret, ConfigMap, Service …) are marked by resourceVersion, unless
    /// their status is written as well: an autoscaler's is, all the time.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let version = match metadata.generation {
            Some(generation) => format!("g{generation}"),
            None => written(metadata).or(metadata.resource_version.clone()).unwrap_or_default(),
        };
        let mut hasher = DefaultHasher::new();
        (&metadata.labels, &metadata.annotations).hash(&mut hasher);
        for owner in metadata.owner_references.iter().flatten() {
            (&owner.uid, &owner.controller, &owner.block_owner_deletion).hash(&mut hasher);
        }
        Self { uid: metadata.uid.clone().unwrap_or_default(), version, notes: hasher.finish() }
    }
}

/// Who wrote what and when but for the status, of an object whose status somebody writes.
fn written(metadata: &ObjectMeta) -> Option<String> {
    let entries = metadata.managed_fields.as_deref().unwrap_or_default();
    let (status, rest): (Vec<_>, Vec<_>) =
        entries.iter().partition(|entry| entry.subresource.as_deref() == Some("status"));
    let text = |entry: &ManagedFieldsEntry| serde_json::to_string(entry).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    rest.into_iter().map(text).collect::<Vec<_>>().hash(&mut hasher);
    (!status.is_empty()).then(|| format!("w{}", hasher.finish()))
}

#[derive(Debug)]
struct Known {
    instance: Key,
    resource_version: String,
    mark: Mark,
    child: Child,
}

/// The children of every instance.
#[derive(Debug, Default)]
pub struct Children {
    /// Which optional kinds there can be.
    pub served: Served,
    index: RwLock<Index>,
}

#[derive(Debug, Default)]
struct Index {
    objects: HashMap<(Kind, Key), Known>,
    by_instance: HashMap<Key, BTreeSet<ObjectRef>>,
}

/// The instance that an object's labels name, if they are ours.
pub fn instance_of(metadata: &ObjectMeta) -> Option<Key> {
    let labels = metadata.labels.as_ref()?;
    let ours = labels.get(names::MANAGED_BY.0).map(String::as_str) == Some(names::MANAGED_BY.1);
    let instance = labels.get(names::INSTANCE).filter(|_| ours)?;
    Some(Key::new(metadata.namespace.clone()?, instance.clone()))
}

/// Whether the status of this kind is part of what an instance's status says.
fn speaks_by_status(kind: Kind) -> bool {
    match kind {
        Kind::Deployment | Kind::Job | Kind::CronJob => true,
        Kind::ServiceAccount
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::NetworkPolicy
        | Kind::Service
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler
        | Kind::Ingress
        | Kind::HttpRoute
        | Kind::ServiceMonitor
        | Kind::PrometheusRule => false,
    }
}

impl Children {
    /// An object was seen. Returns the instances that should look: none when nothing that concerns them changed.
    pub fn seen(&self, kind: Kind, metadata: &ObjectMeta) -> Vec<Key> {
        let Some(instance) = instance_of(metadata) else { return self.gone(kind, &key_of(metadata)) };
        let known = Known {
            instance: instance.clone(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            mark: Mark::of(metadata),
            child: Child::of(kind, metadata),
        };
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let before = index.remove(kind, &key_of(metadata));
        let changed = before.as_ref().is_none_or(|before| {
            let moved = before.resource_version != known.resource_version;
            (speaks_by_status(kind) && moved) || before.mark != known.mark || before.child != known.child
        });
        index.insert(kind, known);
        let left = before.map(|before| before.instance).filter(|before| *before != instance);
        left.into_iter().chain(changed.then_some(instance)).collect()
    }

    /// An object is gone. Returns the instance that should look.
    pub fn gone(&self, kind: Kind, key: &Key) -> Vec<Key> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.remove(kind, key).map(|known| known.instance).into_iter().collect()
    }

    /// No object of this kind can be there any more: its definition is gone.
    pub fn forget(&self, kind: Kind) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Key> = index.objects.keys().filter(|(of, _)| *of == kind).map(|(_, key)| key.clone()).collect();
        for key in gone {
            index.remove(kind, &key);
        }
    }

    /// The children of an instance.
    pub fn of(&self, instance: &Key) -> Vec<Child> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let names = index.by_instance.get(instance).into_iter().flatten();
        names.filter_map(|object| index.get(object, instance)).map(|known| known.child.clone()).collect()
    }

    /// The mark of one child.
    pub fn mark(&self, instance: &Key, object: &ObjectRef) -> Option<Mark> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.get(object, instance).map(|known| known.mark.clone())
    }

    /// How many children there are.
    pub fn count(&self) -> usize {
        self.index.read().unwrap_or_else(PoisonError::into_inner).objects.len()
    }
}

impl Index {
    fn get(&self, object: &ObjectRef, instance: &Key) -> Option<&Known> {
        self.objects.get(&(object.kind, Key::new(instance.namespace.clone(), object.name.clone())))
    }

    fn insert(&mut self, kind: Kind, known: Known) {
        let key = Key::new(known.instance.namespace.clone(), known.child.object.name.clone());
        self.by_instance.entry(known.instance.clone()).or_default().insert(known.child.object.clone());
        self.objects.insert((kind, key), known);
    }

    fn remove(&mut self, kind: Kind, key: &Key) -> Option<Known> {
        let known = self.objects.remove(&(kind, key.clone()))?;
        if let Some(names) = self.by_instance.get_mut(&known.instance) {
            names.remove(&known.child.object);
            if names.is_empty() {
                self.by_instance.remove(&known.instance);
            }
        }
        Some(known)
    }
}

fn key_of(metadata: &ObjectMeta) -> Key {
    Key::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(name: &str, instance: &str, version: &str, generation: Option<i64>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some("jam".into()),
            uid: Some(format!("uid-{name}")),
            resource_version: Some(version.into()),
            generation,
            labels: Some(
                [(names::MANAGED_BY.0, names::MANAGED_BY.1), (names::INSTANCE, instance)]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_change_of_status_concerns_only_kinds_that_speak_by_it() {
        let (children, main) = (Children::default(), Key::new("jam", "main"));
        for kind in [Kind::Deployment, Kind::PodDisruptionBudget] {
            assert_eq!(children.seen(kind, &child("main", "main", "1", Some(1))), std::slice::from_ref(&main));
            assert!(children.seen(kind, &child("main", "main", "1", Some(1))).is_empty(), "a relist is no news");
        }
        assert_eq!(children.seen(Kind::Deployment, &child("main", "main", "2", Some(1))), std::slice::from_ref(&main));
        assert!(children.seen(Kind::PodDisruptionBudget, &child("main", "main", "2", Some(1))).is_empty());
        assert_eq!(children.seen(Kind::PodDisruptionBudget, &child("main", "main", "3", Some(2))), [main]);
    }

    #[test]
    fn a_status_without_a_generation_concerns_nobody_either() {
        let (children, main) = (Children::default(), Key::new("jam", "main"));
        let at = |version: &str, spec: &str, status: &str| {
            let fields = serde_json::from_value(serde_json::json!([
                {"manager": "jam-operator", "operation": "Apply", "time": spec},
                {"manager": "controller", "operation": "Update", "subresource": "status", "time": status},
            ]));
            ObjectMeta { managed_fields: fields.unwrap(), ..child("main", "main", version, None) }
        };
        let (first, second) = ("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z");
        let seen = |metadata: &ObjectMeta| children.seen(Kind::HorizontalPodAutoscaler, metadata);
        assert_eq!(seen(&at("1", first, first)), std::slice::from_ref(&main));
        assert!(seen(&at("2", first, second)).is_empty());
        assert_eq!(seen(&at("3", second, second)), [main]);
    }

    #[test]
    fn both_instances_look_when_a_child_is_relabelled() {
        let children = Children::default();
        children.seen(Kind::Secret, &child("token", "main", "1", None));
        let moved = child("token", "other", "2", None);
        assert_eq!(children.seen(Kind::Secret, &moved), [Key::new("jam", "main"), Key::new("jam", "other")]);
        assert!(children.of(&Key::new("jam", "main")).is_empty());
        let mut bare = child("token", "other", "3", None);
        bare.labels = None;
        assert_eq!(children.seen(Kind::Secret, &bare), [Key::new("jam", "other")], "without labels it is no child");
        assert_eq!(children.count(), 0);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_its_instance_looks() {
        let (children, main) = (Children::default(), Key::new("jam", "main"));
        children.seen(Kind::Service, &child("main", "main", "1", None));
        assert_eq!(children.gone(Kind::Service, &Key::new("jam", "main")), std::slice::from_ref(&main));
        assert!(children.gone(Kind::Service, &Key::new("jam", "main")).is_empty());
        assert!(children.mark(&main, &ObjectRef { kind: Kind::Service, name: "main".into() }).is_none());
    }
}
