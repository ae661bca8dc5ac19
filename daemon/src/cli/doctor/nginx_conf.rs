//! Parser of nginx.conf: directives, and the blocks around them.

/// One nginx.conf, or all files of a configuration as `nginx -T` prints them: one after the other,
/// so that a server of an included file stands in no block.
pub(super) struct NginxConf {
    pub(super) directives: Vec<Directive>,
    /// The words before the brace of each block.
    blocks: Vec<Vec<String>>,
    /// True for the output of `nginx -T`, which has all included files.
    is_dump: bool,
}

/// A directive of an nginx.conf.
pub(super) struct Directive {
    pub(super) words: Vec<String>,
    /// The blocks around the directive, the outermost first, as numbers of blocks of the file.
    pub(super) within: Vec<usize>,
}

impl NginxConf {
    pub(super) fn parse(text: &str) -> Self {
        let (directives, blocks) = parse(text);
        let is_dump = text.lines().any(|line| line.starts_with(DUMP));
        Self { directives, blocks, is_dump }
    }

    /// Numbers of the blocks with a name.
    pub(super) fn blocks_of(&self, name: &str) -> impl Iterator<Item = usize> {
        let blocks = self.blocks.iter().enumerate();
        blocks.filter(move |(_, words)| words[..] == [name]).map(|(number, _)| number)
    }

    /// The words of each directive of a name that counts for a server: the directives of the
    /// innermost level that has any, because they replace all inherited ones.
    pub(super) fn inherited(&self, server: usize, name: &str) -> Vec<&[String]> {
        let levels = self.levels(server).into_iter().rev().map(|level| {
            let here = self.directives.iter().filter(|one| one.is(name) && level.holds(one, &self.blocks));
            here.map(|one| &one.words[..]).collect::<Vec<_>>()
        });
        levels.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// An included file that may hold servers or their settings, and is not in the text.
    pub(super) fn unread_include(&self) -> Option<&str> {
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
    pub(super) fn is(&self, name: &str) -> bool {
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
fn parse(text: &str) -> (Vec<Directive>, Vec<Vec<String>>) {
    let (mut found, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    let (mut blocks, mut within) = (Vec::new(), Vec::new());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => word.extend(rest.next()),
            '#' if word.is_empty() => {
                rest.find(|c| *c == '\n');
            }
            '"' | '\'' if word.is_empty() => {
                while let Some(inner) = rest.next().filter(|inner| *inner != c) {
                    word.extend(if inner == '\\' { rest.next() } else { Some(inner) });
                }
            }
            // A variable, as in ${name}.
            '{' if word.ends_with('$') => {
                rest.find(|c| *c == '}');
            }
            ';' | '{' | '}' => {
                words.extend(Some(core::mem::take(&mut word)).filter(|word| !word.is_empty()));
                let words = core::mem::take(&mut words);
                match c {
                    ';' => found.push(Directive { words, within: within.clone() }),
                    '{' => {
                        within.push(blocks.len());
                        blocks.push(words);
                    }
                    _ => drop(within.pop()),
                }
            }
            c if c.is_whitespace() => {
                words.extend(Some(core::mem::take(&mut word)).filter(|word| !word.is_empty()));
            }
            c => word.push(c),
        }
    }
    (found, blocks)
}

/// Beginning of the line that `nginx -T` prints before each file.
pub(super) const DUMP: &str = "# configuration file ";

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

    proptest! {
        #[test]
        fn any_text_is_parsed(text in "[ -~\n\\\\\"'{};#$]{0,200}") {
            NginxConf::parse(&text);
        }
    }
}
