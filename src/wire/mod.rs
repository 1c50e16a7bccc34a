//! Wire: bytes <-> messages; opens no socket (DESIGN §9).

pub mod client;
pub mod handshake;
pub mod peer;
