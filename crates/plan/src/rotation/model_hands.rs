//! What can happen next in the world of the model test, and by whose hands.

use super::model_world::{Mind, World};
use super::*;

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The operator reads everything and decides.
    Observe,
    /// It writes the consumer's Secret, or finds that it changed meanwhile.
    Write,
    /// It writes the Secret of hashes, and after it the Deployment where there is none.
    WriteHashes,
    /// It dies, or the API server refuses its write: what it had in mind is gone.
    Crash,
    /// The kubelet brings the hashes to a pod.
    Sync(usize),
    /// The clock moves by so many seconds, also backwards.
    Jump(i64),
    /// The clock is set far ahead, or put right.
    Leap,
    /// Somebody deletes the consumer's Secret.
    Delete,
    /// Somebody takes the token out of the Secret.
    Empty,
    /// Somebody revokes the consumer by name.
    Revoke,
    /// Somebody revokes a token by its id: the consumer's, or the one before it.
    RevokeId(TokenHash),
    /// Somebody asks for a new token.
    Rotate,
    /// Somebody types another token into the Secret.
    Edit,
    /// Somebody makes a backup of the Secret.
    Backup,
    /// Somebody brings the backup back.
    Restore,
    /// Somebody replaces the Secret by one with another token and without notes.
    Replace,
    /// Somebody deletes the Secret of hashes.
    DeleteHashes,
    /// Somebody takes an entry out of the Secret of hashes.
    TakeOut(TokenHash),
    /// Somebody puts an entry into the Secret of hashes: one that nobody was given, or one that is over.
    PutIn(TokenHash),
    /// The first pod answers no longer, or again.
    Hush,
    /// A pod goes.
    Leave(usize),
    /// A pod comes, with the file of the moment.
    Come(usize),
    /// Somebody deletes the Deployment.
    Undeploy,
}

/// Who is at work beside the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hands {
    /// Nobody; the clock goes back and forth.
    Nobody,
    /// Somebody who deletes and revokes.
    Deleting,
    /// Somebody who takes the token out of the Secret and revokes.
    Emptying,
    /// Somebody who edits, makes backups and brings them back.
    Restoring,
    /// Pods that fall silent, leave and come.
    Pods,
    /// Somebody who deletes the Secret of hashes and edits it.
    Hashing,
    /// Somebody who asks for a new token and revokes one by its id.
    Asking,
    /// Somebody who deletes the Deployment and the consumer's Secret: for a while no API runs.
    Undeploying,
    /// Somebody who sets the clock far ahead for a while, and deletes or edits the Secret.
    Clock,
}

/// Whether the clock is far ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Leap {
    Never,
    Now,
    Over,
}

impl Leap {
    /// By how many seconds: more than the clocks of two operators may differ, and than it takes anything to come to rest.
    pub(super) fn offset(self) -> i64 {
        match self {
            Self::Now => 1000,
            Self::Never | Self::Over => 0,
        }
    }
}

impl World {
    /// What can happen in this world.
    pub(super) fn possible(&self, hands: Hands) -> Vec<Action> {
        let mut all = match self.mind {
            Mind::Nothing => vec![Action::Observe],
            Mind::Decided(..) => vec![Action::Write, Action::Crash],
            Mind::Wrote(_) => vec![Action::WriteHashes, Action::Crash],
        };
        // A file whose Secret is gone stays as it is.
        let lags = |pod: &usize| self.listed && self.pods[*pod].as_ref().is_some_and(|file| *file != self.hashes);
        all.extend((0..self.pods.len()).filter(lags).map(Action::Sync));
        // Hands that do something multiply the worlds: the clock then only goes on, and not as far.
        let (clock, jumps) = match hands {
            Hands::Nobody => (10..=45, &[5, -10][..]),
            // What is noted of the time makes more worlds.
            Hands::Clock => (20..=25, &[5][..]),
            Hands::Deleting
            | Hands::Emptying
            | Hands::Restoring
            | Hands::Pods
            | Hands::Hashing
            | Hands::Asking
            | Hands::Undeploying => (20..=35, &[5][..]),
        };
        let now = self.now - self.leap.offset();
        all.extend(jumps.iter().filter(|by| clock.contains(&(now + **by))).map(|by| Action::Jump(*by)));
        all.extend(self.by(hands));
        all
    }

    /// What these hands can do.
    fn by(&self, hands: Hands) -> Vec<Action> {
        let mut all = Vec::new();
        match hands {
            Hands::Nobody => {}
            Hands::Deleting => {
                all.extend((!self.deleted && self.secret.is_some()).then_some(Action::Delete));
                all.extend(self.revoke.is_none().then_some(Action::Revoke));
            }
            Hands::Emptying => {
                let there = self.secret.as_ref().is_some_and(|holding| holding.slots.token.is_some());
                all.extend((!self.deleted && there).then_some(Action::Empty));
                all.extend(self.revoke.is_none().then_some(Action::Revoke));
            }
            Hands::Restoring => {
                all.extend((self.backup.is_none()).then_some(Action::Backup));
                all.extend((self.edits == 0).then_some([Action::Edit, Action::Replace]).into_iter().flatten());
                let older = self.backup.is_some() && self.backup != self.secret;
                all.extend((self.edits < 2 && older).then_some(Action::Restore));
            }
            Hands::Pods => {
                all.extend((self.moves < 3).then_some(Action::Hush));
                all.extend(self.moved(1));
            }
            Hands::Hashing => all.extend(self.hashing()),
            Hands::Asking => {
                all.extend((!self.rotate).then_some(Action::Rotate));
                let slots = self.secret.as_ref().map(|holding| &holding.slots).filter(|_| self.revoke.is_none());
                let live = slots.into_iter().flat_map(|slots| [slots.token, slots.next, slots.previous]).flatten();
                all.extend(live.map(Action::RevokeId));
            }
            Hands::Clock => {
                all.extend((self.leap != Leap::Over).then_some(Action::Leap));
                let once = !self.deleted && self.edits == 0;
                all.extend(
                    (once && self.secret.is_some()).then_some([Action::Delete, Action::Edit]).into_iter().flatten(),
                );
            }
            Hands::Undeploying => {
                // A first token that is gone before the hashes are written has left nothing behind.
                all.extend((!self.deleted && self.secret.is_some() && self.listed).then_some(Action::Delete));
                all.extend((self.deployed && !self.undeployed).then_some(Action::Undeploy));
                all.extend((0..self.pods.len()).filter_map(|pod| self.moved(pod)));
            }
        }
        all
    }

    /// A pod that is there may go; one comes only where the Deployment and the Secret that it mounts are there.
    fn moved(&self, pod: usize) -> Option<Action> {
        let comes = self.deployed && self.listed;
        match &self.pods[pod] {
            Some(_) => (self.moves < 2).then_some(Action::Leave(pod)),
            None => comes.then_some(Action::Come(pod)),
        }
    }

    /// Once each. With both Secrets gone at once nothing in the cluster tells of what was.
    fn hashing(&self) -> Vec<Action> {
        let mut all = Vec::new();
        let knows = self.secret.as_ref().is_some_and(|holding| holding.slots.token.is_some());
        all.extend((!self.unlisted && self.listed && knows).then_some(Action::DeleteHashes));
        if self.listed && self.taken_out.is_none() {
            all.extend(self.hashes.iter().copied().map(Action::TakeOut));
        }
        if self.listed && self.foreign.is_none() {
            let over = self.ended.last().copied();
            all.extend([Some(World::foreign()), over].into_iter().flatten().map(Action::PutIn));
        }
        all
    }
}
