//! The confinement of the daemon: what its options and its configuration need.

use std::path::{Path, PathBuf};
use std::{env, fs};

use keyward_unit_server::Transport;

use super::error::ServeError;
use super::options::Options;
use crate::backend::grep11::iam_server;
use crate::config::{self, Auth, Config};
use crate::ground::confinement::{self, Needs};

/// Confines the process. From now on, its files are the ones that [`needs`] names.
///
/// # Errors
/// [`ServeError::Confinement`] if the helper of the process does not start.
pub(super) fn confine(options: &Options, config: &Config) -> Result<(), ServeError> {
    confinement::confine(needs(options, config)).map_err(ServeError::Confinement)
}

fn needs(options: &Options, config: &Config) -> Needs {
    let mut needs = Needs {
        change: vec![options.state_dir.clone()],
        bind: vec![options.runtime_dir.clone()],
        read: options.config_file().map(Into::into).into_iter().collect(),
        sends_to_abstract: env::var_os("NOTIFY_SOCKET")
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"@")),
        ..Needs::default()
    };
    if let Some(file) = options.config_file() {
        needs.read_below.extend(Some(config::drop_in_directory(file)).filter(|directory| directory.is_dir()));
        // A link may lead elsewhere.
        needs.read.extend(config::drop_ins(file).unwrap_or_default().0);
    }
    needs.change.extend(links_in(&options.state_dir));
    needs.read_below.extend(env::var_os("CREDENTIALS_DIRECTORY").map(Into::into));
    let extra = config.socket.extra.iter().map(ToString::to_string).filter(|name| !name.starts_with('@'));
    needs.bind.extend(extra.filter_map(|path| Path::new(&path).parent().map(Into::into)));
    needs.read.extend(secrets(config).map(|(_, file)| file.to_owned()));
    needs.read.extend([&config.embedded.master_key, &config.store_key].into_iter().flatten().cloned());
    let bindings = config.authorities.values().filter_map(|authority| authority.binding.as_ref());
    needs.read.extend(bindings.map(|binding| binding.key.clone()));
    // Chains of certificates that renew themselves lead to these, also of plans that come later.
    needs.read.extend(config.plans.iter().filter_map(|plan| plan.chain_root.clone()));
    needs.read_below.extend(system_roots());
    for backend in config.grep11.values() {
        add_backend(&mut needs, backend);
    }
    if let Some(unit) = &options.unit {
        needs.read.extend(unit.server.tokens.clone());
        needs.read.extend(unit.next_master_key.clone());
        if let Transport::Tls { certificate, key, client_ca } = &unit.server.transport {
            needs.read.extend([certificate.clone(), key.clone()].into_iter().chain(client_ca.clone()));
        }
    }
    needs
}

/// Files and directories to which links in the state directory lead, such as a key store on another
/// disk.
fn links_in(state_dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(state_dir).into_iter().flatten().flatten();
    let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    links.filter_map(|link| link.path().canonicalize().ok())
}

fn add_backend(needs: &mut Needs, backend: &config::Grep11) {
    let mut servers = backend.endpoints.clone();
    if let Some(tls) = &backend.tls {
        needs.read.extend(tls.ca.clone());
        needs
            .read
            .extend(tls.identity.iter().flat_map(|(certificate, key)| [certificate.clone(), key.clone()]));
    }
    match &backend.auth {
        Auth::None => {}
        Auth::Token { file } => needs.read.extend(file.clone()),
        Auth::Iam { api_key_file, url } => {
            needs.read.extend(api_key_file.clone());
            servers.extend(iam_server(url));
        }
    }
    for server in servers {
        needs.ports.insert(server.port);
        needs.hosts.push(server.host);
    }
}

/// Directories and files with the authorities of the system.
fn system_roots() -> impl Iterator<Item = PathBuf> {
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(env::var_os);
    SYSTEM_ROOTS.into_iter().map(PathBuf::from).chain(named.into_iter().flatten().map(PathBuf::from))
}

/// Names and files of the secrets of the embedded unit that a reload reads again.
fn secrets(config: &Config) -> impl Iterator<Item = (&'static str, &Path)> {
    let config::Embedded { unseal_key, unseal_passphrase, .. } = &config.embedded;
    let named = [("unseal-key", unseal_key), ("unseal-passphrase", unseal_passphrase)];
    named.into_iter().filter_map(|(name, file)| Some((name, file.as_deref()?)))
}

/// The setting of a secret whose file the confined process cannot read before a restart, if any.
pub(super) fn out_of_reach(config: &Config) -> Option<String> {
    let (name, file) = secrets(config).find(|(_, file)| confinement::is_out_of_reach(file))?;
    Some(format!(
        "{name} ({} is in a directory that the configuration did not name at the start)",
        file.display()
    ))
}

/// Directories of the certificate authorities of the system, on Debian, Red Hat, SUSE and Arch.
const SYSTEM_ROOTS: [&str; 8] = [
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/var/lib/ca-certificates",
    "/etc/ca-certificates/extracted",
];
