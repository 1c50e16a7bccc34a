//! The fuzz targets' corpora, replayed: no file makes a parser panic, and neither does a small one with any byte changed or
//! cut at any length.
//!
//! `KVKIT_FUZZ_CORPUS=write` copies the golden files into the corpora.

use std::fs;
use std::path::{Path, PathBuf};

#[expect(unreachable_pub, reason = "the fuzz package includes this file, too")]
#[path = "../../fuzz/src/parsers.rs"]
mod parsers;

type Parser = fn(&[u8]);

/// Each target, its parser, and which golden files are its seeds.
const TARGETS: [(&str, Parser, &str); 4] = [
    ("table", parsers::table, ".sst"),
    ("log", parsers::log, ".log"),
    ("manifest", parsers::manifest, ".manifest"),
    ("identity", parsers::identity, "IDENTITY"),
];
/// Longest file of which each mutation is tried.
const MUTATED_BYTES_MAX: usize = 2 << 10;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
    files.sort();
}

fn write_corpora() {
    let mut golden = Vec::new();
    files_below(&root().join("tests/golden/storage"), &mut golden);
    for (target, _, suffix) in TARGETS {
        let dir = root().join("fuzz/corpus").join(target);
        fs::create_dir_all(&dir).expect("a new directory");
        for file in golden.iter().filter(|file| file.to_string_lossy().ends_with(suffix)) {
            let inside =
                file.strip_prefix(root().join("tests/golden/storage")).expect("a golden file");
            fs::copy(file, dir.join(inside.to_string_lossy().replace('/', "-"))).expect("a copy");
        }
    }
}

#[test]
fn no_file_of_the_corpora_and_no_mutation_of_one_makes_a_parser_panic() {
    if std::env::var("KVKIT_FUZZ_CORPUS").as_deref() == Ok("write") {
        write_corpora();
    }
    for (target, parse, _) in TARGETS {
        let mut files = Vec::new();
        files_below(&root().join("fuzz/corpus").join(target), &mut files);
        assert!(!files.is_empty(), "{target} has no corpus");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            parse(&bytes);
            if bytes.len() <= MUTATED_BYTES_MAX {
                for index in 0..bytes.len() {
                    let mut mutated = bytes.clone();
                    mutated[index] ^= 1 << (index % 8);
                    parse(&mutated);
                    parse(&bytes[..index]);
                }
            }
        }
    }
}
