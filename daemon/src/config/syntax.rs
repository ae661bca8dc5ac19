//! Explains mistakes of syntax in the words of TOML instead of the words of the library, with the
//! correct form.

/// Explains the mistake at a place of a text. `reason` is the message of the library.
pub(super) fn explained(reason: &str, text: &str, at: usize) -> String {
    let setting = setting_before(text, at);
    if let Some(header) = wrong_header(text, at) {
        return header;
    }
    // The library uses the words of Rust's types for a number that must not be 0.
    let reason = match reason.split_once("a nonzero ") {
        Some((before, _)) => format!("{before}a whole number, 1 or more"),
        None => reason.to_owned(),
    };
    let Some(setting) = setting else { return reason };
    let wanted = |found: &str, wanted: &str| {
        let found = reason.strip_prefix("invalid type: ")?.strip_prefix(found)?;
        found.strip_suffix(wanted)?.strip_suffix(", expected ")
    };
    if let Some(value) = wanted("string ", "a sequence") {
        return format!("{setting}: this is a list, write it in brackets: {setting} = [{value}]");
    }
    if let Some(value) = wanted("integer ", "a string").or_else(|| wanted("floating point ", "a string")) {
        return number_for_text(setting, value.trim_matches('`'));
    }
    if wanted("sequence", "a string").or_else(|| wanted("sequence", "path string")).is_some() {
        return format!("{setting}: there is only one value, write it without brackets: {setting} = \"...\"");
    }
    format!("{setting}: {reason}")
}

/// The line for a number in the place of text. A number in quotes alone is right for few settings.
fn number_for_text(setting: &str, number: &str) -> String {
    let (what, line) = match setting.rsplit('.').next().unwrap_or(setting) {
        "listen" => {
            let port = number.parse::<u16>().ok().filter(|port| *port != 0).unwrap_or(9463);
            ("an address with a port", format!("listen = \"127.0.0.1:{port}\""))
        }
        "user" => ("the name of a user, and the number has another setting", format!("uid = {number}")),
        "group" => {
            return format!(
                "{setting}: this is the name of a group, not its number, as in: group = \"www-data\""
            );
        }
        "keep" => ("a time with its unit", format!("{setting} = \"{number}d\"")),
        name if name == "keepalive" || name.ends_with("timeout") => {
            ("a time with its unit", format!("{setting} = \"{number}s\""))
        }
        _ => return format!("{setting}: this is text, write it in quotes: {setting} = \"{number}\""),
    };
    format!("{setting}: this is {what}, write: {line}")
}

/// A message of the library in one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Correct form of the header of the table around a place of a text; `None` if the header is not
/// the mistake.
fn wrong_header(text: &str, at: usize) -> Option<String> {
    let end = text.get(at..)?.find('\n').map_or(text.len(), |end| at + end);
    let header = text.get(..end)?.lines().map(str::trim).rfind(|line| line.starts_with('['))?;
    let header = header.split_once('#').map_or(header, |(header, _)| header).trim();
    let name = header.trim_matches(['[', ']']).trim();
    let (first, is_list) = (name.split('.').next()?.trim(), header.starts_with("[["));
    match first {
        "grant" if !is_list || first != name => {
            Some(format!("{header}: there can be several grants, write each with two brackets: [[grant]]"))
        }
        "role" if !is_list || first != name => {
            Some(format!("{header}: there can be several roles, write each with two brackets: [[role]]"))
        }
        "grep11" if first == name => {
            Some(format!("{header}: a backend has a name, write it into the brackets: [grep11.NAME]"))
        }
        "grep11" | "socket" | "limits" | "embedded" | "store" if is_list => Some(format!(
            "{header}: there is only one section of this name, write it with one bracket: [{name}]"
        )),
        _ => None,
    }
}

/// Name of the setting whose value stands at a place of a text, if the name is on the same line.
fn setting_before(text: &str, at: usize) -> Option<&str> {
    let line = text.get(..at)?.rsplit('\n').next()?;
    let name = line.split_once('=')?.0.trim();
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    (!name.is_empty() && name.bytes().all(allowed)).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    /// Each mistake, the line of the message, and the correct text.
    #[test]
    fn mistakes_of_syntax_are_explained_with_the_correct_form() {
        for (wrong, explained, right) in [
            (
                "[grant]\nuid = 1\nkeys = [\"a\"]",
                "1: [grant]: there can be several grants",
                "[[grant]]\nuid = 1\nkeys = [\"a\"]",
            ),
            (
                "[role]\nrole = \"viewer\"\nuid = 1",
                "1: [role]: there can be several roles",
                "[[role]]\nrole = \"viewer\"\nuid = 1",
            ),
            ("[grant.www] # mine\nuid = 1", "1: [grant.www]: there can be several grants", ""),
            (
                "[[socket]]\nconnections = 5",
                "1: [[socket]]: there is only one section of this name",
                "[socket]\nconnections = 5",
            ),
            (
                "[[grep11.hsm]]\nendpoints = [\"a:1\"]",
                "1: [[grep11.hsm]]: there is only one",
                "[grep11.hsm]\nendpoints = [\"a:1\"]",
            ),
            (
                "[grep11]\nendpoints = [\"a:1\"]",
                "2: [grep11]: a backend has a name",
                "[grep11.a]\nendpoints = [\"a:1\"]",
            ),
            ("[[grep11]]\nendpoints = [\"a:1\"]", "1: [[grep11]]: a backend has a name", ""),
            (
                "[socket]\nalso = \"/a\"",
                "2: also: this is a list, write it in brackets: also = [\"/a\"]",
                "[socket]\nalso = [\"/a\"]",
            ),
            (
                "[[grant]]\nuid = 1\nkeys = \"a\"",
                "3: keys: this is a list, write it in brackets: keys = [\"a\"]",
                "",
            ),
            (
                "[[grant]]\nuid = 1\nkeys = [\"a\"]\nunit = 5",
                "4: unit: this is text, write it in quotes: unit = \"5\"",
                "",
            ),
            (
                "[embedded]\nmaster-key = [\"/a\"]",
                "2: master-key: there is only one value, write it without brackets",
                "",
            ),
            (
                "[embedded]\ncached-keys = 0",
                "2: cached-keys: invalid value: integer `0`, expected a whole number, 1 or more",
                "",
            ),
            ("[[grants]]\nuid = 1", "1: unknown field `grants`", ""),
            ("x", "1: ", ""),
        ] {
            let error = Config::parse(wrong, Path::new("k.toml")).unwrap_err().to_string();
            let expected = format!("configuration k.toml, line {explained}");
            assert!(error.starts_with(&expected), "{error:?} does not begin with {expected:?}");
            Config::parse(right, Path::new("k.toml")).unwrap();
        }
    }

    /// The advised line in the place of the wrong one makes the configuration right.
    #[test]
    fn the_line_for_a_number_in_the_place_of_text_is_right() {
        let grant = "[[grant]]\nkeys = [\"a\"]\n";
        let remote = "[grep11.hsm]\nendpoints = [\"127.0.0.1:1\"]\nplaintext = true\n";
        for (before, line) in [
            ("[metrics]\n", "listen = 9463"),
            ("[metrics]\n", "listen = 9999"),
            ("[metrics]\n", "listen = 94630"),
            ("[metrics]\n", "listen = 9463.5"),
            ("", "metrics.listen = 9463"),
            ("[limits]\n", "request-timeout = 5"),
            ("[limits]\n", "drain-timeout = 5"),
            ("[audit]\n", "keep = 90"),
            (remote, "timeout = 5"),
            (remote, "keepalive = 5"),
            (grant, "user = 33"),
        ] {
            let error =
                Config::parse(&format!("{before}{line}\n"), Path::new("k.toml")).unwrap_err().to_string();
            let (_, advice) = error.split_once(", write: ").unwrap_or_else(|| panic!("{line}: {error}"));
            let mended = match line.split_once('.') {
                Some(("metrics", _)) => format!("[metrics]\n{advice}\n"),
                _ => format!("{before}{advice}\n"),
            };
            Config::parse(&mended, Path::new("k.toml")).unwrap_or_else(|error| panic!("{advice}: {error}"));
        }
        let port = Config::parse("[metrics]\nlisten = 9999\n", Path::new("k.toml")).unwrap_err();
        assert!(port.to_string().ends_with("write: listen = \"127.0.0.1:9999\""), "{port}");
    }

    proptest! {
        #[test]
        fn no_text_and_place_panic(text in "(\\[\\[?grant|[ -~é\n]){0,20}", at in 0_usize..30) {
            let _ = explained("invalid type: string \"a\", expected a sequence", &text, at);
        }
    }
}
