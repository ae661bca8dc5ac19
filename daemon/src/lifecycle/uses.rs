//! Uses that a key can have: its type, its safety and its unit must allow them.

use keyward_proto::{KeyType, Use};

use super::Error;
use crate::backend::{Abilities, Backend};
use crate::keys::Version;
use crate::policy::authorise::signs_and_decrypts;

/// The uses, each once; `tls-server` if there is none.
pub(super) fn each_once(uses: Vec<Use>) -> Vec<Use> {
    let mut once = Vec::new();
    for one in uses {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    if once.is_empty() {
        once.push(Use::TlsServer);
    }
    once
}

/// Refuses RSA key exchange for other keys than RSA keys. Refuses RSA key exchange together with
/// signatures, except if `sign_and_decrypt` accepts that.
pub(super) fn check_uses(uses: &[Use], key_type: KeyType, sign_and_decrypt: bool) -> Result<(), Error> {
    if !uses.contains(&Use::RsaKeyExchange) {
        return Ok(());
    }
    if !matches!(key_type, KeyType::Rsa(_)) {
        return Err(Error::UselessDecryption(key_type));
    }
    match signs_and_decrypts(uses) {
        Some(other) if !sign_and_decrypt => Err(Error::SignsAndDecrypts(other)),
        _ => Ok(()),
    }
}

/// Refuses uses that a unit would refuse in each handshake, because the unit has fixed the
/// abilities of the key.
pub(super) fn check_abilities(uses: &[Use], backend: &Backend, version: &Version) -> Result<(), Error> {
    let Some(has) = backend.fixed_abilities(&version.blob) else { return Ok(()) };
    let needed = Abilities::needed_for(uses);
    let (verb, with) = match (needed.signs && !has.signs, needed.decrypts && !has.decrypts) {
        (true, _) => ("sign", "the new use"),
        (_, true) => ("decrypt", "rsa-key-exchange"),
        (false, false) => return Ok(()),
    };
    Err(Error::Incapable { backend: backend.name().to_owned(), verb, with })
}

/// The command that gives a key these uses.
pub(crate) fn set_uses_command(label: &str, uses: &[Use]) -> String {
    let named: String = uses.iter().map(|one| format!(" --use {one}")).collect();
    let accepted = if signs_and_decrypts(uses).is_some() { " --sign-and-decrypt" } else { "" };
    format!("keyward key set-uses {label}{named}{accepted}")
}
