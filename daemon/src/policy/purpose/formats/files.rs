//! Files: programs, archives and documents.

use super::search::{holds, holds_pair, holds_word};

/// Programs for DOS and Windows: `MZ`, then either a new header inside the file (PE format, MS-DOS
/// stub), or as many blocks of 512 bytes as the file has. Chance: 2^-33.
pub(super) fn is_pe(message: &[u8]) -> bool {
    let Some(header) = message.strip_prefix(b"MZ").or(message.strip_prefix(b"ZM")) else { return false };
    let word =
        |at: usize| header.get(at..at + 2).map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])));
    let new_header = word(58) | word(60) << 16;
    let (last_block, blocks) = (word(0), word(2));
    new_header < message.len() || (last_block < 512 && (1..=message.len().div_ceil(512)).contains(&blocks))
}

/// gzip, with the only method that exists and with flags that are defined (RFC 1952, 2.3.1).
/// Chance: 2^-27.
pub(super) fn is_gzip(message: &[u8]) -> bool {
    matches!(message, [0x1f, 0x8b, 8, 0..=0x1f, ..])
}

/// bzip2: the size of its blocks, then the mark of a block. Chance: 2^-76.
pub(super) fn is_bzip2(message: &[u8]) -> bool {
    matches!(message, [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..])
}

/// Zstandard and LZ4: a frame of any bytes, which readers skip before the real frame (RFC 8878,
/// 3.1.2).
/// Chance: 2^-28.
pub(super) fn is_skippable_frame(message: &[u8]) -> bool {
    matches!(message, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// ZIP, which includes JAR, APK and Office. The marks are the record at the end, with any bytes
/// before and after it, and an entry of the directory, which readers look for in several places
/// (APPNOTE, 4.3.12 and 4.3.16). Chance: 2^-50.
pub(super) fn is_zip(message: &[u8]) -> bool {
    holds_word(message, b"PK\x05\x06") && holds_word(message, b"PK\x01\x02")
}

/// Archives that readers find after other bytes: 7z, RAR and cabinet after a program that unpacks
/// them, cpio after any bytes that GNU cpio skips (copyin.c, `read_in_header`). The message must
/// have room for the archive, and must reach the descriptor of ISO 9660 (ECMA-119, 7.1). Chance:
/// 2^-37.
pub(super) fn holds_archive(message: &[u8]) -> bool {
    let marks: [&[u8]; 3] = [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"MSCF\0\0\0\0"];
    message.len() > ROOMY
        && (marks.iter().any(|mark| holds_pair(message, [mark[0], mark[1]]) && holds(message, mark))
            || (holds_pair(message, *b"07") && holds_cpio(message))
            || message.get(0x8001..0x8006) == Some(b"CD001"))
}

/// cpio with headers of text: octal headers of POSIX (pax, "cpio Interchange Format") and
/// hexadecimal headers of System V (newc, with and without checksums), with mode, size of the name
/// and size of the file in their places. Dates of certificates begin like these headers, and
/// continue with a letter. GNU cpio accepts spaces before a number and a truncated number, so the
/// first half of a number is enough.
fn holds_cpio(message: &[u8]) -> bool {
    message.windows(4).enumerate().filter(|(_, start)| start == b"0707").any(|(at, _)| {
        let header = &message[at..];
        let has = |from: usize, is: fn(&u8) -> bool| {
            let is = |byte: &u8| is(byte) || matches!(byte, b' ' | 0);
            header.get(from..from + 4).is_some_and(|digits| digits.iter().all(is))
        };
        let is_octal = |byte: &u8| matches!(byte, b'0'..=b'7');
        match header.get(4..6) {
            Some(b"07") => [18, 59, 65].iter().all(|from| has(*from, is_octal)),
            Some(b"01" | b"02") => [14, 54, 94].iter().all(|from| has(*from, u8::is_ascii_hexdigit)),
            _ => false,
        }
    })
}

/// cpio with binary headers in either order of bytes, after any bytes that GNU cpio skips: the
/// magic, the mode of a kind of file that exists, a name that ends in a zero, and a file that is
/// shorter than the longest message (cpio(5), "Old Binary Format"). Chance: 2^-44, and 2^-25 for 64
/// KiB.
pub(super) fn holds_old_cpio(message: &[u8]) -> bool {
    let may = holds_pair(message, [0xc7, 0x71]) || holds_pair(message, [0x71, 0xc7]);
    may && message.windows(26).enumerate().any(|(at, header)| {
        let word: fn([u8; 2]) -> u16 = match header {
            [0xc7, 0x71, ..] => u16::from_le_bytes,
            [0x71, 0xc7, ..] => u16::from_be_bytes,
            _ => return false,
        };
        let field = |number: usize| word([header[2 * number], header[2 * number + 1]]);
        let name = usize::from(field(10));
        matches!(field(3) >> 12, 1 | 2 | 4 | 6 | 8 | 10 | 12)
            && field(11) == 0
            && name > 1
            && message.get(at + 26 + name - 1) == Some(&0)
    })
}

/// tar: a header in a block of 512 bytes, which is the first block or a later block that readers
/// look for. The header has a magic (POSIX, pax, "ustar Interchange Format") or the sum of its
/// bytes, which every header has. Readers accept a sum with blanks before it and any bytes after it
/// (GNU tar, list.c). Chance: 2^-40 for each block.
pub(super) fn is_tar(message: &[u8]) -> bool {
    message.as_chunks::<512>().0.iter().any(|block| {
        let is_marked = || matches!(&block[257..263], b"ustar\0" | b"ustar ");
        let is_sum = |number: i64| {
            let (before, field, behind) = (&block[..148], &block[148..156], &block[156..]);
            let rest = || before.iter().chain(behind);
            let blanks = i64::from(b' ') * field.len() as i64;
            // Old programs treated bytes as signed numbers.
            number == blanks + rest().map(|byte| i64::from(*byte)).sum::<i64>()
                || number == blanks + rest().map(|byte| i64::from(byte.cast_signed())).sum::<i64>()
        };
        is_marked() || number_of_tar(&block[148..156]).is_some_and(is_sum)
    })
}

/// A number in a header of tar: in octal digits, or in bytes after a byte 0x80.
fn number_of_tar(field: &[u8]) -> Option<i64> {
    if let [0x80, bytes @ ..] = field {
        return bytes.iter().try_fold(0_i64, |n, byte| n.checked_mul(256)?.checked_add((*byte).into()));
    }
    let field = field.strip_prefix(&[0]).unwrap_or(field).trim_ascii_start();
    let length = field.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let is_ended = field.get(length).is_none_or(|byte| *byte == 0 || byte.is_ascii_whitespace());
    let digits = field[..length].iter().map(|digit| i64::from(digit - b'0'));
    (length > 0 && is_ended).then(|| digits.fold(0, |number, digit| number << 3 | digit))
}

/// Programs of Python 3: the version, the end of a line, and a code object after a header of 8, 12
/// or 16 bytes (CPython, importlib/_bootstrap_external.py and pythonrun.c, `run_pyc_file`). PyPy
/// has lower versions. Chance: 2^-27, and 2^-23 for a client whose clock stands at 1970.
pub(super) fn is_pyc(message: &[u8]) -> bool {
    let [_, version, b'\r', b'\n', ..] = message else { return false };
    let is_code = |at: &usize| matches!(message.get(*at), Some(b'c' | 0xe3));
    match version {
        0 | 1 => is_code(&16),
        0x0b..=0x0f => [8, 12, 16].iter().any(is_code),
        _ => false,
    }
}

/// LZMA without a container, by the rules of readers that guess the format: properties, a size of
/// the dictionary that writers use, a size of the file below 256 GiB or unknown, and five bytes for
/// the decoder, the first of them zero (xz, `is_format_lzma` in coder.c; LZMA SDK,
/// lzma-specification). Empty files and randoms that are mostly zeros have no size or no bits, and
/// do not count. Chance: 2^-55, and 2^-29 for a client whose random has zeros in exactly these
/// places.
pub(super) fn is_lzma(message: &[u8]) -> bool {
    let Some([0..=224, header @ ..]) = message.first_chunk::<18>() else { return false };
    let [d0, d1, d2, d3, size @ .., 0, b0, b1, b2, b3] = header else { return false };
    let dictionary = u32::from_le_bytes([*d0, *d1, *d2, *d3]);
    let size = u64::from_le_bytes(*size);
    // 2^n or 2^n + 2^(n - 1). With the usual properties also every multiple of 64 KiB.
    let is_usual = dictionary != 0
        && (dictionary << dictionary.leading_zeros() & !(0b11 << 30) == 0
            || dictionary == u32::MAX
            || (message[0] == 0x5d && dictionary & 0xffff == 0));
    is_usual && (size == u64::MAX || (1..1 << 38).contains(&size)) && [b0, b1, b2, b3] != [&0; 4]
}

/// PDF. Readers accept a start anywhere in the first 1,024 bytes (ISO 32000-1, implementation note
/// 13). Chance: 2^-30.
pub(super) fn holds_pdf(message: &[u8]) -> bool {
    let start = &message[..message.len().min(1024)];
    message.len() > ROOMY && holds_pair(start, *b"%P") && holds(start, b"%PDF-")
}

/// Length in bytes of the longest ServerKeyExchange with an elliptic curve: 64 bytes of randoms,
/// four bytes, and a point of P-521.
const ROOMY: usize = 64 + 4 + 133;
