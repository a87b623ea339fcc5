//! The table of a rotation: at which stage a consumer's tokens stand, what may happen there, and where it leads.

/// Where the tokens of one consumer stand. It follows from what its Secret and the Secret of hashes hold; it is stored nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// One token, and nothing is under way.
    Idle,
    /// No token: the Secret is not there, or somebody emptied it.
    Lost,
    /// The next token is made; the Secret of hashes lacks it still.
    Distribute,
    /// The next token is in the Secret of hashes; not every pod was heard to accept it.
    Verify,
    /// The consumer has the new token; the old one is accepted as well.
    Overlap,
    /// An old token's time is over; it is still in the Secret of hashes.
    Retire,
    /// An old token is in no file any more; not every pod was heard to refuse it.
    Prove,
}

impl Stage {
    /// Every stage, in the order that a rotation walks through them.
    pub const ALL: [Stage; 7] =
        [Stage::Idle, Stage::Lost, Stage::Distribute, Stage::Verify, Stage::Overlap, Stage::Retire, Stage::Prove];

    /// The stage as written in `status.rotation.stage`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Idle => "Idle",
            Stage::Lost => "Lost",
            Stage::Distribute => "Distribute",
            Stage::Verify => "Verify",
            Stage::Overlap => "Overlap",
            Stage::Retire => "Retire",
            Stage::Prove => "Prove",
        }
    }
}

/// What can be the case at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Somebody put another token into the Secret, or another Secret in its place.
    Edited,
    /// A token of the consumer is to end at once.
    Revoked,
    /// No API runs: a token can be handed out before anybody accepts it.
    NobodyServes,
    /// Always.
    Always,
    /// The Secret of hashes has the next token.
    InHashes,
    /// Every pod says that it accepts the next token.
    EveryPodAccepts,
    /// The time of the old token is over.
    OverlapIsOver,
    /// No retired token is in the Secret of hashes.
    OutOfHashes,
    /// Every pod refuses every retired token.
    EveryPodRefuses,
    /// The time of a token that somebody threw out of the Secret is over.
    DisplacedIsOver,
    /// The interval is over, or somebody asked for a new token.
    Due,
    /// What stands beside the token in the Secret is not what belongs there.
    Incomplete,
}

/// What is done to a consumer's Secret: one write each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Move {
    /// Give the consumer its first token.
    Create,
    /// Make the next token, which nobody is given yet.
    Issue,
    /// The next token becomes the token, the token becomes the previous one.
    Promote,
    /// The previous token is retired: accepted no longer, kept until every pod was seen to refuse it.
    Retire,
    /// The retired tokens are proven dead: drop them and note the proof.
    Finish,
    /// A leaked token is retired at once, and replaced if it was the consumer's.
    Revoke,
    /// The token that somebody put there counts; the one that it displaced is accepted for the overlap.
    Adopt,
    /// Tokens that were displaced are accepted no longer.
    Forget,
    /// Write what stands beside the token again.
    Complete,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Where it counts.
    pub from: &'static [Stage],
    /// What must be the case.
    pub on: Event,
    /// What is done to the consumer's Secret; nothing where the Secret of hashes alone brings it about.
    pub then: Option<Move>,
    /// Where it may lead; empty: where it came from.
    pub to: &'static [Stage],
}

const fn row(from: &'static [Stage], on: Event, then: Option<Move>, to: &'static [Stage]) -> Row {
    Row { from, on, then, to }
}

/// The transitions. The first line that counts at a stage is taken; when none does, there is nothing to do but wait.
pub const TABLE: &[Row] = &[
    // Where it is an earlier state of the Secret, what was under way there may be over.
    row(
        &Stage::ALL,
        Event::Edited,
        Some(Move::Adopt),
        &[Stage::Idle, Stage::Distribute, Stage::Verify, Stage::Overlap, Stage::Retire, Stage::Prove],
    ),
    row(
        &Stage::ALL,
        Event::Revoked,
        Some(Move::Revoke),
        &[Stage::Retire, Stage::Prove, Stage::Lost, Stage::Distribute],
    ),
    // Before the stages: one that always has something to do would put it off for ever.
    row(&Stage::ALL, Event::DisplacedIsOver, Some(Move::Forget), &[]),
    row(
        &[Stage::Lost],
        Event::NobodyServes,
        Some(Move::Create),
        &[Stage::Idle, Stage::Overlap, Stage::Retire, Stage::Prove],
    ),
    row(&[Stage::Lost], Event::Always, Some(Move::Issue), &[Stage::Distribute]),
    row(&[Stage::Idle], Event::Due, Some(Move::Issue), &[Stage::Distribute]),
    row(&[Stage::Distribute], Event::InHashes, None, &[Stage::Verify]),
    // Without a token before there is nothing to overlap with.
    row(
        &[Stage::Verify],
        Event::EveryPodAccepts,
        Some(Move::Promote),
        &[Stage::Overlap, Stage::Idle, Stage::Retire, Stage::Prove],
    ),
    // At once, where a backup brought back one that is in no file any more.
    row(&[Stage::Overlap], Event::OverlapIsOver, Some(Move::Retire), &[Stage::Retire, Stage::Prove]),
    row(&[Stage::Retire], Event::OutOfHashes, None, &[Stage::Prove]),
    // A revoked token is proven dead while another one may still overlap.
    row(&[Stage::Prove], Event::EveryPodRefuses, Some(Move::Finish), &[Stage::Idle, Stage::Overlap]),
    row(&Stage::ALL, Event::Incomplete, Some(Move::Complete), &[]),
];
