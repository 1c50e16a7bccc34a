//! `inspect`: what each owner holds of a key, side by side.

use std::ffi::OsString;
use std::io::Write;

use bytes::Bytes;
use clap::Args;

use crate::cli::connect::{Session, name};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::records;
use crate::cli::table::{Side, Table};
use crate::version::Siblings;
use crate::wire::client::{Inspected, MemberHealth, ReplyBody, RequestBody};

use crate::cli::keys::KeyCoding;

#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    /// The key
    key: OsString,
    #[command(flatten)]
    coding: KeyCoding,
}

/// How an owner's state stands to what all of them know together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It holds all that is known.
    Newest,
    /// It lacks something.
    Stale,
    /// Nobody holds anything.
    Absent,
    /// It did not answer.
    Unanswered,
}

impl Standing {
    const fn word(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Stale => "stale",
            Self::Absent => "absent",
            Self::Unanswered => "unanswered",
        }
    }
}

/// `inspect`.
pub(crate) async fn inspect(
    args: &InspectArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let key = args.coding.decode(&args.key)?;
    session.check_pair(&key, 0)?;
    let body = RequestBody::Inspect { key: key.clone() };
    let ReplyBody::Inspected(replicas) = session.call(None, body).await? else {
        return Err(Failure::new(Exit::Protocol, "inspect got another reply").into());
    };
    let merged = merged(&replicas);
    match common.format() {
        Format::Json => {
            for (index, replica) in replicas.iter().enumerate() {
                writeln!(out, "{}", object(&key, index, replica, &merged, session).finish())?;
            }
        }
        Format::Human => table(&replicas, &merged, session, common).write(out)?,
        Format::Plain => table(&replicas, &merged, session, common).write_plain(out)?,
    }
    if !merged.is_empty() && !merged.has_value() {
        tell_what_blocks(session, common, out).await?;
    }
    Ok(if merged.has_value() { Exit::Done } else { Exit::No })
}

/// A tombstone is forgotten once every member has taken part: who does not at present?
async fn tell_what_blocks(
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let ReplyBody::View(view) = session.call(None, RequestBody::View).await? else {
        return Err(Failure::new(Exit::Protocol, "inspect got another reply").into());
    };
    let names = session.names();
    let missing = view.members.iter().filter(|member| member.health != MemberHealth::Up);
    let missing: Vec<String> = missing.map(|member| name(member.node, &names)).collect();
    if common.format() == Format::Json {
        let list: Vec<String> = missing.iter().map(|name| format!("\"{name}\"")).collect();
        let object = Object::new("forgetting").raw("blocked_by", &format!("[{}]", list.join(",")));
        writeln!(out, "{}", object.finish())?;
    } else if !common.quiet {
        let why = if missing.is_empty() {
            "all are up, so it goes before long".to_owned()
        } else {
            format!("not up: {}; bring it back, or remove it for good", missing.join(", "))
        };
        let text = "kvctl: this tombstone is forgotten once every member takes part";
        writeln!(std::io::stderr().lock(), "{text}: {why}")?;
    }
    Ok(())
}

fn merged(replicas: &[Inspected]) -> Siblings {
    let mut merged = Siblings::new();
    for state in replicas.iter().filter_map(|replica| replica.state.as_ref().ok()) {
        merged.merge(state, &mut Vec::new());
    }
    merged
}

fn standing(replica: &Inspected, merged: &Siblings) -> Standing {
    match &replica.state {
        Err(_) => Standing::Unanswered,
        Ok(_) if merged.is_empty() => Standing::Absent,
        Ok(state) if state.digest() == merged.digest() => Standing::Newest,
        Ok(_) => Standing::Stale,
    }
}

fn table(replicas: &[Inspected], merged: &Siblings, session: &Session, common: &Common) -> Table {
    let (names, now, palette) = (session.names(), human::now(), common.palette());
    let mut table = Table::new(&[
        ("REPLICA", Side::Left),
        ("CLOCK", Side::Left),
        ("TIME", Side::Left),
        ("SIZE", Side::Right),
        ("STATE", Side::Left),
    ]);
    for (index, replica) in replicas.iter().enumerate() {
        let state = replica.state.as_ref().ok();
        let clock = state.map_or_else(
            || "-".to_owned(),
            |state| {
                let entries = state.clock().named(&names);
                let shown: Vec<String> = entries
                    .into_iter()
                    .map(|(actor, counter)| format!("{actor}:{counter}"))
                    .collect();
                format!("{{{}}}", shown.join(","))
            },
        );
        let newest = state
            .and_then(|state| state.versions().values().map(|version| version.timestamp).max());
        let time = newest.map_or("-".to_owned(), |ts| human::ago(ts.unix_micros(), now));
        let size = state.and_then(size).map_or("-".to_owned(), |size| common.size(size));
        let mut word = match (standing(replica, merged), &replica.state) {
            (Standing::Unanswered, Err(why)) => palette.bad(why),
            (Standing::Stale, Ok(state)) if state.is_empty() => palette.warn("STALE (has nothing)"),
            (Standing::Stale, _) => palette.warn("STALE"),
            (standing, _) => palette.good(standing.word()),
        };
        match state {
            Some(state) if state.siblings() > 1 => {
                word = format!("{word}, {} siblings", state.siblings());
            }
            Some(state) if !state.is_empty() && !state.has_value() => word.push_str(", deleted"),
            Some(_) | None => {}
        }
        let label = format!("{} ({})", name(replica.node, &names), ordinal(index + 1));
        table.row([label, clock, time, size, word]);
    }
    table
}

/// Bytes of the values that stand.
fn size(state: &Siblings) -> Option<u64> {
    use crate::version::Content;
    state.has_value().then(|| {
        let sizes = state.versions().values().map(|version| match &version.content {
            Content::Value(value) => value.len() as u64,
            Content::Tombstone => 0,
        });
        sizes.sum()
    })
}

fn object(
    key: &Bytes,
    index: usize,
    replica: &Inspected,
    merged: &Siblings,
    session: &Session,
) -> Object {
    let names = session.names();
    let object = Object::new("replica")
        .bytes("key", key)
        .field("node", name(replica.node, &names))
        .field("position", index + 1)
        .field("state", standing(replica, merged).word());
    match &replica.state {
        Err(why) => object.field("why", why),
        Ok(state) => object
            .object(
                "clock",
                state
                    .clock()
                    .named(&names)
                    .into_iter()
                    .fold(Object::bare(), |object, (actor, counter)| object.field(&actor, counter)),
            )
            .list(
                "siblings",
                state.versions().iter().map(|(dot, version)| {
                    records::version_fields(Object::bare(), *dot, version, &names)
                }),
            ),
    }
}

fn ordinal(number: usize) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        (_, _) => "th",
    };
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_read_as_spoken() {
        let spoken: Vec<String> = [1, 2, 3, 4, 11, 12, 21, 112].map(ordinal).into();
        assert_eq!(spoken, ["1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "112th"]);
    }
}
