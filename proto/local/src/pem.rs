//! The blocks of a PEM file (RFC 7468), read as leniently as OpenSSL reads them: text around the
//! blocks, a byte order mark, indentation, other line ends, blanks, and lines of any length are
//! allowed.

use core::iter;

use pem_rfc7468::Base64Decoder;
use zeroize::Zeroizing;

/// The blocks of a file in order, including blocks that are cut off.
pub fn blocks(file: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let mut lines = file.split(|byte| matches!(byte, b'\n' | b'\r')).map(trimmed);
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

/// The line without blanks around it, and without the byte order mark that a file may begin with.
pub fn trimmed(line: &[u8]) -> &[u8] {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let line = line.trim_ascii();
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii_start()
}

/// True if a file is text in UTF-16, judged by its byte order mark or by the dashes that PEM begins
/// with. Nothing here reads UTF-16.
pub fn is_utf16(file: &[u8]) -> bool {
    [&b"\xff\xfe"[..], b"\xfe\xff", b"-\0-\0", b"\0-\0-"].iter().any(|start| file.starts_with(start))
}

fn boundary<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    // Without this check, a PEM file whose lines were joined into one would pass as one boundary.
    (!label.windows(5).any(|part| part == b"-----")).then_some(label)
}

/// A block of a PEM file.
pub struct Block<'a> {
    label: &'a [u8],
    lines: Vec<&'a [u8]>,
    whole: bool,
}

impl<'a> Block<'a> {
    /// The label, as in `-----BEGIN PRIVATE KEY-----`.
    pub fn label(&self) -> &'a [u8] {
        self.label
    }

    /// The value of a header before the body, as in older PEM (RFC 1421, 4.6).
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let value = |line: &&'a [u8]| line.strip_prefix(name.as_bytes())?.strip_prefix(b":");
        self.lines.iter().take_while(|line| is_header(line)).find_map(value).map(<[u8]>::trim_ascii)
    }

    /// The body; `None` if the block is cut off or garbled.
    pub fn decode(&self) -> Option<Zeroizing<Vec<u8>>> {
        if !self.whole {
            return None;
        }
        let lines = || self.lines.iter().skip_while(|line| is_header(line));
        // Both buffers have their full size at once: a buffer that grows would leave a copy of a
        // private key.
        let mut text = Zeroizing::new(Vec::with_capacity(lines().map(|line| line.len()).sum()));
        text.extend(lines().flat_map(|line| line.iter()).filter(|byte| !byte.is_ascii_whitespace()));
        let mut decoder = Base64Decoder::new(&text).ok()?;
        let mut body = Zeroizing::new(vec![0; decoder.remaining_len()]);
        decoder.decode(&mut body).ok()?;
        decoder.is_finished().then_some(body)
    }
}

/// True for a header line: base64 has no colon.
fn is_header(line: &[u8]) -> bool {
    line.contains(&b':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEM: &str = "-----BEGIN X-----\nAQID\nBAUG\n-----END X-----\n";

    #[test]
    fn all_that_openssl_reads_is_read() {
        for text in [
            PEM.to_owned(),
            format!("\u{feff}{PEM}"),
            format!("\u{feff}  {PEM}"),
            PEM.replace('\n', "\r\n"),
            PEM.replace('\n', "\r"),
            PEM.replace('\n', " \t\n\n"),
            format!("  {}", PEM.replace('\n', "\n  ")),
            PEM.replace("AQID\n", "AQID"),
            PEM.replace("AQID\n", "A\nQ\nID"),
            PEM.replace("AQID", "AQ ID"),
            PEM.replace("AQID", "Name: of it\nOther: 1\n\nAQID"),
            format!("text -----BEGIN Y-----\n{PEM}-----BEGIN Y-----\n"),
        ] {
            let block = blocks(text.as_bytes()).next().unwrap();
            assert_eq!(block.label(), b"X", "{text:?}");
            assert_eq!(block.decode().unwrap().as_slice(), [1, 2, 3, 4, 5, 6], "{text:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_garbled_has_no_body() {
        let cut = (PEM.find("AQ").unwrap()..PEM.len() - 2).map(|end| PEM[..end].to_owned());
        let garbled = [
            PEM.replace("END X", "END Y"),
            PEM.replace("AQID", "AQ=ID"),
            PEM.replace("AQID", "*QID"),
            PEM.replace("BAUG", "BAUG\na: b"),
        ];
        for text in cut.chain(garbled) {
            assert!(blocks(text.as_bytes()).next().unwrap().decode().is_none(), "{text:?}");
        }
        assert!(blocks(PEM.replace('\n', " ").as_bytes()).next().is_none());
    }

    #[test]
    fn headers_are_found_ahead_of_the_body() {
        let text = PEM.replace("AQID", "Proc-Type: 4,ENCRYPTED\nDEK-Info:X,1\n\nAQID");
        let block = blocks(text.as_bytes()).next().unwrap();
        assert_eq!(block.header("Proc-Type"), Some(&b"4,ENCRYPTED"[..]));
        assert_eq!((block.header("DEK-Info"), block.header("DEK")), (Some(&b"X,1"[..]), None));
    }

    #[test]
    fn utf16_is_told() {
        let utf16 = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        let little: Vec<u8> = utf16(PEM).iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> =
            utf16(&format!("\u{feff}{PEM}")).iter().flat_map(|unit| unit.to_be_bytes()).collect();
        assert!(is_utf16(&little) && is_utf16(&big) && !is_utf16(PEM.as_bytes()));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            for file in [bytes.clone(), [b"-----BEGIN X-----\n", bytes.as_slice()].concat()] {
                blocks(&file).for_each(|block| drop(block.decode()));
            }
        }
    }
}
