//! kvring: a thin main over `kvkit::cli`.

fn main() {}
