//! `keyward generate-docs`: the manual pages of the command line and of `keyward.toml`, and the
//! completions for bash and zsh. Packages run this; a page is as true as the program that wrote it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;
use crate::ground::exit;

#[derive(Args, Debug)]
pub(super) struct GenerateDocs {
    /// Directory for `man/*.1`, `man/keyward.toml.5`, `bash/keyward` and `zsh/_keyward`
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl GenerateDocs {
    pub(super) fn run(self, command: Command) -> Result<(), Failure> {
        write(&self.directory, command).map_err(|error| {
            let why = format_args!("cannot write the manual to {}: {error}", self.directory.display());
            Failure::new(exit::CANNOT_CREATE, why)
        })
    }
}

fn write(directory: &Path, mut command: Command) -> io::Result<()> {
    let part = |name: &str| {
        let path = directory.join(name);
        fs::create_dir_all(&path).map(|()| path)
    };
    let (man, bash, zsh) = (part("man")?, part("bash")?, part("zsh")?);
    clap_complete::generate(Shell::Bash, &mut command, NAME, &mut File::create(bash.join(NAME))?);
    clap_complete::generate(Shell::Zsh, &mut command, NAME, &mut File::create(zsh.join("_keyward"))?);
    // The help of each command is its page, so `help` itself needs none.
    clap_mangen::generate_to(command.disable_help_subcommand(true), &man)?;
    fs::write(man.join("keyward.toml.5"), configuration_page())
}

/// The manual page of the configuration file: the shipped file, whose comments explain every
/// setting.
fn configuration_page() -> String {
    let escaped = |line: &str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that begins with a point or an apostrophe is a request (groff_man(7)).
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
    };
    let example: String = EXAMPLE.lines().map(|line| escaped(line) + "\n").collect();
    format!(
        ".TH keyward.toml 5 \"\" \"keyward {}\" \"Keyward\"\n.SH NAME\nkeyward.toml \\- configuration of the Keyward daemon\n\
         .SH SYNOPSIS\n/etc/keyward/keyward.toml, /etc/keyward/keyward.d/*.toml\n.SH DESCRIPTION\n\
         The file is in TOML. A line that begins with #: is a setting without effect, which shows the form. Files in \
         keyward.d add sections and replace values, in the order of their names.\n.PP\n\
         .B keyward serve \\-\\-check\\-config\nchecks the files and prints each value with its file.\n\
         .SH SETTINGS\n.nf\n{example}.fi\n.SH SEE ALSO\nkeyward(1), keyward\\-serve(1)\n",
        env!("CARGO_PKG_VERSION")
    )
}

const NAME: &str = "keyward";
/// The shipped configuration file.
const EXAMPLE: &str = include_str!("../../../conf/keyward.toml");

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::CommandLine;
    use crate::config::Config;

    #[test]
    fn every_command_has_a_page_and_every_setting_is_in_the_manual() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), CommandLine::command()).unwrap();
        let man = directory.path().join("man");
        let names = |command: &Command, prefix: &str| {
            let all = command.get_subcommands().filter(|one| !one.is_hide_set());
            all.map(|one| format!("{prefix}-{}", one.get_name())).collect::<Vec<_>>()
        };
        let command = CommandLine::command();
        let mut pages = names(&command, NAME);
        for one in command.get_subcommands() {
            pages.extend(names(one, &format!("{NAME}-{}", one.get_name())));
        }
        assert!(pages.len() > 40, "{pages:?}");
        for page in &pages {
            assert!(man.join(format!("{page}.1")).exists(), "{page}");
        }
        assert!(!man.join("keyward-generate-docs.1").exists());
        for file in ["bash/keyward", "zsh/_keyward"] {
            assert!(fs::read_to_string(directory.path().join(file)).unwrap().contains("--check-config"));
        }
        let page = fs::read_to_string(man.join("keyward.toml.5")).unwrap();
        for line in Config::default().to_effective_toml().lines() {
            let Some((name, _)) = line.split_once(" = ") else { continue };
            assert!(page.contains(&name.replace('-', "\\-")), "{name} is not in the manual");
        }
    }
}
