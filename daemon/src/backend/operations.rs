//! Operations that each kind of backend implements.

use keyward_proto::{KeyType, Scheme};
use keyward_unit::{NewKey, Wkid};
use zeroize::Zeroizing;

use super::{
    Abilities, BackendError, Context, KeyMaterial, RemoteStatus, SetupError, SigningInput, UnitHealth,
    Unusable,
};

/// Units of one kind that share a master key. [`super::Backend`] documents the operations. The
/// defaults are for units that need no watch and no connection, and that fix nothing when they make
/// a key.
pub(super) trait Operations {
    fn unit_kind(&self) -> &'static str;

    fn adopts(&self) -> bool {
        false
    }

    fn has_network_time(&self) -> bool {
        false
    }

    fn usable(&self) -> Result<(), Unusable> {
        Ok(())
    }

    fn check_credentials(&self) -> Result<(), SetupError> {
        Ok(())
    }

    async fn start(&self) {}

    async fn reread_files(&self) -> Option<String> {
        None
    }

    async fn probe(&self) {}

    fn master_key_of(&self, blob: &[u8]) -> Option<Wkid>;

    fn fixed_abilities(&self, _: &[u8]) -> Option<Abilities> {
        None
    }

    fn is_extractable(&self, _: &[u8]) -> bool {
        false
    }

    fn is_ready(&self, wkids: &[Wkid]) -> bool;

    fn units(&self) -> Vec<UnitHealth>;

    fn remote_status(&self) -> Option<RemoteStatus> {
        None
    }

    async fn generate(
        &self,
        key_type: KeyType,
        abilities: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError>;

    async fn import(
        &self,
        file: impl AsRef<[u8]> + Send + 'static,
        abilities: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError>;

    async fn adopt(&self, blob: Vec<u8>, public: &[u8], abilities: Abilities)
    -> Result<NewKey, BackendError>;

    async fn rewrap(&self, blob: &[u8], to: Option<Wkid>) -> Result<Vec<u8>, BackendError>;

    async fn prove_next(&self, key: KeyMaterial<'_>, abilities: Abilities) -> Result<(), BackendError>;

    async fn sign(
        &self,
        key: KeyMaterial<'_>,
        scheme: Scheme,
        input: SigningInput<'_>,
        context: &mut Context,
    ) -> Result<Vec<u8>, BackendError>;

    async fn decrypt_premaster(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        client_version: u16,
        substitute: Zeroizing<Vec<u8>>,
        context: &mut Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError>;
}
