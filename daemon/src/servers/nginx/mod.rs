//! nginx: the program of a running one, and its configuration.

mod conf;
mod files;

use std::process::Command;

use super::processes::Master;
pub(crate) use conf::{DUMP, Directive, NginxConf};
pub(crate) use files::{Configuration, first_file};

/// The program of nginx with the configuration of a running one: its process shows its arguments
/// as `nginx: master process /usr/sbin/nginx -c FILE`.
pub fn command(master: &Master) -> Command {
    let shown = words(master);
    let mut command = Command::new(&master.program);
    command.current_dir(&master.directory);
    for name in ["-c", "-p", "-e"] {
        if let Some(value) = option(&shown, name) {
            // A relative path counts from the prefix of nginx, not from the working directory.
            command.arg(name).arg(value);
        }
    }
    // -g has spaces in its value, which ends at the next option.
    if let Some(at) = shown.arguments.iter().position(|word| word == "-g") {
        let value: Vec<_> = shown
            .arguments
            .iter()
            .skip(at + 1)
            .take_while(|word| !["-c", "-p", "-e"].contains(&word.as_str()))
            .cloned()
            .collect();
        command.arg("-g").arg(value.join(" "));
    }
    command
}

/// Value of an option, also of one that stands in the same word, as in `-cFILE`. `shown` has its
/// arguments one by one.
pub(crate) fn option<'m>(shown: &'m Master, name: &str) -> Option<&'m str> {
    let mut attached =
        shown.arguments.iter().filter_map(|word| word.strip_prefix(name)).filter(|rest| !rest.is_empty());
    shown.values(name).last().copied().or_else(|| attached.next_back())
}

/// A process with its arguments one by one: nginx shows them as one word.
pub fn words(master: &Master) -> Master {
    let words = master.arguments.iter().flat_map(|word| word.split_whitespace());
    let mut shown = master.clone();
    shown.arguments = words.map(str::to_owned).collect();
    shown
}
