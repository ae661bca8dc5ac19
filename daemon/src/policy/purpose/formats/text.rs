//! Text: text for people, scripts for interpreters, and mails.

use std::borrow::Cow;

use super::super::tls12;
use super::search::{holds_pair, holds_word};

/// Scripts with an interpreter: `#!`, blanks, the path, then a blank, zero or the end of the line
/// (execve(2), Linux `fs/binfmt_script.c`). A path that is not absolute must end the line.
/// Chance: 2^-24, and 10^-7 for a client whose random is text only.
pub(super) fn is_script(message: &[u8]) -> bool {
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

/// Text with any bytes around it: a script for an interpreter that does not require `#!`, a mail, a
/// program. A shell runs every line that it can read, and continues after lines that it cannot
/// read. Text is
///
/// - the first 56 bytes, all in UTF-8;
/// - a line of eleven bytes or more in ASCII, from the start of the message or of a line, up to the
///   end of the line; seven bytes are enough if the line has only small letters, digits and
///   ``  /.-;|&<> ``, like most commands;
/// - 17 bytes of ASCII from such a start, or 22 anywhere, which contain the end of a line or a
///   character that ends a command of a shell, or follow the end of a line.
///
/// Zero bytes are skipped, as shells skip them (dash, `preadbuffer`; bash, `shell_getc`). In the
/// parameters of a key exchange, which may be long, each rule needs three bytes more. A client may
/// have a random of text without the end of a line: after such a random, the bytes that follow must
/// meet the rules. Text that zeros fill up to 32 bytes is checked separately, and the bytes after
/// it separately. Shorter text is not recognised, because it comes by chance too often. Text that
/// other bytes interrupt, such as UTF-16 and letters beyond ASCII, is not recognised either.
/// Chance: 2^-21.3.
pub(super) fn is_text(message: &[u8]) -> bool {
    let Some((start, parameters)) = message.split_first_chunk::<64>() else { return false };
    // The transcript of a client has its random after six bytes, and contains many names and
    // numbers.
    let is_transcript =
        matches!(start, [tls12::CLIENT_HELLO, 0, _, _, 3, 3, ..]) && tls12::is_transcript(message).is_some();
    let (free, parameters) = match is_transcript {
        true => (&start[6..6 + 32], &[][..]),
        false => (start.strip_suffix(&tls12::SENTINEL).unwrap_or(start), parameters),
    };
    let (own, behind) = free.split_at(32);
    let filled = own.iter().rposition(|byte| *byte != 0).map_or(&[][..], |last| &own[..=last]);
    let has_free = match filled.iter().all(is_printable) {
        true => {
            (filled.len() < own.len() && has_commands(filled, !is_transcript, 0))
                || has_commands(behind, true, 0)
        }
        false => has_commands(free, !is_transcript, 0),
    };
    has_free
        || has_commands(parameters, false, 3)
        || is_utf8(&start[..56])
        || (is_transcript && has_lines(message))
}

/// The second and third rule of [`is_text`], each with `more` bytes.
fn has_commands(text: &[u8], mut is_start: bool, more: usize) -> bool {
    let is_end = |byte: &u8| *byte == b'\n';
    // Seven bytes and the end of a line fill a part of four bytes, and 17 bytes fill a part of
    // eight. The parts end with the text.
    let is_part = |part: &[u8]| part.iter().all(|byte| is_printable(byte) || is_end(byte) || *byte == 0);
    // First the upper bits of all bytes at once: most parts have at least one byte that is no
    // ASCII.
    let is_eight = |part: &[u8; 8]| u64::from_ne_bytes(*part) & 0x8080_8080_8080_8080 == 0 && is_part(part);
    let is_four = |part: &[u8; 4]| u32::from_ne_bytes(*part) & 0x8080_8080 == 0 && is_part(part);
    let has_eight = || text.as_rchunks().1.iter().any(is_eight);
    let has_four = || text.as_rchunks().1.iter().any(is_four);
    // The loop has no exit, so the compiler compares many bytes at once.
    let has_end = || text.iter().fold(false, |has, byte| has | is_end(byte));
    if !(has_eight() || (has_four() && has_end())) {
        return false;
    }
    let text = match text.contains(&0) {
        true => Cow::Owned(text.split(|byte| *byte == 0).collect::<Vec<_>>().concat()),
        false => Cow::Borrowed(text),
    };
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

/// Commands anywhere in the transcript of a client, which has room for whole scripts in extensions
/// and certificates. A command follows the end of a line, and ends with another line or with the
/// message. A command has 16 bytes of ASCII or more; or 12 bytes of the characters of most
/// commands; or 22 bytes that contain a character that ends a command of a shell. Zeros are
/// skipped.
///
/// Real transcripts have shorter runs. The byte for the end of a line is also the length of a
/// string of ten bytes. After such a string come at most four bytes before a byte that is no text
/// (in DER the tags of a SET and a SEQUENCE, and their lengths), or the length of the next name in
/// ALPN. Texts of certificates have no ends of lines (RFC 5280, 4.2.1.4). Chance: 2^-23 for 16 KiB
/// of keys, signatures and tickets.
fn has_lines(transcript: &[u8]) -> bool {
    let mut rest = transcript;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        rest = &rest[end + 1..];
        let (mut length, mut is_command, mut has_end, mut read) = (0, true, false, 0);
        for byte in rest.iter().take_while(|byte| is_printable(byte) || **byte == 0) {
            read += 1;
            if *byte != 0 {
                length += 1;
                is_command &= is_of_command(byte);
                has_end |= b";&|#".contains(byte);
            }
        }
        let is_line = rest.get(read).is_none_or(|byte| *byte == b'\n');
        if (is_line && (length >= 16 || (is_command && length >= 12))) || (has_end && length >= 22) {
            return true;
        }
        rest = &rest[read..];
    }
    false
}

fn is_utf8(text: &[u8]) -> bool {
    let may_be = |byte: &u8| *byte >= 0x20 && *byte != 0x7f || matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c);
    text.iter().all(may_be)
        && match core::str::from_utf8(text) {
            Ok(_) => true,
            // The last character continues after the part.
            Err(error) => error.error_len().is_none(),
        }
}

/// MIME: an entity that S/MIME signs without attributes (RFC 8551, 3.1). Readers skip unknown
/// header fields, so a field of MIME anywhere marks the format. Chance: 2^-40.
pub(super) fn is_mime(message: &[u8]) -> bool {
    holds_word(message, b"content-t") || holds_word(message, b"mime-version")
}

/// PHP: the interpreter prints all bytes before the first tag. The short tag `<?=` alone comes by
/// chance, so text must follow the tag: five bytes, or ten after the first 64 bytes of the message.
/// A random of text may contain the tag, and is skipped. Chance: 2^-24.
pub(super) fn holds_php(message: &[u8]) -> bool {
    let has_short_tag = || {
        let random = if message.first() == Some(&tls12::CLIENT_HELLO) { 6 } else { 0 };
        let is_text = message.get(random..random + 32).is_some_and(|own| own.iter().all(is_printable));
        let from = if is_text { random + 32 } else { 0 };
        // The sentinel is text, and is no code.
        let sentinel = if message.get(56..64) == Some(&tls12::SENTINEL) { 56..64 } else { 0..0 };
        message.windows(3).enumerate().skip(from).filter(|(_, tag)| tag == b"<?=").any(|(at, _)| {
            let code = at + 3..at + 3 + if at < 64 { 5 } else { 10 };
            let is_free = code.end <= sentinel.start || code.start >= sentinel.end;
            is_free && message.get(code).is_some_and(|code| code.iter().all(is_printable))
        })
    };
    holds_pair(message, *b"<?") && (holds_word(message, b"<?php") || has_short_tag())
}

/// True for ASCII within a line. In a mail a line ends in a carriage return.
fn is_printable(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\r')
}

fn is_of_command(byte: &u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b" /.-;|&<>\r".contains(byte)
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
