//! Taking the data directory, also right behind a process that is ending.
//!
//! The system frees a killed process's lock with its open files, some milliseconds after `kill -9` returned and after its
//! parent may have been told. Whoever starts the node again in that instant need not hear that it is in use.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::storage::vfs::Vfs;
use crate::storage::{DirLock, LockError};

/// Longest time that an ending process may keep the lock before it counts as in use.
const ENDING_MAX: Duration = Duration::from_secs(1);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(10);
/// Bit of the `flags` field in `/proc/PID/stat`: the process is being taken down (`PF_EXITING`).
const EXITING: u64 = 0x4;
/// Bit of SIGKILL in the masks of `/proc/PID/status`.
const KILL_PENDING: u64 = 1 << (Signal::SIGKILL as u64 - 1);
/// Where `flags` stands behind the program's name in that file, counted from 0; `state` is the first.
const FLAGS_FIELD: usize = 6;

/// Locks `dir` for this process. Where the holder is ending it waits for that, at most [`ENDING_MAX`].
/// # Errors
/// [`LockError`]: at once while the holder runs.
pub(super) async fn lock(vfs: &dyn Vfs, dir: &Path) -> Result<DirLock, LockError> {
    let mut waited = Duration::ZERO;
    loop {
        match DirLock::take(vfs, dir, std::process::id()) {
            Err(LockError::Held { pid, .. }) if is_ending(&pid) && waited < ENDING_MAX => {
                tokio::time::sleep(PAUSE).await;
                waited += PAUSE;
            }
            other => return other,
        }
    }
}

/// Whether the process is gone, on its way out, or killed. A text that names none says nothing of that.
fn is_ending(pid: &str) -> bool {
    let Ok(pid) = pid.parse() else { return false };
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return true;
    }
    let says = |file: &str, judge: fn(&str) -> bool| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).is_ok_and(|text| judge(&text))
    };
    says("stat", says_ending) || says("status", says_killed)
}

/// Reads `/proc/PID/status`: a SIGKILL waits for the process to be given a processor.
fn says_killed(status: &str) -> bool {
    let is_pending = |mask: &str| {
        u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & KILL_PENDING != 0)
    };
    let pending = ["SigPnd:", "ShdPnd:"];
    status
        .lines()
        .any(|line| pending.iter().any(|name| line.strip_prefix(name).is_some_and(is_pending)))
}

/// Reads a line of `/proc/PID/stat`: a zombie, dead, or taken down. The program's name may hold anything.
fn says_ending(stat: &str) -> bool {
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let fields: Vec<&str> = fields.split(' ').collect();
    let flags = fields.get(FLAGS_FIELD).and_then(|flags| flags.parse::<u64>().ok());
    fields.first().is_some_and(|state| matches!(*state, "Z" | "X"))
        || flags.is_some_and(|flags| flags & EXITING != 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::storage::vfs::Real;

    #[track_caller]
    fn check(stat: &str, expected: bool) {
        assert_eq!(says_ending(stat), expected, "{stat}");
    }

    #[test]
    fn zombies_and_the_exiting_are_ending() {
        check("7 (kvnode) S 1 7 7 0 -1 4194304 9 0", false);
        check("7 (kv) Z (x) S 1 7 7 0 -1 4194304 9 0", false);
        check("7 (kvnode) Z 1 7 7 0 -1 4194304 9 0", true);
        check("7 (kvnode) R 1 7 7 0 -1 4194308 9 0", true);
        check("", false);
    }

    #[test]
    fn a_pending_kill_is_seen() {
        assert!(says_killed(
            "Name:\tkvnode\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"
        ));
        assert!(says_killed("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004100\n"));
        assert!(!says_killed("SigPnd:\t0000000000004000\nSigCgt:\t0000000000000100\n"));
    }

    #[test]
    fn a_child_is_ending_once_it_ended() {
        assert!(!is_ending(&std::process::id().to_string()));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id().to_string();
        child.wait().unwrap();
        assert!(is_ending(&pid));
        assert!(!is_ending(""));
    }

    #[test]
    fn a_running_holder_is_told_at_once_and_an_ended_one_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(async {
            let held = DirLock::take(&Real, dir.path(), std::process::id()).unwrap();
            let mut at_once = std::pin::pin!(lock(&Real, dir.path()));
            assert!(matches!(at_once.as_mut().now_or_never(), Some(Err(LockError::Held { .. }))));
            drop(held);
            // The lock of a process that ended is held on for a while.
            let mut child = Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            let held = DirLock::take(&Real, dir.path(), child.id()).unwrap();
            let release = async {
                tokio::time::sleep(ENDING_MAX / 2).await;
                drop(held);
            };
            let (locked, ()) = tokio::join!(lock(&Real, dir.path()), release);
            let own = locked.unwrap();
            drop(own);
            // And one that never lets go is told in the end.
            let _held = DirLock::take(&Real, dir.path(), child.id()).unwrap();
            assert!(matches!(lock(&Real, dir.path()).await, Err(LockError::Held { .. })));
        });
    }
}
