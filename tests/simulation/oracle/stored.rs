//! I11: every directory that is left is sound by the offline reader, and lost nothing.

use std::path::Path;

use kvkit::storage::offline::{Depth, DirectoryView};

use super::{Breach, Check};
use crate::replica::DIRECTORY;
use crate::world::World;

pub(super) fn judge(world: &World, broken: &mut Vec<Breach>) {
    for (node, replica) in world.replicas.iter().enumerate() {
        let disk = replica.disk.fork(0);
        let view = match DirectoryView::open(&disk, Path::new(DIRECTORY)) {
            Ok(view) => view,
            Err(error) => {
                let text = format!("n{}: its directory cannot be opened: {error:?}", node + 1);
                broken.push(Breach::new(Check::Storage, text));
                continue;
            }
        };
        let mut texts = Vec::new();
        let verified = view.verify_tables(Depth::Full, &mut |bad| texts.push(format!("{bad:?}")));
        texts.extend(verified.err().map(|error| format!("{error:?}")));
        texts.extend(view.damaged_records().iter().map(|damaged| format!("{damaged:?}")));
        let texts = texts.into_iter().map(|text| format!("n{}: {text}", node + 1));
        broken.extend(texts.map(|text| Breach::new(Check::Storage, text)));
    }
}
