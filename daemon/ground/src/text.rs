//! Text from elsewhere, made safe to show: in the log, on a terminal, in JSON.
//!
//! Certificates, crypto units, token services and peers choose some of the words that are shown here. None of
//! them may move the cursor, forge a line, or have a line read in another order than it was written.

use core::time::Duration;
use std::io::{self, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// The same text without what a terminal would obey rather than show.
pub fn printable(text: &str) -> String {
    text.replace(is_order, REPLACEMENT)
}

/// The same for text of several lines of our own, in which tabs and line ends are meant.
pub fn printable_lines(text: &str) -> String {
    text.replace(|c| is_order(c) && !matches!(c, '\n' | '\t'), REPLACEMENT)
}

/// The same JSON text, with escapes in the place of these characters, so that it says the same as before.
pub fn printable_json(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut written, c| {
        match c {
            // Outside of strings they are blanks; inside, JSON has escaped them already.
            '\n' | '\t' => written.push(c),
            // All of them are in the Basic Multilingual Plane.
            c if is_order(c) => written += &format!("\\u{:04x}", u32::from(c)),
            c => written.push(c),
        }
        written
    })
}

/// A path in a command that somebody is to copy, as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A time in seconds since 1970, in the form of RFC 3339.
pub fn time(seconds: u64) -> String {
    let since = Duration::from_secs(seconds.min(MAX_TIME));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// Controls, the Bidi_Control characters of Unicode (UAX #9), and its separators of lines and paragraphs.
fn is_order(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A log without such characters: each write is one line, and stays one.
pub struct PrintableLines<W>(pub W);

impl<W: Write> Write for PrintableLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = text.strip_suffix('\n').map_or((&*text, ""), |text| (text, "\n"));
        let shown = if text.contains(is_order) { printable(text) + end } else { format!("{text}{end}") };
        self.0.write_all(shown.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The end of the year 9999, the last that can be shown.
const MAX_TIME: u64 = 253_402_300_799;

const REPLACEMENT: &str = "\u{fffd}";

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\rb\u{202e}c\u{2067}d\u{200f}e\u{61c}\u{2028}f\u{9b}g\u{7f}";

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert!(!printable(HOSTILE).contains(is_order));
        assert_eq!(printable("a\nb"), "a\u{fffd}b");
        assert_eq!(printable_lines("a\tb\nc\r"), "a\tb\nc\u{fffd}");
        // Other scripts are text like any other.
        assert_eq!(printable("שלום Grüße 鍵"), "שלום Grüße 鍵");
    }

    #[test]
    fn json_says_the_same() {
        let json = serde_json::to_string_pretty(&[HOSTILE, "x\n\t\u{85}"]).unwrap();
        let shown = printable_json(&json);
        assert!(!shown.replace('\n', "").contains(is_order), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [HOSTILE, "x\n\t\u{85}"]);
    }

    #[test]
    fn a_line_of_the_log_stays_one() {
        let mut log = Vec::new();
        let line = format!("{HOSTILE}\n2026-11-28 ERROR forged\n");
        assert_eq!(PrintableLines(&mut log).write(line.as_bytes()).unwrap(), line.len());
        let log = String::from_utf8(log).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(!log.trim_end().contains(is_order), "{log}");
    }
}
