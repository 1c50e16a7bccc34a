//! Which puts this replica knows although their version has left its state (DESIGN §4 *Retries*).
//!
//! A version that stands carries its client's request id, so the state itself remembers it. What was superseded, or
//! came too late to stand, is remembered here for [`MEMORY_SPAN`]: by key and session, the session's latest put, since
//! a session numbers its puts of a key in order.
//!
//! Entries are kept in generations. A full turn of the wheel drops the oldest one whole, so that forgetting costs
//! nothing per entry.
//! ```text
//! current (0..10 s) | 10..20 s | 20..30 s | 30..40 s -> dropped
//! ```
//! Invariant: every put that was learned within [`RequestMemory::reach`] is known.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use crate::cluster::Time;
use crate::version::{Actor, Dot, RequestId};

/// How long a put is remembered: twice the longest deadline.
pub const MEMORY_SPAN: Duration = Duration::from_secs(30);
/// Most puts remembered; when so many are, puts without a context are shed.
pub const MEMORY_ENTRIES_MAX: usize = 1 << 21;

/// How long one generation takes entries.
const GENERATION_SPAN: Duration = Duration::from_secs(10);
/// Generations kept: the current one, and as many full ones as cover the span.
const GENERATIONS: usize = 4;
const _: () = assert!(
    MEMORY_SPAN.as_secs() <= GENERATION_SPAN.as_secs() * (GENERATIONS as u64 - 1),
    "the full generations cover the span"
);

/// By key and session the latest put that left this replica's state.
#[derive(Clone, Debug)]
pub struct RequestMemory {
    /// Everything learned since then is remembered, up to the span.
    start: Time,
    /// When the current generation began.
    turned: Time,
    /// Newest first; never walked but to count.
    generations: VecDeque<HashMap<u128, Entry>>,
    /// Actors by the number that entries name them by.
    actors: Vec<Actor>,
    entries_max: usize,
}

/// What is remembered of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Number of the session's latest put of the key.
    pub counter: u64,
    /// Who minted it.
    pub actor: Actor,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    counter: u64,
    actor: u32,
}

impl RequestMemory {
    /// An empty memory; it reaches back to `now`.
    pub fn new(now: Time) -> Self {
        Self::with_entries_max(now, MEMORY_ENTRIES_MAX)
    }

    /// Remembers that `request` of `key` was done under `dot`. When it is full, the put is not remembered, and the
    /// memory reaches back to `now` only.
    pub fn learn(&mut self, key: &[u8], request: RequestId, dot: Dot, now: Time) {
        self.turn(now);
        let name = name_of(key, request.session);
        let known = self.entry(name);
        if known.is_none() && self.is_full() {
            self.start = now;
            return;
        }
        // A later put that an older generation holds moves into this one: it, too, was learned again.
        let entry = known.filter(|entry| request.counter <= entry.counter).unwrap_or_else(|| {
            Entry { counter: request.counter, actor: self.number_of(dot.actor) }
        });
        if let Some(current) = self.generations.front_mut() {
            current.insert(name, entry);
        }
    }

    /// The latest put of `request`'s session for `key`, where it is `request` or a later one.
    pub fn knows(&self, key: &[u8], request: RequestId) -> Option<Remembered> {
        let entry = self.entry(name_of(key, request.session))?;
        let actor = *self.actors.get(entry.actor as usize)?;
        (request.counter <= entry.counter).then_some(Remembered { counter: entry.counter, actor })
    }

    /// How far back it reaches.
    pub fn reach(&self, now: Time) -> Duration {
        now.since(self.start).min(MEMORY_SPAN)
    }

    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        self.entries_max <= self.generations.iter().map(HashMap::len).sum()
    }

    fn with_entries_max(now: Time, entries_max: usize) -> Self {
        let generations = VecDeque::from([HashMap::new()]);
        Self { start: now, turned: now, generations, actors: Vec::new(), entries_max }
    }

    fn entry(&self, name: u128) -> Option<Entry> {
        self.generations.iter().find_map(|generation| generation.get(&name)).copied()
    }

    /// Drops the oldest generations, as many as time asks for.
    fn turn(&mut self, now: Time) {
        let mut turns = 0;
        while GENERATION_SPAN <= now.since(self.turned) && turns < GENERATIONS {
            self.turned = self.turned.after(GENERATION_SPAN);
            self.generations.push_front(HashMap::new());
            turns += 1;
        }
        if GENERATION_SPAN <= now.since(self.turned) {
            self.turned = now;
        }
        self.generations.truncate(GENERATIONS);
    }

    fn number_of(&mut self, actor: Actor) -> u32 {
        let place = self.actors.iter().position(|known| *known == actor).unwrap_or_else(|| {
            self.actors.push(actor);
            self.actors.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }
}

/// 128 bits that name a key's session: what two of them share by chance is beyond reach.
fn name_of(key: &[u8], session: u64) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&session.to_le_bytes());
    hasher.update(key);
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::notation::{actor, dot};

    const START: Time = Time { monotonic: 5_000_000_000, wall: 0 };

    const fn request(counter: u64) -> RequestId {
        RequestId { session: 7, counter }
    }

    #[track_caller]
    fn check(memory: &RequestMemory, counter: u64, expected: Option<(u64, &str)>) {
        let known = memory.knows(b"k", request(counter));
        let expected = expected.map(|(counter, name)| Remembered { counter, actor: actor(name) });
        assert_eq!(known, expected, "request {counter}");
    }

    #[test]
    fn a_later_put_of_the_session_makes_the_earlier_ones_known() {
        let mut memory = RequestMemory::new(START);
        memory.learn(b"k", request(3), dot("a1"), START);
        memory.learn(b"k", request(2), dot("b1"), START);
        check(&memory, 2, Some((3, "a")));
        check(&memory, 3, Some((3, "a")));
        check(&memory, 4, None);
        assert_eq!(memory.knows(b"other", request(3)), None);
        assert_eq!(memory.knows(b"k", RequestId { session: 8, counter: 3 }), None);
    }

    #[test]
    fn what_was_learned_is_known_for_the_span_and_forgotten_later() {
        let mut memory = RequestMemory::new(START);
        memory.learn(b"k", request(1), dot("a1"), START);
        for second in 0..=30 {
            memory.learn(
                b"other",
                request(second),
                dot("a1"),
                START.after(Duration::from_secs(second)),
            );
            check(&memory, 1, Some((1, "a")));
        }
        memory.learn(b"other", request(99), dot("a1"), START.after(Duration::from_secs(40)));
        check(&memory, 1, None);
        assert_eq!(memory.generations.len(), GENERATIONS);
    }

    #[test]
    fn a_long_silence_drops_everything_at_once() {
        let mut memory = RequestMemory::new(START);
        memory.learn(b"k", request(1), dot("a1"), START);
        memory.learn(b"other", request(1), dot("a1"), START.after(Duration::from_secs(1_000_000)));
        check(&memory, 1, None);
    }

    #[test]
    fn it_reaches_back_to_its_start_or_to_what_it_could_not_take() {
        let mut memory = RequestMemory::with_entries_max(START, 1);
        let later = START.after(Duration::from_secs(8));
        assert_eq!(memory.reach(START), Duration::ZERO);
        assert_eq!(memory.reach(later), Duration::from_secs(8));
        assert_eq!(memory.reach(START.after(Duration::from_secs(99))), MEMORY_SPAN);
        memory.learn(b"k", request(1), dot("a1"), START);
        assert!(memory.is_full());
        memory.learn(b"k", request(2), dot("a2"), later);
        assert_eq!(memory.reach(later), Duration::from_secs(8), "a known session takes no room");
        memory.learn(b"other", request(1), dot("a1"), later);
        assert_eq!(memory.reach(later), Duration::ZERO);
        check(&memory, 2, Some((2, "a")));
    }
}
