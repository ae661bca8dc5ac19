//! Warnings about keys that the key store does not vouch for, and about changes that the store does
//! not have.

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

/// Warns of keys that could not be verified, and of changes that hold in memory only.
pub(super) fn warn_of_sealed_unit(keys: &[KeyView]) {
    let is_unverified = keys.iter().any(|key| key.unverified);
    if is_unverified {
        output::warn("the unit is sealed or lacks its master key, so this could not be verified");
    }
    let unwritten: Vec<_> = keys.iter().filter(|key| key.unwritten).map(|key| &*key.label).collect();
    if unwritten.is_empty() {
        return;
    }
    let when = match is_unverified {
        true => "will be written when the unit is unsealed",
        false => "will be written when the key store can be written again",
    };
    let labels = unwritten.join(", ");
    output::warn(format_args!(
        "the last change of {labels} is in memory only: it {when}; a restart before loses this change"
    ));
}
