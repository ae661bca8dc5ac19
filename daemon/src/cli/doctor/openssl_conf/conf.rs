//! The providers that an openssl.cnf lists, and the socket that it names.

use std::path::{Path, PathBuf};

use super::files::{module_file, refuse_pipe};
use super::settings::Settings;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::openssl_program;
use crate::cli::doctor::socket::SocketSetting;

/// An openssl.cnf that could be read.
pub(in crate::cli::doctor) struct Conf<'a> {
    pub(super) path: &'a Path,
    pub(super) settings: Settings,
}

/// A provider that the file lists.
pub(super) struct Provider<'a> {
    /// Name of the provider in OpenSSL.
    pub(super) name: &'a str,
    pub(super) section: &'a str,
    /// True if the section exists.
    pub(super) exists: bool,
}

impl<'a> Conf<'a> {
    /// Reads the file.
    ///
    /// # Errors
    /// A finding, if the file cannot be read.
    pub(in crate::cli::doctor) fn open(path: &'a Path) -> Result<Self, Finding> {
        let failed = |error| {
            let detail = format!("cannot read {}: {error}", path.display());
            let fix = format!(
                "start from the file that keyward ships: {}, or conf/openssl.cnf in its source",
                openssl_program::CONF
            );
            Finding::fail(CHECK, detail, fix)
        };
        let settings = refuse_pipe(path).and_then(|()| Settings::open(path));
        Ok(Self { path, settings: settings.map_err(failed)? })
    }

    /// The setting `socket` of the provider keyward.
    pub(in crate::cli::doctor) fn socket(&self) -> Option<SocketSetting> {
        let providers = self.providers().ok()?;
        let section = self.keyward(&providers)?.section;
        let socket = self.settings.value(section, "socket").filter(|socket| !socket.contains('$'))?;
        Some(SocketSetting {
            socket: socket.to_owned(),
            setting: "socket in openssl.cnf",
            source: format!("socket of {}", self.path.display()),
        })
    }

    /// The setting `module` of the provider keyward, without a variable.
    pub(in crate::cli::doctor) fn module_name(&self) -> Option<String> {
        let providers = self.providers().ok()?;
        let section = self.keyward(&providers)?.section;
        self.settings.value(section, "module").filter(|module| !module.contains('$')).map(str::to_owned)
    }

    /// The listed providers in their order.
    ///
    /// # Errors
    /// A finding, if OpenSSL finds no list.
    pub(super) fn providers(&self) -> Result<Vec<Provider<'_>>, Finding> {
        let path = self.path.display();
        let Some(init) = self.settings.value(Settings::TOP, "openssl_conf") else {
            let elsewhere = self.settings.sections_with("openssl_conf");
            let why = match elsewhere.first() {
                Some((section, _)) => format!("is in section [{section}] of {path}"),
                None => format!("is missing in {path}"),
            };
            return Err(Finding::fail(
                CHECK,
                format!("openssl_conf {why}, so OpenSSL activates none of the listed providers"),
                "put openssl_conf = openssl_init above the first section, and providers = ... into [openssl_init]",
            ));
        };
        let missing = |what: String, fix: String| {
            Err(Finding::fail(CHECK, format!("{path} activates no provider: {what}"), fix))
        };
        let Some(list) = self.settings.value(init, "providers") else {
            return missing(
                format!("openssl_conf names section [{init}], which has no providers = ..."),
                format!(
                    "put providers = providers into [{init}], and list default and keyward in [providers]"
                ),
            );
        };
        let Some(list) = self.settings.section(list) else {
            return missing(
                format!("there is no section [{list}], which lists the providers"),
                format!("add [{list}] with default = ... and keyward = ..."),
            );
        };
        let providers = list.iter().map(|(name, section)| Provider {
            name: self.settings.value(section, "identity").unwrap_or(after_dot(name)),
            section,
            exists: self.settings.section(section).is_some(),
        });
        Ok(providers.collect())
    }

    /// The provider keyward: the provider with that name or, if none has it, with our module.
    pub(super) fn keyward<'b>(&self, providers: &'b [Provider<'b>]) -> Option<&'b Provider<'b>> {
        let has_our_module = |one: &&Provider<'_>| {
            let module = self.settings.value(one.section, "module").map(Path::new);
            let file = module.and_then(Path::file_name).and_then(|name| name.to_str());
            file.is_some_and(|file| file.contains("keyward"))
        };
        providers.iter().find(|one| one.name == KEYWARD).or_else(|| providers.iter().find(has_our_module))
    }

    /// The module file of a provider; `None` if its name has a variable, or the module directory of
    /// OpenSSL is unknown.
    pub(super) fn module(&self, provider: &Provider<'_>) -> Option<PathBuf> {
        let name = match self.settings.value(provider.section, "module") {
            Some(module) if module.contains('$') => return None,
            Some(module) => module.to_owned(),
            None => format!("{}.so", provider.name),
        };
        module_file(&name)
    }
}

/// The part of a name that OpenSSL uses. It skips everything up to the first dot, so that a name
/// can be given twice.
fn after_dot(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, name)| name)
}

/// True for the values that OpenSSL 3.3 and later take for yes, in capital or small letters.
pub(super) fn is_yes(value: &str) -> bool {
    ["1", "yes", "true", "on"].iter().any(|yes| yes.eq_ignore_ascii_case(value))
}

pub(super) const CHECK: &str = "openssl.cnf";
/// Name of the provider of OpenSSL itself.
pub(super) const DEFAULT: &str = "default";
/// Name of our provider.
pub(super) const KEYWARD: &str = "keyward";
