//! Texts made from the flag definitions: man pages, shell completions, the version.

use std::io::{self, Write};
use std::sync::LazyLock;

use clap::{Arg, Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::exit;
use super::program::Manual;

/// What `--generate` can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generate {
    /// The man page
    Man,
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
}

/// Semantic version, git revision, and the versions of what is sent and stored.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let (wire_min, wire_max) = crate::wire::handshake::PROTOCOL;
        let wire = if wire_min == wire_max {
            wire_max.to_string()
        } else {
            format!("{wire_min}-{wire_max}")
        };
        let revision = env!("KVKIT_REVISION");
        let table = crate::storage::table::FORMAT;
        format!("{} (revision {revision}, wire {wire}, SSTable {table})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}

/// Writes the text asked for.
/// # Errors
/// Those of `out`.
pub fn write(
    what: Generate,
    command: Command,
    manual: &Manual,
    out: &mut dyn Write,
) -> io::Result<()> {
    match what {
        Generate::Man => out.write_all(&man(command, manual)?),
        Generate::Bash => completions(Shell::Bash, command, manual, out),
        Generate::Zsh => completions(Shell::Zsh, command, manual, out),
        Generate::Fish => completions(Shell::Fish, command, manual, out),
    }
}

fn completions(
    shell: Shell,
    mut command: Command,
    manual: &Manual,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, manual.program, &mut text);
    out.write_all(&text)
}

/// The man page: one for a whole program, its commands as subsections.
/// # Errors
/// None in practice: it writes to memory.
pub fn man(command: Command, manual: &Manual) -> io::Result<Vec<u8>> {
    let mut command = command
        .version(env!("CARGO_PKG_VERSION"))
        .long_about(manual.description)
        .disable_help_subcommand(true);
    command.build();
    let page = Man::new(command.clone())
        .section("1")
        .manual("kvkit")
        .source(concat!("kvkit ", env!("CARGO_PKG_VERSION")))
        .date("");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    commands(&command).to_writer(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["OPTIONS"]);
    arguments(&mut roff, &command, |_| true);
    roff.control("SH", ["EXAMPLES"]);
    literal(&mut roff, manual.examples);
    roff.control("SH", ["EXIT STATUS"]);
    for exit in exit::ALL {
        entry(&mut roff, vec![bold(exit.code().to_string())], exit.meaning());
    }
    for (heading, entries) in [("ENVIRONMENT", manual.environment), ("FILES", manual.files)] {
        if !entries.is_empty() {
            roff.control("SH", [heading]);
            for (name, what) in entries {
                entry(&mut roff, vec![bold(*name)], what);
            }
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    let pages: Vec<String> = manual.see_also.iter().map(|name| format!("{name}(1)")).collect();
    roff.text([roman(pages.join(", "))]);
    roff.to_writer(&mut text)?;
    Ok(text)
}

/// A subsection for each command, with its own flags; those of the whole program stand under OPTIONS.
fn commands(program: &Command) -> Roff {
    let mut roff = Roff::new();
    if program.get_subcommands().any(|command| !command.is_hide_set()) {
        roff.control("SH", ["COMMANDS"]);
    }
    for command in program.get_subcommands() {
        command_section(&mut roff, command);
    }
    roff
}

fn command_section(roff: &mut Roff, command: &Command) {
    if command.get_subcommands().next().is_some() {
        command.get_subcommands().for_each(|inner| command_section(roff, inner));
        return;
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    roff.control("SS", [usage.as_str()]);
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        roff.text([roman(about.to_string())]);
    }
    // What every command has stands under OPTIONS.
    arguments(roff, command, |argument| {
        !argument.is_global_set() && argument.get_id().as_str() != "help"
    });
    if let Some(examples) = command.get_after_help() {
        roff.control("PP", []);
        literal(roff, &examples.to_string());
    }
}

fn arguments(roff: &mut Roff, command: &Command, wanted: impl Fn(&Arg) -> bool) {
    for argument in command.get_arguments() {
        if wanted(argument) && !argument.is_hide_set() {
            let mut help = argument
                .get_long_help()
                .or_else(|| argument.get_help())
                .map(ToString::to_string)
                .unwrap_or_default();
            help.push_str(&choices(argument));
            entry(roff, flag(argument), &help);
        }
    }
}

/// The default and the possible values, as `--help` shows them.
fn choices(argument: &Arg) -> String {
    let mut notes = Vec::new();
    let takes_value = argument.get_num_args().is_some_and(|range| range.takes_values());
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| value.get_name().to_owned())
        .collect();
    if takes_value && !values.is_empty() {
        notes.push(format!(" [possible values: {}]", values.join(", ")));
    }
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    if takes_value && !defaults.is_empty() && !argument.is_hide_default_value_set() {
        notes.push(format!(" [default: {}]", defaults.join(" ")));
    }
    if let Some(variable) = argument.get_env() {
        notes.push(format!(" [env: {}]", variable.to_string_lossy()));
    }
    notes.concat()
}

fn flag(argument: &Arg) -> Vec<Inline> {
    let mut parts = Vec::new();
    if let Some(short) = argument.get_short() {
        parts.push(bold(format!("-{short}")));
    }
    if let Some(long) = argument.get_long() {
        if !parts.is_empty() {
            parts.push(roman(", "));
        }
        parts.push(bold(format!("--{long}")));
    }
    let takes_value = argument.get_num_args().is_some_and(|range| range.takes_values());
    if takes_value {
        let names: Vec<String> = argument.get_value_names().map_or_else(
            || vec![argument.get_id().to_string().to_uppercase()],
            |names| names.iter().map(ToString::to_string).collect(),
        );
        if !parts.is_empty() {
            parts.push(roman(" "));
        }
        parts.push(italic(names.join(" ")));
    }
    parts
}

fn entry(roff: &mut Roff, head: Vec<Inline>, text: &str) {
    roff.control("TP", []);
    roff.text(head);
    roff.text([roman(text)]);
}

fn literal(roff: &mut Roff, text: &str) {
    roff.control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}
