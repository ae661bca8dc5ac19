//! The providers that OpenSSL loads by an openssl.cnf whose settings look right.

use std::path::Path;
use std::process::{Command, Stdio};

use super::conf::{CHECK, Conf, DEFAULT, KEYWARD, Provider};
use super::owners::check_owners;
use crate::cli::doctor::finding::{Finding, Verdict};
use crate::cli::doctor::openssl_program;

/// Checks that OpenSSL activates a provider.
pub(super) fn check(conf: &Conf<'_>, provider: &Provider<'_>, is_keyward: bool) -> Option<Finding> {
    let path = conf.path.display();
    if let Err(foreign) = check_owners(conf.path) {
        return Some(Finding::fail(
            CHECK,
            format!(
                "{path} was not given to OpenSSL, which would run code of other users as root: {foreign}"
            ),
            "run keyward as the user of the server, or let root own every file that OpenSSL loads",
        ));
    }
    let listed = match openssl_program::list_providers(conf.path, "") {
        Ok(output) => output,
        Err(error) => return Some(openssl_program::missing(CHECK, &error)),
    };
    match openssl_program::active(&listed, provider.name) {
        Some(product) if is_keyward && !product.starts_with(PRODUCT) => Some(Finding::fail(
            CHECK,
            format!("{path} loads another provider as {}: {product:?}", provider.name),
            "name the file keyward.so in module",
        )),
        Some(_) => None,
        None => Some(not_active(conf, provider, is_keyward, openssl_program::first_error(&listed))),
    }
}

/// Checks a file whose providers are listed in an included file.
pub(super) fn check_included(conf: &Conf<'_>) -> Vec<Finding> {
    let path = conf.path.display();
    for name in [DEFAULT, KEYWARD] {
        let provider = Provider { name, section: "", exists: true };
        if let Some(finding) = check(conf, &provider, name == KEYWARD) {
            return vec![finding];
        }
    }
    vec![Finding::warn(
        CHECK,
        format!("both providers are active, but their order in {path} is unknown: .include is not followed"),
        "make sure that the included files list default before keyward",
    )]
}

/// Finds the reason why OpenSSL does not activate a provider.
fn not_active(conf: &Conf<'_>, provider: &Provider<'_>, is_keyward: bool, error: Option<String>) -> Finding {
    let detail = |reason: &str| {
        format!("{} does not activate the provider {}: {reason}", conf.path.display(), provider.name)
    };
    let includes = conf.settings.includes();
    if let Some(mistake) = syntax_error(conf.path, includes) {
        return Finding::fail(CHECK, detail(&mistake), "correct that line; config(5) describes the syntax");
    }
    let of_module = conf
        .module(provider)
        .filter(|_| is_keyward)
        .map(|file| openssl_program::check_module(&file))
        .filter(|finding| finding.verdict == Verdict::Fail)
        .map(|finding| finding.detail);
    match of_module.or(error) {
        Some(reason) => Finding::fail(CHECK, detail(&reason), REBUILD),
        None if !includes.is_empty() => Finding::fail(
            CHECK,
            detail("an included file may name another section in openssl_conf"),
            "add that section to the file, with the same line providers = ...",
        ),
        None => Finding::fail(CHECK, detail("to see why, put config_diagnostics = 1 at its top"), REBUILD),
    }
}

/// The first file with a syntax error, and the error. With such an error, OpenSSL ignores all
/// settings.
fn syntax_error(conf: &Path, includes: &[String]) -> Option<String> {
    // OpenSSL would report an error in an included file with a line of the including file.
    let mut files = includes.iter().map(Path::new).filter(|file| file.is_file()).chain([conf]);
    files.find_map(|file| {
        // asn1parse is the only command that parses any openssl.cnf and reports syntax errors. It
        // then fails because a setting of its own is missing.
        let mut parse = Command::new("openssl");
        parse.args(["asn1parse", "-noout", "-genconf"]).arg(file).env("OPENSSL_CONF", "/dev/null");
        let output = parse.stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find_map(|line| line.split_once("Error on line ")?.1.split(' ').next())?;
        let counted = if file == conf && !includes.is_empty() { ", included lines counted," } else { "," };
        let file = file.display();
        Some(format!("{file} has a syntax error in line {line}{counted} so OpenSSL ignores all settings"))
    })
}

const REBUILD: &str = "install the provider that was built for this OpenSSL; see: openssl version";
/// Beginning of the product name of our provider.
const PRODUCT: &str = "Keyward";
