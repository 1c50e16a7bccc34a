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
mod durations;
mod event;
mod figures;
mod forwarding;
mod handshake;
mod hints;
mod hot_keys;
mod key_queue;
mod key_work;
pub mod keys;
mod lineage;
mod load;
mod meta;
mod names;
mod on_record;
mod parking;
mod peer_rim;
mod peers;
mod purge;
mod ranges;
mod recount;
mod recovery;
mod refill;
mod replayed;
mod replies;
mod rollback;
mod slot_repair;
mod slot_walk;
mod snapshots;
mod space_saving;
mod staging;
mod start;
mod status;
#[cfg(test)]
mod tests;
mod transition;

pub use config::{
    CoreConfig, CpuTime, DEADLINE_MAX, DiskSpace, HintLimits, Limits, PAIR_BYTES_MAX, TIMEOUT,
};
pub use core::Core;
pub use event::{Caller, Effect, Event, ReadToken, ScanToken, Severity};
pub use handshake::WelcomeError;
pub use meta::{member_names, register_key};
pub use on_record::{OnRecord, OnRecordError};
pub use replayed::Replayed;
pub use snapshots::{SnapshotNews, SnapshotToken, SnapshotWork, do_snapshot_work};
pub use start::{
    StartError, addresses_in, addresses_on_record, begin_again, found, is_founded, join,
    keep_addresses, seen_of,
};
