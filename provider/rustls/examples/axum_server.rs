//! An HTTPS server with axum-server: `axum_server LABEL ADDRESS:PORT`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, routing::get};
use axum_server::tls_rustls::RustlsConfig;
use keyward_rustls::Daemon;
use rustls::ServerConfig;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [label, address] = &words[..] else { return Err("which key, and where to listen?".into()) };
    let key = Daemon::from_env()?.follow(label)?;
    let config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(key);
    let config = RustlsConfig::from_config(Arc::new(config));
    let pages = Router::new().route("/", get(async || "served\n"));
    let address: SocketAddr = address.parse()?;
    axum_server::bind_rustls(address, config).serve(pages.into_make_service()).await?;
    Ok(())
}
