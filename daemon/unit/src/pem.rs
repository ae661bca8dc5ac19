use keyward_proto::pem;

/// The public key in a file: the body of the first PEM block `PUBLIC KEY`, or the whole file
/// without such a block.
pub fn public_key_of_file(file: &[u8]) -> Vec<u8> {
    let block = pem::blocks(file).find(|block| block.label() == b"PUBLIC KEY");
    block.and_then(|block| block.decode()).map_or_else(|| file.to_vec(), |body| body.to_vec())
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
