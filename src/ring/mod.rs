//! The ring: who owns a key (DESIGN §3).

mod arrangement;
mod balance;
mod difference;
mod export;
mod layout;
mod movement;
#[cfg(test)]
pub(crate) mod notation;
mod plan;
mod preference;
mod random_tokens;
mod search;
#[cfg(test)]
mod sequences;
mod shares;
mod solver;
mod survival;
mod token;
mod weight;
mod zones;

pub use balance::{Balance, Spread};
pub use difference::{Difference, Setting};
pub use export::ReadLayoutError;
pub use layout::{
    Layout, LayoutError, LayoutHash, MEMBERS_MAX, Member, Mode, NAME_BYTES_MAX, Ring,
};
pub use movement::{Movement, gains};
pub use plan::{Plan, PlanError, Wish, place_anew, plan, planned_id};
pub use preference::{Preferences, Walk};
pub use random_tokens::RandomTokens;
pub use solver::{Placement, Shortfall, place};
pub use survival::{Odds, Survival};
pub use token::{PARTITIONS_MAX, Partition, SLOTS, Slot, Token};
pub use weight::{Weight, WeightError};
