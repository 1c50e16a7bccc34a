//! Where settings come from: flags over environment over file over defaults, each value with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key};
use super::{ConfigError, Problem};
use crate::cli::human::line_and_column;

/// What sets a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing.
    Default,
    /// A line of the file; both from 1.
    File {
        /// The file.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A `--set` flag.
    Flag,
}

/// A value, not yet looked at, and what set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value; several for a list.
    pub texts: Vec<String>,
    /// What set it.
    pub origin: Origin,
}

/// Every key's setting, by path.
pub type Settings = BTreeMap<&'static str, Setting>;

/// Lays flags (`section.name=value`) over environment over file over defaults.
/// # Errors
/// [`ConfigError`] with every problem found: unknown keys, values of no possible type.
pub fn gather(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[String],
) -> Result<Settings, ConfigError> {
    let mut settings: Settings =
        KEYS.iter().map(|key| (key.path, Setting::of(key, key.default, Origin::Default))).collect();
    let mut problems = Vec::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        add_file(path, &text, &mut settings, &mut problems);
    }
    add_environment(environment, &mut settings, &mut problems);
    for flag in flags {
        let (path, value) = flag.split_once('=').unwrap_or((flag, ""));
        match Key::find(path) {
            Some(key) => drop(settings.insert(key.path, Setting::of(key, value, Origin::Flag))),
            None => problems.push(unknown(Origin::Flag, path)),
        }
    }
    if problems.is_empty() { Ok(settings) } else { Err(ConfigError::Problems(problems)) }
}

fn add_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    settings: &mut Settings,
    problems: &mut Vec<Problem>,
) {
    for (variable, value) in environment {
        let ours = variable.strip_prefix("KVNODE_").filter(|rest| rest.contains("__"));
        let Some(rest) = ours else { continue };
        let origin = Origin::Environment(variable.clone());
        match KEYS.iter().find(|key| key.variable() == variable) {
            Some(key) => drop(settings.insert(key.path, Setting::of(key, &value, origin))),
            None => problems.push(unknown(origin, &rest.to_lowercase().replacen("__", ".", 1))),
        }
    }
}

fn add_file(path: &Path, text: &str, settings: &mut Settings, problems: &mut Vec<Problem>) {
    let origin = |at: usize| {
        let (line, column) = line_and_column(text, at);
        Origin::File { path: path.to_owned(), line, column }
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            problems.push(Problem { origin: origin(at), text: error.message().to_owned() });
            return;
        }
    };
    for (section, value) in table.get_ref() {
        let DeValue::Table(entries) = value.get_ref() else {
            problems.push(unknown(origin(section.span().start), section.get_ref()));
            continue;
        };
        let known = KEYS.iter().any(|key| key.parts().0 == section.get_ref().as_ref());
        if !known {
            let text = format!("unknown section [{}]", section.get_ref());
            problems.push(Problem { origin: origin(section.span().start), text });
            continue;
        }
        for (name, value) in entries {
            let path = format!("{}.{}", section.get_ref(), name.get_ref());
            let at = origin(name.span().start);
            let Some(key) = Key::find(&path) else {
                problems.push(unknown(at, &path));
                continue;
            };
            match texts(value) {
                Some(texts) => drop(settings.insert(key.path, Setting { texts, origin: at })),
                None => problems.push(Problem {
                    origin: origin(value.span().start),
                    text: format!("{path}: expected {}", key.form),
                }),
            }
        }
    }
}

/// A TOML value as the texts that the typed reading takes; `None` for what no key can be.
fn texts(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    match value.get_ref() {
        DeValue::String(text) => Some(vec![text.to_string()]),
        DeValue::Integer(number) => Some(vec![number.to_string()]),
        DeValue::Float(number) => Some(vec![number.to_string()]),
        DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
        DeValue::Array(items) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            })
            .collect(),
    }
}

fn unknown(origin: Origin, path: &str) -> Problem {
    let section = path.split('.').next().unwrap_or_default();
    let names: Vec<&str> = KEYS
        .iter()
        .map(Key::parts)
        .filter_map(|(of, name)| (of == section).then_some(name))
        .collect();
    let text = if names.is_empty() {
        format!("unknown key `{path}`")
    } else {
        format!("unknown key `{path}`; [{section}] knows {}", names.join(", "))
    };
    Problem { origin, text }
}

impl Setting {
    fn of(key: &Key, value: &str, origin: Origin) -> Self {
        let texts = match key.form {
            super::keys::Form::List => value
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect(),
            _ => vec![value.to_owned()],
        };
        Self { texts, origin }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Environment(variable) => write!(f, "{variable}"),
            Self::Flag => write!(f, "--set"),
        }
    }
}
