//! The black-box test crate: runs the real binaries in temporary directories, and holds the sources against the map.

mod ctl_offline;
mod layers;
mod manual;
mod ring_offline;
mod tool;
