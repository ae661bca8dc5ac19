//! An HTTPS server with axum-server: `axum_server LABEL ADDRESS:PORT`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, routing::get};
use axum_server::tls_rustls::RustlsConfig;
use keyward_rustls::Keyward;
use rustls::ServerConfig;
use tokio::task::spawn_blocking;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let Ok([label, address]) = <[String; 2]>::try_from(words) else {
        return Err("usage: axum_server LABEL ADDRESS:PORT".into());
    };
    // Waits for the daemon, so not on a thread of the runtime.
    let key = spawn_blocking(move || Keyward::from_env()?.follow(&label)).await??;
    let config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(key);
    let config = RustlsConfig::from_config(Arc::new(config));
    let pages = Router::new().route("/", get(async || "served\n"));
    let address: SocketAddr = address.parse()?;
    axum_server::bind_rustls(address, config).serve(pages.into_make_service()).await?;
    Ok(())
}
