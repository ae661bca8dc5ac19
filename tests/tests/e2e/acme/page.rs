//! docs/certificates.md, step by step on a copy of the machine, and mistakes that `keyward doctor`
//! finds before the authority does.

use keyward_tests::machine::run_in_copy;
use keyward_tests::tool::stderr;

use super::*;
use crate::pages::MACHINE;

/// The text of a file of the source.
fn source(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// Block of the page, which has these words.
fn block(words: &str) -> String {
    let page = source("docs/certificates.md");
    let (mut blocks, mut block) = (Vec::new(), String::new());
    for line in page.lines() {
        match line.strip_prefix("    ") {
            Some(line) => block += &format!("{line}\n"),
            None => blocks.push(std::mem::take(&mut block)),
        }
    }
    blocks.into_iter().find(|block| block.contains(words)).unwrap_or_else(|| panic!("no {words:?}"))
}

/// The steps of the page for a server. The authority is pebble, which finds every name on this
/// machine, with the challenges at port 80. `systemctl` starts units as their files say.
const BEGIN: &str = r#"
cd "$source"
mkdir -p /tmp/pebble && cd /tmp/pebble
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=Test CA' -days 2 \
	-addext basicConstraints=critical,CA:true -keyout ca.key -out ca.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout tls.key -out tls.csr 2>/dev/null
printf 'subjectAltName=DNS:localhost\n' >ext
openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -days 2 -extfile ext -out tls.pem 2>/dev/null
cat >pebble.json <<'END'
{"pebble":{"listenAddress":"127.0.0.1:14000","managementListenAddress":"127.0.0.1:15000","certificate":"/tmp/pebble/tls.pem",
"privateKey":"/tmp/pebble/tls.key","httpPort":80,"certificateValidityPeriod":7776000}}
END
chmod 755 . && chmod 644 ca.pem
pebble-challtestsrv -defaultIPv6 "" -http01 "" -https01 "" -tlsalpn01 "" -dns01 127.0.0.1:53 \
	-management 127.0.0.1:8055 >names.log 2>&1 &
PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 pebble -config pebble.json -strict -dnsserver 127.0.0.1:53 >pebble.log 2>&1 &
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
until_done() {
	for _ in $(seq 1500); do ! "$@" >/dev/null 2>&1 || return 0; sleep 0.02; done
	echo "in vain: $*"
	cat /tmp/*.log
	return 1
}
until_done curl --silent --fail --cacert ca.pem https://localhost:15000/roots/0
curl --silent --fail --cacert ca.pem https://localhost:15000/roots/0 >root.pem
cat >>/etc/keyward/keyward.toml <<'END'
[ca.pebble]
directory = "https://localhost:14000/dir"
root = "/tmp/pebble/ca.pem"
END
# As systemctl enable --now does.
systemctl() {
	for unit in keyward-acme keyward-deploy; do
		file=/etc/systemd/system/$unit.service
		user=$(sed -n 's/^User=//p' "$file")
		env $(sed -n 's/^Environment=//p' "$file") setpriv --reuid "${user:-root}" --regid "${user:-root}" --init-groups \
			$(sed -n 's/^ExecStart=//p' "$file") >>"/tmp/$unit.log" 2>&1 &
		eval "$(echo "$unit" | tr - _)=$!"
	done
}
found() {
	keyward doctor >/tmp/doctor || true
	grep -A1 "^FAIL *renewal: .*$1" /tmp/doctor || { cat /tmp/doctor; echo "not found: $1"; return 1; }
}
not_found() {
	keyward doctor >/tmp/doctor || true
	! grep "$1" /tmp/doctor
}
names() {
	curl --silent --fail --data "$2" "http://127.0.0.1:8055/$1"
}
is_served() {
	keyward cert status shop | grep -q '^served  *yes'
}
cd "$source"
"#;

fn run(server: &str, user: &str, more: &str) {
    let steps = block("install -m 755 target/dist/keyward-acme").replace("target/dist/", "target/release/");
    let steps = steps.replace("keyward cert plan shop", "keyward cert plan shop --ca pebble");
    assert_eq!(steps.lines().count(), 5, "five commands");
    let plan =
        block(&format!("--for {server}")).lines().find(|line| line.contains("cert plan")).unwrap().to_owned();
    let plan = plan.replace("keyward cert plan shop", "keyward cert plan shop --ca pebble");
    let grant = source("docs/certificates.md");
    let grant = grant.split("```toml\n[[grant]]").nth(1).unwrap().split("```").next().unwrap();
    let grants = format!("[[grant]]{}", grant.replace("www-data", user));
    let (before, rest) = steps.split_at(steps.find("keyward cert plan").unwrap());
    let last = rest.lines().nth(1).unwrap();
    let script = format!(
        "source=$(pwd)\n{}{BEGIN}{before}{plan} >/tmp/told\ncat /tmp/told\n{}",
        MACHINE.replace("GRANTS", &grants),
        more.replace("LAST", last)
    );
    let Some(output) = run_in_copy(&script) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}{}", output.status, stderr(&output));
}

#[test]
fn five_commands_for_nginx_and_mistakes_that_the_doctor_finds() {
    run(
        "nginx",
        "www-data",
        r#"
# Nothing runs yet.
found 'no agent has asked the daemon for work'
found 'no deployer has looked'
found 'http://www.shop.example/.well-known/acme-challenge/ does not answer the authority: Connection refused'
LAST
# The deployer has looked, and nothing listens.
until_done found 'the listener 127.0.0.1:443 does not show the certificate: Connection refused'
# The DNS does not know the names.
names set-default-ipv4 '{"ip": ""}'
found 'this host finds no address of shop.example'
names set-default-ipv4 '{"ip": "127.0.0.1"}'
# Records of the DNS that admit another authority.
names add-caa '{"host": "shop.example.", "policies": [{"tag": "issue", "value": "other.example"}]}'
found 'the CAA records of shop.example admit "other.example", and not localhost by http-01 for www.shop.example'
names clear-caa '{"host": "shop.example."}'
not_found CAA
# A resolver that validates, for a zone whose signatures are broken.
cat >/tmp/unbound.conf <<'END'
server:
 interface: 127.0.0.2
 do-not-query-localhost: no
 chroot: ""
 username: ""
 directory: "/tmp"
 pidfile: "/tmp/unbound.pid"
 use-syslog: no
 trust-anchor: "shop.example. DS 12345 13 2 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
forward-zone:
 name: "."
 forward-addr: 127.0.0.1
remote-control:
 control-enable: no
END
unbound -d -c /tmp/unbound.conf >/tmp/unbound.log 2>&1 &
echo 'nameserver 127.0.0.2' >/etc/resolv.conf
until_done found 'the signatures of shop.example (DNSSEC) are broken'
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
# A program that is not there, and an account key that is none.
keyward cert plan other --ca pebble --names other.example --hook /usr/bin/no-such-hook >/dev/null
found '/usr/bin/no-such-hook: No such file or directory'
keyward key generate wrong --type p384 >/dev/null
sed -i 's/^root = .*/&\naccount-key = "wrong"/' /etc/keyward/keyward.toml
keyward reload >/dev/null
found 'no account at pebble: key wrong cannot be the key of an ACME account'
sed -i '/^account-key/d' /etc/keyward/keyward.toml
keyward reload >/dev/null
# The lines that the command has printed, in nginx.
cat >/etc/nginx/nginx.conf <<END
user www-data;
env OPENSSL_CONF=/etc/keyward/openssl.cnf;
events {}
http {
 server { listen 80; server_name shop.example www.shop.example; $(grep 'location ' /tmp/told) }
 server { listen 443 ssl; server_name shop.example www.shop.example; $(grep '  ssl_' /tmp/told) location / { return 200 "served"; } }
}
END
OPENSSL_CONF=/etc/keyward/openssl.cnf nginx -p /etc/nginx/ -c nginx.conf
# A person need not wait for the next attempt.
keyward cert renew shop --now
until_done is_served
# A worker of before may still take a connection, and shows the placeholder.
one_worker() { test "$(grep -l '^nginx: worker' /proc/[0-9]*/cmdline | wc -l)" = 1; }
until_done one_worker
curl --silent --show-error --cacert /tmp/pebble/root.pem https://www.shop.example/ | grep '^served$'
keyward doctor >/tmp/doctor || true
grep '^ok .*plan shop renews itself, expires' /tmp/doctor || { cat /tmp/doctor; exit 1; }
keyward cert status
"#,
    );
}

#[test]
fn five_commands_for_haproxy() {
    run(
        "haproxy",
        "haproxy",
        r#"
LAST
until_done test -e /etc/keyward/live/shop/combined.pem
cat >/etc/haproxy/haproxy.cfg <<END
global
 user haproxy
 group haproxy
defaults
 mode http
 timeout client 10s
 timeout server 10s
 timeout connect 1s
frontend challenges
 bind :80
 $(grep 'http-request return' /tmp/told)
frontend shop
 bind :443 $(grep 'ssl crt' /tmp/told)
 http-request return status 200 content-type text/plain string served
END
# The same certificate in another way: a list of files, relative to a directory.
echo shop/combined.pem >/etc/haproxy/crt.list
cat >/etc/haproxy/list.cfg <<END
global
 crt-base /etc/keyward/live
defaults
 mode http
 timeout client 10s
 timeout server 10s
 timeout connect 1s
frontend shop
 bind :8443 ssl crt-list /etc/haproxy/crt.list
 http-request return status 200 content-type text/plain string served
END
OPENSSL_CONF=/etc/keyward/openssl.cnf haproxy -W -D -f /etc/haproxy/haproxy.cfg
OPENSSL_CONF=/etc/keyward/openssl.cnf haproxy -W -D -f /etc/haproxy/list.cfg
keyward cert renew shop --now
until_done is_served
shows() {
	openssl s_client -connect "127.0.0.1:$1" -servername shop.example </dev/null 2>/dev/null | openssl x509 -noout -fingerprint
}
same() { test "$(shows 443)" = "$(shows 8443)"; }
until_done same
shows 443 >/tmp/before
keyward cert renew shop --now
until_done sh -c '! keyward cert status shop | grep -q "SHA-256 $(sed "s/.*=//; s/://g" /tmp/before | tr A-F a-f)"'
until_done is_served
other() { test "$(shows 8443)" != "$(cat /tmp/before)"; }
until_done other
until_done same
curl --silent --show-error --cacert /tmp/pebble/root.pem https://www.shop.example/ | grep '^served$'
keyward doctor >/tmp/doctor || true
grep '^ok .*plan shop renews itself, expires' /tmp/doctor || { cat /tmp/doctor; exit 1; }
"#,
    );
}

/// The authority asks a secondary server of the zone, which gets a new record seconds later.
#[test]
fn secondary_servers_of_a_zone_are_awaited() {
    let begin = BEGIN.replace("-strict -dnsserver 127.0.0.1:53", "-strict -dnsserver 127.0.0.4:53");
    let script = format!("source=$(pwd)\n{}{begin}{SECONDARY}", MACHINE.replace("GRANTS", ""));
    let Some(output) = run_in_copy(&script) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}{}", output.status, stderr(&output));
}

const SECONDARY: &str = r#"
mkdir -p /tmp/primary /tmp/secondary && cd /tmp
secret=$(openssl rand -base64 32)
printf 'key "acme" { algorithm hmac-sha256; secret "%s"; };\n' "$secret" >/tmp/tsig.key && chmod 644 /tmp/tsig.key
cat >/tmp/primary/shop.example.zone <<'END'
$TTL 60
@ SOA ns1.shop.example. admin.shop.example. 1 2 1 600 1
@ NS ns1
@ NS ns2
ns1 A 127.0.0.3
ns2 A 127.0.0.4
@ A 127.0.0.1
END
cat >/tmp/primary/knot.conf <<END
server:
    rundir: "/tmp/primary"
    listen: 127.0.0.3@53
database:
    storage: "/tmp/primary"
key:
  - id: acme
    algorithm: hmac-sha256
    secret: $secret
acl:
  - id: update
    key: acme
    action: update
  - id: transfer
    action: transfer
zone:
  - domain: shop.example
    storage: "/tmp/primary"
    file: shop.example.zone
    acl: [update, transfer]
END
# The secondary asks for changes every two seconds: nobody notifies it.
cat >/tmp/secondary/knot.conf <<'END'
server:
    rundir: "/tmp/secondary"
    listen: 127.0.0.4@53
database:
    storage: "/tmp/secondary"
remote:
  - id: primary
    address: 127.0.0.3@53
zone:
  - domain: shop.example
    storage: "/tmp/secondary"
    master: primary
END
knotd -c /tmp/primary/knot.conf >/tmp/primary.log 2>&1 &
knotd -c /tmp/secondary/knot.conf >/tmp/secondary.log 2>&1 &
until_done sh -c 'dig +short @127.0.0.4 ns2.shop.example | grep 127.0.0.4'
names add-a '{"host": "ns1.shop.example.", "addresses": ["127.0.0.3"]}'
names add-a '{"host": "ns2.shop.example.", "addresses": ["127.0.0.4"]}'
cd "$source"
install -m 755 target/release/keyward-acme target/release/keyward-deploy /usr/bin/
install -m 644 conf/systemd/keyward-acme.service conf/systemd/keyward-deploy.service /etc/systemd/system/
systemd-sysusers "$PWD/conf/systemd/keyward.sysusers"
keyward cert plan shop --ca pebble --names '*.shop.example' --dns-server 127.0.0.3:53 --dns-key /tmp/tsig.key
systemctl enable --now keyward-acme keyward-deploy
until_done sh -c 'keyward cert status | grep "^ *shop *valid"'
grep -c 'step="new-order"' /tmp/daemon.log | grep '^1$'
"#;
