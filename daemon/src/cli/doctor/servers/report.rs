//! The report about one server.

use crate::cli::doctor::finding::Finding;

/// Findings about one server, and the parts that were not checked.
#[derive(Default)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
    pub(super) unchecked: Vec<String>,
}

pub(in crate::cli::doctor) const CHECK: &str = "server";
