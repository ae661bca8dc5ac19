//! Messages to be signed. Each message has exactly one kind, to its last byte, and no message that
//! TLS signs is text.

use keyward::policy::purpose::{Purpose, classify, other_format};

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    // The length of the public key, the public key, and the message.
    let Some((length, rest)) = bytes.split_first() else { return };
    let Some((spki, message)) = rest.split_at_checked(usize::from(*length)) else { return };
    let purpose = classify(message, spki);
    if purpose == Purpose::Other {
        return;
    }
    assert!(!message.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')));
    if matches!(purpose, Purpose::Tls12ServerKeyExchange | Purpose::Tls12OnlyServerKeyExchange) {
        for field in [&b"content-type"[..], b"mime-version"] {
            assert!(!message.windows(field.len()).any(|part| part.eq_ignore_ascii_case(field)));
        }
    }
    let longer = [message, &[0]].concat();
    assert_eq!(classify(&longer, spki), Purpose::Other);
    assert_eq!(classify(&message[..message.len() - 1], spki), Purpose::Other);
    // No message is both a handshake and another recognised format. This applies to TLS 1.2 only.
    assert_eq!(other_format(message), None);
    let has_sentinel = message.get(56..64) == Some(b"DOWNGRD\x01");
    match purpose {
        Purpose::Tls12ServerKeyExchange => assert!(has_sentinel && message.len() <= 201),
        Purpose::Tls12OnlyServerKeyExchange => assert!(!has_sentinel && message.len() <= 201),
        // The known groups have primes from 2,048 bits, with 64 one bits at both ends.
        Purpose::Tls12DheServerKeyExchange => {
            assert!(message.len() > 64 + 256 && message[66..74] == [0xff; 8])
        }
        _ => {}
    }
    if purpose == Purpose::CertificateRequest {
        assert!(message.windows(spki.len()).any(|part| part == spki));
        assert_ne!(classify(message, b"the key of another"), Purpose::CertificateRequest);
    } else {
        // The kind of a handshake does not depend on the key.
        assert_eq!(classify(message, b"the key of another"), purpose);
    }
}
