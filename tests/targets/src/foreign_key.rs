//! Blobs and public keys of other units, adopted or answered. An accepted public key is the start
//! of the input, or the same key in the standard form. The fields read from a blob are bytes of
//! that blob.

use keyward_proto::PublicKey;
use keyward_unit::{Header, spki_of_public_key_blob};

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    if let Some(header) = Header::read(bytes) {
        let wkid = header.wkid().to_string();
        let stands: String = bytes[32..48].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(wkid, stands);
        assert_eq!(header.extractable(), bytes[55] & 1 == 1);
        assert_eq!(header.signs(), bytes[54] & 1 == 1);
    }
    if let Some(spki) = spki_of_public_key_blob(bytes) {
        match PublicKey::from_spki(&spki) {
            Ok(PublicKey::Ed25519(key)) => assert!(bytes.windows(key.len()).any(|part| part == key)),
            _ => assert!(bytes.starts_with(&spki) || spki.len() == 44),
        }
        // In the form of the unit, the key reads the same again.
        assert_eq!(spki_of_public_key_blob(&spki).as_deref(), Some(&*spki));
    }
}
