//! Bearer tokens: who may call, where that is not settled by certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use keyward_grep11::ckr;
use keyward_unit::grep11::Error;
use rustix::fs::Mode;
use sha2::{Digest, Sha256};
use tonic::{Request, Status};

use super::service::status;
use crate::throttle::Throttle;

/// The tokens in a file: those that are let in.
pub(crate) struct Tokens {
    path: PathBuf,
    /// As digests: comparing those tells nobody how much of a token was right.
    digests: ArcSwap<Vec<[u8; 32]>>,
    refusals: Throttle,
}

impl Tokens {
    /// Reads a file of tokens, one a line; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let digests = ArcSwap::from_pointee(digests(path)?);
        Ok(Self { path: path.to_owned(), digests, refusals: Throttle::default() })
    }

    /// Reads the file again. What is in it now counts from the next call on, those of open connections too.
    ///
    /// # Errors
    /// As [`Self::read`]; then everything stays as it was.
    pub(crate) fn read_again(&self) -> Result<(), String> {
        self.digests.store(Arc::new(digests(&self.path)?));
        Ok(())
    }

    fn admits<T>(&self, request: &Request<T>) -> bool {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        token.is_some_and(|(_, token)| self.digests.load().contains(&digest(token.trim())))
    }
}

/// Lets calls in, all of them if there are no tokens.
pub(crate) fn check(tokens: Option<&Tokens>, request: Request<()>) -> Result<Request<()>, Status> {
    match tokens {
        Some(tokens) if !tokens.admits(&request) => {
            if let Some(times) = tokens.refusals.admit() {
                tracing::warn!(times, "call refused: it has no bearer token of {}", tokens.path.display());
            }
            Err(status(&Error::new(
                ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED,
                "the call has no bearer token that this server knows, in its metadata as authorization",
            )))
        }
        _ => Ok(request),
    }
}

/// Reads a file of tokens.
fn digests(path: &Path) -> Result<Vec<[u8; 32]>, String> {
    let shown = path.display();
    let text =
        fs::read_to_string(path).map_err(|reason| format!("cannot read the tokens in {shown}: {reason}"))?;
    let mode = rustix::fs::stat(path).map(|stat| Mode::from_raw_mode(stat.st_mode));
    if mode.is_ok_and(|mode| mode.intersects(Mode::RWXO)) {
        return Err(format!("refused the tokens in {shown}: everybody can read them; run: chmod o= {shown}"));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<&str> = lines.collect();
    match tokens.iter().find(|token| token.len() < SHORTEST) {
        _ if tokens.is_empty() => {
            Err(format!("there is no token in {shown}; make one with: openssl rand -hex 32"))
        }
        Some(_) => Err(format!(
            "a token in {shown} has fewer than {SHORTEST} characters; make one with: openssl rand -hex 32"
        )),
        None => Ok(tokens.into_iter().map(digest).collect()),
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// In characters.
const SHORTEST: usize = 16;
