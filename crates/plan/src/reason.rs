//! The reasons: one list that feeds conditions, events, metrics and documentation.

use std::fmt;

/// Declares the reasons, so that one line has a reason's name, its kind and what it means.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $kind:ident;)+) => {
        /// Why a condition is as it is. The name is what `kubectl` shows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The reason as written in conditions and events.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }

            /// What it means and what to do about it.
            pub fn explanation(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// What kind of reason it is.
            pub fn kind(self) -> ReasonKind {
                match self { $(Reason::$name => ReasonKind::$kind,)+ }
            }
        }
    };
}

/// What a reason stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasonKind {
    /// All is well.
    Well,
    /// Something is under way and ends by itself.
    UnderWay,
    /// Something is wrong outside; it heals by itself when that is mended.
    Outside,
    /// The resource must be changed.
    Change,
}

reasons! {
    /// Every API pod is ready and of the wanted revision.
    Serving => Well;
    /// Zero replicas are wanted and there are none.
    ScaledToZero => Well;
    /// Nothing is under way.
    Settled => Well;
    /// The database answers.
    Reachable => Well;
    /// Not needed with these settings.
    NotNeeded => Well;
    /// The schema is at the version of the wanted image.
    MigrationComplete => Well;
    /// Every consumer has its token.
    TokensIssued => Well;
    /// Retired tokens were refused by every pod; they are dead.
    TokenRetired => Well;
    /// The instance is not paused.
    NotPaused => Well;
    /// Cleanup is not scheduled.
    NotScheduled => Well;
    /// Cleanup runs by its schedule.
    Scheduled => Well;
    /// Cleanup is suspended by the spec.
    CleanupSuspended => Well;
    /// The API server serves every kind that the spec asks for.
    KindsServed => Well;
    /// The settings in force are the spec's again: no override of administrators is left.
    NotOverridden => Well;
    /// Administrators have put other settings in force than the spec's; the message names them and how they end.
    OverrideActive => UnderWay;
    /// `spec.paused` is true: nothing is written until it is false again.
    PausedBySpec => UnderWay;
    /// Pods are being replaced, one at a time.
    RollingOut => UnderWay;
    /// The migration Job runs; pods of the old version keep serving.
    Migrating => UnderWay;
    /// Tokens are being made.
    TokensPending => UnderWay;
    /// Tokens are being replaced; `status.rotation` says where that stands, and every consumer's token is accepted meanwhile.
    Rotating => UnderWay;
    /// Nobody could say yet.
    NotAsked => UnderWay;
    /// The instance is deleted; the event names the token Secrets that `deletionPolicy: Retain` keeps.
    Deleting => UnderWay;
    /// Pods are not ready; the message has the kubelet's words.
    PodsNotReady => Outside;
    /// The rollout made no progress within its deadline; old pods keep serving.
    RolloutStuck => Outside;
    /// The database does not answer; pods are unready, not restarted, and come back with it.
    DatabaseUnreachable => Outside;
    /// A Secret that the spec refers to is not there; create it.
    SecretMissing => Outside;
    /// A Secret that the spec refers to lacks the key, or the key is empty; fill it.
    SecretKeyMissing => Outside;
    /// An object of a wanted name belongs to somebody else and is not touched; remove or rename one of the two.
    NameTaken => Outside;
    /// The migration Job failed; the next one starts at the time in `status.migration.retryAt`.
    MigrationFailed => Outside;
    /// A pod does not say which tokens it accepts, or has not taken in the next ones, so a rotation waits for it: mend or delete the pod
    /// that the message names. Or the Secret of the consumer that it names can't be written, by a quota or an admission: allow it.
    RotationHeld => Outside;
    /// The last cleanup failed; the message has its last words, the next run follows by schedule.
    CleanupFailed => Outside;
    /// No cleanup has started for longer than its schedule allows; see the CronJob's events.
    CleanupOverdue => Outside;
    /// The spec asks for a kind that the API server does not serve; install its definition, or turn it off.
    KindNotServed => Outside;
    /// The Kubernetes API did not take a write; it is tried again.
    ApplyFailed => Outside;
    /// The migration ended with exit code 3: it can't succeed with this image and this database; change one of them.
    MigrationImpossible => Change;
    /// The migration waits for a person (`spec.migrations.mode` is Manual); the message has the annotation that approves it.
    ApprovalNeeded => Change;
    /// The spec asks for something that this release does not do; the message names the field.
    NotImplemented => Change;
    /// The settings contradict each other; the message names the key.
    InvalidSettings => Change;
    /// The new revision did not become ready within its deadline: the last good one is back, and it is not tried again until the spec changes
    /// in more than `runtime.jam.enabled`.
    RolledBack => Change;
    /// The new revision does not become ready and the last good one can't come back; the message says why. Change the spec,
    /// in more than `runtime.jam.enabled`.
    RollbackRefused => Change;
    /// The Kubernetes API refuses a child as the spec wants it; the message has its words.
    InvalidObject => Change;
}

impl Reason {
    /// Whether it is no news: becoming so makes no event.
    pub fn is_quiet(self) -> bool {
        matches!(
            self,
            Reason::Settled
                | Reason::NotNeeded
                | Reason::NotPaused
                | Reason::NotScheduled
                | Reason::Scheduled
                | Reason::KindsServed
                | Reason::NotAsked
        )
    }

    /// Whether an event about it is a warning.
    pub fn is_warning(self) -> bool {
        match self.kind() {
            ReasonKind::Well | ReasonKind::UnderWay => false,
            ReasonKind::Outside | ReasonKind::Change => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an instance cannot be brought about as it is: it gets `Stalled=True` and waits for a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// The reason. [`ReasonKind::Outside`] heals when something beside the spec changes: look again from time to time.
    pub reason: Reason,
    /// One sentence that names what is wrong and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A field that nothing implements yet.
    pub fn not_implemented(field: &str) -> Self {
        Self::new(Reason::NotImplemented, format!("spec.{field} is not implemented in this release; remove it"))
    }

    /// Whether it can heal without a change of the resource.
    pub fn heals_from_outside(&self) -> bool {
        self.reason.kind() == ReasonKind::Outside
    }
}
