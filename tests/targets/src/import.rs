//! Key files. An imported key must have a public key that the rest of Keyward reads, and must sign.

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use keyward_proto::PublicKey;
use keyward_unit::{KeyFile, MasterKey, SigningInput, Unit};

static UNIT: LazyLock<Unit> =
    LazyLock::new(|| Unit::new(MasterKey::generate().expect("random bytes"), NonZeroUsize::MIN));

/// Feeds an input to the decoder.
pub fn run(file: &[u8]) {
    match UNIT.import(file) {
        Ok(key) => {
            let public = PublicKey::from_spki(&key.spki).expect("a public key of ours");
            assert_eq!(public.key_type(), key.key_type);
            let scheme = key.key_type.schemes()[0];
            UNIT.sign(&key.blob, scheme, SigningInput::Message(b"message")).expect("a signature");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(read) = KeyFile::read(file, Some(b"secret")) {
        for index in 0..read.key_count() {
            match read.pkcs8(index) {
                // A decrypted file is read again. The unit then finds out whether the key signs.
                Ok(pkcs8) => assert_eq!(KeyFile::read(&pkcs8, None).expect("the key again").key_count(), 1),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}
