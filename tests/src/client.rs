//! Clients: single handshakes by the openssl program, curl and rustls, and a load of them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519};
use rustls::crypto::{CryptoProvider, SecureRandom, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};

use crate::server::{Server, Site};
use crate::tool::{fail, succeed};
use crate::{KEY_TYPES, Pki};

/// Wishes of a client for a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// `P-256` or `X25519`.
    pub group: &'static str,
}

impl Wish {
    /// The groups to offer: the wished group first, then the curves of the certificates, because
    /// TLS 1.2 has one list for both (RFC 8422, 4).
    fn groups(self) -> &'static str {
        if self.group == "P-256" { "P-256:P-384:P-521" } else { "X25519:P-256:P-384:P-521" }
    }

    /// Words of s_client for the group.
    fn temporary_key(self) -> &'static str {
        if self.group == "P-256" { "Server Temp Key: ECDH, prime256v1" } else { "Server Temp Key: X25519" }
    }
}

/// Both versions with both groups.
pub const WISHES: [Wish; 4] = [
    Wish { version: "1.2", group: "P-256" },
    Wish { version: "1.2", group: "X25519" },
    Wish { version: "1.3", group: "P-256" },
    Wish { version: "1.3", group: "X25519" },
];

/// Makes handshakes with every wish, by curl and by `openssl s_client`, at a site for each of
/// [`KEY_TYPES`]. Handshakes that the server does not support must fail. Returns the number of
/// successful handshakes.
pub fn every_key_type(pki: &Pki, server: &dyn Server, sites: &[Site]) -> usize {
    let mut handshakes = 0;
    for (site, key_type) in sites.iter().zip(KEY_TYPES) {
        for wish in WISHES {
            if !server.can_use(key_type, wish.version) {
                fail(&mut s_client_command(pki, site.address, wish));
                continue;
            }
            s_client(pki, site.address, wish);
            assert_eq!(curl(pki, site.address, wish).trim_end(), "served", "{}", server.log());
            handshakes += 2;
        }
    }
    handshakes
}

/// Makes a handshake with `openssl s_client`, which must verify the certificate and get its wishes.
pub fn s_client(pki: &Pki, address: SocketAddr, wish: Wish) {
    let output = crate::tool::run(&mut s_client_command(pki, address, wish));
    let text = crate::tool::stderr(&output);
    let version = format!("Protocol version: TLSv{}", wish.version);
    let expected = [version.as_str(), wish.temporary_key(), "Verification: OK"];
    let complete = output.status.success() && expected.iter().all(|words| text.contains(words));
    assert!(complete, "{wish:?} at {address}:\n{text}");
}

fn s_client_command(pki: &Pki, address: SocketAddr, wish: Wish) -> Command {
    let version = format!("-tls{}", wish.version.replace('.', "_"));
    let mut command = crate::pki::openssl(&["s_client", "-brief", "-verify_return_error", &version]);
    command.args(["-groups", wish.groups(), "-servername", "localhost", "-connect", &address.to_string()]);
    command.arg("-CAfile").arg(pki.ca());
    command
}

/// Gets a page with curl, which must verify the certificate.
pub fn curl(pki: &Pki, address: SocketAddr, wish: Wish) -> String {
    succeed(&mut curl_command(pki, address, wish))
}

/// The command of [`curl`].
pub fn curl_command(pki: &Pki, address: SocketAddr, wish: Wish) -> Command {
    let version = format!("--tlsv{}", wish.version);
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "10",
        &version,
        "--tls-max",
        wish.version,
    ]);
    command.args(["--curves", wish.groups()]).arg("--cacert").arg(pki.ca());
    command.arg(format!("https://localhost:{}/", address.port())).args(["--resolve"]);
    command.arg(format!("localhost:{}:127.0.0.1", address.port())).env_remove("OPENSSL_CONF");
    command
}

/// A client that makes full handshakes, never resuming.
#[derive(Clone, Debug)]
pub struct Handshake {
    config: Arc<ClientConfig>,
    address: SocketAddr,
    patience: Duration,
    distance: Duration,
    name: ServerName<'static>,
}

impl Handshake {
    /// A TLS 1.3 client with X25519.
    pub fn new(pki: &Pki, address: SocketAddr) -> Self {
        Self::with_version(pki, address, &rustls::version::TLS13)
    }

    /// A client of one version of TLS, with X25519.
    pub fn with_version(pki: &Pki, address: SocketAddr, version: &'static SupportedProtocolVersion) -> Self {
        Self::with(pki, address, version, vec![X25519], Arc::new(NoCertificate))
    }

    /// A client with these wishes and a key for its own authentication.
    pub fn with_key(pki: &Pki, address: SocketAddr, wish: Wish, key: Arc<dyn ResolvesClientCert>) -> Self {
        let version = match wish.version {
            "1.2" => &rustls::version::TLS12,
            _ => &rustls::version::TLS13,
        };
        // The other groups follow: see [`Wish::groups`].
        let groups: [&'static dyn SupportedKxGroup; 3] = match wish.group {
            "P-256" => [SECP256R1, SECP384R1, X25519],
            _ => [X25519, SECP256R1, SECP384R1],
        };
        Self::with(pki, address, version, groups.to_vec(), key)
    }

    /// A client of TLS 1.2 that takes its randoms from this source. The source must return 32 bytes
    /// for the random of the ClientHello.
    pub fn with_random(pki: &Pki, address: SocketAddr, random: &'static dyn SecureRandom) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        provider.secure_random = random;
        Self::with_provider(pki, address, &rustls::version::TLS12, provider, Arc::new(NoCertificate))
    }

    fn with(
        pki: &Pki,
        address: SocketAddr,
        version: &'static SupportedProtocolVersion,
        groups: Vec<&'static dyn SupportedKxGroup>,
        key: Arc<dyn ResolvesClientCert>,
    ) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = groups;
        Self::with_provider(pki, address, version, provider, key)
    }

    fn with_provider(
        pki: &Pki,
        address: SocketAddr,
        version: &'static SupportedProtocolVersion,
        provider: CryptoProvider,
        key: Arc<dyn ResolvesClientCert>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca_der()).expect("an authority");
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_client_cert_resolver(key);
        config.resumption = Resumption::disabled();
        Self {
            config: config.into(),
            address,
            patience: Duration::from_secs(10),
            distance: Duration::ZERO,
            name: ServerName::try_from("localhost").expect("a name"),
        }
    }

    /// Sets another name than `localhost`: a DNS name, or an address, with which the client sends
    /// no name.
    #[must_use]
    pub fn asking_for(self, name: &'static str) -> Self {
        Self { name: ServerName::try_from(name).expect("a name"), ..self }
    }

    /// Delays every flight except the first, like a client far away.
    #[must_use]
    pub fn from_far(self, distance: Duration) -> Self {
        Self { distance, ..self }
    }

    /// Connects, makes the handshake, and gets the answer to a request, which must be a success.
    ///
    /// # Errors
    /// The first error on the way.
    pub fn make(&self) -> io::Result<ProtocolVersion> {
        self.converse()?.protocol_version().ok_or_else(|| io::Error::other("no version"))
    }

    /// Makes a handshake, and returns the certificate of the server.
    ///
    /// # Errors
    /// The first error on the way.
    pub fn certificate(&self) -> io::Result<CertificateDer<'static>> {
        let connection = self.converse()?;
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        certificate.cloned().ok_or_else(|| io::Error::other("no certificate"))
    }

    fn converse(&self) -> io::Result<ClientConnection> {
        let mut socket = TcpStream::connect_timeout(&self.address, self.patience)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.set_write_timeout(Some(self.patience))?;
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)?;
        let mut link = Link { socket: &mut socket, distance: self.distance, is_first: true };
        let mut stream = rustls::Stream::new(&mut connection, &mut link);
        // Apache asks for the name twice.
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut first = [0; 12];
        stream.read_exact(&mut first)?;
        if &first[8..] != b" 200" {
            return Err(io::Error::other(format!("answered {}", first.escape_ascii())));
        }
        Ok(connection)
    }
}

/// A client without a certificate.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A connection whose bytes arrive late.
struct Link<'a> {
    socket: &'a mut TcpStream,
    distance: Duration,
    is_first: bool,
}

impl Read for Link<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Link<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::take(&mut self.is_first) && !self.distance.is_zero() {
            std::thread::sleep(self.distance);
        }
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Threads that make one handshake after the other until [`Load::stop`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Attempt>>>,
}

/// A handshake of a load.
#[derive(Debug)]
pub struct Attempt {
    /// Beginning of the handshake.
    pub began: Instant,
    /// End of the handshake.
    pub ended: Instant,
    /// Result of the handshake.
    pub result: io::Result<()>,
}

impl Load {
    /// Starts `threads` threads.
    pub fn start(handshake: &Handshake, threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..threads)
            .map(|_| {
                let (stop, handshake) = (Arc::clone(&stop), handshake.clone());
                std::thread::spawn(move || {
                    let mut attempts = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        let result = handshake.make().map(drop);
                        if result.is_err() {
                            // A refused client tries again after a pause.
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        attempts.push(Attempt { began, ended: Instant::now(), result });
                    }
                    attempts
                })
            })
            .collect();
        Self { stop, threads }
    }

    /// Ends the load and returns every attempt.
    pub fn stop(self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client thread")).collect()
    }
}
