//! The world of the model test: one consumer (each is decided about alone), two pods whose files lag behind, that fall silent,
//! leave and come, an operator that dies between any two writes, and people.

use jam_domain::TokenId;
use jam_domain::token::TokenHash;

use super::*;
use crate::fixtures::at;

/// How often, and how long both, in the world's seconds.
pub(super) const POLICY: Policy = Policy { interval: Some(10), overlap: 5, kubelet_sync: 1 };
/// The consumer.
const CONSUMER: &str = "demo";

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The operator reads everything and decides.
    Observe,
    /// It writes the consumer's Secret, or finds that it changed meanwhile.
    Write,
    /// It writes the Secret of hashes.
    WriteHashes,
    /// It dies, or the API server refuses its write: what it had in mind is gone.
    Crash,
    /// The kubelet brings the hashes to a pod.
    Sync(usize),
    /// The clock moves by so many seconds, also backwards.
    Jump(i64),
    /// Somebody deletes the consumer's Secret.
    Delete,
    /// Somebody revokes the consumer by name.
    Revoke,
    /// Somebody types another token into the Secret.
    Edit,
    /// Somebody makes a backup of the Secret.
    Backup,
    /// Somebody brings the backup back.
    Restore,
    /// Somebody replaces the Secret by one with another token and without notes.
    Replace,
    /// The first pod answers no longer, or again.
    Hush,
    /// The second pod goes, or comes back with the file of the moment.
    Move,
}

/// Who is at work beside the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hands {
    /// Nobody; the clock goes back and forth.
    Nobody,
    /// Somebody who deletes and revokes.
    Deleting,
    /// Somebody who edits, makes backups and brings them back.
    Restoring,
    /// Pods that fall silent, leave and come.
    Pods,
}

/// What the operator has in mind.
#[allow(clippy::large_enum_variant, reason = "cloned by the thousand; a box would cost more than it saves")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Mind {
    Nothing,
    /// What it saw, after how many edits, and what it wants to write.
    Decided(Option<Holding>, u8, Option<(Move, Holding)>),
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
    pub(super) pods: [Vec<TokenHash>; 2],
    mind: Mind,
    made: u8,
    /// The highest generation that the consumer's token ever had.
    pub(super) highest: u64,
    /// Tokens that the consumer was given, in order.
    pub(super) given: Vec<TokenHash>,
    /// Tokens that were proven dead.
    pub(super) ended: Vec<TokenHash>,
    pub(super) deleted: bool,
    pub(super) revoked: bool,
    /// A token that is handed out before every pod accepts it: only a revocation does that.
    pub(super) hurried: Option<TokenHash>,
    backup: Option<Holding>,
    edits: u8,
    /// Tokens that somebody threw out of the Secret, and until when each must be accepted.
    pub(super) owed: Vec<(TokenHash, i64)>,
    /// Whether that happened while the Secret of hashes lagged behind: nothing then tells of the state that is gone.
    pub(super) unseen: bool,
    /// Whether the first pod does not answer.
    silent: bool,
    /// Whether the second pod is not there.
    pub(super) away: bool,
    moves: u8,
}

fn token(n: u8) -> TokenHash {
    hex::encode([n; 32]).parse().expect("64 digits")
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
            pods: [vec![first], vec![first]],
            mind: Mind::Nothing,
            made: 1,
            highest: 1,
            given: vec![first],
            ended: Vec::new(),
            deleted: false,
            revoked: false,
            hurried: None,
            backup: None,
            edits: 0,
            owed: Vec::new(),
            unseen: false,
            silent: false,
            away: false,
            moves: 0,
        }
    }

    /// Whether somebody put another Secret there.
    pub(super) fn was_restored(&self) -> bool {
        self.edits > 0
    }

    /// The files of the pods that are there.
    pub(super) fn files(&self) -> &[Vec<TokenHash>] {
        if self.away { &self.pods[..1] } else { &self.pods }
    }

    fn asks(&self) -> Asks {
        let consumers = [CONSUMER.to_owned()].into();
        Asks { rotate: None, revoke: self.revoked.then(|| CONSUMER.to_owned()), consumers }
    }

    /// What each pod says when it is asked now.
    fn answers(&self) -> Vec<PodAnswer> {
        let retired = self.secret.as_ref().map(|holding| holding.slots.retired.clone()).unwrap_or_default();
        let answer = |(n, file): (usize, &Vec<TokenHash>)| PodAnswer {
            pod: format!("pod-{n}"),
            accepts: (n > 0 || !self.silent).then(|| file.iter().map(TokenHash::id).collect()),
            refused: retired.iter().filter(|hash| (n > 0 || !self.silent) && !file.contains(hash)).copied().collect(),
            told: None,
        };
        self.files().iter().enumerate().map(answer).collect()
    }

    /// The stage, as the operator would see it now.
    pub(super) fn stage(&self) -> Stage {
        self.secret.as_ref().map_or(Stage::Lost, |holding| stage(holding, &self.hashes))
    }

    /// What can happen in this world.
    pub(super) fn possible(&self, hands: Hands) -> Vec<Action> {
        let mut all = match self.mind {
            Mind::Nothing => vec![Action::Observe],
            Mind::Decided(..) => vec![Action::Write, Action::Crash],
            Mind::Wrote(_) => vec![Action::WriteHashes, Action::Crash],
        };
        all.extend((0..self.files().len()).filter(|pod| self.pods[*pod] != self.hashes).map(Action::Sync));
        // Hands that delete and revoke multiply the worlds: the clock then only goes on, and not as far.
        let alone = hands == Hands::Nobody;
        let (clock, jumps) = if alone { (10..=45, &[5, -10][..]) } else { (20..=35, &[5][..]) };
        all.extend(jumps.iter().filter(|by| clock.contains(&(self.now + **by))).map(|by| Action::Jump(*by)));
        match hands {
            Hands::Nobody => {}
            Hands::Deleting => {
                all.extend((!self.deleted && self.secret.is_some()).then_some(Action::Delete));
                all.extend((!self.revoked).then_some(Action::Revoke));
            }
            Hands::Restoring => {
                all.extend((self.backup.is_none()).then_some(Action::Backup));
                all.extend((self.edits == 0).then_some([Action::Edit, Action::Replace]).into_iter().flatten());
                let older = self.backup.is_some() && self.backup != self.secret;
                all.extend((self.edits < 2 && older).then_some(Action::Restore));
            }
            Hands::Pods => all.extend((self.moves < 3).then_some([Action::Hush, Action::Move]).into_iter().flatten()),
        }
        all
    }

    /// The world after an action, and the move that was written.
    pub(super) fn after(&self, action: Action) -> (Self, Option<Move>) {
        let mut next = self.clone();
        let mut moved = None;
        match action {
            Action::Observe => next.mind = self.decided(),
            Action::Write => moved = next.write(),
            Action::WriteHashes => {
                if let Mind::Wrote(holding) = std::mem::replace(&mut next.mind, Mind::Nothing) {
                    next.hashes = holding.accepted();
                    next.known_generation = holding.notes.generation;
                    next.known_revoked = holding.notes.revoked;
                }
            }
            Action::Crash => next.mind = Mind::Nothing,
            Action::Sync(pod) => next.pods[pod].clone_from(&self.hashes),
            Action::Jump(by) => next.now += by,
            Action::Delete => (next.secret, next.deleted) = (None, true),
            Action::Revoke => next.revoked = true,
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
            Action::Hush => (next.silent, next.moves) = (!next.silent, next.moves + 1),
            Action::Move => {
                (next.away, next.moves) = (!next.away, next.moves + 1);
                next.pods[1].clone_from(&next.hashes);
            }
        }
        let follows = |holding: &Holding| holding.notes.generation == next.known_generation;
        let settled = next.secret.as_ref().is_some_and(follows);
        if settled && next.hurried.is_some_and(|hash| next.files().iter().all(|file| file.contains(&hash))) {
            next.hurried = None;
        }
        (next, moved)
    }

    /// Puts another Secret there by hand. What the consumer had is owed to it for an overlap, when every pod accepts it.
    fn put(&mut self, other: Holding) {
        let before = self.secret.take().unwrap_or_default();
        self.unseen |= self.known_generation != before.notes.generation;
        let everywhere = |hash: &TokenHash| !self.unseen && self.pods.iter().all(|file| file.contains(hash));
        let until = before.notes.previous_until.map(|until| until.as_micros() / 1_000_000);
        let had = [(before.slots.token, Some(self.now + POLICY.overlap)), (before.slots.previous, until)];
        let had = had.into_iter().filter_map(|(hash, until)| hash.filter(everywhere).zip(until));
        self.owed.extend(had.collect::<Vec<_>>());
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
            serving: true,
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
            // It decides when to look again, never what to do: without it there are fewer worlds.
            after.notes.changed_at = None;
            (then, after)
        });
        Mind::Decided(self.secret.clone(), self.edits, wish)
    }

    fn write(&mut self) -> Option<Move> {
        let Mind::Decided(seen, edits, wish) = std::mem::replace(&mut self.mind, Mind::Nothing) else { return None };
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

    /// The same with pods that answer again, all of them there.
    pub(super) fn with_pods_that_answer(&self) -> Self {
        let mut world = self.clone();
        if world.away {
            world = world.after(Action::Move).0;
        }
        world.silent = false;
        world
    }

    /// The ids that a pod accepts.
    pub(super) fn ids(&self, pod: usize) -> Vec<TokenId> {
        self.pods[pod].iter().map(TokenHash::id).collect()
    }
}
