//! An HTTPS server with axum: `https LABEL ADDRESS:PORT`.
use std::sync::Arc;

use axum::{Router, routing::get};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use keyward_rustls::{Keyward, handshake::Acceptor};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let Ok([label, address]) = <[String; 2]>::try_from(words) else {
        return Err("usage: https LABEL ADDRESS:PORT".into());
    };
    // Waits for the daemon, so not on a thread of the runtime.
    let key = spawn_blocking(move || Keyward::from_env()?.follow(&label)).await??;
    let config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(key);
    let acceptor = Acceptor::new(Arc::new(config));
    let pages = TowerToHyperService::new(Router::new().route("/", get(async || "served\n")));

    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, pages) = (acceptor.clone(), pages.clone());
        tokio::spawn(async move {
            match acceptor.accept(stream).await {
                Ok(stream) => {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), pages).await;
                }
                Err(error) => eprintln!("cannot shake hands: {error}"),
            }
        });
    }
}
