//! The configurations of Postfix and Dovecot.

use std::path::{Path, PathBuf};

use super::conf::{KeySource, MailEnvironment, ServerConf, option};

/// Reads the main.cf of a Postfix.
pub(super) fn read_postfix(conf: &mut ServerConf, main_cf: &Path) {
    conf.file = main_cf.to_owned();
    let text = conf.text(main_cf).unwrap_or_default();
    // A line that begins with a blank continues the line before.
    let lines: Vec<_> =
        text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect();
    let text = lines.join("\n").replace("\n ", " ").replace("\n\t", " ");
    let settings: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect();
    let value = |name: &str| settings.iter().rev().find(|(other, _)| *other == name).map(|(_, value)| *value);
    conf.mail = Some(MailEnvironment::parse("postfix", value("import_environment").unwrap_or_default()));
    for server in ["smtpd", "smtp", "lmtp", "tlsproxy"] {
        for kind in ["", "ec"] {
            let certificate = value(&format!("{server}_tls_{kind}cert_file"));
            let key = value(&format!("{server}_tls_{kind}key_file"));
            let is_file = |value: &&str| !value.is_empty() && !value.contains('$');
            if let Some(key) = key.or(certificate).filter(is_file) {
                conf.add(KeySource::File(key.into()), certificate.filter(is_file).map(PathBuf::from));
            }
        }
    }
}

/// Reads the files of a Dovecot with this command line.
pub(super) fn read_dovecot(conf: &mut ServerConf, words: &[String]) {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    conf.file = PathBuf::from(option(&words, "-c").unwrap_or("/etc/dovecot/dovecot.conf"));
    let (mut imported, mut certificates, mut keys) = (String::new(), Vec::new(), Vec::new());
    let mut rest = vec![conf.file.clone()];
    while let Some(path) = rest.pop() {
        let Some(text) = conf.text(&path) else { continue };
        let mut included = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let line = line.rsplit('{').next().unwrap_or_default().trim();
            if let Some(pattern) = line.strip_prefix("!include_try").or(line.strip_prefix("!include")) {
                included.extend(conf.files(&path.with_file_name(pattern.trim())));
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
        // The first included file is read next.
        rest.extend(included.into_iter().rev());
    }
    conf.mail = Some(MailEnvironment::parse("dovenull", &imported));
    for (number, key) in keys.into_iter().enumerate() {
        conf.add(KeySource::File(key), certificates.get(number).cloned());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::doctor::processes::Process;
    use crate::cli::doctor::server_conf::{self, ConfiguredKey};

    #[test]
    fn keys_and_environment_of_mail_servers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let main_cf = path.join("main.cf");
        let keys = |conf: &ServerConf| {
            let key = |key: &ConfiguredKey| match &key.source {
                KeySource::File(file) => {
                    format!("{} {}", file.display(), key.certificate.as_deref().unwrap().display())
                }
                KeySource::Label(label) => label.clone(),
            };
            conf.keys.iter().map(key).collect::<Vec<_>>()
        };
        fs::write(
            &main_cf,
            "smtpd_tls_cert_file=/a.crt\n# no\nsmtpd_tls_key_file =\n  /a.pem\nsmtp_tls_eccert_file = /both.pem\n\
             smtp_tls_cert_file = $smtpd_tls_cert_file\nimport_environment = MAIL_CONFIG TZ\n\tOPENSSL_CONF=/o.cnf, KEYWARD_SOCKET\n",
        )
        .unwrap();
        let mut conf = ServerConf::default();
        read_postfix(&mut conf, &main_cf);
        assert_eq!(keys(&conf), ["/a.pem /a.crt", "/both.pem /both.pem"]);
        let mail = conf.mail.unwrap();
        assert_eq!(mail.value("OPENSSL_CONF", Some("/other")), Some("/o.cnf"));
        assert_eq!(mail.value("KEYWARD_SOCKET", Some("@keyward")), Some("@keyward"));
        assert_eq!(mail.value("OPENSSL", None), None);

        let dovecot_conf = path.join("dovecot.conf");
        fs::create_dir(path.join("conf.d")).unwrap();
        fs::write(&dovecot_conf, "!include conf.d/*.conf\n!include_try local.conf\n!include_try none.conf\n")
            .unwrap();
        fs::write(path.join("conf.d/10.conf"), "ssl_cert = </d.crt\nssl_key = </d.key\n#ssl_key = </no\n")
            .unwrap();
        fs::write(
            path.join("local.conf"),
            "import_environment = $import_environment OPENSSL_CONF=/o.cnf\nlocal_name a {\n ssl_key = < /l.pem\n ssl_cert = </l.crt\n}\n",
        )
        .unwrap();
        let words = ["/usr/sbin/dovecot", "-F", "-c", dovecot_conf.to_str().unwrap()].map(str::to_owned);
        let conf = server_conf::read(&Process::of_words("dovecot", words.into())).unwrap();
        assert_eq!(keys(&conf), ["/d.key /d.crt", "/l.pem /l.crt"]);
        assert_eq!(conf.mail.unwrap().value("OPENSSL_CONF", None), Some("/o.cnf"));
        assert!(server_conf::read(&Process::of_words("master", vec!["/opt/master".into()])).is_none());
    }
}
