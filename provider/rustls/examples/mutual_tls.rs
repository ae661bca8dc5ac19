//! A client and a server with certificates: `mutual_tls SERVER_LABEL CLIENT_LABEL CA_FILE`.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use keyward_rustls::Keyward;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn serve(listener: TcpListener, config: ServerConfig) -> Result<()> {
    let (socket, _) = listener.accept()?;
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config))?, socket);
    stream.write_all(b"hello, client\n")?;
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [server, client, ca] = &words[..] else {
        return Err("usage: mutual_tls SERVER_LABEL CLIENT_LABEL CA_FILE".into());
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let roots = Arc::new(roots);
    let keyward = Keyward::from_env()?;

    let clients = WebPkiClientVerifier::builder(Arc::clone(&roots)).build()?;
    let config = ServerConfig::builder().with_client_cert_verifier(clients);
    let config = config.with_cert_resolver(keyward.follow(server)?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let serving = std::thread::spawn(move || serve(listener, config));

    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = config.with_client_cert_resolver(keyward.follow(client)?);
    let name = ServerName::try_from("localhost")?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, socket);
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    print!("{text}");
    serving.join().map_err(|_| "the server panicked")?
}
