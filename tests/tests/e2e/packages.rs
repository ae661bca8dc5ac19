//! The Debian packages, installed on a copy of this machine: from there to a protected site in
//! three commands, and away again with the keys left.

use std::path::Path;
use std::process::Command;

use keyward_tests::machine::run_in_copy;
use keyward_tests::tool::{stderr, succeed};

const SCRIPT: &str = r#"
until_done() {
	for _ in $(seq 1500); do ! "$@" >/dev/null 2>&1 || return 0; sleep 0.02; done
	echo "in vain: $*"
	return 1
}
# A site of before, with a key file, in the nginx of Debian.
mkdir -p /tmp/site && cd /tmp/site
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=shop.example -days 2 \
	-addext subjectAltName=DNS:shop.example -keyout shop.key -out shop.crt 2>/dev/null
install -m 600 shop.key /etc/ssl/private/shop.key
install -m 644 shop.crt /etc/ssl/shop.crt
rm -f /etc/nginx/sites-enabled/*
cat >/etc/nginx/sites-enabled/shop <<'END'
server {
	listen 443 ssl;
	server_name shop.example;
	ssl_certificate /etc/ssl/shop.crt;
	ssl_certificate_key /etc/ssl/private/shop.key;
	location / { return 200 "served\n"; }
}
END
cp -a /etc/nginx /tmp/nginx.before
/usr/sbin/nginx
served() { curl --silent --show-error --cacert shop.crt --resolve shop.example:443:127.0.0.1 https://shop.example/ | grep -q '^served$'; }
until_done served
cd "$source"

# Install, set up, protect.
export DEBIAN_FRONTEND=noninteractive
dpkg -i target/packages/keyward_*.deb target/packages/keyward-openssl_*.deb target/packages/keyward-acme_*.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; exit 1; }
keyward setup --unseal unprotected --yes >/tmp/setup.log 2>&1 || { cat /tmp/setup.log; exit 1; }
# Without systemd, the last line of the setup is for a person.
install -d -m 755 -o keyward -g keyward /run/keyward
setpriv --reuid keyward --regid keyward --init-groups keyward serve --config /etc/keyward/keyward.toml 2>/tmp/daemon.log &
daemon=$!
until_done keyward status
# A directory that the command makes itself is readable for the daemon, another user.
rmdir /etc/keyward/keyward.d
keyward protect nginx >/tmp/protect.log 2>&1 || { cat /tmp/protect.log; exit 1; }
cd /tmp/site
served
grep -c 'ssl_certificate_key /etc/ssl/private/shop.key.keyward.pem;' /etc/nginx/sites-enabled/shop
test "$(keyward key list --json | grep -c '"label": "shop.example"')" = 1
keyward serve --check-config 2>/dev/null | grep -c '^\[\[grant\]\]  # file 2$'
keyward env nginx -t 2>&1 | grep 'test is successful'
# The port for metrics is there, and off. The dashboard is there.
python3 -m json.tool /usr/share/keyward/prometheus/grafana-dashboard.json >/dev/null
grep -q '^FileDescriptorName=metrics$' /lib/systemd/system/keyward-metrics.socket
test ! -e /etc/systemd/system/keyward-admin.socket.wants/keyward-metrics.socket
# Every page of the manual can be read.
for page in /usr/share/man/man*/keyward*; do man -l "$page" >/tmp/page 2>/tmp/page.err; test -s /tmp/page; ! grep . /tmp/page.err || { echo "$page"; exit 1; }; done
grep -q . /usr/share/bash-completion/completions/keyward
bash -n /usr/share/bash-completion/completions/keyward
zcat /usr/share/doc/keyward/third-party.txt.gz | grep -c '^redb '
keyward protect nginx --undo 2>&1 | tail -2
served
diff -r /etc/nginx /tmp/nginx.before
test ! -e /etc/keyward/keyward.d/nginx.toml
# The keys outlive the packages, also when nobody can be asked.
kill $daemon && wait $daemon || true
dpkg -r keyward-acme keyward-openssl keyward >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; exit 1; }
test -e /var/lib/keyward/keys.redb
dpkg -P keyward >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; exit 1; }
test -e /var/lib/keyward/keys.redb
grep 'the keys stay in /var/lib/keyward' /tmp/dpkg.log
"#;

#[test]
fn three_commands_from_the_packages_to_a_protected_site() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut make = Command::new(source.join(".ci/packages"));
    succeed(make.arg("release").env("COMPRESSION", "none").current_dir(&source));
    let Some(output) = run_in_copy(&format!("source=$(pwd)\n{SCRIPT}")) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}{}", output.status, stderr(&output));
    for words in ["every file is as it was", "test is successful"] {
        assert!(text.contains(words), "{text} lacks {words}");
    }
}
