//! The state of a key: the stored facts, and the standing that follows from them at a moment.
//!
//! The standings are those of NIST SP 800-57 part 1, section 7. [`super::verb`] has the changes.

use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::KeyState;
use serde::{Deserialize, Serialize};

use super::Key;

/// State of a key, as an administrator has set it.
///
/// ```text
///            disable                 compromise
///   Enabled ---------> Disabled   any ----------> Compromised
///           <---------
///            enable
/// ```
///
/// A new key is enabled. An administrator who sets the state that the key has already changes
/// nothing. Dates and a deletion are in [`Life`], beside the state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// The key signs for every peer that has a grant.
    Enabled,
    /// The key signs for nobody, until it is enabled.
    Disabled,
    /// The key never signs again, because somebody else may have the private key.
    Compromised,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Enabled, Self::Disabled, Self::Compromised];

    /// Word for the state in the store, in the admin interface and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => KeyState::Enabled.name(),
            Self::Disabled => KeyState::Disabled.name(),
            Self::Compromised => "compromised",
        }
    }

    /// The state that a word names.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// Facts about the life of a key beside its [`State`]. Times are seconds since 1970.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Life {
    /// Time from which the key signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// Time from which the key signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
    /// The deletion, until the key is destroyed or restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// True if two users must ask for the deletion.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub dual: bool,
    /// Request of the first of the two users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// Deletion of a key that is not destroyed yet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// User id of the administrator.
    pub by: u32,
    /// Time of the deletion.
    pub at: u64,
    /// Time when the waiting period ends.
    pub destroy_at: u64,
}

/// Request for a deletion that needs a second user.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// User id of the administrator.
    pub by: u32,
    /// Time of the request.
    pub at: u64,
    /// Waiting period that the user has asked for, in seconds; 0 in a record without it.
    #[serde(default)]
    pub wait: u64,
}

impl Approval {
    /// Time until which a second user can delete the key.
    pub fn until(&self) -> u64 {
        self.at.saturating_add(SECOND_USER_WITHIN)
    }
}

/// Standing of a key at a moment. Nothing else decides whether the key may be used at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The first date has not come.
    PreActive,
    /// The key signs.
    Active,
    /// The key is disabled.
    Suspended,
    /// The last date has passed.
    Deactivated,
    /// The key is compromised.
    Compromised,
    /// The key is deleted, and waits for its destruction.
    Deleted,
}

impl Standing {
    /// Every standing of a key that exists.
    pub const ALL: [Self; 6] =
        [Self::PreActive, Self::Active, Self::Suspended, Self::Deactivated, Self::Compromised, Self::Deleted];

    /// Word of NIST SP 800-57 for the standing; `deleted` is the word of Keyward.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Deleted => "deleted",
        }
    }

    /// Word for the standing beside the verbs of the command line: a key that was disabled is
    /// `disabled`.
    pub fn state_name(self) -> &'static str {
        match self {
            Self::Active => State::Enabled.name(),
            Self::Suspended => State::Disabled.name(),
            other => other.name(),
        }
    }

    /// Word for the standing on the wire. Clients know these two words only.
    pub fn on_the_wire(self) -> KeyState {
        if self == Self::Active { KeyState::Enabled } else { KeyState::Disabled }
    }
}

impl Key {
    /// Standing of the key at a time in seconds since 1970.
    pub fn standing(&self, now: u64) -> Standing {
        let Life { not_before, not_after, deletion, .. } = &self.life;
        match self.state {
            _ if deletion.is_some() => Standing::Deleted,
            State::Compromised => Standing::Compromised,
            State::Disabled => Standing::Suspended,
            State::Enabled if not_after.is_some_and(|end| end <= now) => Standing::Deactivated,
            State::Enabled if not_before.is_some_and(|begin| now < begin) => Standing::PreActive,
            State::Enabled => Standing::Active,
        }
    }

    /// True if the private key may be used at this time: for signatures, to decrypt premaster
    /// secrets, and for certificate requests.
    pub fn may_sign(&self, now: u64) -> bool {
        self.standing(now) == Standing::Active
    }

    /// True if the dates alone decide when the private key may be used.
    pub fn is_enabled(&self) -> bool {
        self.state == State::Enabled && self.life.deletion.is_none()
    }

    /// First time after `now` at which the standing changes, or the key is to be destroyed, without
    /// an act of anybody.
    pub(crate) fn next_deadline(&self, now: u64) -> Option<u64> {
        let Life { not_before, not_after, deletion, .. } = &self.life;
        match deletion {
            Some(deletion) => Some(deletion.destroy_at),
            None => [*not_before, *not_after].into_iter().flatten().filter(|date| *date > now).min(),
        }
    }
}

/// The present time, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Time that a second user has to delete a key, in seconds.
pub(crate) const SECOND_USER_WITHIN: u64 = 7 * 86_400;

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;

    #[test]
    fn words_lead_back_to_states() {
        for (state, name) in
            [(State::Enabled, "enabled"), (State::Disabled, "disabled"), (State::Compromised, "compromised")]
        {
            assert_eq!((state.name(), State::of_name(name)), (name, Some(state)));
        }
        assert_eq!(State::of_name("Enabled"), None);
    }

    /// The table of the standings, row by row.
    #[test]
    fn a_standing_follows_from_the_facts() {
        use State::*;
        let deletion = Some(Deletion { by: 0, at: 90, destroy_at: 200 });
        for (state, not_before, not_after, deletion, standing) in [
            (Enabled, None, None, None, Standing::Active),
            (Enabled, Some(100), None, None, Standing::Active),
            (Enabled, Some(101), None, None, Standing::PreActive),
            (Enabled, None, Some(101), None, Standing::Active),
            (Enabled, None, Some(100), None, Standing::Deactivated),
            (Enabled, Some(50), Some(60), None, Standing::Deactivated),
            (Enabled, Some(101), Some(200), None, Standing::PreActive),
            (Disabled, None, None, None, Standing::Suspended),
            (Disabled, Some(101), Some(200), None, Standing::Suspended),
            (Disabled, None, Some(50), None, Standing::Suspended),
            (Compromised, Some(101), None, None, Standing::Compromised),
            (Compromised, None, Some(50), None, Standing::Compromised),
            (Enabled, None, None, deletion, Standing::Deleted),
            (Disabled, None, None, deletion, Standing::Deleted),
            (Compromised, None, Some(50), deletion, Standing::Deleted),
        ] {
            let life = Life { not_before, not_after, deletion, ..Life::default() };
            let key = Key { state, life, ..key("shop") };
            assert_eq!(key.standing(100), standing, "{state:?} {:?}", key.life);
            assert_eq!(key.may_sign(100), standing == Standing::Active);
        }
    }

    #[test]
    fn only_an_active_key_is_enabled_for_others() {
        for standing in Standing::ALL {
            let is_active = standing == Standing::Active;
            assert_eq!(standing.state_name() == "enabled", is_active);
            assert_eq!(standing.on_the_wire() == KeyState::Enabled, is_active);
        }
    }

    #[test]
    fn the_next_deadline_is_in_the_future_or_a_destruction() {
        let mut key = key("shop");
        assert_eq!(key.next_deadline(100), None);
        (key.life.not_before, key.life.not_after) = (Some(100), Some(200));
        let deadlines = [50, 100, 200].map(|now| key.next_deadline(now));
        assert_eq!(deadlines, [Some(100), Some(200), None]);
        key.life.deletion = Some(Deletion { by: 0, at: 0, destroy_at: 30 });
        assert_eq!(key.next_deadline(50), Some(30));
    }
}
