//! `update`: a value through a program and back, losing nothing that others wrote in between.
//!
//! The new value is written on the condition that nothing newer is there (`--if-context`). One coordinator holds that
//! condition exactly; two that cannot see each other may both let a write pass, and then both stand. Whoever finds its
//! own write beside another's runs its program again, on the other's value, and replaces both: so neither is lost. Of
//! two such commands the one whose write has the lower dot goes first; the other waits until its own write is covered,
//! which says that it was taken in.

use std::ffi::OsString;
use std::io::Write;

use bytes::Bytes;
use clap::Args;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::options::Common;
use crate::version::{Content, Dot, Siblings};
use crate::wire::client::{Done, PutBasis};

use super::filter::filtered;
use super::rewrite::{ATTEMPTS_MAX, Rewrite, RewriteFlags, Written};
use super::siblings::{dot_shown, listed, with_siblings};

/// How often who has the higher dot looks on before it goes ahead itself: the other may have ended half-way.
const YIELDS_MAX: u32 = 4;

#[derive(Args, Clone, Debug)]
pub(crate) struct UpdateArgs {
    /// The key
    key: OsString,
    /// The program and its arguments; flags of kvctl stand before it
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    flags: RewriteFlags,
}

/// What to do about what was read.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Run the program on this value, and replace all that was read.
    Apply(Option<&'a Bytes>),
    /// Our write stands alone, or who replaced it had seen it.
    Settled,
    /// Nobody here may choose yet: look again later.
    Wait,
}

/// Judges a state. `own` is the dot of our write where there was one, `yields` how often we waited since.
fn judge(state: &Siblings, own: Option<Dot>, yields: u32) -> Step<'_> {
    let listed = listed(state);
    let own = match own {
        None => None,
        Some(dot) => match state.versions().get(&dot) {
            Some(version) => Some((dot, version.request)),
            None if state.clock().covers(dot) => return Step::Settled,
            // This read did not meet our write.
            None => return Step::Wait,
        },
    };
    let mut others = listed
        .iter()
        .filter(|(_, version)| own.is_none_or(|(_, request)| version.request != request));
    match (others.next(), others.next(), own) {
        (None, _, Some(_)) => Step::Settled,
        (None, _, None) => Step::Apply(None),
        (Some((_, only)), None, None) => Step::Apply(value_of(&only.content)),
        (Some((theirs, only)), None, Some((ours, _))) => {
            if ours < *theirs || YIELDS_MAX <= yields {
                Step::Apply(value_of(&only.content))
            } else {
                Step::Wait
            }
        }
        // Deletes alone are an absent key, however many.
        (Some(_), Some(_), None) if !state.has_value() => Step::Apply(None),
        (Some(_), Some(_), _) => Step::Wait,
    }
}

const fn value_of(content: &Content) -> Option<&Bytes> {
    match content {
        Content::Value(value) => Some(value),
        Content::Tombstone => None,
    }
}

/// `update`.
pub(crate) async fn update(
    args: &UpdateArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let rewrite = Rewrite::new("update", &args.key, args.flags, session, common)?;
    let mut written: Option<Done> = None;
    let mut yields = 0;
    let mut got = rewrite.read(1).await?;
    for attempt in 2..=ATTEMPTS_MAX + 1 {
        let own = written.as_ref().and_then(|done| done.dot);
        match (judge(&got.state, own, yields), &written) {
            (Step::Settled, Some(done)) => return rewrite.finish(done, out),
            (Step::Settled, None) | (Step::Wait, _) => yields += 1,
            (Step::Apply(value), _) => {
                let input = value.map_or(&[][..], |value| value);
                let output = filtered(&args.command, input, rewrite.value_bytes_max()).await?;
                let content = Content::Value(output);
                if args.flags.dry_run {
                    return rewrite.show(&content, out);
                }
                let basis = PutBasis::IfContext(got.state.clock().clone());
                match rewrite.write(content, basis).await? {
                    Written::Done(done) if done.siblings <= 1 => return rewrite.finish(&done, out),
                    Written::Done(done) => (written, yields) = (Some(done), 0),
                    Written::Stale => {}
                }
            }
        }
        if attempt <= ATTEMPTS_MAX {
            got = rewrite.read(attempt).await?;
        }
    }
    let shown = rewrite.shown();
    let own = written.as_ref().and_then(|done| done.dot);
    let (message, outcome) = match own {
        None => (format!("{shown}: not updated in {ATTEMPTS_MAX} attempts"), "not_applied"),
        Some(dot) => {
            let dot = dot_shown(dot, session);
            (format!("{shown}: the new value is a sibling ({dot}) beside others"), "applied")
        }
    };
    let failure = Failure::new(Exit::Siblings, message);
    if got.state.siblings() <= 1 {
        return Err(failure.code("stale_context").detail("outcome", outcome).into());
    }
    Err(with_siblings(failure, &rewrite.key, &got, session).detail("outcome", outcome).into())
}

#[cfg(test)]
mod tests {
    use super::super::siblings::tests::state;
    use super::*;
    use crate::version::Basis;

    /// Judges siblings written one after the other at one node; `own` is ours, by its counter.
    #[track_caller]
    fn check(values: &[Option<&'static str>], own: Option<u64>, yields: u32, expected: &Step<'_>) {
        let writes: Vec<_> = (1..).zip(values).map(|(n, value)| (n, n, *value)).collect();
        let state = state(&writes);
        let own = own.map(|counter| {
            *state.versions().keys().find(|dot| dot.counter == counter).expect("ours stands")
        });
        assert_eq!(judge(&state, own, yields), *expected, "{values:?}, own {own:?}");
    }

    #[test]
    fn one_value_or_none_is_worked_on_and_siblings_wait() {
        let value = Bytes::from("a");
        check(&[], None, 0, &Step::Apply(None));
        check(&[None], None, 0, &Step::Apply(None));
        check(&[None, None], None, 0, &Step::Apply(None));
        check(&[Some("a")], None, 0, &Step::Apply(Some(&value)));
        check(&[Some("a"), Some("b")], None, 9, &Step::Wait);
        check(&[Some("a"), None], None, 9, &Step::Wait);
    }

    #[test]
    fn a_write_that_stands_alone_or_was_taken_in_is_settled() {
        check(&[Some("mine")], Some(1), 0, &Step::Settled);
        let mut taken_in = state(&[(1, 1, Some("mine")), (2, 2, Some("theirs"))]);
        let actor = taken_in.versions().keys().next().unwrap().actor;
        let version = taken_in.versions().values().next().unwrap().clone();
        taken_in.write(actor, &Basis::Own, 0, version).unwrap();
        assert_eq!(judge(&taken_in, Some(Dot { actor, counter: 1 }), 0), Step::Settled);
        assert_eq!(judge(&taken_in, Some(Dot { actor, counter: 7 }), 0), Step::Wait, "not met");
    }

    #[test]
    fn of_two_that_met_the_lower_dot_goes_first() {
        let other = Bytes::from("theirs");
        check(&[Some("mine"), Some("theirs")], Some(1), 0, &Step::Apply(Some(&other)));
        check(&[Some("theirs"), Some("mine")], Some(2), 0, &Step::Wait);
        check(&[Some("theirs"), Some("mine")], Some(2), YIELDS_MAX, &Step::Apply(Some(&other)));
        check(&[None, Some("mine")], Some(2), YIELDS_MAX, &Step::Apply(None));
        check(&[Some("a"), Some("b"), Some("mine")], Some(3), YIELDS_MAX, &Step::Wait);
    }
}
