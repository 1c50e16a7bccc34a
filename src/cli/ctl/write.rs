//! `put` and `delete`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;

use crate::cli::connect::{Session, name};
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, exit_of};
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::client::PutOptions;
use crate::replication::Level;
use crate::ring::Token;
use crate::version::{Context, ContextError, dot_name};
use crate::wire::client::{Done, PutBasis};

use super::quorum::{CountFlags, check_level, parse_level};
use super::read::tell;
use super::require::{Deed, Requirement};
use super::siblings::CHARACTERS_SHOWN;
use crate::cli::keys::KeyCoding;

/// Flags of every write.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WriteFlags {
    /// Durable acknowledgements to wait for [default: the layout's W]
    #[arg(short = 'w', long = "write", value_name = "N|one|quorum|all", value_parser = parse_level)]
    w: Option<Level>,
    #[command(flatten)]
    count: CountFlags,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PutArgs {
    /// The key
    key: OsString,
    /// The value; `@FILE` reads a file, `-` or nothing reads stdin
    #[arg(allow_hyphen_values = true, value_name = "VALUE|-|@FILE")]
    value: Option<OsString>,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    requirement: Requirement,
    #[command(flatten)]
    coding: KeyCoding,
    /// Replace exactly what the read saw that gave this context; what was written since stays a sibling
    #[arg(long, value_name = "TOKEN|@FILE", conflicts_with_all = ["blind", "if_context"])]
    context: Option<OsString>,
    /// Replace nothing: the value becomes a sibling of whatever is there
    #[arg(long, conflicts_with = "if_context")]
    blind: bool,
    /// As --context, but exit 3 and write nothing when something newer is there
    #[arg(long, value_name = "TOKEN|@FILE")]
    if_context: Option<OsString>,
    /// Say what would be written and where, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DeleteArgs {
    /// The keys
    #[arg(required = true)]
    keys: Vec<OsString>,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    requirement: Requirement,
    #[command(flatten)]
    coding: KeyCoding,
    /// Say what would be deleted and where, and delete nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl WriteFlags {
    /// As the client wants it, checked against the layout.
    pub(crate) fn options(self, session: &Session) -> Result<PutOptions, Failure> {
        check_level("w", self.w, &session.cluster().layout.now)?;
        Ok(PutOptions { w: self.w, consistency: self.count.consistency() })
    }
}

/// `put`: prints nothing unless asked for JSON.
pub(crate) async fn put(
    args: &PutArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let key = args.coding.decode(&args.key)?;
    let options = args.write.options(session)?;
    let basis = basis_of(args, &key)?;
    let value = value_of(args.value.as_deref(), session.cluster().pair_max)?;
    session.check_pair(&key, value.len())?;
    if args.dry_run {
        return planned("put", &key, Some(&value), options, session, common, out);
    }
    let done = session
        .client()
        .put(key.clone(), Some(value), basis, options)
        .await
        .map_err(|error| session.failure(error))?;
    if common.json {
        writeln!(out, "{}", reply("put", &key, &done, session).finish())?;
    }
    warn_of_siblings(&key, &done, common)?;
    args.requirement.check(done.guarantee, Deed::Written)?;
    Ok(Exit::Done)
}

/// `delete`: one tombstone a key, whether the key was there or not.
pub(crate) async fn delete(
    args: &DeleteArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let options = args.write.options(session)?;
    let keys: Vec<Bytes> =
        args.keys.iter().map(|key| args.coding.decode(key)).collect::<Result<_, _>>()?;
    let mut exit = Exit::Done;
    for key in &keys {
        match delete_one(key, args, options, session, common, out).await {
            Ok(()) => {}
            Err(error) if keys.len() == 1 => return Err(error),
            Err(error) if exit_of(&error) == Exit::Unavailable => return Err(error),
            Err(error) => {
                tell(&error.context(human::bytes(key, CHARACTERS_SHOWN)), common)?;
                exit = Exit::Partial;
            }
        }
    }
    Ok(exit)
}

async fn delete_one(
    key: &Bytes,
    args: &DeleteArgs,
    options: PutOptions,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    session.check_pair(key, 0)?;
    if args.dry_run {
        planned("delete", key, None, options, session, common, out)?;
        return Ok(());
    }
    let done = session
        .client()
        .put(key.clone(), None, PutBasis::Present, options)
        .await
        .map_err(|error| session.failure(error))?;
    if common.json {
        writeln!(out, "{}", reply("delete", key, &done, session).finish())?;
    }
    warn_of_siblings(key, &done, common)?;
    Ok(args.requirement.check(done.guarantee, Deed::Written)?)
}

/// The text of a flag that takes a token or `@FILE`.
pub(crate) fn token_text(word: &OsStr) -> anyhow::Result<String> {
    let text = match word.as_bytes().strip_prefix(b"@") {
        None => word.to_string_lossy().into_owned(),
        Some(path) => {
            let path = OsStr::from_bytes(path);
            fs::read_to_string(path)
                .with_context(|| format!("reading the context in {}", path.display()))?
        }
    };
    Ok(text.trim().to_owned())
}

/// A context error as a failure: exit 65, with the reason.
pub(crate) fn context_failure(error: &ContextError) -> Failure {
    Failure::bad_data(error.to_string()).code("bad_context")
}

fn basis_of(args: &PutArgs, key: &[u8]) -> anyhow::Result<PutBasis> {
    let clock = |word: &OsString| -> anyhow::Result<_> {
        let context =
            Context::decode(&token_text(word)?).map_err(|error| context_failure(&error))?;
        Ok(context.for_key(key).map_err(|error| context_failure(&error))?.clone())
    };
    match (&args.context, &args.if_context, args.blind) {
        (Some(word), _, _) => clock(word).map(PutBasis::Context),
        (None, Some(word), _) => clock(word).map(PutBasis::IfContext),
        (None, None, true) => Ok(PutBasis::Blind),
        (None, None, false) => Ok(PutBasis::Present),
    }
}

/// The value's bytes. Of a file or a pipe at most one byte more than a pair may have is read.
fn value_of(word: Option<&OsStr>, pair_max: u32) -> anyhow::Result<Bytes> {
    let bytes_max = u64::from(pair_max) + 1;
    let mut value = Vec::new();
    match word.map(OsStr::as_bytes) {
        None | Some(b"-") => {
            let stdin = io::stdin().lock();
            if word.is_none() && stdin.is_terminal() {
                return Err(Failure::usage("no value: give one, or @FILE, or - for stdin").into());
            }
            stdin
                .take(bytes_max)
                .read_to_end(&mut value)
                .context("reading the value from stdin")?;
        }
        Some([b'@', path @ ..]) => {
            let path = OsStr::from_bytes(path);
            fs::File::open(path)
                .and_then(|file| file.take(bytes_max).read_to_end(&mut value))
                .with_context(|| format!("reading the value from {}", path.display()))?;
        }
        Some(bytes) => value.extend_from_slice(bytes),
    }
    Ok(Bytes::from(value))
}

fn planned(
    verb: &str,
    key: &Bytes,
    value: Option<&Bytes>,
    options: PutOptions,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    writeln!(out, "{}", planned_text(verb, key, value, options, session, common))?;
    Ok(Exit::Done)
}

/// A write that is not done, as a line for people or, with its value, for programs.
pub(super) fn planned_text(
    verb: &str,
    key: &Bytes,
    value: Option<&Bytes>,
    options: PutOptions,
    session: &Session,
    common: &Common,
) -> String {
    let (cluster, names) = (session.cluster(), session.names());
    let token = Token::of(key);
    let ring = &cluster.layout.now;
    let owners: Vec<String> = cluster
        .preferences
        .of_slot(token.slot())
        .owners()
        .map(|owner| name(owner, &names))
        .collect();
    let level = options.w.and_then(|level| level.resolve(ring.effective_n()));
    let w = level.unwrap_or_else(|| ring.effective_w());
    if common.json {
        let object = Object::new("dry_run").field("op", verb).bytes("key", key);
        let object = match value {
            Some(value) => object.bytes("value", value).field("value_bytes", value.len()),
            None => object,
        };
        return object.field("owners", owners).field("w", w).finish();
    }
    let size = value.map(|value| format!(" ({} B)", value.len())).unwrap_or_default();
    let shown = human::bytes(key, CHARACTERS_SHOWN);
    format!("would {verb} {shown}{size} at {} with W={w}", owners.join(", "))
}

pub(super) fn reply(verb: &str, key: &Bytes, done: &Done, session: &Session) -> Object {
    let names = session.names();
    let acked: Vec<String> = done.acked.iter().map(|node| name(*node, &names)).collect();
    let token = Context::new(key, done.clock.clone(), names.clone()).encode();
    Object::new("done")
        .field("op", verb)
        .bytes("key", key)
        .maybe("dot", done.dot.map(|dot| dot_name(&name(dot.actor.node, &names), dot)))
        .field("ctx", token)
        .field("siblings", done.siblings)
        .object(
            "replicas",
            Object::bare().field("acked", acked).field("needed", done.needed).list(
                "stand_ins",
                done.stand_ins.iter().map(|(owner, by)| {
                    Object::bare()
                        .field("owner", name(*owner, &names))
                        .field("by", name(*by, &names))
                }),
            ),
        )
        .field("guarantee", done.guarantee)
}

fn warn_of_siblings(key: &Bytes, done: &Done, common: &Common) -> io::Result<()> {
    let many = crate::version::SIBLINGS_WARN;
    if common.quiet || common.json || (done.siblings as usize) < many {
        return Ok(());
    }
    let shown = human::bytes(key, CHARACTERS_SHOWN);
    writeln!(
        io::stderr().lock(),
        "kvctl: warning: {shown} has {} siblings; at {} writes are refused",
        done.siblings,
        crate::version::SIBLINGS_MAX
    )
}
