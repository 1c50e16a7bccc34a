//! The register in a recovery ([`crate::cluster::recover`]): accepting one ends this node's part in the generation
//! before, beginning it is the first layout of the next.

use std::sync::Arc;

use crate::cluster::LayoutTag;
use crate::cluster::recover::{RecoveryRefused, may_accept};
use crate::ring::Layout;

use super::{Effect, Outcome, Register};

impl Register {
    /// The recovery that this node accepted and does not act on yet.
    pub const fn recovery(&self) -> Option<&Arc<Layout>> {
        self.state.recovery.as_ref()
    }

    /// Accepts a recovery; it counts once the appended state is durable. What this node proposed is given up.
    /// # Errors
    /// [`RecoveryRefused`].
    pub fn accept_recovery(
        &mut self,
        layout: Layout,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecoveryRefused> {
        may_accept(self.me, &self.state.chosen, self.state.recovery.as_deref(), &layout)?;
        if self.tag.generation < layout.generation {
            self.state.recovery = Some(Arc::new(layout));
            self.take_up_at = None;
            effects.push(Effect::Persist(self.state.clone()));
            if let Some(request) = self.proposal.take().and_then(|proposal| proposal.request) {
                let outcome =
                    if request.is_put_to_vote { Outcome::Unknown } else { Outcome::NotApplied };
                effects.push(Effect::ProposalDone { id: request.id, outcome });
            }
        }
        Ok(())
    }

    /// All survivors accepted the recovery of this tag: it is the layout in force.
    /// # Errors
    /// [`RecoveryRefused`] where this node accepted another one or none.
    pub fn begin_recovery(
        &mut self,
        tag: LayoutTag,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecoveryRefused> {
        if self.tag.generation == tag.generation && tag.version <= self.tag.version {
            return Ok(());
        }
        match self.state.recovery.clone() {
            Some(layout) if LayoutTag::of(&layout) == tag => {
                self.learn(layout, effects);
                Ok(())
            }
            Some(other) => Err(RecoveryRefused::Other(LayoutTag::of(&other))),
            None => Err(RecoveryRefused::NotAccepted),
        }
    }

    /// Whether layouts of this generation follow on a recovery that this node accepted: it was chosen, then, since its
    /// members act on it.
    pub(super) fn has_accepted(&self, generation: u64) -> bool {
        self.recovery().is_some_and(|recovery| recovery.generation == generation)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::super::super::testing::{at_ms, layout, node};
    use super::super::{AcceptedLayout, Alarm, Ballot, Event, Message, ProposalId, RegisterState};
    use super::*;
    use crate::cluster::change::{self, Change};
    use crate::ring::Ring;

    /// The register of a node of `abcde` at layout 6, which accepted another layout 7.
    struct Node {
        register: Register,
        rng: ChaCha8Rng,
    }

    impl Node {
        fn new(name: char, state: RegisterState) -> Self {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            Self { register: Register::new(at_ms(0), node(name), state, &mut rng), rng }
        }

        fn handle(&mut self, event: Event) -> Vec<Effect> {
            let mut effects = Vec::new();
            self.register.handle(at_ms(60_000), event, &mut self.rng, &mut effects);
            effects
        }

        fn receive(&mut self, from: char, message: Message) -> Vec<Effect> {
            self.handle(Event::Received { from: node(from), message })
        }

        fn accept(&mut self, layout: &Layout) -> Result<Vec<Effect>, RecoveryRefused> {
            let mut effects = Vec::new();
            self.register.accept_recovery(layout.clone(), &mut effects).map(|()| effects)
        }

        fn begin(&mut self, layout: &Layout) -> Result<Vec<Effect>, RecoveryRefused> {
            let mut effects = Vec::new();
            let begun = self.register.begin_recovery(LayoutTag::of(layout), &mut effects);
            begun.map(|()| effects)
        }
    }

    fn base() -> Layout {
        layout(6, "abcde")
    }

    /// What a node has on disk that knows layout 6, and accepted a layout 7.
    fn voted() -> RegisterState {
        let mut state = RegisterState::new(Arc::new(base()));
        let ballot = Ballot { round: 3, node: node('c') };
        let layout = Arc::new(Layout { version: 7, ..base() });
        state.vote.promised = Some(ballot);
        state.vote.accepted = Some(AcceptedLayout { ballot, layout });
        state
    }

    /// A recovery with these members.
    fn recovery(generation: u64, names: &str) -> Layout {
        let next: Ring = layout(1, names).now;
        let now = next.clone();
        Layout { generation, version: 5 + generation, now, next: Some(next), recovers: true }
    }

    fn chosen(effects: &[Effect]) -> Option<&Layout> {
        effects.iter().find_map(|effect| match effect {
            Effect::Chosen(layout) => Some(&**layout),
            _ => None,
        })
    }

    #[test]
    fn who_accepted_a_recovery_votes_no_more_and_learns_no_layout_of_before() {
        let mut b = Node::new('b', voted());
        assert!(b.register.wake_at().is_some(), "it would take up layout 7");
        let effects = b.accept(&recovery(2, "ab")).unwrap();
        let [Effect::Persist(state)] = &effects[..] else { panic!("{effects:?}") };
        // A start in between forgets none of it.
        for mut b in [Node::new('b', state.clone()), b] {
            assert_eq!(b.register.recovery().unwrap().generation, 2);
            assert_eq!((b.register.wake_at(), b.register.tag().version), (None, 6));
            let ballot = Ballot { round: 9, node: node('c') };
            let prepare = Message::Prepare { ballot, chosen: Arc::new(base()) };
            assert_eq!(b.receive('c', prepare), []);
            let layout = Arc::new(Layout { version: 7, ..base() });
            let accept = Message::Accept { ballot, layout: Arc::clone(&layout) };
            assert_eq!(b.receive('c', accept), []);
            assert_eq!(b.receive('c', Message::Chosen(Arc::clone(&layout))), []);
            let (id, deadline) = (ProposalId(1), at_ms(70_000));
            let propose = Event::Propose { id, expect_version: 6, layout, deadline };
            let outcome = Outcome::NotApplied;
            assert_eq!(b.handle(propose), [Effect::ProposalDone { id, outcome }]);
        }
    }

    #[test]
    fn a_proposal_that_runs_is_given_up_with_it() {
        let mut a = Node::new('a', RegisterState::new(Arc::new(base())));
        let (id, deadline) = (ProposalId(1), at_ms(70_000));
        let layout = change::apply(&base(), &Change::SetMode(crate::ring::Mode::Consistent));
        let layout = Arc::new(layout.unwrap());
        a.handle(Event::Propose { id, expect_version: 6, layout, deadline });
        let effects = a.accept(&recovery(2, "ab")).unwrap();
        let done = Effect::ProposalDone { id, outcome: Outcome::NotApplied };
        assert_eq!(effects.last(), Some(&done));
    }

    #[test]
    fn it_begins_when_it_is_told_so_or_hears_of_its_generation() {
        let first = recovery(2, "ab");
        let done = change::apply(&first, &Change::Finish).unwrap();
        let mut told = Node::new('a', voted());
        assert_eq!(told.begin(&first), Err(RecoveryRefused::NotAccepted));
        told.accept(&first).unwrap();
        let other = recovery(2, "ac");
        assert_eq!(told.begin(&other), Err(RecoveryRefused::Other(LayoutTag::of(&first))));
        let effects = told.begin(&first).unwrap();
        assert!(matches!(effects[0], Effect::Persist(_)));
        assert_eq!(chosen(&effects), Some(&first));
        assert_eq!(told.begin(&first), Ok(Vec::new()), "twice");
        assert_eq!(told.register.recovery(), None);

        for layout in [&first, &done] {
            let mut heard = Node::new('b', voted());
            heard.accept(&first).unwrap();
            let news = Event::News { peer: node('a'), tag: LayoutTag::of(layout) };
            let fetch = Effect::Send { to: node('a'), message: Message::Fetch { have: 6 } };
            assert_eq!(heard.handle(news), [fetch]);
            let effects = heard.receive('a', Message::Chosen(Arc::new(layout.clone())));
            assert_eq!(chosen(&effects), Some(layout));
        }
    }

    #[test]
    fn a_generation_that_was_not_accepted_is_not_believed_and_an_older_one_is_told() {
        let first = Arc::new(recovery(2, "ab"));
        let mut c = Node::new('c', voted());
        let left_behind =
            Effect::Alarm(Alarm::LeftBehind { peer: node('a'), theirs: LayoutTag::of(&first) });
        let before = c.register.tag();
        assert_eq!(
            c.receive('a', Message::Chosen(Arc::clone(&first))),
            std::slice::from_ref(&left_behind)
        );
        let news = Event::News { peer: node('a'), tag: LayoutTag::of(&first) };
        assert_eq!(c.handle(news), [left_behind]);
        assert_eq!(c.register.tag(), before);

        let mut a = Node::new('a', voted());
        a.accept(&first).unwrap();
        a.begin(&first).unwrap();
        // Who may have missed that all accepted it says so by its old layout, also where the numbers are the same.
        let same = LayoutTag::of(&Layout { version: 7, ..base() });
        for tag in [before, same] {
            let tell = Effect::Send { to: node('b'), message: Message::Chosen(Arc::clone(&first)) };
            assert_eq!(a.handle(Event::News { peer: node('b'), tag }), [tell]);
        }
    }
}
