use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::bytes::Bytes;
use super::points::tests::generators;
use super::tls12::*;
use super::*;

const CONTEXT_0: u8 = 0xa0;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

fn tls13(context: &str, hash: usize) -> Vec<u8> {
    [&[0x20; 64][..], context.as_bytes(), &[0], &vec![0xab; hash]].concat()
}

fn ske(group: u16, point: &[u8]) -> Vec<u8> {
    let mut message: Vec<u8> = (0..56u8).map(|byte| byte.wrapping_mul(37) | 1).collect();
    message.extend_from_slice(b"DOWNGRD\x01\x03");
    message.extend_from_slice(&group.to_be_bytes());
    message.push(point.len() as u8);
    message.extend_from_slice(point);
    message
}

/// The points that every key exchange of a curve may have, with the number of their group.
fn points() -> Vec<(u16, Vec<u8>)> {
    let uncompressed = |(number, (_, point)): (u16, (_, Vec<u8>))| (number, [&[4][..], &point].concat());
    let points = (23..).zip(generators()).map(uncompressed);
    points.chain([(29, vec![9; 32]), (30, vec![9; 56])]).collect()
}

fn dh(prime: &[u8], generator: &[u8], public: &[u8]) -> Vec<u8> {
    let mut message = vec![0xf5; 64];
    for part in [prime, generator, public] {
        message.extend_from_slice(&(part.len() as u16).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// Certificate with one, which is as short as can be.
fn certificate() -> Vec<u8> {
    let der = tlv(SEQUENCE, &[tlv(SEQUENCE, &tlv(INTEGER, &[1])), tlv(SEQUENCE, &[]), tlv(3, &[0])].concat());
    let length = der.len() as u8;
    handshake(CERTIFICATE, &[&[0, 0, length + 3, 0, 0, length], &der[..]].concat())
}

fn transcript() -> Vec<Vec<u8>> {
    let client =
        [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0], &[0, 5, 0, 23, 0, 1, 9]].concat();
    let server = [&[3, 3][..], &[8; 32], &[0], &[0xc0, 0x2b, 0]].concat();
    vec![
        handshake(CLIENT_HELLO, &client),
        handshake(SERVER_HELLO, &server),
        certificate(),
        handshake(SERVER_KEY_EXCHANGE, &[3, 0, 29, 1, 0]),
        handshake(CERTIFICATE_REQUEST, &[1, 64, 0, 2, 4, 3, 0, 0]),
        handshake(SERVER_HELLO_DONE, &[]),
        certificate(),
        handshake(CLIENT_KEY_EXCHANGE, &[32; 33]),
    ]
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

/// A key and a request for it, made by the openssl program: SubjectPublicKeyInfo and the signed
/// part.
fn real_request() -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let openssl = |words: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(words).current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "{words:?}");
    };
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "key.pem",
        "-subj",
        "/C=DE/O=Shop/CN=shop.example",
        "-addext",
        "subjectAltName=DNS:shop.example",
        "-outform",
        "DER",
        "-out",
        "request.der",
    ]);
    openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "public.der"]);
    let request = std::fs::read(path("request.der")).unwrap();
    let (_, content, _) = Bytes(&request).der().unwrap();
    let (_, _, signed) = Bytes(content).der().unwrap();
    (std::fs::read(path("public.der")).unwrap(), signed.to_vec())
}

fn kind(message: &[u8]) -> Purpose {
    classify(message, b"no key")
}

#[test]
fn tls13_of_both_sides() {
    for hash in [32, 48] {
        let server = tls13("TLS 1.3, server CertificateVerify", hash);
        assert_eq!(kind(&server), Purpose::Tls13ServerCertificateVerify);
        let client = tls13("TLS 1.3, client CertificateVerify", hash);
        assert_eq!(kind(&client), Purpose::Tls13ClientCertificateVerify);
    }
    for wrong in [
        tls13("TLS 1.3, server CertificateVerify", 31),
        tls13("TLS 1.3, server CertificateVerify", 33),
        tls13("TLS 1.3, server CertificateVerify", 64),
        tls13("TLS 1.3, server CertificateVerify ", 32),
        tls13("TLS 1.2, server CertificateVerify", 32),
        tls13("tls 1.3, server certificateverify", 32),
        tls13("QUIC, server CertificateVerify", 32),
        tls13("TLS 1.3, server CertificateVerify", 32)[1..].to_vec(),
    ] {
        assert_eq!(kind(&wrong), Purpose::Other);
    }
}

#[test]
fn ecdhe_with_a_point_of_each_group() {
    for (group, point) in points() {
        let message = ske(group, &point);
        assert_eq!(kind(&message), Purpose::Tls12ServerKeyExchange, "{group}");
        let longer = [&message[..], &[0]].concat();
        assert_eq!(kind(&longer), Purpose::Other);
        assert_eq!(kind(&message[..message.len() - 1]), Purpose::Other);
        assert_eq!(kind(&message[1..]), Purpose::Other);
        for wrong in [[&point[..], &[0]].concat(), point[1..].to_vec(), vec![4; point.len()]] {
            let expected = match wrong.len() == point.len() && group > 25 {
                true => Purpose::Tls12ServerKeyExchange,
                false => Purpose::Other,
            };
            assert_eq!(kind(&ske(group, &wrong)), expected, "{group}");
        }
        for other in [0, 22, 23, 24, 25, 26, 29, 30].into_iter().filter(|other| *other != group) {
            assert_eq!(kind(&ske(other, &point)), Purpose::Other, "{group}, {other}");
        }
    }
    let compressed = [&[2][..], &points()[0].1[1..33]].concat();
    assert_eq!(kind(&ske(23, &compressed)), Purpose::Other);
    let mut explicit = ske(29, &[9; 32]);
    explicit[64] = 1;
    assert_eq!(kind(&explicit), Purpose::Other);
}

#[test]
fn the_sentinel_tells_who_offers_tls13() {
    for (group, point) in points() {
        for at in 56..64 {
            let mut message = ske(group, &point);
            message[at] ^= 1;
            assert_eq!(kind(&message), Purpose::Tls12OnlyServerKeyExchange, "{group}, byte {at}");
        }
    }
}

#[test]
fn dhe_over_known_groups() {
    for length in [256, 384, 512, 768, 1024] {
        for is_of_rfc_7919 in [true, false] {
            let p = prime(length, is_of_rfc_7919);
            let less = |by: u8| [&p[..length - 1], &[0xff - by]].concat();
            let padded = |y: u8| [&vec![0; length - 1][..], &[y]].concat();
            for y in [padded(2), vec![2], less(2), vec![0x5a; length], vec![0x5a; length - 1]] {
                assert_eq!(kind(&dh(&p, &[2], &y)), Purpose::Tls12DheServerKeyExchange);
            }
            let y = vec![0x5a; length];
            for wrong in [
                dh(&p, &[2], &padded(1)),
                dh(&p, &[2], &padded(0)),
                dh(&p, &[2], &[1]),
                dh(&p, &[2], &[]),
                dh(&p, &[2], &less(1)),
                dh(&p, &[2], &less(0)),
                dh(&p, &[2], &[0, 2]),
                dh(&p, &[2], &[&[0][..], &y].concat()),
                dh(&p, &[5], &y),
                dh(&p, &[0, 2], &y),
                dh(&p, &[], &y),
                [&dh(&p, &[2], &y)[..], &[0]].concat(),
                dh(&p, &[2], &y)[1..].to_vec(),
            ] {
                assert_eq!(kind(&wrong), Purpose::Other);
            }
        }
    }
}

#[test]
fn dhe_over_other_groups() {
    let p = |length: usize| [&[0xff][..], &vec![0x13; length - 1]].concat();
    let mut changed = prime(256, true);
    changed[128] ^= 1;
    for message in [
        dh(&p(128), &[2], &[1; 128]),
        dh(&p(256), &[0], &[0]),
        dh(&p(1024), &[2], &[1; 1024]),
        dh(&changed, &[2], &[1; 256]),
    ] {
        assert_eq!(kind(&message), Purpose::Tls12DheOverOtherGroup);
    }
    let mut even = p(256);
    even[255] = 0x12;
    for wrong in [
        dh(&p(127), &[2], &[1; 127]),
        dh(&p(1025), &[2], &[1; 1025]),
        dh(&even, &[2], &[1; 256]),
        dh(&[&[0][..], &p(255)].concat(), &[2], &[1; 256]),
        dh(&p(256), &[], &[1; 256]),
        dh(&p(256), &[2], &[]),
        dh(&p(256), &[2], &[1; 257]),
        [&dh(&p(256), &[2], &[1; 256])[..], &[0]].concat(),
    ] {
        assert_eq!(kind(&wrong), Purpose::Other);
    }
}

#[test]
fn a_structure_that_has_the_shape_of_dhe_is_refused() {
    // An attacker who controls a server chooses the first 64 bytes and the public value. That is
    // enough to build a structure around them, with a key exchange inside an OCTET STRING (in a
    // certificate: the OCTET STRING of an extension).
    let parameters = dh(&prime(256, true), &[2], &[1; 256]).split_off(64);
    let length = |length: usize, form: &[u8]| match form {
        [0x80] => vec![0x80],
        [first, zeros @ ..] => [&[*first][..], zeros, &(length as u16).to_be_bytes()].concat(),
        [] => panic!("no form"),
    };
    // Minimal, with zeros before it, and indefinite.
    let forms: &[&[u8]] = &[&[0x82], &[0x83, 0], &[0x84, 0, 0], &[0x88, 0, 0, 0, 0, 0, 0], &[0x80]];
    let sequences: &[&[u8]] = &[&[0x30], &[0x31], &[0x3f, 0x10], &[0x3f, 0x80, 0x11]];
    // The first tags of TBSCertificate, TBSCertList and ResponseData, and the first tag in two
    // bytes.
    let begins: &[&[u8]] = &[&[2], &[0xa0], &[0xa1], &[0xa2], &[0x30], &[0xbf, 0], &[0x1f, 2]];
    for sequence in sequences {
        for outer in forms {
            for inner in forms {
                for first in begins {
                    let content = |filled: usize| {
                        let filling = [first, &[filled as u8][..], &vec![1; filled]].concat();
                        let octets = [&[4][..], &length(parameters.len(), inner), &parameters].concat();
                        [filling, octets].concat()
                    };
                    let message = |filled: usize| {
                        let content = content(filled);
                        [sequence, length(content.len(), outer).as_slice(), &content].concat()
                    };
                    let filled = 64 - (message(0).len() - parameters.len());
                    let message = message(filled);
                    assert_eq!(message.len(), 64 + parameters.len());
                    let shape = server_key_exchange(&message);
                    assert_eq!(shape, Some(KeyExchange::Dhe), "the shape is right");
                    assert_eq!(other_format(&message), Some("ASN.1"));
                    assert_eq!(kind(&message), Purpose::Other, "{:x?}", &message[..16]);
                }
            }
        }
    }
}

#[test]
fn tls12_transcripts_of_clients() {
    let whole = transcript().concat();
    assert_eq!(kind(&whole), Purpose::Tls12ClientCertificateVerify);
    let mut without = transcript();
    without.remove(3);
    assert_eq!(kind(&without.concat()), Purpose::Tls12ClientCertificateVerify, "RSA key exchange");
    let mut stapled = transcript();
    stapled.insert(3, handshake(CERTIFICATE_STATUS, &[1, 0, 0, 1, 5]));
    assert_eq!(kind(&stapled.concat()), Purpose::Tls12ClientCertificateVerify);
    for missing in [0, 1, 2, 4, 5, 6, 7] {
        let mut parts = transcript();
        parts.remove(missing);
        assert_eq!(kind(&parts.concat()), Purpose::Other, "without part {missing}");
    }
    let mut swapped = transcript();
    swapped.swap(0, 1);
    assert_eq!(kind(&swapped.concat()), Purpose::Other);
    for end in 0..whole.len() {
        assert_eq!(kind(&whole[..end]), Purpose::Other, "cut at {end}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert_eq!(kind(&longer), Purpose::Other);
    let mut old = whole;
    old[5] = 2;
    assert_eq!(kind(&old), Purpose::Other, "TLS 1.1");
}

#[test]
fn parts_of_a_transcript_are_checked_to_their_end() {
    let with = |at: usize, part: Vec<u8>| {
        let mut parts = transcript();
        parts[at] = part;
        kind(&parts.concat()) == Purpose::Tls12ClientCertificateVerify
    };
    let list = |certificates: &[u8]| {
        handshake(CERTIFICATE, &[&[0, 0, certificates.len() as u8], certificates].concat())
    };
    let whole = certificate()[7..].to_vec();
    let length = whole[2];
    for at in [2, 6] {
        assert!(with(at, list(&whole)));
        assert!(with(at, list(&[&whole[..], &whole].concat())));
        // A public key alone, or without a value of its own.
        let key = tlv(SEQUENCE, &[tlv(SEQUENCE, &tlv(OID, &[1])), tlv(3, &[0, 4])].concat());
        assert!(with(at, list(&key)));
        let longer = [&[0, 0, length + 1], &whole[3..], &[0]].concat();
        let mut shorter = whole.clone();
        shorter[4] += 1;
        let text = tlv(SEQUENCE, b"echo owned");
        for wrong in
            [longer, shorter, text.clone(), [&[0, 0, text.len() as u8], &text[..]].concat(), Vec::new()]
        {
            assert!(!with(at, list(&wrong)), "{wrong:x?}");
        }
    }
    let name = tlv(SEQUENCE, &tlv(SET, &tlv(SEQUENCE, &tlv(OID, &[1]))));
    let request = |names: &[u8]| {
        handshake(CERTIFICATE_REQUEST, &[&[1, 64, 0, 2, 4, 3, 0, names.len() as u8], names].concat())
    };
    assert!(with(4, request(&[&[0, name.len() as u8], &name[..]].concat())));
    assert!(!with(4, request(b"\0\x04echo")));
    let hello = |extensions: &[u8]| {
        let start = [
            &[3, 3][..],
            &[7; 32],
            &[0],
            &[0, 2, 0xc0, 0x2b],
            &[1, 0],
            &(extensions.len() as u16).to_be_bytes(),
        ];
        handshake(CLIENT_HELLO, &[&start.concat(), extensions].concat())
    };
    for (extensions, is_whole) in [
        (&b"\0\0\0\x08\0\x06\0\0\x03abc\0\x10\0\x05\0\x03\x02h2\0\x15\0\x02\0\0"[..], true),
        (b"\0\0\0\x08\0\x05\0\0\x03abc", false),
        (b"\0\0\0\x08\0\x06\0\0\x02abc", false),
        (b"\0\x10\0\x05\0\x03\x03h2", false),
        (b"\0\x10\0\x04\0\x03\x02h2", false),
        (b"\0\x15\0\x02\0\x01", false),
        (b"\0\x17\0\0\0\x17\0\0", false),
    ] {
        assert_eq!(with(0, hello(extensions)), is_whole, "{extensions:x?}");
    }
    let many = |count: u16| (1000..1000 + count).flat_map(|kind| [&kind.to_be_bytes()[..], &[0, 0]].concat());
    assert!(with(0, hello(&many(128).collect::<Vec<u8>>())));
    assert!(!with(0, hello(&many(129).collect::<Vec<u8>>())));
}

/// A session ticket can contain any format.
#[test]
fn text_and_archives_in_a_transcript_are_refused() {
    let with = |ticket: &[u8]| {
        let extension = [&[0, 35][..], &(ticket.len() as u16).to_be_bytes(), ticket].concat();
        let extensions = [&(extension.len() as u16).to_be_bytes()[..], &extension].concat();
        let start = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0]].concat();
        let mut parts = transcript();
        parts[0] = handshake(CLIENT_HELLO, &[start, extensions].concat());
        let message = parts.concat();
        assert!(is_transcript(&message).is_some(), "the shape is right");
        (kind(&message), other_format(&message))
    };
    let fine = (Purpose::Tls12ClientCertificateVerify, None);
    let text = (Purpose::Other, Some("text"));
    for (ticket, expected) in [
        (&b"\necho OWNED by a signed script; exit 0\n"[..], text),
        (b"\x80\necho OWNED by $(id)\n\x80", text),
        (b"\nec\0ho OW\0NED by \0a file\0\n", text),
        (b"\nrm -rf /home\n\x80", text),
        (b"\ntouch /tmp/owned;exit;:\x80", text),
        (b"\nCyberTrust1\"0 \x06", fine),
        (b"\nemSign PKI1%0#\x06", fine),
        (b"\nwww.foo.de\0\n\x80", fine),
        (b"\nBratislava1\n0\x08", fine),
        (b"Terms of use: https://ca.example/rpa & https://ca.example/cps; (c) 2026 #1\n\x80", fine),
        (b"\nA second line of a notice, which goes on up to some other byte\x80", fine),
    ] {
        assert_eq!(with(ticket), expected, "{ticket:x?}");
    }
    // Old clients have cipher suites whose bytes are digits and line feeds for readers that skip
    // zeros.
    let suites = b"\0\x20\0\x2f\0\x35\0\x3c\0\x3d\0\x33\0\x39\0\x67\0\x6b\0\x32\0\x38\0\x0a\0\x05\0\x04\0\x09\0\x15\0\x12";
    let start = [&[3, 3][..], &[7; 31], b"\n\0", suites, &[1, 0]].concat();
    let mut parts = transcript();
    parts[0] = handshake(CLIENT_HELLO, &start);
    assert_eq!(kind(&parts.concat()), Purpose::Tls12ClientCertificateVerify);
    let mut archive = vec![0xa5; 1024];
    // The ticket begins at byte 51.
    archive[512 + 257 - 51..][..6].copy_from_slice(b"ustar\0");
    assert_eq!(with(&archive), (Purpose::Other, Some("tar")));
}

/// The random of a client is where IKEv2 has version, exchange and message id.
#[test]
fn a_transcript_that_begins_as_ike_does_is_refused() {
    let mut whole = transcript().concat();
    whole[8..16].fill(0);
    whole[16..32].copy_from_slice(&[0x21, 0x20, 34, 8, 0, 0, 0, 0, 0, 0, 0, 90, 0, 0, 0, 50]);
    assert!(is_transcript(&whole).is_some(), "the shape is right");
    assert_eq!((kind(&whole), other_format(&whole)), (Purpose::Other, Some("IKEv2")));
    whole[18] = 33;
    assert_eq!(kind(&whole), Purpose::Tls12ClientCertificateVerify);
}

#[test]
fn only_requests_for_this_key_are_certificate_requests() {
    let (spki, request) = real_request();
    assert_eq!(classify(&request, &spki), Purpose::CertificateRequest);
    let (other, _) = real_request();
    assert_eq!(classify(&request, &other), Purpose::Other, "for another key");
    for end in 0..request.len() {
        assert_eq!(classify(&request[..end], &spki), Purpose::Other, "cut at {end}");
    }
    let longer = [&request[..], &[0]].concat();
    assert_eq!(classify(&longer, &spki), Purpose::Other);
}

#[test]
fn other_signed_formats_have_the_purpose_other() {
    let (spki, _) = real_request();
    let jwt = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0";
    let name =
        tlv(SEQUENCE, &tlv(SET, &tlv(SEQUENCE, &[&tlv(OID, &[0x55, 4, 3])[..], &tlv(0x0c, b"CA")].concat())));
    let algorithm = tlv(SEQUENCE, &tlv(OID, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]));
    let validity = tlv(SEQUENCE, &[tlv(0x17, b"260101000000Z"), tlv(0x17, b"270101000000Z")].concat());
    let version = tlv(CONTEXT_0, &tlv(INTEGER, &[2]));
    let serial = tlv(INTEGER, &[7; 16]);
    let certificate = [&version[..], &serial, &algorithm, &name, &validity, &name, &spki].concat();
    let signed_attributes =
        tlv(SET, &tlv(SEQUENCE, &[tlv(OID, &[1, 2, 3]), tlv(SET, &tlv(4, &[9; 32]))].concat()));
    let ssh = [&[0, 0, 0, 32][..], &[7; 32], &[50, 0, 0, 0, 4], b"root", &[0, 0, 0, 14], b"ssh-connection"]
        .concat();
    for message in [
        jwt.as_bytes().to_vec(),
        tlv(SEQUENCE, &certificate),
        signed_attributes,
        ssh,
        Vec::new(),
        vec![0; 20],
        vec![0xaa; 32],
        vec![0xaa; 48],
        vec![0xaa; 64],
        vec![0x20; 64],
        vec![0x20; 150],
    ] {
        assert_eq!(classify(&message, &spki), Purpose::Other);
    }
}

proptest! {
    #[test]
    fn random_bytes_are_other(message: Vec<u8>, spki: Vec<u8>) {
        prop_assert_eq!(classify(&message, &spki), Purpose::Other);
    }

    #[test]
    fn random_points_are_key_exchanges(randoms in any::<[u8; 32]>(), point in any::<[u8; 32]>()) {
        let mut message = ske(29, &point);
        message[..32].copy_from_slice(&randoms);
        prop_assert_eq!(kind(&message), Purpose::Tls12ServerKeyExchange);
    }
}
