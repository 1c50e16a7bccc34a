#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kvkit_fuzz::parsers::identity(bytes));
