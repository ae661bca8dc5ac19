//! States of units. An accepted state is written as it was read, and a state that nobody has
//! authenticated gives nobody the keys.

use core::num::NonZeroUsize;
use std::io;
use std::sync::Arc;

use keyward_unit::Unit;
use keyward_unit::administration::{Custodian, State, StateFile};
use zeroize::Zeroizing;

/// A disk that keeps nothing.
struct Nowhere;

impl StateFile for Nowhere {
    fn replace(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn read(&self) -> io::Result<Option<Zeroizing<String>>> {
        Ok(None)
    }

    fn set_aside(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Feeds an input to the decoders.
pub fn run(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(state) = State::from_json(text) {
        let written = state.to_json();
        let again = State::from_json(&written).expect("what was written");
        assert_eq!(*again.to_json(), *written);
    }
    let unit = Arc::new(Unit::sealed(NonZeroUsize::MIN));
    if let Ok(custodian) = Custodian::open(Arc::clone(&unit), Some(text), Box::new(Nowhere)) {
        assert!(unit.is_sealed());
        assert!(custodian.take(bytes).is_err());
        assert!(!custodian.custody().state.to_json().is_empty());
    }
}
