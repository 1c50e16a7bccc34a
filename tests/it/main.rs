//! The black-box test crate: runs the real binaries in temporary directories, and holds the sources against the map.

mod conflicts;
mod corpus;
mod ctl_offline;
mod damaged_table;
mod exit_codes;
mod full_disk;
mod handoff;
mod layers;
mod live;
mod live_ctl;
mod live_import;
mod live_kills;
mod lone_node;
mod manual;
mod node_config;
mod node_dev;
mod node_fixture;
mod node_init;
mod node_run;
mod ring_offline;
mod sstable_live;
mod sstable_offline;
mod sstable_rewrite;
mod tool;
mod unruly_clients;
