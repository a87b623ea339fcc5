//! From a JamInstance to the objects that make it true: CRD, resolve, desired, status. Pure: it cannot do IO.

pub mod alerts;
pub mod crd;
pub mod dashboards;
pub mod desired;
pub mod forecast;
pub mod names;
pub mod observed;
pub mod quantity;
pub mod reason;
pub mod remarks;
pub mod render;
pub mod resolve;
pub mod rollout;
pub mod rotation;
pub mod schedule;
pub mod status;
pub mod tokens;

#[cfg(test)]
mod fixtures;

pub use crd::{JamInstance, JamInstanceSpec, JamInstanceStatus};
pub use desired::{Desired, Kind, ObjectRef, Objects, Write, desired};
pub use observed::Observed;
pub use reason::{Reason, Refusal};
pub use resolve::{Defaults, Resolved, resolve};
pub use status::{Event, EventType, Verdict, status, transitions};
