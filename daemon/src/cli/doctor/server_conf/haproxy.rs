//! The configuration of HAProxy.

use std::path::Path;

use super::conf::{KeySource, ServerConf};
use crate::cli::doctor::proc;
use crate::cli::doctor::processes::Process;
use crate::servers::haproxy::{Configuration, Line, Word, certificate_list};

/// Reads the files of an HAProxy with the command line of this process.
pub(super) fn read(conf: &mut ServerConf, main: &Process) {
    let environment = main.environment.clone().unwrap_or_default();
    let directory = proc::directory(main.pid).unwrap_or_else(|| "/".into());
    let found = match Configuration::of_arguments(&main.words, &directory, environment) {
        Ok(found) => found,
        Err(why) => return conf.unread.push(why),
    };
    conf.file = found.files.first().map(|file| file.path.clone()).unwrap_or_default();
    for line in &found.lines {
        match line.keyword() {
            "load" => load(conf, &found, line),
            "bind" | "default-bind" | "server" | "default-server" | "peer" => {
                line.values("crt").for_each(|word| certificates(conf, &found, line, word));
                line.values("crt-list").for_each(|word| list(conf, &found, line, word));
            }
            _ => {}
        }
    }
}

/// The key of a line of a store of certificates.
fn load(conf: &mut ServerConf, found: &Configuration, line: &Line) {
    let [crt, key] = ["crt", "key"].map(|option| line.values(option).last());
    match (crt, key) {
        (Some(crt), Some(key)) if !crt.has_variable && !key.has_variable => {
            let certificate = found.path(line, &crt.text, "crt-base");
            conf.add(KeySource::File(found.path(line, &key.text, "key-base")), Some(certificate));
        }
        (Some(crt), None) => certificates(conf, found, line, crt),
        (_, Some(key)) => conf.unread.push(format!("{}: key {}", found.place(line), key.text)),
        (None, None) => {}
    }
}

/// The keys of a list of certificates.
fn list(conf: &mut ServerConf, found: &Configuration, line: &Line, word: &Word) {
    let path = found.path(line, &word.text, "");
    match certificate_list(&path) {
        Ok(entries) => entries.iter().for_each(|entry| certificates(conf, found, line, &entry.file)),
        Err(why) => conf.unread.push(why),
    }
}

/// The keys of the files that a word names.
fn certificates(conf: &mut ServerConf, found: &Configuration, line: &Line, word: &Word) {
    // A name that begins with @ is one of a store.
    if word.text.starts_with('@') {
        return;
    }
    if word.has_variable {
        return conf.unread.push(format!("{}: crt {}", found.place(line), word.text));
    }
    match found.certificate_files(line, word) {
        Ok(files) if files.is_empty() => {
            // The doctor says that the file is missing.
            pem(conf, found, &found.path(line, &word.text, "crt-base"));
        }
        Ok(files) => files.iter().for_each(|file| pem(conf, found, file)),
        Err(why) => conf.unread.push(why),
    }
}

/// Adds the key of a file of a certificate: in the file, or beside it.
fn pem(conf: &mut ServerConf, found: &Configuration, path: &Path) {
    let beside = found.key_beside(path);
    let key = if beside.exists() { beside } else { path.to_owned() };
    conf.add(KeySource::File(key), Some(path.to_owned()));
}

#[cfg(test)]
mod tests {
    use crate::cli::doctor::server_conf::tests::{pairs, read};

    #[test]
    fn keys_of_haproxy() {
        let (found, unread) = read(
            "haproxy",
            &["haproxy", "-Ws", "-f", "DIR/haproxy.cfg", "-f", "DIR/more"],
            &[
                (
                    "haproxy.cfg",
                    "global\n crt-base DIR\n setenv MORE \"DIR/more certs\"\nfrontend a\n bind :1 ssl crt a.pem crt /b.pem # crt no\n\
                     #bind :1 ssl crt no\n bind :2 ssl crt-list DIR/list\n bind :3 ssl crt DIR/all crt \"${MORE}/e.pem\" crt \"$UNKNOWN\"\n",
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
            ("DIR/more certs/e.pem", "DIR/more certs/e.pem"),
            ("/s.pem", "/s.pem"),
        ];
        assert_eq!(found, pairs(&expected));
        assert_eq!(unread, ["DIR/haproxy.cfg, line 8: crt $UNKNOWN"]);
    }
}
