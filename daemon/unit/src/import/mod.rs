mod ber;
mod der_fields;
mod encrypted;
mod error;
mod key_name;
mod kind;
mod openssh;
mod pkcs12;
mod structure;

use core::cell::Cell;

use der::asn1::AnyRef;
use der::{Reader, SliceReader, Tag, Tagged};
use keyward_proto::{KeyType, Reference, pem};
use zeroize::Zeroizing;

use crate::error::UnitError;
use crate::key::Key;
use crate::unfold::unfolded;
use der_fields::fields;
use encrypted::{MAX_WORK, Passphrase};
use error::MAX_FILE;
use pkcs12::Archive;
use structure::{PUBLIC_KEY, REQUEST, is_certificate, read_key};

pub use error::{Form, ImportError};
pub use key_name::KeyName;
pub use kind::Kind;

/// Reads the one private key of a file without encryption.
pub(crate) fn read(file: &[u8]) -> Result<Key, ImportError> {
    // With no work allowed, nothing is decrypted, and nobody waits for a decryption.
    let read = KeyFile::read_with(file, Passphrase { bytes: None, work: &Cell::new(0) });
    let mut keys =
        read.map_err(|error| if error == ImportError::Costly { ImportError::Encrypted } else { error })?.keys;
    match keys.len() {
        0 | 1 => keys.pop().unwrap_or(Err(ImportError::Unknown)),
        count => Err(ImportError::Several(count)),
    }
}

/// The private keys and certificates of a file.
#[derive(Default)]
pub struct KeyFile {
    /// In the order of the file, each once, with the errors of keys that cannot be imported.
    keys: Vec<Result<Key, ImportError>>,
    certificates: Vec<Vec<u8>>,
}

impl KeyFile {
    /// Reads a file: PKCS#8, PKCS#1, SEC 1 or the format of OpenSSH, in PEM or DER, or PKCS#12. The
    /// passphrase decrypts encrypted content; its cost is bounded.
    ///
    /// # Errors
    /// [`ImportError`] says what the file is instead, and what to do; [`ImportError::Encrypted`] if
    /// the file needs a passphrase.
    pub fn read(file: &[u8], passphrase: Option<&[u8]>) -> Result<Self, ImportError> {
        Self::read_with(file, Passphrase { bytes: passphrase, work: &Cell::new(MAX_WORK) })
    }

    fn read_with(file: &[u8], passphrase: Passphrase<'_>) -> Result<Self, ImportError> {
        if file.len() > MAX_FILE {
            return Err(ImportError::TooLong);
        }
        let mut found = Self::default();
        let is_der = fields(file).is_ok();
        let instead = match unfolded(file).filter(|_| !is_der) {
            Some(inside) => found.read_plain(&inside, passphrase)?,
            None => found.read_plain(file, passphrase)?,
        };
        if found.keys.is_empty() {
            let certificates = (!found.certificates.is_empty()).then_some(CERTIFICATE);
            return Err(instead
                .filter(|instead| *instead != ImportError::Unknown)
                .or(certificates)
                .unwrap_or(kind::from_file(file).map_or(unknown_file(file), ImportError::Other)));
        }
        Ok(found)
    }

    /// Number of private keys.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The type of a private key.
    ///
    /// # Errors
    /// [`ImportError`] says why the private key cannot be imported.
    pub fn key_type(&self, index: usize) -> Result<KeyType, ImportError> {
        self.key(index).map(Key::key_type)
    }

    /// The public key of a private key, as SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`ImportError`] says why the private key cannot be imported.
    pub fn spki(&self, index: usize) -> Result<&[u8], ImportError> {
        self.key(index).map(Key::spki)
    }

    /// A private key as PKCS#8 in DER, which [`Unit::import`](crate::Unit::import) takes.
    ///
    /// # Errors
    /// [`ImportError`] says why the private key cannot be imported.
    pub fn pkcs8(&self, index: usize) -> Result<Zeroizing<Vec<u8>>, ImportError> {
        let pkcs8 = self.key(index)?.to_pkcs8();
        pkcs8.map_err(|_| ImportError::Unit(UnitError::Crypto("encode the key")))
    }

    /// The certificates in DER, in the order of the file. Nothing in them has been checked.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    fn key(&self, index: usize) -> Result<&Key, ImportError> {
        match self.keys.get(index) {
            Some(Ok(key)) => Ok(key),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ImportError::Unknown),
        }
    }

    /// Reads DER or PEM. Returns what the file holds besides private keys and certificates.
    fn read_plain(
        &mut self,
        file: &[u8],
        passphrase: Passphrase<'_>,
    ) -> Result<Option<ImportError>, ImportError> {
        if let Ok(fields) = fields(file) {
            return self.read_der(file, &fields, Form::Der, passphrase);
        }
        // DER comes first, because a DER certificate may contain the text of a PEM boundary.
        if pem::blocks(file).next().is_some() {
            return self.read_pem(file, passphrase);
        }
        // An archive with indefinite lengths; private keys alone are never written so.
        if ber::to_der(file)
            .as_ref()
            .and_then(|der| fields(der).ok())
            .is_some_and(|fields| is_archive(&fields))
        {
            self.add_archive(file, passphrase)?;
        }
        Ok(None)
    }

    fn read_pem(
        &mut self,
        file: &[u8],
        passphrase: Passphrase<'_>,
    ) -> Result<Option<ImportError>, ImportError> {
        let mut instead = None;
        for block in pem::blocks(file) {
            let body = || block.decode().ok_or(ImportError::Damaged(Form::Pem));
            let found = match block.label() {
                b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY" | b"DSA PRIVATE KEY" => {
                    let mut der = body()?;
                    if block.header("Proc-Type").is_some() {
                        let dek_info = block.header("DEK-Info").unwrap_or_default();
                        let plain = with_passphrase(passphrase, |passphrase| {
                            let plain = encrypted::decrypt_pem(dek_info, &der, passphrase)?;
                            // A wrong passphrase gives a right padding now and then, with every
                            // cipher here.
                            fields(&plain).map(|_| ()).map_err(|_| ImportError::Passphrase)?;
                            Ok(plain)
                        });
                        der = plain?;
                    }
                    let fields = fields(&der).map_err(|_| ImportError::Damaged(Form::Pem))?;
                    self.read_der(&der, &fields, Form::Pem, passphrase)?
                }
                b"ENCRYPTED PRIVATE KEY" => {
                    let der = body()?;
                    let fields = fields(&der).map_err(|_| ImportError::Damaged(Form::Pem))?;
                    self.read_der(&der, &fields, Form::Pem, passphrase)?
                }
                b"OPENSSH PRIVATE KEY" => {
                    self.add(openssh::read(&body()?));
                    None
                }
                b"CERTIFICATE" | b"X509 CERTIFICATE" | b"TRUSTED CERTIFICATE" => {
                    let body = body()?;
                    // A trusted certificate is followed by the uses it is trusted for.
                    let mut reader = SliceReader::new(&body).map_err(|_| ImportError::Damaged(Form::Pem))?;
                    let certificate = reader.tlv_bytes().map_err(|_| ImportError::Damaged(Form::Pem))?;
                    self.certificates.push(certificate.to_vec());
                    None
                }
                b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Some(REQUEST),
                b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Some(PUBLIC_KEY),
                label if label == Reference::PEM_LABEL.as_bytes() => Some(ImportError::Reference),
                // Parameters of a curve or group stand beside a key.
                b"EC PARAMETERS" | b"DH PARAMETERS" => None,
                label => match kind::from_label(label) {
                    Some(kind) => Some(ImportError::Other(kind)),
                    // Some programs have their own label for PKCS#8.
                    None if label.ends_with(b"PRIVATE KEY") => {
                        let der = body()?;
                        let read = fields(&der)
                            .ok()
                            .map(|fields| self.read_der(&der, &fields, Form::Pem, passphrase));
                        let label = || Some(ImportError::Label(String::from_utf8_lossy(label).into_owned()));
                        match read {
                            Some(Ok(None)) => None,
                            Some(Err(error @ (ImportError::Encrypted | ImportError::Passphrase))) => {
                                return Err(error);
                            }
                            _ => label(),
                        }
                    }
                    None => Some(ImportError::NotPrivateKey("something else")),
                },
            };
            instead = instead.or(found);
        }
        Ok(instead)
    }

    /// Reads a value in DER. Returns what the value is if it is neither a key nor a certificate.
    fn read_der(
        &mut self,
        der: &[u8],
        fields: &[AnyRef<'_>],
        form: Form,
        passphrase: Passphrase<'_>,
    ) -> Result<Option<ImportError>, ImportError> {
        if is_certificate(fields) {
            self.certificates.push(der.to_vec());
            return Ok(None);
        }
        if is_archive(fields) {
            return self.add_archive(der, passphrase).map(|()| None);
        }
        // EncryptedPrivateKeyInfo (RFC 5958, 3).
        if let [algorithm, ciphertext] = fields
            && (algorithm.tag(), ciphertext.tag()) == (Tag::Sequence, Tag::OctetString)
        {
            let key = with_passphrase(passphrase, |passphrase| {
                let plain = encrypted::decrypt(*algorithm, ciphertext.value(), passphrase)?;
                let fields = self::fields(&plain).map_err(|_| ImportError::Passphrase)?;
                Ok(read_key(&plain, &fields, form))
            })?;
            self.add(key);
            return Ok(None);
        }
        match read_key(der, fields, form) {
            Err(
                instead @ (ImportError::NotPrivateKey(_)
                | ImportError::Other(_)
                | ImportError::Reference
                | ImportError::Unknown),
            ) => Ok(Some(instead)),
            key => {
                self.add(key);
                Ok(None)
            }
        }
    }

    fn add_archive(&mut self, file: &[u8], passphrase: Passphrase<'_>) -> Result<(), ImportError> {
        // Many archives have no passphrase, which programs encode in one of two ways.
        let ways = [passphrase.bytes.map(Some), Some(None), Some(Some(&b""[..]))].into_iter().flatten();
        let mut reads = ways.map(|bytes| Archive::read(file, passphrase.or(bytes)));
        let read = reads.find(|read| !matches!(read, Err(ImportError::Passphrase)));
        let wrong = if passphrase.bytes.is_some() { ImportError::Passphrase } else { ImportError::Encrypted };
        let archive = read.unwrap_or(Err(wrong))?;
        self.certificates.extend(archive.certificates);
        for key in &archive.keys {
            let fields = fields(key).map_err(|_| ImportError::Damaged(Form::Der))?;
            self.add(read_key(key, &fields, Form::Der));
        }
        Ok(())
    }

    fn add(&mut self, key: Result<Key, ImportError>) {
        let is_there = |key: &Key| self.keys.iter().flatten().any(|before| before.spki() == key.spki());
        if !key.as_ref().is_ok_and(is_there) {
            self.keys.push(key);
        }
    }
}

/// Decrypts with the passphrase, if there is one.
fn with_passphrase<T>(
    passphrase: Passphrase<'_>,
    decrypt: impl FnOnce(Passphrase<'_>) -> Result<T, ImportError>,
) -> Result<T, ImportError> {
    if passphrase.bytes.is_some() { decrypt(passphrase) } else { Err(ImportError::Encrypted) }
}

/// The error for a file without any known content.
fn unknown_file(file: &[u8]) -> ImportError {
    if file.windows(PEM_START.len()).any(|window| window == PEM_START) {
        ImportError::Damaged(Form::Pem)
    } else if file.first() == Some(&DER_START) && fields(file).is_err() {
        ImportError::Damaged(Form::Der)
    } else {
        ImportError::Unknown
    }
}

/// True for the fields of a PFX (RFC 7292, 4), whose version is 3.
fn is_archive(fields: &[AnyRef<'_>]) -> bool {
    matches!(fields, [version, content, ..]
        if version.tag() == Tag::Integer && version.value() == [3] && content.tag() == Tag::Sequence)
}

const CERTIFICATE: ImportError = ImportError::NotPrivateKey("a certificate");

const PEM_START: &[u8] = b"-----BEGIN";
/// The tag of a SEQUENCE.
const DER_START: u8 = 0x30;

#[cfg(test)]
mod tests;
