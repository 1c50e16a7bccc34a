//! `commit --wait`: until nothing of a change is left to do.

use std::time::Duration;

use crate::cli::connect::Connect;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::cli::progress::{ProgressForm, Watch};
use crate::ring::Weight;

use super::super::moving::HowFar;
use super::super::status::Sight;
use super::super::wait::late;

/// Pause between two looks at a change that runs.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// Longest time for one of the looks.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Until no change runs, from this version on, and nobody holds what is another's; with `--timeout` no longer than that.
/// # Errors
/// Exit 75 when it took longer: the change goes on.
pub(super) async fn until_done(
    version: u64,
    form: ProgressForm,
    connect: &Connect,
    common: &Common,
) -> anyhow::Result<()> {
    let look_timeout = connect.timeout.unwrap_or(LOOK_TIMEOUT).min(LOOK_TIMEOUT);
    let looking = Connect { timeout: Some(look_timeout), ..connect.clone() };
    let session = looking.open("kvctl", LOOK_TIMEOUT).await?;
    let (mut watch, mut seen) = (Watch::begin(form, common), None);
    let waiting = async {
        loop {
            // What goes wrong with one look is no matter.
            if let Ok(sight) = Sight::take(&session).await {
                if is_done(&sight, version) {
                    return;
                }
                let how_far = HowFar::of(&sight);
                let words = how_far.words(common);
                watch.saw(how_far.parts(), &words, || {
                    how_far.object(Object::new("progress").field("verb", "copied"))
                });
                seen = Some(words);
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let Some(timeout) = connect.timeout else {
        waiting.await;
        watch.end();
        return Ok(());
    };
    let is_late = tokio::time::timeout(timeout, waiting).await.is_err();
    watch.end();
    if is_late {
        let seen = seen.unwrap_or_else(|| "no member tells how far it is".to_owned());
        let text = format!("not done in {}: {seen}; the change goes on", human::duration(timeout));
        return Err(late(&text).note("kvctl cluster show tells how far it is").into());
    }
    Ok(())
}

/// Whether nothing of a change is left to do, in this version of the layout or a later one.
pub(crate) fn is_done(sight: &Sight, version: u64) -> bool {
    let layout = &sight.view.layout;
    version <= layout.version
        && layout.next.is_none()
        && sight.view.members.iter().all(|member| member.layout == layout.version)
        && layout.now.members.iter().all(|member| {
            // Who gave its share away may have gone by now.
            let is_leaving = member.weight == Weight::ZERO;
            let info = sight.infos.get(&member.id);
            info.map_or(is_leaving, |info| info.moving.left_over == 0)
        })
}
