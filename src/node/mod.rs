//! Node: `Core`, one replica as a deterministic state machine; the keys' encodings (DESIGN §2).

mod event;

pub use event::{Caller, Effect, Event, ReadToken, ScanToken, Severity};
