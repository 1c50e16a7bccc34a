//! The ring: who owns a key (DESIGN §3).

mod arrangement;
mod balance;
mod export;
mod layout;
mod movement;
#[cfg(test)]
pub(crate) mod notation;
mod preference;
mod search;
#[cfg(test)]
mod sequences;
mod shares;
mod solver;
mod token;
mod weight;
mod zones;

pub use balance::Balance;
pub use export::ReadLayoutError;
pub use layout::{
    Layout, LayoutError, LayoutHash, MEMBERS_MAX, Member, Mode, NAME_BYTES_MAX, Ring,
};
pub use movement::{Movement, gains};
pub use preference::{Preferences, Walk};
pub use solver::{Placement, Shortfall, place};
pub use token::{PARTITIONS_MAX, Partition, SLOTS, Slot, Token};
pub use weight::{Weight, WeightError};
