//! Answers to challenges: files below a directory of a server, or records of the DNS.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_plans::Challenge;
use sha2::{Digest, Sha256};

use super::failure::Failure;
use super::{program, zone};

/// An answer that is in place.
pub(crate) enum Answered {
    /// The configuration of a server has the answer.
    Always,
    File(PathBuf),
    /// A record that a program has made.
    Hook {
        plan: String,
        command: Vec<String>,
        name: String,
        value: String,
    },
    /// A record that an update of the zone has made.
    Update {
        plan: String,
        server: SocketAddr,
        key: PathBuf,
        name: String,
        value: String,
    },
}

impl Answered {
    /// Puts the answer to a challenge in place.
    ///
    /// # Errors
    /// The file cannot be written, or the program has failed.
    pub(crate) async fn put(
        plan: &str,
        challenge: &Challenge,
        host: &str,
        token: &str,
        thumbprint: &str,
    ) -> Result<Self, Failure> {
        let answer = format!("{token}.{thumbprint}");
        let (name, value) = (record(host), URL_SAFE_NO_PAD.encode(Sha256::digest(&answer)));
        let plan = plan.to_owned();
        match challenge.clone() {
            Challenge::Http => Ok(Self::Always),
            Challenge::Webroot(directory) => {
                let directory = directory.join(".well-known/acme-challenge");
                let path = directory.join(token);
                let failed = |error: io::Error| {
                    let path = path.display();
                    Failure::new(
                        "webroot",
                        format!(
                            "cannot write the answer to {path}: {error}; the user of keyward-acme needs the right to write there"
                        ),
                    )
                };
                write(&directory, &path, &answer).map_err(failed)?;
                Ok(Self::File(path))
            }
            Challenge::DnsHook(command) => {
                program::run(&plan, &command, &["present", &name, &value], &[]).await?;
                Ok(Self::Hook { plan, command, name, value })
            }
            Challenge::DnsUpdate { server, key } => {
                update(&plan, server, &key, &format!("update add {name} 60 TXT \"{value}\"")).await?;
                let added = Self::Update {
                    plan: plan.clone(),
                    server,
                    key,
                    name: name.clone(),
                    value: value.clone(),
                };
                if let Err(failure) = zone::wait(&plan, server, &name, &value).await {
                    added.remove().await;
                    return Err(failure);
                }
                Ok(added)
            }
        }
    }

    /// Removes the answer. An answer that stays is only a rest.
    pub(crate) async fn remove(self) {
        let removed = match &self {
            Self::Always => return,
            Self::File(path) => fs::remove_file(path)
                .map_err(|error| Failure::new("webroot", format!("{}: {error}", path.display()))),
            Self::Hook { plan, command, name, value } => {
                program::run(plan, command, &["cleanup", name, value], &[]).await.map(drop)
            }
            Self::Update { plan, server, key, name, value } => {
                update(plan, *server, key, &format!("update delete {name} TXT \"{value}\"")).await
            }
        };
        if let Err(error) = removed {
            tracing::warn!("the answer to a challenge was not removed: {error}");
        }
    }
}

/// The record of a name (RFC 8555, 8.4). A star is not part of it.
fn record(name: &str) -> String {
    format!("_acme-challenge.{}.", name.trim_start_matches("*."))
}

/// Updates a zone (RFC 2136) with nsupdate(1).
async fn update(plan: &str, server: SocketAddr, key: &Path, update: &str) -> Result<(), Failure> {
    // nsupdate goes on without a key that it cannot read.
    fs::File::open(key).map_err(|error| {
        let words = format!(
            "cannot read the key {}: {error}; the user of keyward-acme needs the right",
            key.display()
        );
        Failure::new("dns-key", words)
    })?;
    let command = ["/usr/bin/nsupdate".to_owned(), "-k".to_owned(), key.display().to_string()];
    let input = format!("server {} {}\n{update}\nsend\n", server.ip(), server.port());
    program::run(plan, &command, &[], input.as_bytes()).await.map(drop)
}

fn write(directory: &Path, path: &Path, answer: &str) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    fs::create_dir_all(directory)?;
    let part = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&part)?;
    // The server reads the file, whatever the umask of the agent is.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(answer.as_bytes())?;
    fs::rename(&part, path)
}
