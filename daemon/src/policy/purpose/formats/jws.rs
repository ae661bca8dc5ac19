//! JWS, and with it JWT.

/// JWS: a header in base64, then a dot (RFC 7515, 5.1); with `b64` false any bytes follow (RFC
/// 7797).
///
/// The check is as lenient as the most lenient readers. Some readers skip bytes outside of the
/// alphabet (Python's `base64`, the library Nimbus), accept JSON in UTF-16 and UTF-32 (Python's
/// `json`), or accept comments and names without quotes (Gson). So the format is an object in any
/// encoding, which is complete or contains `alg`. Chance: 2^-24 for an elliptic curve, 2^-22 for
/// DHE, where the dot may come much later.
pub(super) fn is_jws(message: &[u8]) -> bool {
    // The first byte decides for most messages.
    let mut header = lenient_base64(message.iter().take_while(|byte| **byte != b'.'))
        .skip_while(|byte| *byte <= b' ' || matches!(byte, 0xef | 0xbb | 0xbf | 0xfe | 0xff));
    let Some(first @ (b'{' | b'#' | b'/' | b')')) = header.next() else { return false };
    let rest: Vec<u8> = header.filter(|byte| *byte != 0).collect();
    let is_object = match first {
        b'{' => true,
        b')' => rest.starts_with(b"]}'"),
        b'/' => matches!(rest.first(), Some(b'/' | b'*')) && rest.contains(&b'{'),
        _ => rest.contains(&b'{'),
    };
    let has_members = || {
        let rest = rest.trim_ascii();
        first == b'{' && rest.len() > 1 && rest.starts_with(b"\"") && rest.ends_with(b"}")
    };
    is_object
        && (has_members() || without_escapes(&rest).windows(3).any(|name| name.eq_ignore_ascii_case(b"alg")))
}

/// The bytes that base64 encodes, in both alphabets, without any other bytes in between.
fn lenient_base64<'a>(text: impl Iterator<Item = &'a u8>) -> impl Iterator<Item = u8> {
    let (mut bits, mut count) = (0_u32, 0_u32);
    let sextet = |byte: &u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' | b'+' => Some(62),
        b'_' | b'/' => Some(63),
        _ => None,
    };
    text.filter_map(sextet).filter_map(move |sextet| {
        bits = bits << 6 | u32::from(sextet);
        count += 6;
        (count >= 8).then(|| {
            count -= 8;
            (bits >> count) as u8
        })
    })
}

/// Text of JSON with `\u0061` written as `a` (RFC 8259, 7).
fn without_escapes(json: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some((byte, after)) = rest.split_first() {
        let digits = rest.strip_prefix(br"\u00").and_then(<[u8]>::first_chunk::<2>);
        let escaped = digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        text.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &rest[6..] } else { after };
    }
    text
}
