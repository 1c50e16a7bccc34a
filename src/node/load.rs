//! How much a node had to do lately: its share of the clients' requests, and processor time.
//!
//! Counters are sampled every [`SAMPLE_INTERVAL`]; what is told is their rise since the oldest sample of the last
//! [`WINDOW`]. Requests cost nothing more: they are counted anyway.

use std::collections::VecDeque;
use std::time::Duration;

use crate::cluster::Time;
use crate::wire::client::Load as Told;

use super::core::Core;

/// What the load speaks of.
const WINDOW: Duration = Duration::from_secs(5);
/// How often the counters are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The counters as they were lately, oldest first; never empty.
#[derive(Clone, Debug)]
pub(super) struct Load {
    samples: VecDeque<Sample>,
}

/// The counters at one instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) at: Time,
    pub(super) gets: u64,
    pub(super) puts: u64,
    /// Processor time of the process.
    pub(super) cpu: Duration,
}

impl Load {
    pub(super) fn new(first: Sample) -> Self {
        Self { samples: VecDeque::from([first]) }
    }

    /// Whether the counters are to be looked at.
    fn is_due(&self, now: Time) -> bool {
        self.samples.back().is_none_or(|last| SAMPLE_INTERVAL <= now.since(last.at))
    }

    /// Keeps a sample, and lets go of those that no answer speaks of any more.
    fn keep(&mut self, sample: Sample) {
        self.samples.push_back(sample);
        while self.samples.get(1).is_some_and(|next| WINDOW <= sample.at.since(next.at)) {
            self.samples.pop_front();
        }
    }

    /// What the counters rose by.
    fn until(&self, now: Sample) -> Told {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let oldest = self.samples.front().copied().unwrap_or(now);
        Told {
            window: micros(now.at.since(oldest.at)),
            gets: now.gets - oldest.gets,
            puts: now.puts - oldest.puts,
            cpu: micros(now.cpu.saturating_sub(oldest.cpu)),
        }
    }
}

impl Core {
    /// Looks at the counters where it is time to.
    pub(super) fn load_timer(&mut self) {
        if self.figures.load.is_due(self.now) {
            let sample = self.counted();
            self.figures.load.keep(sample);
        }
    }

    /// What this node had to do lately.
    pub(super) fn told_load(&self) -> Told {
        self.figures.load.until(self.counted())
    }

    fn counted(&self) -> Sample {
        let (gets, puts) = (self.figures.counters.gets, self.figures.counters.puts);
        Sample { at: self.now, gets, puts, cpu: (self.config.cpu_time)() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After so many seconds of `rate` gets a second, and then of none.
    #[track_caller]
    fn check(busy: u64, idle: u64, rate: u64, expected: Told) {
        let start = Time { monotonic: 1 << 40, wall: 0 };
        let sample = |second: u64| Sample {
            at: start.after(Duration::from_secs(second)),
            gets: second.min(busy) * rate,
            puts: 0,
            cpu: Duration::from_millis(100 * second),
        };
        let mut load = Load::new(sample(0));
        for second in 1..=busy + idle {
            assert!(load.is_due(sample(second).at));
            load.keep(sample(second));
            assert!(!load.is_due(sample(second).at));
            assert!(load.samples.len() <= 7, "{load:?}");
        }
        assert_eq!(load.until(sample(busy + idle)), expected);
    }

    #[test]
    fn the_last_seconds_count() {
        let told = |seconds: u64, gets| Told {
            window: seconds * 1_000_000,
            gets,
            puts: 0,
            cpu: seconds * 100_000,
        };
        check(0, 0, 0, told(0, 0));
        check(2, 0, 10, told(2, 20));
        check(60, 0, 10, told(5, 50));
        check(60, 3, 10, told(5, 20));
        check(60, 5, 10, told(5, 0));
    }
}
