//! The world of the model test: one consumer (each is decided about alone), two pods whose files lag behind, that fall silent,
//! leave and come, an operator that dies between any two writes, and what people did.

use std::sync::LazyLock;

use jam_domain::TokenId;
use jam_domain::token::TokenHash;

use super::model_hands::{Action, Leap};
use super::*;
use crate::fixtures::at;

/// How often, and how long both, in the world's seconds.
pub(super) const POLICY: Policy = Policy { interval: Some(10), overlap: 5, kubelet_sync: 1 };
/// The consumer.
const CONSUMER: &str = "demo";

/// What the operator has in mind.
#[allow(clippy::large_enum_variant, reason = "cloned by the thousand; a box would cost more than it saves")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Mind {
    Nothing,
    /// What it saw, at which stage, after how many edits, and what it wants to write.
    Decided(Option<Holding>, Stage, u8, Option<(Move, Holding)>),
    /// The Secret of hashes is to follow from this.
    Wrote(Holding),
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) now: i64,
    pub(super) secret: Option<Holding>,
    pub(super) hashes: Vec<TokenHash>,
    known_generation: u64,
    known_revoked: Option<String>,
    /// The files of the pods; none of one that is not there.
    pub(super) pods: [Option<Vec<TokenHash>>; 2],
    pub(super) mind: Mind,
    made: u8,
    /// The highest generation that the consumer's token ever had.
    pub(super) highest: u64,
    /// Tokens that the consumer was given, in order.
    pub(super) given: Vec<TokenHash>,
    /// Tokens that were proven dead.
    pub(super) ended: Vec<TokenHash>,
    pub(super) deleted: bool,
    /// The value of `jam.network/revoke`.
    pub(super) revoke: Option<String>,
    /// Whether a new token was asked for.
    pub(super) rotate: bool,
    /// What was accepted when the consumer was revoked, or the token whose id was.
    pub(super) leaked: Vec<TokenHash>,
    /// A token that is handed out before every pod accepts it: only a revocation does that.
    pub(super) hurried: Option<TokenHash>,
    pub(super) backup: Option<Holding>,
    pub(super) edits: u8,
    /// Tokens that somebody threw out of the Secret, and until when each must be accepted.
    pub(super) owed: Vec<(TokenHash, i64)>,
    /// Whether that happened while the Secret of hashes lagged behind: nothing then tells of the state that is gone.
    pub(super) unseen: bool,
    /// Whether the first pod does not answer.
    silent: bool,
    pub(super) moves: u8,
    /// Whether the Secret of hashes is there.
    pub(super) listed: bool,
    /// Whether somebody deleted it.
    pub(super) unlisted: bool,
    /// The entry that somebody took out of it.
    pub(super) taken_out: Option<TokenHash>,
    /// The same until every pod accepts it again, where it had been handed out: nobody can help that pods read so before the operator.
    pub(super) cut: Option<TokenHash>,
    /// The entry that somebody put into it.
    pub(super) foreign: Option<TokenHash>,
    /// Whether the Deployment is there.
    pub(super) deployed: bool,
    /// Whether somebody deleted it.
    pub(super) undeployed: bool,
    pub(super) leap: Leap,
    /// Whether the Secret notes when it changed: where nobody sets the clock far ahead that decides nothing, and makes many worlds.
    dated: bool,
}

static TOKENS: LazyLock<Vec<TokenHash>> =
    LazyLock::new(|| (0..=101_u8).map(|n| hex::encode([n; 32]).parse().expect("64 digits")).collect());

fn token(n: u8) -> TokenHash {
    TOKENS[usize::from(n)]
}

impl World {
    /// A consumer with its first token, accepted by both pods.
    pub(super) fn settled() -> Self {
        let first = token(1);
        let notes = Notes { generation: 1, issued_at: Some(at(20)), written: Some(first.id()), ..Notes::default() };
        let slots = Slots { token: Some(first), ..Slots::default() };
        let holding = Holding { slots, notes, matching: true, not_after: Some(at(35)) };
        Self {
            now: 20,
            secret: Some(holding),
            hashes: vec![first],
            known_generation: 1,
            known_revoked: None,
            pods: [Some(vec![first]), Some(vec![first])],
            mind: Mind::Nothing,
            made: 1,
            highest: 1,
            given: vec![first],
            ended: Vec::new(),
            deleted: false,
            revoke: None,
            rotate: false,
            leaked: Vec::new(),
            hurried: None,
            backup: None,
            edits: 0,
            owed: Vec::new(),
            unseen: false,
            silent: false,
            moves: 0,
            listed: true,
            unlisted: false,
            taken_out: None,
            cut: None,
            foreign: None,
            deployed: true,
            undeployed: false,
            leap: Leap::Never,
            dated: false,
        }
    }

    /// The same with a Secret that notes when it changed.
    pub(super) fn dated() -> Self {
        Self { dated: true, ..Self::settled() }
    }

    /// A consumer that has nothing yet, of an instance without an API.
    pub(super) fn unborn() -> Self {
        let known =
            Self { secret: None, hashes: Vec::new(), known_generation: 0, made: 0, highest: 0, ..Self::settled() };
        Self { given: Vec::new(), pods: [None, None], listed: false, deployed: false, ..known }
    }

    /// A token that the operator never made.
    pub(super) fn foreign() -> TokenHash {
        token(101)
    }

    /// Whether somebody put another Secret there.
    pub(super) fn was_restored(&self) -> bool {
        self.edits > 0
    }

    /// Whether every pod that is there accepts a token.
    pub(super) fn everywhere(&self, hash: TokenHash) -> bool {
        self.pods.iter().flatten().all(|file| file.contains(&hash))
    }

    /// Whether a token is accepted by a pod, or by the next that comes.
    pub(super) fn anywhere(&self, hash: TokenHash) -> bool {
        self.hashes.contains(&hash) || self.pods.iter().flatten().any(|file| file.contains(&hash))
    }

    pub(super) fn asks(&self) -> Asks {
        let consumers = [CONSUMER.to_owned()].into();
        let rotate = self.rotate.then(|| format!("{CONSUMER},1"));
        Asks { rotate, revoke: self.revoke.clone(), consumers, ..Asks::default() }
    }

    /// What each pod says when it is asked now.
    fn answers(&self) -> Vec<PodAnswer> {
        let retired = self.secret.as_ref().map(|holding| holding.slots.retired.clone()).unwrap_or_default();
        let answer = |(n, file): (usize, &Option<Vec<TokenHash>>)| {
            let (file, answers) = (file.as_ref()?, n > 0 || !self.silent);
            Some(PodAnswer {
                pod: format!("pod-{n}"),
                accepts: answers.then(|| file.iter().map(TokenHash::id).collect()),
                refused: retired.iter().filter(|hash| answers && !file.contains(hash)).copied().collect(),
                told: None,
            })
        };
        self.pods.iter().enumerate().filter_map(answer).collect()
    }

    /// The stage, as the operator would see it now.
    pub(super) fn stage(&self) -> Stage {
        self.secret.as_ref().map_or(Stage::Lost, |holding| stage(holding, &self.hashes))
    }

    /// The stage at which the operator decided about it, whatever became of the hashes meanwhile.
    pub(super) fn stage_seen(&self) -> Stage {
        match &self.mind {
            Mind::Decided(_, stage, _, _) => *stage,
            Mind::Nothing | Mind::Wrote(_) => self.stage(),
        }
    }

    /// The world after an action, and the move that was written.
    pub(super) fn after(&self, action: Action) -> (Self, Option<Move>) {
        let mut next = self.clone();
        let mut moved = None;
        match action {
            Action::Observe => next.mind = self.decided(),
            Action::Write => moved = next.write(),
            Action::WriteHashes => next.write_hashes(),
            Action::Crash => next.mind = Mind::Nothing,
            Action::Sync(pod) if self.listed => next.pods[pod] = self.pods[pod].as_ref().map(|_| self.hashes.clone()),
            Action::Sync(_) => {}
            Action::Jump(by) => next.now += by,
            Action::Leap => next.leap(),
            Action::Delete => next.delete(),
            Action::Empty => {
                next.deleted = true;
                next.edits += 1;
                next.secret.iter_mut().for_each(|holding| holding.slots.token = None);
            }
            Action::Revoke => {
                next.revoke = Some(CONSUMER.to_owned());
                next.leaked = next.secret.iter().flat_map(Holding::accepted).chain(next.hashes.clone()).collect();
            }
            Action::RevokeId(hash) => (next.revoke, next.leaked) = (Some(hash.id().to_string()), vec![hash]),
            Action::Rotate => next.rotate = true,
            Action::Edit => {
                let mut edited = next.secret.clone().unwrap_or_default();
                edited.slots.token = Some(token(100));
                next.put(edited);
            }
            Action::Backup => next.backup.clone_from(&next.secret),
            Action::Restore => next.put(next.backup.clone().unwrap_or_default()),
            Action::Replace => {
                let slots = Slots { token: Some(token(100)), ..Slots::default() };
                next.put(Holding { slots, ..Holding::default() });
            }
            Action::DeleteHashes => {
                (next.hashes, next.known_generation, next.known_revoked) = (Vec::new(), 0, None);
                (next.listed, next.unlisted) = (false, true);
            }
            Action::TakeOut(hash) => {
                next.hashes.retain(|listed| *listed != hash);
                // What the operator saw a moment ago it may hand out still.
                let hurries = self.given.contains(&hash) || matches!(self.mind, Mind::Decided(..));
                (next.taken_out, next.cut) = (Some(hash), hurries.then_some(hash));
            }
            Action::PutIn(hash) => {
                next.hashes.push(hash);
                next.foreign = Some(hash);
                // It is alive by the word of whoever put it there, until the operator takes it out.
                next.ended.retain(|over| *over != hash);
            }
            Action::Hush => (next.silent, next.moves) = (!next.silent, next.moves + 1),
            Action::Leave(pod) => (next.pods[pod], next.moves) = (None, next.moves + 1),
            Action::Come(pod) => next.pods[pod] = Some(next.hashes.clone()),
            Action::Undeploy => (next.deployed, next.undeployed) = (false, true),
        }
        next.calm();
        (next, moved)
    }

    /// What is accepted everywhere is excused no longer.
    fn calm(&mut self) {
        let follows = |holding: &Holding| holding.notes.generation == self.known_generation;
        let settled = self.secret.as_ref().is_some_and(follows);
        if settled && self.hurried.is_some_and(|hash| self.everywhere(hash)) {
            self.hurried = None;
        }
        if self.cut.is_some_and(|hash| self.hashes.contains(&hash) && self.everywhere(hash)) {
            self.cut = None;
        }
    }

    fn write_hashes(&mut self) {
        if let Mind::Wrote(holding) = std::mem::replace(&mut self.mind, Mind::Nothing) {
            self.hashes = holding.accepted();
            self.known_generation = holding.notes.generation;
            self.known_revoked = holding.notes.revoked;
            (self.listed, self.deployed) = (true, true);
        }
    }

    /// Sets the clock far ahead, or puts it right. What was over by the one is owed to nobody by the other.
    fn leap(&mut self) {
        let before = self.now;
        let (leap, by) = match self.leap {
            Leap::Never => (Leap::Now, Leap::Now.offset()),
            Leap::Now | Leap::Over => (Leap::Over, -Leap::Now.offset()),
        };
        (self.leap, self.now) = (leap, before + by);
        if leap == Leap::Over {
            self.owed.retain(|(_, until)| before < *until);
            self.owed.iter_mut().for_each(|(_, until)| *until += by);
        }
    }

    fn delete(&mut self) {
        self.owe();
        (self.secret, self.deleted) = (None, true);
    }

    /// What the consumer has is owed to it for an overlap, where every pod accepts it.
    fn owe(&mut self) {
        let Some(Holding { slots, notes, .. }) = &self.secret else { return };
        let everywhere = |hash: &TokenHash| !self.unseen && self.everywhere(*hash);
        // A clock that was ahead has noted more than that.
        let fully = self.now + POLICY.overlap;
        let until = notes.previous_until.map(|until| fully.min(until.as_micros() / 1_000_000));
        let had = [(slots.token, Some(fully)), (slots.previous, until)];
        let had = had.into_iter().filter_map(|(hash, until)| hash.filter(everywhere).zip(until));
        self.owed.extend(had.collect::<Vec<_>>());
    }

    /// Puts another Secret there by hand. What the consumer had is owed to it for an overlap, when every pod accepts it.
    fn put(&mut self, other: Holding) {
        let noted = self.secret.as_ref().map(|before| before.notes.generation).unwrap_or_default();
        self.unseen |= self.known_generation != noted;
        self.owe();
        // What is put there is alive again, by the word of whoever put it.
        let revived = other.accepted();
        self.ended.retain(|hash| !revived.contains(hash));
        self.hurried = other.slots.token.or(self.hurried);
        self.secret = Some(other);
        self.edits += 1;
    }

    fn decided(&self) -> Mind {
        let (asks, pods) = (self.asks(), self.answers());
        let around = Around {
            at: at(self.now),
            hashes: &self.hashes,
            known: self.known_generation,
            revoked: self.known_revoked.as_deref(),
            serving: self.deployed || self.pods.iter().any(Option::is_some),
            pods: &pods,
            policy: POLICY,
            consumer: CONSUMER,
            asks: &asks,
        };
        let lost = || Holding::lost(self.known_generation, &self.hashes, self.known_revoked.clone());
        let before = self.secret.clone().unwrap_or_else(lost);
        let wish = decide(&before, &around).map(|then| {
            let change = Change::of(then, &before, &around);
            let fresh = change.needs_fresh(&before).then(|| token(self.made + 1));
            let mut after = advance(&before, &change, fresh, &around, &displaced_by_loss(&before, &around));
            after.notes.changed_at = after.notes.changed_at.filter(|_| self.dated);
            (then, after)
        });
        Mind::Decided(self.secret.clone(), self.stage(), self.edits, wish)
    }

    fn write(&mut self) -> Option<Move> {
        let Mind::Decided(seen, _, edits, wish) = std::mem::replace(&mut self.mind, Mind::Nothing) else { return None };
        if seen != self.secret || edits != self.edits {
            // The API server refuses: it changed since it was read. What was edited and put back as it was is written by the
            // operator, but with the time of a moment ago and not, as here, of seconds that are hours.
            return None;
        }
        let Some((then, holding)) = wish else {
            self.mind = seen.map_or(Mind::Nothing, Mind::Wrote);
            return None;
        };
        let before = seen.unwrap_or_default();
        self.highest = self.highest.max(holding.notes.generation);
        if let Some(token) = holding.slots.token.filter(|token| Some(*token) != before.slots.token) {
            self.given.push(token);
            self.hurried = (then == Move::Revoke).then_some(token).or(self.hurried);
        }
        if then == Move::Finish {
            self.ended.extend(&before.slots.retired);
        }
        let new = [holding.slots.token, holding.slots.next].into_iter().flatten();
        self.made = self.made.max(new.filter_map(|hash| (0..=99).find(|n| token(*n) == hash)).max().unwrap_or(0));
        self.mind = Mind::Wrote(holding.clone());
        self.secret = Some(holding);
        Some(then)
    }

    /// The same with pods that answer again.
    pub(super) fn with_pods_that_answer(&self) -> Self {
        Self { silent: false, ..self.clone() }
    }

    /// The ids that a pod accepts.
    pub(super) fn ids(&self, pod: usize) -> Vec<TokenId> {
        self.pods[pod].iter().flatten().map(TokenHash::id).collect()
    }
}
