//! A server from its start to its end, checked by valgrind: no invalid access, no lost memory.

use std::fs;
use std::net::TcpStream;
use std::process::Command;

use keyward_tests::client::{WISHES, s_client};
use keyward_tests::server::Site;
use keyward_tests::tool::{Process, wait_for};
use keyward_tests::{Daemon, Pki};
use rustix::process::Signal;

/// HAProxy has threads, and asynchronous jobs if it is configured for them.
#[test]
fn haproxy() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let site = Site::with_key(&daemon, &pki, "shop");
    let [both, conf, log] = ["both.pem", "haproxy.cfg", "valgrind.log"].map(|name| daemon.path(name));
    let parts = [&site.certificate, &site.key].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&both, parts.concat()).unwrap();
    let text = format!(
        "global\nnbthread 2\nssl-mode-async\n\
         defaults\nmode http\ntimeout client 10s\ntimeout server 10s\ntimeout connect 1s\n\
         frontend shop\nbind {} ssl crt {}\nhttp-request return status 200\n",
        site.address,
        both.display()
    );
    fs::write(&conf, text).unwrap();
    let mut checked = Command::new("valgrind");
    checked.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
    checked.args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite", "haproxy", "-db", "-f"]);
    checked.arg(&conf).env("OPENSSL_CONF", daemon.openssl_conf());
    let mut haproxy = Process::start(&mut checked, &log);
    wait_for("HAProxy", || TcpStream::connect(site.address).ok());
    for wish in WISHES {
        s_client(&pki, site.address, wish);
    }
    // HAProxy frees everything after its last client.
    haproxy.signal(Signal::USR1);
    let status = haproxy.wait();
    assert!(status.success(), "{status}: {}", fs::read_to_string(&log).unwrap());
    daemon.assert_one_request_each(WISHES.len());
}
