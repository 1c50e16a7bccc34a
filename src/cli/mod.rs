//! The command line: the four programs, a module a tool, a file a command family (UI.md).
//!
//! What they share stands here: exit codes ([`exit`]), failures and how they are told ([`report`]), flags
//! ([`options`]), the frame of a program ([`program`]), units for people ([`human`]), tables, and the texts that
//! `--generate` prints. Data goes to the writer handed in, talk to stderr.

pub mod connect;
pub mod ctl;
pub mod exit;
pub mod failure;
pub mod generate;
pub mod human;
mod interrupts;
pub mod json;
mod keys;
pub mod node;
pub mod options;
pub mod program;
pub mod progress;
mod records;
pub mod ring;
pub mod sstable;
pub mod table;

pub use exit::Exit;
pub use failure::{Failure, report};
pub use options::{Common, Format, Palette};
pub use program::{Manual, Program};
