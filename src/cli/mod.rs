//! cli.

pub mod node;
