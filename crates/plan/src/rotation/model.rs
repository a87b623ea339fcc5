//! Every interleaving of steps, crashes, conflicts, slow kubelets and clock jumps, one after the other: not sampled, enumerated.

use std::collections::{HashSet, VecDeque};

use super::model_world::{Action, Hands, World};
use super::*;

/// More worlds than this, and the bounds of the model are wrong.
const MOST: usize = 400_000;

/// What holds in every world, whatever happened.
fn lawful(world: &World) -> Result<(), String> {
    let Some(holding) = &world.secret else { return Ok(()) };
    let everywhere = |hash: &TokenHash| world.files().iter().all(|file| file.contains(hash));
    let Slots { token, next: _, previous, retired: _ } = &holding.slots;
    // What somebody puts there while the Secret of hashes is about to change is accepted a step later.
    let hurried = world.unseen || world.hurried.is_some();
    if let Some(token) = token.filter(|token| !world.unseen && Some(*token) != world.hurried)
        && !everywhere(&token)
    {
        return Err(format!("{} was handed out, a pod has {:?}, {:?}", token.id(), world.ids(0), world.ids(1)));
    }
    // A backup may bring back one whose time is over by its own words.
    let over = world.was_restored()
        && holding.notes.previous_until.is_none_or(|until| until <= crate::fixtures::at(world.now));
    if previous.is_some_and(|previous| !hurried && !over && !everywhere(&previous)) {
        return Err("the token before is refused within its overlap".into());
    }
    let owed = world.owed.iter().find(|(hash, until)| world.now < *until && !everywhere(hash));
    if let Some((cut_off, until)) = owed {
        return Err(format!("{} was cut off before {until}", cut_off.id()));
    }
    let alive = |hash: &&TokenHash| world.hashes.contains(hash) || world.files().iter().any(|file| file.contains(hash));
    if let Some(dead) = world.ended.iter().find(alive) {
        return Err(format!("{} was proven dead and is accepted", dead.id()));
    }
    let is_done = holding.notes.revoked.is_some();
    if let Some(leaked) = holding.accepted().into_iter().find(|hash| is_done && world.leaked.contains(hash)) {
        return Err(format!("{} was revoked and is accepted again", leaked.id()));
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
    let (from, to) = (before.stage(), after.stage());
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
    if new_token == 1 && is.is_none_or(|is| is <= before.highest) {
        return Err(format!("generation {is:?} again, {} was there", before.highest));
    }
    Ok(())
}

/// Left alone, with pods that follow and time that passes, it comes to rest.
fn comes_to_rest(world: &World) -> Result<(), String> {
    let mut world = world.with_pods_that_answer();
    for _ in 0..40 {
        let quiet = world.secret.as_ref().is_some_and(|holding| holding.notes.displaced.is_empty());
        if world.stage() == Stage::Idle && quiet {
            return Ok(());
        }
        for action in [Action::Observe, Action::Write, Action::WriteHashes, Action::Sync(0), Action::Sync(1)] {
            world = world.after(action).0;
        }
        if matches!(world.stage(), Stage::Overlap | Stage::Idle) {
            world = world.after(Action::Jump(5)).0;
        }
    }
    Err(format!("it stays at {:?}", world.stage()))
}

/// Walks through every world that can be reached; returns how many there were, and which moves were made.
/// A walk ends after so many `generations`.
fn explore(hands: Hands, generations: usize) -> (usize, HashSet<Move>) {
    let start = World::settled();
    let mut known = HashSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    let mut moves = HashSet::new();
    while let Some(world) = open.pop_front() {
        for action in world.possible(hands) {
            let (next, done) = world.after(action);
            let checked = lawful(&next).and_then(|()| match done {
                Some(then) => {
                    moves.insert(then);
                    follows_the_table(&world, then, &next).and_then(|()| comes_to_rest(&next))
                }
                None => Ok(()),
            });
            if let Err(broken) = checked {
                panic!("{broken}\nby {action:?}\nin {world:#?}");
            }
            let ends = next.given.len() > generations;
            assert!(known.len() < MOST, "the model has no end");
            if !ends && known.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    (known.len(), moves)
}

#[test]
fn no_interleaving_of_steps_crashes_conflicts_and_clock_jumps_locks_anybody_out_or_lets_a_retired_token_in() {
    let (worlds, moves) = explore(Hands::Nobody, 3);
    println!("{worlds} worlds");
    assert!(worlds > 1000, "{worlds} worlds are not every interleaving");
    assert_eq!(moves, HashSet::from([Move::Issue, Move::Promote, Move::Retire, Move::Finish]));
}

#[test]
fn a_secret_deleted_and_a_consumer_revoked_at_any_moment_end_in_one_token_that_works() {
    let (worlds, moves) = explore(Hands::Deleting, 2);
    println!("{worlds} worlds");
    assert!(moves.contains(&Move::Revoke) && moves.contains(&Move::Forget));
}

#[test]
fn a_secret_edited_replaced_or_restored_at_any_moment_cuts_nobody_off() {
    let (worlds, moves) = explore(Hands::Restoring, 2);
    println!("{worlds} worlds");
    assert!(moves.contains(&Move::Adopt) && moves.contains(&Move::Forget));
}

#[test]
fn pods_that_fall_silent_leave_and_come_at_any_moment_lock_nobody_out() {
    let (worlds, moves) = explore(Hands::Pods, 2);
    println!("{worlds} worlds");
    assert!(moves.contains(&Move::Promote) && moves.contains(&Move::Finish));
}

#[test]
fn a_secret_emptied_and_a_consumer_revoked_at_any_moment_bring_back_nothing_that_leaked() {
    let (worlds, moves) = explore(Hands::Emptying, 2);
    println!("{worlds} worlds");
    assert!(moves.contains(&Move::Revoke) && moves.contains(&Move::Issue));
}
