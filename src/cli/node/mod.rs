//! kvnode: the replica daemon.

pub mod config;
