//! What records take on the disk: the bound that the documentation promises, with the options that a node has.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::*;

/// Records of software packages, every hundredth of 60,000, as a client would import them.
const PACKAGES: &str = include_str!("../../../tests/data/packages.ndjson");
/// Most bytes of SSTables a hundred bytes of keys and values take, as the store gets them. Of all 60,000 it is less: each
/// table has an end.
const PERCENT_MAX: usize = 60;

#[derive(Deserialize)]
struct Package<'a> {
    #[serde(borrow)]
    key: &'a str,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[test]
fn records_of_packages_take_at_most_six_tenths_of_their_size() {
    let disk = Disk::new(0);
    let (store, _) = open(&disk, &Options { reserve_bytes: 0, ..Options::default() }).unwrap();
    let mut raw_bytes = 0;
    for line in PACKAGES.lines() {
        let Package { key, value } = serde_json::from_str(line).unwrap();
        // A node's keys sort by a hash: neighbours have nothing in common but what all have.
        let slot = checksum::checksum(0, 0, key.as_bytes()).to_le_bytes();
        let stored = [b"d", &slot[..2], key.as_bytes()].concat();
        raw_bytes += stored.len() + value.get().len();
        let mut batch = WriteBatch::new();
        batch.put(stored, value.get());
        store.write(batch).unwrap();
    }
    store.flush().unwrap();
    let bytes = usize::try_from(store.stats().table_bytes).unwrap();
    assert!(
        bytes * 100 <= raw_bytes * PERCENT_MAX,
        "{bytes} bytes of tables for {raw_bytes} of keys and values"
    );
}
