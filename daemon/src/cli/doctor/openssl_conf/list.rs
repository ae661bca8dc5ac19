//! The list of providers in an openssl.cnf, and their sections.

use std::fs::File;
use std::io;

use super::conf::{CHECK, Conf, DEFAULT, KEYWARD, Provider, is_yes};
use super::loaded;
use super::settings::Settings;
use crate::cli::doctor::finding::Finding;
use crate::ground::text::quoted;

/// Checks the list and the sections of the providers, and how OpenSSL loads them.
pub(super) fn check(conf: &Conf<'_>, providers: &[Provider<'_>]) -> Vec<Finding> {
    let path = conf.path.display();
    let fail = |detail: String, fix: &str| Finding::fail(CHECK, detail, fix);
    if providers.iter().any(|one| one.section == Settings::TOP) {
        return vec![fail(
            format!("the section [default] of {path} is also the section of the settings at the top"),
            "give the section of the provider another name, for example [default_provider]",
        )];
    }
    let mut findings = Vec::new();
    let default_at = providers.iter().position(|one| one.name == DEFAULT);
    let keyward = conf.keyward(providers);
    if default_at.is_none() {
        findings.push(fail(
            format!(
                "{path} does not activate the provider default: it does not list it; with a list, OpenSSL has only the \
                 listed providers: no digests, no certificates, no key exchange"
            ),
            "list default = default_provider first, and add [default_provider] with activate = 1",
        ));
    }
    if keyward.is_none() {
        findings.push(fail(
            format!("{path} does not activate the provider keyward: it does not list it"),
            "list it after default, and give it a section with activate = 1 and module = its file",
        ));
    }
    let keyward_at =
        keyward.and_then(|keyward| providers.iter().position(|one| one.section == keyward.section));
    if let (Some(default), Some(keyward)) = (default_at, keyward_at)
        && keyward < default
    {
        findings.push(fail(
            format!(
                "{path} lists {KEYWARD} before {DEFAULT}, so OpenSSL asks it to make keys and to verify, which it does \
                 not support"
            ),
            "list default first: OpenSSL asks providers in this order",
        ));
    }
    if let Some(keyward) = keyward.filter(|keyward| keyward.name < DEFAULT) {
        findings.push(fail(
            format!(
                "{path} calls the provider {:?}, which sorts before \"default\": when a program looks up a provider by \
                 name, OpenSSL sorts all of them, and then asks this one first",
                keyward.name
            ),
            "call it keyward in the list of providers, and leave out identity",
        ));
    }
    let default = default_at.map(|at| &providers[at]);
    findings.extend(default.and_then(|default| check_section(conf, default)));
    findings.extend(
        keyward.and_then(|keyward| check_section(conf, keyward).or_else(|| check_module(conf, keyward))),
    );
    if findings.is_empty() {
        // Each fault above may keep OpenSSL from loading any provider, so ask OpenSSL only now.
        findings.extend(default.and_then(|default| loaded::check(conf, default, false)));
        findings.extend(keyward.and_then(|keyward| loaded::check(conf, keyward, true)));
    }
    findings
}

/// Checks the section of a provider.
pub(super) fn check_section(conf: &Conf<'_>, provider: &Provider<'_>) -> Option<Finding> {
    let Provider { name, section, exists } = provider;
    let path = conf.path.display();
    if !exists {
        return Some(Finding::fail(
            CHECK,
            format!("{path} does not activate the provider {name}: there is no section [{section}]"),
            format!("add [{section}] with activate = 1"),
        ));
    }
    let fix = format!("put activate = 1 into [{section}]");
    match conf.settings.value(section, "activate") {
        None => Some(Finding::fail(
            CHECK,
            format!("{path} does not activate the provider {name}: [{section}] has no activate = 1"),
            fix,
        )),
        Some(value) if is_yes(value) || value.contains('$') => None,
        Some(value) => Some(Finding::fail(
            CHECK,
            format!(
                "[{section}] of {path} has activate = {value}: OpenSSL 3.0 to 3.2 activates the provider {name} for any \
                 value, OpenSSL 3.3 and later do not"
            ),
            format!("{fix}, or remove the provider from the list"),
        )),
    }
}

/// Checks the module file of our provider without loading the file.
fn check_module(conf: &Conf<'_>, provider: &Provider<'_>) -> Option<Finding> {
    let file = conf.module(provider)?;
    let (path, shown) = (conf.path.display(), file.display());
    let setting = conf.settings.value(provider.section, "module");
    let setting = setting.map_or("no module".to_owned(), |module| format!("module = {module}"));
    let fail = |why: String, fix: String| {
        Some(Finding::fail(
            CHECK,
            format!(
                "[{}] of {path} has {setting}: {why}; OpenSSL goes on without the provider, and reports no error",
                provider.section
            ),
            fix,
        ))
    };
    match File::open(&file).and_then(|file| file.metadata()) {
        Ok(found) if found.is_file() => None,
        Ok(_) => fail(format!("{shown} is not a file"), "name the file keyward.so".into()),
        Err(error) => {
            let whole = file.with_extension("so");
            let fix = if file.extension().is_none() && whole.is_file() {
                format!("write the whole name: module = {}", whole.display())
            } else if error.kind() == io::ErrorKind::NotFound {
                format!("install keyward.so as {shown}, or name its path in module")
            } else {
                format!(
                    "chmod a+r {}, and let everyone pass the directories above it (chmod a+x)",
                    quoted(&file)
                )
            };
            fail(format!("cannot read {shown}: {error}"), fix)
        }
    }
}
