//! Reference files. An accepted reference writes and reads to the same reference.

use keyward_proto::Reference;

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    let from_pem = str::from_utf8(bytes).ok().and_then(|text| Reference::from_pem(text).ok());
    for reference in [from_pem, Reference::from_der(bytes).ok()].into_iter().flatten() {
        assert_eq!(Reference::from_pem(&reference.to_pem()), Ok(reference));
    }
}
