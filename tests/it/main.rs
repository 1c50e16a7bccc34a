//! The black-box test crate: runs the real binaries in temporary directories.
