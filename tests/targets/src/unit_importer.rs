//! Importer keys, parts and shares, which pass between units and owners. Only the importer key that
//! the unit of the owner has signed is accepted, and only a share that was made for the owner.

use std::sync::LazyLock;

use keyward_unit::administration::{
    AdministratorKey, Importer, OwnerKey, ShareFile, State, part_from_file, pattern_of_part_file,
};

/// A unit, and an owner of shares.
static SCENE: LazyLock<(State, OwnerKey)> =
    LazyLock::new(|| (State::new().expect("random bytes"), OwnerKey::generate().expect("random bytes")));

/// Feeds an input to the decoders.
pub fn run(bytes: &[u8]) {
    let (unit, owner) = &*SCENE;
    assert!(owner.open(unit.unit(), bytes).is_none(), "nobody has made a share for this owner");
    let Ok(text) = str::from_utf8(bytes) else { return };
    assert!(Importer::read(text, unit.unit_key().ski()).is_err(), "the unit has signed nothing");
    if let Ok(share) = ShareFile::from_text(text) {
        let again = ShareFile::from_text(&share.to_text()).expect("what was written");
        assert_eq!(again.share, share.share);
        assert!(share.open(owner).is_err());
    }
    // Each passphrase costs a tenth of a second, so only a whole file is opened.
    if pattern_of_part_file(text).is_ok() {
        assert!(part_from_file(text, b"").is_err());
    }
    let _ = AdministratorKey::person_of_file(text);
}
