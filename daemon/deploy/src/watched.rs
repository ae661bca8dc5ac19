//! Certificates that somebody else renews: in files, and at listeners of this host.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use keyward::config::{Place, Watch};
use keyward::keys::certificates::Certificate;
use keyward::servers::served;
use keyward_plans::Watched;

use super::files;

/// Looks at a certificate.
pub(crate) async fn look(watch: &Watch) -> Watched {
    let found = match &watch.place {
        Place::File(path) => first_of(path),
        Place::Listener(at, name) => {
            served::certificate(*at, name).await.map_err(|error| format!("{at}: {error}"))
        }
    };
    let seen = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = watch.name.to_string();
    match found {
        Ok(found) => {
            let validity = Some((found.not_before(), found.not_after()));
            let names = found.names().iter().take(MAX_NAMES).cloned().collect();
            Watched { name, validity, names, problem: None, seen }
        }
        Err(problem) => Watched { name, validity: None, names: Vec::new(), problem: Some(problem), seen },
    }
}

/// The first certificate of a PEM file. Other blocks, such as a private key, are not looked at.
fn first_of(path: &Path) -> Result<Certificate, String> {
    let failed = |reason: &dyn core::fmt::Display| format!("{}: {reason}", path.display());
    let text = files::read(path, LONGEST_FILE).map_err(|error| failed(&error))?;
    let begin = text.find(BEGIN).ok_or_else(|| failed(&"there is no certificate in PEM"))?;
    let rest = text.get(begin..).unwrap_or_default();
    let end = rest.find(END).ok_or_else(|| failed(&"its certificate has no end"))? + END.len();
    let block = rest.get(..end).unwrap_or_default().replace('\r', "");
    let (_, der) = pem_rfc7468::decode_vec(block.as_bytes()).map_err(|error| failed(&error))?;
    Certificate::from_der(&der).map_err(|error| failed(&error))
}

/// Most names of a certificate that are told.
const MAX_NAMES: usize = 5;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Longest part of a file that is read, in bytes (1 MiB).
const LONGEST_FILE: u64 = 1 << 20;
