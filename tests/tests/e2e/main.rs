//! Keyward from end to end: the daemon, the provider and the adapter in real servers and clients.
//!
//! One program, because linking one for each module takes minutes. To run one module, or one test:
//! `cargo test --release -p keyward-tests --test e2e versions::`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod acme;
mod asynchronous;
mod audit;
mod ceremony;
mod certbot;
mod certificates;
mod client_certificates;
mod configurations;
mod containers;
mod csr;
mod doctor;
mod examples;
mod finite_fields;
mod golden;
mod grep11;
mod handshakes;
mod hosts;
mod key_files;
mod links;
mod master_key;
mod memory;
mod ml_dsa;
mod monitoring;
mod nginx_upgrade;
mod openssl;
mod packages;
mod pages;
mod protect;
mod purpose;
mod reference_files;
mod releases;
mod remote_keys;
mod resumption;
mod rsa_key_exchange;
mod rustls_tonic;
mod secrets;
mod servers;
mod signature_algorithms;
mod status_page;
mod users;
mod versions;
