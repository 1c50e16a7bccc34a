//! The simulated network: who is connected, what is on its way, what is cut.
//!
//! A connection stands between two nodes or not, and breaks as a whole; frames on it are lost, delayed, overtaken and
//! doubled at will, which is worse than TCP ever does. A cut direction swallows frames silently until the connection
//! breaks. A connection takes so many frames at once; a full one breaks, as the runtime's does (schedule G2).

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;

/// Index of a node.
pub type Node = usize;

/// What became of frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fates {
    pub lost: usize,
    pub doubled: usize,
    pub slow: usize,
}

/// How rough the network is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Share of frames lost.
    pub loss: f64,
    /// Share of frames that arrive twice.
    pub doubled: f64,
    /// Longest usual delay.
    pub delay: Duration,
    /// Share of frames that take up to a hundred times as long.
    pub slow: f64,
}

/// All links between nodes.
#[derive(Debug)]
pub struct Network {
    pub weather: Weather,
    /// Frames on their way per direction at which the connection breaks.
    pub queue_max: usize,
    connections: BTreeMap<(Node, Node), u64>,
    /// How many cuts lie on each direction.
    cut: BTreeMap<(Node, Node), u32>,
    in_flight: BTreeMap<(Node, Node), usize>,
    pub fates: Fates,
    next: u64,
}

impl Network {
    pub fn new(weather: Weather, queue_max: usize) -> Self {
        Self {
            weather,
            queue_max,
            connections: BTreeMap::new(),
            cut: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            fates: Fates::default(),
            next: 0,
        }
    }

    /// The connection of two nodes, if it stands.
    pub fn connection(&self, a: Node, b: Node) -> Option<u64> {
        self.connections.get(&pair(a, b)).copied()
    }

    /// Connects two nodes; their older connection must be gone.
    pub fn connect(&mut self, a: Node, b: Node) -> u64 {
        self.next += 1;
        let older = self.connections.insert(pair(a, b), self.next);
        assert_eq!(older, None, "two connections of one pair");
        for link in [(a, b), (b, a)] {
            self.in_flight.insert(link, 0);
        }
        self.next
    }

    /// Breaks the connection of two nodes; whether there was one.
    pub fn disconnect(&mut self, a: Node, b: Node) -> bool {
        self.connections.remove(&pair(a, b)).is_some()
    }

    pub fn cut(&mut self, from: Node, to: Node) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    pub fn uncut(&mut self, from: Node, to: Node) {
        if let Some(cuts) = self.cut.get_mut(&(from, to)) {
            *cuts -= 1;
        }
        self.cut.retain(|_, cuts| *cuts > 0);
    }

    pub fn mend_all(&mut self) {
        self.cut.clear();
    }

    pub fn is_cut(&self, from: Node, to: Node) -> bool {
        self.cut.contains_key(&(from, to))
    }

    /// Whether a handshake between the two can succeed.
    pub fn is_open(&self, a: Node, b: Node) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }

    /// Takes a frame; `false` when the queue is full.
    pub fn enqueue(&mut self, from: Node, to: Node) -> bool {
        let queued = self.in_flight.entry((from, to)).or_default();
        *queued += 1;
        *queued <= self.queue_max
    }

    pub fn dequeue(&mut self, from: Node, to: Node) {
        let queued = self.in_flight.entry((from, to)).or_default();
        *queued = queued.saturating_sub(1);
    }

    /// When copies of a frame arrive: none, one or two delays.
    pub fn delays(&mut self, rng: &mut impl Rng) -> Vec<Duration> {
        let weather = self.weather;
        if rng.random_bool(weather.loss) {
            self.fates.lost += 1;
            return Vec::new();
        }
        let copies = if rng.random_bool(weather.doubled) { 2 } else { 1 };
        self.fates.doubled += copies - 1;
        (0..copies).map(|_| self.delay(rng)).collect()
    }

    pub fn delay(&mut self, rng: &mut impl Rng) -> Duration {
        let usual = rng.random_range(Duration::from_micros(50)..=self.weather.delay);
        if rng.random_bool(self.weather.slow) {
            self.fates.slow += 1;
            usual * rng.random_range(2..100)
        } else {
            usual
        }
    }
}

fn pair(a: Node, b: Node) -> (Node, Node) {
    (a.min(b), a.max(b))
}
