//! The command line as `tests/golden/command-line.txt` has it: one fact on each line.

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::cli::CommandLine;

#[allow(unreachable_pub, reason = "the end-to-end tests use it too")]
#[path = "../../../tests/src/golden.rs"]
mod file;

#[test]
fn golden_command_line() {
    let mut facts = Vec::new();
    let mut command = CommandLine::command();
    command.build();
    list(&command, "keyward", &mut facts);
    assert!(facts.len() > 200, "{facts:?}");
    file::check("command-line.txt", &facts.concat());
}

/// The facts of a command and the commands below it. The hidden ones are for packages only.
fn list(command: &Command, name: &str, facts: &mut Vec<String>) {
    let args = command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()));
    if !command.has_subcommands() {
        facts.push(format!("{name}\n"));
    }
    facts.extend(args.flat_map(facts_of).map(|fact| format!("{name} {fact}\n")));
    for one in command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help") {
        list(one, &format!("{name} {}", one.get_name()), facts);
        facts.extend(one.get_all_aliases().map(|alias| format!("{name} {alias}: alias\n")));
    }
}

/// An argument in the notation of usage lines, and a line for each default, short form and value.
fn facts_of(arg: &Arg) -> Vec<String> {
    let takes_value = arg.get_action().takes_values();
    let value = arg
        .get_value_names()
        .filter(|_| takes_value)
        .map(|names| names.iter().map(|one| one.as_str().to_owned()).collect::<Vec<_>>().join(" "));
    let name = arg.get_long().map(|long| format!("--{long}"));
    let parts: Vec<_> = name.clone().into_iter().chain(value).collect();
    let mut usage = parts.join(" ");
    if !arg.is_required_set() {
        usage = format!("[{usage}]");
    }
    let takes_many = arg.get_num_args().is_some_and(|range| range.max_values() > 1);
    if takes_many || matches!(arg.get_action(), ArgAction::Append | ArgAction::Count) {
        usage.push_str("...");
    }
    let short = name.unwrap_or_else(|| parts.concat());
    let defaults = arg.get_default_values().iter().filter(|_| takes_value);
    let defaults = defaults.map(|value| format!("{short}: default {}", value.display()));
    let values = arg.get_possible_values().into_iter().filter(|_| takes_value);
    let values = values.flat_map(|value| {
        value.get_name_and_aliases().map(|name| format!("{short}: value {name}")).collect::<Vec<_>>()
    });
    let forms = arg.get_short_and_visible_aliases().unwrap_or_default();
    let forms = forms.into_iter().map(|letter| format!("{short}: short -{letter}"));
    let aliases = arg.get_all_aliases().unwrap_or_default();
    let aliases = aliases.into_iter().map(|alias| format!("{short}: alias --{alias}"));
    let all = defaults.chain(values).chain(forms).chain(aliases);
    std::iter::once(usage).chain(all).collect()
}
