//! Flags that all four programs share, and what follows from them.

use std::io::IsTerminal;

use clap::{ArgAction, Args, ValueEnum};

/// Flags of every program.
#[derive(Args, Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Common {
    /// Say more on stderr: what is tried again, with -vv every connection, with -vvv everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Shared options")]
    pub verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Shared options")]
    pub quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = ColorChoice::Auto, help_heading = "Shared options")]
    pub color: ColorChoice,
    /// Print one JSON object a line, errors included
    #[arg(long, global = true, conflicts_with = "plain", help_heading = "Shared options")]
    pub json: bool,
    /// Print tab-separated fields without a heading
    #[arg(long, global = true, help_heading = "Shared options")]
    pub plain: bool,
    /// Print plain integers (bytes, microseconds) instead of human units; kvctl import: restore whole states
    #[arg(long, global = true, help_heading = "Shared options")]
    pub exact: bool,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The form of what goes to stdout. It never depends on the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// Tab-separated, for `cut` and `awk`.
    Plain,
    /// One JSON object a line.
    Json,
}

/// The colours in use; all empty where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    enabled: bool,
}

impl Common {
    /// The form of the output.
    pub const fn format(&self) -> Format {
        match (self.json, self.plain) {
            (true, _) => Format::Json,
            (false, true) => Format::Plain,
            (false, false) => Format::Human,
        }
    }

    /// Colours for stdout.
    pub fn palette(&self) -> Palette {
        let enabled = match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
                std::io::stdout().is_terminal()
                    && set("NO_COLOR").is_none()
                    && set("TERM").is_none_or(|term| term != "dumb")
            }
        };
        Palette { enabled }
    }

    /// Sends the library's talk to stderr, as much as `-v` asks for; without it none.
    pub fn start_talk(&self) {
        let level = match self.verbose {
            0 => return,
            1 => tracing::Level::INFO,
            2 => tracing::Level::DEBUG,
            _ => tracing::Level::TRACE,
        };
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_target(false)
            .with_ansi(false)
            .init();
    }

    /// A size in the form asked for: `1.2 GiB`, or with `--exact` and in `--plain` the bytes.
    pub fn size(&self, bytes: u64) -> String {
        if self.exact || self.plain { bytes.to_string() } else { super::human::size(bytes) }
    }

    /// A count in the form asked for: `81 k`, or the number.
    pub fn count(&self, number: u64) -> String {
        if self.exact || self.plain { number.to_string() } else { super::human::count(number) }
    }

    /// A span in the form asked for: `1.9ms`, or the microseconds.
    pub fn span(&self, micros: u64) -> String {
        if self.exact || self.plain {
            micros.to_string()
        } else {
            super::human::duration(std::time::Duration::from_micros(micros))
        }
    }
}

impl Palette {
    /// No colours.
    pub const NONE: Self = Self { enabled: false };

    /// Whether colours are shown at all.
    pub const fn enabled(self) -> bool {
        self.enabled
    }

    /// `text` in bold.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// `text` as something good.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// `text` as something to look at.
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// `text` as something bad.
    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// `text` in 24-bit colour.
    pub fn rgb(self, (red, green, blue): (u8, u8, u8), text: &str) -> String {
        self.paint(&format!("38;2;{red};{green};{blue}"), text)
    }

    fn paint(self, sequence: &str, text: &str) -> String {
        if self.enabled { format!("\x1b[{sequence}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
