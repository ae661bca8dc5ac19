//! Seam between the pool and its units: what a kind of backend implements to use the pool.

use core::future::Future;
use core::time::Duration;

use keyward_unit::Wkid;

use super::failure::Failure;
use crate::backend::Trace;

/// Way to one unit.
pub(in crate::backend) trait Driver: Send + Sync + Sized + 'static {
    type Connection: Connection;
    /// Facts that a probe finds out in addition, such as the mechanisms of the unit.
    type Found: Send + 'static;

    /// Address of the unit, for people.
    fn address(&self) -> &str;

    /// Opens a connection. The pool limits the time.
    ///
    /// # Errors
    /// [`Failure`] says how far it came.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;

    /// Opens a connection and asks what the unit offers. The pool limits the time.
    ///
    /// # Errors
    /// [`Failure`] says how far it came.
    fn probe(&self) -> impl Future<Output = Result<(Self::Connection, Self::Found), Failure>> + Send;

    /// Keeps the facts of a probe. `recovered` if the unit was down before.
    fn learn(&self, found: Self::Found, recovered: bool);

    /// Makes a key at the unit, signs with it and verifies the signature. The pool limits the time.
    ///
    /// # Errors
    /// [`Failure::WrongSignature`] if the unit errs; other failures if that cannot be found out.
    fn examine(&self, connection: &Self::Connection) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Connection to a unit, used by one thread and by many requests at a time.
pub(in crate::backend) trait Connection: Send + Sync + 'static {
    /// Master key of the unit when the connection was opened.
    fn wkid(&self) -> Wkid;

    /// Time that a packet takes to the unit and back.
    fn round_trip(&self) -> Duration;

    /// True if the connection takes no more requests.
    fn is_closed(&self) -> bool;

    /// Waits until the connection takes no more requests.
    fn closed(&self) -> impl Future<Output = ()> + Send;
}

/// Operation with one key, which any unit with a master key of the key can do.
pub(in crate::backend) trait Operation<D: Driver>: Sync {
    /// Master keys that have wrapped the key.
    fn wkids(&self) -> &[Wkid];

    /// Has a unit do the operation.
    ///
    /// # Errors
    /// [`Failure`] says why the unit has not.
    fn ask(
        &self,
        driver: &D,
        connection: &D::Connection,
        trace: Trace,
    ) -> impl Future<Output = Result<Vec<u8>, Failure>> + Send;

    /// Checks the answer of a unit, and turns it into the form that TLS has.
    ///
    /// # Errors
    /// [`Failure::WrongSignature`] if the answer is not the one of a sound unit and a sound key.
    fn checked(&self, answer: Vec<u8>) -> Result<Vec<u8>, Failure>;
}
