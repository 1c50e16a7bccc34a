//! How far an import came: a small file that a later run continues from.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;

/// Everything in an input up to here is stored (or can never be).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Lines.
    pub(crate) lines: u64,
    /// Bytes of those lines.
    pub(crate) bytes: u64,
    /// SHA-1 over them, in hexadecimal: another input does not match.
    pub(crate) sha1: String,
    /// Whether they hold a header without its footer.
    pub(crate) open: bool,
}

/// Reads a checkpoint; `None` where the file does not exist yet.
/// # Errors
/// Exit 65 when the file is something else; those of the file system.
pub(crate) fn load(path: &Path) -> anyhow::Result<Option<Checkpoint>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", path.display()));
        }
    };
    let checkpoint = serde_json::from_slice(&text).map_err(|error| {
        let message = format!("{} is no note of an import", path.display());
        Failure::bad_data(message).because(error)
    })?;
    Ok(Some(checkpoint))
}

/// Replaces the file whole, so that a crash leaves the old or the new one.
/// # Errors
/// Those of the file system.
pub(crate) fn save(path: &Path, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let mut file = tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new(".")))?;
        serde_json::to_writer(&mut file, checkpoint)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Failure::not_written(&path.display().to_string(), error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_survives_and_another_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        assert_eq!(load(&path).unwrap(), None);
        let checkpoint = Checkpoint { lines: 7, bytes: 99, sha1: "ab".to_owned(), open: true };
        save(&path, &checkpoint).unwrap();
        assert_eq!(load(&path).unwrap(), Some(checkpoint));
        fs::write(&path, "x").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("is no note of an import"));
    }
}
