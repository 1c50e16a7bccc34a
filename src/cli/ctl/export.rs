//! `export` and `keys`: the whole data, or its keys, in a pipe.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::records::{Recorder, record};
use crate::node_id::NodeId;
use crate::replication::Level;
use crate::wire::client::{ReplyBody, RequestBody};

use super::quorum::{check_level, parse_level};
use super::scan::{Flow, Scanner, unread};
use crate::cli::keys::{KeyCoding, write_key};

#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// Only keys that begin so
    prefix: Option<OsString>,
    /// Owners to merge of every partition [default: the layout's R]; `all` compares and repairs all of them
    #[arg(short = 'r', long = "read", value_name = "N|one|quorum|all", value_parser = parse_level)]
    r: Option<Level>,
    #[command(flatten)]
    coding: KeyCoding,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct KeysArgs {
    /// Only keys that begin so
    prefix: Option<OsString>,
    /// End keys with a zero byte instead of a line feed
    #[arg(short = '0', long)]
    null: bool,
    /// Stop after so many keys
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Owners to merge of every partition [default: the layout's R]
    #[arg(short = 'r', long = "read", value_name = "N|one|quorum|all", value_parser = parse_level)]
    r: Option<Level>,
    #[command(flatten)]
    coding: KeyCoding,
}

/// `export`: every key's state as a record.
pub(crate) async fn export(
    args: &ExportArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let prefix = prefix(args.prefix.as_ref(), args.coding)?;
    let (cluster, names) = (session.cluster(), session.names());
    check_level("r", args.r, &cluster.layout.now)?;
    let actors = actors(session, &session.member_names()).await;
    let mut recorder = Recorder::begin(out, |header| {
        header
            .field("cluster", cluster.cluster.to_string())
            .field("layout", cluster.layout.version)
            .object("actors", actors)
    })?;
    let scanner = Scanner::new(session, prefix, args.r);
    let totals = scanner
        .run(common, |entry| {
            if !entry.state.versions().is_empty() {
                let blank = recorder.blank("kv");
                recorder.push(record(blank, &entry.key, &entry.state, &names))?;
            }
            Ok(Flow::On)
        })
        .await?;
    if totals.unread > 0 {
        // No footer: whoever reads this must not take it for the whole.
        return Err(unread(totals).into());
    }
    let records = recorder.records();
    recorder.end()?;
    if !common.quiet {
        let repaired = match (args.r, totals.repaired) {
            (Some(Level::All), 0) => "; all replicas agree".to_owned(),
            (_, 0) => String::new(),
            (_, repaired) => format!("; repaired {repaired} keys that a replica lacked"),
        };
        let line = if common.json {
            Object::new("exported")
                .field("records", records)
                .field("repaired", totals.repaired)
                .finish()
        } else {
            format!("kvctl: exported {records} records{repaired}")
        };
        writeln!(io::stderr().lock(), "{line}")?;
    }
    Ok(Exit::Done)
}

/// Each member's name with who mints there now, `<id>.<epoch>`. Only a node itself knows its epoch: one that does not
/// answer is named by its id alone.
async fn actors(session: &Session, names: &BTreeMap<NodeId, String>) -> Object {
    let told = join_all(names.keys().map(|node| async move {
        match session.call(Some(*node), RequestBody::Info).await {
            Ok(ReplyBody::Info(info)) => info.actor,
            Ok(_) | Err(_) => None,
        }
    }))
    .await;
    names.iter().zip(told).fold(Object::bare(), |object, ((node, name), actor)| {
        object.field(name, actor.map_or_else(|| node.to_string(), |actor| actor.to_string()))
    })
}

/// `keys`: the keys that hold a value.
pub(crate) async fn keys(
    args: &KeysArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let prefix = prefix(args.prefix.as_ref(), args.coding)?;
    check_level("r", args.r, &session.cluster().layout.now)?;
    let limit = args.limit.unwrap_or(u64::MAX);
    let mut printed = 0;
    if limit == 0 {
        return Ok(Exit::Done);
    }
    let totals = Scanner::new(session, prefix, args.r)
        .run(common, |entry| {
            if entry.state.has_value() {
                match common.format() {
                    Format::Json => {
                        writeln!(out, "{}", Object::new("key").bytes("key", &entry.key).finish())?;
                    }
                    Format::Human | Format::Plain => write_key(out, &entry.key, args.null)?,
                }
                printed += 1;
            }
            Ok(if printed < limit { Flow::On } else { Flow::Enough })
        })
        .await?;
    if totals.unread > 0 { Err(unread(totals).into()) } else { Ok(Exit::Done) }
}

fn prefix(word: Option<&OsString>, coding: KeyCoding) -> anyhow::Result<Bytes> {
    match word {
        Some(word) if !word.is_empty() => Ok(coding.decode(word)?),
        Some(_) | None => Ok(Bytes::new()),
    }
}
