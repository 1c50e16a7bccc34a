//! The floor: what keeps a dot from being minted twice once the state that remembered it is gone.
//!
//! A key's clock remembers which dots its actor minted. When a node drops a state (reaped, handed over, expired,
//! emptied), that memory goes with it. So in the same batch the floor, one number an actor, rises to the actor's entry
//! in the dropped clock: no write of any key takes a counter at or below it.
//!
//! That names new writes apart from old ones; it does not keep an old one alive. A clock that says `a6` claims to have
//! seen `a5`. If `a5` is a value that still stands elsewhere, the new write would wipe it out unseen. So if the dropped
//! state holds a value under the current actor, the epoch must rise: a new actor claims nothing about the old one.

use serde::{Deserialize, Serialize};

use super::{Actor, Content, Siblings, VectorClock};

/// What a node's current actor may no longer mint: counters up to this one, whatever the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    actor: Actor,
    counter: u64,
}

/// What must be durable before the next write, in the batch that drops a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum AfterDrop {
    /// Nothing: the floor stood high enough.
    Unchanged,
    /// The raised floor.
    FloorRose,
    /// A new epoch; its floor starts at 0.
    EpochMustRise,
}

impl Floor {
    /// The floor of an actor that dropped nothing yet.
    pub const fn new(actor: Actor) -> Self {
        Self { actor, counter: 0 }
    }

    /// The floor that was kept.
    pub const fn at(actor: Actor, counter: u64) -> Self {
        Self { actor, counter }
    }

    /// Whose floor it is.
    pub const fn actor(&self) -> Actor {
        self.actor
    }

    /// The highest counter that may not be minted: the `floor` of [`Siblings::write`].
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    /// Rises as the node drops `state`. A state that cannot be read wants a new epoch, always.
    pub fn drop_state(&mut self, state: &Siblings) -> AfterDrop {
        let own_value = state.versions().iter().any(|(dot, version)| {
            dot.actor == self.actor && matches!(version.content, Content::Value(_))
        });
        let seen = state.clock().get(self.actor);
        match (own_value, self.counter < seen) {
            (true, _) => AfterDrop::EpochMustRise,
            (false, true) => {
                self.counter = seen;
                AfterDrop::FloorRose
            }
            (false, false) => AfterDrop::Unchanged,
        }
    }

    /// Whether a peer's clock of a key shows a dot of the current actor that this node, whose own clock of that key is
    /// `own`, does not remember minting: it lost writes, and its epoch must rise before the next one.
    pub fn is_outrun(&self, own: &VectorClock, peer: &VectorClock) -> bool {
        own.get(self.actor).max(self.counter) < peer.get(self.actor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::notation::{actor, clock, state};
    use super::*;

    #[track_caller]
    fn check(floor: u64, dropped: &str, expected: AfterDrop, becomes: u64) {
        let mut kept = Floor { actor: actor("a"), counter: floor };
        assert_eq!(kept.drop_state(&state(dropped)), expected, "dropped {dropped}");
        assert_eq!(kept.counter(), becomes, "dropped {dropped}");
    }

    #[test]
    fn the_floor_rises_to_the_dropped_entry_and_never_falls() {
        check(0, "b1:x / a5 b1", AfterDrop::FloorRose, 5);
        check(5, "b1:x / a5 b1", AfterDrop::Unchanged, 5);
        check(9, "b1:x / a5 b1", AfterDrop::Unchanged, 9);
        check(0, "a5:-", AfterDrop::FloorRose, 5);
        check(0, "b1:x", AfterDrop::Unchanged, 0);
    }

    #[test]
    fn a_dropped_value_of_the_own_actor_wants_a_new_epoch() {
        check(0, "a5:x b1:y", AfterDrop::EpochMustRise, 0);
        check(0, "a.2=5:x / a3", AfterDrop::FloorRose, 3);
    }

    #[test]
    fn a_peer_that_knows_more_of_me_than_i_do_is_noticed() {
        let floor = Floor { actor: actor("a"), counter: 4 };
        assert!(floor.is_outrun(&clock("a3"), &clock("a5")));
        assert!(floor.is_outrun(&clock(""), &clock("a5 b1")));
        assert!(!floor.is_outrun(&clock("a3"), &clock("a4")));
        assert!(!floor.is_outrun(&clock("a6"), &clock("a5")));
        assert!(!floor.is_outrun(&clock("a1"), &clock("a.2=9")));
    }
}
