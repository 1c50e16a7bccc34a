//! A layout as people and tools read it: the JSON that `kvring export` prints and `kvring --layout` reads.
//!
//! One object: `{"v":1,"type":"layout","hash":"<16 hex digits>","generation":…,"version":…,"now":{…},"next":null}`. A
//! ring's `owner` holds for each partition an index into `members`. The hash is over the layout's canonical bytes; where
//! it is left out, a hand-written file is taken at its word.

use serde::{Deserialize, Serialize};

use super::{Layout, LayoutError};

/// Version of the JSON form.
const FORM: u32 = 1;
/// What the object says it is.
const TYPE: &str = "layout";

/// Why a text is no layout.
#[derive(Debug, thiserror::Error)]
pub enum ReadLayoutError {
    /// Not JSON, or not of this form.
    #[error("not a layout in JSON")]
    Json(#[from] serde_json::Error),
    /// Another kind of object, or a later form.
    #[error("type `{kind}` version {form}, expected `layout` version 1")]
    Form {
        /// Its type.
        kind: String,
        /// Its version.
        form: u32,
    },
    /// A promise that the layout breaks.
    #[error("the layout cannot be")]
    Layout(#[from] LayoutError),
    /// The file was altered after it was written.
    #[error("the layout's hash is {computed}, the file says {stored}")]
    Hash {
        /// What the file says.
        stored: String,
        /// What it is.
        computed: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Exported<L> {
    v: u32,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(flatten)]
    layout: L,
}

impl Layout {
    /// The layout as one line of JSON, without a line feed.
    pub fn to_json(&self) -> String {
        let exported = Exported {
            v: FORM,
            kind: TYPE.to_owned(),
            hash: Some(self.hash().to_string()),
            layout: self,
        };
        serde_json::to_string(&exported)
            .expect("a layout has no map with keys that JSON does not know")
    }

    /// Back from [`Layout::to_json`], validated.
    /// # Errors
    /// [`ReadLayoutError`].
    pub fn from_json(text: &str) -> Result<Self, ReadLayoutError> {
        let Exported { v: form, kind, hash, layout } =
            serde_json::from_str::<Exported<Self>>(text)?;
        if (form, kind.as_str()) != (FORM, TYPE) {
            return Err(ReadLayoutError::Form { kind, form });
        }
        layout.validate()?;
        let computed = layout.hash().to_string();
        match hash.filter(|stored| *stored != computed) {
            Some(stored) => Err(ReadLayoutError::Hash { stored, computed }),
            None => Ok(layout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::notation::{members, ring};
    use super::super::{Mode, Ring};
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/ring/layout.json");

    fn layout() -> Layout {
        let now = ring(2, members("1 0.5@a 2.25@b"), vec![0, 1, 2, 2]);
        let next =
            Ring { mode: Mode::Consistent, ..ring(3, members("1 0.5@a 2.25@b"), vec![0, 2, 1, 2]) };
        Layout { generation: 1, version: 7, now, next: Some(next), recovers: false }
    }

    /// A layout exported by an older release is read, and its hash, which nodes compare, is the same.
    #[test]
    fn layouts_are_written_as_ever() {
        assert_eq!(layout().to_json(), GOLDEN.trim_end());
        assert_eq!(Layout::from_json(GOLDEN).unwrap(), layout());
    }

    #[test]
    fn a_found_layout_round_trips() {
        let found = Layout::found(64, 3, 2, 2, Mode::Available, members("1 1 1 1")).unwrap();
        assert_eq!(Layout::from_json(&found.to_json()).unwrap(), found);
        let binary = rmp_serde::to_vec(&found).unwrap();
        assert_eq!(rmp_serde::from_slice::<Layout>(&binary).unwrap(), found);
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_reason() {
        let good = layout().to_json();
        for (text, reason) in [
            ("{}".to_owned(), "not a layout in JSON"),
            (good.replace("\"v\":1", "\"v\":2"), "version 2"),
            (good.replace("\"type\":\"layout\"", "\"type\":\"kv\""), "type `kv`"),
            (good.replace("\"q\":4", "\"q\":5"), "cannot be"),
            (good.replace("\"owner\":[0,1,2,2]", "\"owner\":[0,1,2,3]"), "cannot be"),
            (good.replace("\"version\":7", "\"version\":8"), "the file says"),
        ] {
            let error = Layout::from_json(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} for {text}");
        }
    }

    #[test]
    fn a_hand_written_layout_needs_no_hash() {
        let found = Layout::found(2, 1, 1, 1, Mode::Available, members("1 1")).unwrap();
        let hash = format!("\"hash\":\"{}\",", found.hash());
        assert_eq!(Layout::from_json(&found.to_json().replace(&hash, "")).unwrap(), found);
    }
}
