//! Keys from passphrases: Argon2id (RFC 9106), which needs memory as well as time.

use argon2::{Algorithm, Argon2, Params, Version};

/// Derives a key from a passphrase. `None` only without memory.
pub(super) fn stretched(passphrase: &[u8], salt: &[u8; 16], key: &mut [u8; 32]) -> Option<()> {
    let params = Params::new(MEMORY, PASSES, LANES, Some(key.len())).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(passphrase, salt, key).ok()
}

// The second recommended option of RFC 9106, section 4.

/// Memory, in KiB: 64 MiB.
const MEMORY: u32 = 64 << 10;
/// Passes over the memory.
const PASSES: u32 = 3;
/// Lanes.
const LANES: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_the_passphrase_and_the_salt() {
        let key = |passphrase: &[u8], salt: [u8; 16]| {
            let mut key = [0; 32];
            stretched(passphrase, &salt, &mut key).unwrap();
            key
        };
        let one = key(b"one", [1; 16]);
        assert_eq!(one, key(b"one", [1; 16]));
        assert_ne!(one, key(b"two", [1; 16]));
        assert_ne!(one, key(b"one", [2; 16]));
        assert_ne!(one, [0; 32]);
    }
}
