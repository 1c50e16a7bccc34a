//! `--require`: the least that a reply must promise.

use clap::{Args, ValueEnum};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::serialized;
use crate::replication::Guarantee;

/// What a reply must promise.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Requirement {
    /// Exit 75 where the reply promises less; a write that was done by then stays done, and the error says so
    #[arg(long, value_enum, value_name = "GUARANTEE")]
    require: Option<Required>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Required {
    /// R + W > N: a read meets every write, though stand-ins may have counted
    Overlap,
    /// The same among owners only: no read goes back behind an acknowledged write
    Strict,
}

/// What the request was, for what is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Nothing was changed.
    Read,
    /// The write is done.
    Written,
}

impl Requirement {
    /// Holds a reply's promise against what was required.
    /// # Errors
    /// Exit 75.
    pub(super) fn check(self, given: Guarantee, deed: Deed) -> Result<(), Failure> {
        let wanted = match self.require {
            None => return Ok(()),
            Some(Required::Overlap) => Guarantee::Overlap,
            Some(Required::Strict) => Guarantee::Strict,
        };
        if wanted <= given {
            return Ok(());
        }
        let [given_word, wanted_word] =
            [given, wanted].map(|guarantee| serialized(&guarantee).trim_matches('"').to_owned());
        let message = format!("the reply promises `{given_word}`, and `{wanted_word}` is required");
        let failure = Failure::new(Exit::TryAgain, message)
            .code("guarantee_unmet")
            .detail("guarantee", given)
            .detail("required", wanted);
        Err(match deed {
            Deed::Read => failure.detail("retry", true),
            Deed::Written => {
                failure.note("it was written all the same (applied)").detail("outcome", "applied")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_required_is_75_and_a_write_is_told_as_done() {
        use Guarantee::{Eventual, Overlap, Strict};
        let check = |require, given, deed| Requirement { require }.check(given, deed);
        for (require, met) in [
            (None, [true; 3]),
            (Some(Required::Overlap), [false, true, true]),
            (Some(Required::Strict), [false, false, true]),
        ] {
            let given = [Eventual, Overlap, Strict];
            assert_eq!(given.map(|given| check(require, given, Deed::Read).is_ok()), met);
        }
        let told = |deed| {
            let failure = check(Some(Required::Strict), Overlap, deed).unwrap_err();
            assert_eq!(failure.exit(), Exit::TryAgain);
            crate::cli::failure::as_json(&failure.into())
        };
        assert!(told(Deed::Written).contains(r#""outcome":"applied""#));
        assert!(!told(Deed::Read).contains("outcome"));
    }
}
