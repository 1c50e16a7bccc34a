//! The ring: who owns a key (DESIGN §3).

mod layout;
mod preference;
mod solver;
mod token;

pub use layout::{Layout, LayoutError, LayoutHash, Member, Mode, Ring, Weight};
pub use preference::{Preferences, Walk};
pub use solver::{Placement, Shortfall, place};
pub use token::{PARTITIONS_MAX, Partition, SLOTS, Slot, Token};
