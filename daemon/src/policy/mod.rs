//! Decides which peer may do which act with which key, and which user may ask for which
//! administrative act: pure functions over data, without a clock, a socket or a file.

pub mod act;
pub mod authorise;
pub mod purpose;
pub mod roles;
