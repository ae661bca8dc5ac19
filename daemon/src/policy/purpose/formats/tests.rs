use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

#[test]
fn the_page_lists_the_names() {
    let page = include_str!("../../../../../docs/security.md");
    let (_, section) = page.split_once("## Formats that the daemon recognises").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let listed: Vec<_> = section.split(['|', '\n']).flat_map(|row| row.trim().split(", ")).collect();
    let names = MARKS.iter().map(|(name, _)| name).chain(RULES.iter().map(|(name, ..)| name));
    for name in names {
        assert!(listed.contains(name) || *name == "script", "{name} is missing on the page");
    }
}

/// A ServerKeyExchange over X25519 with this start and this end.
fn shaped(start: &[u8], end: &[u8]) -> Vec<u8> {
    let mut message = vec![0xa5; 100];
    message[56..68].copy_from_slice(b"DOWNGRD\x01\x03\0\x1d\x20");
    message[..start.len().min(56)].copy_from_slice(&start[..start.len().min(56)]);
    message[100 - end.len()..].copy_from_slice(end);
    message
}

#[test]
fn marks_are_long_and_recognised() {
    for (name, mark) in MARKS {
        assert!(mark.len() >= 4, "{name}: once in 2^32 at most");
        assert_eq!(of(&shaped(mark, &[])), Some(*name));
    }
    assert_eq!(of(&shaped(&[], &[])), None);
    assert_eq!(of(&[]), None);
}

#[test]
fn formats_are_recognised_in_the_free_bytes_of_a_handshake() {
    let ssh =
        |length: u8| [&[0, 0, 0, length][..], &vec![7; length.into()], &[50, 0, 0, 0, 4], b"root"].concat();
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
        // The sum of the bytes, with eight blanks in the place of the sum.
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
    let odc = roomy(b"0707070000010000011007550000000000000000010000000000000000000000050000000014evil\0");
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
            shaped("echo \u{fc}\u{2026}; touch /tmp/this-file-is-really-not-signed; exit\n".as_bytes(), &[]),
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
        // Shells skip zeros.
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

/// Likely beginnings of a handshake: a clock, zeros, text, and a part of a mark.
#[test]
fn parts_of_a_format_are_not_recognised() {
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
        // Short commands, and text of a client that is followed by other bytes.
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
    for text in [&b"\x17\x0d070701000000Z\x17\x0d170707235959Z0H1\x0b0\t\x06\x03U\x04\x06"[..], b"Mustard"] {
        let mut message = vec![0xa5; 583];
        message[256..256 + text.len()].copy_from_slice(text);
        assert_eq!(of(&message), None, "{text:x?}");
    }
}
