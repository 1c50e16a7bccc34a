//! The black-box test crate: runs the real binaries in temporary directories.

mod node_config;
mod node_dev;
mod node_fixture;
mod node_init;
mod node_run;
