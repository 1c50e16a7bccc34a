//! What a command tells on its way: progress, and the damage that it passed over. One place for both, so that a bar and
//! a message do not disturb each other and no damage is forgotten in the exit code.

use anyhow::anyhow;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, as_json, as_text};
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::cli::progress::{Progress, ProgressForm};
use crate::storage::KeyRange;
use crate::storage::offline::{
    BadBlock, BadEdit, BadRecord, BlockKind, DirectoryView, Lost, OfflineError,
};

use super::entry::{key_object, shown_key};

/// Entries between two looks at the clock.
const TICK_ENTRIES: u64 = 512;

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct ProgressArgs {
    /// How to show progress
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    progress: ProgressForm,
}

impl ProgressArgs {
    /// For commands that are over at once.
    pub(super) const NONE: Self = Self { progress: ProgressForm::None };
}

/// Tells, and remembers that something was bad.
pub(super) struct Report<'a> {
    common: &'a Common,
    progress: Progress,
    /// Bad places so far.
    pub(super) found: u64,
    entries: u64,
}

impl<'a> Report<'a> {
    /// Begins; `verb` says what is being done with records, `total` how many bytes there are.
    pub(super) fn begin(
        args: ProgressArgs,
        common: &'a Common,
        verb: &'static str,
        total: Option<u64>,
    ) -> Self {
        let progress = Progress::begin(args.progress, common, verb, total);
        Self { common, progress, found: 0, entries: 0 }
    }

    /// For commands that are over at once.
    pub(super) fn silent(common: &'a Common) -> Self {
        Self::begin(ProgressArgs::NONE, common, "read", None)
    }

    /// That many more bytes are to come.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.progress.expect(bytes);
    }

    /// One more entry, of so many bytes.
    pub(super) fn entry(&mut self, bytes: usize) {
        self.entries += 1;
        self.progress.records += 1;
        self.progress.bytes += bytes as u64;
        if self.entries.is_multiple_of(TICK_ENTRIES) {
            self.progress.tick();
        }
    }

    /// A block that cannot be read, or a table that was set aside.
    pub(super) fn block(&mut self, bad: &BadBlock) {
        let (file, offset, error) = (bad.file.display(), bad.handle.offset, &bad.error);
        let mut message = match bad.kind {
            BlockKind::Table => format!("{file}: {error}"),
            BlockKind::Data
            | BlockKind::Filter
            | BlockKind::Index
            | BlockKind::Properties
            | BlockKind::Footer => format!("{file}: block at byte {offset}: {error}"),
        };
        message.push_str("; ");
        message.push_str(kind_name(bad.kind));
        if let Some(number) = bad.number {
            message.extend([" block ", &number.to_string()]);
        }
        if let Some(keys) = &bad.keys {
            message.extend([", ", &shown_range(keys)]);
        }
        let failure = self
            .failure(message)
            .detail("file", file.to_string())
            .detail("kind", kind_name(bad.kind))
            .detail("block", bad.number)
            .detail("offset", offset)
            .detail("bytes", bad.handle.length);
        self.tell(&with_keys(failure, bad.keys.as_deref()).into());
    }

    /// A place in a log without a sound record.
    pub(super) fn record(&mut self, file: &std::path::Path, bad: &BadRecord) {
        let message =
            format!("{}: bad record at byte {}: {}", file.display(), bad.offset, bad.reason);
        let failure = self
            .failure(message)
            .detail("file", file.display().to_string())
            .detail("offset", bad.offset)
            .detail("position", bad.position.get());
        self.tell(&failure.into());
    }

    /// A place in a manifest without a sound edit.
    pub(super) fn edit(&mut self, file: &std::path::Path, bad: &BadEdit) {
        let message =
            format!("{}: bad edit at byte {}: {}", file.display(), bad.offset, bad.reason);
        let failure = self.failure(message).detail("file", file.display().to_string());
        self.tell(&failure.detail("offset", bad.offset).into());
    }

    /// What a salvage could not save.
    pub(super) fn lost(&mut self, file: &std::path::Path, lost: &Lost) {
        let (name, offset, bytes) = (file.display(), lost.offset, lost.bytes);
        let mut message = format!("{name}: lost {bytes} bytes from byte {offset}: {}", lost.reason);
        if let Some(keys) = &lost.keys {
            message.extend(["; ", &shown_range(keys)]);
        }
        let failure = self
            .failure(message)
            .code("lost")
            .detail("file", name.to_string())
            .detail("offset", offset)
            .detail("bytes", bytes);
        self.tell(&with_keys(failure, lost.keys.as_ref()).into());
    }

    /// What the log of a directory lacks.
    pub(super) fn log_of(&mut self, view: &DirectoryView) {
        for (file, bad) in view.damaged_records() {
            self.record(file, bad);
        }
    }

    /// A whole file or directory that cannot be read.
    pub(super) fn error(&mut self, error: &anyhow::Error) {
        self.found += 1;
        self.tell(error);
    }

    /// `otherwise`, or exit 65 where something was bad.
    pub(super) fn exit(&self, otherwise: Exit) -> Exit {
        self.progress.clear();
        if self.found == 0 { otherwise } else { Exit::BadData }
    }

    fn failure(&mut self, message: String) -> Failure {
        self.found += 1;
        Failure::bad_data(message).code("damaged")
    }

    fn tell(&self, error: &anyhow::Error) {
        let text =
            if self.common.json { as_json(error) + "\n" } else { as_text("kvsstable", error) };
        self.progress.say(&text);
    }
}

/// An error of the offline readers with its exit code: damage is 65, no store 66, the system's errors keep theirs.
pub(super) fn of_offline(error: OfflineError) -> anyhow::Error {
    match error {
        OfflineError::BadBlock(bad) => {
            let message = format!("{bad}: {}", bad.error);
            Failure::bad_data(message).code("damaged").into()
        }
        error @ OfflineError::Malformed { .. } => {
            Failure::bad_data(error.to_string()).code("damaged").into()
        }
        error @ OfflineError::NoStore { .. } => {
            Failure::new(Exit::NoInput, error.to_string()).into()
        }
        error @ OfflineError::Order { .. } => Failure::bad_data(error.to_string()).into(),
        OfflineError::Io { file, source } => {
            anyhow!(source).context(format!("reading {}", file.display()))
        }
        OfflineError::Write { file, source } => {
            anyhow!(source).context(format!("writing {}", file.display()))
        }
    }
}

const fn kind_name(kind: BlockKind) -> &'static str {
    match kind {
        BlockKind::Data => "data",
        BlockKind::Filter => "filter",
        BlockKind::Index => "index",
        BlockKind::Properties => "properties",
        BlockKind::Footer => "footer",
        BlockKind::Table => "table",
    }
}

fn shown_range(keys: &KeyRange) -> String {
    format!("keys {} to {}", shown_key(&keys.first), shown_key(&keys.last))
}

fn with_keys(failure: Failure, keys: Option<&KeyRange>) -> Failure {
    let Some(keys) = keys else { return failure };
    failure
        .raw_detail("first", key_object(&keys.first).finish())
        .raw_detail("last", key_object(&keys.last).finish())
}

/// A key of a range for a person, at most this long.
pub(super) fn short_key(key: &[u8]) -> String {
    human::bytes(key, 40)
}

/// An object that names a file.
pub(super) fn of_file(kind: &str, file: &std::path::Path) -> Object {
    Object::new(kind).field("file", file.display().to_string())
}
