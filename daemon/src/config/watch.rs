//! `[[watch]]`: a certificate that somebody else renews, so that nobody is surprised by its end.

use core::net::SocketAddr;
use std::path::PathBuf;

use keyward_proto::Label;
use serde::{Deserialize, Serialize};

use super::error::InvalidSetting;
use super::identifier::Identifier;

/// A certificate that somebody else renews.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Watch {
    /// Name of the section.
    pub name: Label,
    /// Where the certificate is.
    pub place: Place,
}

/// Place of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// The first certificate of a PEM file.
    File(PathBuf),
    /// The certificate that a listener shows to a client that asks for this name.
    Listener(SocketAddr, String),
}

/// A section as text.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawWatch {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listener: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
}

impl RawWatch {
    /// The text of a checked section.
    pub(super) fn of(watch: &Watch) -> Self {
        let name = watch.name.to_string();
        match &watch.place {
            Place::File(file) => Self { name, file: Some(file.clone()), listener: None, server_name: None },
            Place::Listener(at, server_name) => {
                Self { name, file: None, listener: Some(*at), server_name: Some(server_name.clone()) }
            }
        }
    }

    fn check(self) -> Result<Watch, InvalidSetting> {
        let section = format!("watch {:?}", self.name);
        let wrong =
            |setting: &str, reason: String| InvalidSetting::new(format!("{section}: {setting}"), reason);
        let name = self.name.parse().map_err(|error| wrong("name", format!("{:?} is {error}", self.name)))?;
        let place = match (self.file, self.listener, self.server_name) {
            (Some(file), None, None) if file.is_absolute() => Place::File(file),
            (Some(file), None, None) => {
                return Err(wrong("file", format!("{} is not an absolute path", file.display())));
            }
            (None, Some(at), Some(text)) => {
                let server_name = Identifier::read(&text)
                    .map_err(|reason| wrong("server-name", format!("{text:?} {reason}")))?;
                Place::Listener(at, server_name.to_string())
            }
            _ => return Err(wrong("file", "name a file, or a listener with server-name".into())),
        };
        Ok(Watch { name, place })
    }
}

/// Checks all sections.
pub(super) fn check(raw: Vec<RawWatch>) -> Result<Vec<Watch>, InvalidSetting> {
    let mut checked: Vec<Watch> = Vec::new();
    for raw in raw {
        let watch = raw.check()?;
        if checked.iter().any(|other| other.name == watch.name) {
            let section = format!("watch \"{}\"", watch.name);
            return Err(InvalidSetting::new(section, "two sections have this name"));
        }
        checked.push(watch);
    }
    match checked.len() <= MAX_WATCHES {
        true => Ok(checked),
        false => Err(InvalidSetting::new("watch", format!("there are more than {MAX_WATCHES} sections"))),
    }
}

/// Maximum number of sections.
const MAX_WATCHES: usize = 1000;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    #[test]
    fn a_section_names_a_file_or_a_listener() {
        let read = |lines: &str| {
            Config::parse(&format!("[[watch]]\nname = \"mail\"\n{lines}"), Path::new("keyward.toml"))
                .map_err(|error| error.to_string())
        };
        for lines in
            ["file = \"/etc/mail.pem\"\n", "listener = \"127.0.0.1:993\"\nserver-name = \"mail.example\"\n"]
        {
            let config = read(lines).unwrap();
            let again = Config::parse(&config.to_effective_toml(), Path::new("again")).unwrap();
            assert_eq!((config.watches.len(), &again), (1, &config), "{lines}");
        }
        let file = "file = \"/etc/mail.pem\"\n";
        for (lines, words) in [
            (String::new(), "name a file, or a listener"),
            ("file = \"mail.pem\"\n".into(), "is not an absolute path"),
            (format!("{file}server-name = \"a.example\"\n"), "name a file, or a listener"),
            ("listener = \"127.0.0.1:993\"\n".into(), "name a file, or a listener"),
            ("listener = \"127.0.0.1:993\"\nserver-name = \"a b\"\n".into(), "neither a DNS name"),
            (format!("{file}[[watch]]\nname = \"mail\"\n{file}"), "two sections have this name"),
        ] {
            let refused = read(&lines).unwrap_err();
            assert!(refused.contains(words), "{lines}: {refused}");
        }
    }
}
