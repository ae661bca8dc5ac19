//! Files that an openssl.cnf includes.

use std::path::Path;

use super::conf::{CHECK, Conf};
use super::files::refuse_pipe;
use super::settings::Settings;
use crate::cli::doctor::finding::Finding;

/// Warns of included files that do not exist.
pub(super) fn missing(conf: &Conf<'_>) -> impl Iterator<Item = Finding> {
    let is_missing =
        |file: &&String| file.starts_with('/') && !file.contains('$') && !Path::new(file).exists();
    conf.settings.includes().iter().filter(is_missing).map(|file| {
        Finding::warn(
            CHECK,
            format!(
                "{} includes {file}, which does not exist: OpenSSL reports no error, and a TLS policy of the system is \
                 not in force",
                conf.path.display()
            ),
            "name the file of the system: openssl.cnf in the directory that openssl version -d prints",
        )
    })
}

/// Warns if an included file, such as the file of the system, lists its providers under another
/// name, so that OpenSSL does not read that list.
pub(super) fn replaced_providers(conf: &Conf<'_>) -> Option<Finding> {
    let init = conf.settings.value(Settings::TOP, "openssl_conf")?;
    let ours = conf.settings.value(init, "providers")?;
    conf.settings.includes().iter().find_map(|file| {
        refuse_pipe(Path::new(file)).ok()?;
        let included = Settings::open(Path::new(file)).ok()?;
        let theirs = included.value(init, "providers").filter(|theirs| *theirs != ours)?;
        let path = conf.path.display();
        Some(Finding::warn(
            CHECK,
            format!(
                "{file} lists its providers in [{theirs}], and {path}, which includes {file}, lists its own in [{ours}]: \
                 the providers of {file} are not activated"
            ),
            format!("replace {ours} by {theirs} in {path}"),
        ))
    })
}
