//! Files: programs, archives and documents.

use super::{holds, holds_word};

/// Programs for DOS and Windows: `MZ`, then either a new header inside the file (PE format, MS-DOS stub), or as many blocks
/// of 512 bytes as the file has. Chance: 2^-33.
pub(super) fn is_pe(message: &[u8]) -> bool {
    let Some(header) = message.strip_prefix(b"MZ").or(message.strip_prefix(b"ZM")) else { return false };
    let word =
        |at: usize| header.get(at..at + 2).map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])));
    let new_header = word(58) | word(60) << 16;
    let (last_block, blocks) = (word(0), word(2));
    new_header < message.len() || (last_block < 512 && (1..=message.len().div_ceil(512)).contains(&blocks))
}

/// gzip, with the one method that there is and flags that are defined (RFC 1952, 2.3.1). Chance: 2^-27.
pub(super) fn is_gzip(message: &[u8]) -> bool {
    matches!(message, [0x1f, 0x8b, 8, 0..=0x1f, ..])
}

/// bzip2: the size of its blocks, then the mark of a block. Chance: 2^-76.
pub(super) fn is_bzip2(message: &[u8]) -> bool {
    matches!(message, [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..])
}

/// Zstandard and LZ4: a frame of any bytes that readers skip before the real one (RFC 8878, 3.1.2). Chance: 2^-28.
pub(super) fn is_skippable_frame(message: &[u8]) -> bool {
    matches!(message, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// ZIP, and with it JAR, APK and Office: found by the record at its end, whatever stands before and behind, and by an entry of
/// the directory, of which readers look in several places (APPNOTE, 4.3.12 and 4.3.16). Chance: 2^-50.
pub(super) fn is_zip(message: &[u8]) -> bool {
    holds_word(message, b"PK\x05\x06") && holds_word(message, b"PK\x01\x02")
}

/// Archives that readers look for behind a program that unpacks them: 7z, RAR, cabinet. Only messages that have room for one.
/// Chance: 2^-37.
pub(super) fn holds_archive(message: &[u8]) -> bool {
    let marks: [&[u8]; 3] = [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"MSCF\0\0\0\0"];
    message.len() > ROOMY && marks.iter().any(|mark| holds(message, mark))
}

/// PDF, which may begin anywhere in the first 1,024 bytes for its readers (ISO 32000-1, implementation note 13). Chance: 2^-30.
pub(super) fn holds_pdf(message: &[u8]) -> bool {
    message.len() > ROOMY && holds(&message[..message.len().min(1024)], b"%PDF-")
}

/// Longest ServerKeyExchange with an elliptic curve: 64 bytes, four, and a point of P-521.
const ROOMY: usize = 64 + 4 + 133;
