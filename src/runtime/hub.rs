//! The hub: what the tasks of the core thread share. No borrow of it lives across an await.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::node::{Caller, Core, Event};
use crate::node_id::NodeId;
use crate::wire::client::{Reply, Request, RequestBody};
use crate::wire::handshake::RefusalCode;

use super::clients::Replies;
use super::clock;
use super::link::Link;

/// What the tasks of the core thread share.
pub(super) struct Hub {
    pub(super) core: RefCell<Core>,
    /// Events that the core loop takes all at once.
    inbox: RefCell<Vec<Event>>,
    /// Wakes the core loop.
    pub(super) news: Notify,
    /// Who waits for replies.
    callers: RefCell<BTreeMap<Caller, Waiter>>,
    last_caller: Cell<u64>,
    /// Outgoing links by peer.
    pub(super) links: RefCell<BTreeMap<NodeId, Rc<Link>>>,
    /// What peers said to our greetings.
    pub(super) verdicts: RefCell<Verdicts>,
    pub(super) phase: Cell<Phase>,
    /// Notified when the phase changes.
    pub(super) phase_changed: Notify,
    pub(super) frame_bytes_max: usize,
    /// Until when no further requests of clients are taken, monotonic: the disk is behind.
    held_until: Cell<u64>,
}

/// How far the process is with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Serving.
    Serving,
    /// Told to stop: nobody new is taken.
    Stopping,
}

/// What peers said to our greetings.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// Whether any peer ever took us.
    pub(super) is_accepted: bool,
    /// Who refused us last, by address.
    pub(super) refusals: BTreeMap<String, (RefusalCode, String)>,
    /// Where nobody answered the last time.
    pub(super) silent: BTreeSet<String>,
}

impl Verdicts {
    /// The refusal that ends this node: it was never taken by any of the members at `addresses`, and each of them refuses it
    /// for good; or they removed it, and who does not say so does not answer. One peer alone may be wrong about the rest,
    /// unless it saw a second process with this identity. Where another cluster answers the members may have moved, so that
    /// the seeds are to be heard, too.
    pub(super) fn last_word(
        &self,
        addresses: &[&str],
        seeds: &[String],
    ) -> Option<(&str, RefusalCode, &str)> {
        let code = |address: &str| self.refusals.get(address).map(|(code, _)| *code);
        let is_final = |code| {
            matches!(
                code,
                RefusalCode::WrongCluster | RefusalCode::RemovedMember | RefusalCode::NotAMember
            )
        };
        let by_all = addresses.iter().all(|address| code(address).is_some_and(is_final));
        let nobody_else = addresses
            .iter()
            .all(|address| self.silent.contains(*address) || code(address).is_some_and(is_final));
        let is_no_help = |code| is_final(code) || code == RefusalCode::Itself;
        let by_seeds = seeds.iter().all(|seed| code(seed).is_some_and(is_no_help));
        let is_unwanted = !self.is_accepted && !addresses.is_empty();
        let ends = |code| match code {
            RefusalCode::CopiedIdentity => true,
            RefusalCode::RemovedMember => is_unwanted && nobody_else,
            RefusalCode::NotAMember => is_unwanted && by_all,
            RefusalCode::WrongCluster => is_unwanted && by_all && by_seeds,
            RefusalCode::Protocol
            | RefusalCode::Itself
            | RefusalCode::OldIncarnation
            | RefusalCode::Overloaded
            | RefusalCode::NotAuthorised => false,
        };
        let refusal = self.refusals.iter().find(|(_, (code, _))| ends(*code));
        refusal.map(|(by, (code, reason))| (by.as_str(), *code, reason.as_str()))
    }
}

/// Who waits for a reply.
enum Waiter {
    /// A connection.
    Connection(Rc<Replies>),
    /// This process itself, once.
    Own(oneshot::Sender<Reply>),
}

impl Hub {
    pub(super) fn new(core: Core, frame_bytes_max: usize) -> Self {
        Self {
            core: RefCell::new(core),
            inbox: RefCell::default(),
            news: Notify::new(),
            callers: RefCell::default(),
            last_caller: Cell::new(0),
            links: RefCell::default(),
            verdicts: RefCell::default(),
            phase: Cell::new(Phase::Serving),
            phase_changed: Notify::new(),
            frame_bytes_max,
            held_until: Cell::new(0),
        }
    }

    /// Takes no further requests of clients for so long.
    pub(super) fn hold_clients(&self, pause: Duration) {
        let pause = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.held_until.set(clock::now().monotonic.saturating_add(pause));
    }

    /// Returns once clients are not held back.
    pub(super) async fn released(&self) {
        loop {
            let pause = clock::until(self.held_until.get());
            if pause.is_zero() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Hands the core loop an event; it runs when the tasks that are ready now have run.
    pub(super) fn post(&self, event: Event) {
        self.inbox.borrow_mut().push(event);
        self.news.notify_one();
    }

    /// All events that wait.
    pub(super) fn take_events(&self) -> Vec<Event> {
        self.inbox.take()
    }

    /// Registers a connection as a caller.
    pub(super) fn enter(&self, replies: Rc<Replies>) -> Caller {
        self.register(Waiter::Connection(replies))
    }

    /// A connection is gone.
    pub(super) fn leave(&self, caller: Caller) {
        self.callers.borrow_mut().remove(&caller);
        self.post(Event::ClientGone(caller));
    }

    /// Asks the own Core, as a client would; `None` when it does not reply any more.
    pub(super) async fn ask(&self, body: RequestBody) -> Option<Reply> {
        let (sender, reply) = oneshot::channel();
        let caller = self.register(Waiter::Own(sender));
        self.post(Event::Client { caller, request: Request { id: 1, deadline: 0, body } });
        reply.await.ok()
    }

    /// Hands a reply to whoever waits for it; nobody waits when the connection is gone.
    pub(super) fn reply(&self, caller: Caller, reply: Reply) {
        let mut callers = self.callers.borrow_mut();
        match callers.get(&caller) {
            Some(Waiter::Connection(replies)) => replies.push(reply),
            Some(Waiter::Own(_)) => {
                if let Some(Waiter::Own(sender)) = callers.remove(&caller) {
                    // Whoever asked may have gone.
                    let _ = sender.send(reply);
                }
            }
            None => {}
        }
    }

    /// No reply will come to one request of a caller: its place among those in flight is free.
    pub(super) fn dropped(&self, caller: Caller) {
        if let Some(Waiter::Connection(replies)) = self.callers.borrow().get(&caller) {
            replies.left(1);
        }
    }

    /// Closes every client connection.
    pub(super) fn close_clients(&self) {
        for waiter in self.callers.borrow().values() {
            if let Waiter::Connection(replies) = waiter {
                replies.close();
            }
        }
    }

    /// How many clients are connected.
    pub(super) fn connections(&self) -> usize {
        let callers = self.callers.borrow();
        callers.values().filter(|waiter| matches!(waiter, Waiter::Connection(_))).count()
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
        self.phase_changed.notify_waiters();
    }

    /// Returns once the process was told to stop.
    pub(super) async fn stopping(&self) {
        loop {
            let changed = self.phase_changed.notified();
            if self.phase.get() == Phase::Stopping {
                return;
            }
            changed.await;
        }
    }

    fn register(&self, waiter: Waiter) -> Caller {
        let caller = Caller(self.last_caller.get() + 1);
        self.last_caller.set(caller.0);
        self.callers.borrow_mut().insert(caller, waiter);
        caller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last word where each of the members at `a`, `b`, … said this: `r` removed, `w` wrong cluster, `c` copied, `-`
    /// nothing, `?` was not tried yet.
    #[track_caller]
    fn check(said: &str, is_accepted: bool, expected: Option<RefusalCode>) {
        let (members, by_seeds) = said.split_once('/').unwrap_or((said, ""));
        let addresses: Vec<String> =
            ('a'..).take(members.len() + by_seeds.len()).map(String::from).collect();
        let mut verdicts = Verdicts { is_accepted, ..Verdicts::default() };
        for (address, said) in addresses.iter().zip(members.chars().chain(by_seeds.chars())) {
            let code = match said {
                'r' => RefusalCode::RemovedMember,
                'w' => RefusalCode::WrongCluster,
                'c' => RefusalCode::CopiedIdentity,
                'i' => RefusalCode::Itself,
                '-' => {
                    verdicts.silent.insert(address.clone());
                    continue;
                }
                _ => continue,
            };
            verdicts.refusals.insert(address.clone(), (code, String::new()));
        }
        let (addresses, seeds) = addresses.split_at(members.len());
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let last_word = verdicts.last_word(&addresses, seeds);
        assert_eq!(last_word.map(|(_, code, _)| code), expected, "{said}");
    }

    #[test]
    fn a_node_ends_where_nobody_is_left_who_might_take_it() {
        check("", false, None);
        check("ww", false, Some(RefusalCode::WrongCluster));
        check("w-", false, None);
        check("w?", false, None);
        check("ww/?", false, None);
        check("ww/wi", false, Some(RefusalCode::WrongCluster));
        check("rr/?", false, Some(RefusalCode::RemovedMember));
        check("r--", false, Some(RefusalCode::RemovedMember));
        check("rw-", false, Some(RefusalCode::RemovedMember));
        check("r-?", false, None);
        check("rr", true, None);
        check("c??", true, Some(RefusalCode::CopiedIdentity));
        check("---", false, None);
    }
}
