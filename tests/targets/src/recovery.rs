//! Recovery files. An accepted file encodes to the same bytes, and no other file is accepted.

use keyward::keys::rows;

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    let Some(written) = rows::rewritten_recovery(bytes) else { return };
    assert_eq!(written, bytes);
    for place in 0..bytes.len() {
        assert!(rows::rewritten_recovery(&bytes[..place]).is_none());
        let mut altered = bytes.to_vec();
        altered[place] ^= 1;
        assert!(rows::rewritten_recovery(&altered).is_none());
    }
}
