//! Who is there, who is alive, and what all agree on.
//!
//! Small machines and functions, none of which knows a socket, a clock, a thread or a source of chance; `node`
//! feeds them events and carries their effects out (DESIGN §3, §4, §7):
//!
//! - [`membership`]: heartbeats by gossip, phi-accrual suspicion, *down* on the word of two.
//! - [`admission`]: whether a peer that says hello may take part.
//! - [`register`]: the layout register, one Paxos instance a version.
//! - [`change`]: from the layout in force to the next one.
//! - [`recover`]: the way out after the loss of a majority.
//! - [`start`]: whether this start of a data directory is the first with its number, and its disk the one of before.
//! - [`Sightings`]: how far other members were seen to get.

pub mod admission;
pub mod change;
mod member;
pub mod membership;
pub mod recover;
pub mod register;
mod sightings;
pub mod staged;
pub mod start;
#[cfg(test)]
mod testing;
mod time;

pub use member::{
    ADDRESS_BYTES_MAX, Addresses, COUNTER_MAX, Incarnation, LayoutTag, MEMBERS_MAX, MalformedEntry,
    MemberEntry, Pulse, Start,
};
pub use sightings::{Sighting, Sightings};
pub use time::Time;
