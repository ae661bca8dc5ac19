//! Interface between the pool and its units. A kind of backend implements these traits to use the
//! pool.

use core::future::Future;
use core::time::Duration;

use keyward_unit::Wkid;

use super::failure::Failure;
use crate::backend::Trace;

/// Access to one unit.
pub(in crate::backend) trait Driver: Send + Sync + Sized + 'static {
    type Connection: Connection;
    /// Additional result of a probe, such as the mechanisms of the unit.
    type Found: Send + 'static;

    /// Address of the unit, for people.
    fn address(&self) -> &str;

    /// Opens a connection. The pool limits the time.
    ///
    /// # Errors
    /// [`Failure`] says why there is no connection.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;

    /// Opens a connection and asks which operations the unit offers. The pool limits the time.
    ///
    /// # Errors
    /// [`Failure`] says which step failed.
    fn probe(&self) -> impl Future<Output = Result<(Self::Connection, Self::Found), Failure>> + Send;

    /// Keeps the result of a probe. `recovered` is true if the unit was down before.
    fn learn(&self, found: Self::Found, recovered: bool);

    /// Makes a key at the unit, signs with it and verifies the signature. The pool limits the time.
    ///
    /// # Errors
    /// [`Failure::WrongSignature`] if the unit is faulty; other failures if that is not known.
    fn examine(&self, connection: &Self::Connection) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Connection to a unit, used by one thread and by many requests at a time.
pub(in crate::backend) trait Connection: Send + Sync + 'static {
    /// Master key of the unit when the connection was opened.
    fn wkid(&self) -> Wkid;

    /// Network round trip time to the unit.
    fn round_trip(&self) -> Duration;

    /// True if the connection takes no more requests.
    fn is_closed(&self) -> bool;

    /// Waits until the connection takes no more requests.
    fn closed(&self) -> impl Future<Output = ()> + Send;
}

/// Operation with one key. Any unit with a master key of the key can do the operation.
pub(in crate::backend) trait Operation<D: Driver>: Sync {
    /// Master keys that have wrapped the key.
    fn wkids(&self) -> &[Wkid];

    /// Asks a unit for the operation. Returns the answer, not checked.
    ///
    /// # Errors
    /// [`Failure`] says why the unit has not done the operation.
    fn ask(
        &self,
        driver: &D,
        connection: &D::Connection,
        trace: Trace,
    ) -> impl Future<Output = Result<Vec<u8>, Failure>> + Send;

    /// Checks the answer of a unit, and converts the answer to the form of TLS.
    ///
    /// # Errors
    /// [`Failure::WrongSignature`] if the signature is not valid for the public key.
    fn checked(&self, answer: Vec<u8>) -> Result<Vec<u8>, Failure>;
}
