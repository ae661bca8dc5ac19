//! Clients of the GREP11 server that take what they can get: others keep their places, their turns
//! and their speed.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::{self, Permissions};
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::crypto_client::CryptoClient;
use keyward_grep11::{
    AttributeValue, GenerateKeyPairRequest, GetMechanismListRequest, KeyBlob, Mechanism, SignSingleRequest,
    cka, ckm,
};
use keyward_tests::{Pki, UnitServer, scratch};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::client::GrpcService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// A server with the tokens `FIRST` and `SECOND`.
struct Scene {
    server: UnitServer,
    /// With which its certificate is checked, if it speaks TLS.
    ca: Option<Certificate>,
    _directory: TempDir,
}

impl Scene {
    fn new(tls: bool) -> Self {
        Self::with_tokens(tls, &[FIRST, SECOND])
    }

    fn with_tokens(tls: bool, known: &[&str]) -> Self {
        // A connection has two ends in a test of both.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let directory = scratch();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let tokens = path("tokens");
        fs::write(&tokens, known.join("\n")).unwrap();
        fs::set_permissions(&tokens, Permissions::from_mode(0o600)).unwrap();
        let state = path("state");
        let mut arguments = vec!["--dev", "--state-dir", &state, "--token-file", &tokens];
        let pki = Pki::new(directory.path());
        let (certificate, key) = pki.leaf("server");
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (certificate, key) = (text(&certificate), text(&key));
        match tls {
            true => arguments.extend(["--tls-cert", &certificate, "--tls-key", &key]),
            false => arguments.push("--plaintext"),
        }
        let server = UnitServer::start(directory.path(), "server", &arguments);
        let ca = tls.then(|| Certificate::from_pem(fs::read(pki.ca()).unwrap()));
        Self { server, ca, _directory: directory }
    }

    fn address(&self) -> SocketAddr {
        self.server.socket_address()
    }

    /// Opens a connection of a client.
    async fn connect(&self, token: &str) -> Result<Client, Status> {
        let calls = CryptoClient::new(self.channel().await?);
        Ok(Client { calls, token: token.to_owned() })
    }

    /// Opens a connection.
    async fn channel(&self) -> Result<Channel, Status> {
        let protocol = if self.ca.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{protocol}://{}", self.server.address())).unwrap();
        if let Some(ca) = &self.ca {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca.clone())).unwrap();
        }
        // The time for connecting does not count that of TLS.
        let connected = timeout(PATIENCE, endpoint.connect()).await;
        let connected = connected.map_err(|_| Status::unavailable("the server is closed"))?;
        connected.map_err(|error| Status::unavailable(format!("{error:?}")))
    }

    /// The most memory that the server has had, in bytes.
    fn peak(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How long a new client takes from its first packet to its first answer.
    fn newcomer(&self, token: &str) -> Duration {
        let begin = Instant::now();
        let listed = runtime().block_on(async { self.connect(token).await?.list().await });
        listed.unwrap_or_else(|refused| panic!("the server is closed to a new client: {refused:?}"));
        begin.elapsed()
    }

    /// Checks that new clients get through, the slowest of some within a moment.
    fn newcomers_get_through(&self) {
        let slowest = (0..10).map(|_| self.newcomer(SECOND)).max().unwrap();
        assert!(slowest < MOMENT, "a new client took {slowest:?}\n{}", self.server.log());
    }
}

/// A connection of a client.
#[derive(Clone)]
struct Client {
    calls: CryptoClient<Channel>,
    token: String,
}

impl Client {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    async fn list(&mut self) -> Result<(), Status> {
        let mut request = self.request(GetMechanismListRequest::default());
        request.set_timeout(PATIENCE);
        self.calls.get_mechanism_list(request).await.map(drop)
    }

    /// Has a key made that signs.
    async fn key(&mut self, mechanism: u64, attributes: &[(u64, OneAttr)]) -> Vec<u8> {
        let template = |attributes: &[(u64, OneAttr)]| {
            let typed = |(number, value): &(u64, OneAttr)| {
                (*number, AttributeValue { one_attr: Some(value.clone()) })
            };
            attributes.iter().map(typed).collect()
        };
        let request = self.request(GenerateKeyPairRequest {
            mech: Some(Mechanism { mechanism, parameter: None }),
            pub_key_template: template(attributes),
            priv_key_template: template(&[(cka::CKA_SIGN, OneAttr::AttributeTf(true))]),
            ..GenerateKeyPairRequest::default()
        });
        let pair = self.calls.generate_key_pair(request).await.unwrap().into_inner();
        pair.priv_key.unwrap().key_blobs.swap_remove(0)
    }

    async fn p256(&mut self) -> Key {
        let curve = [(cka::CKA_EC_PARAMS, OneAttr::AttributeB(b"P-256".to_vec()))];
        Key(ckm::CKM_ECDSA_SHA256, self.key(ckm::CKM_EC_KEY_PAIR_GEN, &curve).await)
    }

    async fn rsa4096(&mut self) -> Key {
        self.rsa(4096).await
    }

    async fn rsa(&mut self, bits: i64) -> Key {
        let size = [
            (cka::CKA_MODULUS_BITS, OneAttr::AttributeI(bits)),
            (cka::CKA_PUBLIC_EXPONENT, OneAttr::AttributeB(vec![1, 0, 1])),
        ];
        Key(ckm::CKM_SHA256_RSA_PKCS, self.key(ckm::CKM_RSA_PKCS_KEY_PAIR_GEN, &size).await)
    }

    async fn sign(&mut self, key: &Key, deadline: Duration) -> Result<(), Status> {
        let mut request = self.request(SignSingleRequest {
            priv_key: Some(KeyBlob { key_blobs: vec![key.1.clone()], ..KeyBlob::default() }),
            mech: Some(Mechanism { mechanism: key.0, parameter: None }),
            data: vec![7; 130],
            ..SignSingleRequest::default()
        });
        request.set_timeout(deadline);
        self.calls.sign_single(request).await.map(drop)
    }
}

impl Client {
    /// Median and 99th percentile of the times of signatures.
    fn speed(&mut self, runtime: &Runtime, key: &Key, seconds: u64) -> [Duration; 2] {
        let mut took = Vec::new();
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let begin = Instant::now();
            runtime.block_on(self.sign(key, PATIENCE)).unwrap();
            took.push(begin.elapsed());
            // A client that computes all the time is one that waits for the processors, too.
            thread::sleep(Duration::from_millis(2));
        }
        took.sort_unstable();
        [50, 99].map(|percent| took[took.len() * percent / 100])
    }
}

/// A mechanism, and a blob.
struct Key(u64, Vec<u8>);

/// Connections that send these bytes and then nothing, with a thread that opens a new one for each
/// that is closed.
struct Silent {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<usize>>,
}

impl Silent {
    fn open(address: SocketAddr, number: usize, bytes: &'static [u8]) -> Self {
        let connect = move || {
            let mut stream = TcpStream::connect(address).ok()?;
            stream.write_all(bytes).ok()?;
            stream.set_nonblocking(true).ok()?;
            Some(stream)
        };
        let mut streams: Vec<_> = (0..number).map(|_| connect()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut again = 0;
            while !stopped.load(Ordering::Relaxed) {
                for stream in &mut streams {
                    if !stream.as_mut().is_some_and(is_open) {
                        *stream = connect();
                        again += 1;
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
            again
        });
        Self { stop, thread: Some(thread) }
    }
}

/// True if the other side has left a connection open, whether it has sent something or not.
fn is_open(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 256]) {
        Ok(length) => length > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let again = self.thread.take().map(thread::JoinHandle::join);
        println!("opened again: {again:?}");
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn silent_connections_keep_nobody_out() {
    for tls in [false, true] {
        let scene = Scene::new(tls);
        let known = runtime();
        let mut client = known.block_on(scene.connect(FIRST)).unwrap();
        known.block_on(client.list()).unwrap();
        let _silent = Silent::open(scene.address(), CROWD, b"");
        scene.newcomers_get_through();
        // Nor does it end the connection of one that is there.
        known.block_on(client.list()).unwrap();
    }
}

#[test]
fn handshakes_that_stop_half_way_keep_nobody_out() {
    // The preface of HTTP/2 without its last byte (RFC 9113, 3.4).
    let scene = Scene::new(false);
    let _half = Silent::open(scene.address(), CROWD, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r");
    scene.newcomers_get_through();

    // A record of TLS with a ClientHello of 512 bytes, of which the first ones come (RFC 8446, 4
    // and 5.1).
    let scene = Scene::new(true);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let _half = Silent::open(scene.address(), CROWD, hello);
    scene.newcomers_get_through();
}

#[test]
fn connections_without_a_token_keep_nobody_out() {
    let scene = Scene::new(true);
    let strangers = Runtime::new().unwrap();
    let open: Vec<Client> = strangers.block_on(async {
        let mut open = Vec::new();
        for _ in 0..CROWD {
            let mut stranger = scene.connect("0123456789abcdef-unknown").await.unwrap();
            let refused = stranger.list().await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
            open.push(stranger);
        }
        open
    });
    scene.newcomers_get_through();
    drop(open);
}

#[test]
fn idle_connections_of_one_client_keep_neither_others_nor_itself_out() {
    let scene = Scene::new(false);
    let hoarder = Runtime::new().unwrap();
    let open: Vec<Client> = hoarder.block_on(async {
        let mut open = Vec::new();
        for _ in 0..CROWD {
            let mut client = scene.connect(FIRST).await.unwrap();
            client.list().await.unwrap();
            open.push(client);
        }
        open
    });
    scene.newcomers_get_through();
    let own = scene.newcomer(FIRST);
    assert!(own < MOMENT, "{own:?}");
    drop(open);
}

#[test]
fn rsa_of_one_client_does_not_slow_down_another() {
    let scene = Scene::new(true);
    let own = runtime();
    let mut client = own.block_on(scene.connect(SECOND)).unwrap();
    let key = own.block_on(client.p256());
    let alone = client.speed(&own, &key, 2);
    let flood = Flood::start(&scene, 16, 4, Client::rsa4096);
    let beside = client.speed(&own, &key, 5);
    let signed = flood.stop();
    println!("p50 and p99 alone {alone:?}, beside {signed} RSA signatures {beside:?}");
    assert!(signed > 100, "{signed}");
    // On a machine that is busy with other things, a client alone takes its time, too.
    let most = [4, 15].map(Duration::from_millis);
    let is_quick = |which: usize| beside[which] < most[which].max(4 * alone[which]);
    assert!(is_quick(0) && is_quick(1), "{beside:?}, alone {alone:?}");
}

#[test]
fn cheap_calls_of_one_client_do_not_slow_down_another() {
    let scene = Scene::new(true);
    let own = runtime();
    let mut client = own.block_on(scene.connect(SECOND)).unwrap();
    let key = own.block_on(client.p256());
    println!("p50 and p99 alone {:?}", client.speed(&own, &key, 2));
    // Requests with RSA-2048 are answered in the same way, and keep the server busier than the
    // flooding client.
    for rsa in [false, true] {
        let flood = Flood::start(&scene, 16, 64, async |client: &mut Client| match rsa {
            true => client.rsa(2048).await,
            false => client.p256().await,
        });
        let seconds = 5;
        let beside = client.speed(&own, &key, seconds);
        // After so long a client counts as one that comes anew.
        thread::sleep(Duration::from_millis(1500));
        let begin = Instant::now();
        own.block_on(client.sign(&key, PATIENCE)).unwrap();
        let anew = begin.elapsed();
        let signed = u32::try_from(flood.stop()).unwrap();
        // In the order in which calls come the other client would wait as long.
        let waits = (Duration::from_secs(seconds) + Duration::from_millis(1500)) * 16 * 64 / signed;
        println!("beside {signed} signatures, RSA {rsa}: {beside:?}, anew {anew:?}, those take {waits:?}");
        assert!(anew < waits / 4, "{anew:?}, the others {waits:?}");
        assert!(beside[0] < waits / 20 && beside[1] < waits / 4, "{beside:?}, the others {waits:?}");
    }
}

#[test]
fn as_many_clients_as_there_are_places_keep_no_other_out() {
    let tokens: Vec<String> = (0..CROWD).map(|number| format!("0123456789abcdef-{number:04}")).collect();
    let mut known: Vec<&str> = tokens.iter().map(String::as_str).collect();
    known.push(SECOND);
    let scene = Scene::with_tokens(false, &known);
    let crowd = Runtime::new().unwrap();
    let open: Vec<Client> = crowd.block_on(async {
        let mut open = Vec::new();
        for token in &tokens {
            let mut client = scene.connect(token).await.unwrap();
            client.list().await.unwrap_or_else(|refused| panic!("client {}: {refused:?}", open.len()));
            open.push(client);
        }
        open
    });
    scene.newcomers_get_through();
    drop(open);
}

#[test]
fn messages_without_a_token_take_no_memory() {
    let scene = Scene::new(false);
    let strangers = Runtime::new().unwrap();
    // A message of 4 MiB, which lacks its last bytes.
    let length = 4_u32 << 20;
    let most = usize::try_from(length).unwrap() - 16;
    let half = Bytes::from([&[0][..], &length.to_be_bytes(), &vec![7; most]].concat());
    let before = scene.peak();
    for path in ["/grpc.health.v1.Health/Check", "/grep11.Crypto/SignSingle", "/grep11.Crypto/Unknown"] {
        strangers.block_on(async {
            let mut calls = JoinSet::new();
            for _ in 0..4 {
                let channel = scene.channel().await.unwrap();
                for _ in 0..25 {
                    let (half, mut channel) = (half.clone(), channel.clone());
                    calls.spawn(async move {
                        let sent = tokio_stream::once(Ok::<_, Status>(Frame::data(half)));
                        let body = StreamBody::new(sent.chain(tokio_stream::pending()));
                        let request = hyper::Request::post(format!("http://localhost{path}"));
                        let request = request.header("content-type", "application/grpc");
                        let request = request.body(tonic::body::Body::new(body)).unwrap();
                        poll_fn(|context| {
                            GrpcService::<tonic::body::Body>::poll_ready(&mut channel, context)
                        })
                        .await
                        .unwrap();
                        timeout(PATIENCE, channel.call(request)).await.map(drop)
                    });
                }
            }
            while let Some(ended) = calls.join_next().await {
                assert!(ended.unwrap().is_ok(), "the server waits for all of {path}");
            }
        });
    }
    let grown = (scene.peak() - before) >> 20;
    println!("{grown} MiB for half messages");
    assert!(grown < 64, "{grown} MiB");
    scene.newcomers_get_through();
}

#[test]
fn a_connection_without_a_token_has_few_calls() {
    let scene = Scene::new(false);
    runtime().block_on(async {
        let mut stranger = scene.connect("0123456789abcdef-unknown").await.unwrap();
        let mut refused = 0;
        while let Err(status) = stranger.list().await {
            match status.code() {
                Code::Unauthenticated => refused += 1,
                _ => break,
            }
            assert!(refused < 5000, "the server goes on to refuse");
        }
        println!("{refused} calls refused, then closed");
        assert!(refused >= 200, "{refused}");

        let mut health = HealthClient::new(scene.channel().await.unwrap());
        let request = || HealthCheckRequest { service: String::new() };
        let mut watched = Vec::new();
        for _ in 0..4 {
            watched.push(health.watch(request()).await.unwrap());
        }
        let refused = health.watch(request()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        watched.pop();
        timeout(PATIENCE, async { while health.check(request()).await.is_err() {} }).await.unwrap();
    });
    assert!(scene.server.log().contains("went on without showing who it is"), "{}", scene.server.log());
}

#[test]
fn a_connection_without_a_token_has_few_frames() {
    let scene = Scene::new(false);
    let mut stream = TcpStream::connect(scene.address()).unwrap();
    let mut answers = stream.try_clone().unwrap();
    let drain = thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    // The preface, empty settings, and pings (RFC 9113, 3.4, 6.5 and 6.7).
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
    let mut pings = 0;
    while stream.write_all(&sent).is_ok() {
        sent = ping.repeat(1000);
        pings += 1000;
        assert!(pings < 1_000_000, "the server goes on to answer");
    }
    println!("{pings} pings, then closed");
    let _ = drain.join();
    scene.newcomers_get_through();
}

#[test]
fn calls_beyond_the_bound_are_refused_and_others_served() {
    let scene = Scene::new(false);
    let flood = Runtime::new().unwrap();
    let (signed, refused) = flood.block_on(async {
        let key = Arc::new(scene.connect(FIRST).await.unwrap().rsa4096().await);
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let client = scene.connect(FIRST).await.unwrap();
            for _ in 0..200 {
                let (mut client, key) = (client.clone(), Arc::clone(&key));
                calls.spawn(async move { client.sign(&key, Duration::from_secs(60)).await });
            }
        }
        let (mut signed, mut refused) = (0, Vec::new());
        while let Some(outcome) = calls.join_next().await {
            match outcome.unwrap() {
                Ok(()) => signed += 1,
                Err(status) => refused.push(status),
            }
            if signed == 100 {
                assert!(scene.connect(SECOND).await.unwrap().list().await.is_ok());
            }
        }
        (signed, refused)
    });
    println!("{signed} signed, {} refused", refused.len());
    assert!(signed >= 1024 && refused.len() >= 400, "{signed} signed, {} refused", refused.len());
    for status in &refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(
            status.message().starts_with("CKR_HOST_MEMORY: too many calls of this client wait"),
            "{status:?}"
        );
    }
    let log = scene.server.log();
    let told = |line: &&str| line.contains("call refused") && line.contains("token in line 1");
    let counts = log.lines().filter(told).filter_map(|line| line.split("times=").nth(1));
    let counted: usize = counts.filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok()).sum();
    assert!(counted > 0 && counted <= refused.len(), "{log}");
    assert!(!log.contains(FIRST), "{log}");
}

#[test]
fn calls_past_their_deadline_are_not_computed() {
    let scene = Scene::new(false);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = scene.connect(FIRST).await.unwrap();
        let key = Arc::new(client.rsa4096().await);
        let mut one = Duration::ZERO;
        for _ in 0..3 {
            let begin = Instant::now();
            client.sign(&key, PATIENCE).await.unwrap();
            one = one.max(begin.elapsed());
        }
        let mut calls = JoinSet::new();
        for _ in 0..4 {
            let client = scene.connect(FIRST).await.unwrap();
            for _ in 0..200 {
                let (mut client, key) = (client.clone(), Arc::clone(&key));
                calls.spawn(async move { client.sign(&key, 20 * one).await });
            }
        }
        let mut late = 0;
        while let Some(outcome) = calls.join_next().await {
            late += usize::from(outcome.unwrap().is_err());
        }
        assert!(late > 400, "{late} of 800 were late");
        // Were the others computed, this would wait for them.
        let begin = Instant::now();
        client.sign(&key, PATIENCE).await.unwrap();
        let next = begin.elapsed();
        println!("{late} of 800 were late; one signature {one:?}, the next one {next:?}");
        assert!(next < 5 * one, "one {one:?}, the next one {next:?}");
    });
}

/// Signatures, one after the other in each of these calls at a time.
struct Flood {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    signed: Arc<AtomicUsize>,
}

impl Flood {
    fn start(
        scene: &Scene,
        connections: usize,
        calls: usize,
        key: impl AsyncFnOnce(&mut Client) -> Key,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, signed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        runtime.block_on(async {
            let key = Arc::new(key(&mut scene.connect(FIRST).await.unwrap()).await);
            for _ in 0..connections {
                let client = scene.connect(FIRST).await.unwrap();
                for _ in 0..calls {
                    let (mut client, key) = (client.clone(), Arc::clone(&key));
                    let (stop, signed) = (Arc::clone(&stop), Arc::clone(&signed));
                    tokio::spawn(async move {
                        while !stop.load(Ordering::Relaxed) {
                            client.sign(&key, Duration::from_secs(60)).await.unwrap();
                            signed.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
        });
        Self { runtime, stop, signed }
    }

    /// Ends it, and tells how many signatures there were.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.shutdown_background();
        self.signed.load(Ordering::Relaxed)
    }
}

const FIRST: &str = "0123456789abcdef-first";
const SECOND: &str = "0123456789abcdef-second";
/// More connections than the server takes.
const CROWD: usize = 1100;
const PATIENCE: Duration = Duration::from_secs(10);
/// Long for a client that gets through; one that is kept out waits for seconds.
const MOMENT: Duration = Duration::from_secs(2);
