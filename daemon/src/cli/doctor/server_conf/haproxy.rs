//! The configuration of HAProxy.

use std::path::{Path, PathBuf};

use super::conf::{KeySource, ServerConf, option};

/// Reads the files of an HAProxy with this command line.
pub(super) fn read(conf: &mut ServerConf, words: &[String]) {
    let mut named: Vec<PathBuf> = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match &**word {
            "-f" => named.extend(rest.next().map(PathBuf::from)),
            "-C" => conf.unread.push("paths after -C".into()),
            // Only file names follow.
            "--" => named.extend(rest.by_ref().map(PathBuf::from)),
            _ => {}
        }
    }
    conf.file = named.first().cloned().unwrap_or_default();
    let files: Vec<_> = named
        .into_iter()
        .flat_map(|path| if path.is_dir() { conf.files(&path.join("*.cfg")) } else { vec![path] })
        .collect();
    let (mut certificates, mut keys) = (PathBuf::new(), PathBuf::new());
    for file in files {
        let Some(text) = conf.text(&file) else { continue };
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
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
                                conf.add(KeySource::File(keys.join(key)), Some(certificates.join(crt)))
                            }
                            None => pem(conf, &certificates.join(crt)),
                        }
                    }
                    for list in of("crt-list", &words) {
                        let Some(text) = conf.text(Path::new(&list)) else { continue };
                        let first = text.lines().filter_map(|line| line.split_whitespace().next());
                        let named: Vec<_> =
                            first.filter(|word| !word.starts_with('#')).map(str::to_owned).collect();
                        for crt in named {
                            pem(conf, &certificates.join(crt));
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Adds a PEM file, or all files of a directory. The key may be in a file of the same name with
/// `.key` appended.
fn pem(conf: &mut ServerConf, path: &Path) {
    if path.is_dir() {
        let found = conf.files(&path.join("*"));
        let is_other = |path: &PathBuf| {
            path.extension()
                .is_some_and(|one| ["key", "ocsp", "issuer", "sctl"].iter().any(|other| one == *other))
        };
        for file in found.into_iter().filter(|path| !is_other(path)) {
            pem(conf, &file);
        }
        return;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".key");
    let key = if Path::new(&beside).exists() { beside.into() } else { path.to_owned() };
    conf.add(KeySource::File(key), Some(path.to_owned()));
}

#[cfg(test)]
mod tests {
    use crate::cli::doctor::server_conf::tests::{pairs, read};

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
}
