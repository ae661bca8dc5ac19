//! The configuration of Apache.

use std::path::PathBuf;

use super::conf::{KeySource, ServerConf, label, option};
use crate::cli::doctor::processes::Process;
use crate::servers::apache;

/// Reads the files of an Apache with the command line of this process.
pub(super) fn read(conf: &mut ServerConf, main: &Process) {
    let words: Vec<_> = main.words.iter().map(String::as_str).collect();
    let is_debian = main.name == "apache2";
    let default = if is_debian { "/etc/apache2" } else { "/etc/httpd" };
    let mut root = PathBuf::from(option(&words, "-d").unwrap_or(default));
    let file = if is_debian { "apache2.conf" } else { "conf/httpd.conf" };
    conf.file = root.join(option(&words, "-f").unwrap_or(file));
    let mut rest = vec![conf.file.clone()];
    while let Some(path) = rest.pop() {
        let Some(text) = conf.text(&path) else { continue };
        let (mut certificates, mut keys) = (Vec::new(), Vec::new());
        for line in text.replace("\\\n", " ").lines().chain(["</VirtualHost>"]) {
            let words = apache::words(line);
            let Some(name) = words.first() else { continue };
            let value = words.get(1).map(String::as_str).unwrap_or_default();
            let is_known = !value.contains("${");
            match &*name.to_ascii_lowercase() {
                "serverroot" if is_known => root = value.into(),
                "include" | "includeoptional" if is_known => {
                    let pattern = root.join(value);
                    let pattern = if pattern.is_dir() { pattern.join("*") } else { pattern };
                    rest.extend(conf.files(&pattern));
                }
                "sslcertificatefile" if is_known => certificates.push(value.to_owned()),
                "sslcertificatekeyfile" if is_known => keys.push(value.to_owned()),
                "sslcertificatefile" | "sslcertificatekeyfile" | "include" | "includeoptional" => {
                    conf.unread.push(format!("{name} {value}"));
                }
                "<virtualhost" | "</virtualhost>" => {
                    let certificates = core::mem::take(&mut certificates);
                    let keys = core::mem::take(&mut keys);
                    for (number, certificate) in certificates.iter().enumerate() {
                        // Without SSLCertificateKeyFile, the key is in the file of the certificate.
                        let key = keys.get(number).unwrap_or(certificate);
                        let key =
                            label(key).map_or_else(|| KeySource::File(root.join(key)), KeySource::Label);
                        conf.add(key, Some(root.join(certificate)).filter(|_| label(certificate).is_none()));
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::doctor::server_conf::tests::{pairs, read};

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
                    "<VirtualHost *:443>\n SSLCertificateFile a.crt\n sslcertificatekeyfile \\\n  a.pem\n\
                     </VirtualHost>\n# SSLCertificateFile no\n<VirtualHost *:443>\nSSLCertificateFile \"/both of them.pem\"\n</VirtualHost>\n",
                ),
            ],
        );
        assert_eq!(found, pairs(&[("DIR/a.pem", "DIR/a.crt"), ("/both of them.pem", "/both of them.pem")]));
        assert_eq!(unread, ["Include ${X}/y"]);
    }
}
