//! The coordinator against whole replicas: a few maps of states, and messages that a script or a seed delivers.

mod changes;
mod gets;
mod harness;
mod merges;
mod puts;
mod random;
mod scans;
mod stand_ins;
