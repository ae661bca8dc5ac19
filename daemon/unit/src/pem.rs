//! The blocks of a PEM file (RFC 7468), read with the patience of OpenSSL: text around the blocks, other line
//! ends, lines of any length.

use core::iter;

use pem_rfc7468::Base64Decoder;
use zeroize::Zeroizing;

/// What is in a file that holds a public key: the body of its first PEM block `PUBLIC KEY`, or the whole file where
/// that has none.
pub fn public_key_of_file(file: &[u8]) -> Vec<u8> {
    let body = blocks(file).find(|block| block.label == b"PUBLIC KEY").and_then(|block| block.decode());
    body.map_or_else(|| file.to_vec(), |body| body.to_vec())
}

/// One block of a PEM file.
pub(crate) struct Block<'a> {
    pub(crate) label: &'a [u8],
    lines: Vec<&'a [u8]>,
    whole: bool,
}

/// The blocks of a file, from the first one; cut off ones among them.
pub(crate) fn blocks(file: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let mut lines = file.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    iter::from_fn(move || {
        let label = lines.find_map(|line| boundary(line, b"-----BEGIN "))?;
        let mut block = Block { label, lines: Vec::new(), whole: false };
        for line in lines.by_ref() {
            if let Some(end) = boundary(line, b"-----END ") {
                block.whole = end == label;
                break;
            }
            block.lines.push(line);
        }
        Some(block)
    })
}

fn boundary<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).strip_prefix(start)?.strip_suffix(b"-----")
}

impl Block<'_> {
    /// Whether its headers say that the body is encrypted, as in the PEM of old (RFC 1421, 4.6.1.1).
    pub(crate) fn is_encrypted(&self) -> bool {
        self.lines.iter().any(|line| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED"))
    }

    /// The body; `None` if it is cut off or garbled.
    pub(crate) fn decode(&self) -> Option<Zeroizing<Vec<u8>>> {
        if !self.whole {
            return None;
        }
        // Both buffers are sized at once, so that growing leaves no copy of a private key behind.
        let length = self.lines.iter().map(|line| line.len()).sum();
        let mut text = Zeroizing::new(Vec::with_capacity(length));
        self.lines.iter().for_each(|line| text.extend_from_slice(line));
        let mut decoder = Base64Decoder::new(&text).ok()?;
        let mut body = Zeroizing::new(vec![0; decoder.remaining_len()]);
        decoder.decode(&mut body).ok()?;
        decoder.is_finished().then_some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_found_whatever_is_around_it() {
        let pem = b"-----BEGIN PUBLIC KEY-----\nAQID\nBAU=\n-----END PUBLIC KEY-----\n";
        let with_lines = |text: &str| text.replace('\n', "\r\n").into_bytes();
        let text = String::from_utf8_lossy(pem);
        let certificate = "-----BEGIN CERTIFICATE-----\nBg==\n-----END CERTIFICATE-----\n";
        for file in [pem.to_vec(), with_lines(&text), format!("{certificate}the key\n{text}").into_bytes()] {
            assert_eq!(public_key_of_file(&file), [1, 2, 3, 4, 5]);
        }
        for file in [&b""[..], &[0x30, 1, 2], certificate.as_bytes(), &pem[..40]] {
            assert_eq!(public_key_of_file(file), file);
        }
    }
}
