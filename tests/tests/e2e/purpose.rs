//! Real handshakes of TLS 1.2. If the server also offers TLS 1.3, no handshake is refused, whatever
//! the random of the client. Otherwise the error names the use that the server needs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyward_tests::server::{Server, Site};
use keyward_tests::tool::{succeed, wait_for};
use keyward_tests::{
    Apache, Daemon, Handshake, Haproxy, Lighttpd, Nginx, OpenSsl, Pki, Rustls, SServer, Stunnel,
};
use rustls::ProtocolVersion;
use rustls::crypto::{GetRandomFailed, SecureRandom, aws_lc_rs};

/// With `KEYWARD_SOAK` 20,000 in all, and 1,000 of clients whose random begins with zeros.
#[test]
fn no_handshake_of_tls12_is_refused() {
    let (uniform, zeros) = if std::env::var_os("KEYWARD_SOAK").is_some() { (3334, 167) } else { (20, 10) };
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let first = Site::with_key(&daemon, &pki, "shop");
    let site = || Site::new(first.certificate.clone(), first.key.clone());
    let shake_hands = |server: &str, address: SocketAddr| {
        let randoms: [(&'static dyn SecureRandom, usize); 2] = [(UNIFORM, uniform), (&ZEROS, zeros)];
        for (random, count) in randoms {
            let client = Handshake::with_random(&pki, address, random);
            for number in 0..count {
                let version = client.make().unwrap_or_else(|error| panic!("{server}, {number}: {error}"));
                assert_eq!(version, ProtocolVersion::TLSv1_2);
            }
        }
    };
    let sites = [site()];
    let nginx = Nginx::start(&daemon, &sites);
    shake_hands("nginx", sites[0].address);
    drop(nginx);
    let sites = [site()];
    let haproxy = Haproxy::start(&daemon, &sites);
    shake_hands("HAProxy", sites[0].address);
    drop(haproxy);
    let sites = [site()];
    let apache = Apache::start(&daemon, &sites, "event");
    shake_hands("Apache", sites[0].address);
    drop(apache);
    let sites = [site()];
    let rustls = Rustls::start(&daemon, &sites);
    shake_hands("rustls", sites[0].address);
    drop(rustls);
    for openssl in [OpenSsl::System, OpenSsl::V3_5] {
        let site = site();
        let server = SServer::start_of(&daemon, &site, openssl, &[]);
        shake_hands(&format!("{openssl:?}"), site.address);
        drop(server);
    }
    daemon.assert_one_request_each(6 * (uniform + zeros));
}

/// The log of the server names the missing use. With that use in key and grant, the handshake
/// succeeds.
#[test]
fn a_server_with_tls12_alone_is_told_which_use_it_needs() {
    let grant = |uid| format!("[[grant]]\nuid = {uid}\nkeys = [\"old\"]\nuses = [\"tls12-server\"]\n");
    let grants: String = keyward_tests::server::users().into_iter().map(grant).collect();
    let daemon = Daemon::start_with(&grants);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    daemon.generate_for("old", "p256", "tls12-server");
    let [shop, old] = ["shop", "old"].map(|label| Site::with_key(&daemon, &pki, label));
    let sites = [shop, old];
    let nginx = Nginx::start_with_directives(&daemon, &sites, "ssl_protocols TLSv1.2;");
    let make = |site: &Site| Handshake::with_random(&pki, site.address, UNIFORM).make();
    assert!(make(&sites[0]).is_err());
    nginx.wait_for_log(
        "key \"shop\" refused: this listener did not offer TLS 1.3 for this connection (DTLS 1.2 never does); offer it, or \
         add the use tls12-server to the grant, and to the key: keyward key set-uses shop --use tls-server --use tls12-server",
    );
    assert_eq!(make(&sites[1]).unwrap(), ProtocolVersion::TLSv1_2);
}

/// These servers log only the fixed words of a reason, without the text that names the key.
#[test]
fn servers_that_log_the_reason_alone_say_which_use_they_need() {
    let daemon = Daemon::start();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let first = Site::with_key(&daemon, &pki, "shop");
    type Start = fn(&Daemon, &[Site]) -> Box<dyn Server>;
    let servers: [(&str, Start); 3] = [
        ("HAProxy", |daemon, sites| Box::new(Haproxy::start_with_tls12_alone(daemon, sites))),
        ("stunnel", |daemon, sites| Box::new(Stunnel::start_with_tls12_alone(daemon, sites))),
        ("lighttpd", |daemon, sites| Box::new(Lighttpd::start_with_tls12_alone(daemon, sites))),
    ];
    for (name, start) in servers {
        let site = Site::new(first.certificate.clone(), first.key.clone());
        let server = start(&daemon, std::slice::from_ref(&site));
        let make = || Handshake::with_random(&pki, site.address, UNIFORM).make();
        assert!(make().is_err(), "{name}");
        let told = "keyward::TLS 1.3 not offered; needs use tls12-server";
        wait_for(&format!("{told} in the log of {name}"), || server.log().contains(told).then_some(()));
        succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
        assert!(make().is_err(), "{name}");
        let told = "keyward::key disabled";
        wait_for(&format!("{told} in the log of {name}"), || server.log().contains(told).then_some(()));
        succeed(&mut daemon.keyward(&["key", "enable", "shop"]));
    }
    let lines = daemon.logged(&["refused a peer", "no-downgrade-sentinel", "needs=\"tls12-server\""]);
    assert!(lines > 0, "the daemon names the use as well");
}

const UNIFORM: &dyn SecureRandom = &Uniform;
static ZEROS: Zeros = Zeros(AtomicUsize::new(0));

#[derive(Debug)]
struct Uniform;

impl SecureRandom for Uniform {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        aws_lc_rs::default_provider().secure_random.fill(buffer)
    }
}

/// Randoms that begin with zeros: from one zero to 32 zeros in turn.
#[derive(Debug)]
struct Zeros(AtomicUsize);

impl SecureRandom for Zeros {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        UNIFORM.fill(buffer)?;
        if buffer.len() == 32 {
            buffer[..=self.0.fetch_add(1, Ordering::Relaxed) % 32].fill(0);
        }
        Ok(())
    }
}
