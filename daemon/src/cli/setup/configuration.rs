//! The configuration file: a first one, and the line that names a secret without systemd.

use std::fs;
use std::io;
use std::path::Path;

use super::choice::Way;
use super::files;
use crate::cli::failure::Failure;
use crate::config::{Config, Embedded};
use crate::ground::exit;

/// Makes the configuration from the shipped example, if there is none. Returns true if a file was
/// made.
///
/// # Errors
/// [`Failure`] if the file cannot be made.
pub(super) fn make_first(path: &Path) -> Result<bool, Failure> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files::make(path, EXAMPLE.as_bytes(), 0o644, None).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// The way that the settings of the section `[embedded]` make, and the file of the secret.
pub(super) fn way_of(settings: &Embedded) -> Option<(Way, &Path)> {
    let ways = [
        (Way::MasterKey, &settings.master_key),
        (Way::Unprotected, &settings.unseal_key),
        (Way::Passphrase, &settings.unseal_passphrase),
    ];
    ways.into_iter().find_map(|(way, file)| Some((way, file.as_deref()?)))
}

/// Names the file of the secret in the configuration. Returns the line that was added.
///
/// # Errors
/// [`Failure`] if the line cannot be added. The error has the line, for a person to add it.
pub(super) fn name_secret(path: &Path, way: Way, secret: &Path) -> Result<String, Failure> {
    let line = match (way.setting(), secret.to_str()) {
        (Some(setting), Some(secret)) => format!("{setting} = {}", toml::Value::from(secret)),
        _ => {
            let reason = format_args!("cannot name {} in a configuration: it is not text", secret.display());
            return Err(Failure::new(exit::USAGE, reason));
        }
    };
    let text = fs::read_to_string(path).map_err(|reason| Failure::reading(path, &reason))?;
    let added = with_line(&text, way, &line);
    // The file may have a form that the addition does not know, such as an inline table.
    let config = Config::parse_with_drop_ins(&added, path).ok();
    match config.as_ref().and_then(|config| way_of(&config.embedded)) {
        Some((_, file)) if file == secret => files::replace(path, added.as_bytes())?,
        _ => {
            return Err(Failure::new(
                exit::CONFIG,
                format_args!(
                    "cannot add a line to {}; add this line to its section [embedded], and run keyward setup again: {line}",
                    path.display()
                ),
            ));
        }
    }
    Ok(line)
}

/// Puts a line into the section `[embedded]`: in the place of the comment of the shipped example,
/// or at the beginning of the section, or in a new section at the end.
fn with_line(text: &str, way: Way, line: &str) -> String {
    let comment = format!("#: {} = ", way.setting().unwrap_or_default());
    let is_comment = |old: &str| old.starts_with(&comment);
    let is_section = |old: &str| old.trim_end() == "[embedded]";
    let mut lines: Vec<_> = text.lines().collect();
    if let Some(place) = lines.iter_mut().find(|old| is_comment(old)) {
        *place = line;
    } else if let Some(index) = lines.iter().position(|old| is_section(old)) {
        lines.insert(index + 1, line);
    } else {
        lines.extend(["", "[embedded]", line]);
    }
    lines.join("\n") + "\n"
}

/// The shipped example, in which every setting is a comment.
const EXAMPLE: &str = include_str!("../../../../conf/keyward.toml");

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "/etc/keyward/unseal.key";

    fn added_to(text: &str) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyward.toml");
        fs::write(&path, text).unwrap();
        let named = name_secret(&path, Way::Unprotected, Path::new(SECRET)).map_err(Failure::into_reason);
        let after = fs::read_to_string(&path).unwrap();
        named.map(|_| after).inspect_err(|_| assert_eq!(fs::read_to_string(&path).unwrap(), text))
    }

    #[test]
    fn the_line_comes_into_its_section() {
        let line = format!("unseal-key = {SECRET:?}");
        let example = added_to(EXAMPLE).unwrap();
        assert_eq!(example.lines().count(), EXAMPLE.lines().count());
        assert!(example.contains(&format!("\n{line}\n")), "{example}");
        assert_eq!(
            added_to("[embedded] \ncached-keys = 5\n[[grant]]\nuid = 1\nkeys = [\"a\"]\n").unwrap(),
            format!("[embedded] \n{line}\ncached-keys = 5\n[[grant]]\nuid = 1\nkeys = [\"a\"]\n")
        );
        assert_eq!(added_to("log = \"info\"").unwrap(), format!("log = \"info\"\n\n[embedded]\n{line}\n"));
        for unknown in ["embedded = { cached-keys = 5 }\n", "embedded.cached-keys = 5\n", "log = \n"] {
            let reason = added_to(unknown).unwrap_err();
            assert!(reason.ends_with(&line), "{reason}");
        }
    }
}
