//! The key files that the configurations of servers name, whether the servers run or not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::processes::{self, Process};
use super::server_conf::{self, KeySource};

/// The key files of a configuration.
pub(in crate::cli) struct Configured {
    /// The server and its configuration, for people.
    pub(in crate::cli) server: String,
    pub(in crate::cli) files: BTreeSet<PathBuf>,
    /// Parts that were not read, with the reasons.
    pub(in crate::cli) unread: Vec<String>,
}

/// Reads the configurations of the servers that run, and the usual ones of servers that do not run.
pub(in crate::cli) fn configured_keys() -> Vec<Configured> {
    let running = processes::find().servers.into_iter().map(|server| server.main);
    let running = running.filter(|main| main.is_trusted);
    let usual = USUAL.iter().filter(|(_, file, _)| Path::new(file).is_file());
    let usual = usual.map(|(name, _, words)| {
        Process::of_words(name, words.iter().map(|word| (*word).to_owned()).collect())
    });
    read(usual.chain(running))
}

fn read(servers: impl Iterator<Item = Process>) -> Vec<Configured> {
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for main in servers {
        let Some(conf) = server_conf::read(&main) else { continue };
        if !seen.insert(conf.file.clone()) {
            continue;
        }
        let files = conf.keys.into_iter().filter_map(|key| match key.source {
            KeySource::File(path) => Some(path),
            KeySource::Label(_) => None,
        });
        all.push(Configured {
            server: format!("{} ({})", title(&main.name), conf.file.display()),
            files: files.collect(),
            unread: conf.unread,
        });
    }
    all
}

/// Name of a server, for people.
fn title(name: &str) -> &str {
    match name {
        "haproxy" => "HAProxy",
        "apache2" | "httpd" => "Apache",
        "master" => "Postfix",
        "dovecot" => "Dovecot",
        name => name,
    }
}

/// The usual configurations of servers: name of the program, file, and command line.
const USUAL: [(&str, &str, &[&str]); 5] = [
    ("nginx", "/etc/nginx/nginx.conf", &["nginx"]),
    ("haproxy", "/etc/haproxy/haproxy.cfg", &["haproxy", "-f", "/etc/haproxy/haproxy.cfg"]),
    ("apache2", "/etc/apache2/apache2.conf", &["apache2"]),
    ("master", "/etc/postfix/main.cf", &["/usr/lib/postfix/sbin/master"]),
    ("dovecot", "/etc/dovecot/dovecot.conf", &["dovecot"]),
];

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_configuration_is_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().canonicalize().unwrap().join("nginx.conf");
        fs::write(&file, "ssl_certificate_key /a.key; ssl_certificate_key store:keyward:b;").unwrap();
        let nginx = || Process::of_words("nginx", vec![format!("nginx -c {}", file.display())]);
        let all = read([nginx(), nginx()].into_iter());
        let [one] = all.as_slice() else { panic!("{}", all.len()) };
        assert_eq!(one.server, format!("nginx ({})", file.display()));
        assert_eq!(one.files, BTreeSet::from(["/a.key".into()]));
    }
}
