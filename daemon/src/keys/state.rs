//! The state of a key, and the operations that a state admits.

use keyward_proto::KeyState;

/// State of a key. Nothing else decides whether the key may be used at all.
///
/// ```text
///            disable
///   Enabled ---------> Disabled
///           <---------
///            enable
/// ```
///
/// A new key starts in either state. An administrator who sets the state that the key has already
/// changes nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// The key signs for every peer that has a grant.
    Enabled,
    /// The key signs for nobody.
    Disabled,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 2] = [Self::Enabled, Self::Disabled];

    /// Word for the state in the store, in the admin interface, on the wire and on the command
    /// line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => KeyState::Enabled.name(),
            Self::Disabled => KeyState::Disabled.name(),
        }
    }

    /// The state that a word names.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// True if the private key may be used: for signatures, to decrypt premaster secrets, and for
    /// certificate requests.
    pub fn may_sign(self) -> bool {
        match self {
            Self::Enabled => true,
            Self::Disabled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the states, row by row: name, and whether a key may sign.
    #[test]
    fn states_admit_what_they_say() {
        for (state, name, may_sign) in
            [(State::Enabled, "enabled", true), (State::Disabled, "disabled", false)]
        {
            assert_eq!((state.name(), state.may_sign()), (name, may_sign));
            assert_eq!(State::of_name(name), Some(state));
        }
        assert_eq!(State::of_name("Enabled"), None);
    }
}
