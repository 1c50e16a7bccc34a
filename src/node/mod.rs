//! Node: `Core`, one replica as a deterministic state machine; the keys' encodings (DESIGN §2).
//!
//! [`found`] makes an empty store a member of a new cluster; [`Core::open`] starts on it; [`Core::handle`] folds events
//! in and says what shall happen.

mod admission;
mod agreement;
mod anti_entropy;
mod calls;
mod clients;
mod config;
mod core;
mod cut;
mod event;
mod figures;
mod forwarding;
mod handshake;
mod hints;
mod key_queue;
mod key_work;
pub mod keys;
mod lineage;
mod meta;
mod parking;
mod peer_rim;
mod peers;
mod purge;
mod ranges;
mod recount;
mod refill;
mod replayed;
mod replies;
mod rollback;
mod slot_walk;
mod staging;
mod start;
mod status;
#[cfg(test)]
mod tests;
mod transition;

pub use config::{
    CoreConfig, DEADLINE_MAX, DiskSpace, HintLimits, Limits, PAIR_BYTES_MAX, TIMEOUT,
};
pub use core::Core;
pub use event::{Caller, Effect, Event, ReadToken, ScanToken, Severity};
pub use handshake::WelcomeError;
pub use meta::{member_names, register_key};
pub use replayed::Replayed;
pub use start::{
    StartError, addresses_in, addresses_on_record, begin_again, found, is_founded, join,
    keep_addresses, seen_of,
};
