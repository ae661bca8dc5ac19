//! Text: that people read, that interpreters run, and that mails are made of.

use std::borrow::Cow;

use super::super::tls12;
use super::{holds_pair, holds_word};

/// Scripts with an interpreter: `#!`, blanks, the path, then a blank, zero or the end of the line
/// (execve(2), Linux `fs/binfmt_script.c`). A path that is not absolute must end with its line.
/// Chance: 2^-24, and 10^-7 for a client whose random is nothing but text.
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

/// Text, whatever stands around it: a script for an interpreter that does not insist on `#!`, a
/// mail, a program. A shell runs every line that it can read, and goes on behind those that it
/// cannot. Text is
///
/// - the first 56 bytes, all in UTF-8;
/// - a line of eleven bytes or more in ASCII, from the start of the message or of a line, up to the end of the line; seven if
///   it has small letters, digits and ``  /.-;|&<> `` alone, as most commands do;
/// - 17 bytes of ASCII from such a start, or 22 anywhere, which hold the end of a line or a character that ends a
///   command of a shell, or follow the end of a line.
///
/// Zero bytes are passed over, as shells do (dash, `preadbuffer`; bash, `shell_getc`). In the
/// parameters of a key exchange, which may be long, each takes three bytes more. A client may make
/// its random of text without the end of a line: behind such a random the same is asked of the
/// bytes that follow. Text that zeros fill up to 32 bytes is looked at by itself, and what follows
/// by itself. Shorter text stays open, since it comes by chance too often, and text that other
/// bytes interrupt, such as UTF-16 and letters beyond ASCII. Chance: 2^-21.3.
pub(super) fn is_text(message: &[u8]) -> bool {
    let Some((start, parameters)) = message.split_first_chunk::<64>() else { return false };
    // A client's transcript has its random behind six bytes, and is full of names and numbers.
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

/// The second and third of the forms that [`is_text`] has, with so many bytes `more`.
fn has_commands(text: &[u8], mut is_start: bool, more: usize) -> bool {
    let is_end = |byte: &u8| *byte == b'\n';
    // Seven bytes and the end of a line fill a part of four, 17 bytes one of eight. The parts end
    // with the text.
    let is_part = |part: &[u8]| part.iter().all(|byte| is_printable(byte) || is_end(byte) || *byte == 0);
    // The upper bits first, of all bytes at once: of most parts one byte at least is no ASCII.
    let is_eight = |part: &[u8; 8]| u64::from_ne_bytes(*part) & 0x8080_8080_8080_8080 == 0 && is_part(part);
    let is_four = |part: &[u8; 4]| u32::from_ne_bytes(*part) & 0x8080_8080 == 0 && is_part(part);
    let has_eight = || text.as_rchunks().1.iter().any(is_eight);
    let has_four = || text.as_rchunks().1.iter().any(is_four);
    // Without an exit the compiler compares many at once.
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
/// and certificates: behind the end of a line, up to the end of another or of the message, 16 bytes
/// of ASCII or more, or 12 as most commands have them; or 22 bytes that hold a character that ends
/// a command of a shell. Zeros are passed over.
///
/// What real transcripts have is shorter. An end of a line is also the length of a string of ten
/// bytes, and behind such a one stand four at most before a byte that is no text (in DER a tag of a
/// SET, one of a SEQUENCE, and their lengths), or the length of the next name in ALPN. Texts of
/// certificates have no ends of lines (RFC 5280, 4.2.1.4). Chance: 2^-23 for 16 KiB of keys,
/// signatures and tickets.
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
            // The last character goes on behind.
            Err(error) => error.error_len().is_none(),
        }
}

/// MIME: an entity that S/MIME signs without attributes (RFC 8551, 3.1). Readers skip header fields
/// that they do not know, so it is told by a field of its own anywhere. Chance: 2^-40.
pub(super) fn is_mime(message: &[u8]) -> bool {
    holds_word(message, b"content-t") || holds_word(message, b"mime-version")
}

/// PHP: whatever stands before the first tag is printed. The short tag `<?=` alone comes by chance,
/// so text must follow it: five bytes, or ten behind the first 64. A client's random of text may
/// have it, and is passed over. Chance: 2^-24.
pub(super) fn holds_php(message: &[u8]) -> bool {
    let has_short_tag = || {
        let random = if message.first() == Some(&tls12::CLIENT_HELLO) { 6 } else { 0 };
        let is_text = message.get(random..random + 32).is_some_and(|own| own.iter().all(is_printable));
        let from = if is_text { random + 32 } else { 0 };
        // The sentinel is text, and no code of anybody.
        let sentinel = if message.get(56..64) == Some(&tls12::SENTINEL) { 56..64 } else { 0..0 };
        message.windows(3).enumerate().skip(from).filter(|(_, tag)| tag == b"<?=").any(|(at, _)| {
            let code = at + 3..at + 3 + if at < 64 { 5 } else { 10 };
            let is_free = code.end <= sentinel.start || code.start >= sentinel.end;
            is_free && message.get(code).is_some_and(|code| code.iter().all(is_printable))
        })
    };
    holds_pair(message, *b"<?") && (holds_word(message, b"<?php") || has_short_tag())
}

/// ASCII within a line, which in a mail ends in a carriage return.
fn is_printable(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\r')
}

fn is_of_command(byte: &u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b" /.-;|&<>\r".contains(byte)
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
