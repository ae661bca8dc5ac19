//! Other formats that people sign. A message that has or begins with one of these formats never has
//! a purpose of TLS 1.2.
//!
//! In a message of TLS 1.2 an attacker chooses 56 or 64 bytes at the start and the public value at
//! the end, for DHE up to 1,024 bytes. A row of this table recognises a format by the bytes that
//! its real readers require, so no row refuses a message that no reader would accept. Each row
//! states the chance that a message of a real client has the format. All rows together stay below
//! one in a million, even for clients whose random begins with a clock or zeros, or is text.
//!
//! Formats without a mark are not recognised:
//! - short text, such as a command for a shell without `#!` or for PHP after `<?=` or `<?`, within
//!   the limits at `is_text` and `holds_php`;
//! - a MIME entity without header fields;
//! - content of CMS, OpenPGP version 3 and minisign in a format of its own;
//! - U2F and WebAuthn; keys of Biscuit and C509;
//! - LZMA with a dictionary size that its writers do not use;
//! - images of file systems whose mark is far after their start;
//! - programs without a mark, such as `.com` programs for DOS and programs of QuickJS;
//! - files of `compress`, JFFS2 and Flash, whose marks of two or three bytes come by chance too
//!   often.

mod files;
mod jws;
mod protocols;
mod search;
mod text;

use super::asn1;

/// Name of a format other than TLS that a message has; `None` if there is no such format.
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

/// Name of a format, and the first bytes of every message in the format.
type Mark = (&'static str, &'static [u8]);

/// Name of a format; the possible first bytes of its messages (any byte, if the list is empty); the
/// [`RARE`] bytes that every message in the format contains; and the function that recognises the
/// format.
type Rule = (&'static str, &'static [u8], &'static [u8], fn(&[u8]) -> bool);

/// Formats that begin with bytes of their own. A mark has at least four bytes. The chance is 2^-32
/// for one mark, one in 8 * 10^7 for all marks together, and one in 6 * 10^6 for a client whose
/// random is any ASCII.
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
    // Messages of protocols. OpenSSH, PROTOCOL.sshsig and PROTOCOL.krl; TPM 2.0 Library, part 2,
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

/// Formats that need more than their first bytes. Each function states its sources and the chance.
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

/// Bytes to look for in one pass. Few messages contain all of them.
const RARE: &[u8; 8] = b".-<?PK\xc7q";

/// Bits for the [`RARE`] bytes that a message contains.
fn rare_bytes(message: &[u8]) -> u8 {
    let mut has = [0_u8; 16];
    // The loop has no exit, so the compiler compares many bytes at once.
    let mut look = |part: &[u8; 16]| {
        for (has, byte) in has.iter_mut().zip(part) {
            for (bit, rare) in RARE.iter().enumerate() {
                *has |= u8::from(byte == rare) << bit;
            }
        }
    };
    // A short message may contain any of the bytes.
    let Some(last) = message.last_chunk() else { return u8::MAX };
    message.as_chunks().0.iter().for_each(&mut look);
    look(last);
    has.iter().fold(0, |all, one| all | one)
}

/// Bit of a first byte that a mark begins with.
const MARKED: u32 = 1 << 31;

/// For each first byte, bits for the rules that a message with that byte can meet. Most messages
/// need only a few of the rules.
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

/// For each result of [`rare_bytes`], bits for the rules that a message with these bytes can meet.
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

#[cfg(test)]
mod tests;
