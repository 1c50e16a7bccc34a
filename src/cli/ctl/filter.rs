//! A program that makes a value: what stands on its stdin, its stdout instead. No shell takes part.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

/// What `command` prints when it is fed `input`. It is killed when it prints more than `bytes_max`, and with us.
/// # Errors
/// Exit 1 where it fails, 65 where it prints too much, 66 where there is no such program, 71 where it cannot be
/// started, 74 where talking to it fails.
pub(super) async fn filtered(
    command: &[OsString],
    input: &[u8],
    bytes_max: usize,
) -> anyhow::Result<Bytes> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("no command to run").into());
    };
    let shown = program.display().to_string();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| not_started(&shown, error))?;
    let output = exchange(&mut child, input, bytes_max).await.map_err(|error| {
        Failure::new(Exit::Io, format!("cannot talk to {shown}")).because(error)
    })?;
    if bytes_max < output.len() {
        // Dropped, it is killed.
        let message =
            format!("{shown} printed more than the {bytes_max} bytes that a value may have");
        return Err(Failure::bad_data(message).code("too_large").into());
    }
    let status = child.wait().await.map_err(|error| {
        Failure::new(Exit::Io, format!("cannot wait for {shown}")).because(error)
    })?;
    if status.success() { Ok(output.into()) } else { Err(failed(&shown, status).into()) }
}

/// Writes all of `input` and reads all of the output, both at once; of the output at most a byte more than allowed.
async fn exchange(child: &mut Child, input: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let feed = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        match stdin.write_all(input).await {
            // It need not read what it does not want to know.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome,
        }
    };
    let collect = async {
        let mut output = Vec::new();
        let Some(stdout) = stdout else { return Ok(output) };
        stdout.take(bytes_max as u64 + 1).read_to_end(&mut output).await?;
        Ok(output)
    };
    tokio::pin!(feed, collect);
    tokio::select! {
        outcome = &mut feed => {
            outcome?;
            collect.await
        }
        // Who has closed its output, or printed too much, reads no further for our purposes.
        outcome = &mut collect => outcome,
    }
}

fn not_started(shown: &str, error: io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NoInput,
        _ => Exit::System,
    };
    Failure::new(exit, format!("cannot start {shown}")).because(error)
}

fn failed(shown: &str, status: ExitStatus) -> Failure {
    let message = format!("{shown} failed ({status}); nothing was written");
    Failure::new(Exit::No, message)
        .code("command_failed")
        .detail("status", status.code())
        .detail("outcome", "not_applied")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &[&str], input: &[u8], bytes_max: usize) -> anyhow::Result<Bytes> {
        let command: Vec<OsString> = command.iter().map(OsString::from).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(filtered(&command, input, bytes_max))
    }

    #[track_caller]
    fn check_fails(command: &[&str], exit: Exit, told: &str) {
        let error = run(command, b"in", 100).unwrap_err();
        assert_eq!(crate::cli::failure::exit_of(&error), exit, "{error:#}");
        assert!(format!("{error:#}").contains(told), "{error:#}");
    }

    #[test]
    fn bytes_go_in_and_come_out_as_they_are() {
        let every_byte: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        assert_eq!(run(&["cat"], &every_byte, 1 << 20).unwrap(), every_byte);
        assert_eq!(run(&["cat"], b"", 0).unwrap(), "");
        // A word is a word, whatever a shell would make of it.
        assert_eq!(run(&["printf", "%s", "$HOME; *"], b"", 100).unwrap(), "$HOME; *");
    }

    #[test]
    fn who_does_not_read_may_still_print() {
        assert_eq!(run(&["echo", "x"], &vec![0; 1 << 20], 100).unwrap(), "x\n");
    }

    #[test]
    fn what_fails_is_told_apart() {
        check_fails(&["false"], Exit::No, "false failed (exit status: 1)");
        check_fails(&["sh", "-c", "echo out; exit 3"], Exit::No, "sh failed (exit status: 3)");
        check_fails(&["sh", "-c", "kill -9 $$"], Exit::No, "signal: 9");
        check_fails(&["/no/such/program"], Exit::NoInput, "cannot start /no/such/program");
        check_fails(&["/dev/null"], Exit::System, "cannot start /dev/null");
        check_fails(&["yes"], Exit::BadData, "more than the 100 bytes");
    }
}
