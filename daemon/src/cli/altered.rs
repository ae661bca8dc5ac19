//! Warnings about alterations of the key store.

use super::output;
use crate::admin::api::KeyView;
use crate::keys::Altered;

/// Warns of keys whose records were altered, so that only their labels are known, and of altered
/// lists, which may have removed other keys.
pub(super) fn warn_of_altered_keys(keys: &[KeyView], altered: &Altered) {
    keys.iter().filter_map(|key| key.problem.as_ref()).for_each(output::warn);
    // The line above has warned of each altered key.
    let others = Altered { lists: altered.lists, nameless: altered.nameless, ..Altered::default() };
    if let Some((problem, advice)) = others.problem() {
        output::warn(format_args!("{problem}; {advice}"));
    }
}
