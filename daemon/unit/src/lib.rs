//! The software crypto unit: the only place where a private key exists in the clear.
//!
//! A [`Unit`] generates or imports a private key and returns it as a *blob*, wrapped by the master
//! key. Anyone who brings the blob back gets signatures. The unit has no key store and does not
//! know labels or peers: its caller decides what may be signed, and for whom. The unit never
//! returns a private key in the clear.

#![forbid(unsafe_code)]

pub mod administration;
mod blob;
mod cache;
mod error;
pub mod grep11;
mod header;
mod import;
mod key;
mod master_key;
mod object;
mod pem;
mod pkcs8;
mod premaster;
mod profile;
mod rsa_numbers;
#[cfg(test)]
mod test_openssl;
mod transport;
mod unfold;
mod unit;
mod wkid;

pub use error::UnitError;
pub use grep11::{parameter_set, spki_of_public_key_blob};
pub use header::Header;
pub use import::{Form, ImportError, KeyFile, KeyName, Kind};
pub use key::SigningInput;
pub use master_key::{InvalidMasterKey, MasterKey};
pub use pem::public_key_of_file;
pub use premaster::PREMASTER;
pub use profile::{Profile, UnknownProfile};
pub use transport::{Transported, transport};
pub use unfold::unfolded;
pub use unit::{NewKey, Unit};
pub use wkid::{InvalidWkid, Wkid};
