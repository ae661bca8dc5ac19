//! The bytes that an attacker sends.

use keyward_proto::frame;
use keyward_proto::message::{Decrypt, Describe, GetStatus, Request, Sign, Watch, request, sign};

use crate::Settings;

/// The bytes of one request of this kind.
pub(crate) fn bytes(settings: &Settings) -> Vec<u8> {
    let label = settings.text("label").unwrap_or("shop").to_owned();
    let sign = |message| {
        let scheme = u32::try_from(settings.number("scheme").unwrap_or(ECDSA_SECP256R1_SHA256)).unwrap();
        request::Body::Sign(Sign {
            label: label.clone(),
            version: 0,
            scheme,
            input: Some(sign::Input::Message(message)),
            public_key_fingerprint: None,
        })
    };
    let body = match settings.text("request").unwrap_or("sign") {
        "sign" => sign(certificate_verify()),
        "decrypt" => {
            // Smaller than any modulus of 4,096 bits.
            let mut ciphertext = vec![0x5a; 512];
            ciphertext[0] = 0;
            request::Body::Decrypt(Decrypt {
                label,
                version: 0,
                ciphertext,
                client_version: 0x0303,
                public_key_fingerprint: None,
            })
        }
        "describe" => request::Body::Describe(Describe { label, version: 0, certified: false }),
        "status" => request::Body::GetStatus(GetStatus {}),
        "watch" => request::Body::Watch(Watch { after: u64::MAX }),
        "large" | "half" => sign([certificate_verify(), vec![7; frame::MAX_BODY - 1024]].concat()),
        "garbage" => return vec![0xff; 1000],
        kind => panic!("no such request: {kind}"),
    };
    let request = Request {
        id: 1,
        deadline_ms: settings.number("deadline").map_or(0, |ms| u32::try_from(ms).unwrap()),
        body: Some(body),
        processor: settings.number("processor").map(|processor| u32::try_from(processor).unwrap()),
    };
    let mut bytes = frame::encode(&request).expect("a frame");
    if settings.text("request") == Some("half") {
        bytes.pop();
    }
    bytes
}

/// The message that a server signs in TLS 1.3 (RFC 8446, 4.4.3).
fn certificate_verify() -> Vec<u8> {
    [&[0x20; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat()
}

const ECDSA_SECP256R1_SHA256: usize = 0x0403;
