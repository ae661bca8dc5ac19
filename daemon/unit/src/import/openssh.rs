//! Private keys in the format of OpenSSH (PROTOCOL.key in its source).

use keyward_proto::Curve;

use super::error::{Form, ImportError};
use crate::key::Key;
use crate::rsa_numbers;

/// Reads the body of a PEM block without encryption.
pub(super) fn read(body: &[u8]) -> Result<Key, ImportError> {
    let damaged = || ImportError::Damaged(Form::Pem);
    let mut fields = Fields(body.strip_prefix(MAGIC).ok_or_else(damaged)?);
    let cipher = fields.string().ok_or_else(damaged)?;
    if cipher != b"none" {
        return Err(ImportError::OpenSshEncrypted);
    }
    let mut private = (|| {
        let (_derivation, _options, count, _public) =
            (fields.string()?, fields.string()?, fields.number()?, fields.string()?);
        let mut private = Fields(fields.string()?);
        // A number twice, which shows a right passphrase.
        let is_sound = count == 1 && private.number()? == private.number()?;
        is_sound.then_some(private)
    })()
    .ok_or_else(damaged)?;
    match private.string().ok_or_else(damaged)? {
        b"ssh-ed25519" => {
            let (public, both) = private.string().zip(private.string()).ok_or_else(damaged)?;
            let seed = both.get(..32).ok_or_else(damaged)?;
            Key::from_ed25519(seed, Some(public)).map_err(|_| ImportError::Inconsistent)
        }
        name if name.starts_with(b"ecdsa-sha2-") => {
            let (curve, point) = private.string().zip(private.string()).ok_or_else(damaged)?;
            let scalar = unsigned(private.string().ok_or_else(damaged)?);
            let curve = CURVES.iter().find(|(known, _)| *known == curve).ok_or(OTHER)?.1;
            Key::from_ec(curve, scalar, point).map_err(|_| ImportError::Inconsistent)
        }
        b"ssh-rsa" => {
            let mut numbers = [&[][..]; 6];
            for number in &mut numbers {
                *number = unsigned(private.string().ok_or_else(damaged)?);
            }
            let key = rsa_numbers::from_openssh(numbers).and_then(Key::from_rsa);
            key.map_err(|_| ImportError::Inconsistent)
        }
        _ => Err(OTHER),
    }
}

/// Consecutive fields.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}

/// A number without the zero byte that marks it as positive.
fn unsigned(number: &[u8]) -> &[u8] {
    number.strip_prefix(&[0]).unwrap_or(number)
}

const MAGIC: &[u8] = b"openssh-key-v1\0";

const CURVES: [(&[u8], Curve); 3] =
    [(b"nistp256", Curve::P256), (b"nistp384", Curve::P384), (b"nistp521", Curve::P521)];

const OTHER: ImportError = ImportError::NotPrivateKey("a key of OpenSSH of a type that TLS does not use");
