//! The keys that the configurations of nginx, HAProxy, Apache, Postfix and Dovecot name.
//!
//! This reads what these programs read, without running them, as far as it goes: variables and
//! conditions are left alone. A file that others than root and who runs this can change is not
//! followed.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::environment::all_directives;
use super::processes::Process;
use crate::ground::ownership;

/// What the configuration of a server says of its keys.
#[derive(Debug, Default)]
pub(super) struct Configured {
    /// The file that it begins with.
    pub(super) file: PathBuf,
    pub(super) pairs: Vec<Pair>,
    /// What was not read, and why.
    pub(super) unread: Vec<String>,
    /// Of nginx all files, one after the other, as `nginx -T` shows them.
    pub(super) dump: String,
    /// Of mail servers, which clear the environment of their processes.
    pub(super) imported: Option<Imported>,
    /// Bytes that were read.
    read: u64,
    /// The files that were opened.
    opened: HashSet<PathBuf>,
}

/// A key and its certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Pair {
    pub(super) key: Key,
    pub(super) certificate: Option<PathBuf>,
}

/// The environment that a mail server gives its processes.
#[derive(Debug)]
pub(super) struct Imported {
    /// As whom the processes run that make handshakes.
    pub(super) user: &'static str,
    /// The words of `import_environment`.
    words: Vec<String>,
}

impl Imported {
    fn of(user: &'static str, text: &str) -> Self {
        let words = text.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        Self { user, words: words.map(str::to_owned).collect() }
    }

    /// A variable: what is said of it, or what the first process has, if that is to be passed on.
    pub(super) fn value<'a>(&'a self, name: &str, of_main: Option<&'a str>) -> Option<&'a str> {
        let passed = self.words.iter().rev().find_map(|word| word.strip_prefix(name))?;
        if passed.is_empty() { of_main } else { passed.strip_prefix('=') }
    }
}

/// How a configuration names a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Key {
    File(PathBuf),
    /// A label, of a URI.
    Label(String),
}

impl Configured {
    /// Reads what a server was started with; `None` for programs whose configuration nothing here
    /// can read.
    pub(super) fn of(main: &Process) -> Option<Self> {
        let mut read = Self::default();
        match &*main.name {
            "nginx" => read.nginx(&main.words),
            "haproxy" => read.haproxy(&main.words),
            "apache2" | "httpd" => read.apache(main),
            // Others are called so, too.
            "master" if main.words.first()?.contains("postfix") => {
                read.postfix(Path::new("/etc/postfix/main.cf"))
            }
            "dovecot" => read.dovecot(&main.words),
            _ => return None,
        }
        read.unread.truncate(MOST_UNREAD);
        Some(read)
    }

    fn nginx(&mut self, words: &[String]) {
        // The title: "nginx: master process /usr/sbin/nginx -c FILE".
        let words: Vec<_> = words.iter().flat_map(|word| word.split_whitespace()).collect();
        let conf = Path::new(option(&words, "-c").unwrap_or("/etc/nginx/nginx.conf"));
        let prefix = Path::new(option(&words, "-p").unwrap_or("/usr/share/nginx"));
        self.file = prefix.join(conf);
        let base = self.file.parent().unwrap_or(Path::new("/")).to_owned();
        let mut rest = vec![self.file.clone()];
        while let Some(path) = rest.pop() {
            let Some(text) = self.text(&path) else { continue };
            self.dump += &format!("# configuration file {}:\n{text}\n", path.display());
            let (directives, _) = all_directives(&text);
            let named = |name: &'static str, value: usize| {
                directives.iter().filter_map(move |one| {
                    let [first, rest @ ..] = &*one.words else { return None };
                    (first == name && value < rest.len()).then(|| (one.within.last().copied(), &*rest[value]))
                })
            };
            for (_, pattern) in named("include", 0) {
                let found = self.files(&base.join(pattern));
                rest.extend(found);
            }
            for prefix in ["", "proxy_", "grpc_", "uwsgi_"] {
                let [certificate, key] = match prefix {
                    "proxy_" => ["proxy_ssl_certificate", "proxy_ssl_certificate_key"],
                    "grpc_" => ["grpc_ssl_certificate", "grpc_ssl_certificate_key"],
                    "uwsgi_" => ["uwsgi_ssl_certificate", "uwsgi_ssl_certificate_key"],
                    _ => ["ssl_certificate", "ssl_certificate_key"],
                };
                let mut certificates: Vec<_> = named(certificate, 0).collect();
                for (block, value) in named(key, 0) {
                    // The first key is that of the first certificate of the block.
                    let at = certificates.iter().position(|(other, _)| *other == block);
                    let file = at.map(|at| certificates.remove(at).1).filter(|file| !file.contains('$'));
                    let certificate =
                        file.filter(|file| !file.starts_with("data:")).map(|file| base.join(file));
                    match label(value) {
                        Some(label) => self.add(Key::Label(label), certificate),
                        None if value.contains('$') || value.starts_with("data:") => {
                            self.unread.push(format!("{key} {value}"));
                        }
                        None => self.add(Key::File(base.join(value)), certificate),
                    }
                }
            }
        }
    }

    fn haproxy(&mut self, words: &[String]) {
        let mut named: Vec<PathBuf> = Vec::new();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            match &**word {
                "-f" => named.extend(rest.next().map(PathBuf::from)),
                "-C" => self.unread.push("paths behind -C".into()),
                // Files may follow, up to the next option.
                "--" => named.extend(rest.by_ref().map(PathBuf::from)),
                _ => {}
            }
        }
        self.file = named.first().cloned().unwrap_or_default();
        let files: Vec<_> = named
            .into_iter()
            .flat_map(|path| if path.is_dir() { self.files(&path.join("*.cfg")) } else { vec![path] })
            .collect();
        let (mut certificates, mut keys) = (PathBuf::new(), PathBuf::new());
        for file in files {
            let Some(text) = self.text(&file) else { continue };
            for line in text.lines() {
                let words: Vec<_> =
                    line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
                match &*words {
                    ["crt-base", path, ..] => certificates = path.into(),
                    ["key-base", path, ..] => keys = path.into(),
                    ["bind" | "server" | "default-server" | "load", ..] => {
                        let key = option(&words, "key").filter(|_| words[0] == "load");
                        let of = |name: &str, path: &[&str]| {
                            path.windows(2)
                                .filter(|two| two[0] == name)
                                .map(|two| two[1].to_owned())
                                .collect::<Vec<_>>()
                        };
                        for crt in of("crt", &words) {
                            match key {
                                Some(key) => {
                                    self.add(Key::File(keys.join(key)), Some(certificates.join(crt)))
                                }
                                None => self.pem(&certificates.join(crt)),
                            }
                        }
                        for list in of("crt-list", &words) {
                            let Some(text) = self.text(Path::new(&list)) else { continue };
                            let first = text.lines().filter_map(|line| line.split_whitespace().next());
                            let named: Vec<_> =
                                first.filter(|word| !word.starts_with('#')).map(str::to_owned).collect();
                            for crt in named {
                                self.pem(&certificates.join(crt));
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// A file of HAProxy, or a directory of them; the key may be in a file beside it.
    fn pem(&mut self, path: &Path) {
        if path.is_dir() {
            let found = self.files(&path.join("*"));
            let is_other = |path: &PathBuf| {
                path.extension()
                    .is_some_and(|one| ["key", "ocsp", "issuer", "sctl"].iter().any(|other| one == *other))
            };
            for file in found.into_iter().filter(|path| !is_other(path)) {
                self.pem(&file);
            }
            return;
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".key");
        let key = if Path::new(&beside).exists() { beside.into() } else { path.to_owned() };
        self.add(Key::File(key), Some(path.to_owned()));
    }

    fn apache(&mut self, main: &Process) {
        let words: Vec<_> = main.words.iter().map(String::as_str).collect();
        let is_debian = main.name == "apache2";
        let default = if is_debian { "/etc/apache2" } else { "/etc/httpd" };
        let mut root = PathBuf::from(option(&words, "-d").unwrap_or(default));
        let conf = if is_debian { "apache2.conf" } else { "conf/httpd.conf" };
        self.file = root.join(option(&words, "-f").unwrap_or(conf));
        let mut rest = vec![self.file.clone()];
        while let Some(path) = rest.pop() {
            let Some(text) = self.text(&path) else { continue };
            let (mut certificates, mut keys) = (Vec::new(), Vec::new());
            for line in text.replace("\\\n", " ").lines().chain(["</VirtualHost>"]) {
                let mut words = line.split_whitespace();
                let Some(name) = words.next() else { continue };
                let value = words.next().unwrap_or_default().trim_matches('"');
                let is_known = !value.contains("${");
                match &*name.to_ascii_lowercase() {
                    "serverroot" if is_known => root = value.into(),
                    "include" | "includeoptional" if is_known => {
                        let pattern = root.join(value);
                        let pattern = if pattern.is_dir() { pattern.join("*") } else { pattern };
                        rest.extend(self.files(&pattern));
                    }
                    "sslcertificatefile" if is_known => certificates.push(value.to_owned()),
                    "sslcertificatekeyfile" if is_known => keys.push(value.to_owned()),
                    "sslcertificatefile" | "sslcertificatekeyfile" | "include" | "includeoptional" => {
                        self.unread.push(format!("{name} {value}"));
                    }
                    "<virtualhost" | "</virtualhost>" => {
                        let certificates = core::mem::take(&mut certificates);
                        let keys = core::mem::take(&mut keys);
                        for (number, certificate) in certificates.iter().enumerate() {
                            // Without a file of its own the key is in that of the certificate.
                            let key = keys.get(number).unwrap_or(certificate);
                            let key = label(key).map_or_else(|| Key::File(root.join(key)), Key::Label);
                            self.add(
                                key,
                                Some(root.join(certificate)).filter(|_| label(certificate).is_none()),
                            );
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn postfix(&mut self, main_cf: &Path) {
        self.file = main_cf.to_owned();
        let text = self.text(main_cf).unwrap_or_default();
        // A line that begins with a blank goes on with the one before.
        let lines: Vec<_> =
            text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect();
        let text = lines.join("\n").replace("\n ", " ").replace("\n\t", " ");
        let settings: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let value =
            |name: &str| settings.iter().rev().find(|(other, _)| *other == name).map(|(_, value)| *value);
        self.imported = Some(Imported::of("postfix", value("import_environment").unwrap_or_default()));
        for server in ["smtpd", "smtp", "lmtp", "tlsproxy"] {
            for kind in ["", "ec"] {
                let certificate = value(&format!("{server}_tls_{kind}cert_file"));
                let key = value(&format!("{server}_tls_{kind}key_file"));
                let is_file = |value: &&str| !value.is_empty() && !value.contains('$');
                if let Some(key) = key.or(certificate).filter(is_file) {
                    self.add(Key::File(key.into()), certificate.filter(is_file).map(PathBuf::from));
                }
            }
        }
    }

    fn dovecot(&mut self, words: &[String]) {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.file = PathBuf::from(option(&words, "-c").unwrap_or("/etc/dovecot/dovecot.conf"));
        let (mut imported, mut certificates, mut keys) = (String::new(), Vec::new(), Vec::new());
        let mut rest = vec![self.file.clone()];
        while let Some(path) = rest.pop() {
            let Some(text) = self.text(&path) else { continue };
            let mut included = Vec::new();
            for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
                let line = line.rsplit('{').next().unwrap_or_default().trim();
                if let Some(pattern) = line.strip_prefix("!include_try").or(line.strip_prefix("!include")) {
                    included.extend(self.files(&path.with_file_name(pattern.trim())));
                } else if let Some((name, value)) = line.split_once('=') {
                    let value = value.trim();
                    let file = PathBuf::from(value.trim_start_matches('<').trim());
                    match name.trim() {
                        "import_environment" => value.clone_into(&mut imported),
                        "ssl_cert" | "ssl_server_cert_file" => certificates.push(file),
                        "ssl_key" | "ssl_server_key_file" => keys.push(file),
                        _ => {}
                    }
                }
            }
            // The first one is the next.
            rest.extend(included.into_iter().rev());
        }
        self.imported = Some(Imported::of("dovenull", &imported));
        for (number, key) in keys.into_iter().enumerate() {
            self.add(Key::File(key), certificates.get(number).cloned());
        }
    }

    fn add(&mut self, key: Key, certificate: Option<PathBuf>) {
        let pair = Pair { key, certificate };
        if self.pairs.len() >= MOST_PAIRS {
            self.unread.push(format!("keys beyond the first {MOST_PAIRS}"));
        } else if !self.pairs.contains(&pair) {
            self.pairs.push(pair);
        }
    }

    /// The files that a pattern stands for, in their order.
    fn files(&mut self, pattern: &Path) -> Vec<PathBuf> {
        let text = pattern.to_string_lossy();
        let found = match text.contains("**") {
            true => None,
            false => glob::glob(&text).ok(),
        };
        let Some(found) = found else {
            self.unread.push(format!("the files {text}"));
            return Vec::new();
        };
        let mut found: Vec<_> = found.flatten().take(MOST_FILES + 1).collect();
        if found.len() > MOST_FILES {
            self.unread.push(format!("files beyond the first {MOST_FILES} of {text}"));
            found.truncate(MOST_FILES);
        }
        found.retain(|path| !path.is_dir());
        found
    }

    /// The text of a file that nobody but root, and who runs this, can change.
    fn text(&mut self, path: &Path) -> Option<String> {
        if !self.opened.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned())) {
            return None;
        }
        if self.opened.len() > MOST_FILES || self.read > LONGEST {
            self.unread.push(format!("{} and others, for there are too many", path.display()));
            return None;
        }
        let mut bytes = Vec::new();
        let read = ownership::open(path).map_err(|error| error.to_string()).and_then(|file| {
            let is_file = file.metadata().is_ok_and(|found| found.is_file());
            let read = if is_file { file.take(LONGEST).read_to_end(&mut bytes) } else { Ok(0) };
            read.map_err(|error| format!("cannot read {}: {error}", path.display()))
        });
        self.read += bytes.len() as u64;
        match read {
            Ok(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Err(why) => {
                self.unread.push(why);
                None
            }
        }
    }
}

/// The word behind an option.
fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.windows(2).find(|two| two[0] == name).map(|two| two[1])
}

/// The label of a URI.
fn label(value: &str) -> Option<String> {
    let uri = value.strip_prefix("store:").unwrap_or(value).strip_prefix("keyward:")?;
    let label = uri.split('?').next().unwrap_or_default();
    (!label.contains('$')).then(|| label.to_owned())
}

/// Most keys of a server.
const MOST_PAIRS: usize = 1000;
/// Most files of a configuration.
const MOST_FILES: usize = 2000;
/// Most bytes of all files of a configuration (16 MiB).
const LONGEST: u64 = 16 * 1024 * 1024;
/// So much is named that was not read.
const MOST_UNREAD: usize = 5;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is read of files for a command line, in which DIR stands for their directory.
    fn read(name: &str, words: &[&str], files: &[(&str, &str)]) -> (Vec<(String, String)>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let here = path.display().to_string();
        for (file, text) in files {
            fs::create_dir_all(path.join(file).parent().unwrap()).unwrap();
            fs::write(path.join(file), text.replace("DIR", &here)).unwrap();
        }
        let words = words.iter().map(|word| word.replace("DIR", &here)).collect::<Vec<_>>();
        let main = Process::of_words(name, words);
        let read = Configured::of(&main).unwrap();
        let shown = |path: &Path| path.display().to_string().replace(&here, "DIR");
        let pair = |pair: &Pair| {
            let key = match &pair.key {
                Key::File(path) => shown(path),
                Key::Label(label) => format!("label {label}"),
            };
            (key, pair.certificate.as_deref().map(shown).unwrap_or_default())
        };
        (
            read.pairs.iter().map(pair).collect(),
            read.unread.iter().map(|one| one.replace(&here, "DIR")).collect(),
        )
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, certificate)| ((*key).to_owned(), (*certificate).to_owned())).collect()
    }

    #[test]
    fn keys_of_nginx() {
        let (found, unread) = read(
            "nginx",
            &["nginx: master process /usr/sbin/nginx -p DIR -c DIR/nginx.conf"],
            &[
                (
                    "nginx.conf",
                    "http { include sites/*; ssl_certificate a.crt; ssl_certificate_key a.pem; server { \
                     ssl_certificate_key b2.pem; ssl_certificate b2.crt; ssl_certificate b3.crt; \
                     ssl_certificate_key \"b3.pem\"; proxy_ssl_certificate_key /p.pem; } # ssl_certificate_key no;\n \
                     server { ssl_certificate_key $name.pem; ssl_certificate $name.crt; } }",
                ),
                (
                    "sites/one",
                    "server { ssl_certificate c.crt; ssl_certificate_key store:keyward:shop?version=2; }",
                ),
                ("sites/two", "include ../nginx.conf; include DIR/sites/**;"),
            ],
        );
        let expected = [
            ("DIR/a.pem", "DIR/a.crt"),
            ("DIR/b2.pem", "DIR/b2.crt"),
            ("DIR/b3.pem", "DIR/b3.crt"),
            ("/p.pem", ""),
            ("label shop", "DIR/c.crt"),
        ];
        assert_eq!(found, pairs(&expected));
        assert!(unread[0] == "ssl_certificate_key $name.pem", "{unread:?}");
        assert!(unread.iter().any(|one| one == "the files DIR/sites/**"), "{unread:?}");
    }

    #[test]
    fn keys_of_haproxy() {
        let (found, _) = read(
            "haproxy",
            &["haproxy", "-Ws", "-f", "DIR/haproxy.cfg", "-f", "DIR/more"],
            &[
                (
                    "haproxy.cfg",
                    "global\n crt-base DIR\nfrontend a\n bind :1 ssl crt a.pem crt /b.pem # crt no\n\
                     #bind :1 ssl crt no\n bind :2 ssl crt-list DIR/list\n bind :3 ssl crt DIR/all\n",
                ),
                ("list", "# no\nc.pem [alpn h2] c.example\n"),
                ("c.pem.key", ""),
                ("all/d.pem", ""),
                ("all/d.pem.ocsp", ""),
                ("more/z.cfg", "backend b\n server s 127.0.0.1:1 ssl crt /s.pem\n"),
                ("more/z.txt", "server s 127.0.0.1:1 ssl crt /no.pem\n"),
            ],
        );
        let expected = [
            ("DIR/a.pem", "DIR/a.pem"),
            ("/b.pem", "/b.pem"),
            ("DIR/c.pem.key", "DIR/c.pem"),
            ("DIR/all/d.pem", "DIR/all/d.pem"),
            ("/s.pem", "/s.pem"),
        ];
        assert_eq!(found, pairs(&expected));
    }

    #[test]
    fn keys_of_apache() {
        let (found, unread) = read(
            "apache2",
            &["apache2", "-k", "start", "-d", "/nowhere", "-f", "DIR/apache.conf"],
            &[
                (
                    "apache.conf",
                    "ServerRoot \"DIR\"\nIncludeOptional sites/*.conf\nIncludeOptional none/*.conf\nInclude ${X}/y\n",
                ),
                (
                    "sites/a.conf",
                    "<VirtualHost *:443>\n SSLCertificateFile a.crt\n sslcertificatekeyfile \\\n  a.pem\n</VirtualHost>\n\
                     # SSLCertificateFile no\n<VirtualHost *:443>\nSSLCertificateFile /both.pem\n</VirtualHost>\n",
                ),
            ],
        );
        assert_eq!(found, pairs(&[("DIR/a.pem", "DIR/a.crt"), ("/both.pem", "/both.pem")]));
        assert_eq!(unread, ["Include ${X}/y"]);
    }

    #[test]
    fn keys_and_environment_of_mail_servers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let main_cf = path.join("main.cf");
        let pairs = |configured: &Configured| {
            let pair = |pair: &Pair| match &pair.key {
                Key::File(key) => {
                    format!("{} {}", key.display(), pair.certificate.as_deref().unwrap().display())
                }
                Key::Label(label) => label.clone(),
            };
            configured.pairs.iter().map(pair).collect::<Vec<_>>()
        };
        fs::write(
            &main_cf,
            "smtpd_tls_cert_file=/a.crt\n# no\nsmtpd_tls_key_file =\n  /a.pem\nsmtp_tls_eccert_file = /both.pem\n\
             smtp_tls_cert_file = $smtpd_tls_cert_file\nimport_environment = MAIL_CONFIG TZ\n\tOPENSSL_CONF=/o.cnf, KEYWARD_SOCKET\n",
        )
        .unwrap();
        let mut read = Configured::default();
        read.postfix(&main_cf);
        assert_eq!(pairs(&read), ["/a.pem /a.crt", "/both.pem /both.pem"]);
        let imported = read.imported.unwrap();
        assert_eq!(imported.value("OPENSSL_CONF", Some("/other")), Some("/o.cnf"));
        assert_eq!(imported.value("KEYWARD_SOCKET", Some("@keyward")), Some("@keyward"));
        assert_eq!(imported.value("OPENSSL", None), None);

        let conf = path.join("dovecot.conf");
        fs::create_dir(path.join("conf.d")).unwrap();
        fs::write(&conf, "!include conf.d/*.conf\n!include_try local.conf\n!include_try none.conf\n")
            .unwrap();
        fs::write(path.join("conf.d/10.conf"), "ssl_cert = </d.crt\nssl_key = </d.key\n#ssl_key = </no\n")
            .unwrap();
        fs::write(
            path.join("local.conf"),
            "import_environment = $import_environment OPENSSL_CONF=/o.cnf\nlocal_name a {\n ssl_key = < /l.pem\n ssl_cert = </l.crt\n}\n",
        )
        .unwrap();
        let words = ["/usr/sbin/dovecot", "-F", "-c", conf.to_str().unwrap()].map(str::to_owned);
        let read = Configured::of(&Process::of_words("dovecot", words.into())).unwrap();
        assert_eq!(pairs(&read), ["/d.key /d.crt", "/l.pem /l.crt"]);
        assert_eq!(read.imported.unwrap().value("OPENSSL_CONF", None), Some("/o.cnf"));
        assert!(Configured::of(&Process::of_words("master", vec!["/opt/master".into()])).is_none());
    }

    #[test]
    fn a_file_that_others_can_change_is_not_followed() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nginx.conf");
        fs::write(&path, "ssl_certificate_key a;").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let words = vec![format!("nginx: master process nginx -c {}", path.display())];
        let read = Configured::of(&Process::of_words("nginx", words)).unwrap();
        assert!(
            read.pairs.is_empty() && read.unread[0].contains("others than its owner can write"),
            "{read:?}"
        );
        let words = vec!["nginx: master process nginx -c /dev/zero".to_owned()];
        assert!(Configured::of(&Process::of_words("nginx", words)).unwrap().pairs.is_empty());
    }
}
