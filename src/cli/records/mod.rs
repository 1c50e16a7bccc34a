//! `kv-records/1`: the one schema of records in pipes (UI §2).
//!
//! ```text
//! stream := header? record* footer?            one JSON object a line
//! header := {"v":1,"type":"header","format":"kv-records/1","cluster",…,"layout","actors","created"}
//! record := {"v":1,"type":"kv", KEY, VALUE | "siblings":[…] | "tombstone":true, "dot","ctx","ts"}
//! KEY    := "key" | "key_b64"                  a string where the bytes are UTF-8, else base64url without padding
//! VALUE  := "value" | "value_b64"
//! footer := {"v":1,"type":"footer","records":count,"sha1":"…"}
//! ```
//! The footer's SHA-1 runs over every record line with its line feed; header and footer stay out. `actors` gives each
//! member's identity; a record's `ctx` holds the epochs too, and so does not need the header. Exports and dumps also name
//! each version's put (`"req":"session:counter"`) and the logical part of its time (`"tick"`): the state can be made of a
//! record again, to the last bit.

mod compact_json;
mod digest;
mod frame;
mod lines;
mod read;
mod stored;
mod write;

pub(crate) use digest::Digest;
pub(crate) use frame::{Frame, FrameWanted};
pub(crate) use lines::{Line, Lines};
pub(crate) use read::{Parsed, Record, RecordError, RecordValue, parse};
pub(crate) use stored::{Origin, StoredLine, StoredRecord, parse_stored};
pub(crate) use write::{Recorder, node_name, record, version_fields};

/// The schema's name in a header.
pub(crate) const FORMAT: &str = "kv-records/1";
