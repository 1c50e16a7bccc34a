//! A cluster of replicas without disks or sockets. Nodes are `a`, `b`, …; a link `ab` carries what `a` sends to `b`, and
//! `aa` what `a` does itself: its mints and their durability.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::*;
use crate::ring::{Layout, Member, Mode, Preferences, Token, Weight};
use crate::version::notation::{actor, node};
use crate::version::{Actor, Content, Dot, HybridClock, RequestId, Siblings, VectorClock};

/// How long an owner that was never heard of may take before another one is asked too.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);
/// How long every operation may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Cluster {
    pub(super) preferences: Preferences,
    /// The ring that a change leads to, while one runs.
    pub(super) next: Option<Preferences>,
    pub(super) now: Time,
    pub(super) queue: Vec<Message>,
    nodes: Vec<Node>,
    held: BTreeSet<(NodeId, NodeId)>,
    pub(super) down: BTreeSet<NodeId>,
    /// Who hangs, as all others see it.
    pub(super) silent: BTreeSet<NodeId>,
    /// Whose slots may hold less than they should.
    pub(super) unsound: BTreeSet<NodeId>,
    results: BTreeMap<OpId, Result<Outcome, Failure>>,
    operations: u64,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    actor: Actor,
    pub(super) states: BTreeMap<Bytes, Siblings>,
    /// By target and key, and of how many acknowledgements each is one.
    pub(super) hints: BTreeMap<(NodeId, Bytes), (Siblings, u8)>,
    pub(super) memory: RequestMemory,
    clock: HybridClock,
    pub(super) coordinator: Coordinator,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Ask { op: OpId, request: Request, deadline: Time },
    Mint { op: OpId, mint: Mint, held_for: Option<HeldFor> },
    Reply(Input),
}

/// A key whose owners stand in the order of their names.
pub(super) fn key_in_order(preferences: &Preferences) -> Bytes {
    let keys = (0..).map(|number| Bytes::from(format!("key{number}")));
    let in_order = |key: &Bytes| preferences.of_slot(Token::of(key).slot()).owners().is_sorted();
    keys.into_iter().find(in_order).unwrap()
}

/// As [`key_in_order`], where `next` is the first fallback, and that is such a key.
pub(super) fn key_in_order_before(
    preferences: &Preferences,
    next: &str,
    is_such: impl Fn(&Bytes) -> bool,
) -> Bytes {
    let keys = (0..).map(|number| Bytes::from(format!("key{number}")));
    let mut in_order = keys.into_iter().filter(|key| {
        let walk = preferences.of_slot(Token::of(key).slot());
        walk.owners().is_sorted() && walk.fallbacks().next() == Some(node(next)) && is_such(key)
    });
    in_order.next().unwrap()
}

/// The names of all nodes that there can be.
const NAMES: &str = "abcde";

/// The ring of the members named, a letter each.
pub(super) fn preferences(names: &str, (n, r, w): (u8, u8, u8)) -> Preferences {
    let member = |name: char| Member {
        id: node(&name.to_string()),
        name: name.to_string(),
        zone: String::new(),
        weight: Weight::ONE,
    };
    let members = names.chars().map(member).collect();
    let layout = Layout::found(64, n, r, w, Mode::Available, members).unwrap();
    Preferences::new(Arc::new(layout.now))
}

pub(super) fn value(text: &str) -> Content {
    Content::Value(Bytes::copy_from_slice(text.as_bytes()))
}

pub(super) const fn request(counter: u64) -> RequestId {
    RequestId { session: 42, counter }
}

/// The values of a state in dot order, a tombstone as `-`.
pub(super) fn values(state: &Siblings) -> String {
    let show = |content: &Content| match content {
        Content::Value(value) => String::from_utf8_lossy(value).into_owned(),
        Content::Tombstone => "-".to_owned(),
    };
    let mut values: Vec<_> =
        state.versions().values().map(|version| show(&version.content)).collect();
    values.sort();
    values.join(" ")
}

/// What stands and what was seen, whatever was written.
pub(super) fn dots(state: &Siblings) -> (Vec<Dot>, VectorClock) {
    (state.versions().keys().copied().collect(), state.clock().clone())
}

impl Cluster {
    /// As many nodes as n.
    pub(super) fn new(n: u8, r: u8, w: u8) -> Self {
        Self::of(usize::from(n), (n, r, w))
    }

    pub(super) fn of(nodes: usize, quorum: (u8, u8, u8)) -> Self {
        let names = &NAMES[..nodes];
        Self::with(names, preferences(names, quorum), None)
    }

    /// A change under way from one set of members to another. Where they are as many as n they own every key.
    pub(super) fn changing(
        (now, quorum): (&str, (u8, u8, u8)),
        (next, quorum_next): (&str, (u8, u8, u8)),
    ) -> Self {
        let next = preferences(next, quorum_next);
        Self::with(NAMES, preferences(now, quorum), Some(next))
    }

    fn with(names: &str, preferences: Preferences, next: Option<Preferences>) -> Self {
        let now = Time { monotonic: 100_000_000_000, wall: 1_800_000_000_000_000 };
        let born = Time::default();
        let new_node = |name: char| Node {
            id: node(&name.to_string()),
            actor: actor(&name.to_string()),
            states: BTreeMap::new(),
            hints: BTreeMap::new(),
            memory: RequestMemory::new(born),
            clock: HybridClock::default(),
            coordinator: Coordinator::new(),
        };
        Self {
            preferences,
            next,
            now,
            queue: Vec::new(),
            nodes: names.chars().map(new_node).collect(),
            held: BTreeSet::new(),
            down: BTreeSet::new(),
            silent: BTreeSet::new(),
            unsound: BTreeSet::new(),
            results: BTreeMap::new(),
            operations: 0,
        }
    }

    pub(super) fn node(&mut self, name: &str) -> &mut Node {
        let id = node(name);
        self.nodes.iter_mut().find(|node| node.id == id).unwrap()
    }

    pub(super) fn state(&self, name: &str, key: &Bytes) -> Siblings {
        let found = self.nodes.iter().find(|found| found.id == node(name)).unwrap();
        found.states.get(key).cloned().unwrap_or_default()
    }

    /// For whom `name` holds hints of `key`, and what each counted for.
    pub(super) fn hints(&self, name: &str, key: &Bytes) -> Vec<(NodeId, u8)> {
        let found = self.nodes.iter().find(|found| found.id == node(name)).unwrap();
        let of_key = found.hints.iter().filter(|((_, of), _)| of == key);
        of_key.map(|((target, _), (_, w))| (*target, *w)).collect()
    }

    /// What is left of a key once all replicas have met.
    pub(super) fn converged(&self, key: &Bytes) -> Siblings {
        let mut merged = Siblings::new();
        for state in self.nodes.iter().filter_map(|node| node.states.get(key)) {
            merged.merge(state, &mut Vec::new());
        }
        merged
    }

    /// The node's hints reach their targets.
    pub(super) fn hand_over(&mut self, name: &str) -> &mut Self {
        for ((target, key), (state, _)) in std::mem::take(&mut self.node(name).hints) {
            let merge = Request::Merge { key, state, put: None };
            assert!(matches!(self.answer(target, &merge), Answer::Merged(_)));
        }
        self
    }

    /// Keeps what goes over these links (`ab`: from a to b), until released.
    pub(super) fn hold(&mut self, links: &str) -> &mut Self {
        self.held.extend(links.split_whitespace().map(link));
        self
    }

    pub(super) fn release(&mut self, links: &str) -> &mut Self {
        links.split_whitespace().for_each(|text| assert!(self.held.remove(&link(text))));
        self
    }

    /// The node stops, with its operations and all that is on the way to and from it.
    pub(super) fn stop(&mut self, name: &str) -> &mut Self {
        let id = node(name);
        self.down.insert(id);
        self.queue.retain(|message| message.from != id && message.to != id);
        self.node(name).coordinator = Coordinator::new();
        for other in self.names() {
            self.handle(other, Input::Unreachable(id));
        }
        self
    }

    /// The node is back, with its states and without its memory of requests.
    pub(super) fn start(&mut self, name: &str) -> &mut Self {
        if self.down.remove(&node(name)) {
            self.node(name).memory = RequestMemory::new(self.now);
        }
        self
    }

    /// Another layout is in force, and everybody knows.
    pub(super) fn take(&mut self, now: Preferences, next: Option<Preferences>) -> &mut Self {
        (self.preferences, self.next) = (now, next);
        for id in self.names() {
            self.handle(id, Input::LayoutChanged);
        }
        self
    }

    /// To whom `from` is sending a merge.
    pub(super) fn merging(&self, from: &str) -> Vec<NodeId> {
        let is_merge =
            |body: &Body| matches!(body, Body::Ask { request: Request::Merge { .. }, .. });
        let sent = self.queue.iter().filter(|message| message.from == node(from));
        sent.filter(|message| is_merge(&message.body)).map(|message| message.to).collect()
    }

    pub(super) fn is_down(&self, name: &str) -> bool {
        self.down.contains(&node(name))
    }

    pub(super) fn names(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub(super) fn begin(&mut self, at: &str, operation: Operation) -> OpId {
        self.operations += 1;
        let op = OpId(self.operations);
        let deadline = self.now.after(TIMEOUT);
        self.handle(node(at), Input::Begin { op, operation, deadline });
        op
    }

    /// Delivers all that no link holds, in the order it was sent.
    pub(super) fn run(&mut self) -> &mut Self {
        while let Some(place) = self.next_deliverable() {
            self.deliver(place);
        }
        self
    }

    /// Time passes; every coordinator hears of it.
    pub(super) fn pass(&mut self, span: Duration) -> &mut Self {
        self.now = self.now.after(span);
        for id in self.names() {
            self.handle(id, Input::Tick);
        }
        self
    }

    pub(super) fn result(&self, op: OpId) -> Option<&Result<Outcome, Failure>> {
        self.results.get(&op)
    }

    #[track_caller]
    pub(super) fn done(&self, op: OpId) -> Done {
        match self.result(op) {
            Some(Ok(Outcome::Done(done))) => done.clone(),
            other => panic!("not done: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn got(&self, op: OpId) -> Got {
        match self.result(op) {
            Some(Ok(Outcome::Got(got))) => got.clone(),
            other => panic!("not got: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn failure(&self, op: OpId) -> Failure {
        match self.result(op) {
            Some(Err(failure)) => failure.clone(),
            other => panic!("not failed: {other:?}"),
        }
    }

    /// Where in the queue the next message stands that no link holds.
    pub(super) fn next_deliverable(&self) -> Option<usize> {
        let open = |message: &Message| !self.held.contains(&(message.from, message.to));
        self.queue.iter().position(open)
    }

    pub(super) fn deliver(&mut self, place: usize) {
        let Message { from, to, body } = self.queue.remove(place);
        match body {
            Body::Reply(input) => self.handle(to, input),
            Body::Ask { op, request, deadline } => {
                if self.now < deadline {
                    let answer = self.answer(to, &request);
                    self.send(to, from, Body::Reply(Input::Answer { from: to, op, answer }));
                }
            }
            Body::Mint { op, mint, held_for } => {
                let answer = self.mint(to, &mint, held_for);
                let minted = matches!(answer, MintAnswer::Minted { .. });
                self.handle(to, Input::Minted { op, answer });
                if minted {
                    let is_sound = !self.unsound.contains(&to);
                    self.send(to, to, Body::Reply(Input::MintDurable { op, is_sound }));
                }
            }
        }
    }

    pub(super) fn handle(&mut self, at: NodeId, input: Input) {
        if self.down.contains(&at) {
            return;
        }
        let mut effects = Vec::new();
        let (down, silent) = (&self.down, &self.silent);
        let reachable = |other| match (down.contains(&other), silent.contains(&other)) {
            (true, _) => Reachability::Unreachable,
            (false, true) => Reachability::Silent,
            (false, false) => Reachability::Up,
        };
        let view = View {
            me: at,
            preferences: &self.preferences,
            next: self.next.as_ref(),
            recovers: false,
            reachable: &reachable,
            foreground: ForegroundLoad::default(),
            now: self.now,
        };
        let node = self.nodes.iter_mut().find(|node| node.id == at).unwrap();
        node.coordinator.handle(&view, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Ask { to, op, request, deadline } => {
                    self.send(at, to, Body::Ask { op, request, deadline });
                }
                Effect::Mint { op, mint, held_for } => {
                    self.send(at, at, Body::Mint { op, mint, held_for });
                }
                Effect::Finished { op, result } => {
                    assert!(self.results.insert(op, result).is_none(), "{op:?} finished twice");
                }
                Effect::Wake(at) => assert!(self.now.monotonic <= at.monotonic),
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, body: Body) {
        if !self.down.contains(&from) && !self.down.contains(&to) {
            self.queue.push(Message { from, to, body });
        }
    }

    fn answer(&mut self, at: NodeId, request: &Request) -> Answer {
        let now = self.now;
        let node = self.nodes.iter_mut().find(|node| node.id == at).unwrap();
        let key = match request {
            Request::Read { key, .. }
            | Request::Recall { key, .. }
            | Request::Merge { key, .. } => key,
            Request::Hold { key, target, w, .. } => {
                let (own, held) =
                    node.hints.get(&(*target, key.clone())).cloned().unwrap_or_default();
                let step = replica::answer(key, &own, request, node.local(now));
                let hint = (step.state.unwrap_or(own), held.max(*w));
                node.hints.insert((*target, key.clone()), hint);
                return step.answer;
            }
            Request::ReadHeld { key } => {
                return Answer::State(node.held(key));
            }
            Request::ReadRange { after, bytes_max, .. } => {
                return Answer::Range(node.page(after.as_ref(), *bytes_max as usize));
            }
            Request::Compare(_) | Request::Cut(_) => unreachable!("a coordinator does not compare"),
        };
        let own = node.states.get(key).cloned().unwrap_or_default();
        let step = replica::answer(key, &own, request, node.local(now));
        assert_eq!(step.alarms, Vec::<Dot>::new(), "one dot, two writes");
        assert!(!step.actor_ahead, "a replica forgot what it minted");
        node.states.extend(step.state.map(|state| (key.clone(), state)));
        step.answer
    }

    fn mint(&mut self, at: NodeId, mint: &Mint, held_for: Option<HeldFor>) -> MintAnswer {
        let now = self.now;
        let node = self.nodes.iter_mut().find(|node| node.id == at).unwrap();
        let own = match held_for {
            Some(_) => node.held(&mint.key),
            None => node.states.get(&mint.key).cloned().unwrap_or_default(),
        };
        let step = replica::mint(&own, mint, node.local(now));
        assert_eq!(step.alarms, Vec::<Dot>::new(), "one dot, two writes");
        match (held_for, step.state) {
            (_, None) => {}
            (None, Some(state)) => {
                node.states.insert(mint.key.clone(), state);
            }
            (Some(HeldFor { target, w }), Some(state)) => {
                let hint = node.hints.entry((target, mint.key.clone())).or_default();
                *hint = (state, hint.1.max(w));
            }
        }
        step.answer
    }
}

impl Node {
    fn local(&mut self, now: Time) -> Local<'_> {
        let Self { actor, memory, clock, .. } = self;
        Local { now, actor: *actor, floor: 0, memory, clock }
    }

    /// All that it holds of a key that it does not own.
    fn held(&self, key: &Bytes) -> Siblings {
        let mut held = self.states.get(key).cloned().unwrap_or_default();
        for ((_, of), (hint, _)) in &self.hints {
            if of == key {
                held.merge(hint, &mut Vec::new());
            }
        }
        held
    }

    /// A page of so many entries; the harness counts entries for bytes.
    fn page(&self, after: Option<&(crate::ring::Slot, Bytes)>, entries_max: usize) -> RangePage {
        let mut entries: Vec<RangeEntry> = self
            .states
            .iter()
            .map(|(key, state)| {
                let slot = Token::of(key).slot();
                RangeEntry { slot, key: key.clone(), state: state.clone() }
            })
            .filter(|entry| after.is_none_or(|after| *after < (entry.slot, entry.key.clone())))
            .collect();
        entries.sort_by_key(|entry| (entry.slot, entry.key.clone()));
        let complete = entries.len() <= entries_max;
        entries.truncate(entries_max);
        RangePage { entries, complete, cuts: Vec::new() }
    }
}

fn link(text: &str) -> (NodeId, NodeId) {
    let (from, to) = text.split_at(1);
    (node(from), node(to))
}

/// A put without a context, at the layout's levels, strict, as the `counter`-th of its session.
pub(super) fn put(key: &Bytes, text: &str, counter: u64) -> Operation {
    Operation::Put {
        key: key.clone(),
        content: value(text),
        basis: PutBasis::Present,
        w: None,
        r: None,
        consistency: Some(Consistency::Strict),
        request: request(counter),
        age: Duration::ZERO,
    }
}

/// The same on a try after the first, begun so long ago.
pub(super) fn retry(key: &Bytes, text: &str, counter: u64, age: Duration) -> Operation {
    with(put(key, text, counter), |_, tried| *tried = age)
}

/// The same with another basis.
pub(super) fn put_on(key: &Bytes, text: &str, counter: u64, basis: PutBasis) -> Operation {
    with(put(key, text, counter), |old, _| *old = basis)
}

pub(super) fn get(key: &Bytes, level: Option<Level>, consistency: Consistency) -> Operation {
    let (r, consistency) = (level, Some(consistency));
    Operation::Get { key: key.clone(), r, consistency, compares_all: false }
}

fn with(mut put: Operation, change: impl FnOnce(&mut PutBasis, &mut Duration)) -> Operation {
    if let Operation::Put { basis, age, .. } = &mut put {
        change(basis, age);
    }
    put
}
