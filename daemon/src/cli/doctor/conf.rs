//! An openssl.cnf: whether what it says makes servers use the provider, and use it for nothing but its keys.
//!
//! The traps are those of config(5) and of how OpenSSL chooses among providers: it takes the first one that is
//! registered, and sorts them by name as soon as anybody looks one up by its name.

mod files;

use std::path::{Path, PathBuf};

use super::reach::{Person, Told};
use super::settings::Settings;
use super::{Finding, Verdict, openssl};
pub(in crate::cli) use files::check_owners;

/// An openssl.cnf that could be read.
pub(super) struct Conf<'a> {
    path: &'a Path,
    settings: Settings,
}

/// A provider as the file has it.
struct Provider<'a> {
    /// What OpenSSL knows it by.
    name: &'a str,
    section: &'a str,
    /// Whether the section is there.
    exists: bool,
}

impl<'a> Conf<'a> {
    /// Reads the file.
    ///
    /// # Errors
    /// Why it cannot be read, as a finding.
    pub(super) fn open(path: &'a Path) -> Result<Self, Finding> {
        let failed = |error| {
            let detail = format!("cannot read {}: {error}", path.display());
            let mend = format!(
                "start from the one that keyward ships: {}, conf/openssl.cnf in its source",
                openssl::CONF
            );
            Finding::fail(CHECK, detail, mend)
        };
        let settings = files::refuse_pipe(path).and_then(|()| Settings::open(path));
        Ok(Self { path, settings: settings.map_err(failed)? })
    }

    /// What the section of our provider calls `socket`.
    pub(super) fn socket(&self) -> Option<Told> {
        let list = self.providers().ok()?;
        let section = self.ours(&list)?.section.to_owned();
        let socket = self.settings.value(&section, "socket").filter(|socket| !socket.contains('$'))?;
        Some(Told {
            socket: socket.to_owned(),
            setting: "socket in openssl.cnf",
            source: format!("socket of {}", self.path.display()),
        })
    }

    /// Every trap in it; or that there is none.
    pub(super) fn findings(&self, user: Option<&Person>) -> Vec<Finding> {
        let mut findings = match self.providers() {
            Ok(list) => self.listed(&list),
            // What is not here may be in a file that it includes: OpenSSL is asked what comes of it.
            Err(_) if !self.settings.includes().is_empty() => self.included(),
            Err(finding) => vec![finding],
        };
        findings.extend(self.properties());
        if let (Some(user), Ok(list)) = (user, self.providers()) {
            findings.extend(self.readable(user, &list));
        }
        findings.extend(self.for_everything());
        if findings.is_empty() {
            findings.extend(self.missing_includes());
            findings.extend(self.lost_providers());
        }
        if findings.is_empty() {
            let detail = format!("{} activates default, then keyward", self.path.display());
            findings.push(Finding::ok(CHECK, detail));
        }
        findings
    }

    /// The providers in their order.
    fn providers(&self) -> Result<Vec<Provider<'_>>, Finding> {
        let path = self.path.display();
        let Some(init) = self.settings.value(Settings::TOP, "openssl_conf") else {
            let elsewhere = self.settings.with("openssl_conf");
            let why = match elsewhere.first() {
                Some((section, _)) => format!("stands in section [{section}] of {path}"),
                None => format!("is missing in {path}"),
            };
            return Err(Finding::fail(
                CHECK,
                format!("openssl_conf {why}, so OpenSSL activates nothing that the file lists"),
                "put openssl_conf = openssl_init above the first section, and providers = ... into [openssl_init]",
            ));
        };
        let missing = |what: String, mend: String| {
            Err(Finding::fail(CHECK, format!("{path} activates nothing: {what}"), mend))
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

    /// Our provider among those of the list, whatever its name.
    fn ours<'b>(&self, list: &'b [Provider<'b>]) -> Option<&'b Provider<'b>> {
        let module_is_ours = |one: &&Provider<'_>| {
            let module = self.settings.value(one.section, "module").map(Path::new);
            let file = module.and_then(Path::file_name).and_then(|name| name.to_str());
            file.is_some_and(|file| file.contains("keyward"))
        };
        list.iter().find(|one| one.name == OURS).or_else(|| list.iter().find(module_is_ours))
    }

    /// What the list of providers and their sections say, and what OpenSSL makes of them.
    fn listed(&self, list: &[Provider<'_>]) -> Vec<Finding> {
        let path = self.path.display();
        let fail = |detail: String, mend: &str| Finding::fail(CHECK, detail, mend);
        if list.iter().any(|one| one.section == Settings::TOP) {
            return vec![fail(
                format!("the section [default] of {path} is also that of the settings at the top"),
                "give the section of the provider another name, for example [default_provider]",
            )];
        }
        let mut findings = Vec::new();
        let default = list.iter().position(|one| one.name == DEFAULT);
        let ours = self.ours(list);
        if default.is_none() {
            findings.push(fail(
                format!(
                    "{path} does not activate the provider default: it does not list it, and as soon as any is \
                     activated, there is none but those: no digests, no certificates, no key exchange"
                ),
                "list default = default_provider first, and add [default_provider] with activate = 1",
            ));
        }
        if ours.is_none() {
            findings.push(fail(
                format!("{path} does not activate the provider keyward: it does not list it"),
                "list it behind default, and give it a section with activate = 1 and module = its file",
            ));
        }
        let ours_at = ours.and_then(|ours| list.iter().position(|one| one.section == ours.section));
        if let (Some(default), Some(keyward)) = (default, ours_at)
            && keyward < default
        {
            findings.push(fail(
                format!(
                    "{path} lists keyward before default, so OpenSSL asks it to make keys and to verify, which it \
                     does not do"
                ),
                "list default first: OpenSSL asks providers in this order",
            ));
        }
        if let Some(ours) = ours.filter(|ours| ours.name < DEFAULT) {
            findings.push(fail(
                format!(
                    "{path} calls the provider {:?}, which sorts before \"default\": where a program looks up a \
                     provider by name, OpenSSL sorts them, and asks this one first",
                    ours.name
                ),
                "call it keyward in the list of providers, and leave out identity",
            ));
        }
        let default = default.map(|at| &list[at]);
        findings.extend(default.and_then(|default| self.section(default)));
        findings.extend(ours.and_then(|ours| self.section(ours).or_else(|| self.module(ours))));
        if findings.is_empty() {
            // One mistake may keep OpenSSL from everything, so it is asked only if there is none to be seen.
            findings.extend(default.and_then(|default| self.loaded(default, false)));
            findings.extend(ours.and_then(|ours| self.loaded(ours, true)));
        }
        findings
    }

    /// Files that are to be included and are not there.
    fn missing_includes(&self) -> impl Iterator<Item = Finding> {
        let missing =
            |file: &&String| file.starts_with('/') && !file.contains('$') && !Path::new(file).exists();
        self.settings.includes().iter().filter(missing).map(|file| {
            Finding::warn(
                CHECK,
                format!(
                    "{} includes {file}, which is not there: OpenSSL passes over it without a word, so a policy of the \
                     system for TLS is not in force",
                    self.path.display()
                ),
                "name the file of the system, openssl.cnf in the directory of: openssl version -d",
            )
        })
    }

    /// Providers of an included file, such as that of the system, whose list another one takes the
    /// place of.
    fn lost_providers(&self) -> Option<Finding> {
        let init = self.settings.value(Settings::TOP, "openssl_conf")?;
        let ours = self.settings.value(init, "providers")?;
        self.settings.includes().iter().find_map(|file| {
            files::refuse_pipe(Path::new(file)).ok()?;
            let included = Settings::open(Path::new(file)).ok()?;
            let theirs = included.value(init, "providers").filter(|theirs| *theirs != ours)?;
            let path = self.path.display();
            Some(Finding::warn(
                CHECK,
                format!(
                    "{file} lists its providers in [{theirs}], and {path}, which includes it, in [{ours}]: those of {file} \
                     are not activated"
                ),
                format!("write {theirs} in the place of {ours} in {path}"),
            ))
        })
    }

    /// What is wrong with the section of a provider.
    fn section(&self, provider: &Provider<'_>) -> Option<Finding> {
        let Provider { name, section, exists } = provider;
        let path = self.path.display();
        if !exists {
            return Some(Finding::fail(
                CHECK,
                format!("{path} does not activate the provider {name}: there is no section [{section}]"),
                format!("add [{section}] with activate = 1"),
            ));
        }
        let mend = format!("put activate = 1 into [{section}]");
        match self.settings.value(section, "activate") {
            None => Some(Finding::fail(
                CHECK,
                format!("{path} does not activate the provider {name}: [{section}] has no activate = 1"),
                mend,
            )),
            Some(value) if TRUE.iter().any(|one| one.eq_ignore_ascii_case(value)) || value.contains('$') => {
                None
            }
            Some(value) => Some(Finding::fail(
                CHECK,
                format!(
                    "[{section}] of {path} has activate = {value}: OpenSSL 3.0 to 3.2 activates the provider {name} \
                     whatever the value, from 3.3 on it does not"
                ),
                format!("{mend}, or take the provider out of the list"),
            )),
        }
    }

    /// What is wrong with the file of our provider, as far as that can be seen without loading it.
    fn module(&self, provider: &Provider<'_>) -> Option<Finding> {
        let file = self.file(provider)?;
        let (path, shown) = (self.path.display(), file.display());
        let said = self.settings.value(provider.section, "module");
        let said = said.map_or("no module".to_owned(), |module| format!("module = {module}"));
        let fail = |why: String, mend: String| {
            Some(Finding::fail(
                CHECK,
                format!(
                    "[{}] of {path} has {said}: {why}; OpenSSL does without it and says nothing",
                    provider.section
                ),
                mend,
            ))
        };
        match std::fs::File::open(&file).and_then(|file| file.metadata()) {
            Ok(found) if found.is_file() => None,
            Ok(_) => fail(format!("{shown} is not a file"), "name the file keyward.so".into()),
            Err(error) => {
                let whole = file.with_extension("so");
                let mend = if file.extension().is_none() && whole.is_file() {
                    format!("write it whole: module = {}", whole.display())
                } else if error.kind() == std::io::ErrorKind::NotFound {
                    format!("install keyward.so as {shown}, or name in module where it is")
                } else {
                    format!("chmod a+r {shown}, and let everyone pass the directories above it")
                };
                fail(format!("cannot read {shown}: {error}"), mend)
            }
        }
    }

    /// The file of a provider; `None` if that cannot be told.
    fn file(&self, provider: &Provider<'_>) -> Option<PathBuf> {
        let name = match self.settings.value(provider.section, "module") {
            Some(module) if module.contains('$') => return None,
            Some(module) => module.to_owned(),
            None => format!("{}.so", provider.name),
        };
        files::module_file(&name)
    }

    /// What OpenSSL does not make of a provider whose settings look right.
    fn loaded(&self, provider: &Provider<'_>, is_ours: bool) -> Option<Finding> {
        let path = self.path.display();
        if let Err(foreign) = check_owners(self.path) {
            return Some(Finding::fail(
                CHECK,
                format!("{path} was not given to OpenSSL, which would run code of others as root: {foreign}"),
                "run keyward as the user of the server, or have root own what it loads",
            ));
        }
        let listed = match openssl::list_providers(self.path, "") {
            Ok(output) => output,
            Err(error) => return Some(openssl::missing(CHECK, &error)),
        };
        match openssl::active(&listed, provider.name) {
            Some(product) if is_ours && !product.starts_with(PRODUCT) => Some(Finding::fail(
                CHECK,
                format!("{path} loads another provider as {}: {product:?}", provider.name),
                "name the file keyward.so in module",
            )),
            Some(_) => None,
            None => {
                let known = self
                    .file(provider)
                    .filter(|_| is_ours)
                    .map(|file| openssl::module(&file))
                    .filter(|finding| finding.verdict == Verdict::Fail)
                    .map(|finding| finding.detail)
                    .or_else(|| openssl::first_error(&listed));
                if let Some(mistake) = files::syntax_error(self.path, self.settings.includes()) {
                    let detail =
                        format!("{path} does not activate the provider {}: {mistake}", provider.name);
                    return Some(Finding::fail(
                        CHECK,
                        detail,
                        "mend that line; config(5) says how it is written",
                    ));
                }
                let (reason, mend) = match known {
                    Some(reason) => (reason, REBUILD),
                    None if !self.settings.includes().is_empty() => (
                        "a file that it includes may name another section in openssl_conf".to_owned(),
                        "add that section to the file, with the same line providers = ...",
                    ),
                    None => ("to see why, put config_diagnostics = 1 at its top".to_owned(), REBUILD),
                };
                Some(Finding::fail(
                    CHECK,
                    format!("{path} does not activate the provider {}: {reason}", provider.name),
                    mend,
                ))
            }
        }
    }

    /// What OpenSSL makes of a file whose providers are listed in another one.
    fn included(&self) -> Vec<Finding> {
        let path = self.path.display();
        for name in [DEFAULT, OURS] {
            let provider = Provider { name, section: "", exists: true };
            if let Some(finding) = self.loaded(&provider, name == OURS) {
                return vec![finding];
            }
        }
        vec![Finding::warn(
            CHECK,
            format!(
                "both providers are active, their order in {path} could not be told: .include is not followed"
            ),
            "see that default is listed before keyward in the files that it includes",
        )]
    }

    /// Settings that make OpenSSL choose providers by their properties (property(7)).
    fn properties(&self) -> Vec<Finding> {
        let path = self.path.display();
        let mut findings = Vec::new();
        for name in ["default_properties", "propquery"] {
            for (section, value) in self.settings.with(name) {
                let harmless = |clause: &str| clause.starts_with(['?', '-']) || clause.contains("!=");
                let mut clauses = value.split(',').map(str::trim).filter(|clause| !clause.is_empty());
                let said = format!("[{section}] of {path} has {name} = {value}");
                let mend =
                    format!("take {name} out of [{section}]: the keys of keyward are found without it");
                findings.push(if value.contains(OURS) {
                    let why = "so OpenSSL asks keyward first, to make keys and to verify, which it does not do: \
                               handshakes on P-256 end with \"no suitable key share\"";
                    Finding::fail(CHECK, format!("{said}, {why}"), mend)
                } else if clauses.all(harmless) {
                    let why = "by which OpenSSL chooses among providers for the whole process";
                    Finding::warn(CHECK, format!("{said}, {why}"), mend)
                } else {
                    let why = "which keyward does not have, so its keys cannot sign";
                    Finding::fail(CHECK, format!("{said}, {why}"), mend)
                });
            }
        }
        for (section, value) in self.settings.with("fips_mode") {
            if TRUE.iter().any(|one| one.eq_ignore_ascii_case(value)) {
                findings.push(Finding::fail(
                    CHECK,
                    format!(
                        "[{section}] of {path} has fips_mode = {value}, which demands the property fips=yes; keyward \
                         does not have it, so its keys cannot sign"
                    ),
                    format!("take fips_mode out of [{section}]"),
                ));
            }
        }
        findings
    }

    /// Files that the user of a server cannot read. One that starts as root and changes its user later can.
    fn readable(&self, user: &Person, list: &[Provider<'_>]) -> Vec<Finding> {
        let module = self.ours(list).and_then(|ours| self.file(ours));
        let files = [Some(self.path.to_owned()), module].into_iter().flatten();
        let finding = |file: PathBuf| {
            let reason = user.cannot_read(&file)?;
            Some(Finding::warn(
                CHECK,
                format!("{reason}: {} is of use only to servers that start as root", file.display()),
                "let everyone read it, there is no secret in it: chmod a+r, and a+x for the directories",
            ))
        };
        files.filter_map(finding).collect()
    }

    /// That it is the file which everything on the machine reads.
    fn for_everything(&self) -> Option<Finding> {
        openssl::is_of_system(self.path).then(|| {
            Finding::warn(
                CHECK,
                format!(
                    "{} is the file of the system: sshd, curl and all others load keyward too",
                    self.path.display()
                ),
                format!(
                    "give the server a file of its own: Environment=OPENSSL_CONF={} for its service",
                    openssl::CONF
                ),
            )
        })
    }
}

/// What is wrong with an openssl.cnf for a user.
pub(super) fn findings(path: &Path, user: Option<&Person>) -> Vec<Finding> {
    let findings = Conf::open(path).map_or_else(|finding| vec![finding], |conf| conf.findings(user));
    findings.into_iter().filter(|finding| finding.verdict != Verdict::Ok).collect()
}

/// OpenSSL passes over everything up to a dot, so that a name can be given twice.
fn after_dot(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, name)| name)
}

const CHECK: &str = "openssl.cnf";
const DEFAULT: &str = "default";
const OURS: &str = "keyward";
const REBUILD: &str = "install the provider that was built for this OpenSSL; see: openssl version";
/// How our provider begins to say what it is.
const PRODUCT: &str = "Keyward";
/// What OpenSSL 3.3 and later take for yes, in capital or small letters.
const TRUE: [&str; 4] = ["1", "yes", "true", "on"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A line of an openssl.cnf, in its place or not.
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
            let mut findings = conf.properties();
            match conf.providers() {
                Ok(list) => {
                    prop_assert!(list.len() <= lines.len());
                    findings.extend(list.iter().filter_map(|provider| conf.section(provider)));
                    prop_assert!(conf.socket().is_none() || conf.ours(&list).is_some());
                }
                Err(finding) => {
                    prop_assert!(conf.socket().is_none());
                    findings.push(finding);
                }
            }
            for finding in findings {
                prop_assert!(finding.verdict != Verdict::Ok && finding.mend.is_some(), "{finding:?}");
                prop_assert_eq!(finding.detail.lines().count(), 1, "{:?}", finding);
            }
        }
    }
}
