//! Signs as a TLS 1.3 server does in a handshake: `sign LABEL`.
//!
//! The daemon is at the socket that KEYWARD_SOCKET names, or at the default socket.

use std::error::Error;

use keyward_client::{Address, Client, Input, KeyId, Label};

fn main() -> Result<(), Box<dyn Error>> {
    let label: Label = std::env::args().nth(1).ok_or("usage: sign LABEL")?.parse()?;
    let address = match std::env::var("KEYWARD_SOCKET") {
        Ok(socket) => socket.parse()?,
        Err(_) => Address::DEFAULT,
    };
    let client = Client::new(address, Client::DEFAULT_TIMEOUT);
    let described = client.describe(&label, 0)?;
    let key_type = described.key_type.ok_or("a type of key that this program does not know")?;
    println!("key {label}, version {}, {key_type}", described.version);

    // RFC 8446, 4.4.3; a server puts the hash of the handshake so far at the end.
    let message = [&[0x20; 64][..], b"TLS 1.3, server CertificateVerify\0", &[0; 32]].concat();
    let scheme = *key_type.schemes().first().ok_or("a key that cannot sign")?;
    let key = KeyId::new(&label, described.version);
    let signature = client.sign(key, scheme, Input::Message(&message))?;
    println!("{scheme}: {} bytes", signature.as_ref().len());
    Ok(())
}
