//! The name of one instance: namespace and name.

use std::fmt;

use kube::Resource;
use kube::runtime::reflector::{Lookup, ObjectRef};

/// Namespace and name of an instance, or of an object in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The name of an object in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object that the API server sent.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    /// The key of what a queue refers to.
    pub fn of_reference<K: Lookup>(reference: &ObjectRef<K>) -> Self {
        Self::new(reference.namespace.clone().unwrap_or_default(), reference.name.clone())
    }

    /// The reference by which a queue names the object.
    pub fn reference<K: Lookup<DynamicType = ()>>(&self) -> ObjectRef<K> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
