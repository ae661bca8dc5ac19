//! An openssl.cnf: whether servers load the provider by it, and use the provider only for its keys.
//!
//! OpenSSL takes the first registered provider that fits, and sorts providers by name as soon as a
//! program looks up a provider by its name. The other traps are in config(5).

mod conf;
mod files;
mod includes;
mod list;
mod loaded;
mod owners;
mod properties;
mod settings;

use std::path::{Path, PathBuf};

pub(super) use conf::Conf;
pub(super) use files::module_file;
pub(in crate::cli) use owners::check_owners;

use super::account::Account;
use super::finding::{Finding, Verdict};
use super::openssl_program;
use conf::CHECK;

/// Checks an openssl.cnf for every known trap, also for the user of a server where named.
pub(super) fn check(conf: &Conf<'_>, account: Option<&Account>) -> Vec<Finding> {
    let mut findings = match conf.providers() {
        Ok(providers) => list::check(conf, &providers),
        // An included file may have the missing setting, so OpenSSL is asked for the result.
        Err(_) if !conf.settings.includes().is_empty() => loaded::check_included(conf),
        Err(finding) => vec![finding],
    };
    findings.extend(properties::check(conf));
    if let Some(account) = account {
        findings.extend(unreadable(conf, account));
    }
    findings.extend(of_system(conf));
    if findings.is_empty() {
        findings.extend(includes::missing(conf));
        findings.extend(includes::replaced_providers(conf));
    }
    if findings.is_empty() {
        let detail = format!("{} activates default, then keyward", conf.path.display());
        findings.push(Finding::ok(CHECK, detail));
    }
    findings
}

/// Opens and checks an openssl.cnf, and returns only the faults.
pub(super) fn faults(path: &Path, account: Option<&Account>) -> Vec<Finding> {
    let findings = Conf::open(path).map_or_else(|finding| vec![finding], |conf| check(&conf, account));
    findings.into_iter().filter(|finding| finding.verdict != Verdict::Ok).collect()
}

/// Warns of files that a user cannot read. Servers that start as root, and change to that user
/// later, can.
fn unreadable(conf: &Conf<'_>, account: &Account) -> Vec<Finding> {
    let Ok(providers) = conf.providers() else { return Vec::new() };
    let module = conf.keyward(&providers).and_then(|keyward| conf.module(keyward));
    let files = [Some(conf.path.to_owned()), module].into_iter().flatten();
    let finding = |file: PathBuf| {
        let reason = account.cannot_read(&file)?;
        Some(Finding::warn(
            CHECK,
            format!("{reason}: only servers that start as root can use {}", file.display()),
            "let everyone read it; it holds no secret: chmod a+r, and a+x for its directories",
        ))
    };
    files.filter_map(finding).collect()
}

/// Warns if the file is the openssl.cnf of the system.
fn of_system(conf: &Conf<'_>) -> Option<Finding> {
    openssl_program::is_of_system(conf.path).then(|| {
        Finding::warn(
            CHECK,
            format!(
                "{} is the file of the system: every program on OpenSSL, such as sshd and curl, loads keyward too",
                conf.path.display()
            ),
            format!(
                "give the server a file of its own: Environment=OPENSSL_CONF={} for its service",
                openssl_program::CONF
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::settings::Settings;
    use super::*;

    /// A line of an openssl.cnf, in the right place or not.
    fn line() -> impl Strategy<Value = String> {
        let section = "init|list|a|b|default|keyward|";
        let setting = "openssl_conf|providers|default|keyward|x\\.keyward|identity|activate|module|socket|\
                       default_properties|propquery|fips_mode|";
        let value = "init|list|a|b|default|keyward|1|no|/keyward\\.so|\\$x|\\?provider=keyward|fips=yes,,-x|";
        prop_oneof![
            section.prop_map(|section| format!("[{section}]\n")),
            (setting, value).prop_map(|(setting, value)| format!("{setting} = {value}\n")),
            (section, setting, value)
                .prop_map(|(section, setting, value)| format!("{section}::{setting} = {value}\n")),
            "(\\.include x|[ -~\u{1b}\u{fc}]{0,20}\\\\?)\n",
        ]
    }

    proptest! {
        #[test]
        fn any_settings_are_judged(lines in prop::collection::vec(line(), 0..40), starts: bool) {
            let start = if starts { "openssl_conf = init\n[init]\nproviders = list\n[list]\n" } else { "" };
            let settings = Settings::read(&[start, &lines.concat()].concat());
            let conf = Conf { path: Path::new("/openssl.cnf"), settings };
            let mut findings = properties::check(&conf);
            match conf.providers() {
                Ok(providers) => {
                    prop_assert!(providers.len() <= lines.len());
                    findings.extend(providers.iter().filter_map(|one| list::check_section(&conf, one)));
                    prop_assert!(conf.socket().is_none() || conf.keyward(&providers).is_some());
                }
                Err(finding) => {
                    prop_assert!(conf.socket().is_none());
                    findings.push(finding);
                }
            }
            for finding in findings {
                prop_assert!(finding.verdict != Verdict::Ok && finding.fix.is_some(), "{finding:?}");
                prop_assert_eq!(finding.detail.lines().count(), 1, "{:?}", finding);
            }
        }
    }
}
