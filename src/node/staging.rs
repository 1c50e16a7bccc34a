//! What is staged at this node: kept until it is committed, or another layout is chosen.

use crate::cluster::staged::STAGED_MAX;
use crate::storage::WriteBatch;
use crate::wire::client::{ErrorCode, ReplyBody, StagedAt};

use super::calls::Origin;
use super::core::Core;
use super::event::Effect;
use super::meta;
use super::replies::error_reply;

impl Core {
    /// Keeps a staged change, in place of an earlier one about the same.
    pub(super) fn stage(&mut self, origin: Origin, staged: StagedAt, effects: &mut Vec<Effect>) {
        if staged.layout != self.layout.version {
            let version = self.layout.version;
            let text = format!("layout {} was meant, layout {version} is in force", staged.layout);
            return self.reply(origin, error_reply(ErrorCode::StaleContext, text), effects);
        }
        let is_same = |known: &StagedAt| known.change.subject() == staged.change.subject();
        if STAGED_MAX <= self.staged.len() && !self.staged.iter().any(is_same) {
            let text = format!("{STAGED_MAX} changes are staged already");
            return self.reply(origin, error_reply(ErrorCode::Usage, text), effects);
        }
        // A node's own wish takes nothing from what an operator said; and it wishes again and again.
        let stands = self.staged.iter().find(|known| is_same(known)).is_some_and(|known| {
            let is_repeated =
                (known.is_wanted, &known.change) == (staged.is_wanted, &staged.change);
            is_repeated || staged.stamp < known.stamp || known.is_wanted && !staged.is_wanted
        });
        if !stands {
            self.staged.retain(|known| !is_same(known));
            self.staged.push(staged);
            self.keep_staged(effects);
        }
        self.reply(origin, self.staged_reply(), effects);
    }

    /// Forgets all that is staged.
    pub(super) fn unstage(&mut self, effects: &mut Vec<Effect>) {
        self.staged.clear();
        self.keep_staged(effects);
    }

    /// What was staged against another layout is not meant any more.
    pub(super) fn forget_staged(&mut self, effects: &mut Vec<Effect>) {
        if !self.staged.is_empty() {
            self.unstage(effects);
        }
    }

    pub(super) fn staged_reply(&self) -> ReplyBody {
        ReplyBody::Staged(self.staged.clone())
    }

    fn keep_staged(&mut self, effects: &mut Vec<Effect>) {
        let mut batch = WriteBatch::new();
        batch.put(meta::staged_key(), meta::encode_staged(&self.staged));
        // What is lost with a full disk is staged again: nothing follows from it by itself.
        let _ = self.write(batch, effects);
    }
}
