//! Every interleaving of steps, crashes, conflicts, slow kubelets and clock jumps, one after the other: not sampled, enumerated.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::model_hands::{Action, Hands};
use super::model_world::{POLICY, World};
use super::*;
use crate::fixtures::at;

/// More worlds than this, and the bounds of the model are wrong.
const MOST: usize = 400_000;

/// What holds in every world, whatever happened.
fn lawful(world: &World) -> Result<(), String> {
    let Some(holding) = &world.secret else { return Ok(()) };
    let everywhere = |hash: &TokenHash| world.cut == Some(*hash) || world.everywhere(*hash);
    let Slots { token, next: _, previous, retired: _ } = &holding.slots;
    // What somebody puts there while the Secret of hashes is about to change is accepted a step later.
    let hurried = world.unseen || world.hurried.is_some();
    if let Some(token) = token.filter(|token| !world.unseen && Some(*token) != world.hurried)
        && !everywhere(&token)
    {
        return Err(format!("{} was handed out, a pod has {:?}, {:?}", token.id(), world.ids(0), world.ids(1)));
    }
    // A backup may bring back one whose time is over by its own words.
    let over = world.was_restored() && holding.notes.previous_until.is_none_or(|until| until <= at(world.now));
    if previous.is_some_and(|previous| !hurried && !over && !everywhere(&previous)) {
        return Err("the token before is refused within its overlap".into());
    }
    let is_owed = |hash: &TokenHash| world.revoke.is_none() || !world.leaked.contains(hash);
    let owed = world.owed.iter().find(|(hash, until)| world.now < *until && is_owed(hash) && !everywhere(hash));
    if let Some((cut_off, until)) = owed {
        return Err(format!("{} was cut off before {until}", cut_off.id()));
    }
    if let Some(dead) = world.ended.iter().find(|hash| world.anywhere(**hash)) {
        return Err(format!("{} was proven dead and is accepted", dead.id()));
    }
    let is_done = holding.notes.revoked.is_some();
    if let Some(leaked) = holding.accepted().into_iter().find(|hash| is_done && world.leaked.contains(hash)) {
        return Err(format!("{} was revoked and is accepted again", leaked.id()));
    }
    if let Some(foreign) = world.foreign.filter(|foreign| holding.accepted().contains(foreign)) {
        return Err(format!("{} was put into the hashes by hand and is accepted from now on", foreign.id()));
    }
    let mut given = world.given.clone();
    given.sort_unstable();
    given.dedup();
    // The next token of a backup may have been handed out since.
    if given.len() != world.given.len() && !world.was_restored() {
        return Err("a token was handed out twice".into());
    }
    Ok(())
}

/// A move leads from its stage to where the table says, and to one generation more exactly when the token is another.
fn follows_the_table(before: &World, then: Move, after: &World) -> Result<(), String> {
    let (from, to) = (before.stage_seen(), after.stage());
    let rows = TABLE.iter().filter(|row| row.then == Some(then) && row.from.contains(&from));
    let leads = |row: &Row| if row.to.is_empty() { to == from } else { row.to.contains(&to) };
    if !rows.clone().any(leads) {
        return Err(format!("{then:?} led from {from:?} to {to:?}"));
    }
    let generation = |world: &World| world.secret.as_ref().map(|holding| holding.notes.generation);
    let new_token = after.given.len() - before.given.len();
    let (was, is) = (generation(before), generation(after));
    let adopted = then == Move::Adopt;
    if after.unseen {
        return Ok(());
    }
    if adopted && is.is_none_or(|is| is <= before.highest) {
        return Err(format!("{then:?} led to generation {is:?}, {} was there", before.highest));
    }
    if let (Some(was), Some(is)) = (was, is)
        && !adopted
        && is != was + new_token as u64
    {
        return Err(format!("{then:?} led from generation {was} to {is}"));
    }
    let due = |holding: &Holding| {
        let over =
            holding.notes.issued_at.and_then(|issued| POLICY.due(issued)).is_some_and(|due| due <= at(after.now));
        over || holding.notes.rotated != before.asks().rotate
    };
    if before.rotate && then == Move::Issue && from == Stage::Idle && !before.secret.as_ref().is_some_and(due) {
        return Err("a token was made that nobody asked for, before its time".into());
    }
    if new_token == 1 && is.is_none_or(|is| is <= before.highest) {
        return Err(format!("generation {is:?} again, {} was there", before.highest));
    }
    Ok(())
}

/// Whether there is nothing left to do: everybody accepts what the Secret says and nothing else, and whatever was asked is done.
fn is_at_rest(world: &World) -> bool {
    let Some(holding) = &world.secret else { return false };
    let (accepted, rotate) = (holding.accepted(), world.asks().rotate);
    let follows = world.hashes == accepted && world.pods.iter().all(|file| file.as_ref() == Some(&accepted));
    let done =
        (rotate.is_none() || holding.notes.rotated == rotate) && !world.leaked.iter().any(|hash| world.anywhere(*hash));
    world.stage() == Stage::Idle && holding.notes.displaced.is_empty() && follows && done
}

/// What tells one world from another: two of half a million share 64 bits about never.
fn fingerprint(world: &World) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(world)
}

/// Worlds that are known to come to rest: most ways there meet.
#[derive(Default)]
struct Resting(HashSet<u64>);

impl Resting {
    /// Left alone, with pods that follow and time that passes, it comes to rest.
    fn reached_from(&mut self, world: &World) -> Result<(), String> {
        let (mut world, mut way) = (world.with_pods_that_answer(), Vec::new());
        for _ in 0..40 {
            let known = fingerprint(&world);
            way.push(known);
            if self.0.contains(&known) || is_at_rest(&world) {
                self.0.extend(way);
                return Ok(());
            }
            for action in [Action::Observe, Action::Write, Action::WriteHashes, Action::Sync(0), Action::Sync(1)] {
                world = world.after(action).0;
            }
            for pod in 0..world.pods.len() {
                if world.pods[pod].is_none() && world.deployed && world.listed {
                    world = world.after(Action::Come(pod)).0;
                }
            }
            if matches!(world.stage(), Stage::Overlap | Stage::Idle) {
                world = world.after(Action::Jump(5)).0;
            }
        }
        Err(format!("it stays at {:?}", world.stage()))
    }
}

/// Walks through every world that can be reached; returns how many there were, and which moves were made.
/// A walk ends after so many `generations`.
fn explore(hands: Hands, starts: &[World], generations: usize) -> (usize, HashSet<Move>) {
    let mut known: HashSet<u64> = starts.iter().map(fingerprint).collect();
    let mut open: VecDeque<World> = starts.iter().cloned().collect();
    let (mut moves, mut resting) = (HashSet::new(), Resting::default());
    while let Some(world) = open.pop_front() {
        for action in world.possible(hands) {
            let (next, done) = world.after(action);
            let new = known.insert(fingerprint(&next));
            let lawful = if new { lawful(&next) } else { Ok(()) };
            let checked = lawful.and_then(|()| match done {
                Some(then) => {
                    moves.insert(then);
                    follows_the_table(&world, then, &next).and_then(|()| resting.reached_from(&next))
                }
                None if new && is_meddling(action) => resting.reached_from(&next),
                None => Ok(()),
            });
            if let Err(broken) = checked {
                panic!("{broken}\nby {action:?}\nin {world:#?}");
            }
            assert!(known.len() < MOST, "the model has no end");
            if new && next.given.len() <= generations {
                open.push_back(next);
            }
        }
    }
    println!("{hands:?}: {} worlds", known.len());
    (known.len(), moves)
}

/// Whether somebody does something after which it must come to rest again, where no move of the operator follows by itself.
fn is_meddling(action: Action) -> bool {
    match action {
        Action::Rotate
        | Action::RevokeId(_)
        | Action::DeleteHashes
        | Action::TakeOut(_)
        | Action::PutIn(_)
        | Action::Undeploy
        | Action::Leave(_)
        | Action::Leap
        | Action::Delete => true,
        Action::Observe
        | Action::Write
        | Action::WriteHashes
        | Action::Crash
        | Action::Sync(_)
        | Action::Jump(_)
        | Action::Empty
        | Action::Revoke
        | Action::Edit
        | Action::Backup
        | Action::Restore
        | Action::Replace
        | Action::Hush
        | Action::Come(_) => false,
    }
}

#[test]
fn no_interleaving_of_steps_crashes_conflicts_and_clock_jumps_locks_anybody_out_or_lets_a_retired_token_in() {
    let (worlds, moves) = explore(Hands::Nobody, &[World::settled()], 3);
    assert!(worlds > 1000, "{worlds} worlds are not every interleaving");
    assert_eq!(moves, HashSet::from([Move::Issue, Move::Promote, Move::Retire, Move::Finish]));
}

#[test]
fn a_secret_deleted_and_a_consumer_revoked_at_any_moment_end_in_one_token_that_works() {
    let (_, moves) = explore(Hands::Deleting, &[World::settled()], 2);
    assert!(moves.contains(&Move::Revoke) && moves.contains(&Move::Forget));
}

#[test]
fn a_secret_edited_replaced_or_restored_at_any_moment_cuts_nobody_off() {
    let (_, moves) = explore(Hands::Restoring, &[World::settled()], 2);
    assert!(moves.contains(&Move::Adopt) && moves.contains(&Move::Forget));
}

#[test]
fn pods_that_fall_silent_leave_and_come_at_any_moment_lock_nobody_out() {
    let (_, moves) = explore(Hands::Pods, &[World::settled()], 2);
    assert!(moves.contains(&Move::Promote) && moves.contains(&Move::Finish));
}

#[test]
fn a_secret_emptied_and_a_consumer_revoked_at_any_moment_bring_back_nothing_that_leaked() {
    let (_, moves) = explore(Hands::Emptying, &[World::settled()], 2);
    assert!(moves.contains(&Move::Revoke) && moves.contains(&Move::Issue));
}

#[test]
fn hashes_deleted_or_edited_by_hand_at_any_moment_are_put_right_and_let_nobody_in() {
    let (_, moves) = explore(Hands::Hashing, &[World::settled()], 2);
    assert_eq!(moves, HashSet::from([Move::Issue, Move::Promote, Move::Retire, Move::Finish]));
}

#[test]
fn a_rotation_asked_for_and_a_token_revoked_by_its_id_at_any_moment_are_done_once() {
    let (_, moves) = explore(Hands::Asking, &[World::settled()], 3);
    assert!(moves.contains(&Move::Revoke) && moves.contains(&Move::Issue));
}

#[test]
fn an_api_that_goes_and_comes_at_any_moment_refuses_no_token_that_was_given_meanwhile() {
    let (_, moves) = explore(Hands::Undeploying, &[World::settled(), World::unborn()], 2);
    assert!(moves.contains(&Move::Create) && moves.contains(&Move::Forget));
}

#[test]
fn a_clock_that_is_far_ahead_for_a_while_at_any_moment_keeps_no_old_token_alive_after_it_is_put_right() {
    let (_, moves) = explore(Hands::Clock, &[World::dated()], 2);
    assert!(moves.contains(&Move::Complete) && moves.contains(&Move::Forget));
}
