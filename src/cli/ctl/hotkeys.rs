//! `hotkeys`: the keys that the cluster is asked for most, found by a sketch on each node.
//!
//! What nodes counted is added up; a key that one of them does not name may have had what that node overlooked. So each
//! key has a share of the traffic that is sure, and how much more it may be.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::{Side, Table};
use crate::node_id::NodeId;
use crate::ring::Token;
use crate::wire::client::{HotKeysReply, ReplyBody, RequestBody};

use super::status::Sight;

/// Characters of a key that a table shows.
const KEY_CHARACTERS_MAX: usize = 60;

#[derive(Args, Clone, Debug)]
pub(crate) struct HotKeysArgs {
    /// Show so many keys at most
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    limit: usize,
}

/// A key that is asked for much, by what all of some nodes counted. Rates are operations a second.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HotKey {
    /// Its first bytes.
    pub(super) key: Bytes,
    /// How many it has.
    key_bytes: u32,
    token: Token,
    gets: f64,
    puts: f64,
    /// How much more it may be.
    error: f64,
    /// Of all operations the part that is surely its.
    pub(super) share: f64,
    /// And how much more that may be.
    share_error: f64,
}

impl HotKey {
    /// As a table shows it.
    pub(super) fn shown(&self, limit: usize) -> String {
        let is_cut = (self.key.len() as u64) < u64::from(self.key_bytes);
        human::bytes(&self.key, limit) + if is_cut { "…" } else { "" }
    }
}

/// `hotkeys`: a line a key, the hottest first; nothing where no key stands out.
pub(crate) async fn hotkeys(
    args: &HotKeysArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let sight = Sight::take(session).await?;
    let replies = ask(session, &sight).await;
    let mut keys = hottest(replies.values());
    keys.truncate(args.limit);
    if common.format() == Format::Json {
        for key in &keys {
            writeln!(out, "{}", object(key, &sight).finish())?;
        }
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        ("KEY", Side::Left),
        ("GETS/S", Side::Right),
        ("PUTS/S", Side::Right),
        ("SHARE", Side::Right),
        ("ERROR", Side::Right),
        ("OWNERS", Side::Left),
    ]);
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    for key in &keys {
        table.row([
            key.shown(if common.plain { usize::MAX } else { KEY_CHARACTERS_MAX }),
            format!("{:.1}", key.gets),
            format!("{:.1}", key.puts),
            percent(key.share),
            percent(key.share_error),
            owners(key, &sight).join(","),
        ]);
    }
    match common.format() {
        Format::Plain => table.write_plain(out)?,
        Format::Human | Format::Json => table.write(out)?,
    }
    Ok(Exit::Done)
}

/// What each member that answers counted.
pub(super) async fn ask(session: &Session, sight: &Sight) -> BTreeMap<NodeId, HotKeysReply> {
    let asked = sight.infos.keys().map(|node| async move {
        match session.call(Some(*node), RequestBody::HotKeys).await {
            Ok(ReplyBody::HotKeys(reply)) => Some((*node, reply)),
            // It went down since, or is of a release that does not count: the others still tell.
            Ok(_) | Err(_) => None,
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// The keys that stand out, by what these nodes counted together: of which more is sure than not.
pub(super) fn hottest<'a>(replies: impl IntoIterator<Item = &'a HotKeysReply>) -> Vec<HotKey> {
    let (mut all, mut unseen) = (0.0, 0.0);
    let mut keys: BTreeMap<Token, HotKey> = BTreeMap::new();
    for reply in replies {
        let rate = |count: u64| per_second(count, reply.window);
        all += rate(reply.gets + reply.puts);
        unseen += rate(reply.unseen_max);
        for told in &reply.keys {
            let token = Token::from_point(told.token);
            let hot = keys.entry(token).or_insert_with(|| HotKey {
                key: told.key.clone(),
                key_bytes: told.key_bytes,
                token,
                gets: 0.0,
                puts: 0.0,
                error: 0.0,
                share: 0.0,
                share_error: 0.0,
            });
            hot.gets += rate(told.gets);
            hot.puts += rate(told.puts);
            // A node that names it tells its own error in place of what it overlooked at most.
            hot.error += rate(told.error) - rate(reply.unseen_max);
        }
    }
    let mut keys: Vec<HotKey> = keys.into_values().collect();
    for hot in &mut keys {
        hot.error = (hot.error + unseen).max(0.0);
        if 0.0 < all {
            hot.share = (hot.gets + hot.puts) / all;
            hot.share_error = hot.error / all;
        }
    }
    keys.retain(|hot| hot.share_error < hot.share);
    keys.sort_by(|left, right| right.share.total_cmp(&left.share));
    keys
}

/// Operations a second, of a count over microseconds.
#[expect(clippy::cast_precision_loss, reason = "a rate is rounded when it is shown")]
pub(super) fn per_second(count: u64, micros: u64) -> f64 {
    if micros == 0 { 0.0 } else { count as f64 * 1e6 / micros as f64 }
}

fn owners(key: &HotKey, sight: &Sight) -> Vec<String> {
    let ring = sight.preferences.ring();
    let name = |node: NodeId| {
        ring.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    };
    sight.preferences.of_slot(key.token.slot()).owners().map(name).collect()
}

fn object(key: &HotKey, sight: &Sight) -> Object {
    let rounded = |number: f64, digits: f64| (number * digits).round() / digits;
    Object::new("hot_key")
        .bytes("key", &key.key)
        .field("key_bytes", key.key_bytes)
        .field("gets_per_second", rounded(key.gets, 10.0))
        .field("puts_per_second", rounded(key.puts, 10.0))
        .field("error_per_second", rounded(key.error, 10.0))
        .field("share", rounded(key.share, 1e4))
        .field("share_error", rounded(key.share_error, 1e4))
        .field("owners", owners(key, sight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client;

    /// What a node counted in so many seconds: (token, counted, error) a key.
    fn counted(seconds: u64, all: u64, unseen_max: u64, keys: &[(u64, u64, u64)]) -> HotKeysReply {
        let key = |(token, gets, error): &(u64, u64, u64)| client::HotKey {
            key: Bytes::from(format!("k{token}")),
            key_bytes: 2,
            token: *token,
            gets: *gets,
            puts: 0,
            error: *error,
        };
        let keys = keys.iter().map(key).collect();
        HotKeysReply { window: seconds * 1_000_000, gets: all, puts: 0, unseen_max, keys }
    }

    /// Keys with their share and its error in percent.
    #[track_caller]
    fn check(replies: &[HotKeysReply], expected: &[(&str, f64, f64)]) {
        let found = hottest(replies);
        let percent = |share: f64| (share * 1e3).round() / 10.0;
        let found: Vec<(String, f64, f64)> = found
            .iter()
            .map(|hot| (hot.shown(60), percent(hot.share), percent(hot.share_error)))
            .collect();
        let expected: Vec<(String, f64, f64)> = expected
            .iter()
            .map(|(key, share, error)| ((*key).to_owned(), *share, *error))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_nodes_counted_is_added_up_by_rates() {
        check(&[], &[]);
        check(
            &[counted(10, 100, 0, &[(1, 75, 0), (2, 25, 0)])],
            &[("k1", 75.0, 0.0), ("k2", 25.0, 0.0)],
        );
        let replies = [counted(10, 100, 0, &[(1, 50, 0)]), counted(20, 200, 0, &[(1, 20, 0)])];
        check(&replies, &[("k1", 30.0, 0.0)]);
    }

    #[test]
    fn what_a_node_overlooked_may_be_anybodys() {
        let replies = [counted(10, 100, 5, &[(1, 40, 2)]), counted(10, 100, 6, &[(2, 9, 6)])];
        // k1: its own error there, and what the second node overlooked. k2 may have had more unseen than seen.
        check(&replies, &[("k1", 20.0, 4.0)]);
    }

    #[test]
    fn a_key_that_was_cut_says_so() {
        let mut reply = counted(1, 10, 0, &[(1, 10, 0)]);
        reply.keys[0].key_bytes = 3;
        check(&[reply], &[("k1…", 100.0, 0.0)]);
    }
}
