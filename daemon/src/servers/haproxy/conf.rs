//! Parser of haproxy.cfg: sections, lines and words (HAProxy Configuration Manual, 2.1 to 2.4).

use std::collections::BTreeMap;

/// A line of a configuration, with its words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Line {
    /// Number of the file, for a configuration of several files.
    pub(crate) file: usize,
    /// Number of the line, from 1.
    pub(crate) number: usize,
    /// Keyword and name of the section, such as `frontend shop`; empty before the first one.
    pub(crate) section: Vec<String>,
    pub(crate) words: Vec<Word>,
    /// True for a line between `.if` and `.endif`, which may count or not.
    pub(crate) is_conditional: bool,
}

/// A word of a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Word {
    pub(crate) text: String,
    /// True if a variable of the environment stands in the word, as it is written.
    pub(crate) has_variable: bool,
}

impl Line {
    /// True if the section of the line begins with this keyword.
    pub(crate) fn is_in(&self, keyword: &str) -> bool {
        self.section.first().is_some_and(|first| first == keyword)
    }

    /// First word.
    pub(crate) fn keyword(&self) -> &str {
        self.word(0)
    }

    /// A word, or an empty text behind the last one.
    pub(crate) fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |word| &word.text)
    }

    /// True if one of the words is this one.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|one| one.text == word)
    }

    /// The words behind each option of a name, such as the files behind `crt`.
    pub(crate) fn values(&self, option: &str) -> impl Iterator<Item = &Word> {
        let pairs = self.words.iter().zip(self.words.iter().skip(1));
        pairs.filter(move |(one, _)| one.text == option).map(|(_, value)| value)
    }

    /// Puts the values of variables into the words. A line `setenv` or `presetenv` of the section
    /// global sets one. A word with an unknown variable stays as it is.
    pub(super) fn expand(&mut self, variables: &mut BTreeMap<String, String>) {
        for word in self.words.iter_mut().filter(|word| word.has_variable) {
            if let Some(text) = expanded(&word.text, variables) {
                *word = Word { text, has_variable: false };
            }
        }
        let (name, value) = (self.word(1).to_owned(), self.word(2).to_owned());
        match self.keyword() {
            "setenv" if !self.is_conditional => drop(variables.insert(name, value)),
            "presetenv" if !self.is_conditional => drop(variables.entry(name).or_insert(value)),
            "unsetenv" => drop(variables.remove(&name)),
            _ => {}
        }
    }

    /// The last value of an option.
    pub(crate) fn value(&self, option: &str) -> Option<&str> {
        self.values(option).last().map(|word| &*word.text)
    }
}

/// A text with the values of its variables, `$NAME` or `${NAME}`; `None` if one of them is unknown.
fn expanded(text: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        done += before;
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, behind) = match after.strip_prefix('{') {
            Some(inside) => inside.split_once('}')?,
            None => after.split_at(after.find(|c| !is_of_name(c)).unwrap_or(after.len())),
        };
        // A name in braces may have options behind it, such as a default value.
        done += variables.get(name).filter(|_| name.chars().all(is_of_name))?;
        rest = behind;
    }
    Some(done + rest)
}

/// The lines of a file. `section` is the one in which the file before has ended.
pub(super) fn parse(text: &str, file: usize) -> Vec<Line> {
    let (mut lines, mut section, mut depth) = (Vec::new(), Vec::new(), 0_usize);
    for (at, text) in text.lines().enumerate() {
        let words = words(text);
        let Some(first) = words.first() else { continue };
        match &*first.text {
            ".if" => depth += 1,
            ".endif" => depth = depth.saturating_sub(1),
            word if SECTIONS.contains(&word) => {
                section = words.iter().map(|word| word.text.clone()).collect();
            }
            _ => {}
        }
        let is_conditional = depth > 0;
        lines.push(Line { file, number: at + 1, section: section.clone(), words, is_conditional });
    }
    lines
}

/// The words of a line, without its comment.
fn words(line: &str) -> Vec<Word> {
    let (mut words, mut word): (_, Option<Word>) = (Vec::new(), None);
    let mut rest = line.chars();
    let mut quote = None;
    while let Some(c) = rest.next() {
        let mut push = |c: char| word.get_or_insert_with(Word::empty).text.push(c);
        match (c, quote) {
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            (_, Some('\'')) => push(c),
            ('\\', _) => match rest.next() {
                Some('n') => push('\n'),
                Some('r') => push('\r'),
                Some('t') => push('\t'),
                Some(other) => push(other),
                None => {}
            },
            ('$', Some(_)) => {
                push(c);
                word.get_or_insert_with(Word::empty).has_variable = true;
            }
            (_, Some(_)) => push(c),
            ('\'' | '"', None) => {
                word.get_or_insert_with(Word::empty);
                quote = Some(c);
            }
            ('#', None) => break,
            (c, None) if c.is_ascii_whitespace() => words.extend(word.take()),
            (c, None) => push(c),
        }
    }
    words.extend(word);
    words
}

impl Word {
    fn empty() -> Self {
        Self { text: String::new(), has_variable: false }
    }
}

/// Words that begin a section.
const SECTIONS: [&str; 21] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "mailers",
    "cache",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "log-profile",
    "fcgi-app",
    "userlist",
    "crt-store",
    "traces",
    "acme",
    "haproxy",
    "healthcheck",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_quotes_variables_and_comments() {
        let texts = |line| words(line).into_iter().map(|word| word.text).collect::<Vec<_>>();
        assert_eq!(texts("  bind :443 ssl crt a.pem # crt no"), ["bind", ":443", "ssl", "crt", "a.pem"]);
        assert_eq!(
            texts(r#"crt "my certs/a.pem" 'b "c" $d' e\ f\#g"#),
            ["crt", "my certs/a.pem", "b \"c\" $d", "e f#g"]
        );
        assert_eq!(texts("# a\n"), Vec::<String>::new());
        assert_eq!(texts(r#"log-format "" x"#), ["log-format", "", "x"]);
        let found = words(r#"crt "$CERTS/a.pem" '$b' $c"#);
        let variables: Vec<_> = found.iter().map(|word| word.has_variable).collect();
        assert_eq!(variables, [false, true, false, false]);
    }

    #[test]
    fn lines_know_their_section() {
        let lines = parse(
            "global\n chroot /var/lib/haproxy\n\nfrontend shop\n bind :1 ssl crt a\n .if defined(X)\n bind :2 ssl crt b crt c\n .endif\n mode http\n",
            2,
        );
        let shown: Vec<_> = lines
            .iter()
            .map(|line| (line.number, line.section.join(" "), line.keyword().to_owned(), line.is_conditional))
            .collect();
        let expected = [
            (1, "global", "global", false),
            (2, "global", "chroot", false),
            (4, "frontend shop", "frontend", false),
            (5, "frontend shop", "bind", false),
            (6, "frontend shop", ".if", true),
            (7, "frontend shop", "bind", true),
            (8, "frontend shop", ".endif", false),
            (9, "frontend shop", "mode", false),
        ];
        assert_eq!(
            shown,
            expected.map(|(n, section, word, is)| (n, section.to_owned(), word.to_owned(), is))
        );
        let values: Vec<_> = lines[5].values("crt").map(|word| word.text.as_str()).collect();
        assert_eq!(values, ["b", "c"]);
        assert_eq!((lines[5].value("crt"), lines[5].file), (Some("c"), 2));
    }

    #[test]
    fn variables_have_their_values() {
        let mut variables = BTreeMap::from([("HOME".to_owned(), "/root".to_owned())]);
        let mut lines = parse(
            "global\n setenv CERTS /etc/certs\n presetenv HOME /other\nfrontend a\n bind :1 ssl crt \"${CERTS}/a.pem\" crt \"$HOME/b\" crt \"$UNKNOWN/c\" crt '$HOME'\n",
            0,
        );
        lines.iter_mut().for_each(|line| line.expand(&mut variables));
        let shown: Vec<_> =
            lines[4].values("crt").map(|word| (word.text.as_str(), word.has_variable)).collect();
        assert_eq!(
            shown,
            [("/etc/certs/a.pem", false), ("/root/b", false), ("$UNKNOWN/c", true), ("$HOME", false)]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[ -~\n\t]{0,200}") {
            let lines = parse(&text, 0);
            assert!(lines.iter().all(|line| !line.words.is_empty()));
        }
    }
}
