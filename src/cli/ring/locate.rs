//! `locate` and `hash`: where keys lie.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStringExt;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::keys::KeyCoding;
use crate::cli::options::{Common, Format};
use crate::node_id::NodeId;
use crate::ring::Token;

use super::source::Known;

#[derive(Args, Clone, Debug)]
pub(super) struct LocateArgs {
    /// The keys; without any, or with `-`, one a line from stdin
    keys: Vec<OsString>,
    /// Keys on stdin end with a zero byte instead of a line feed
    #[arg(short = '0', long)]
    null: bool,
    #[command(flatten)]
    coding: KeyCoding,
}

#[derive(Args, Clone, Debug)]
pub(super) struct HashArgs {
    /// The keys
    #[arg(required = true)]
    keys: Vec<OsString>,
    #[command(flatten)]
    coding: KeyCoding,
}

impl LocateArgs {
    /// Whether the keys come from stdin.
    pub(super) fn reads_stdin(&self) -> bool {
        self.keys.is_empty() || matches!(self.keys.as_slice(), [only] if only == "-")
    }
}

/// `locate`: a line a key, as they come.
pub(super) fn locate(
    args: &LocateArgs,
    known: &Known,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut one = |word: &OsStr| -> anyhow::Result<()> {
        Ok(writeln!(out, "{}", located(&args.coding.decode(word)?, known, common))?)
    };
    if args.reads_stdin() {
        let end = if args.null { 0 } else { b'\n' };
        for word in io::stdin().lock().split(end) {
            let word = word.context("reading keys from stdin")?;
            if !word.is_empty() {
                one(&OsString::from_vec(word))?;
            }
        }
    } else {
        args.keys.iter().try_for_each(|word| one(word))?;
    }
    Ok(Exit::Done)
}

/// `hash`: token and slot.
pub(super) fn hash(args: &HashArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    for word in &args.keys {
        let key = args.coding.decode(word)?;
        let token = Token::of(&key);
        let (point, slot) = (format!("{:016x}", token.point()), token.slot().0);
        let shown = human::bytes(&key, usize::MAX);
        match common.format() {
            Format::Human => writeln!(out, "{shown}  token {point}  slot {slot}")?,
            Format::Plain => writeln!(out, "{shown}\t{point}\t{slot}")?,
            Format::Json => {
                let object = Object::new("hash").bytes("key", &key);
                writeln!(out, "{}", object.field("token", point).field("slot", slot).finish())?;
            }
        }
    }
    Ok(Exit::Done)
}

fn located(key: &Bytes, known: &Known, common: &Common) -> String {
    let token = Token::of(key);
    let ring = &known.layout.now;
    let walk = known.preferences.of_slot(token.slot());
    let name = |node: NodeId| {
        ring.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    };
    let replicas: Vec<String> = walk.owners().map(name).collect();
    let (point, partition) = (token.point(), token.slot().partition(ring.q).0);
    let shown = || human::bytes(key, usize::MAX);
    match common.format() {
        Format::Human => {
            let replicas = replicas.join(" ");
            format!("{}  token {point:016x}  partition {partition}  replicas {replicas}", shown())
        }
        Format::Plain => {
            format!("{}\t{point:016x}\t{partition}\t{}", shown(), replicas.join(","))
        }
        Format::Json => {
            let fallbacks: Vec<String> = walk.fallbacks().map(name).collect();
            Object::new("location")
                .bytes("key", key)
                .field("token", format!("{point:016x}"))
                .field("slot", token.slot().0)
                .field("partition", partition)
                .field("replicas", replicas)
                .field("fallbacks", fallbacks)
                .finish()
        }
    }
}
