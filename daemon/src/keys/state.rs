//! The state of a key, and the operations that a state admits.

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
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
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

    /// States that an administrator may set on a key in this state.
    pub fn next(self) -> &'static [Self] {
        match self {
            Self::Enabled => &[Self::Enabled, Self::Disabled],
            Self::Disabled => &[Self::Disabled, Self::Enabled],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the states, row by row: name, whether a key may sign, and the next states.
    #[test]
    fn states_admit_what_they_say() {
        for (state, name, may_sign, next) in [
            (State::Enabled, "enabled", true, &[State::Enabled, State::Disabled][..]),
            (State::Disabled, "disabled", false, &[State::Enabled, State::Disabled]),
        ] {
            assert_eq!((state.name(), state.may_sign()), (name, may_sign));
            assert_eq!(State::of_name(name), Some(state));
            for other in State::ALL {
                assert_eq!(state.next().contains(&other), next.contains(&other), "{state:?} to {other:?}");
            }
        }
        assert_eq!(State::of_name("Enabled"), None);
    }
}
