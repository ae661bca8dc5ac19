//! Pages of docs/ about programs without a server in the tests: their steps run on a copy of the
//! machine.

use std::path::Path;

use keyward_tests::leave_out;
use keyward_tests::machine::run_in_copy;
use keyward_tests::server::Page;
use keyward_tests::tool::stderr;

/// A machine with Keyward as a separate user, and the grants of a page. `handshake` is a shell
/// function with the arguments of `openssl s_client`. `without_daemon` runs a command while there
/// is no daemon.
pub(crate) const MACHINE: &str = r#"
rm -rf /etc/keyward /var/lib/keyward
id keyward >/dev/null 2>&1 || useradd --system --user-group keyward
install -m 755 target/release/keyward /usr/bin/
install -m 644 target/release/libkeyward_openssl.so "$(openssl version -m | sed 's/.*"\(.*\)"/\1/')/keyward.so"
install -d -m 755 /etc/keyward
install -d -m 755 -o keyward -g keyward /run/keyward
install -d -m 700 -o keyward -g keyward /var/lib/keyward
install -m 644 conf/openssl.cnf /etc/keyward/
cat >/etc/keyward/keyward.toml <<'END'
log = "debug"
GRANTS
END
serve() {
	setpriv --reuid keyward --regid keyward --init-groups keyward serve --dev >>/tmp/daemon.log 2>&1 &
	daemon=$!
	for _ in $(seq 500); do ! keyward key list >/dev/null 2>&1 || break; sleep 0.02; done
}
until_open() {
	for _ in $(seq 500); do ! openssl s_client "$@" </dev/null 2>&1 | grep -q CONNECTED || break; sleep 0.02; done
}
handshake() {
	until_open "$@"
	openssl s_client -brief -CAfile /etc/ssl/shop.crt "$@" </dev/null 2>&1 | grep -q 'Verification: OK'
}
refuse() {
	if "$@"; then
		echo "this should have failed: $*"
		exit 1
	fi
}
without_daemon() {
	kill "$daemon"
	wait "$daemon"
	refuse "$@"
	serve
}
serve
"#;

/// A key on such a machine, which has a certificate.
const KEY: &str = r#"
cd /tmp
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2 -keyout old.key \
	-out /etc/ssl/shop.crt 2>/dev/null
keyward key import shop --in old.key >/dev/null
keyward key reference shop >/etc/keyward/shop.pem
"#;

/// Runs a script on such a machine. Its output contains the log line that the page shows.
fn run_page(page: Option<&Page>, grants: &str, program: &str, script: &str) {
    if !Path::new(program).exists() {
        leave_out(&format!("needs {program}, which is not installed"));
        return;
    }
    let output = run_in_copy(&format!("{}{KEY}{script}", MACHINE.replace("GRANTS", grants)));
    let Some(output) = output else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{script}\n{text}{}", output.status, stderr(&output));
    assert!(page.is_none_or(|page| page.find_in_log(&text).is_some()), "{text}");
}

/// An administrator who follows a page from the top has no downtime: the daemon has the grant
/// before the server asks for a signature.
#[test]
fn pages_reload_the_daemon_before_they_restart_a_server() {
    for name in ["nginx", "haproxy", "apache", "lighttpd", "stunnel", "mail", "postgresql"] {
        let page = Page::read(name);
        let at = |words: &str| page.text().find(words).unwrap_or_else(|| panic!("no {words:?} in {name}.md"));
        // The restart of the daemon's socket comes first, in the same line.
        let restart = page.text().rmatch_indices("systemctl restart ").last().unwrap().0;
        assert!(at("[[grant]]") < at("keyward serve --check-config"), "{name}");
        assert!(at("keyward serve --check-config") < restart, "{name}");
    }
    let page = Page::read("convert");
    let (_, by_hand) = page.text().split_once("\n## By hand\n").unwrap();
    let steps =
        ["key import", "key reference", "systemctl reload keyward", "keyward doctor", "keyward env nginx -t"];
    let order: Vec<_> = steps.iter().map(|words| by_hand.find(words).unwrap()).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert!(*order.last().unwrap() < by_hand.find("kill -USR2").unwrap());
}

fn mail() -> (Page, String) {
    let page = Page::read("mail");
    let grants = format!("{}[socket]\nalso = [\"@keyward\"]\n", page.block("[[grant]]"));
    (page, grants)
}

#[test]
fn postfix() {
    let (page, grants) = mail();
    let script = format!(
        "touch /etc/postfix/main.cf; cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf\n\
         postconf -e compatibility_level=3.6 inet_interfaces=loopback-only myhostname=localhost alias_maps= \
             smtpd_tls_security_level=may maillog_file=/var/log/mail.log \
             smtpd_tls_cert_file=/etc/ssl/shop.crt smtpd_tls_key_file=/etc/keyward/shop.pem\n\
         smtp='-starttls smtp -connect 127.0.0.1:25'\n\
         : >/var/log/mail.log\n\
         OPENSSL_CONF=/etc/keyward/openssl.cnf postfix start 2>/dev/null\n\
         refuse handshake $smtp\n\
         refuse keyward doctor >/tmp/doctor\n\
         cat /tmp/doctor\n\
         grep '^FAIL .*import_environment has no OPENSSL_CONF: the server cannot load them, and goes on without TLS' /tmp/doctor\n\
         eval \"$(sed -n 's/^ *fix: Postfix clears the environment: \\(postconf .*\\), and restart it$/\\1/p' /tmp/doctor)\"\n\
         postconf -h import_environment | grep ' OPENSSL_CONF=/etc/keyward/openssl.cnf$'\n\
         postfix abort 2>/dev/null\n\
         {}postfix start 2>/dev/null\n\
         handshake $smtp\n\
         keyward doctor >/tmp/doctor || true\n\
         cat /tmp/doctor\n\
         grep '^ok .*: Postfix (process .*with grants for postfix and ' /tmp/doctor\n\
         without_daemon handshake $smtp\n\
         handshake $smtp\n\
         grep 'TLS library problem: error:.*:keyward::daemon unavailable' /var/log/mail.log\n\
         cat /var/log/mail.log\n",
        page.block("postconf -e")
    );
    run_page(Some(&page), &grants, "/usr/sbin/postfix", &script);
}

#[test]
fn dovecot() {
    let (page, grants) = mail();
    let script = format!(
        "printf 'log_path = /tmp/dovecot.log\\n' >/etc/dovecot/local.conf\n\
         cat >>/etc/dovecot/local.conf <<'END'\n{}END\n\
         sed '/import_environment/d' /etc/dovecot/local.conf >/tmp/without\n\
         cat /etc/dovecot/local.conf >/tmp/with\n\
         run() {{ cp /tmp/$1 /etc/dovecot/local.conf; OPENSSL_CONF=/etc/keyward/openssl.cnf dovecot -F & dovecot=$!; }}\n\
         imap='-connect 127.0.0.1:993'\n\
         run without; refuse handshake $imap\n\
         refuse keyward doctor >/tmp/doctor; cat /tmp/doctor\n\
         grep '^FAIL .*import_environment has no OPENSSL_CONF: the server cannot load them$' /tmp/doctor\n\
         kill $dovecot; wait $dovecot\n\
         run with; handshake $imap\n\
         keyward doctor >/tmp/doctor || true; cat /tmp/doctor\n\
         grep '^ok .*: dovecot (process .*with grants for dovenull and ' /tmp/doctor\n\
         without_daemon handshake $imap\n\
         handshake $imap\n\
         grep \"Couldn't parse private SSL key (ssl_key setting) (maybe ssl_key_password is wrong?)\" /tmp/dovecot.log\n\
         grep 'SSL_accept() failed: error:.*:keyward::daemon unavailable' /tmp/dovecot.log\n",
        page.block("ssl_key")
    );
    run_page(None, &grants, "/usr/sbin/dovecot", &script);
}

#[test]
fn postgresql() {
    let page = Page::read("postgresql");
    let conf = page.block("ssl_key_file");
    let script = format!(
        "! pg_lsclusters -h | grep -q '^15 *main' || pg_dropcluster 15 main\n\
         pg_createcluster 15 main >/dev/null\n\
         {}cat >>/etc/postgresql/15/main/conf.d/keyward.conf <<'END'\n{conf}END\n\
         ctl() {{ pg_ctlcluster 15 main $1 >>/tmp/output 2>&1; }}\n\
         refuse ctl start\n\
         cat >>/etc/postgresql/15/main/environment <<'END'\n{}END\n\
         chmod 644 /etc/keyward/shop-postgresql.pem; refuse ctl start\n\
         chmod 640 /etc/keyward/shop-postgresql.pem; ctl start\n\
         db='-starttls postgres -connect 127.0.0.1:5432'\n\
         handshake $db\n\
         without_daemon handshake $db\n\
         ctl reload; handshake $db\n\
         log=/var/log/postgresql/postgresql-15-main.log\n\
         grep 'could not load private key file' $log; grep 'has group or world access' $log\n\
         cat $log\n",
        page.block("install -m 640"),
        page.block("OPENSSL_CONF = "),
    );
    run_page(Some(&page), page.block("[[grant]]"), "/usr/lib/postgresql/15/bin/postgres", &script);
}

#[test]
fn node() {
    let page = Page::read("node");
    let check = "keyward env node -e 'require(\"node:tls\").createSecureContext({ key: \
                 require(\"node:fs\").readFileSync(\"/etc/keyward/shop.pem\") })'";
    assert!(page.text().contains(check));
    let service = page.block("[Service]");
    let variables: Vec<_> = service.lines().filter_map(|line| line.strip_prefix("Environment=")).collect();
    let [conf, modules] = variables[..] else { panic!("{variables:?}") };
    let start = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let script = format!(
        "cat >/usr/local/lib/shop.js <<'END'\n{}END\n\
         export {modules}\n\
         {check}\n\
         refuse {} 2>/tmp/refused; grep -q 'DECODER routines::unsupported' /tmp/refused\n\
         {conf} setpriv --reuid www-data --regid www-data --clear-groups --inh-caps +net_bind_service \
             --ambient-caps +net_bind_service {start} 2>/tmp/shop.log & node=$!\n\
         handshake -connect 127.0.0.1:443\n\
         without_daemon handshake -connect 127.0.0.1:443\n\
         handshake -connect 127.0.0.1:443\n\
         kill -HUP $node; handshake -connect 127.0.0.1:443\n\
         cat /tmp/shop.log\n",
        page.block("createServer"),
        check.strip_prefix("keyward env ").unwrap(),
    );
    run_page(Some(&page), page.block("[[grant]]"), "/usr/bin/node", &script);
}
