//! Configuration of the daemon, as the next start or reload will read it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

use super::finding::Finding;
use crate::admin::client::AdminClient;
use crate::admin::status_view::StatusView;
use crate::cli::check_config;
use crate::cli::client::STATE_DIR;
use crate::cli::key::for_daemon;
use crate::cli::remarks::Remarks;
use crate::ground::text::quoted;
use crate::policy::authorise::Pattern;
use crate::serve::Options;

/// Options that the daemon was started with, as far as its status names them, otherwise defaults.
pub(super) fn options(
    config: Option<&Path>,
    state_dir: Option<&Path>,
    runtime_dir: &Path,
    status: Option<&StatusView>,
) -> Options {
    let of_daemon = status.map(|status| &*status.state_dir).filter(|path| path.is_absolute());
    Options {
        unit: None,
        config: config.or_else(|| status?.config_file.as_deref()).map(Path::to_owned),
        state_dir: state_dir.or(of_daemon).unwrap_or(Path::new(STATE_DIR)).to_owned(),
        runtime_dir: runtime_dir.to_owned(),
        dev: status.is_some_and(|status| status.dev),
    }
}

/// Checks the configuration and its files, and compares it with the configuration in force.
pub(super) fn check(options: &Options, status: Option<&StatusView>) -> Vec<Finding> {
    let file = options.config_file();
    let shown = file.map_or("the configuration without a file, with all defaults,".to_owned(), |file| {
        file.display().to_string()
    });
    let command = check_command(file, options);
    let mut remarks = Remarks::default();
    let checked = check_config::check(options, &mut remarks);
    let warn = |warning| Finding::warn(CHECK, warning, format!("check again after a change: {command}"));
    let mut findings: Vec<_> = remarks.warnings.into_iter().map(warn).collect();
    let config = match checked {
        Ok((config, _)) => config,
        // This user may not be able to read the files that the daemon can read.
        Err(failure) if !geteuid().is_root() && !is_of_user(&options.state_dir) => {
            let detail = format!("not checked: {}", failure.into_reason());
            findings.push(Finding::warn(CHECK, detail, "run keyward doctor as root"));
            return findings;
        }
        Err(failure) => {
            let detail = format!("the next start of the daemon would fail: {}", failure.into_reason());
            findings.push(Finding::fail(CHECK, detail, format!("correct it, then check again: {command}")));
            return findings;
        }
    };
    let in_force = status.and_then(|status| status.config.as_deref());
    match in_force.map(|in_force| in_force == config.fingerprint()) {
        Some(false) => findings.push(Finding::warn(
            CHECK,
            format!("{shown} differs from the configuration that the daemon has read"),
            format!("reload the daemon: {}", for_daemon("keyward reload".into(), &options.runtime_dir)),
        )),
        Some(true) => findings.push(Finding::ok(CHECK, format!("{shown} is valid, and in force"))),
        None => findings.push(Finding::ok(
            CHECK,
            format!("{shown} is valid; no daemon runs that could say whether it is in force"),
        )),
    }
    if let Some(waiting) = status.map(|status| &status.waiting_for_restart).filter(|list| !list.is_empty()) {
        let detail =
            format!("these settings take effect with a restart of the daemon: {}", waiting.join(", "));
        findings.push(Finding::warn(
            CHECK,
            detail,
            "restart it at a convenient time: systemctl restart keyward",
        ));
    }
    findings
}

/// Finds grants for keys that the daemon does not have. A daemon without keys is another finding.
pub(super) fn check_granted_keys(options: &Options, admin: &AdminClient) -> Option<Finding> {
    let (config, (keys, _)) = (options.read_config().ok()?, admin.list().ok()?);
    let is_of_none = |pattern: &&Pattern| !keys.iter().any(|key| pattern.matches(&key.label));
    let named = config.grants.iter().flat_map(|grant| &grant.keys);
    let missing: BTreeSet<&str> = named.filter(is_of_none).map(Pattern::as_str).collect();
    if keys.is_empty() || missing.is_empty() {
        return None;
    }
    let shown: Vec<_> = missing.iter().take(MOST_SHOWN).copied().collect();
    let more = missing.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let list = for_daemon("keyward key list".into(), &options.runtime_dir);
    Some(Finding::warn(
        CHECK,
        format!("grants name keys that the daemon does not have: {}{more}", shown.join(", ")),
        format!("compare the labels with: {list}; or remove these grants"),
    ))
}

/// Maximum number of patterns that a finding names.
const MOST_SHOWN: usize = 10;
const CHECK: &str = "configuration";

fn is_of_user(state_dir: &Path) -> bool {
    fs::metadata(state_dir).is_ok_and(|found| found.uid() == geteuid().as_raw())
}

/// The command that checks the configuration again.
fn check_command(file: Option<&Path>, options: &Options) -> String {
    let mut command = "keyward serve --check-config".to_owned();
    command += &file.map_or(String::new(), |file| format!(" --config {}", quoted(file)));
    if options.state_dir != Path::new(STATE_DIR) {
        command += &format!(" --state-dir {}", quoted(&options.state_dir));
    }
    if options.dev {
        command += " --dev";
    }
    command
}
