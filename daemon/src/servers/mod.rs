//! The TLS servers of this host, as their processes and their configurations show them. The command
//! line and keyward-deploy use this folder, and the daemon does not.

pub mod apache;
pub mod haproxy;
pub mod nginx;
pub mod processes;
pub mod served;
