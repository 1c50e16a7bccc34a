//! kvsstable: a thin main over `kvkit::cli`.

fn main() -> std::process::ExitCode {
    kvkit::cli::sstable::main()
}
