//! kvnode's log: lines on stderr, by a filter that SIGHUP can change.

use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use super::config::LogFormat;

/// Changes the filter of the running log.
pub(super) type FilterHandle = reload::Handle<EnvFilter, Registry>;

/// Begins logging. `filter` has been checked.
/// # Errors
/// A filter that is none, or a log that was begun before.
pub(super) fn begin(filter: &str, format: LogFormat) -> anyhow::Result<FilterHandle> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(filter)?);
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // systemd sets this for services whose stderr is the journal, which has times of its own.
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = match format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Auto if is_journal => lines.without_time().boxed(),
        LogFormat::Auto | LogFormat::Text => lines.boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(handle)
}
