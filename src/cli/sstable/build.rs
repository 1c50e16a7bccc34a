//! `build`: SSTables of records.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::cli::records::{Frame, FrameWanted, Lines, RecordError, StoredLine, parse_stored};
use crate::storage::offline::TableBuilder;

use super::compact::{builder, described, names};
use super::entry::storage_key;
use super::report::{ProgressArgs, Report, of_offline};
use super::target::{HEADER_FILE, Output, tell_written};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// Bytes of entries that are sorted in memory; an input that is not sorted must not be larger.
const UNSORTED_BYTES_MAX: usize = 128 << 20;
/// About what an entry takes in memory beside its key and value.
const ENTRY_OVERHEAD_BYTES: usize = 100;

#[derive(Args, Clone, Debug)]
pub(super) struct BuildArgs {
    /// Records as `kvsstable dump` or `kvctl export` writes them; none or - is stdin
    file: Option<PathBuf>,
    /// Write the SSTables into this directory
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Read and check every record, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// Takes entries and writes them in order.
struct Sorter {
    /// `None` writes nothing.
    builder: Option<TableBuilder>,
    /// The last key that was written.
    last: Option<Bytes>,
    /// Entries not yet written: all, once one came out of order.
    waiting: BTreeMap<Bytes, (u64, Option<Bytes>)>,
    waiting_bytes: usize,
}

/// `build`: the whole input or nothing.
pub(super) fn build(
    args: &BuildArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let (input, total) = open(args)?;
    let output = Output::unless(args.dry_run, &args.output)?;
    if let Some(output) = &output {
        output.free(HEADER_FILE)?;
    }
    let mut report = Report::begin(args.progress, common, "built", total);
    let builder = output.as_ref().map(builder).transpose()?;
    let mut sorter = Sorter::new(builder);
    let mut frame = Frame::new(FrameWanted::AsFar);
    let mut lines = Lines::new(input);
    let mut entries = 0_u64;
    while let Some(line) = lines.next_line().context("reading the records")? {
        let bad = |error: RecordError| {
            Failure::bad_data(format!("line {}", line.number))
                .code("bad_record")
                .detail("line", line.number)
                .because(error)
        };
        let bytes = line.bytes.as_deref().ok_or_else(|| bad(RecordError::TooLong))?;
        let parsed = parse_stored(bytes).map_err(bad)?;
        report.entry(bytes.len());
        frame.note(bytes, &parsed).map_err(|error| {
            Failure::bad_data(format!("line {}: {error}", line.number)).detail("line", line.number)
        })?;
        if let StoredLine::Entry(record) = parsed {
            entries += 1;
            sorter.add(storage_key(&record), record.value, line.number)?;
        }
    }
    frame.end().map_err(|error| Failure::bad_data(error.to_string()).code("cut"))?;
    let written = sorter.finish()?;
    if let (Some(output), Some(header)) = (&output, frame.header()) {
        let path = output.dir.join(HEADER_FILE);
        std::fs::write(&path, header).with_context(|| format!("writing {}", path.display()))?;
    }
    let object = Object::new(if args.dry_run { "dry_run" } else { "built" })
        .list("files", written.iter().map(described))
        .field("entries", entries);
    let verb = if args.dry_run { "would write" } else { "wrote" };
    let text = format!("{verb} {entries} entries to {}", names(&written, &args.output));
    let exit = report.exit(Exit::Done);
    tell_written(object, &text, common, out)?;
    Ok(exit)
}

fn open(args: &BuildArgs) -> anyhow::Result<(Box<dyn BufRead>, Option<u64>)> {
    let path = match &args.file {
        Some(path) if path.as_os_str() != "-" => path,
        Some(_) | None => {
            return Ok((Box::new(BufReader::with_capacity(READ_BYTES, io::stdin())), None));
        }
    };
    let opening = || format!("opening {}", path.display());
    let file = File::open(path).with_context(opening)?;
    let metadata = file.metadata().with_context(opening)?;
    let total = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::with_capacity(READ_BYTES, file)), total))
}

impl Sorter {
    const fn new(builder: Option<TableBuilder>) -> Self {
        Self { builder, last: None, waiting: BTreeMap::new(), waiting_bytes: 0 }
    }

    /// Keeps an entry until it is known that none comes before it.
    fn add(&mut self, key: Bytes, value: Option<Bytes>, line: u64) -> anyhow::Result<()> {
        self.waiting_bytes +=
            key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES;
        if let Some((first, _)) = self.waiting.get(&key) {
            let message = format!("line {line}: the key stands in line {first} already");
            return Err(Failure::bad_data(message).into());
        }
        if self.last.as_ref().is_some_and(|last| key <= *last) {
            let message = format!(
                "line {line}: the key sorts before one that was written already; \
                an input of more than {} must be sorted as dump and export sort it",
                crate::cli::human::size(UNSORTED_BYTES_MAX as u64)
            );
            return Err(Failure::bad_data(message).into());
        }
        self.waiting.insert(key, (line, value));
        if self.waiting_bytes < UNSORTED_BYTES_MAX { Ok(()) } else { self.write_half() }
    }

    /// Writes the lower half of what waits: a sorted input goes on behind it.
    fn write_half(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.waiting.len() / 2 {
            let Some((key, (_, value))) = self.waiting.pop_first() else { break };
            self.waiting_bytes -=
                key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES;
            self.write(key, value.as_deref())?;
        }
        Ok(())
    }

    fn write(&mut self, key: Bytes, value: Option<&[u8]>) -> anyhow::Result<()> {
        if let Some(builder) = &mut self.builder {
            builder.add(&key, value).map_err(of_offline)?;
        }
        self.last = Some(key);
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Vec<crate::storage::offline::WrittenTable>> {
        while let Some((key, (_, value))) = self.waiting.pop_first() {
            self.write(key, value.as_deref())?;
        }
        match self.builder {
            None => Ok(Vec::new()),
            Some(builder) => builder.finish().map_err(of_offline),
        }
    }
}
