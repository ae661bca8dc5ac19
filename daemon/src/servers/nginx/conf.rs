//! Parser of nginx.conf: directives, their places in the text, and the blocks around them.

use core::ops::Range;

/// One nginx.conf, or all files of a configuration as `nginx -T` prints them: one after the other,
/// so that a server of an included file stands in no block.
pub(crate) struct NginxConf {
    pub(crate) directives: Vec<Directive>,
    /// The words before the brace of each block.
    pub(crate) blocks: Vec<Vec<String>>,
    /// True for the output of `nginx -T`, which has all included files.
    is_dump: bool,
}

/// A directive of an nginx.conf.
#[derive(Clone, Debug)]
pub(crate) struct Directive {
    pub(crate) words: Vec<String>,
    /// The place of each word in the text, in bytes, with its quotes.
    pub(crate) places: Vec<Range<usize>>,
    /// Number of the file, for a configuration of several files.
    pub(crate) file: usize,
    /// The blocks around the directive, the outermost first, as numbers of blocks of the file.
    pub(crate) within: Vec<usize>,
}

impl NginxConf {
    pub(crate) fn parse(text: &str) -> Self {
        let (directives, blocks) = parse(text);
        let is_dump = text.lines().any(|line| line.starts_with(DUMP));
        Self { directives, blocks, is_dump }
    }

    /// A configuration whose included files stand in the place of their directives.
    pub(crate) fn of_parts(directives: Vec<Directive>, blocks: Vec<Vec<String>>) -> Self {
        // Unlike in a dump, each server stands in its block http.
        Self { directives, blocks, is_dump: false }
    }

    /// Numbers of the blocks with a name.
    pub(crate) fn blocks_of(&self, name: &str) -> impl Iterator<Item = usize> {
        let blocks = self.blocks.iter().enumerate();
        blocks.filter(move |(_, words)| words[..] == [name]).map(|(number, _)| number)
    }

    /// The words of each directive of a name that counts for a server: the directives of the
    /// innermost level that has any, because they replace all inherited ones.
    pub(crate) fn inherited(&self, server: usize, name: &str) -> Vec<&[String]> {
        self.inherited_directives(server, name).into_iter().map(|one| &one.words[..]).collect()
    }

    /// The directives whose words [`Self::inherited`] returns.
    pub(crate) fn inherited_directives(&self, server: usize, name: &str) -> Vec<&Directive> {
        let levels = self.levels(server).into_iter().rev().map(|level| {
            let here = self.directives.iter().filter(|one| one.is(name) && level.holds(one, &self.blocks));
            here.collect::<Vec<_>>()
        });
        levels.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// An included file that may hold servers or their settings, and is not in the text.
    pub(crate) fn unread_include(&self) -> Option<&str> {
        let mut included = self.directives.iter().filter(|one| one.is("include") && !self.is_dump);
        let holds_other = |file: &str| file.ends_with("mime.types") || file.ends_with("_params");
        included.find_map(|one| one.words.get(1).map(String::as_str).filter(|file| !holds_other(file)))
    }

    /// The levels from which a server inherits directives, the level of the server last.
    fn levels(&self, server: usize) -> Vec<Level> {
        let inside = self.directives.iter().find(|one| one.within.contains(&server));
        let blocks = inside.map(|one| one.within.as_slice()).unwrap_or_default();
        let mut blocks: Vec<_> = blocks.iter().copied().take_while(|block| *block != server).collect();
        blocks.push(server);
        let is_alone = self.is_dump && blocks.len() == 1;
        let outer = is_alone.then_some(Level::Http);
        outer.into_iter().chain(blocks.into_iter().map(Level::Block)).collect()
    }
}

impl Directive {
    /// True if the directive has this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|first| first == name)
    }
}

/// A place where directives stand.
enum Level {
    /// Directly in a block.
    Block(usize),
    /// Directly in the block http, or at the top of a file that http may include.
    Http,
}

impl Level {
    fn holds(&self, one: &Directive, blocks: &[Vec<String>]) -> bool {
        match (self, one.within.as_slice()) {
            (Self::Block(block), [.., last]) => last == block,
            (Self::Block(_), []) => false,
            (Self::Http, []) => true,
            (Self::Http, [outer]) => blocks.get(*outer).is_some_and(|words| words[..] == ["http"]),
            (Self::Http, _) => false,
        }
    }
}

/// All directives, and the words before the brace of each block.
pub(crate) fn parse(text: &str) -> (Vec<Directive>, Vec<Vec<String>>) {
    let (mut found, mut words) = (Vec::new(), Words::default());
    let (mut blocks, mut within) = (Vec::new(), Vec::new());
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => words.push_all(at, rest.next().map(|(_, c)| c)),
            '#' if words.word.is_empty() => {
                rest.find(|(_, c)| *c == '\n');
            }
            '"' | '\'' if words.word.is_empty() => {
                words.start.get_or_insert(at);
                while let Some((at, inner)) = rest.next().filter(|(_, inner)| *inner != c) {
                    let inner = if inner == '\\' { rest.next().map(|(_, c)| c) } else { Some(inner) };
                    words.push_all(at, inner);
                }
            }
            // A variable, as in ${name}.
            '{' if words.word.ends_with('$') => {
                rest.find(|(_, c)| *c == '}');
            }
            ';' | '{' | '}' => {
                words.finish(at);
                let (words, places) = words.take();
                match c {
                    ';' => {
                        let within = within.clone();
                        found.push(Directive { words, places, file: 0, within });
                    }
                    '{' => {
                        within.push(blocks.len());
                        blocks.push(words);
                    }
                    _ => drop(within.pop()),
                }
            }
            c if c.is_whitespace() => words.finish(at),
            c => words.push_all(at, Some(c)),
        }
    }
    (found, blocks)
}

/// The words of a directive that were read so far.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    places: Vec<Range<usize>>,
    /// The word that is not complete yet, and its beginning.
    word: String,
    start: Option<usize>,
}

impl Words {
    fn push_all(&mut self, at: usize, c: Option<char>) {
        self.start.get_or_insert(at);
        self.word.extend(c);
    }

    fn finish(&mut self, end: usize) {
        let start = self.start.take().unwrap_or(end);
        if !self.word.is_empty() {
            self.words.push(core::mem::take(&mut self.word));
            self.places.push(start..end);
        }
    }

    fn take(&mut self) -> (Vec<String>, Vec<Range<usize>>) {
        (core::mem::take(&mut self.words), core::mem::take(&mut self.places))
    }
}

/// Beginning of the line that `nginx -T` prints before each file.
pub(crate) const DUMP: &str = "# configuration file ";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn directives_outside_of_braces() {
        let text = "user www-data; # env A;\nenv 'OPENSSL_CONF';env \"B=a;b\" ;\n\
                    http { env C; server { set $x ${y}; return 200 \"}\"; } }\nenv D;events{}env\nE;\n";
        let expected: [&[&str]; 5] = [
            &["user", "www-data"],
            &["env", "OPENSSL_CONF"],
            &["env", "B=a;b"],
            &["env", "D"],
            &["env", "E"],
        ];
        let conf = NginxConf::parse(text);
        let outside: Vec<_> =
            conf.directives.into_iter().filter(|one| one.within.is_empty()).map(|one| one.words).collect();
        assert_eq!(outside, expected);
    }

    #[test]
    fn places_are_those_of_the_words() {
        let text = "é { a 'b c';\n  ssl_certificate_key  \"/x y\"/z.pem ; }";
        let conf = NginxConf::parse(text);
        let shown: Vec<Vec<_>> = conf
            .directives
            .iter()
            .map(|one| one.places.iter().map(|place| &text[place.clone()]).collect())
            .collect();
        assert_eq!(shown, [vec!["a", "'b c'"], vec!["ssl_certificate_key", "\"/x y\"/z.pem"]]);
        assert_eq!(conf.directives[1].words[1], "/x y/z.pem");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(text in "[ -~\n\\\\\"'{};#$é]{0,200}") {
            for one in NginxConf::parse(&text).directives {
                assert_eq!(one.words.len(), one.places.len());
                assert!(one.places.iter().all(|place| text.get(place.clone()).is_some()));
            }
        }
    }
}
