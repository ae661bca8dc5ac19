//! Bearer tokens: who may call, where that is not settled by certificates.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tonic::codegen::http::HeaderMap;

use super::clients::Name;
use keyward_ground::ownership;
use keyward_ground::text::quoted;

/// The tokens in a file: those that are let in.
pub(crate) struct Tokens {
    pub(crate) path: PathBuf,
    /// As digests, each with the number of its line: comparing those tells nobody how much of a token was right.
    digests: ArcSwap<Vec<([u8; 32], usize)>>,
}

impl Tokens {
    /// Reads a file of tokens, one a line; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let digests = ArcSwap::from_pointee(digests(path)?);
        Ok(Self { path: path.to_owned(), digests })
    }

    /// Reads the file again. What is in it now counts from the next call on, those of open connections too.
    ///
    /// # Errors
    /// As [`Self::read`]; then everything stays as it was.
    pub(crate) fn read_again(&self) -> Result<(), String> {
        self.digests.store(Arc::new(digests(&self.path)?));
        Ok(())
    }

    /// The client whose token a call has, if there is one of the file.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<Name> {
        let header = headers.get("authorization")?.to_str().ok()?;
        let (_, token) =
            header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))?;
        let digest = digest(token.trim());
        let digests = self.digests.load();
        digests.iter().find(|known| known.0 == digest).map(|(digest, line)| Name::Token(*digest, *line))
    }
}

/// Reads a file of tokens.
fn digests(path: &Path) -> Result<Vec<([u8; 32], usize)>, String> {
    let shown = path.display();
    let failed = |reason: io::Error| format!("cannot read the tokens in {shown}: {reason}");
    let file = ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => failed(reason),
        Err(error) => format!("refused the tokens: {error}"),
    })?;
    if ownership::is_for_others(&file).map_err(failed)? {
        return Err(format!(
            "refused the tokens in {shown}: everybody can read them; run: chmod o= {}",
            quoted(path)
        ));
    }
    let bytes = ownership::read_all(file).map_err(failed)?;
    let text =
        str::from_utf8(&bytes).map_err(|_| format!("cannot read the tokens in {shown}: it is not text"))?;
    let lines = text.lines().map(str::trim).zip(1..);
    let tokens: Vec<_> = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).collect();
    match tokens.iter().find(|(token, _)| token.len() < SHORTEST) {
        _ if tokens.is_empty() => {
            Err(format!("there is no token in {shown}; make one with: openssl rand -hex 32"))
        }
        Some(_) => Err(format!(
            "a token in {shown} has fewer than {SHORTEST} characters; make one with: openssl rand -hex 32"
        )),
        None => Ok(tokens.into_iter().map(|(token, line)| (digest(token), line)).collect()),
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// In characters.
const SHORTEST: usize = 16;
