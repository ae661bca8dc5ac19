//! Clients of the GREP11 server that take as much as they can: other clients keep their
//! connections, their turns and their speed.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod calls;
mod client;
mod connections;
mod speed;

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use keyward_grep11::crypto_client::CryptoClient;
use keyward_tests::{Pki, UnitServer, scratch};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use client::Client;

/// A server with the tokens `FIRST` and `SECOND`.
struct Scene {
    server: UnitServer,
    /// Authority of the server's certificate, if the server uses TLS.
    ca: Option<Certificate>,
    _directory: TempDir,
}

impl Scene {
    fn new(tls: bool) -> Self {
        Self::with_tokens(tls, &[FIRST, SECOND])
    }

    fn with_tokens(tls: bool, known: &[&str]) -> Self {
        // The test and the server each need a descriptor for every connection.
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
        // The timeout of the endpoint does not include the TLS handshake.
        let connected = timeout(PATIENCE, endpoint.connect()).await;
        let connected = connected.map_err(|_| Status::unavailable("the server is closed"))?;
        connected.map_err(|error| Status::unavailable(format!("{error:?}")))
    }

    /// Peak memory of the server, in bytes.
    fn peak(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Time of a new client from its first packet to its first answer.
    fn newcomer(&self, token: &str) -> Duration {
        let begin = Instant::now();
        let listed = runtime().block_on(async { self.connect(token).await?.list().await });
        listed.unwrap_or_else(|refused| panic!("the server is closed to a new client: {refused:?}"));
        begin.elapsed()
    }

    /// Asserts that each of ten new clients gets an answer within [`MOMENT`].
    fn newcomers_get_through(&self) {
        let slowest = (0..10).map(|_| self.newcomer(SECOND)).max().unwrap();
        assert!(slowest < MOMENT, "a new client took {slowest:?}\n{}", self.server.log());
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

const FIRST: &str = "0123456789abcdef-first";
const SECOND: &str = "0123456789abcdef-second";
/// More connections than the server accepts.
const OVER_LIMIT: usize = 1100;
const PATIENCE: Duration = Duration::from_secs(10);
/// Limit for a client that gets through. A client that is kept out waits for many seconds.
const MOMENT: Duration = Duration::from_secs(2);
