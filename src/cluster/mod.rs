//! cluster.

mod time;

pub use time::Time;
