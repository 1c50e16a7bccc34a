//! Wire: bytes <-> messages; opens no socket (DESIGN §9).
//!
//! ```text
//! connection := preamble frame*         each side sends its own preamble before its first frame
//! preamble   := 0x8b "kvkit" CR LF      what is no kvkit peer is told so at once and closed
//! frame      := length:u32 payload      little-endian, at most the frame limit, checked before room is made
//! payload    := one MessagePack value   structs as maps with field names, byte strings as bin
//! caller     : Hello, then requests (client) or peer frames (peer)
//! called     : Welcome, then replies (client) or nothing (peer: answers go over the link the answerer dialled)
//! ```

pub mod client;
pub mod codec;
pub mod frame;
#[cfg(test)]
mod golden;
pub mod handshake;
pub mod peer;
