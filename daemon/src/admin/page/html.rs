//! HTML that is built so that text from outside cannot become markup: markup is text of this
//! program, and everything else is escaped.

use core::fmt::Display;

use crate::ground::text::{distance, printable, time};

/// A part of a page.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Adds markup.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0 += markup;
        self
    }

    /// Adds text, also in the value of an attribute. Of a long text the first [`MOST`] characters
    /// are added. Control characters are replaced.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        let text = text.to_string();
        let (shown, rest) = match text.char_indices().nth(MOST) {
            Some((end, _)) => (&text[..end], "…"),
            None => (text.as_str(), ""),
        };
        for c in printable(shown).chars() {
            match c {
                '&' => self.0 += "&amp;",
                '<' => self.0 += "&lt;",
                '>' => self.0 += "&gt;",
                '"' => self.0 += "&quot;",
                '\'' => self.0 += "&#39;",
                c => self.0.push(c),
            }
        }
        self.0 += rest;
        self
    }

    /// Adds a label or the name of a server as text. A narrow column breaks it before its points.
    pub(super) fn name(&mut self, name: &str) -> &mut Self {
        // Of a long name, only the whole is cut.
        let short: String = name.chars().take(MOST).collect();
        for (place, part) in short.split('.').enumerate() {
            self.raw(if place > 0 { "<wbr>." } else { "" }).text(part);
        }
        self.raw(if short.len() < name.len() { "…" } else { "" })
    }

    /// Adds a text of this program and its people, such as a problem with its commands, which is
    /// long at times.
    pub(super) fn long_text(&mut self, text: &str) -> &mut Self {
        let characters: Vec<_> = text.chars().collect();
        for part in characters.chunks(MOST) {
            self.text(part.iter().collect::<String>());
        }
        self
    }

    /// Adds a number with a comma between each three digits.
    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        let digits = number.to_string();
        let mut grouped = String::new();
        for (place, digit) in digits.char_indices() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        self.text(grouped)
    }

    /// Adds a time in seconds since 1970, to the minute.
    pub(super) fn minute(&mut self, at: u64) -> &mut Self {
        let exact = time(at);
        let shown = exact.get(..16).unwrap_or(&exact).replace('T', " ");
        self.raw("<time datetime=\"").text(&exact).raw("\">").text(shown).raw("</time>")
    }

    /// Adds a time in seconds since 1970, to the minute, and its distance from `now`.
    pub(super) fn time(&mut self, at: u64, now: u64) -> &mut Self {
        self.minute(at).raw(" <span class=\"soft tight\">");
        match at.abs_diff(now) {
            ..60 => self.raw("now"),
            _ => self.text(distance(now, at)),
        };
        self.raw("</span>")
    }

    /// The HTML so far.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Longest text, in characters. A label has 128.
const MOST: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_markup() {
        let mut html = Html::default();
        html.raw("<b title=\"")
            .text("\" onclick='x'")
            .raw("\">")
            .text("<script>&\u{1b}[2J\u{202e}")
            .raw("</b>");
        let page = html.finish();
        assert_eq!(
            page,
            "<b title=\"&quot; onclick=&#39;x&#39;\">&lt;script&gt;&amp;\u{fffd}[2J\u{fffd}</b>"
        );
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let shown = |text: &str| {
            let mut html = Html::default();
            html.text(text);
            html.finish()
        };
        assert_eq!(shown(&"ü".repeat(MOST)), "ü".repeat(MOST));
        assert_eq!(shown(&"<".repeat(MOST + 1)), "&lt;".repeat(MOST) + "…");
        let mut html = Html::default();
        html.long_text(&"<".repeat(MOST + 1));
        assert_eq!(html.finish(), "&lt;".repeat(MOST + 1));
    }

    #[test]
    fn a_name_breaks_before_its_points() {
        let mut html = Html::default();
        html.name("a<b>.shop.example");
        assert_eq!(html.finish(), "a&lt;b&gt;<wbr>.shop<wbr>.example");
        let mut html = Html::default();
        html.name(&"x".repeat(MOST + 1));
        assert_eq!(html.finish(), "x".repeat(MOST) + "…");
    }

    #[test]
    fn numbers_and_times_are_for_people() {
        let shown = |number: u64| {
            let mut html = Html::default();
            html.number(number);
            html.finish()
        };
        assert_eq!([0, 999, 1000, 1_234_567].map(shown), ["0", "999", "1,000", "1,234,567"]);
        let distant = |seconds: u64| {
            let mut html = Html::default();
            html.time(1_700_000_000, 1_700_000_000 + seconds);
            html.finish()
        };
        let mut html = Html::default();
        html.time(1_700_000_000, 1_700_000_000 + 7200);
        assert!(distant(59).ends_with(">now</span>"), "{}", distant(59));
        assert!(distant(60).ends_with(">1 minute ago</span>"), "{}", distant(60));
        assert_eq!(
            html.finish(),
            "<time datetime=\"2023-11-14T22:13:20Z\">2023-11-14 22:13</time> <span class=\"soft tight\">2 hours ago</span>"
        );
    }
}
