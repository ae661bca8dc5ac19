//! Apache: the program of a running one, and its configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::processes::Master;

/// The configuration of an Apache, as its module mod_info shows it: without the parts that do not
/// count, with the values of variables, and with macros in full.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    pub(crate) directives: Vec<Directive>,
    /// Addresses of each virtual host, as they are written.
    pub(crate) hosts: Vec<Vec<String>>,
    /// Directory from which relative paths count.
    root: PathBuf,
}

/// A directive of a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Directive {
    /// In small letters.
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    /// The file; `None` for a directive of a macro, which stands in no file with these arguments.
    pub(crate) file: Option<PathBuf>,
    /// Last line of the directive, from 1.
    pub(crate) line: usize,
    /// Number of the virtual host around the directive.
    pub(crate) host: Option<usize>,
    /// True for a directive directly in the host, or at the top: not in a section for directories.
    pub(crate) is_general: bool,
}

impl Configuration {
    /// Reads the output of `apache2 -t -D DUMP_CONFIG`. `root` is the directory of the server.
    pub(crate) fn parse(dump: &str, root: &Path) -> Self {
        let mut conf = Self { root: root.to_owned(), ..Self::default() };
        let (mut file, mut line, mut host) = (None, 0, None);
        // Sections around the directive, without those for virtual hosts.
        let mut depth = 0_usize;
        for text in dump.lines().map(str::trim) {
            if let Some(path) = text.strip_prefix(IN_FILE) {
                file = Some(PathBuf::from(path)).filter(|path| path.is_absolute());
                continue;
            }
            if let Some(number) = text.strip_prefix('#') {
                line = number.trim().trim_end_matches(':').parse().unwrap_or(line);
                continue;
            }
            let words = words(text.trim_start_matches('<').trim_end_matches('>'));
            let Some((name, arguments)) = words.split_first() else { continue };
            let name = name.to_ascii_lowercase();
            match (text.starts_with('<'), &*name) {
                (true, "virtualhost") => {
                    host = Some(conf.hosts.len());
                    conf.hosts.push(arguments.to_vec());
                }
                (true, "/virtualhost") => host = None,
                (true, name) if name.starts_with('/') => depth = depth.saturating_sub(1),
                (true, _) => depth += 1,
                (false, _) => conf.directives.push(Directive {
                    name,
                    arguments: arguments.to_vec(),
                    file: file.clone(),
                    line,
                    host,
                    is_general: depth == 0,
                }),
            }
        }
        conf
    }

    /// The directives of a name, directly in a virtual host or, for `None`, at the top.
    pub(crate) fn own(&self, host: Option<usize>, name: &str) -> impl Iterator<Item = &Directive> {
        let of_host = self.directives.iter().filter(move |one| one.host == host && one.is_general);
        of_host.filter(move |one| one.name == name)
    }

    /// The last directive of a name that counts for a virtual host: its own one, or the one at the
    /// top. `None` is the server outside of all virtual hosts.
    pub(crate) fn inherited(&self, host: Option<usize>, name: &str) -> Option<&Directive> {
        self.own(host, name).last().or_else(|| self.own(None, name).last())
    }

    /// Addresses of a virtual host or, for `None`, the addresses that belong to no virtual host.
    pub(crate) fn addresses(&self, host: Option<usize>) -> Vec<String> {
        let Some(host) = host else {
            let port = |address: &str| address.rsplit(':').next().map(str::to_owned);
            let taken: Vec<_> = self.hosts.iter().flatten().map(|address| port(address)).collect();
            let all = self.own(None, "listen").filter_map(|one| one.arguments.first());
            return all.filter(|at| !taken.contains(&port(at))).cloned().collect();
        };
        self.hosts.get(host).cloned().unwrap_or_default()
    }

    /// A path in the configuration.
    pub(crate) fn path(&self, text: &str) -> PathBuf {
        self.root.join(text)
    }
}

/// The words of a directive: quotes hold a word together (Apache, Configuration Files, Syntax).
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let mut word = String::new();
        let quote = Some(first).filter(|c| ['"', '\''].contains(c));
        let mut characters = rest.char_indices().skip(usize::from(quote.is_some()));
        let mut end = rest.len();
        while let Some((at, c)) = characters.next() {
            match c {
                '\\' if quote.is_some() => {
                    let next = characters.next().map(|(_, next)| next);
                    // Only a quote needs the backslash.
                    word.extend(Some('\\').filter(|_| next != quote && next != Some('\\')));
                    word.extend(next);
                }
                c if Some(c) == quote || (quote.is_none() && c.is_whitespace()) => {
                    end = at + c.len_utf8();
                    break;
                }
                c => word.push(c),
            }
        }
        words.push(word);
        rest = rest.get(end..).unwrap_or_default().trim_start();
    }
    words
}

/// The place of the first argument of a directive in the text of a file, in bytes, with its quotes.
/// `line` is the last line of the directive. `None` if no such directive is there.
pub(crate) fn place_of_argument(text: &str, name: &str, line: usize) -> Option<core::ops::Range<usize>> {
    let ends: Vec<usize> = text.split_inclusive('\n').map(str::len).collect();
    let mut first = line.checked_sub(1)?;
    let bounds = |number: usize| {
        let start: usize = ends.get(..number)?.iter().sum();
        Some(start..start + ends.get(number)?)
    };
    // A backslash at the end of a line continues it.
    while let Some(before) = first.checked_sub(1).and_then(bounds)
        && text.get(before)?.trim_end_matches(['\n', '\r']).ends_with('\\')
    {
        first -= 1;
    }
    let (start, end) = (bounds(first)?.start, bounds(line - 1)?.end);
    let whole = text.get(start..end)?;
    let is_blank = |c: char| c.is_whitespace() || c == '\\';
    let begin = whole.len() - whole.trim_start_matches(is_blank).len();
    let rest = whole.get(begin..)?;
    let length = rest.find(is_blank)?;
    if !rest.get(..length)?.eq_ignore_ascii_case(name) {
        return None;
    }
    let rest = rest.get(length..)?;
    let argument = begin + length + (rest.len() - rest.trim_start_matches(is_blank).len());
    let rest = whole.get(argument..)?;
    let length = match rest.chars().next()? {
        // A path with a quote in it is not found, which the caller notices by its value.
        quote @ ('"' | '\'') => rest.get(1..)?.find(quote)? + 2,
        _ => rest.find(is_blank).unwrap_or(rest.len()),
    };
    Some(start + argument..start + argument + length)
}

/// The program of Apache with the configuration and the environment of a running one.
pub fn command(master: &Master, environment: &[(String, String)]) -> Command {
    let mut command = Command::new(&master.program);
    command.current_dir(&master.directory);
    for option in ["-f", "-d"] {
        if let Some(value) = master.values(option).last() {
            command.arg(option).arg(value);
        }
    }
    for definition in master.values("-D") {
        command.arg("-D").arg(definition);
    }
    let attached = master.arguments.iter().skip(1).filter(|word| word.len() > 2 && word.starts_with("-D"));
    command.args(attached);
    // A configuration may use each of them.
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// First words of the line that names a file in a dump.
const IN_FILE: &str = "# In file: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_files_and_macros_of_a_dump() {
        let dump = "# In file: /etc/apache2/apache2.conf\n#   3:\nServerName localhost\n#  15:\nSSLProtocol all -TLSv1.1\n\
            # In file: macro 'site' (defined on line 2 of \"/a.conf\") used on line 11 of \"/a.conf\"\n#   1:\n\
            <VirtualHost *:443 [::1]:444>\n  #   2:\n  ServerName \"a b.example\"\n  #  4:\n  <Directory /x>\n    #   5:\n    SSLRequireSSL\n  </Directory>\n  #   6:\n  SSLProtocol TLSv1.3\n</VirtualHost>\n\
            # In file: /b.conf\n#   9:\nListen 443\nSyntax OK\n";
        let conf = Configuration::parse(dump, Path::new("/etc/apache2"));
        assert_eq!(conf.hosts, [vec!["*:443".to_owned(), "[::1]:444".to_owned()]]);
        let shown: Vec<_> = conf
            .directives
            .iter()
            .map(|one| {
                let file = one.file.as_ref().map_or("-", |file| file.to_str().unwrap());
                format!(
                    "{file} {} {} {} {:?} {}",
                    one.line,
                    one.name,
                    one.arguments.join("|"),
                    one.host,
                    one.is_general
                )
            })
            .collect();
        assert_eq!(
            shown[..6],
            [
                "/etc/apache2/apache2.conf 3 servername localhost None true",
                "/etc/apache2/apache2.conf 15 sslprotocol all|-TLSv1.1 None true",
                "- 2 servername a b.example Some(0) true",
                "- 5 sslrequiressl  Some(0) false",
                "- 6 sslprotocol TLSv1.3 Some(0) true",
                "/b.conf 9 listen 443 None true",
            ]
        );
        assert_eq!(conf.inherited(Some(0), "sslprotocol").unwrap().arguments, ["TLSv1.3"]);
        assert_eq!(conf.path("ssl/a.key"), Path::new("/etc/apache2/ssl/a.key"));
    }

    #[test]
    fn arguments_have_their_places() {
        let text = "# top\n  SSLCertificateKeyFile \"a b.key\"\nSSLCertificateFile \\\n   x.crt  \nsslcertificatekeyfile c.key";
        for (name, line, expected) in [
            ("SSLCertificateKeyFile", 2, Some("\"a b.key\"")),
            ("SSLCertificateFile", 4, Some("x.crt")),
            ("SSLCertificateKeyFile", 5, Some("c.key")),
            ("SSLCertificateKeyFile", 4, None),
            ("SSLCertificateKeyFile", 9, None),
            ("SSLCertificateKeyFile", 0, None),
        ] {
            let found = place_of_argument(text, name, line).map(|place| &text[place]);
            assert_eq!(found, expected, "{name} {line}");
        }
        assert_eq!(words(r#"a "b c" 'd\'e' f"#), ["a", "b c", "d'e", "f"]);
        assert_eq!(words(r#""a\"b\c" d"#), ["a\"b\\c", "d"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[ -~\n\\\\\"]{0,200}", line in 0_usize..9) {
            let _ = Configuration::parse(&text, Path::new("/"));
            let _ = place_of_argument(&text, "a", line);
        }
    }
}
