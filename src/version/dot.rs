//! Who wrote, and which write of theirs: actors, epochs, dots; and the client's name for a put.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;

/// Largest counter of a dot or a clock entry. Nobody writes that often: a larger one is forged or damaged.
pub const COUNTER_MAX: u64 = 1 << 63;

/// One life of an actor: a counter that only rises, and 32 random bits so that two lives which never heard of each
/// other differ. Ordered by counter first. Text form `2-0000beef`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// 1 for a node's first epoch; shown behind the name from the second on (`n1.2`).
    pub counter: u32,
    /// Random bits drawn when the epoch began.
    pub random: u32,
}

/// Who mints dots: a node in one of its epochs. Text form `<node id>.<epoch>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The node.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// The name of one write of one key, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who minted it.
    pub actor: Actor,
    /// Which write of that actor for this key, from 1.
    pub counter: u64,
}

/// A client's name for a put: a random session, and the put's number in it. A session numbers its puts in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// 64 random bits.
    pub session: u64,
    /// Rises with each put of the session.
    pub counter: u64,
}

/// A text that names no epoch or actor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseActorError {
    text: String,
    expected: &'static str,
}

/// What people see of an actor: the node's name, and its epoch's counter from the second on (`n1`, `n1.2`).
pub fn actor_name(name: &str, epoch: Epoch) -> String {
    if epoch.counter <= 1 { name.to_owned() } else { format!("{name}.{}", epoch.counter) }
}

/// What people see of a dot whose node is called `name` (`n1:7`, `n1.2:7`).
pub fn dot_name(name: &str, dot: Dot) -> String {
    format!("{}:{}", actor_name(name, dot.actor.epoch), dot.counter)
}

impl Epoch {
    /// A node's first epoch.
    pub const fn first(random: u32) -> Self {
        Self { counter: 1, random }
    }

    /// The epoch after this one.
    /// # Panics
    /// After four billion epochs.
    #[must_use]
    pub const fn next(self, random: u32) -> Self {
        Self {
            counter: self.counter.checked_add(1).expect("an epoch counter never runs out"),
            random,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.counter, self.random)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.epoch)
    }
}

impl FromStr for Epoch {
    type Err = ParseActorError;

    fn from_str(text: &str) -> Result<Self, ParseActorError> {
        text.split_once('-')
            .and_then(|(counter, random)| {
                Some(Self {
                    counter: counter.parse().ok()?,
                    random: u32::from_str_radix(random, 16).ok()?,
                })
            })
            .filter(|epoch| epoch.to_string() == text)
            .ok_or_else(|| ParseActorError {
                text: text.to_owned(),
                expected: "an epoch like `2-0000beef`",
            })
    }
}

impl FromStr for Actor {
    type Err = ParseActorError;

    fn from_str(text: &str) -> Result<Self, ParseActorError> {
        text.split_once('.')
            .and_then(|(node, epoch)| {
                Some(Self { node: node.parse().ok()?, epoch: epoch.parse().ok()? })
            })
            .ok_or_else(|| ParseActorError {
                text: text.to_owned(),
                expected: "an actor, `<node id>.<epoch>`",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_the_epoch_from_the_second_on() {
        let first = Epoch::first(7);
        let node = NodeId::from_bytes([1; 16]);
        assert_eq!(actor_name("n1", first), "n1");
        assert_eq!(actor_name("n1", first.next(9)), "n1.2");
        let dot = Dot { actor: Actor { node, epoch: first }, counter: 7 };
        assert_eq!(dot_name("n1", dot), "n1:7");
        let dot = Dot { actor: Actor { node, epoch: first.next(9) }, counter: 7 };
        assert_eq!(dot_name("n1", dot), "n1.2:7");
    }

    #[test]
    fn actors_survive_text() {
        let actor = Actor {
            node: NodeId::from_bytes([0xab; 16]),
            epoch: Epoch { counter: 12, random: 0xbeef },
        };
        assert_eq!(actor.to_string(), "abababababababababababababababab.12-0000beef");
        assert_eq!(actor.to_string().parse(), Ok(actor));
    }

    #[test]
    fn a_wrong_text_is_no_actor() {
        for text in [
            "",
            "1",
            "1-",
            "-1",
            "+1-0000beef",
            "01-0000beef",
            "1-beef",
            "1-0000BEEF",
            "1-0000beef0",
        ] {
            assert!(text.parse::<Epoch>().is_err(), "`{text}` was taken");
        }
        assert!("abab.1-0000beef".parse::<Actor>().is_err());
    }

    #[test]
    fn epochs_are_ordered_by_their_counter() {
        assert!(Epoch::first(u32::MAX) < Epoch::first(u32::MAX).next(0));
    }
}
