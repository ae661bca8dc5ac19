//! Settings of the provider in openssl.cnf and in the environment, read once when OpenSSL loads the
//! provider.

use core::time::Duration;
use std::env;
use std::ffi::OsString;

use keyward_client::{Address, Client};

use crate::upcalls::Core;

/// Checked settings.
pub(crate) struct Settings {
    pub(crate) socket: Address,
    pub(crate) timeout: Duration,
}

/// Reads the keys `socket` and `timeout` of our section of openssl.cnf, and `KEYWARD_SOCKET`, which
/// has priority over `socket`.
///
/// # Errors
/// A text that says which setting is wrong, and why.
pub(crate) fn read(core: &Core) -> Result<Settings, String> {
    let socket = match environment("KEYWARD_SOCKET")? {
        Some(socket) => socket,
        None => core.setting(c"socket").unwrap_or_else(|| Address::DEFAULT.to_string()),
    };
    let socket = socket.parse().map_err(|error| format!("setting socket: {error}"))?;
    let timeout = match core.setting(c"timeout") {
        Some(text) => {
            duration(&text).ok_or(format!("setting timeout: {text:?} is not a time like 5s or 500ms"))?
        }
        None => Client::DEFAULT_TIMEOUT,
    };
    Ok(Settings { socket, timeout })
}

/// True if the OpenSSL that loads us is 3.5 or later and so knows ML-DSA. An older
/// OpenSSL could not use our ML-DSA, which would slow down the loading of every other key.
pub(crate) fn knows_ml_dsa(core: &Core) -> bool {
    // OSSL_PROV_PARAM_CORE_VERSION, provider-base(7), for example "3.5.4".
    let version = core.setting(c"openssl-version");
    version.is_some_and(|version| parse_version(&version).is_some_and(|version| version >= (3, 5)))
}

/// Major and minor number of a version.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The value of an environment variable. Absent in a set-user-ID program: its environment cannot be
/// trusted (secure_getenv(3)).
fn environment(name: &str) -> Result<Option<String>, String> {
    // SAFETY: getauxval(3) only reads a value that the kernel gave to the process.
    let set_user_id = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    let value = env::var_os(name).filter(|_| !set_user_id).map(OsString::into_string);
    value.transpose().map_err(|value| format!("{name}: {} is not UTF-8", value.display()))
}

/// Reads a time like `5s` or `500ms`, from 1 ms to one hour.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let number: u64 = number.trim().parse().ok()?;
    let millis = number.checked_mul(unit).filter(|millis| (1..=3_600_000).contains(millis))?;
    Some(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("3.5.4"), Some((3, 5)));
        assert_eq!(parse_version("4.0.0-alpha1"), Some((4, 0)));
        assert_eq!(parse_version("3.10.1+quic"), Some((3, 10)));
        for bad in ["", "3", "three.five", "-3.5"] {
            assert_eq!(parse_version(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "s", "0s", "-1s", "1h", "99999999999999999999s", "3601s"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
