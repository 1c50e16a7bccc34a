//! Progress of long work, on stderr: a bar on a terminal, else a line every ten seconds; or JSON for machines.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use super::human;
use super::json::Object;
use super::options::Common;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// How often a machine hears of it.
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// In which form progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressForm {
    /// A bar on a terminal, else a line every 10 s
    #[default]
    Auto,
    /// One JSON object a second on stderr
    Json,
    /// Nothing
    None,
}

/// Counts records and bytes, and shows them now and then.
#[derive(Debug)]
pub struct Progress {
    shown: Shown,
    verb: &'static str,
    started: Instant,
    next: Instant,
    /// Records done.
    pub records: u64,
    /// Records that failed.
    pub failed: u64,
    /// Bytes read or written.
    pub bytes: u64,
}

/// Shows how far work is that others do, from looks at it.
#[derive(Debug)]
pub struct Watch {
    shown: Shown,
    next: Instant,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines,
    Json,
    Nothing,
}

impl Progress {
    /// Begins; `verb` says what is being done (`imported`), `bytes_total` how much there is, where known.
    pub fn begin(
        form: ProgressForm,
        common: &Common,
        verb: &'static str,
        bytes_total: Option<u64>,
    ) -> Self {
        let shown = Shown::of(form, common, || bar(bytes_total));
        let started = instant();
        let next = started + shown.interval();
        Self { shown, verb, started, next, records: 0, failed: 0, bytes: 0 }
    }

    /// That many more bytes are to come than was said at the beginning.
    pub fn expect(&mut self, bytes: u64) {
        let Shown::Bar(shown) = &mut self.shown else { return };
        let total = shown.length().unwrap_or(0) + bytes;
        if shown.length().is_none() {
            *shown = bar(Some(total));
        }
        shown.set_length(total);
    }

    /// Shows the counts where it is time to. Call it as often as you like.
    pub fn tick(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_position(self.bytes);
            bar.set_message(format!("{} {}", self.records, self.verb));
            return;
        }
        let now = instant();
        if now < self.next {
            return;
        }
        self.next = now + self.shown.interval();
        let line = match self.shown {
            Shown::Bar(_) | Shown::Nothing => return,
            Shown::Lines => format!("{} {} so far, {}/s", self.records, self.verb, self.rate()),
            Shown::Json => self.object("progress").finish(),
        };
        // Progress that cannot be shown does not stop the work.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Removes the bar, so that other words can be said.
    pub fn clear(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    /// Says a line without disturbing the bar.
    pub fn say(&self, text: &str) {
        let say = || {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        };
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(say),
            Shown::Lines | Shown::Json | Shown::Nothing => say(),
        }
    }

    /// What was done, in a line: `imported 60000 records in 4.2s, 14285/s`.
    pub fn summary(&self) -> String {
        let span = human::duration(self.started.elapsed());
        let failed =
            if self.failed == 0 { String::new() } else { format!(", {} failed", self.failed) };
        format!("{} {} records in {span}, {}/s{failed}", self.verb, self.records, self.rate())
    }

    /// The same for programs.
    pub fn object(&self, kind: &str) -> Object {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        Object::new(kind)
            .field("verb", self.verb)
            .field("records", self.records)
            .field("failed", self.failed)
            .field("bytes", self.bytes)
            .field("micros", micros)
            .field("per_second", self.rate())
    }

    fn rate(&self) -> u64 {
        let micros = self.started.elapsed().as_micros().max(1);
        u64::try_from(u128::from(self.records) * 1_000_000 / micros).unwrap_or(u64::MAX)
    }
}

impl Watch {
    /// Begins.
    pub fn begin(form: ProgressForm, common: &Common) -> Self {
        let shown = Shown::of(form, common, share_bar);
        let now = instant();
        // A machine hears of the first look at once, lest it hear of none.
        let next = if matches!(shown, Shown::Json) { now } else { now + shown.interval() };
        Self { shown, next }
    }

    /// What a look found: so many parts of the whole, in words and as an object.
    pub fn saw(&mut self, (done, whole): (u64, u64), words: &str, object: impl FnOnce() -> Object) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_length(whole.max(1));
            bar.set_position(done);
            bar.set_message(words.to_owned());
            return;
        }
        let now = instant();
        if now < self.next {
            return;
        }
        self.next = now + self.shown.interval();
        let line = match self.shown {
            Shown::Bar(_) | Shown::Nothing => return,
            Shown::Lines => words.to_owned(),
            Shown::Json => object().finish(),
        };
        // Progress that cannot be shown does not stop the work.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Removes the bar.
    pub fn end(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Shown {
    fn of(form: ProgressForm, common: &Common, bar: impl FnOnce() -> ProgressBar) -> Self {
        match form {
            ProgressForm::None => Self::Nothing,
            ProgressForm::Json => Self::Json,
            ProgressForm::Auto if common.quiet || common.json => Self::Nothing,
            ProgressForm::Auto if io::stderr().is_terminal() => Self::Bar(bar()),
            ProgressForm::Auto => Self::Lines,
        }
    }

    const fn interval(&self) -> Duration {
        match self {
            Self::Json => JSON_INTERVAL,
            Self::Bar(_) | Self::Lines | Self::Nothing => LINE_INTERVAL,
        }
    }
}

fn bar(bytes_total: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes_total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {percent}%  {binary_bytes}/{binary_total_bytes}  {msg}  eta {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {binary_bytes}  {msg}  {elapsed}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
    bar
}

fn share_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent}%  {msg}");
    ProgressBar::new(1).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}

#[expect(clippy::disallowed_methods, reason = "the programs' rim reads the clock")]
fn instant() -> Instant {
    Instant::now()
}
