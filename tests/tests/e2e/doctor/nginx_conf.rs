//! Mistakes in an nginx.conf: the environment of workers, and the versions of TLS.

use std::fs;

use super::{Finding, Scene, doctor};

#[test]
fn nginx_conf_does_not_pass_the_variable_on() {
    let scene = Scene::new();
    let conf = scene.conf("", "");
    let path = scene.daemon.path("nginx.conf");
    let find = |text: &str| {
        fs::write(
            &path,
            format!("user www-data;\n{text}\nevents {{ }}\nhttp {{ server {{ listen 1; }} }}\n"),
        )
        .unwrap();
        let mut found =
            doctor(&scene.daemon, "nginx.conf", &[&"--openssl-conf", &conf, &"--nginx-conf", &path]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    };
    assert_eq!(find("env OPENSSL_CONF;")[0], "ok");
    let put = "put env OPENSSL_CONF; at the top";
    for (text, verdict, told, what) in [
        ("", "warn", "does not pass OPENSSL_CONF on", put),
        ("# env OPENSSL_CONF;", "warn", "does not pass OPENSSL_CONF on", put),
        ("env OPENSSL_CONF_OTHER;", "warn", "does not pass OPENSSL_CONF on", put),
        ("include modules/*.conf;", "warn", "include is not followed", put),
        ("env OPENSSL_CONF=/etc/other.cnf;", "fail", "another file", put),
        // keyward protect writes this line, which stays.
        (
            &format!("env OPENSSL_CONF={};", conf.display()),
            "warn",
            "not for nginx itself",
            "for the service of nginx, and restart it",
        ),
    ] {
        let [found, detail, fix] = find(text);
        assert!(found == verdict && detail.contains(told), "{text}: {found}: {detail}");
        assert!(fix.contains(what), "{text}: {fix}");
    }
}

#[test]
fn nginx_conf_tells_which_use_is_needed() {
    let scene = Scene::new();
    let path = scene.daemon.path("nginx.conf");
    let find = |http: &str, server: &str| {
        let text = format!(
            "events {{ }}\nhttp {{ {http} server {{ listen 1 ssl; ssl_certificate a; {server} }} }}\n"
        );
        fs::write(&path, text).unwrap();
        doctor(&scene.daemon, "nginx.conf uses", &[&"--nginx-conf", &path])
    };
    for (http, server, verdict, told, fixes) in [
        ("ssl_protocols TLSv1.2 TLSv1.3;", "", "ok", "tls-server signs", ""),
        (
            "ssl_protocols TLSv1.3;",
            "ssl_protocols TLSv1.3;",
            "ok",
            "tls13-server is enough for key and grant",
            "",
        ),
        ("", "", "warn", "has no ssl_protocols", "write ssl_protocols TLSv1.2 TLSv1.3;"),
        (
            "ssl_protocols TLSv1.2 TLSv1.3;",
            "ssl_protocols TLSv1.2;",
            "warn",
            "without TLS 1.3",
            "tls12-server",
        ),
    ] {
        let found = find(http, server);
        let [[found, detail, fix]] = &found[..] else { panic!("{found:#?}") };
        assert!(found == verdict && detail.contains(told) && fix.contains(fixes), "{found}: {detail}: {fix}");
    }
    let found = find("ssl_protocols TLSv1.2 TLSv1.3;", "ssl_dhparam /etc/ssl/dh.pem;");
    assert!(
        found.len() == 2 && found[1][0] == "warn" && found[1][2].contains("tls12-dhe-server"),
        "{found:#?}"
    );
    let warned = |text: &str| -> Vec<Finding> {
        fs::write(&path, format!("events {{ }}\n{text}\n")).unwrap();
        let found = doctor(&scene.daemon, "nginx.conf uses", &[&"--nginx-conf", &path]);
        assert!(found.iter().all(|[verdict, ..]| verdict == "warn"), "{text}: {found:#?}");
        found
    };
    let both = "ssl_protocols TLSv1.2 TLSv1.3;";
    let server = |more: &str| format!("server {{ listen 1 ssl; {more} location / {{ return 200; }} }}");
    for (text, told) in [
        // The first server is the default server. Before nginx 1.29.2, its TLS versions count for
        // all.
        (format!("http {{ {} {} }}", server(""), server(both)), "a server without ssl_protocols"),
        (format!("http {{ {} {} }}", server(both), server("")), "a server without ssl_protocols"),
        (
            format!("http {{ {both} {} }}", server("ssl_conf_command MaxProtocol TLSv1.2;")),
            "without TLS 1.3 (ssl_conf_command MaxProtocol TLSv1.2)",
        ),
        (
            format!("http {{ {both} ssl_conf_command Protocol -TLSv1.3; {} }}", server("")),
            "Protocol -TLSv1.3",
        ),
        (
            format!("http {{ ssl_protocols TLSv1.3; include site.conf; {} }}", server("")),
            "includes site.conf, which is not read",
        ),
        (
            format!(
                "http {{ ssl_protocols TLSv1.3; include a; }}\n# configuration file a:\n{} {}",
                server(""),
                server("ssl_protocols TLSv1.2;")
            ),
            "without TLS 1.3 (ssl_protocols TLSv1.2)",
        ),
    ] {
        let found = warned(&text);
        assert!(found.len() == 1 && found[0][1].contains(told), "{text}: {found:#?}");
    }
    let found = warned("http { include mime.types; include sites/*; ssl_protocols TLSv1.2; }");
    assert!(found.len() == 2 && found[0][1].contains("includes sites/*"), "{found:#?}");
    assert!(found[0][2].contains("nginx -T > FILE; keyward doctor --nginx-conf FILE"), "{found:#?}");
    assert!(found[1][1].contains("without TLS 1.3"), "{found:#?}");

    fs::write(&path, "events { }\nhttp { server { listen 1; } }\n").unwrap();
    assert_eq!(doctor(&scene.daemon, "nginx.conf uses", &[&"--nginx-conf", &path]).len(), 0, "no TLS");
}
