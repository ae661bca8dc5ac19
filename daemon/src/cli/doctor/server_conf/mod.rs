//! The keys that the configurations of nginx, HAProxy, Apache, Postfix and Dovecot name.
//!
//! The files are parsed without running these programs. Conditions are not evaluated, and no
//! variables but those of HAProxy.
//! A file that others than root and this user can change is not followed.

mod apache;
mod conf;
mod haproxy;
mod mail;
mod nginx;

use std::path::Path;

pub(super) use conf::{ConfiguredKey, KeySource, MailEnvironment, ServerConf};

use super::processes::Process;

/// Reads the configuration that a server was started with; `None` for a program whose configuration
/// is unknown here.
pub(super) fn read(main: &Process) -> Option<ServerConf> {
    let mut conf = ServerConf::default();
    match &*main.name {
        "nginx" => nginx::read(&mut conf, &main.words),
        "haproxy" => haproxy::read(&mut conf, main),
        "apache2" | "httpd" => apache::read(&mut conf, main),
        // Other programs have the name master, too.
        "master" if main.words.first()?.contains("postfix") => {
            mail::read_postfix(&mut conf, Path::new("/etc/postfix/main.cf"));
        }
        "dovecot" => mail::read_dovecot(&mut conf, &main.words),
        _ => return None,
    }
    conf.unread.truncate(MOST_UNREAD);
    Some(conf)
}

/// Maximum number of unread parts that are kept.
const MOST_UNREAD: usize = 5;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Keys and unread parts for a command line and files, in which DIR stands for their directory.
    pub(super) fn read(
        name: &str,
        words: &[&str],
        files: &[(&str, &str)],
    ) -> (Vec<(String, String)>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let here = path.display().to_string();
        for (file, text) in files {
            fs::create_dir_all(path.join(file).parent().unwrap()).unwrap();
            fs::write(path.join(file), text.replace("DIR", &here)).unwrap();
        }
        let words = words.iter().map(|word| word.replace("DIR", &here)).collect::<Vec<_>>();
        let main = Process::of_words(name, words);
        let conf = super::read(&main).unwrap();
        let shown = |path: &Path| path.display().to_string().replace(&here, "DIR");
        let pair = |key: &ConfiguredKey| {
            let shown_key = match &key.source {
                KeySource::File(path) => shown(path),
                KeySource::Label(label) => format!("label {label}"),
            };
            (shown_key, key.certificate.as_deref().map(shown).unwrap_or_default())
        };
        (
            conf.keys.iter().map(pair).collect(),
            conf.unread.iter().map(|one| one.replace(&here, "DIR")).collect(),
        )
    }

    pub(super) fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, certificate)| ((*key).to_owned(), (*certificate).to_owned())).collect()
    }

    #[test]
    fn a_file_that_others_can_change_is_not_followed() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nginx.conf");
        fs::write(&path, "ssl_certificate_key a;").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let words = vec![format!("nginx: master process nginx -c {}", path.display())];
        let conf = super::read(&Process::of_words("nginx", words)).unwrap();
        assert!(
            conf.keys.is_empty() && conf.unread[0].contains("others than its owner can write"),
            "{conf:?}"
        );
        let words = vec!["nginx: master process nginx -c /dev/zero".to_owned()];
        assert!(super::read(&Process::of_words("nginx", words)).unwrap().keys.is_empty());
    }
}
