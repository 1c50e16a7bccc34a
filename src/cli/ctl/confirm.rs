//! Asking before something is gone for good.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::cli::failure::Failure;

/// Goes on where the command line says yes, or a person does. Off a terminal nobody is asked.
/// # Errors
/// Exit 2 naming the flag where there is nobody to ask, and where the answer is another one; those of the terminal.
pub(crate) fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!("{question}: say --yes")).into());
    }
    let mut answer = String::new();
    write!(io::stderr().lock(), "kvctl: {question}? [y/N] ")?;
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::usage("not confirmed").into()),
    }
}
