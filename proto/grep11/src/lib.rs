//! GREP11, Enterprise PKCS #11 over gRPC: its messages, numbers, client and server.
//!
//! Everything but the [numbers](ckm) is generated from `grep11.proto`, whose comments say what is what. The
//! messages hold the fields of every public revision, so one schema serves old and new clients.

#![forbid(unsafe_code)]

mod numbers;
mod status;

pub use generated::*;
pub use numbers::{cka, ckf, ckk, ckm, cko, ckp, ckr, number};
pub use status::{Any, RpcStatus};

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/grep11.rs"));
}

/// The compiled `grep11.proto`, as an encoded FileDescriptorSet: for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/grep11.bin"));

/// The type of the detail that a failed call carries (google.protobuf.Any), which is a [`Grep11Error`].
pub const ERROR_TYPE_URL: &str = "type.googleapis.com/grep11.Grep11Error";
