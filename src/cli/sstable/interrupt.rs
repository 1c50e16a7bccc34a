//! Ctrl-C and SIGTERM: 130 and 143, as `kill` and `$?` know them, and as a parent's `wait` sees them.

use std::io::Write as _;
use std::thread;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::exit::Exit;

/// Ends the process when a signal asks for it. What it wrote so far has no footer, or a temporary name.
/// # Errors
/// Those of listening.
pub(super) fn end_on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("handling signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("handling signals");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    let wait = move || {
        let exit = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => Exit::Interrupted,
                _ = terminate.recv() => Exit::Terminated,
            }
        });
        // The line of a progress bar ends here.
        let _ = writeln!(std::io::stderr());
        std::process::exit(i32::from(exit.code()));
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("handling signals")?;
    Ok(())
}
