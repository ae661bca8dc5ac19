//! Key formats that are not read here: their names, and what to do.

use keyward_proto::pem;
use thiserror::Error;

/// A format of keys that is not read here.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A key store of Java.
    #[error(
        "a key store of Java; make it PKCS#12 first: keytool -importkeystore -srckeystore FILE -destkeystore NEW -deststoretype PKCS12"
    )]
    Java,
    /// A JSON Web Key (RFC 7517).
    #[error(
        "a JSON Web Key, which is not read here; export the key as PKCS#8 from what made it (-----BEGIN PRIVATE KEY-----)"
    )]
    Jwk,
    /// A key of PGP.
    #[error(
        "a key of OpenPGP, which TLS does not use; make another key: keyward key generate LABEL --type TYPE"
    )]
    Pgp,
    /// The name of a key in a token (RFC 7512).
    #[error(
        "the name of a key in a PKCS#11 token, not a key: that stays in the token; make another key: keyward key generate LABEL --type TYPE"
    )]
    Pkcs11,
    /// PKCS#7 (RFC 2315).
    #[error("PKCS#7, which holds certificates and no private key")]
    Pkcs7,
    /// A key of PuTTY.
    #[error("a key of PuTTY; write it in another format first: puttygen FILE -O private-openssh -o NEW")]
    Putty,
    /// A key of the programs of ssh.com, or of the first version of SSH.
    #[error(
        "a key of an old SSH program, which is not read here; make another key: keyward key generate LABEL --type TYPE"
    )]
    Ssh,
    /// A key that is wrapped by a TPM.
    #[error(
        "a key that a TPM has wrapped, which nobody but that TPM can read; make another key: keyward key generate LABEL --type TYPE"
    )]
    Tpm,
    /// Text in UTF-16, as Windows writes it.
    #[error("text in UTF-16; write it as ASCII first: iconv -f UTF-16 -t ASCII FILE > NEW")]
    Utf16,
}

/// Finds the format by the label of a PEM block.
pub(super) fn from_label(label: &[u8]) -> Option<Kind> {
    Some(match label {
        b"PKCS7" | b"PKCS #7 SIGNED DATA" | b"CMS" => Kind::Pkcs7,
        b"PKCS#11 PROVIDER URI" => Kind::Pkcs11,
        b"TSS2 PRIVATE KEY" | b"TSS2 KEY BLOB" | b"TSS PRIVATE KEY" => Kind::Tpm,
        b"SSH2 ENCRYPTED PRIVATE KEY" => Kind::Ssh,
        label if label.starts_with(b"PGP ") => Kind::Pgp,
        _ => return None,
    })
}

/// Finds the format of a file that is neither PEM nor DER.
pub(super) fn from_file(file: &[u8]) -> Option<Kind> {
    if pem::is_utf16(file) {
        return Some(Kind::Utf16);
    }
    let starts: [(&[u8], Kind); 6] = [
        // The magic numbers of JKS and JCEKS.
        (b"\xfe\xed\xfe\xed", Kind::Java),
        (b"\xce\xce\xce\xce", Kind::Java),
        (b"PuTTY-User-Key-File-", Kind::Putty),
        (b"pkcs11:", Kind::Pkcs11),
        (b"SSH PRIVATE KEY FILE FORMAT", Kind::Ssh),
        (b"---- BEGIN SSH2 ", Kind::Ssh),
    ];
    let text = pem::trimmed(file);
    let found = starts.into_iter().find(|(start, _)| text.starts_with(start));
    let is_jwk = || text.starts_with(b"{") && text.windows(JWK.len()).any(|window| window == JWK);
    found.map(|(_, kind)| kind).or_else(|| is_jwk().then_some(Kind::Jwk))
}

/// The member that each JSON Web Key has (RFC 7517, 4.1).
const JWK: &[u8] = b"\"kty\"";
