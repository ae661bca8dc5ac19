//! The socket protocol, byte by byte: a frame of each kind. Servers that run for months, and other
//! people's clients, send and read them.

use std::fmt::Write;

use keyward_proto::Outcome;
use keyward_proto::frame::{self, HEADER};
use keyward_proto::message::{
    Changes, Decrypt, Describe, Description, GetStatus, Plaintext, Request, Response, Sign, Signature,
    Status, Watch, request, response, sign,
};
use keyward_tests::golden;

#[test]
fn golden_frames_of_the_socket_protocol() {
    let mut text = String::new();
    for (about, body) in requests() {
        // An optional field of every request, so that one request is without it.
        let processor = Some(3).filter(|_| about != "the version of the daemon");
        let request = Request { id: 7, deadline_ms: 5000, processor, body: Some(body) };
        let frame = frame::encode(&request).unwrap();
        assert_eq!(frame::decode::<Request>(body_of(&frame)).unwrap(), request);
        writeln!(text, "# Asks for {about}\n{}", digits(&frame)).unwrap();
    }
    for (about, body) in answers() {
        let response = Response { id: 7, outcome: Outcome::Done.into(), body: Some(body) };
        let frame = frame::encode(&response).unwrap();
        assert_eq!(frame::decode::<Response>(body_of(&frame)).unwrap(), response);
        writeln!(text, "# Answers with {about}\n{}", digits(&frame)).unwrap();
    }
    let outcomes: Vec<_> = (0..).map_while(|number| Outcome::try_from(number).ok()).collect();
    assert!(outcomes.contains(&Outcome::UnitSealed), "the numbers have a gap: {outcomes:?}");
    for outcome in outcomes {
        let response = Response { id: 7, outcome: outcome.into(), body: None };
        let frame = frame::encode(&response).unwrap();
        assert_eq!(frame::decode::<Response>(body_of(&frame)).unwrap(), response);
        writeln!(text, "# Answers with the outcome {}\n{}", outcome.name(), digits(&frame)).unwrap();
    }
    golden::check("protocol.txt", &text);
}

/// A request of each kind, with every field of version 0.1. A field that is added later gets a
/// frame of its own, because these frames stay as they are.
fn requests() -> Vec<(&'static str, request::Body)> {
    use request::Body;
    let (label, version) = (String::from("shop"), 2);
    let public_key_fingerprint = Some(0x0102_0304_0506_0708);
    let sign = |input| Sign {
        label: label.clone(),
        version,
        scheme: 0x0403,
        input: Some(input),
        public_key_fingerprint,
    };
    let ciphertext = vec![0xc1, 0xc2, 0xc3];
    vec![
        ("a key", Body::Describe(Describe { label: label.clone(), version, certified: true })),
        ("the signature of a message", Body::Sign(sign(sign::Input::Message(b"message".into())))),
        ("the signature of a digest", Body::Sign(sign(sign::Input::Digest(vec![0xd1, 0xd2])))),
        (
            "a premaster secret",
            Body::Decrypt(Decrypt {
                label: label.clone(),
                version,
                ciphertext,
                client_version: 0x0303,
                public_key_fingerprint,
            }),
        ),
        ("the version of the daemon", Body::GetStatus(GetStatus {})),
        ("changes of keys", Body::Watch(Watch { after: 300 })),
    ]
}

/// An answer of each kind, with every field of version 0.1, like [`requests`].
fn answers() -> Vec<(&'static str, response::Body)> {
    use response::Body;
    let description = Description {
        label: "shop".into(),
        version: 2,
        r#type: "p256".into(),
        public_key: vec![0x30, 0x59],
        versions: vec![1, 2],
        uses: vec!["tls-server".into(), "csr".into()],
        certificates: vec![vec![0x30, 0x01], vec![0x30, 0x02]],
        state: "enabled".into(),
    };
    let changes = Changes { revision: 301, labels: vec!["shop".into(), "mail".into()], everything: true };
    vec![
        ("a key", Body::Description(description)),
        ("a signature", Body::Signature(Signature { signature: vec![0x51, 0x52] })),
        ("a premaster secret", Body::Plaintext(Plaintext { plaintext: vec![0x03, 0x03, 0x41] })),
        ("the version of the daemon", Body::Status(Status { version: "0.1.0".into(), peer_uid: 33 })),
        ("changes of keys", Body::Changes(changes)),
    ]
}

/// The message in a frame, without its length.
fn body_of(frame: &[u8]) -> &[u8] {
    let (body, length) = frame::split(frame).unwrap().unwrap();
    assert_eq!((body.len() + HEADER, length), (frame.len(), frame.len()));
    body
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
