//! kvnode: a thin main over `kvkit::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kvkit::cli::program::main::<kvkit::cli::node::Kvnode>()
}
