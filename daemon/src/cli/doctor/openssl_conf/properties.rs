//! Settings that make OpenSSL choose providers by their properties (property(7)).

use super::conf::{CHECK, Conf, KEYWARD, is_yes};
use crate::cli::doctor::finding::Finding;

/// Checks the settings that demand or prefer properties.
pub(super) fn check(conf: &Conf<'_>) -> Vec<Finding> {
    let path = conf.path.display();
    let mut findings = Vec::new();
    for name in ["default_properties", "propquery"] {
        for (section, value) in conf.settings.sections_with(name) {
            let is_harmless = |clause: &str| clause.starts_with(['?', '-']) || clause.contains("!=");
            let mut clauses = value.split(',').map(str::trim).filter(|clause| !clause.is_empty());
            let setting = format!("[{section}] of {path} has {name} = {value}");
            let fix = format!("remove {name} from [{section}]: OpenSSL finds the keys of keyward without it");
            findings.push(if value.contains(KEYWARD) {
                let why = "so OpenSSL asks keyward first, also to make keys and to verify, which it does not support: \
                           handshakes on P-256 end with \"no suitable key share\"";
                Finding::fail(CHECK, format!("{setting}, {why}"), fix)
            } else if clauses.all(is_harmless) {
                let why = "by which OpenSSL chooses among providers for the whole process";
                Finding::warn(CHECK, format!("{setting}, {why}"), fix)
            } else {
                let why = "which keyward does not have, so its keys cannot sign";
                Finding::fail(CHECK, format!("{setting}, {why}"), fix)
            });
        }
    }
    for (section, value) in conf.settings.sections_with("fips_mode") {
        if is_yes(value) {
            findings.push(Finding::fail(
                CHECK,
                format!(
                    "[{section}] of {path} has fips_mode = {value}, which demands the property fips=yes; keyward does not \
                     have it, so its keys cannot sign"
                ),
                format!("remove fips_mode from [{section}]"),
            ));
        }
    }
    findings
}
