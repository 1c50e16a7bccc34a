//! kvnode: a thin main over `kvkit::cli`.

use std::process::ExitCode;

/// A put makes some forty small allocations on three nodes, freed by other threads than made them: the system's
/// allocator spends twice the time on that, and gives arenas back and takes them again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kvkit::cli::program::main::<kvkit::cli::node::Kvnode>()
}
