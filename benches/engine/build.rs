//! Refuses a build whose processor flags are not those of `.cargo/config.toml`: RocksDB would be built without them, for
//! a long time and for nothing. (Cargo reads that file only when it is run in this directory.)

use std::env;

/// Set by that file, and without it on by default for no target.
const FLAG_OF_OURS: &str = "pclmulqdq";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_x86 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if is_x86 && !features.split(',').any(|feature| feature == FLAG_OF_OURS) {
        println!(
            "cargo::error=run cargo in benches/engine: its .cargo/config.toml sets the processor for all engines"
        );
    }
}
