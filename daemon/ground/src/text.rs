//! Untrusted text, made safe for the log, for a terminal and for JSON.
//!
//! Certificates, crypto units, token services and peers supply some of the text that Keyward shows.
//! Such text must not move the cursor, forge a line, or change the order in which a line is read.

use core::time::Duration;
use std::io::{self, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Replaces the characters that a terminal would obey instead of showing them.
pub fn printable(text: &str) -> String {
    text.replace(is_unsafe, REPLACEMENT)
}

/// Does the same as [`printable`], but keeps tabs and line ends: for text of several lines that
/// Keyward wrote.
pub fn printable_lines(text: &str) -> String {
    text.replace(|c| is_unsafe(c) && !matches!(c, '\n' | '\t'), REPLACEMENT)
}

/// Escapes unsafe characters in JSON text. The meaning of the JSON stays the same.
pub fn printable_json(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut written, c| {
        match c {
            // Outside of strings these are white space; inside, JSON has escaped them already.
            '\n' | '\t' => written.push(c),
            // All unsafe characters are in the Basic Multilingual Plane.
            c if is_unsafe(c) => written += &format!("\\u{:04x}", u32::from(c)),
            c => written.push(c),
        }
        written
    })
}

/// Quotes a path for a shell, for a command that a person copies.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Formats a time in seconds since 1970 as RFC 3339.
pub fn time(seconds: u64) -> String {
    let since = Duration::from_secs(seconds.min(MAX_TIME));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// Distance from a time to another one, both in seconds, as in `in 41 days` and `3 hours ago`.
pub fn distance(now: u64, then: u64) -> String {
    let apart = now.abs_diff(then);
    let (count, unit) = match apart {
        ..7200 => (apart / 60, "minute"),
        7200..172_800 => (apart / 3600, "hour"),
        _ => (apart / 86_400, "day"),
    };
    let s = if count == 1 { "" } else { "s" };
    if then >= now { format!("in {count} {unit}{s}") } else { format!("{count} {unit}{s} ago") }
}

/// True for control characters, the Bidi_Control characters of Unicode (UAX #9), and the separators
/// of lines and paragraphs.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writer of log lines without unsafe characters. Each write is one line, and stays one line.
pub struct PrintableLines<W>(pub W);

impl<W: Write> Write for PrintableLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = text.strip_suffix('\n').map_or((&*text, ""), |text| (text, "\n"));
        let shown = if text.contains(is_unsafe) { printable(text) + end } else { format!("{text}{end}") };
        self.0.write_all(shown.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// End of the year 9999, the last time that can be shown, in seconds since 1970.
const MAX_TIME: u64 = 253_402_300_799;

const REPLACEMENT: &str = "\u{fffd}";

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\rb\u{202e}c\u{2067}d\u{200f}e\u{61c}\u{2028}f\u{9b}g\u{7f}";

    #[test]
    fn no_unsafe_character_is_left() {
        assert!(!printable(HOSTILE).contains(is_unsafe));
        assert_eq!(printable("a\nb"), "a\u{fffd}b");
        assert_eq!(printable_lines("a\tb\nc\r"), "a\tb\nc\u{fffd}");
        // Text in other scripts stays.
        assert_eq!(printable("שלום Grüße 鍵"), "שלום Grüße 鍵");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let json = serde_json::to_string_pretty(&[HOSTILE, "x\n\t\u{85}"]).unwrap();
        let shown = printable_json(&json);
        assert!(!shown.replace('\n', "").contains(is_unsafe), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [HOSTILE, "x\n\t\u{85}"]);
    }

    #[test]
    fn a_log_line_stays_one_line() {
        let mut log = Vec::new();
        let line = format!("{HOSTILE}\n2026-11-28 ERROR forged\n");
        assert_eq!(PrintableLines(&mut log).write(line.as_bytes()).unwrap(), line.len());
        let log = String::from_utf8(log).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(!log.trim_end().contains(is_unsafe), "{log}");
    }

    #[test]
    fn distances_have_one_unit() {
        for (then, expected) in [
            (1_000_000, "in 0 minutes"),
            (1_000_060, "in 1 minute"),
            (1_007_199, "in 119 minutes"),
            (1_007_200, "in 2 hours"),
            (1_172_800, "in 2 days"),
            (999_000, "16 minutes ago"),
            (0, "11 days ago"),
        ] {
            assert_eq!(distance(1_000_000, then), expected);
        }
    }
}
