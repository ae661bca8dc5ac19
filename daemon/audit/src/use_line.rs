//! The line of a use of a key. Each handshake of a server has one, so the line is put together by
//! hand: a serialiser takes three times the instructions.

use std::io::Write;

use serde::Serialize;

use crate::line::USE;
use crate::record::Time;
use crate::{Hash, KeyUse};

/// Writes the record of a use as a line, without the line feed.
pub(crate) fn write(line: &mut Vec<u8>, seq: u64, r#use: &KeyUse, prev: Hash) {
    let KeyUse { peer, key, version, fingerprint, purpose, scheme, message, outcome, request, time } = r#use;
    line.reserve(LENGTH);
    value(line, "{\"seq\":", seq);
    let _written = write!(line, ",\"time\":\"{}\"", Time(*time));
    word(line, ",\"action\":\"", USE);
    word(line, ",\"outcome\":\"", outcome);
    value(line, ",\"key\":", key.as_str());
    value(line, ",\"version\":", *version);
    if let Some(fingerprint) = fingerprint {
        digits(line, ",\"fingerprint\":\"", &fingerprint.to_be_bytes());
    }
    if let Some(purpose) = purpose {
        word(line, ",\"purpose\":\"", purpose);
    }
    if let Some(scheme) = scheme {
        word(line, ",\"scheme\":\"", scheme);
    }
    digits(line, ",\"message\":\"", message.as_bytes());
    value(line, ",\"peer\":{\"uid\":", peer.uid);
    value(line, ",\"gid\":", peer.gid);
    value(line, ",\"pid\":", peer.pid);
    if let Some(command) = &peer.command {
        value(line, ",\"command\":", command);
    }
    if let Some(unit) = &peer.unit {
        value(line, ",\"unit\":", unit);
    }
    digits(line, "},\"request\":\"", &request.to_be_bytes());
    digits(line, ",\"prev\":\"", prev.as_bytes());
    line.push(b'}');
}

/// A name with the first quotation mark, a word of ours that JSON shows as it is, and the second
/// quotation mark.
fn word(line: &mut Vec<u8>, name: &str, word: &'static str) {
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(word.as_bytes());
    line.push(b'"');
}

/// A name, and a number or a text.
fn value(line: &mut Vec<u8>, name: &str, value: impl Serialize) {
    line.extend_from_slice(name.as_bytes());
    // Neither numbers nor texts fail, and a vector takes everything.
    let _written = serde_json::to_writer(line, &value);
}

/// A name with the first quotation mark, bytes in hexadecimal, and the second quotation mark.
fn digits(line: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    line.extend_from_slice(name.as_bytes());
    let begin = line.len();
    line.resize(begin + 2 * bytes.len(), 0);
    // The place has the length of the digits.
    let _encoded = base16ct::lower::encode(bytes, &mut line[begin..]);
    line.push(b'"');
}

/// Room for a record with a label and names of usual lengths, in bytes.
const LENGTH: usize = 700;

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::{Value, json};

    use super::*;
    use crate::{Name, Peer};

    #[test]
    fn a_line_is_json_with_all_that_is_known() {
        let mut r#use = KeyUse {
            time: UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001),
            peer: Peer {
                uid: u32::MAX,
                gid: 7,
                pid: -1,
                command: Some("a \"b\"\n\u{1}\\".into()),
                unit: Some("naïve.service".into()),
            },
            key: Name::of("shop/ü\u{7f}\t"),
            version: 3,
            fingerprint: Some(0x0102_0304_0506_0708),
            purpose: Some("tls13-server"),
            scheme: Some("ed25519"),
            message: Hash::of(b"message"),
            outcome: "done",
            request: 1,
        };
        let read = |r#use: &KeyUse| -> Value {
            let mut line = b"before".to_vec();
            write(&mut line, u64::MAX, r#use, Hash::NONE);
            serde_json::from_slice(&line["before".len()..]).unwrap()
        };
        let mut expected = json!({
            "seq": u64::MAX,
            "time": "2023-11-14T22:13:20.000001Z",
            "action": "keyward.key.use",
            "outcome": "done",
            "key": "shop/ü\u{7f}\t",
            "version": 3,
            "fingerprint": "0102030405060708",
            "purpose": "tls13-server",
            "scheme": "ed25519",
            "message": "ab530a13e45914982b79f9b7e3fba994cfd1f3fb22f71cea1afbf02b460c6d1d",
            "peer": {
                "uid": u32::MAX,
                "gid": 7,
                "pid": -1,
                "command": "a \"b\"\n\u{1}\\",
                "unit": "naïve.service",
            },
            "request": "00000000000000000000000000000001",
            "prev": "0".repeat(64),
        });
        assert_eq!(read(&r#use), expected);
        (r#use.fingerprint, r#use.purpose, r#use.scheme) = (None, None, None);
        (r#use.peer.command, r#use.peer.unit) = (None, None);
        let fields = expected.as_object_mut().unwrap();
        fields.retain(|name, _| !["fingerprint", "purpose", "scheme"].contains(&name.as_str()));
        fields["peer"].as_object_mut().unwrap().retain(|name, _| name.ends_with("id"));
        assert_eq!(read(&r#use), expected);
    }
}
