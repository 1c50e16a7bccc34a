//! A program's frame: parse, generate, run, report; the same for all four.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, BufWriter, Write};
use std::panic;
use std::process::ExitCode;

use clap::error::ErrorKind;

use super::exit::{self, Exit};
use super::failure::{Failure, json_wanted, report};
use super::generate::{self, Generate};

/// Bytes of output collected before they are written.
const OUTPUT_BUFFER_BYTES: usize = 64 << 10;

/// What a man page says beyond the flags.
#[derive(Clone, Copy, Debug)]
pub struct Manual {
    /// The program's name.
    pub program: &'static str,
    /// What it is, in a paragraph or two.
    pub description: &'static str,
    /// A comment line, then commands: the way people first meet the program.
    pub examples: &'static str,
    /// Environment variables and what they do.
    pub environment: &'static [(&'static str, &'static str)],
    /// Files and what they hold.
    pub files: &'static [(&'static str, &'static str)],
    /// The other man pages to read.
    pub see_also: &'static [&'static str],
}

/// A program: its flags as a clap parser, and what to do with them.
pub trait Program: clap::Parser {
    /// What its man page says.
    const MANUAL: Manual;

    /// Which text `--generate` asks for, if any.
    fn generate(&self) -> Option<Generate>;

    /// Does its job. Data goes to `out`, talk to stderr.
    /// # Errors
    /// Whatever ends the program; [`report`] tells it.
    fn run(self, out: &mut dyn Write) -> anyhow::Result<Exit>;

    /// Its flags, with examples and exit codes behind them.
    fn described() -> clap::Command {
        let manual = Self::MANUAL;
        let examples = format!("Examples:\n{}", indented(manual.examples));
        let environment = match manual.environment {
            [] => String::new(),
            variables => format!("\nEnvironment:\n{}", pairs(variables)),
        };
        Self::command()
            .version(generate::version())
            .after_help(examples.clone())
            .after_long_help(format!("{examples}{environment}\nExit codes:\n{}", exit::table()))
    }
}

/// Runs a program from its command line to its exit code.
pub fn main<P: Program>() -> ExitCode {
    end_at_panics(P::MANUAL.program);
    let mut out = BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, io::stdout().lock());
    let result = parse_and_run::<P>(&mut out);
    let flushed = out.flush();
    // What was in the buffer of a failed flush is not written again when the buffer is dropped.
    let (_, _) = out.into_parts();
    match (result, flushed) {
        (Ok(exit), Ok(())) => exit.into(),
        (Err(error), _) => report(P::MANUAL.program, &error),
        (Ok(_), Err(error)) => {
            let error = anyhow::Error::new(error).context("writing to stdout");
            report(P::MANUAL.program, &error)
        }
    }
}

/// From now on a panic on any thread ends the process at once with exit 70: a node whose log thread or core broke a
/// promise must not go on half alive.
fn end_at_panics(program: &'static str) {
    panic::set_hook(Box::new(move |info| {
        let said = info.payload_as_str().unwrap_or("a panic without words");
        let place = info.location().map_or_else(String::new, |at| format!(" ({at})"));
        let failure = Failure::new(Exit::Bug, format!("a bug of ours: {said}{place}"));
        let trace = Backtrace::capture();
        let failure = match trace.status() {
            BacktraceStatus::Captured => failure.note(trace.to_string()),
            _ => failure,
        };
        let _ = report(program, &failure.into());
        std::process::exit(Exit::Bug.code().into());
    }));
}

fn parse_and_run<P: Program>(out: &mut dyn Write) -> anyhow::Result<Exit> {
    let matches = match P::described().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return unparsed(&error),
    };
    let program = match P::from_arg_matches(&matches) {
        Ok(program) => program,
        Err(error) => return unparsed(&error),
    };
    if let Some(what) = program.generate() {
        generate::write(what, P::described(), &P::MANUAL, out)?;
        return Ok(Exit::Done);
    }
    program.run(out)
}

/// Help, a version, or a usage error.
fn unparsed(error: &clap::Error) -> anyhow::Result<Exit> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            error.print()?;
            Ok(Exit::Done)
        }
        _ if json_wanted(std::env::args_os()) => {
            let text = error.render().to_string();
            // The first paragraph says what is wrong, the others how to do better.
            let said = text.lines().map(str::trim).take_while(|line| !line.is_empty());
            let said = said.collect::<Vec<_>>().join(" ");
            Err(Failure::usage(said.strip_prefix("error: ").unwrap_or(&said)).into())
        }
        _ => {
            error.print()?;
            Ok(Exit::Usage)
        }
    }
}

fn pairs(entries: &[(&str, &str)]) -> String {
    let line = |(name, what): &(&str, &str)| format!("  {name}  {what}\n");
    entries.iter().map(line).collect::<Vec<_>>().concat()
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set for the process that is to panic.
    const PANICS: &str = "KVKIT_TEST_PANICS";

    #[test]
    fn a_panic_on_any_thread_ends_the_program_with_70() {
        if std::env::var_os(PANICS).is_some() {
            end_at_panics("kvtest");
            let never = std::thread::spawn(|| panic!("keys must ascend")).join();
            unreachable!("the process went on: {never:?}");
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cli::program::tests::a_panic_on_any_thread_ends_the_program_with_70",
            ])
            .env(PANICS, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(70), "{told}");
        assert!(
            told.starts_with("kvtest: a bug of ours: keys must ascend (src/cli/program.rs:"),
            "{told}"
        );
    }
}
