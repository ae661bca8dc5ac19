//! Bearer tokens of clients, for a server that does not authenticate clients by certificates alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tonic::codegen::http::HeaderMap;

use super::clients::ClientName;
use keyward_ground::confinement;
use keyward_ground::ownership;
use keyward_ground::text::quoted;

/// Accepted tokens, read from a file.
pub(crate) struct Tokens {
    pub(crate) path: PathBuf,
    /// SHA-256 of each token, with the number of its line. The time of a comparison of digests does
    /// not reveal a part of a token.
    digests: ArcSwap<Vec<([u8; 32], usize)>>,
}

impl Tokens {
    /// Reads a file of tokens, one a line. Empty lines and lines that begin with `#` are ignored.
    ///
    /// # Errors
    /// The reason as a sentence.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let digests = ArcSwap::from_pointee(digests(path)?);
        Ok(Self { path: path.to_owned(), digests })
    }

    /// Reads the file again. The new tokens hold from the next call on, also on open connections.
    ///
    /// # Errors
    /// The reason as a sentence. The old tokens then stay in force.
    pub(crate) fn read_again(&self) -> Result<(), String> {
        self.digests.store(Arc::new(digests(&self.path)?));
        Ok(())
    }

    /// Client of the token in the headers of a call; `None` without a valid token.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<ClientName> {
        let header = headers.get("authorization")?.to_str().ok()?;
        let (_, token) =
            header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))?;
        let digest = digest(token.trim());
        let digests = self.digests.load();
        digests.iter().find(|known| known.0 == digest).map(|(digest, line)| ClientName::Token(*digest, *line))
    }
}

/// Reads a file of tokens as digests with line numbers.
fn digests(path: &Path) -> Result<Vec<([u8; 32], usize)>, String> {
    let shown = path.display();
    let failed = |reason: io::Error| {
        let advice = match reason.kind() {
            io::ErrorKind::PermissionDenied => confinement::advice_for_new_directory(),
            _ => "",
        };
        format!("cannot read the tokens in {shown}: {reason}{advice}")
    };
    let file = ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => failed(reason),
        Err(error) => format!("refused the tokens: {error}"),
    })?;
    if ownership::is_for_others(&file).map_err(failed)? {
        return Err(format!(
            "refused the tokens in {shown}: every user can read them; run: chmod o= {}",
            quoted(path)
        ));
    }
    let bytes = ownership::read_all(file).map_err(failed)?;
    let text =
        str::from_utf8(&bytes).map_err(|_| format!("cannot read the tokens in {shown}: it is not text"))?;
    let lines = text.lines().map(str::trim).zip(1..);
    let tokens: Vec<_> = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).collect();
    match tokens.iter().find(|(token, _)| token.len() < MIN_LENGTH) {
        _ if tokens.is_empty() => {
            Err(format!("there is no token in {shown}; make one with: openssl rand -hex 32"))
        }
        Some(_) => Err(format!(
            "a token in {shown} has fewer than {MIN_LENGTH} characters; make one with: openssl rand -hex 32"
        )),
        None => Ok(tokens.into_iter().map(|(token, line)| (digest(token), line)).collect()),
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Minimum length of a token, in characters.
const MIN_LENGTH: usize = 16;
