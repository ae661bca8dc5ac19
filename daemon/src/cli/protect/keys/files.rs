//! Files of keys and certificates, as a server reads them.

use std::io::Read;
use std::path::Path;

use keyward_proto::Reference;
use keyward_unit::{ImportError, KeyFile};
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::protect::journal::Facts;
use crate::ground::exit;
use crate::ground::ownership;
use crate::keys::certificates::Chain;

/// The contents of a file.
pub(super) fn contents(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    read(path).map(|(bytes, _)| bytes)
}

/// Reads a file, and the facts about that file.
pub(super) fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Facts), Failure> {
    let failed = |reason| Failure::reading(path, &reason);
    // Nobody else may choose the file that root reads and later removes.
    let file = ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => Failure::reading(path, &reason),
        Err(error) => {
            Failure::new(exit::NO_PERMISSION, format_args!("cannot use {}: {error}", path.display()))
        }
    })?;
    let facts = Facts::of(&file.metadata().map_err(failed)?);
    // With full capacity from the start: growing would leave unwiped copies in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > LONGEST {
        true => Err(Failure::new(exit::DATA, format_args!("{} is longer than 1 MiB", path.display()))),
        false => Ok((bytes, facts)),
    }
}

/// The certificates of a file that may hold a private key as well.
pub(super) fn certificates(bytes: &[u8]) -> Result<Chain, String> {
    if !holds_private_key(bytes) {
        return Chain::read(bytes).map_err(|error| error.to_string());
    }
    let text = String::from_utf8_lossy(bytes);
    let mut ders = Vec::new();
    for part in text.split(BEGIN_CERTIFICATE).skip(1) {
        let body = part.split_once(END_CERTIFICATE).ok_or("a certificate has no end")?.0;
        let block = format!("{BEGIN_CERTIFICATE}{}{END_CERTIFICATE}\n", body.replace('\r', ""));
        let (_, der) = pem_rfc7468::decode_vec(block.as_bytes()).map_err(|error| error.to_string())?;
        ders.push(der);
    }
    Chain::of_ders(ders).map_err(|error| error.to_string())
}

/// True if a file has a private key, or a reference to one. A file that cannot be used has neither;
/// [`super::Keys::read`] says why.
pub(in crate::cli::protect) fn holds_key_or_reference(path: &Path) -> bool {
    let has_reference =
        |bytes: &[u8]| bytes.windows(BEGIN_REFERENCE.len()).any(|part| part == BEGIN_REFERENCE);
    contents(path).map_or(true, |bytes| holds_private_key(&bytes) || has_reference(&bytes))
}

/// True if a file can be read, and has a private key.
pub(in crate::cli::protect) fn has_private_key(path: &Path) -> bool {
    contents(path).is_ok_and(|bytes| holds_private_key(&bytes))
}

/// True if a file has a private key with a passphrase.
pub(in crate::cli::protect) fn has_passphrase(path: &Path) -> bool {
    let read = |bytes: Zeroizing<Vec<u8>>| KeyFile::read(&bytes, None).err();
    contents(path).is_ok_and(|bytes| matches!(read(bytes), Some(ImportError::Encrypted)))
}

/// True if a file has parameters for DH.
pub(in crate::cli::protect) fn holds_dh_parameters(path: &Path) -> bool {
    contents(path).is_ok_and(|bytes| bytes.windows(DH_PARAMETERS.len()).any(|part| part == DH_PARAMETERS))
}

/// The names in the first certificate of a file; none if the file has no certificate.
pub(in crate::cli::protect) fn names(path: &Path) -> Vec<String> {
    let chain = contents(path).ok().and_then(|bytes| certificates(&bytes).ok());
    let leaf = chain.as_ref().and_then(|chain| chain.certificates.first());
    leaf.map(|leaf| leaf.names().to_vec()).unwrap_or_default()
}

/// The blocks of a file in PEM that are public: certificates, and parameters for DH. A text between
/// the blocks may show a private key, as `openssl pkey -text` prints it, so the text is left out.
///
/// # Errors
/// [`Failure`] if the file cannot be read, or a block has no end.
pub(in crate::cli::protect) fn public_blocks(path: &Path) -> Result<String, Failure> {
    let bytes = contents(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let (mut rest, mut end) = (String::new(), None);
    for line in text.lines().map(str::trim_end) {
        let begun = PUBLIC.iter().find(|name| line == format!("-----BEGIN {name}-----"));
        if let Some(name) = begun {
            end = Some(format!("-----END {name}-----"));
        }
        if end.is_some() {
            rest += line;
            rest.push('\n');
        }
        if end.as_deref() == Some(line) {
            end = None;
        }
    }
    match end.is_some() || holds_private_key(rest.as_bytes()) {
        false => Ok(rest),
        true => Err(Failure::new(
            exit::DATA,
            format_args!("cannot tell the private key in {} from the rest", path.display()),
        )),
    }
}

/// The reference in a file, if there is one.
pub(in crate::cli::protect) fn reference(path: &Path) -> Option<Reference> {
    let bytes = contents(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (_, rest) = text.split_once(str::from_utf8(BEGIN_REFERENCE).ok()?)?;
    let (body, _) = rest.split_once("-----END KEYWARD KEY-----")?;
    Reference::from_pem(&format!("-----BEGIN KEYWARD KEY-----{body}-----END KEYWARD KEY-----\n")).ok()
}

/// True if a text in PEM holds a private key.
pub(in crate::cli::protect) fn holds_private_key(bytes: &[u8]) -> bool {
    bytes.windows(PRIVATE_KEY.len()).any(|part| part == PRIVATE_KEY)
}

/// Reads the passphrases of a server: one on a line.
///
/// # Errors
/// [`Failure`] if the file cannot be read.
pub(in crate::cli::protect) fn passphrases(path: &Path) -> Result<Vec<Zeroizing<Vec<u8>>>, Failure> {
    let bytes = contents(path)?;
    let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(lines.filter(|line| !line.is_empty()).map(|line| Zeroizing::new(line.to_vec())).collect())
}

/// The certificates of a file in PEM, without a private key that the file has, too. `None` if the
/// file has no private key.
///
/// # Errors
/// [`Failure`] if the file cannot be read.
pub(in crate::cli::protect) fn certificates_alone(path: &Path) -> Result<Option<String>, Failure> {
    let bytes = contents(path)?;
    if !holds_private_key(&bytes) {
        return Ok(None);
    }
    let chain = certificates(&bytes).map_err(|error| {
        Failure::new(exit::DATA, format_args!("cannot use the certificates in {}: {error}", path.display()))
    })?;
    Ok(Some(chain.to_pem()))
}

const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const END_CERTIFICATE: &str = "-----END CERTIFICATE-----";
pub(super) const BEGIN_REFERENCE: &[u8] = b"-----BEGIN KEYWARD KEY-----";
/// Part of the line with which every PEM block of a private key begins.
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";
/// Names of the blocks that a server reads from a file of certificates.
const PUBLIC: [&str; 4] = ["CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CRL", "DH PARAMETERS"];
const DH_PARAMETERS: &[u8] = b"BEGIN DH PARAMETERS";
/// Longest file of keys or certificates, in bytes (1 MiB).
const LONGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_public_blocks_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("all.pem");
        let certificate = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let parameters = "-----BEGIN DH PARAMETERS-----\nAA==\n-----END DH PARAMETERS-----\n";
        let text = format!(
            "priv:\n    8e:e5\n{}-----BEGIN EC PARAMETERS-----\nAA==\n-----END EC PARAMETERS-----\n\
             -----BEGIN EC PRIVATE KEY-----\nBB==\n-----END EC PRIVATE KEY-----\nsubject=a\n{parameters}",
            certificate.replace('\n', "\r\n")
        );
        fs::write(&path, text).unwrap();
        assert_eq!(public_blocks(&path).unwrap(), format!("{certificate}{parameters}"));
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAA==\n").unwrap();
        assert!(public_blocks(&path).is_err());
    }
}
