//! The input of an import: read and parsed on a thread of its own, handed over in batches.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::thread;

use anyhow::Context as _;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::cli::failure::Failure;
use crate::cli::records::{Digest, Line, Lines, Parsed, Record, RecordError, parse};

use super::resume::Checkpoint;

/// Most lines of a batch; a slow input sends fewer, so that nothing waits for more to come.
const BATCH_LINES_MAX: usize = 256;
/// Batches read ahead.
const BATCHES_AHEAD: usize = 4;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// An opened input.
pub(crate) struct Source {
    /// What it holds; an I/O error ends it.
    pub(crate) batches: Receiver<io::Result<Batch>>,
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
    /// A record.
    Record(Record),
    /// Something else.
    Bad(Failure),
}

/// Opens `file` (stdin for none or `-`) and skips what `from` says is in already.
/// # Errors
/// Exit 66 for a missing file; 65 where the lines to skip are not those that were imported.
pub(crate) fn open(file: Option<&OsStr>, from: Option<Checkpoint>) -> anyhow::Result<Source> {
    let (input, bytes_total): (Box<dyn Read + Send>, _) = match file.filter(|file| *file != "-") {
        None => (Box::new(io::stdin()), None),
        Some(path) => {
            let open = || -> io::Result<_> {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                Ok((file, metadata))
            };
            let (file, metadata) = open().with_context(|| format!("opening {}", path.display()))?;
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        }
    };
    let mut reader = BatchReader {
        lines: Lines::new(BufReader::with_capacity(READ_BYTES, input)),
        digest: Digest::default(),
        bytes: 0,
        number: 0,
        open: false,
    };
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
}

impl<R: Read> BatchReader<BufReader<R>> {
    fn skip(&mut self, from: &Checkpoint) -> anyhow::Result<()> {
        while self.number < from.lines
            && let Some(line) = self.lines.next_line().context("reading the input")?
        {
            self.count(&line);
        }
        if self.number != from.lines || self.digest.hex() != from.sha1 {
            let message =
                format!("the input does not begin with the {} lines imported before", from.lines);
            return Err(Failure::bad_data(message).into());
        }
        self.open = from.open;
        Ok(())
    }

    fn run(mut self, sender: &Sender<io::Result<Batch>>) {
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

    fn batch(&mut self) -> io::Result<(Batch, bool)> {
        let mut items = Vec::new();
        let (mut cut, mut ended) = (false, false);
        for _ in 0..BATCH_LINES_MAX {
            let Some(line) = self.lines.next_line()? else {
                ended = true;
                cut |= self.open;
                break;
            };
            self.count(&line);
            match line.bytes.as_deref().map_or(Err(RecordError::TooLong), parse) {
                Ok(Parsed::Record(record)) => items.push((line.number, Item::Record(record))),
                Ok(Parsed::Header) => cut |= std::mem::replace(&mut self.open, true),
                Ok(Parsed::Footer) => self.open = false,
                Ok(Parsed::Blank) => {}
                Err(error) => {
                    let failure =
                        Failure::bad_data("malformed record").code("bad_record").because(error);
                    items.push((line.number, Item::Bad(failure)));
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

    fn count(&mut self, line: &Line) {
        let bytes = line.bytes.as_deref().unwrap_or_default();
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.number = line.number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &'static str) -> (Vec<(u64, bool)>, Checkpoint, bool) {
        let mut reader = BatchReader {
            lines: Lines::new(BufReader::new(input.as_bytes())),
            digest: Digest::default(),
            bytes: 0,
            number: 0,
            open: false,
        };
        let (mut items, mut cut) = (Vec::new(), false);
        loop {
            let (batch, ended) = reader.batch().unwrap();
            cut |= batch.cut;
            let good = |item: Item| matches!(item, Item::Record(_));
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
