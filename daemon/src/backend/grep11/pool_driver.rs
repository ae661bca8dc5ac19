//! Interface of the pool to the driver of one unit. In a file of its own because an examination
//! needs an operation, and operations need the driver.

use keyward_proto::{KeyType, Scheme};
use keyward_unit::SigningInput;

use super::connection::Connection;
use super::driver::Grep11Driver;
use super::operation::KeyOperation;
use crate::backend::pool::{Driver, Failure, Operation};
use crate::backend::{Abilities, KeyMaterial, Trace, random};

impl Driver for Grep11Driver {
    type Connection = Connection;
    type Found = Vec<u64>;

    fn address(&self) -> &str {
        &self.address
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        self.connect_with(self.access.tls()).await
    }

    async fn probe(&self) -> Result<(Connection, Vec<u64>), Failure> {
        let connection = self.connect().await?;
        let mechanisms = connection.mechanisms().await?;
        Ok((connection, mechanisms))
    }

    fn learn(&self, mechanisms: Vec<u64>, recovered: bool) {
        self.learn_mechanisms(mechanisms, recovered);
    }

    async fn examine(&self, connection: &Connection) -> Result<(), Failure> {
        let pair = connection.generate(KEY_TYPE, Abilities::SIGNS).await?;
        let key = KeyMaterial { key_type: KEY_TYPE, spki: &pair.spki, blob: &pair.blob, next_blob: None };
        let message = SigningInput::Message(b"keyward: signature of a unit in doubt");
        let operation = KeyOperation::sign(key, SCHEME, message).map_err(Failure::severe)?;
        let answer = operation.ask(self, connection, Trace::new(random(), 0)).await?;
        operation.checked(answer).map(drop)
    }
}

/// Type and scheme of the key of an examination: the type that a unit makes fastest.
const KEY_TYPE: KeyType = KeyType::P256;
const SCHEME: Scheme = Scheme::EcdsaSecp256r1Sha256;
