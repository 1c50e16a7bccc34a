//! Planted bugs: each breaks one rule on purpose, so that the simulator can show that it would notice.
//!
//! They exist with the cargo feature `planted-bugs` only; without it [`is_on`] is `false` at compile time and nothing
//! of this is left. One build holds them all: a run turns one on for its own thread (`tests/simulation/planted.rs`).

/// A rule that is broken on purpose, named for what is done instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    not(feature = "planted-bugs"),
    expect(unreachable_pub, reason = "tests choose one, where bugs can be planted")
)]
pub enum Bug {
    /// The log is not synced before it counts as durable.
    LogSyncSkipped,
    /// The directory of tables is not synced after a flush.
    DirectorySyncSkipped,
    /// A log that failed to sync is synced once more, and believed.
    FailedSyncRetried,
    /// A log record is believed without its checksum.
    LogChecksumUnread,
    /// An answer leaves before what it speaks of is durable.
    AnswerBeforeDurable,
    /// A merge that changes nothing is acknowledged though what it found is not durable.
    KnownStateCountsAtOnce,
    /// The coordinator counts its own write before it is durable.
    OwnWriteCountsAtOnce,
    /// A write is acknowledged with one acknowledgement too few.
    AcknowledgedBeforeQuorum,
    /// A merge keeps the version with the latest timestamp alone.
    LastWriterWins,
    /// A write's counter starts again at 1.
    CounterStartsAgain,
    /// A start that was not clean goes on under the old epoch.
    EpochKeptAfterCrash,
    /// A start on a disk that others saw go further goes on all the same.
    RollbackUnnoticed,
    /// A start does not consume the clean mark.
    CleanMarkKept,
    /// Dropping a state raises neither floor nor epoch.
    NothingRisesOnDrop,
    /// A key without a value is forgotten at once.
    TombstonesForgottenAtOnce,
    /// Hints of an earlier life are not found again.
    HintsNotFoundAgain,
    /// A put that is known is written again.
    KnownPutWrittenAgain,
    /// A strict get answers what too few owners hold.
    StrictGetUnheld,
    /// Stand-ins count for strict requests.
    StandInsCountForStrict,
    /// A state with siblings does not change its slot's leaf.
    LeafMissed,
    /// Of two replicas that differ the one that looks newer gives, in every round, and takes nothing back.
    NewerSideAlwaysGives,
    /// While a change runs strict requests ask the owners that go alone.
    GainersUncounted,
}

/// Whether this thread runs with `bug`.
#[cfg(feature = "planted-bugs")]
pub(crate) fn is_on(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// No bug is planted in this build.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_on(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    /// All that schedules of chance catch; `GainersUncounted`, which they catch too seldom, has a script of its own.
    pub const ALL: [Self; 21] = [
        Self::LogSyncSkipped,
        Self::DirectorySyncSkipped,
        Self::FailedSyncRetried,
        Self::LogChecksumUnread,
        Self::AnswerBeforeDurable,
        Self::KnownStateCountsAtOnce,
        Self::OwnWriteCountsAtOnce,
        Self::AcknowledgedBeforeQuorum,
        Self::LastWriterWins,
        Self::CounterStartsAgain,
        Self::EpochKeptAfterCrash,
        Self::RollbackUnnoticed,
        Self::CleanMarkKept,
        Self::NothingRisesOnDrop,
        Self::TombstonesForgottenAtOnce,
        Self::HintsNotFoundAgain,
        Self::KnownPutWrittenAgain,
        Self::StrictGetUnheld,
        Self::StandInsCountForStrict,
        Self::LeafMissed,
        Self::NewerSideAlwaysGives,
    ];
}

/// Turns a bug on for this thread, or all of them off.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
