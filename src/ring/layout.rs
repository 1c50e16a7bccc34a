//! The layout: the one thing that the cluster agrees on.
//!
//! Two nodes compare layouts by hash, so its canonical bytes are a format:
//! ```text
//! layout := "kvlayout" format:u8=1 generation:u64 version:u64 rings:u8 now:ring next:ring?     rings: 1, 2, or 3: two, recovering
//! ring   := q:u32 n:u8 r:u8 w:u8 mode:u8 members:varint member* owner:u16{q}                    mode: 0 available, 1 consistent
//! member := id:[u8; 16] name_length:varint name zone_length:varint zone thousandths:u32
//! ```

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::encoding::{put_bytes, put_varint};
use crate::node_id::NodeId;

use super::token::sha1_prefix;
use super::{PARTITIONS_MAX, Partition, Weight, place};

/// What canonical bytes start with: what they are, and the format's version.
const CANONICAL_MAGIC: &[u8] = b"kvlayout\x01";
/// Longest name of a member or a zone, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Most members of a ring: `owner` holds their indexes, and the solver needs one for nobody.
pub const MEMBERS_MAX: usize = u16::MAX as usize;

/// Whether requests count owners only unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Sloppy by default (AP): healthy members stand in for unreachable owners.
    Available,
    /// Strict by default (CP).
    Consistent,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its identity.
    pub id: NodeId,
    /// Its name, unique in the ring.
    pub name: String,
    /// Its failure zone, formed like a name; empty when zones are not used.
    pub zone: String,
    /// Its share.
    pub weight: Weight,
}

/// Members, who owns which partition, and the quorum.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ring {
    /// Partitions, a power of two up to 65,536.
    pub q: u32,
    /// Replicas a key has.
    pub n: u8,
    /// Replies a read waits for.
    pub r: u8,
    /// Durable acknowledgements a write waits for.
    pub w: u8,
    /// Sloppy or strict by default.
    pub mode: Mode,
    /// In the order of their ids.
    pub members: Vec<Member>,
    /// For each partition its owner, an index into `members`.
    pub owner: Vec<u16>,
}

/// What the cluster agrees on, version by version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layout {
    /// Rises when a cluster is recovered after the loss of a majority.
    pub generation: u64,
    /// Rises by one with each agreed change, from 1.
    pub version: u64,
    /// The ring in force.
    pub now: Ring,
    /// The ring that a change in progress leads to.
    pub next: Option<Ring>,
    /// Whether that change makes up for the loss of a majority: its owners merge what any member holds, and nothing is
    /// promised before it is done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recovers: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// 64 bits of SHA-1 over a layout's canonical bytes: one version with two hashes is an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayoutHash(pub u64);

/// Why a layout cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Q is no power of two, or past the maximum.
    #[error("{0} partitions: the number must be a power of two up to 65536")]
    Partitions(u32),
    /// `owner` does not name a member of weight above 0 for each partition, or names one for more than there are.
    #[error("partition {0} has no owner among the members of weight above 0")]
    Owner(u32),
    /// Members out of order, or one id twice.
    #[error("member {0} stands twice or out of order")]
    Members(NodeId),
    /// One name for two members, or a malformed one.
    #[error("name `{0}` is taken twice or malformed")]
    Name(String),
    /// More than an index can name.
    #[error("{0} members: a ring has at most 65535")]
    TooManyMembers(usize),
    /// A malformed zone.
    #[error("zone `{0}` is malformed")]
    Zone(String),
    /// A weight above 1000.
    #[error("weight {0} is above 1000")]
    Weight(Weight),
    /// A version or generation of 0.
    #[error("a layout's generation and version count from 1")]
    Version,
    /// A recovery that leads nowhere, or in the first generation.
    #[error("a recovery is a change, and begins a generation")]
    Recovery,
    /// n, r or w is 0, or r or w is above n.
    #[error("n={n} r={r} w={w}: each must be at least 1, r and w at most n")]
    Quorum {
        /// Replicas.
        n: u8,
        /// Read quorum.
        r: u8,
        /// Write quorum.
        w: u8,
    },
    /// No member.
    #[error("a ring needs at least one member of weight above 0")]
    Empty,
}

impl Ring {
    /// Members with a weight above 0.
    pub fn active(&self) -> usize {
        self.members.iter().filter(|member| member.weight > Weight::ZERO).count()
    }
    /// n, or the number of active members while that is smaller.
    pub fn effective_n(&self) -> usize {
        usize::from(self.n).min(self.active())
    }
    /// r, at most [`Ring::effective_n`].
    pub fn effective_r(&self) -> usize {
        usize::from(self.r).min(self.effective_n())
    }
    /// w, at most [`Ring::effective_n`].
    pub fn effective_w(&self) -> usize {
        usize::from(self.w).min(self.effective_n())
    }
    /// The member with this id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.index_of(id).map(|index| &self.members[usize::from(index)])
    }
    /// The index in `members` of the one with this id.
    pub fn index_of(&self, id: NodeId) -> Option<u16> {
        let index = self.members.binary_search_by_key(&id, |member| member.id).ok()?;
        u16::try_from(index).ok()
    }
    /// The member with this name.
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
    /// Who owns `partition`.
    pub fn owner_of(&self, partition: Partition) -> &Member {
        &self.members[usize::from(self.owner[partition.0 as usize])]
    }
    /// Checks all that the fields' docs promise.
    /// # Errors
    /// The first promise that does not hold.
    pub fn validate(&self) -> Result<(), LayoutError> {
        self.validate_numbers()?;
        let Self { q, members, owner, .. } = self;
        let owned = |index: &u16| {
            members.get(usize::from(*index)).is_some_and(|member| member.weight > Weight::ZERO)
        };
        let bad = owner.iter().position(|index| !owned(index));
        let bad = bad.or((owner.len() != *q as usize).then_some(owner.len().min(*q as usize)));
        match bad.and_then(|partition| u32::try_from(partition).ok()) {
            Some(partition) => Err(LayoutError::Owner(partition)),
            None => Ok(()),
        }
    }

    /// Checks everything but who owns what.
    pub(super) fn validate_numbers(&self) -> Result<(), LayoutError> {
        let Self { q, n, r, w, mode: _, members, owner: _ } = self;
        if !q.is_power_of_two() || PARTITIONS_MAX < *q {
            return Err(LayoutError::Partitions(*q));
        }
        if *r == 0 || *w == 0 || n < r || n < w {
            return Err(LayoutError::Quorum { n: *n, r: *r, w: *w });
        }
        validate_members(members)
    }
}

impl Member {
    /// Whether `name` can be a member's: 1 to 63 letters, digits, `.`, `_`, `-`, the first a letter or digit.
    pub fn is_name(name: &str) -> bool {
        let mut bytes = name.bytes();
        name.len() <= NAME_BYTES_MAX
            && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    }
    /// Whether `zone` can be a zone: empty, or formed like a name.
    pub fn is_zone(zone: &str) -> bool {
        zone.is_empty() || Self::is_name(zone)
    }
}

fn validate_members(members: &[Member]) -> Result<(), LayoutError> {
    if MEMBERS_MAX < members.len() {
        return Err(LayoutError::TooManyMembers(members.len()));
    }
    if let Some(pair) = members.windows(2).find(|pair| pair[1].id <= pair[0].id) {
        return Err(LayoutError::Members(pair[1].id));
    }
    let mut names = BTreeSet::new();
    for member in members {
        if !Member::is_name(&member.name) || !names.insert(&member.name) {
            return Err(LayoutError::Name(member.name.clone()));
        }
        if !Member::is_zone(&member.zone) {
            return Err(LayoutError::Zone(member.zone.clone()));
        }
        if Weight::MAX < member.weight {
            return Err(LayoutError::Weight(member.weight));
        }
    }
    if members.iter().all(|member| member.weight == Weight::ZERO) {
        Err(LayoutError::Empty)
    } else {
        Ok(())
    }
}

impl Layout {
    /// Layout 1 of a new cluster: `members` placed over `q` partitions by the solver.
    /// # Errors
    /// [`LayoutError`] when the numbers cannot be.
    pub fn found(
        q: u32,
        n: u8,
        r: u8,
        w: u8,
        mode: Mode,
        mut members: Vec<Member>,
    ) -> Result<Self, LayoutError> {
        members.sort_by_key(|member| member.id);
        let mut now = Ring { q, n, r, w, mode, members, owner: Vec::new() };
        now.validate_numbers()?;
        now.owner = place(q, n, &now.members, None).owner;
        let layout = Self { generation: 1, version: 1, now, next: None, recovers: false };
        layout.validate().map(|()| layout)
    }
    /// The member with this id, of the ring in force or of that which a change leads to.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.now.member(id).or_else(|| self.next.as_ref()?.member(id))
    }
    /// All members, in the order of their ids; those that a change adds come last.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let joining = self.next.iter().flat_map(|ring| &ring.members);
        let joining = joining.filter(|member| self.now.member(member.id).is_none());
        self.now.members.iter().chain(joining)
    }
    /// The hash over the canonical bytes.
    pub fn hash(&self) -> LayoutHash {
        LayoutHash(sha1_prefix(&self.canonical_bytes()))
    }
    /// The bytes that [`Layout::hash`] is over: the same for the same layout in every release (see the module's top).
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = CANONICAL_MAGIC.to_vec();
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.push(1 + u8::from(self.next.is_some()) + u8::from(self.recovers));
        put_ring(&mut out, &self.now);
        if let Some(next) = &self.next {
            put_ring(&mut out, next);
        }
        out
    }
    /// Checks both rings and the version.
    /// # Errors
    /// The first promise that does not hold.
    pub fn validate(&self) -> Result<(), LayoutError> {
        if self.generation == 0 || self.version == 0 {
            return Err(LayoutError::Version);
        }
        if self.recovers && (self.next.is_none() || self.generation == 1) {
            return Err(LayoutError::Recovery);
        }
        self.now.validate()?;
        self.next.as_ref().map_or(Ok(()), Ring::validate)
    }
}

impl fmt::Display for LayoutHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn put_ring(out: &mut Vec<u8>, ring: &Ring) {
    let Ring { q, n, r, w, mode, members, owner } = ring;
    out.extend_from_slice(&q.to_le_bytes());
    out.extend_from_slice(&[
        *n,
        *r,
        *w,
        match mode {
            Mode::Available => 0,
            Mode::Consistent => 1,
        },
    ]);
    put_varint(out, members.len() as u64);
    for Member { id, name, zone, weight } in members {
        out.extend_from_slice(id.as_bytes());
        put_bytes(out, name.as_bytes());
        put_bytes(out, zone.as_bytes());
        out.extend_from_slice(&weight.thousandths().to_le_bytes());
    }
    for index in owner {
        out.extend_from_slice(&index.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::notation::{member, members, node, ring};
    use super::*;

    fn sound() -> Ring {
        ring(2, members("1 1 0 1"), vec![0, 1, 3, 0])
    }

    #[track_caller]
    fn check_refused(spoil: impl FnOnce(&mut Ring), expected: &LayoutError) {
        let mut ring = sound();
        assert_eq!(ring.validate(), Ok(()));
        spoil(&mut ring);
        assert_eq!(ring.validate().as_ref(), Err(expected));
        let layout =
            Layout { generation: 1, version: 1, now: sound(), next: Some(ring), recovers: false };
        assert_eq!(layout.validate().as_ref(), Err(expected), "as the next ring");
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        check_refused(|ring| ring.q = 3, &LayoutError::Partitions(3));
        check_refused(|ring| ring.q = 0, &LayoutError::Partitions(0));
        check_refused(|ring| ring.q = 1 << 17, &LayoutError::Partitions(1 << 17));
        check_refused(|ring| ring.r = 3, &LayoutError::Quorum { n: 2, r: 3, w: 2 });
        check_refused(|ring| ring.w = 0, &LayoutError::Quorum { n: 2, r: 2, w: 0 });
        check_refused(|ring| ring.owner[2] = 4, &LayoutError::Owner(2));
        check_refused(|ring| ring.owner[1] = 2, &LayoutError::Owner(1));
        check_refused(|ring| ring.owner.truncate(3), &LayoutError::Owner(3));
        check_refused(|ring| ring.owner.push(0), &LayoutError::Owner(4));
        check_refused(|ring| ring.members.swap(0, 1), &LayoutError::Members(node(1)));
        check_refused(|ring| ring.members[1].id = node(1), &LayoutError::Members(node(1)));
        check_refused(
            |ring| ring.members[1].name = "n1".to_owned(),
            &LayoutError::Name("n1".to_owned()),
        );
        check_refused(
            |ring| ring.members[1].name = String::new(),
            &LayoutError::Name(String::new()),
        );
        check_refused(
            |ring| ring.members[1].zone = "a b".to_owned(),
            &LayoutError::Zone("a b".to_owned()),
        );
        check_refused(
            |ring| ring.members[1].weight.0 += 1_000_000,
            &LayoutError::Weight(Weight(1_001_000)),
        );
        check_refused(
            |ring| ring.members.iter_mut().for_each(|member| member.weight = Weight::ZERO),
            &LayoutError::Empty,
        );
        let unnumbered =
            Layout { generation: 1, version: 0, now: sound(), next: None, recovers: false };
        assert_eq!(unnumbered.validate(), Err(LayoutError::Version));
        let recovery = |generation, next| {
            Layout { generation, version: 1, now: sound(), next, recovers: true }.validate()
        };
        assert_eq!(recovery(1, Some(sound())), Err(LayoutError::Recovery));
        assert_eq!(recovery(2, None), Err(LayoutError::Recovery));
        assert_eq!(recovery(2, Some(sound())), Ok(()));
    }

    #[test]
    fn names_are_plain() {
        for name in ["a", "n1", "9", "db-1.eu_west", &"x".repeat(63)] {
            assert!(Member::is_name(name), "{name}");
        }
        for name in ["", "-a", ".a", "_a", "a b", "a/b", "é", "a\n", &"x".repeat(64)] {
            assert!(!Member::is_name(name), "{name}");
        }
        assert!(Member::is_zone("") && Member::is_zone("eu-1") && !Member::is_zone("eu 1"));
    }

    #[test]
    fn a_founded_layout_is_sound_whatever_the_order_of_members() {
        let mut reversed = members("1 1@a 2@b");
        let found = Layout::found(256, 3, 2, 2, Mode::Available, reversed.clone()).unwrap();
        reversed.reverse();
        assert_eq!(Layout::found(256, 3, 2, 2, Mode::Available, reversed).unwrap(), found);
        assert_eq!((found.generation, found.version, &found.next), (1, 1, &None));
        let empty = Layout::found(256, 3, 2, 2, Mode::Available, vec![]);
        assert_eq!(empty, Err(LayoutError::Empty));
        let idle = Layout::found(256, 3, 2, 2, Mode::Available, vec![member(1, Weight::ZERO, "")]);
        assert_eq!(idle, Err(LayoutError::Empty));
        let quorum = Layout::found(256, 0, 0, 0, Mode::Available, members("1"));
        assert_eq!(quorum, Err(LayoutError::Quorum { n: 0, r: 0, w: 0 }));
        let partitions = Layout::found(100, 1, 1, 1, Mode::Available, members("1"));
        assert_eq!(partitions, Err(LayoutError::Partitions(100)));
    }

    #[test]
    fn quorums_shrink_to_the_members_there_are() {
        let ring = Ring { n: 5, r: 3, w: 4, ..sound() };
        assert_eq!(
            (ring.active(), ring.effective_n(), ring.effective_r(), ring.effective_w()),
            (3, 3, 3, 3)
        );
    }

    #[test]
    fn every_field_is_in_the_hash() {
        let base = Layout { generation: 1, version: 1, now: sound(), next: None, recovers: false };
        let spoils: [fn(&mut Layout); 14] = [
            |layout| layout.generation = 2,
            |layout| layout.version = 2,
            |layout| layout.next = Some(sound()),
            |layout| (layout.next, layout.recovers) = (Some(sound()), true),
            |layout| layout.now.q = 8,
            |layout| layout.now.n = 3,
            |layout| layout.now.r = 1,
            |layout| layout.now.w = 1,
            |layout| layout.now.mode = Mode::Consistent,
            |layout| layout.now.members[0].id = node(0),
            |layout| layout.now.members[0].name = "n9".to_owned(),
            |layout| layout.now.members[0].zone = "z".to_owned(),
            |layout| layout.now.members[0].weight = Weight(7),
            |layout| layout.now.owner[0] = 1,
        ];
        let mut hashes: Vec<LayoutHash> = spoils
            .iter()
            .map(|spoil| {
                let mut layout = base.clone();
                spoil(&mut layout);
                layout.hash()
            })
            .chain([base.hash()])
            .collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), spoils.len() + 1);
    }
}
