//! Failures: what a person reads in one line and a script in one JSON object.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::exit::Exit;
use super::json::{Object, serialized};

/// A failure that knows its exit code. Anything else that ends a program is judged by [`exit_of`].
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    code: String,
    message: String,
    notes: Vec<String>,
    details: Vec<(String, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// A failure that ends the program with `exit`; `message` starts lower-case and has no full stop.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: exit.word().to_owned(),
            message: message.into(),
            notes: Vec::new(),
            details: Vec::new(),
            source: None,
        }
    }

    /// The command line is wrong: exit 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Bytes that cannot be used: exit 65.
    pub fn bad_data(message: impl Into<String>) -> Self {
        Self::new(Exit::BadData, message)
    }

    /// A file that was to be written and was not: exit 73 where it could not be made, 74 where it filled the disk or
    /// failed on the way.
    pub fn not_written(path: &str, error: io::Error) -> Self {
        let exit = match Exit::of_io(&error) {
            Exit::Io if !is_no_place(error.kind()) => Exit::Io,
            _ => Exit::CannotCreate,
        };
        Self::new(exit, format!("cannot write {path}")).because(error)
    }

    /// With a `code` of its own in JSON, finer than the exit code's.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }

    /// With a further line for people (JSON does not have it).
    #[must_use]
    pub fn note(mut self, line: impl Into<String>) -> Self {
        self.notes.push(line.into());
        self
    }

    /// With a further field for programs (people do not see it).
    #[must_use]
    pub fn detail(self, name: &str, value: impl Serialize) -> Self {
        let json = serialized(&value).into_owned();
        self.raw_detail(name, json)
    }

    /// With a further field for programs whose value is JSON text already.
    #[must_use]
    pub fn raw_detail(mut self, name: &str, json: String) -> Self {
        self.details.push((name.to_owned(), json));
        self
    }

    /// With its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// How the program ends.
    pub const fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// The exit code of any error: a [`Failure`] knows it, an I/O error suggests one, anything else is a bug of ours.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(failure) = failure_in(error) {
        return failure.exit;
    }
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map_or(Exit::Bug, Exit::of_io)
}

/// Tells stderr why the program ends, as one line with the chain of causes, or as one JSON object where the command
/// line says `--json`. A closed pipe ends the program quietly.
pub fn report(program: &str, error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return Exit::Done.into();
    }
    tell(program, error);
    exit_of(error).into()
}

/// Tells stderr what went wrong, as [`report`] does, where the program goes on.
pub fn tell(program: &str, error: &anyhow::Error) {
    let text = if json_wanted(std::env::args_os()) {
        format!("{}\n", as_json(error))
    } else {
        as_text(program, error)
    };
    // Where stderr is gone too there is nobody left to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Whether a command line asks for JSON; looked up in its words, since errors of its parsing are reported too.
pub fn json_wanted(arguments: impl IntoIterator<Item = OsString>) -> bool {
    arguments.into_iter().take_while(|word| word != "--").any(|word| word == "--json")
}

/// The error as people read it.
pub fn as_text(program: &str, error: &anyhow::Error) -> String {
    let mut text = format!("{program}: {error:#}\n");
    for note in failure_in(error).iter().flat_map(|failure| &failure.notes) {
        text.push_str("  ");
        text.push_str(note);
        text.push('\n');
    }
    text
}

/// The error as programs read it.
pub fn as_json(error: &anyhow::Error) -> String {
    let exit = exit_of(error);
    let failure = failure_in(error);
    let code = failure.map_or(exit.word(), |failure| &failure.code);
    failure
        .iter()
        .flat_map(|failure| &failure.details)
        .fold(
            Object::new("error").field("code", code).field("message", format!("{error:#}")),
            |object, (name, json)| object.raw(name, json),
        )
        .field("exit", exit.code())
        .finish()
}

fn failure_in(error: &anyhow::Error) -> Option<&Failure> {
    // `downcast_ref` on the outside also finds a failure used as context; the chain finds one inside.
    error
        .downcast_ref::<Failure>()
        .or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Failure>()))
}

/// Whether the error says that the place itself cannot hold a file.
const fn is_no_place(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::InvalidFilename
    )
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    failure_in(error).is_none()
        && error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn missing() -> io::Error {
        io::Error::new(io::ErrorKind::NotFound, "no such file")
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = anyhow::Error::new(missing()).context("opening data.ndjson");
        assert_eq!(as_text("kvctl", &error), "kvctl: opening data.ndjson: no such file\n");
        assert_eq!(exit_of(&error), Exit::NoInput);
    }

    #[test]
    fn a_failure_keeps_its_code_under_further_context() {
        let failure = Failure::bad_data("line 3: no key").detail("line", 3).note("see line 3");
        let error = Err::<(), _>(failure).context("importing x").unwrap_err();
        assert_eq!(exit_of(&error), Exit::BadData);
        assert_eq!(as_text("kvctl", &error), "kvctl: importing x: line 3: no key\n  see line 3\n");
        let json = as_json(&error);
        assert!(json.contains(r#""exit":65"#) && json.contains(r#""line":3"#), "{json}");
    }

    #[test]
    fn a_file_that_cannot_be_made_is_73_and_one_that_failed_74() {
        use io::ErrorKind::{IsADirectory, NotFound, PermissionDenied, StorageFull};
        for (kind, exit) in [
            (NotFound, Exit::CannotCreate),
            (PermissionDenied, Exit::CannotCreate),
            (IsADirectory, Exit::CannotCreate),
            (StorageFull, Exit::Io),
        ] {
            assert_eq!(Failure::not_written("x", kind.into()).exit(), exit, "{kind}");
        }
    }

    #[test]
    fn json_is_wanted_before_the_double_dash_only() {
        let wanted = |words: &[&str]| json_wanted(words.iter().map(OsString::from));
        assert!(wanted(&["kvctl", "get", "k", "--json"]));
        assert!(!wanted(&["kvctl", "put", "k", "--", "--json"]));
    }

    #[test]
    fn an_unknown_error_is_our_bug() {
        assert_eq!(exit_of(&anyhow::anyhow!("?")), Exit::Bug);
    }
}
