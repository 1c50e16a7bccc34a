//! The context token: what a reader saw, bound to the key it read (UI §2).
//!
//! ```text
//! token := "c1." base64url_without_padding(bytes checksum:u32)
//! bytes := key_hash:u32 nodes:varint node*                  nodes ascend
//! node  := id:[u8; 16] name_length:varint name epochs:varint epoch*     epochs ascend, at least one
//! epoch := counter:varint random:u32 seen:varint            seen: the clock's entry, 1 to 2^63
//! ```
//! `key_hash` and `checksum` are the low halves of XXH3-64 over the key and over `bytes`. A token is opaque to users, but
//! it carries the nodes' names, so that it can be read without the cluster. A node without a name has an empty one.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use xxhash_rust::xxh3::xxh3_64;

use crate::encoding::{DecodeError, Reader, put_bytes, put_varint};
use crate::node_id::NodeId;

use super::{Actor, Dot, Epoch, VectorClock};

/// What every token starts with: what it is, and the version of its form.
const PREFIX: &str = "c1.";
/// Room for the bytes of a token of two nodes, so that few of them grow.
const TOKEN_BYTES_USUAL: usize = 80;

/// `c1.` + base64url(vector clock with the nodes' names, 32-bit key hash, checksum).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// What was seen.
    pub clock: VectorClock,
    /// A name for each node in the clock, so that people can read it offline.
    pub names: BTreeMap<NodeId, String>,
    key_hash: u32,
}

/// Why a text is no usable context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not `c1.` and base64url.
    #[error("not a context token (expected `c1.…`)")]
    Form,
    /// The checksum does not match.
    #[error("context token cut short or altered: its checksum does not match")]
    Checksum,
    /// It was read from another key.
    #[error("context token belongs to another key")]
    OtherKey,
    /// A counter past 2^63.
    #[error("context token holds a counter past 2^63")]
    Counter,
}

impl Context {
    /// The context of a read of `key`. Of `names` those are kept whose nodes the clock holds.
    pub fn new(key: &[u8], clock: VectorClock, mut names: BTreeMap<NodeId, String>) -> Self {
        names.retain(|node, name| {
            !name.is_empty() && clock.iter().any(|(actor, _)| actor.node == *node)
        });
        Self { clock, names, key_hash: low_half(key) }
    }
    /// The token.
    pub fn encode(&self) -> String {
        encode(self.key_hash, &self.clock, &self.names)
    }
    /// The token of a read of `key`, as [`Context::new`] and [`Context::encode`] make it, without copying the parts.
    pub fn token(key: &[u8], clock: &VectorClock, names: &BTreeMap<NodeId, String>) -> String {
        encode(low_half(key), clock, names)
    }
    /// Reads a token without asking whose it is.
    /// # Errors
    /// [`ContextError`], all but [`ContextError::OtherKey`].
    pub fn decode(token: &str) -> Result<Self, ContextError> {
        let text = token.strip_prefix(PREFIX).ok_or(ContextError::Form)?;
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| ContextError::Checksum)?;
        let (bytes, checksum) = bytes.split_last_chunk().ok_or(ContextError::Checksum)?;
        if low_half(bytes) != u32::from_le_bytes(*checksum) {
            return Err(ContextError::Checksum);
        }
        // From here on only a forger gets it wrong.
        let context = Self::read(bytes).map_err(|_| ContextError::Form)?;
        if context.clock.is_past_counter_max() { Err(ContextError::Counter) } else { Ok(context) }
    }
    /// The clock, where the token was read from `key`.
    /// # Errors
    /// [`ContextError::OtherKey`].
    pub fn for_key(&self, key: &[u8]) -> Result<&VectorClock, ContextError> {
        if self.key_hash == low_half(key) { Ok(&self.clock) } else { Err(ContextError::OtherKey) }
    }
    /// The clock as people see it: [`VectorClock::named`] with the token's own names.
    pub fn named(&self) -> Vec<(String, u64)> {
        self.clock.named(&self.names)
    }

    /// Takes any counter above 0: one past [`super::COUNTER_MAX`] has an error of its own.
    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut context =
            Self { clock: VectorClock::new(), names: BTreeMap::new(), key_hash: reader.u32()? };
        let mut last = None;
        for _ in 0..reader.varint()? {
            let node = NodeId::from_bytes(reader.array()?);
            let name = std::str::from_utf8(reader.bytes()?)
                .map_err(|_| DecodeError::OutOfRange("name"))?;
            if !name.is_empty() {
                context.names.insert(node, name.to_owned());
            }
            let epochs = reader.varint()?;
            if epochs == 0 {
                return Err(DecodeError::OutOfRange("epochs"));
            }
            for _ in 0..epochs {
                let actor = Actor { node, epoch: read_epoch(&mut reader)? };
                let counter = reader.varint()?;
                if counter == 0 || last >= Some(actor) {
                    return Err(DecodeError::OutOfRange("clock"));
                }
                last = Some(actor);
                context.clock.observe(Dot { actor, counter });
            }
        }
        reader.finish().map(|()| context)
    }
}

fn encode(key_hash: u32, clock: &VectorClock, names: &BTreeMap<NodeId, String>) -> String {
    // The clock is in actor order, so that a node's epochs stand together.
    let nodes = || clock.iter().map(|(actor, _)| actor.node);
    let first = |index: usize, node| index == 0 || nodes().nth(index - 1) != Some(node);
    let count = nodes().enumerate().filter(|(index, node)| first(*index, *node)).count();
    let mut bytes = Vec::with_capacity(TOKEN_BYTES_USUAL);
    bytes.extend_from_slice(&key_hash.to_le_bytes());
    put_varint(&mut bytes, count as u64);
    for (index, (actor, seen)) in clock.iter().enumerate() {
        if first(index, actor.node) {
            bytes.extend_from_slice(actor.node.as_bytes());
            put_bytes(&mut bytes, names.get(&actor.node).map_or(&[], |name| name.as_bytes()));
            put_varint(&mut bytes, nodes().filter(|node| *node == actor.node).count() as u64);
        }
        put_varint(&mut bytes, u64::from(actor.epoch.counter));
        bytes.extend_from_slice(&actor.epoch.random.to_le_bytes());
        put_varint(&mut bytes, seen);
    }
    let checksum = low_half(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    let mut token = String::with_capacity(PREFIX.len() + BASE64URL_NOPAD.encode_len(bytes.len()));
    token.push_str(PREFIX);
    BASE64URL_NOPAD.encode_append(&bytes, &mut token);
    token
}

/// `counter:varint random:u32`, as states and tokens hold an epoch.
pub(super) fn read_epoch(reader: &mut Reader<'_>) -> Result<Epoch, DecodeError> {
    let counter = u32::try_from(reader.varint()?).map_err(|_| DecodeError::OutOfRange("epoch"))?;
    Ok(Epoch { counter, random: reader.u32()? })
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low_half(bytes: &[u8]) -> u32 {
    xxh3_64(bytes) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::COUNTER_MAX;
    use super::super::notation::{clock, clocks, dot, node};
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/version/contexts.txt");

    fn names() -> BTreeMap<NodeId, String> {
        ["a", "b", "c"]
            .into_iter()
            .zip(["n1", "n2", "n3"])
            .map(|(id, name)| (node(id), name.to_owned()))
            .collect()
    }

    /// Tokens live in users' files: an older release's are read, and written the same.
    #[test]
    fn tokens_are_written_as_ever() {
        let unnamed = Context::new(b"k", clock("a1"), BTreeMap::new());
        let examples = [
            Context::new(b"cart:42", clock("a2 a.2=300 b1"), names()),
            Context::new(b"", clock(""), names()),
            unnamed,
        ];
        let golden: Vec<&str> = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(examples.each_ref().map(Context::encode).as_slice(), golden);
        for (example, token) in examples.iter().zip(golden) {
            assert_eq!(Context::decode(token).as_ref(), Ok(example));
        }
    }

    #[test]
    fn people_read_the_names_offline() {
        let token = Context::new(b"cart:42", clock("a2 c1"), names()).encode();
        let context = Context::decode(&token).unwrap();
        assert_eq!(context.named(), [("n1".to_owned(), 2), ("n3".to_owned(), 1)]);
        assert_eq!(context.for_key(b"cart:42"), Ok(&clock("a2 c1")));
        assert_eq!(context.for_key(b"cart:43"), Err(ContextError::OtherKey));
    }

    #[track_caller]
    fn check_refused(token: &str, expected: &ContextError) {
        assert_eq!(Context::decode(token).as_ref(), Err(expected), "{token}");
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_reason() {
        let token = Context::new(b"k", clock("a2 b1"), names()).encode();
        check_refused("", &ContextError::Form);
        check_refused("c2.AAAA", &ContextError::Form);
        check_refused(&token[1..], &ContextError::Form);
        for length in PREFIX.len()..token.len() {
            check_refused(&token[..length], &ContextError::Checksum);
        }
        check_refused(&format!("{token}A"), &ContextError::Checksum);
        check_refused(&token.replace("c1.", "c1.*"), &ContextError::Checksum);
        check_refused(&format!("{token}\n"), &ContextError::Checksum);
    }

    #[test]
    fn every_altered_letter_is_noticed() {
        let token = Context::new(b"k", clock("a2 b1"), names()).encode();
        for at in PREFIX.len()..token.len() {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            check_refused(std::str::from_utf8(&altered).unwrap(), &ContextError::Checksum);
        }
    }

    #[test]
    fn a_forged_counter_is_refused() {
        let mut forged = VectorClock::new();
        forged.observe(Dot { counter: COUNTER_MAX, ..dot("a1") });
        assert!(Context::decode(&Context::new(b"k", forged.clone(), names()).encode()).is_ok());
        forged.observe(Dot { counter: COUNTER_MAX + 1, ..dot("a1") });
        check_refused(&Context::new(b"k", forged, names()).encode(), &ContextError::Counter);
    }

    proptest! {
        #[test]
        fn tokens_round_trip(key: Vec<u8>, clock in clocks()) {
            let context = Context::new(&key, clock.clone(), names());
            let decoded = Context::decode(&context.encode()).unwrap();
            prop_assert_eq!(decoded.for_key(&key), Ok(&clock));
            prop_assert_eq!(Context::token(&key, &clock, &names()), context.encode());
            prop_assert_eq!(decoded, context);
        }

        /// Bytes behind a right checksum, as a forger would write them.
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let sealed = [bytes.clone(), low_half(&bytes).to_le_bytes().to_vec()].concat();
            let token = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&sealed));
            if let Ok(context) = Context::decode(&token) {
                prop_assert_eq!(context.encode(), token);
            }
        }
    }
}
