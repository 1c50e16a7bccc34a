//! Exit codes: one table for all four programs (after `sysexits.h`), rendered into every man page and `--help`.

use std::process::ExitCode;

/// How a program ended. Scripts depend on these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done; yes.
    Done = 0,
    /// A clean "no".
    No = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Siblings, or a stale expectation.
    Siblings = 3,
    /// A batch ended and some of its records failed.
    Partial = 4,
    /// Bytes that cannot be used.
    BadData = 65,
    /// An input is missing.
    NoInput = 66,
    /// No node is reachable.
    Unavailable = 69,
    /// A bug of ours.
    Bug = 70,
    /// The operating system refused.
    System = 71,
    /// The output cannot be created.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// The same may succeed later.
    TryAgain = 75,
    /// Two sides that do not fit together.
    Protocol = 76,
    /// Not allowed.
    NotAuthorised = 77,
    /// Bad configuration.
    Config = 78,
    /// Ctrl-C.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

/// Every exit code, ascending.
pub const ALL: [Exit; 18] = [
    Exit::Done,
    Exit::No,
    Exit::Usage,
    Exit::Siblings,
    Exit::Partial,
    Exit::BadData,
    Exit::NoInput,
    Exit::Unavailable,
    Exit::Bug,
    Exit::System,
    Exit::CannotCreate,
    Exit::Io,
    Exit::TryAgain,
    Exit::Protocol,
    Exit::NotAuthorised,
    Exit::Config,
    Exit::Interrupted,
    Exit::Terminated,
];

impl Exit {
    /// The number a shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it tells a person.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, yes (deleting an absent key too)",
            Self::No => {
                "a clean \"no\": key absent (mget: any), differs, check found something, bloom says absent"
            }
            Self::Usage => "usage: flags, W > N",
            Self::Siblings => "siblings, and no choice was made; a stale --if-context or --expect",
            Self::Partial => "a batch ended, some records failed (each on stderr)",
            Self::BadData => "bad data: checksum, malformed record or token, pair or key too large",
            Self::NoInput => "input missing",
            Self::Unavailable => "no node reachable",
            Self::Bug => "a bug of ours",
            Self::System => "the system refused: port taken, out of file handles",
            Self::CannotCreate => "cannot create the output",
            Self::Io => "I/O error, failed fsync, disk full",
            Self::TryAgain => {
                "try again: quorum not met, timeout, overload, directory locked, 100 siblings, corrupt range not yet repaired"
            }
            Self::Protocol => "protocol or version mismatch, wrong cluster, copied identity",
            Self::NotAuthorised => "not authorised, removed member",
            Self::Config => "bad configuration",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }

    /// The default `code` of a JSON error that ends so.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::No => "no",
            Self::Usage => "usage",
            Self::Siblings => "siblings",
            Self::Partial => "partial",
            Self::BadData => "bad_data",
            Self::NoInput => "no_input",
            Self::Unavailable => "unavailable",
            Self::Bug => "internal",
            Self::System => "system",
            Self::CannotCreate => "cannot_create",
            Self::Io => "io",
            Self::TryAgain => "try_again",
            Self::Protocol => "protocol",
            Self::NotAuthorised => "not_authorised",
            Self::Config => "config",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }

    /// The code for an I/O error that nobody gave a better one.
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => Self::NoInput,
            ErrorKind::PermissionDenied => Self::NotAuthorised,
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => Self::System,
            ErrorKind::AlreadyExists => Self::CannotCreate,
            ErrorKind::InvalidData => Self::BadData,
            _ if error.raw_os_error() == Some(nix::errno::Errno::EMFILE as i32) => Self::System,
            _ => Self::Io,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table as lines of text, for `--help`.
pub fn table() -> String {
    let line = |exit: &Exit| format!("  {:>3}  {}\n", exit.code(), exit.meaning());
    ALL.iter().map(line).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_the_table_names_each() {
        assert!(ALL.windows(2).all(|pair| pair[0] < pair[1]), "ascending, so none twice");
        let table = table();
        for exit in ALL {
            let line = format!("{:>3}  {}\n", exit.code(), exit.meaning());
            assert!(table.contains(&line), "{line}");
        }
    }
}
