//! Proof that a blob contains the private half of a public key, before the key is stored.

use core::time::Duration;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use keyward_proto::PublicKey;
use keyward_unit::{NewKey, PREMASTER, SigningInput};
use zeroize::Zeroizing;

use super::operations::Operations;
use super::{Abilities, BackendError, Context, KeyMaterial};

/// Kind of backend whose keys can be proved. Its [`Operations::sign`] verifies each signature.
pub(super) trait Provable: Operations {
    /// Name of the backend.
    fn name(&self) -> &str;

    /// Decrypts at a unit with the padding of PKCS #1 v1.5. The result is empty if the unit reports
    /// a wrong padding.
    ///
    /// # Errors
    /// [`BackendError`] says why no unit has decrypted the ciphertext.
    async fn decrypt(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        context: &mut Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError>;
}

/// Proves that the blob contains the private half of the public key: makes and verifies a
/// signature, or encrypts here and decrypts at the unit, or both.
///
/// # Errors
/// [`BackendError`] says why the proof failed.
pub(super) async fn prove(
    backend: &impl Provable,
    key: KeyMaterial<'_>,
    abilities: Abilities,
) -> Result<(), BackendError> {
    const MESSAGE: &[u8] = b"keyward: first signature of a key";
    let mut context = Context::of_daemon(KEY_TIME_LIMIT);
    if abilities.signs {
        let public = PublicKey::from_spki(key.spki).map_err(|_| BackendError::NoPublicKey)?;
        let scheme = public.schemes().first().copied().ok_or(BackendError::CannotSign)?;
        backend.sign(key, scheme, SigningInput::Message(MESSAGE), &mut context).await?;
    }
    if abilities.decrypts {
        let (plain, ciphertext) = encrypted(key.spki).map_err(|_| BackendError::CannotDecrypt)?;
        if *backend.decrypt(key, &ciphertext, &mut context).await? != plain {
            return Err(BackendError::WrongPlaintext { backend: backend.name().to_owned() });
        }
    }
    Ok(())
}

/// Proves a new key, and returns the key.
///
/// # Errors
/// See [`prove`].
pub(super) async fn proved(
    backend: &impl Provable,
    key: NewKey,
    abilities: Abilities,
) -> Result<NewKey, BackendError> {
    prove(backend, KeyMaterial::of_new(&key), abilities).await?;
    Ok(key)
}

/// Random secret, and the secret encrypted with a public key.
fn encrypted(spki: &[u8]) -> Result<([u8; PREMASTER], Vec<u8>), Unspecified> {
    let mut plain = [0; PREMASTER];
    aws_lc_rs::rand::fill(&mut plain)?;
    let key = PublicEncryptingKey::from_der(spki).map_err(|_| Unspecified)?;
    let mut ciphertext = vec![0; key.key_size_bytes()];
    Pkcs1PublicEncryptingKey::new(key)?.encrypt(&plain, &mut ciphertext)?;
    Ok((plain, ciphertext))
}

/// Time limit for making, importing or proving a key: an RSA key of 4096 bits takes seconds.
pub(super) const KEY_TIME_LIMIT: Duration = Duration::from_secs(60);
