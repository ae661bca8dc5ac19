use keyward_proto::pem;
use pem_rfc7468::Base64Decoder;
use zeroize::Zeroizing;

/// The PEM or DER inside a file of another form: base64, as in Secrets of Kubernetes and variables
/// of CI systems; PEM in one line, with blanks or the escape `\n` for line ends; strings of JSON or
/// YAML. `None` for plain PEM, and without any.
pub fn unfolded(file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if pem::blocks(file).next().is_some() {
        return None;
    }
    if find(file, BEGIN).is_some() {
        return Some(with_lines(file));
    }
    whole_base64(file).or_else(|| embedded_base64(file))
}

/// Puts each boundary on a line of its own, and replaces escapes by line ends.
fn with_lines(mut text: &[u8]) -> Zeroizing<Vec<u8>> {
    // No byte becomes more than two, so the vector does not grow and leaves no copy of a private
    // key behind.
    let mut lines = Zeroizing::new(Vec::with_capacity(2 * text.len()));
    while let Some((&first, rest)) = text.split_first() {
        if let Some(length) = boundary(text) {
            let (boundary, rest) = text.split_at(length);
            lines.push(b'\n');
            lines.extend_from_slice(boundary);
            lines.push(b'\n');
            text = rest;
            continue;
        }
        text = rest;
        match (first, rest.first()) {
            (b'\\', Some(b'n' | b'r')) => {
                lines.push(b'\n');
                text = &rest[1..];
            }
            // The backslash of an escaped escape, or of a slash in JSON.
            (b'\\', Some(b'\\' | b'/')) => {}
            _ => lines.push(first),
        }
    }
    lines
}

/// Length of the boundary at the start of a text, in bytes.
fn boundary(text: &[u8]) -> Option<usize> {
    let start = [BEGIN, END].into_iter().find(|start| text.starts_with(start))?.len();
    let rest = text.get(start..text.len().min(start + LONGEST_LABEL))?;
    Some(start + find(rest, DASHES)? + DASHES.len())
}

/// The body of a file that is base64 only.
fn whole_base64(file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(file.len()));
    text.extend(file.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let body = decoded(&text)?;
    (body.first() == Some(&DER_START) || find(&body, BEGIN).is_some()).then_some(body)
}

/// Every PEM in base64 that a file contains.
fn embedded_base64(mut file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut found = Zeroizing::new(Vec::with_capacity(file.len()));
    while let Some(start) = find(file, BEGIN_IN_BASE64) {
        let run = file.get(start..)?;
        let length = run.iter().take_while(|byte| is_base64(**byte)).count();
        let (run, rest) = run.split_at(length);
        found.extend_from_slice(&decoded(run)?);
        found.push(b'\n');
        file = rest;
    }
    (!found.is_empty()).then_some(found)
}

fn decoded(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut decoder = Base64Decoder::new(text).ok()?;
    let mut body = Zeroizing::new(vec![0; decoder.remaining_len()]);
    decoder.decode(&mut body).ok()?;
    decoder.is_finished().then_some(body)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
/// Base64 of [`BEGIN`], without the last character, which depends on the next byte.
const BEGIN_IN_BASE64: &[u8] = b"LS0tLS1CRUdJTi";
/// Longest label of a boundary with the dashes after it, in bytes.
const LONGEST_LABEL: usize = 64;
/// The tag of a SEQUENCE.
const DER_START: u8 = 0x30;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_openssl::run;

    const PEM: &str = "-----BEGIN X-----\nAQID\nBAUG\n-----END X-----\n";

    fn base64(text: &[u8]) -> String {
        String::from_utf8(run("base64 -A", text)).unwrap()
    }

    #[test]
    fn pem_is_found_in_other_dresses() {
        let escaped = PEM.replace('\n', r"\n");
        let encoded = base64(PEM.as_bytes());
        for text in [
            escaped.clone(),
            escaped.trim_end_matches(r"\n").to_owned(),
            PEM.replace('\n', r"\r\n"),
            PEM.replace('\n', r"\\n"),
            PEM.replace('\n', " "),
            format!("KEY=\"{escaped}\""),
            format!("{{\"private_key\": \"{escaped}\", \"other\": 1}}"),
            encoded.clone(),
            encoded.replace("LS0t", "LS0t\n"),
            format!("kind: Secret\ndata:\n  tls.key: {encoded}\ntype: kubernetes.io/tls\n"),
            format!("{{\"tls.key\":\"{encoded}\"}}"),
        ] {
            let unfolded = unfolded(text.as_bytes()).unwrap_or_else(|| panic!("{text:?}"));
            let block = pem::blocks(&unfolded).next().unwrap_or_else(|| panic!("{text:?}"));
            assert_eq!(block.decode().unwrap().as_slice(), [1, 2, 3, 4, 5, 6], "{text:?}");
        }
        let both = format!("tls.crt: {encoded}\ntls.key: {encoded}\n");
        assert_eq!(pem::blocks(&unfolded(both.as_bytes()).unwrap()).count(), 2);
        let slash = PEM.replace("AQID", r"\/QID").replace('\n', r"\n");
        let body = pem::blocks(&unfolded(slash.as_bytes()).unwrap()).next().unwrap().decode().unwrap();
        assert_eq!(body[0], 0xfd);
        assert_eq!(unfolded(base64(&[0x30, 1, 2, 3]).as_bytes()).unwrap().as_slice(), [0x30, 1, 2, 3]);
    }

    #[test]
    fn other_files_are_left_alone() {
        for file in [PEM.as_bytes(), b"", b"hello", b"aGVsbG8=", b"LS0tLS1CRUdJTi*", &[0x30, 1, 2]] {
            assert!(unfolded(file).is_none(), "{file:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, start in "(-----BEGIN |LS0tLS1CRUdJTi|\\\\)?") {
            let _ = unfolded(&[start.as_bytes(), &bytes].concat());
        }

        #[test]
        fn no_copy_is_left_behind(text in r"(-----BEGIN X-----|-----END X-----|\\n|\\|A| ){0,20}") {
            let lines = with_lines(text.as_bytes());
            prop_assert!(lines.len() <= 2 * text.len());
        }
    }
}
