//! `get` and `mget`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream;

use crate::cli::connect::{Session, name};
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, as_json, as_text, exit_of};
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::client::GetOptions;
use crate::replication::Level;
use crate::version::Content;
use crate::wire::client::Got;

use super::choice::{Choice, OnSiblings, choose};
use super::explain::explained;
use super::quorum::{CountFlags, check_level, parse_level};
use super::require::{Deed, Requirement};
use super::siblings::{self, CHARACTERS_SHOWN};
use crate::cli::keys::KeyCoding;

/// Requests of an `mget` in flight.
const IN_FLIGHT: usize = 64;

/// Flags of every read.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ReadFlags {
    /// How many owners must answer [default: the layout's R]
    #[arg(short = 'r', long = "read", value_name = "N|one|quorum|all", value_parser = parse_level)]
    r: Option<Level>,
    #[command(flatten)]
    count: CountFlags,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct GetArgs {
    /// The key
    #[arg(allow_hyphen_values = false)]
    key: OsString,
    #[command(flatten)]
    read: ReadFlags,
    #[command(flatten)]
    requirement: Requirement,
    #[command(flatten)]
    coding: KeyCoding,
    /// What to do with concurrent versions
    #[arg(long, value_enum, value_name = "CHOICE", default_value_t)]
    siblings: OnSiblings,
    /// Write the context of what was read to this file, for put --context @FILE
    #[arg(long, value_name = "FILE")]
    context_out: Option<PathBuf>,
    /// Say on stderr who answered, what is stale, and what the answer promises
    #[arg(long)]
    explain: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct MgetArgs {
    /// The keys; without any, or with `-`, one a line from stdin
    keys: Vec<OsString>,
    /// Keys on stdin end with a zero byte instead of a line feed
    #[arg(short = '0', long)]
    null: bool,
    #[command(flatten)]
    read: ReadFlags,
    #[command(flatten)]
    requirement: Requirement,
    #[command(flatten)]
    coding: KeyCoding,
    /// What to do with concurrent versions
    #[arg(long, value_enum, value_name = "CHOICE", default_value_t)]
    siblings: OnSiblings,
}

impl ReadFlags {
    /// As the client wants it, checked against the layout.
    pub(crate) fn options(self, session: &Session) -> Result<GetOptions, Failure> {
        check_level("r", self.r, &session.cluster().layout.now)?;
        Ok(GetOptions { r: self.r, consistency: self.count.consistency() })
    }
}

/// `get`: the value's exact bytes.
pub(crate) async fn get(
    args: &GetArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let key = args.coding.decode(&args.key)?;
    session.check_pair(&key, 0)?;
    let options = args.read.options(session)?;
    let got =
        session.client().get(key.clone(), options).await.map_err(|error| session.failure(error))?;
    if let Some(path) = &args.context_out {
        fs::write(path, siblings::token(&key, &got, session) + "\n")
            .map_err(|error| Failure::not_written(&path.display().to_string(), error))?;
    }
    if args.explain {
        io::stderr().lock().write_all(explained(&key, &got, session).as_bytes())?;
    }
    args.requirement.check(got.guarantee, Deed::Read)?;
    let choice = choose(&got.state, args.siblings);
    match (common.format(), choice) {
        (_, Choice::Absent) => {
            let failure = absent(&key, &got, session);
            if common.json || !common.quiet {
                tell(&failure.into(), common)?;
            }
            Ok(Exit::No)
        }
        (_, Choice::Undecided) => Err(siblings::undecided(&key, &got, session).into()),
        (Format::Json, _) => {
            writeln!(out, "{}", answer(&key, &got, args.siblings, session).finish())?;
            Ok(Exit::Done)
        }
        (Format::Human | Format::Plain, Choice::One(value)) => {
            out.write_all(value)?;
            Ok(Exit::Done)
        }
        (Format::Human, Choice::All) => {
            for line in siblings::lines(&got.state, session) {
                writeln!(out, "{line}")?;
            }
            Ok(Exit::Done)
        }
        (Format::Plain, Choice::All) => {
            siblings::write_plain(&got.state, session, out)?;
            Ok(Exit::Done)
        }
    }
}

/// `mget`: a line a key, in the order asked.
pub(crate) async fn mget(
    args: &MgetArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let keys = args.coding.keys(&args.keys, args.null, io::stdin().lock())?;
    let options = args.read.options(session)?;
    let mut answers = stream::iter(keys)
        .map(|key| async move {
            let result = session.client().get(key.clone(), options).await;
            let result = result.map_err(|error| session.failure(error)).and_then(|got| {
                args.requirement.check(got.guarantee, Deed::Read)?;
                Ok(got)
            });
            (key, result)
        })
        .buffered(IN_FLIGHT);
    let mut tally = Tally::default();
    while let Some((key, result)) = answers.next().await {
        let error = match result {
            Err(failure) => {
                tally.failed = true;
                anyhow::Error::new(failure).context(human::bytes(&key, CHARACTERS_SHOWN))
            }
            Ok(got) => match (choose(&got.state, args.siblings), common.format()) {
                (Choice::Absent, _) => {
                    tally.absent = true;
                    if common.quiet && !common.json {
                        continue;
                    }
                    absent(&key, &got, session).into()
                }
                (Choice::Undecided, _) => {
                    tally.undecided = true;
                    siblings::undecided(&key, &got, session).into()
                }
                (_, Format::Json) => {
                    let object = answer(&key, &got, args.siblings, session);
                    writeln!(out, "{}", object.finish())?;
                    continue;
                }
                (Choice::One(value), Format::Human | Format::Plain) => {
                    let key = human::bytes(&key, usize::MAX);
                    writeln!(out, "{key}\t{}", human::bytes(value, usize::MAX))?;
                    continue;
                }
                (Choice::All, Format::Human | Format::Plain) => {
                    for (_, version) in siblings::listed(&got.state) {
                        if let Content::Value(value) = &version.content {
                            let key = human::bytes(&key, usize::MAX);
                            writeln!(out, "{key}\t{}", human::bytes(value, usize::MAX))?;
                        }
                    }
                    continue;
                }
            },
        };
        out.flush()?;
        tell(&error, common)?;
    }
    Ok(tally.exit())
}

/// What went otherwise in a batch of reads.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    absent: bool,
    undecided: bool,
    failed: bool,
}

impl Tally {
    const fn exit(self) -> Exit {
        match self {
            Self { failed: true, .. } => Exit::Partial,
            Self { undecided: true, .. } => Exit::Siblings,
            Self { absent: true, .. } => Exit::No,
            Self { absent: false, undecided: false, failed: false } => Exit::Done,
        }
    }
}

/// Tells stderr of one failure of several.
pub(crate) fn tell(error: &anyhow::Error, common: &Common) -> io::Result<()> {
    let text = if common.json { as_json(error) + "\n" } else { as_text("kvctl", error) };
    debug_assert_ne!(exit_of(error), Exit::Done, "a failure is no success");
    io::stderr().lock().write_all(text.as_bytes())
}

pub(super) fn absent(key: &Bytes, got: &Got, session: &Session) -> Failure {
    let shown = human::bytes(key, CHARACTERS_SHOWN);
    let message =
        format!("{shown}: not found (so say {} of {} replicas)", got.absent, got.answered.len());
    let mut failure = Failure::new(Exit::No, message)
        .code("not_found")
        .detail("key", String::from_utf8_lossy(key));
    if !got.state.is_empty() {
        // A delete's context: a put can replace exactly what this read saw.
        failure = failure.detail("ctx", siblings::token(key, got, session));
    }
    failure.raw_detail("replicas", replicas(got, session).finish())
}

/// The answer as programs read it.
fn answer(key: &Bytes, got: &Got, on_siblings: OnSiblings, session: &Session) -> Object {
    let names = session.names();
    let object = Object::new("kv").bytes("key", key);
    let object = match choose(&got.state, on_siblings) {
        Choice::One(value) => object.bytes("value", value),
        Choice::All | Choice::Absent | Choice::Undecided => {
            object.list("siblings", siblings::objects(&got.state, session))
        }
    };
    let newest = got.state.versions().values().map(|version| version.timestamp).max();
    let clock = got
        .state
        .clock()
        .named(&names)
        .into_iter()
        .fold(Object::bare(), |object, (actor, counter)| object.field(&actor, counter));
    object
        .field("ctx", siblings::token(key, got, session))
        .object("clock", clock)
        .maybe("ts", newest.map(|ts| human::rfc3339(ts.unix_micros())))
        .object("replicas", replicas(got, session))
        .field("guarantee", got.guarantee)
}

fn replicas(got: &Got, session: &Session) -> Object {
    let names = session.names();
    let list = |nodes: &[crate::node_id::NodeId]| -> Vec<String> {
        nodes.iter().map(|node| name(*node, &names)).collect()
    };
    Object::bare()
        .field("answered", list(&got.answered))
        .field("needed", got.needed)
        .field("stale", list(&got.stale))
        .list(
            "stand_ins",
            got.stand_ins.iter().map(|(owner, by)| {
                Object::bare().field("owner", name(*owner, &names)).field("by", name(*by, &names))
            }),
        )
}
