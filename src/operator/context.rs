//! What every reconcile is given: built once by `run`, shared by all.

use std::sync::Arc;

use jam_plan::Defaults;
use kube::Client;
use kube::runtime::reflector::Store;

use super::children::Children;
use super::instruments::Instruments;
use super::memory::Memory;
use super::reconcile::Guarded;

/// What every reconcile is given.
pub struct Context {
    /// The client, which writes only while this replica leads.
    pub client: Client,
    /// What the operator fills in where a resource says nothing.
    pub defaults: Defaults,
    /// What the watch knows of the instances.
    pub instances: Store<Guarded>,
    /// What the watches know of the children.
    pub children: Arc<Children>,
    /// What was proven and published.
    pub memory: Arc<Memory>,
    /// Queue, retries, metrics, events and the client that asks pods.
    pub instruments: Arc<Instruments>,
}
