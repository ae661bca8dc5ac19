//! The pages in docs/servers. A server of the tests has the configuration of its page, so no page
//! shows a configuration that does not work.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Site;

/// A page. Tests use its fenced blocks.
#[derive(Clone, Debug)]
pub struct Page {
    name: String,
    text: String,
}

impl Page {
    /// Reads the page about a server.
    pub fn read(name: &str) -> Self {
        let path = match name {
            // The page of the crate.
            "rustls" => "../provider/rustls/README.md".to_owned(),
            "certbot" | "chroot" | "convert" | "hosts" | "releases" => format!("../docs/{name}.md"),
            _ => format!("../docs/servers/{name}.md"),
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { name: name.to_owned(), text }
    }

    /// The whole page.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The only block that contains these words.
    pub fn block(&self, words: &str) -> &str {
        let mut found = self.blocks().map(|(_, text)| text).filter(|text| text.contains(words));
        let block = found.next().unwrap_or_else(|| panic!("no block with {words:?} in {}.md", self.name));
        assert!(found.next().is_none(), "several blocks with {words:?} in {}.md", self.name);
        block
    }

    /// The only block that contains these words, with replacements. The page must contain every
    /// replaced text.
    pub fn filled(&self, words: &str, places: &[(&str, &dyn Display)]) -> String {
        places.iter().fold(self.block(words).to_owned(), |text, (place, value)| {
            assert!(text.contains(place), "no {place:?} in the block with {words:?} of {}.md", self.name);
            text.replace(place, &value.to_string())
        })
    }

    /// The only block that contains these words, for a site. The site listens at the address that
    /// replaces `listen`.
    pub fn site(&self, words: &str, listen: &str, site: &Site) -> String {
        self.filled(
            words,
            &[
                (listen, &site.address),
                ("/etc/ssl/shop.crt", &site.certificate.display()),
                ("/etc/keyward/shop.pem", &site.key.display()),
            ],
        )
    }

    /// Sets the environment that the page gives the service, with replacements. The page must
    /// contain every replaced text.
    pub fn set_environment(&self, command: &mut Command, places: &[(&str, &dyn Display)]) {
        let block = self.filled("Environment=", places);
        let variables: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("Environment=")).collect();
        command.envs(variables.iter().filter_map(|variable| variable.split_once('=')));
    }

    /// The line of a log that matches the line on the page. Three dots on the page stand for any
    /// text.
    pub fn find_in_log<'a>(&self, log: &'a str) -> Option<&'a str> {
        let (_, shown) = self.blocks().find(|(language, _)| *language == "log").expect("a block of a log");
        let words: Vec<_> = shown.trim().split("...").map(str::trim).collect();
        log.lines().find(|line| {
            let mut rest = Some(*line);
            for word in &words {
                rest = rest.and_then(|rest| Some(rest.split_once(*word)?.1));
            }
            rest.is_some()
        })
    }

    /// Language and text of each block.
    fn blocks(&self) -> impl Iterator<Item = (&str, &str)> {
        // Every other part between fences is a block.
        self.text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_logs_and_blocks() {
        let text = "Text:\n\n```toml\na = 443\n```\n\n```log\none ... two: ...\n```\n".to_owned();
        let page = Page { name: "some".to_owned(), text };
        assert_eq!(page.filled("a =", &[("443", &"[::1]:7")]), "a = [::1]:7\n");
        assert_eq!(page.find_in_log("one\ntwo: 1\n[1] one, two: 2\n"), Some("[1] one, two: 2"));
        assert_eq!(page.find_in_log("two: one\n"), None);
    }
}
