//! How a node begins: founding a directory, and starting on one.
//!
//! ```text
//! found:  register {layout 1}, start 0, clean mark 0, actor, addresses: one durable batch
//! start:  read all of it; start n -> n + 1 with a fresh nonce, the clean mark consumed, durable before anything else
//!           mark of start n there     the epoch goes on once a majority of the others recorded this start
//!           no mark                   a new epoch, in the same batch
//!         what the disk gave back (start n, the end of its log) is kept in it until it was compared (`rollback.rs`)
//! ```
//! A founded directory counts as cleanly stopped: its first start too must be the only one.

use std::collections::BTreeMap;

use rand::Rng;

use crate::cluster::register::RegisterState;
use crate::cluster::start::Reached;
use crate::cluster::{Addresses, Incarnation, Sighting, Start};
use crate::encoding::DecodeError;
use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::ring::{Layout, Slot};
use crate::storage::identity::Identity;
use crate::storage::offline::DirectoryView;
use crate::storage::{ReadError, Store, SyncError, WriteBatch, WriteError};

use crate::version::Epoch;
use crate::wire::client::StagedAt;

use super::core::members_of;
use super::keys;
use super::lineage::Lineage;
use super::meta::{self, ActorRecord};

/// A node that lost its own count of starts goes on so many above the latest that others saw: some may have been seen
/// by nobody who was asked.
const STARTS_UNSEEN: u64 = 1_000;

/// Why a node cannot start on its directory, or a directory cannot be founded.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store did not give a record.
    #[error("cannot read the node's record `{record}`")]
    Read {
        /// Which.
        record: String,
        /// Why.
        source: Box<ReadError>,
    },
    /// A record's bytes are none of ours.
    #[error("the node's record `{record}` is malformed")]
    Malformed {
        /// Which.
        record: String,
        /// How.
        source: DecodeError,
    },
    /// The node's own records are damaged: what it promised by them is lost with them.
    #[error("the node's own records are damaged")]
    Damaged {
        /// How.
        source: Box<ReadError>,
    },
    /// The directory holds no layout.
    #[error("the directory belongs to no cluster yet: `kvnode init` founds one")]
    NotFounded,
    /// The directory holds a layout already.
    #[error("the directory already belongs to a cluster")]
    AlreadyFounded,
    /// The layout does not name this node.
    #[error("node {0} is no member of its own layout: it was removed")]
    NotAMember(NodeId),
    /// The store did not take the start.
    #[error("cannot record the start")]
    Write(#[from] WriteError),
    /// The start did not become durable.
    #[error("cannot make the start durable")]
    Sync(#[from] SyncError),
}

/// What a node knows as it starts; all of it is durable.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) register: RegisterState,
    pub(super) start: Start,
    /// What the disk gave back at the first start since it was compared.
    pub(super) recovered: Reached,
    pub(super) lineage: Lineage,
    /// What is on record about the starts of others.
    pub(super) others: BTreeMap<NodeId, Start>,
    /// How far others were seen to get.
    pub(super) sightings: BTreeMap<NodeId, Sighting>,
    pub(super) addresses: BTreeMap<NodeId, Addresses>,
    pub(super) staged: Vec<StagedAt>,
}

/// Makes the empty store of `identity` a member of a new cluster: writes layout 1 and all that a first start reads,
/// durably. `addresses` are those of all members.
/// # Errors
/// [`StartError::AlreadyFounded`], [`StartError::NotAMember`], or what the store says.
pub fn found(
    store: &Store,
    identity: &Identity,
    layout: Layout,
    addresses: &BTreeMap<NodeId, Addresses>,
) -> Result<(), StartError> {
    if layout.now.member(identity.node).is_none() {
        return Err(StartError::NotAMember(identity.node));
    }
    if read(store, "register", &meta::register_key(), meta::decode_register)?.is_some() {
        return Err(StartError::AlreadyFounded);
    }
    write_durably(store, first_records(identity, layout, addresses))
}

/// Whether the store holds a member's records.
/// # Errors
/// [`StartError`].
/// [`StartError::Damaged`] where any of them cannot be read: what they promised is lost, and the node begins again.
pub fn is_founded(store: &Store) -> Result<bool, StartError> {
    let (start, end) = keys::meta_range();
    for entry in store.scan(&start, Some(&end)) {
        if let Err(source @ ReadError::Corrupt { .. }) = entry {
            return Err(StartError::Damaged { source: source.into() });
        }
    }
    Ok(read(store, "register", &meta::register_key(), meta::decode_register)?.is_some())
}

/// Makes the empty store of a member that lost its own a member's again: `layout` is the latest that a majority of the
/// members knows, `last` the latest start of this node that they saw. It votes on no layout before the next one, mints under a new epoch, and gets all its slots from the
/// others. What the directory's identity says of its epoch was the first one's: chance tells the new one apart.
/// # Errors
/// [`StartError::AlreadyFounded`], [`StartError::NotAMember`], or what the store says.
pub fn begin_again(
    store: &Store,
    identity: &Identity,
    layout: Layout,
    last: Incarnation,
) -> Result<(), StartError> {
    if layout.member(identity.node).is_none() {
        return Err(StartError::NotAMember(identity.node));
    }
    if is_founded(store)? {
        return Err(StartError::AlreadyFounded);
    }
    let mut batch = WriteBatch::new();
    let register = RegisterState::abstaining(layout.into());
    batch.put(meta::register_key(), meta::encode_register(&register));
    let count = Incarnation(last.0 + STARTS_UNSEEN);
    batch.put(meta::start_key(), meta::encode_start(Start { count, nonce: 0 }));
    mark_all_unsound(&mut batch);
    write_durably(store, batch)
}

/// Makes the empty store of a node that joins a member's by the change that runs: it numbers the slots by the others' cuts
/// and copies what it gains.
/// # Errors
/// As [`begin_again`].
pub fn join(
    store: &Store,
    identity: &Identity,
    layout: Layout,
    addresses: &BTreeMap<NodeId, Addresses>,
) -> Result<(), StartError> {
    if layout.member(identity.node).is_none() {
        return Err(StartError::NotAMember(identity.node));
    }
    if is_founded(store)? {
        return Err(StartError::AlreadyFounded);
    }
    let mut batch = first_records(identity, layout, addresses);
    mark_all_unsound(&mut batch);
    write_durably(store, batch)
}

/// What the first start of a new directory reads.
fn first_records(
    identity: &Identity,
    layout: Layout,
    addresses: &BTreeMap<NodeId, Addresses>,
) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(meta::register_key(), meta::encode_register(&RegisterState::new(layout.into())));
    batch.put(meta::start_key(), meta::encode_start(Start::default()));
    batch.put(meta::clean_key(), meta::encode_clean(Incarnation::default()));
    let record = ActorRecord { epoch: epoch_of(identity), floor: 0 };
    batch.put(meta::actor_key(), meta::encode_actor(record));
    for (node, addresses) in addresses {
        batch.put(meta::address_key(*node), meta::encode_addresses(addresses));
    }
    batch
}

fn mark_all_unsound(batch: &mut WriteBatch) {
    let all: Vec<Slot> = (0..=u16::MAX).map(Slot).collect();
    for block in all.chunks(meta::UNSOUND_SLOTS.into()) {
        let (key, value) = meta::encode_unsound(block[0], block.iter().copied());
        batch.put(key, value);
    }
}

/// Where other members listen for nodes, by the records that can be read: a node that gives up its data finds them so.
pub fn addresses_on_record(store: &Store) -> BTreeMap<NodeId, Addresses> {
    let (start, end) = meta::address_range();
    let records = store.scan(&start, Some(&end)).filter_map(Result::ok);
    let parsed = records.filter_map(|(key, value)| {
        let node = NodeId::from_bytes(key.strip_prefix(&*start)?.try_into().ok()?);
        Some((node, meta::decode_addresses(&value).ok()?))
    });
    parsed.collect()
}

/// Where other members listen for nodes, by the records of a directory that no store is opened on.
pub fn addresses_in(view: &DirectoryView) -> BTreeMap<NodeId, Addresses> {
    let value = |key: &[u8]| view.get(key).ok()??.value;
    let register = value(&meta::register_key());
    let names = register.and_then(|bytes| meta::member_names(&bytes).ok()).unwrap_or_default();
    let found = names.into_keys().filter_map(|node| {
        Some((node, meta::decode_addresses(&value(&meta::address_key(node))?).ok()?))
    });
    found.collect()
}

/// Keeps these addresses in the empty store of a node that gave up its data, durably: it has others to ask then, however
/// often it starts before it is a member's again.
/// # Errors
/// What the store says.
pub fn keep_addresses(
    store: &Store,
    addresses: &BTreeMap<NodeId, Addresses>,
) -> Result<(), StartError> {
    let mut batch = WriteBatch::new();
    for (node, addresses) in addresses {
        batch.put(meta::address_key(*node), meta::encode_addresses(addresses));
    }
    write_durably(store, batch)
}

/// How far the node of `store` has durably seen `member` get.
/// # Errors
/// What the store says.
pub fn seen_of(store: &Store, member: NodeId) -> Result<Option<Reached>, StartError> {
    let sighting = read(store, "sighting", &meta::seen_key(member), meta::decode_sighting)?;
    Ok(sighting.map(|sighting| sighting.farthest()))
}

/// Reads what the directory holds, and begins a start: durable when this returns.
pub(super) fn open(
    store: &Store,
    identity: &Identity,
    rng: &mut impl Rng,
) -> Result<Opened, StartError> {
    let me = identity.node;
    let register = read(store, "register", &meta::register_key(), meta::decode_register)?
        .ok_or(StartError::NotFounded)?;
    if register.chosen.member(me).is_none() {
        return Err(StartError::NotAMember(me));
    }
    let last = read(store, "start", &meta::start_key(), meta::decode_start)?.unwrap_or_default();
    let clean = read(store, "clean", &meta::clean_key(), meta::decode_clean)?;
    let record = read(store, "actor", &meta::actor_key(), meta::decode_actor)?;
    let record = record
        .filter(|record| epoch_of(identity) <= record.epoch)
        .unwrap_or(ActorRecord { epoch: epoch_of(identity), floor: 0 });

    let gave_back = Reached { count: last.count, position: store.synced().get() };
    let recovered = read(store, "uncompared", &meta::uncompared_key(), meta::decode_reached)?
        .unwrap_or(gave_back);

    let start = Start { count: Incarnation(last.count.0 + 1), nonce: rng.random() };
    let mut lineage = match clean {
        Some(count) if count == last.count => Lineage::taken_over(me, record),
        Some(_) | None if planted::is_on(Bug::EpochKeptAfterCrash) => {
            Lineage::taken_over(me, record)
        }
        Some(_) | None => Lineage::begun(me, record.epoch, rng),
    };
    let mut batch = WriteBatch::new();
    batch.put(meta::start_key(), meta::encode_start(start));
    batch.put(meta::uncompared_key(), meta::encode_reached(recovered));
    if !planted::is_on(Bug::CleanMarkKept) {
        batch.delete(meta::clean_key());
    }
    lineage.record(&mut batch);
    write_durably(store, batch)?;
    lineage.recorded();

    let (mut others, mut sightings, mut addresses) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let staged = read(store, "staged", &meta::staged_key(), meta::decode_staged)?;
    for node in members_of(&register.chosen) {
        let key = meta::other_start_key(node);
        others.extend(
            read(store, "start of a member", &key, meta::decode_start)?.map(|start| (node, start)),
        );
        let seen = read(store, "sighting", &meta::seen_key(node), meta::decode_sighting)?;
        sightings.extend(seen.map(|sighting| (node, sighting)));
        let key = meta::address_key(node);
        let address = read(store, "address of a member", &key, meta::decode_addresses)?;
        addresses.extend(address.map(|address| (node, address)));
    }
    let staged = staged.unwrap_or_default();
    Ok(Opened { register, start, recovered, lineage, others, sightings, addresses, staged })
}

/// The epoch in `IDENTITY`; a node's first one counts 1.
fn epoch_of(identity: &Identity) -> Epoch {
    Epoch { counter: identity.epoch.counter.max(1), random: identity.epoch.random }
}

fn read<T>(
    store: &Store,
    record: &str,
    key: &[u8],
    decode: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
) -> Result<Option<T>, StartError> {
    let found = store
        .get(key)
        .map_err(|source| StartError::Read { record: record.to_owned(), source: source.into() })?;
    found
        .value
        .map(|bytes| decode(&bytes))
        .transpose()
        .map_err(|source| StartError::Malformed { record: record.to_owned(), source })
}

fn write_durably(store: &Store, mut batch: WriteBatch) -> Result<(), StartError> {
    batch.durable().on_reserve();
    store.write(batch)?;
    store.sync_all()?;
    Ok(())
}
