//! The configuration of nginx.

use std::path::Path;

use super::conf::{KeySource, ServerConf, label, option};
use crate::servers::nginx::{DUMP, NginxConf};

/// Reads the files of an nginx with this command line.
pub(super) fn read(conf: &mut ServerConf, words: &[String]) {
    // nginx sets its title to "nginx: master process /usr/sbin/nginx -c FILE".
    let words: Vec<_> = words.iter().flat_map(|word| word.split_whitespace()).collect();
    let file = Path::new(option(&words, "-c").unwrap_or("/etc/nginx/nginx.conf"));
    let prefix = Path::new(option(&words, "-p").unwrap_or("/usr/share/nginx"));
    conf.file = prefix.join(file);
    let base = conf.file.parent().unwrap_or(Path::new("/")).to_owned();
    let mut rest = vec![conf.file.clone()];
    while let Some(path) = rest.pop() {
        let Some(text) = conf.text(&path) else { continue };
        conf.dump += &format!("{DUMP}{}:\n{text}\n", path.display());
        let directives = NginxConf::parse(&text).directives;
        let named = |name: &'static str, value: usize| {
            directives.iter().filter_map(move |one| {
                let [first, rest @ ..] = &*one.words else { return None };
                (first == name && value < rest.len()).then(|| (one.within.last().copied(), &*rest[value]))
            })
        };
        for (_, pattern) in named("include", 0) {
            let found = conf.files(&base.join(pattern));
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
                // The first key of a block belongs to its first certificate.
                let at = certificates.iter().position(|(other, _)| *other == block);
                let file = at.map(|at| certificates.remove(at).1).filter(|file| !file.contains('$'));
                let certificate = file.filter(|file| !file.starts_with("data:")).map(|file| base.join(file));
                match label(value) {
                    Some(label) => conf.add(KeySource::Label(label), certificate),
                    None if value.contains('$') || value.starts_with("data:") => {
                        conf.unread.push(format!("{key} {value}"));
                    }
                    None => conf.add(KeySource::File(base.join(value)), certificate),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::doctor::server_conf::tests::{pairs, read};

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
}
