//! The input of an import: read and parsed on a thread of its own, handed over in batches.
//!
//! An exact import takes a whole stream or none: a file is read through before anything of it is handed over, and of a
//! pipe, which can be read once only, the frame is held against what was handed over already.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::thread;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::cli::failure::Failure;
use crate::cli::records::{
    Digest, Frame, FrameWanted, Line, Lines, Origin, Parsed, Record, RecordError, StoredLine,
    StoredRecord, parse, parse_stored,
};
use crate::node_id::NodeId;
use crate::version::Siblings;

use super::resume::Checkpoint;

/// Most lines of a batch; a slow input sends fewer, so that nothing waits for more to come.
const BATCH_LINES_MAX: usize = 256;
/// Batches read ahead.
const BATCHES_AHEAD: usize = 4;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// An opened input.
pub(crate) struct Source {
    /// What it holds; an error ends it.
    pub(crate) batches: Receiver<anyhow::Result<Batch>>,
    /// Its size, where it is a file.
    pub(crate) bytes_total: Option<u64>,
}

/// Some lines of the input.
pub(crate) struct Batch {
    /// Line number and what it holds; blanks, header and footer left out.
    pub(crate) items: Vec<(u64, Item)>,
    /// Where the batch ends.
    pub(crate) checkpoint: Checkpoint,
    /// Whether a header went without its footer, the input's end reached or another header met.
    pub(crate) cut: bool,
}

/// What a line holds.
pub(crate) enum Item {
    /// Something to be stored.
    Entry(Entry),
    /// Something else.
    Bad(Failure),
}

/// What is stored of a record.
pub(crate) enum Entry {
    /// Its values, by puts.
    Put(Record),
    /// Its whole state, by a merge.
    Merge(State),
}

/// A key's state, and what the nodes that wrote it are called.
pub(crate) struct State {
    /// The key.
    pub(crate) key: Bytes,
    /// Its state.
    pub(crate) siblings: Siblings,
    /// Names of the nodes in its clock.
    pub(crate) names: BTreeMap<NodeId, String>,
}

/// What is made of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Puts; generous.
    Puts,
    /// States, from a stream that is whole.
    States,
}

impl Entry {
    /// The key.
    pub(crate) const fn key(&self) -> &Bytes {
        match self {
            Self::Put(record) => &record.key,
            Self::Merge(state) => &state.key,
        }
    }
}

/// Opens `file` (stdin for none or `-`) and skips what `from` says is in already.
/// # Errors
/// Exit 66 for a missing file; 65 where the lines to skip are not those that were imported, and where states are to be read
/// from a file that is not whole.
pub(crate) fn open(
    file: Option<&OsStr>,
    reading: Reading,
    from: Option<Checkpoint>,
) -> anyhow::Result<Source> {
    let (input, bytes_total): (Box<dyn Read + Send>, _) = match file.filter(|file| *file != "-") {
        None => (Box::new(io::stdin()), None),
        Some(path) => {
            let opening = || format!("opening {}", path.display());
            let mut file = File::open(path).with_context(opening)?;
            let metadata = file.metadata().with_context(opening)?;
            if reading == Reading::States && metadata.is_file() {
                BatchReader::new(&file, reading).check_all()?;
                file.seek(SeekFrom::Start(0)).with_context(opening)?;
            }
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        }
    };
    let mut reader = BatchReader::new(input, reading);
    if let Some(from) = from {
        reader.skip(&from)?;
    }
    let (sender, batches) = channel(BATCHES_AHEAD);
    thread::Builder::new().name("import-read".to_owned()).spawn(move || reader.run(&sender))?;
    Ok(Source { batches, bytes_total })
}

struct BatchReader<R> {
    lines: Lines<R>,
    digest: Digest,
    bytes: u64,
    number: u64,
    /// Whether a header was read without its footer.
    open: bool,
    /// Of a stream that must be whole: what stands around its records.
    frame: Option<Frame>,
}

impl<R: Read> BatchReader<BufReader<R>> {
    fn new(input: R, reading: Reading) -> Self {
        let frame = match reading {
            Reading::Puts => None,
            Reading::States => Some(Frame::new(FrameWanted::Whole)),
        };
        Self {
            lines: Lines::new(BufReader::with_capacity(READ_BYTES, input)),
            digest: Digest::default(),
            bytes: 0,
            number: 0,
            open: false,
            frame,
        }
    }

    /// Reads all of a stream that must be whole, for what is wrong with it alone.
    fn check_all(mut self) -> anyhow::Result<()> {
        while !self.batch()?.1 {}
        Ok(())
    }

    fn skip(&mut self, from: &Checkpoint) -> anyhow::Result<()> {
        while self.number < from.lines
            && let Some(line) = self.lines.next_line().context("reading the input")?
        {
            self.count(&line);
            if self.frame.is_some() {
                self.state(&line)?;
            }
        }
        if self.number != from.lines || self.digest.hex() != from.sha1 {
            let message =
                format!("the input does not begin with the {} lines imported before", from.lines);
            return Err(Failure::bad_data(message).into());
        }
        self.open = from.open;
        Ok(())
    }

    fn run(mut self, sender: &Sender<anyhow::Result<Batch>>) {
        loop {
            let (batch, ended) = match self.batch() {
                Ok((batch, ended)) => (Ok(batch), ended),
                Err(error) => (Err(error), true),
            };
            // A receiver that is gone needs no more.
            if sender.blocking_send(batch).is_err() || ended {
                return;
            }
        }
    }

    fn batch(&mut self) -> anyhow::Result<(Batch, bool)> {
        let mut items = Vec::new();
        let (mut cut, mut ended) = (false, false);
        for _ in 0..BATCH_LINES_MAX {
            let Some(line) = self.lines.next_line().context("reading the input")? else {
                ended = true;
                cut |= self.open;
                self.end_frame()?;
                break;
            };
            self.count(&line);
            if self.frame.is_some() {
                let state = self.state(&line)?;
                items.extend(state.map(|state| (line.number, Item::Entry(Entry::Merge(state)))));
            } else {
                match line.bytes.as_deref().map_or(Err(RecordError::TooLong), parse) {
                    Ok(Parsed::Record(record)) => {
                        items.push((line.number, Item::Entry(Entry::Put(record))));
                    }
                    Ok(Parsed::Header) => cut |= std::mem::replace(&mut self.open, true),
                    Ok(Parsed::Footer) => self.open = false,
                    Ok(Parsed::Blank) => {}
                    Err(error) => {
                        let failure =
                            Failure::bad_data("malformed record").code("bad_record").because(error);
                        items.push((line.number, Item::Bad(failure)));
                    }
                }
            }
            if self.lines.input().buffer().is_empty() {
                break;
            }
        }
        let checkpoint = Checkpoint {
            lines: self.number,
            bytes: self.bytes,
            sha1: self.digest.hex(),
            open: self.open,
        };
        Ok((Batch { items, checkpoint, cut }, ended))
    }

    /// The state that a line of a stream that must be whole holds, if any.
    fn state(&mut self, line: &Line) -> Result<Option<State>, Failure> {
        let bad = |error: RecordError| {
            let message = format!("line {}", line.number);
            Failure::bad_data(message).code("bad_record").detail("line", line.number).because(error)
        };
        let bytes = line.bytes.as_deref().ok_or_else(|| bad(RecordError::TooLong))?;
        let parsed = parse_stored(bytes).map_err(bad)?;
        if let Some(frame) = &mut self.frame {
            frame.note(bytes, &parsed).map_err(|error| {
                let message = format!("line {}: {error}", line.number);
                Failure::bad_data(message).code("frame").detail("line", line.number)
            })?;
        }
        match parsed {
            StoredLine::Entry(record) => state_of(*record).map_err(bad),
            StoredLine::Header(_) | StoredLine::Footer(..) | StoredLine::Blank => Ok(None),
        }
    }

    fn end_frame(&self) -> Result<(), Failure> {
        let ended = self.frame.as_ref().map_or(Ok(()), Frame::end);
        ended.map_err(|error| Failure::bad_data(error.to_string()).code("cut"))
    }

    fn count(&mut self, line: &Line) {
        let bytes = line.bytes.as_deref().unwrap_or_default();
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.number = line.number;
    }
}

/// The state that a record holds: a key's, or one held for another node. A node's own notes are nobody else's, and what a
/// store holds as removed is not there.
fn state_of(record: StoredRecord) -> Result<Option<State>, RecordError> {
    let StoredRecord { origin, key, value, names, names_puts } = record;
    match (origin, value) {
        (Origin::Meta | Origin::Unknown, _) | (_, None) => Ok(None),
        // Under its dot a version would stand beside itself, as two writes.
        (Origin::Data | Origin::Hint(_), Some(_)) if !names_puts => {
            Err(RecordError::Missing("req"))
        }
        (Origin::Data | Origin::Hint(_), Some(value)) => {
            let state = Siblings::decode(&value);
            let state = state.map_err(|error| RecordError::State(error.to_string()))?;
            Ok((!state.versions().is_empty()).then_some(State { key, siblings: state, names }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &'static str) -> (Vec<(u64, bool)>, Checkpoint, bool) {
        let mut reader = BatchReader::new(input.as_bytes(), Reading::Puts);
        let (mut items, mut cut) = (Vec::new(), false);
        loop {
            let (batch, ended) = reader.batch().unwrap();
            cut |= batch.cut;
            let good = |item: Item| matches!(item, Item::Entry(_));
            items.extend(batch.items.into_iter().map(|(line, item)| (line, good(item))));
            if ended {
                return (items, batch.checkpoint, cut);
            }
        }
    }

    #[test]
    fn records_and_bad_lines_keep_their_numbers() {
        let (items, checkpoint, cut) =
            read("{\"key\":1,\"value\":1}\n\n{]\n{\"key\":\"b\",\"value\":\"\"}");
        assert_eq!(items, [(1, true), (3, false), (4, true)]);
        assert_eq!((checkpoint.lines, checkpoint.bytes, cut), (4, 46, false));
    }

    #[test]
    fn a_header_without_its_footer_is_a_cut() {
        const HEADER: &str = "{\"type\":\"header\"}\n";
        assert!(read(HEADER).2);
        assert!(read("{\"type\":\"header\"}\n{\"type\":\"header\"}\n{\"type\":\"footer\"}\n").2);
        assert!(!read("{\"type\":\"header\"}\n{\"type\":\"footer\"}\n{\"key\":1,\"value\":1}\n").2);
        assert!(!read("").2);
    }
}
