//! Conversion of BER (X.690, 8) to DER, for the two freedoms of BER that programs use: indefinite
//! lengths, and strings in parts. Browsers, Windows and macOS write PKCS#12 so.
//!
//! The `ber` feature of the crate `der` reads such values into known types only. The archive reader
//! works on values of any type, whose content can be BER again.

use zeroize::Zeroizing;

/// Returns the value in DER: with definite lengths, and with each string of bytes in one part.
/// `None` if the input is not BER.
pub(super) fn to_der(ber: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut der = Zeroizing::new(Vec::with_capacity(2 * ber.len() + 8));
    let rest = element(ber, &mut der, MAX_DEPTH)?;
    rest.is_empty().then_some(der)
}

/// Appends the first value of `ber` to `der`, and returns the rest of `ber`.
fn element<'a>(ber: &'a [u8], der: &mut Zeroizing<Vec<u8>>, depth: usize) -> Option<&'a [u8]> {
    let (&tag, rest) = ber.split_first()?;
    let (length, rest) = length(rest)?;
    let is_constructed = tag & CONSTRUCTED != 0;
    // No format that is read here has tags of several bytes.
    if tag & 0x1f == 0x1f || (length.is_none() && !is_constructed) {
        return None;
    }
    let (content, behind) = match length {
        Some(length) => rest.split_at_checked(length)?,
        None => (rest, &[][..]),
    };
    if !is_constructed {
        append(tag, content, der);
        return Some(behind);
    }
    let depth = depth.checked_sub(1)?;
    // Full capacity from the start, so that growing leaves no copy of a private key behind: a
    // length takes 4 bytes.
    let mut inside = Zeroizing::new(Vec::with_capacity(2 * content.len() + 8));
    let mut left = content;
    loop {
        match (length, left) {
            (Some(_), []) => break,
            (None, [0, 0, ..]) => break,
            _ => left = element(left, &mut inside, depth)?,
        }
    }
    if tag == CONSTRUCTED | OCTET_STRING {
        append(OCTET_STRING, &joined(&inside)?, der);
    } else {
        append(tag, &inside, der);
    }
    Some(if length.is_some() { behind } else { left.get(2..)? })
}

/// Joins the contents of consecutive strings in DER.
fn joined(strings: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut whole = Zeroizing::new(Vec::with_capacity(strings.len()));
    let mut left = strings;
    while let Some((&tag, rest)) = left.split_first() {
        let (length, rest) = length(rest)?;
        let (part, rest) = rest.split_at_checked(length?)?;
        (tag == OCTET_STRING).then(|| whole.extend_from_slice(part))?;
        left = rest;
    }
    Some(whole)
}

/// Reads a length, `None` for an indefinite one, and returns the rest.
fn length(ber: &[u8]) -> Option<(Option<usize>, &[u8])> {
    let (&first, rest) = ber.split_first()?;
    match first {
        0..0x80 => Some((Some(first.into()), rest)),
        0x80 => Some((None, rest)),
        _ => {
            let (bytes, rest) = rest.split_at_checked((first & 0x7f).into())?;
            let small = bytes.len() <= 4;
            let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            small.then_some((Some(length), rest))
        }
    }
}

fn append(tag: u8, content: &[u8], der: &mut Zeroizing<Vec<u8>>) {
    der.push(tag);
    let bytes = content.len().to_be_bytes();
    let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    match bytes {
        [] => der.push(0),
        [short @ 0..0x80] => der.push(*short),
        // A length has 8 bytes at most.
        bytes => {
            der.push(0x80 | bytes.len().to_be_bytes()[7]);
            der.extend_from_slice(bytes);
        }
    }
    der.extend_from_slice(content);
}

const CONSTRUCTED: u8 = 0x20;
const OCTET_STRING: u8 = 0x04;
/// Deepest nesting of values. An archive has a depth of 8.
const MAX_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_open_is_told() {
        let long = [&[0x04, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        for (ber, der) in [
            (&[0x30, 0x80, 0x02, 0x01, 0x03, 0, 0][..], &[0x30, 3, 0x02, 0x01, 0x03][..]),
            (&[0x30, 0x80, 0x30, 0x80, 0, 0, 0, 0], &[0x30, 2, 0x30, 0]),
            (&[0x24, 0x80, 0x04, 1, 1, 0x04, 2, 2, 3, 0, 0], &[0x04, 3, 1, 2, 3]),
            (&[0x24, 5, 0x24, 3, 0x04, 1, 1], &[0x04, 1, 1]),
            (&[0x04, 0x81, 1, 9], &[0x04, 1, 9]),
            (&[0xa0, 0x80, 0x04, 0x82, 0, 1, 9, 0, 0], &[0xa0, 3, 0x04, 1, 9]),
            (&long, &long),
        ] {
            assert_eq!(to_der(ber).as_ref().map(|der| der.as_slice()), Some(der), "{ber:?}");
        }
        let deep = [[0x30, 0x80].repeat(100), vec![0; 200]].concat();
        for ber in [&[][..], &[0x30], &[0x30, 0x80], &[0x04, 0x80, 0, 0], &[0x30, 2, 1], &[0x30, 0, 0], &deep]
        {
            assert!(to_der(ber).is_none(), "{ber:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = to_der(&bytes);
            let _ = to_der(&[&[0x30, 0x80], &bytes[..]].concat());
        }
    }
}
