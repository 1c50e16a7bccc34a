//! `check-config` and `config show`.

use std::io::Write;

use serde_json::json;

use super::ConfigArgs;
use super::config::{self, Config, ConfigError, KEYS, gather};
use crate::cli::{Common, Exit, Failure, Format};
use crate::runtime;

/// Reads a configuration, with the exit code that a bad one ends a program with.
pub(super) fn load(args: &ConfigArgs) -> Result<Config, Failure> {
    Config::load(args.config.as_deref(), &args.set).map_err(failure)
}

/// A bad configuration as a failure: 78, or 66 where the file is missing.
pub(super) fn failure(error: ConfigError) -> Failure {
    match error {
        ConfigError::Read { path, source } => {
            let exit = Exit::of_io(&source);
            Failure::new(exit, format!("cannot read {}", path.display())).because(source)
        }
        ConfigError::Problems(problems) => {
            let mut lines = problems.iter().map(ToString::to_string);
            let first = lines.next().unwrap_or_default();
            lines.fold(Failure::new(Exit::Config, first), Failure::note)
        }
    }
}

pub(super) fn check(args: &ConfigArgs, common: &Common) -> anyhow::Result<Exit> {
    let config = load(args)?;
    if !common.quiet {
        let name =
            args.config.as_ref().map_or("defaults".into(), |file| file.display().to_string());
        match runtime::admin_socket(&config.data_dir) {
            Ok(_) => writeln!(std::io::stderr(), "{name}: good")?,
            Err(error) => {
                writeln!(std::io::stderr(), "{name}: good, but no admin socket: {error}")?;
            }
        }
    }
    Ok(Exit::Done)
}

pub(super) fn show(
    args: &ConfigArgs,
    origin: bool,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let settings = gather(args.config.as_deref(), std::env::vars(), &args.set).map_err(failure)?;
    for key in KEYS {
        let Some(setting) = settings.get(key.path) else { continue };
        let value = config::toml_value(key, &setting.texts);
        match common.format() {
            Format::Json => {
                let mut line = json!({"v": 1, "type": "setting", "key": key.path, "value": value});
                if origin {
                    line["origin"] = setting.origin.to_string().into();
                }
                writeln!(out, "{line}")?;
            }
            Format::Plain if origin => {
                writeln!(out, "{}\t{value}\t{}", key.path, setting.origin)?;
            }
            Format::Plain => writeln!(out, "{}\t{value}", key.path)?,
            Format::Human if origin => {
                writeln!(out, "{:<44} # {}", format!("{} = {value}", key.path), setting.origin)?;
            }
            Format::Human => writeln!(out, "{} = {value}", key.path)?,
        }
    }
    Ok(Exit::Done)
}
