//! Messages to be signed. Each is one thing, to its last byte, and what TLS signs is never a text.

#![no_main]

use keyward::policy::purpose::{Purpose, classify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The length of the public key, that key, and the message.
    let Some((length, rest)) = bytes.split_first() else { return };
    let Some((spki, message)) = rest.split_at_checked(usize::from(*length)) else { return };
    let purpose = classify(message, spki);
    if purpose == Purpose::Other {
        return;
    }
    assert!(!message.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')));
    let longer = [message, &[0]].concat();
    assert_eq!(classify(&longer, spki), Purpose::Other);
    assert_eq!(classify(&message[..message.len() - 1], spki), Purpose::Other);
    if purpose == Purpose::CertificateRequest {
        assert!(message.windows(spki.len()).any(|part| part == spki));
        assert_ne!(classify(message, b"the key of another"), Purpose::CertificateRequest);
    } else {
        // What a handshake is does not depend on the key.
        assert_eq!(classify(message, b"the key of another"), purpose);
    }
});
