//! The simulator: a cluster of real Cores in one thread, from a seed.
