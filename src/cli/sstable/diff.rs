//! `diff`: what two files or directories hold otherwise.

use std::cmp::Ordering;
use std::io::Write;
use std::iter::Peekable;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::storage::table::Entry;

use super::dump::bytes;
use super::entry::{Names, Shown, record, shown_key};
use super::report::{ProgressArgs, Report};
use super::target::{Entries, Target};

#[derive(Args, Clone, Debug)]
pub(super) struct DiffArgs {
    /// An SSTable, or a directory of a node or of SSTables
    #[arg(value_name = "A")]
    left: PathBuf,
    /// Another
    #[arg(value_name = "B")]
    right: PathBuf,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// A key that stands otherwise in one than in the other.
struct Difference {
    left: Option<Entry>,
    right: Option<Entry>,
}

/// The entries of one side that are not deletes; damage is told and passed over.
struct Side<'a> {
    entries: Peekable<Entries<'a>>,
}

/// `diff`: exit 1 where they differ. A delete counts as nothing.
pub(super) fn diff(args: &DiffArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut report = Report::begin(args.progress, common, "compared", None);
    let targets = (Target::open(&args.left, &mut report)?, Target::open(&args.right, &mut report)?);
    report.expect(targets.0.bytes() + targets.1.bytes());
    let mut names = targets.1.origin().names;
    names.extend(targets.0.origin().names);
    let mut sides = (Side::of(&targets.0), Side::of(&targets.1));
    let mut same = true;
    while let Some(pair) = next(&mut sides, &mut report) {
        let equal = pair.left == pair.right;
        let seen = [&pair.left, &pair.right].into_iter().flatten().map(bytes).sum();
        report.entry(seen);
        if !equal {
            same = false;
            write(&pair, &names, common, out)?;
        }
    }
    Ok(report.exit(if same { Exit::Done } else { Exit::No }))
}

/// The least key of both sides with what stands there.
fn next((left, right): &mut (Side<'_>, Side<'_>), report: &mut Report<'_>) -> Option<Difference> {
    left.settle(report);
    right.settle(report);
    let order = match (left.key(), right.key()) {
        (None, None) => return None,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(left), Some(right)) => left.cmp(right),
    };
    Some(match order {
        Ordering::Less => Difference { left: left.take(), right: None },
        Ordering::Equal => Difference { left: left.take(), right: right.take() },
        Ordering::Greater => Difference { left: None, right: right.take() },
    })
}

impl<'a> Side<'a> {
    fn of(target: &'a Target) -> Self {
        Self { entries: target.entries().peekable() }
    }

    /// Goes on to the next live entry.
    fn settle(&mut self, report: &mut Report<'_>) {
        let is_live = |entry: &Entry| entry.value.is_some();
        while let Some(passed) = self.entries.next_if(|next| !next.as_ref().is_ok_and(is_live)) {
            if let Err(bad) = passed {
                report.block(&bad);
            }
        }
    }

    fn key(&mut self) -> Option<&[u8]> {
        self.entries.peek().and_then(|next| next.as_ref().ok()).map(|entry| &*entry.key)
    }

    fn take(&mut self) -> Option<Entry> {
        self.entries.next().and_then(Result::ok)
    }
}

fn write(
    Difference { left, right }: &Difference,
    names: &Names,
    common: &Common,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let Some(either) = left.as_ref().or(right.as_ref()) else { return Ok(()) };
    let (mark, side) = match (left, right) {
        (Some(_), None) => ('-', "a"),
        (None, _) => ('+', "b"),
        (Some(_), Some(_)) => ('~', "both"),
    };
    match common.format() {
        Format::Json => {
            let shown = |entry: &Entry| record(entry, names, Shown::Whole, |_| Object::bare());
            let object = Object::new("diff").field("in", side);
            let object = match left {
                Some(entry) => object.object("a", shown(entry)),
                None => object,
            };
            let object = match right {
                Some(entry) => object.object("b", shown(entry)),
                None => object,
            };
            writeln!(out, "{}", object.finish())
        }
        Format::Plain => writeln!(out, "{mark}\t{}", shown_key(&either.key)),
        Format::Human => writeln!(out, "{mark} {}", shown_key(&either.key)),
    }
}
