//! Concurrent versions as people and programs see them, numbered everywhere alike.

use std::io::{self, Write};

use bytes::Bytes;

use crate::cli::connect::{Session, name};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::keys::as_words;
use crate::cli::records;
use crate::version::{Content, Context, Dot, Siblings, Version, dot_name};
use crate::wire::client::Got;

/// Characters of a key or a value that a listing shows.
pub(super) const CHARACTERS_SHOWN: usize = 60;

/// The versions that stand, in dot order; of two of one put the first alone. A sibling's number is its place here,
/// from 1.
pub(super) fn listed(state: &Siblings) -> Vec<(Dot, &Version)> {
    let mut listed: Vec<(Dot, &Version)> = Vec::new();
    for (dot, version) in state.versions() {
        if listed.iter().all(|(_, other)| other.request != version.request) {
            listed.push((*dot, version));
        }
    }
    listed
}

/// The one written last by the clocks of the nodes, and its place in the list.
pub(super) fn latest<'a>(listed: &[(Dot, &'a Version)]) -> Option<(usize, &'a Version)> {
    let written = |(_, (dot, version)): &(usize, &(Dot, &Version))| (version.timestamp, *dot);
    listed.iter().enumerate().max_by_key(written).map(|(place, (_, version))| (place, *version))
}

/// A version's dot, by its node's name.
pub(super) fn dot_shown(dot: Dot, session: &Session) -> String {
    dot_name(&name(dot.actor.node, &session.names()), dot)
}

/// A line for each sibling: number, dot, age, size, value.
pub(super) fn lines(state: &Siblings, session: &Session) -> Vec<String> {
    let now = human::now();
    let rows: Vec<[String; 4]> = listed(state)
        .into_iter()
        .map(|(dot, version)| {
            let (size, value) = match &version.content {
                Content::Value(value) => {
                    (human::size(value.len() as u64), human::bytes(value, CHARACTERS_SHOWN))
                }
                Content::Tombstone => ("-".to_owned(), "(deleted)".to_owned()),
            };
            let age = human::ago(version.timestamp.unix_micros(), now);
            [dot_shown(dot, session), age, size, value]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let [dots, ages, sizes] = [0, 1, 2].map(|column| width(column).unwrap_or(0));
    let line = |(place, [dot, age, size, value]): (usize, &[String; 4])| {
        format!("{}  {dot:dots$}  {age:ages$}  {size:>sizes$}  {value}", place + 1)
    };
    rows.iter().enumerate().map(line).collect()
}

/// A tab-separated line for each: dot, time, size, value.
pub(super) fn write_plain(
    state: &Siblings,
    session: &Session,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (dot, version) in listed(state) {
        let dot = dot_shown(dot, session);
        let ts = human::rfc3339(version.timestamp.unix_micros());
        match &version.content {
            Content::Value(value) => {
                let shown = human::bytes(value, usize::MAX);
                writeln!(out, "{dot}\t{ts}\t{}\t{shown}", value.len())?;
            }
            Content::Tombstone => writeln!(out, "{dot}\t{ts}\t-\t")?,
        }
    }
    Ok(())
}

/// An object for each, for programs.
pub(super) fn objects(state: &Siblings, session: &Session) -> Vec<Object> {
    let names = session.names();
    let object = |(dot, version)| records::version_fields(Object::bare(), dot, version, &names);
    listed(state).into_iter().map(object).collect()
}

/// The context of what a read saw.
pub(super) fn token(key: &[u8], got: &Got, session: &Session) -> String {
    Context::new(key, got.state.clock().clone(), session.names()).encode()
}

/// Several versions stand and nobody said which: exit 3.
pub(super) fn undecided(key: &Bytes, got: &Got, session: &Session) -> Failure {
    let shown = human::bytes(key, CHARACTERS_SHOWN);
    let count = got.state.siblings();
    let message = format!("{shown} has {count} siblings (nothing printed on stdout)");
    with_siblings(Failure::new(Exit::Siblings, message), key, got, session)
}

/// `failure`, telling which siblings stand and how to choose.
pub(super) fn with_siblings(
    failure: Failure,
    key: &Bytes,
    got: &Got,
    session: &Session,
) -> Failure {
    let objects = objects(&got.state, session).into_iter().map(Object::finish);
    let list = format!("[{}]", objects.collect::<Vec<_>>().join(","));
    lines(&got.state, session)
        .into_iter()
        .fold(failure.code("siblings"), Failure::note)
        .note(ways_out(key, &listed(&got.state)))
        .detail("key", String::from_utf8_lossy(key))
        .raw_detail("siblings", list)
        .detail("ctx", token(key, got, session))
}

/// Commands that leave one version, or show them all: to be copied into a shell.
fn ways_out(key: &[u8], listed: &[(Dot, &Version)]) -> String {
    let words = as_words(key);
    let pick = latest(listed).map_or(1, |(place, _)| place + 1);
    let values = listed.iter().filter_map(|(_, version)| match &version.content {
        Content::Value(value) => Some(value),
        Content::Tombstone => None,
    });
    let all = |is: fn(&[u8]) -> bool| values.clone().all(|value| is(value));
    let merge = if all(is_json_tree) {
        "json"
    } else if all(|value| std::str::from_utf8(value).is_ok_and(|text| text.contains('\n'))) {
        "union-lines"
    } else {
        "latest"
    };
    format!(
        "pick: kvctl resolve {words} --take {pick}      merge: kvctl resolve {words} --merge {merge}      \
         see: kvctl get {words} --siblings all"
    )
}

/// Whether a value is a JSON object or list, of which a merge keeps the parts of both.
fn is_json_tree(value: &[u8]) -> bool {
    matches!(value.trim_ascii_start().first(), Some(b'{' | b'['))
        && serde_json::from_slice::<&serde_json::value::RawValue>(value).is_ok()
}

#[cfg(test)]
pub(super) mod tests {
    use crate::node_id::NodeId;
    use crate::version::{Actor, Basis, Epoch, RequestId, Timestamp};

    use super::*;

    /// Blind writes at one node: (request counter, microseconds, value or delete).
    pub(in crate::cli::ctl) fn state(writes: &[(u64, u64, Option<&'static str>)]) -> Siblings {
        let mut state = Siblings::new();
        for (counter, micros, value) in writes {
            let version = Version {
                timestamp: Timestamp::at(*micros),
                request: RequestId { session: 1, counter: *counter },
                content: value.map_or(Content::Tombstone, |text| Content::Value(text.into())),
            };
            let actor = Actor { node: NodeId::from_bytes([1; 16]), epoch: Epoch::first(0) };
            state.write(actor, &Basis::Blind, 0, version).unwrap();
        }
        state
    }

    #[test]
    fn two_versions_of_one_put_have_one_number() {
        let state = state(&[(1, 7, Some("a")), (2, 9, Some("b")), (1, 8, Some("a")), (3, 1, None)]);
        let counters: Vec<u64> = listed(&state).iter().map(|(dot, _)| dot.counter).collect();
        assert_eq!(counters, [1, 2, 4]);
        assert_eq!(state.siblings(), 3);
        assert_eq!(latest(&listed(&state)).map(|(place, _)| place), Some(1));
    }

    #[track_caller]
    fn check_ways(key: &[u8], values: &[Option<&'static str>], expected: &str) {
        let writes: Vec<_> = (1..).zip(values).map(|(n, value)| (n, n, *value)).collect();
        let state = state(&writes);
        assert_eq!(ways_out(key, &listed(&state)), expected);
    }

    #[test]
    fn the_ways_out_fit_the_key_and_the_values() {
        check_ways(
            b"cart:42",
            &[Some("{\"items\":[1]}"), Some(" [2]")],
            "pick: kvctl resolve cart:42 --take 2      merge: kvctl resolve cart:42 --merge json      \
             see: kvctl get cart:42 --siblings all",
        );
        check_ways(
            b"a b",
            &[Some("x\ny\n"), None, Some("z\n")],
            "pick: kvctl resolve 'a b' --take 3      merge: kvctl resolve 'a b' --merge union-lines      \
             see: kvctl get 'a b' --siblings all",
        );
        check_ways(
            b"\xff",
            &[Some("{\"a\":1}"), Some("{")],
            "pick: kvctl resolve --key-hex ff --take 2      merge: kvctl resolve --key-hex ff --merge latest      \
             see: kvctl get --key-hex ff --siblings all",
        );
    }
}
