//! How often tokens are replaced, and for how long both are accepted.

use jam_domain::Timestamp;

use crate::crd::{JamInstanceSpec, Rotation};
use crate::reason::{Reason, Refusal};

/// How long an hour of the spec lasts, and how long the kubelet may take: what the operator is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Seconds in an hour of `spec.tokens.rotation`; another number than 3600 is for tests (adr/0020).
    pub hour: u32,
    /// Seconds that the kubelet may take to bring a changed Secret to a pod.
    pub kubelet_sync: u32,
}

impl Default for Pace {
    fn default() -> Self {
        // The kubelet syncs a pod every minute, with a jitter of half of it.
        Self { hour: 3600, kubelet_sync: 120 }
    }
}

/// How often, and how long both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Seconds from one token to the next; `None`: only when somebody asks.
    pub interval: Option<i64>,
    /// Seconds for which the old token is accepted beside the new one.
    pub overlap: i64,
    /// Seconds after which a pod that has not taken in what it was given is in the way.
    pub kubelet_sync: i64,
}

impl Policy {
    /// The policy of a spec. Without a rotation the default overlap counts for what people force.
    pub fn of(spec: &JamInstanceSpec, pace: Pace) -> Self {
        let rotation = spec.tokens.as_ref().and_then(|tokens| tokens.rotation.as_ref());
        let (hour, kubelet_sync) = (i64::from(pace.hour), i64::from(pace.kubelet_sync));
        match rotation {
            Some(Rotation { interval_days, overlap_hours }) => Self {
                interval: Some(i64::from(*interval_days) * 24 * hour),
                overlap: i64::from(*overlap_hours) * hour,
                kubelet_sync,
            },
            None => Self { interval: None, overlap: 24 * hour, kubelet_sync },
        }
    }

    /// When the token that was given then is due to be replaced.
    pub fn due(&self, issued_at: Timestamp) -> Option<Timestamp> {
        self.interval.map(|interval| issued_at.plus_seconds(interval))
    }

    /// Until when that token is accepted at least.
    pub fn not_after(&self, issued_at: Timestamp) -> Option<Timestamp> {
        self.due(issued_at).map(|due| due.plus_seconds(self.overlap))
    }
}

/// A rotation that would lock its consumers out. The CRD's rules say the same for what they can see.
pub fn refuse(spec: &JamInstanceSpec, pace: Pace) -> Result<(), Refusal> {
    let rotation = spec.tokens.as_ref().and_then(|tokens| tokens.rotation.as_ref());
    let Some(Rotation { interval_days, overlap_hours }) = rotation else { return Ok(()) };
    let Policy { interval, overlap, kubelet_sync: sync } = Policy::of(spec, pace);
    let invalid = |message: String| Err(Refusal::new(Reason::InvalidSettings, message));
    if interval.is_some_and(|interval| overlap >= interval) {
        return invalid(format!(
            "spec.tokens.rotation.overlapHours ({overlap_hours}) must be shorter than the interval ({interval_days} days)"
        ));
    }
    if overlap < sync {
        return invalid(format!(
            "spec.tokens.rotation.overlapHours ({overlap_hours}) lasts {overlap} s, but the kubelet may take {sync} s to bring a new token to its consumer: make it longer"
        ));
    }
    Ok(())
}
