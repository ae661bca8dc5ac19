//! gRPC over mutual TLS with tonic. Server and client have their keys in the daemon.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use keyward_rustls::handshake::{Acceptor, Connector};
use keyward_tests::server::Site;
use keyward_tests::tool::succeed;
use keyward_tests::{Daemon, Pki};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_of_two_threads() {
    server_and_client_prove_themselves().await;
}

#[tokio::test]
async fn a_runtime_of_one_thread() {
    server_and_client_prove_themselves().await;
}

async fn server_and_client_prove_themselves() {
    let daemon = Daemon::start();
    daemon.configure_more("[[grant]]\nuser = \"root\"\nkeys = [\"*\"]\nuses = [\"tls-client\"]\n");
    daemon.reload();
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    daemon.generate_for("robot", "ed25519", "tls-client");
    let [shop, robot] =
        ["shop", "robot"].map(|label| daemon.key_for_rustls(&Site::with_key(&daemon, &pki, label)));
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der()).unwrap();
    let address = serve(shop, roots.clone()).await;

    let config = ClientConfig::builder().with_root_certificates(roots.clone());
    let stranger = config.clone().with_no_client_auth();
    let mut robot = config.with_client_cert_resolver(robot);
    // A resumed session would need no signature.
    robot.resumption = Resumption::disabled();
    let mut health = HealthClient::new(connect(&address, robot.clone()).await.unwrap());
    for _ in 0..3 {
        let answer = health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
        assert_eq!(answer.into_inner().status, 1, "serving");
    }
    // One handshake, two signatures.
    assert_eq!(daemon.logged(&["outcome=done", "key=\"shop\"", "tls13-server"]), 1, "{}", daemon.log());
    assert_eq!(daemon.logged(&["outcome=done", "key=\"robot\"", "tls13-client"]), 1, "{}", daemon.log());

    // In TLS 1.3 a client may learn only after its handshake that it was refused.
    let refused = match connect(&address, stranger).await {
        Ok(channel) => {
            let request = HealthCheckRequest { service: String::new() };
            HealthClient::new(channel).check(request).await.is_err()
        }
        Err(_) => true,
    };
    assert!(refused, "a client without a certificate");

    succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
    health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
    assert!(connect(&address, robot).await.is_err(), "a disabled key");
}

/// Serves the health service of tonic over TLS, only for clients with a certificate of the
/// authority. Returns its address.
async fn serve(key: Arc<dyn ResolvesServerCert>, roots: RootCertStore) -> String {
    let clients = WebPkiClientVerifier::builder(roots.into()).build().unwrap();
    let mut config = ServerConfig::builder().with_client_cert_verifier(clients).with_cert_resolver(key);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = Acceptor::new(config.into());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (accepted, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move { accepted.send(acceptor.accept(stream).await).await });
        }
    });
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("", ServingStatus::Serving).await;
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
    address
}

async fn connect(address: &str, mut config: ClientConfig) -> Result<Channel, tonic::transport::Error> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (connector, to) = (Connector::new(config.into()), address.to_owned());
    let connect = service_fn(move |_| {
        let (connector, to) = (connector.clone(), to.clone());
        async move {
            let name = ServerName::try_from("localhost").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(
                connector.connect(name, TcpStream::connect(to).await?).await?,
            ))
        }
    });
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_with_connector(connect).await
}
