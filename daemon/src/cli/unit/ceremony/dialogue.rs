//! Questions on the terminal, and the answers of people.

use core::fmt::Display;
use core::str::FromStr;
use std::io::{self, BufRead, Read};

use crate::cli::failure::Failure;
use crate::cli::output::{print, print_table, table};
use crate::cli::passphrase;
use crate::ground::exit;

/// Shows text of any number of lines.
pub(super) fn say(text: impl Display) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Says why an attempt failed, with line breaks between words.
pub(super) fn did_not_work(failure: Failure) -> Result<(), Failure> {
    let mut lines = table(&[]);
    lines.add_row([format!("This did not work: {}.", failure.into_reason())]);
    print_table(&lines)
}

/// Shows the title of a step, and who must come.
pub(super) fn step(title: &str, who: &str) -> Result<(), Failure> {
    say(format_args!(
        "\n== {title} {}\nWho must come: {who}.\n",
        "=".repeat(70_usize.saturating_sub(title.len()))
    ))
}

/// Asks a question, and returns the answer without blanks around it.
pub(super) fn ask(question: &str) -> Result<String, Failure> {
    print(&format!("{question} "))?;
    let mut answer = String::new();
    let read = io::stdin().lock().take(LONGEST).read_line(&mut answer);
    read.map_err(|error| Failure::new(exit::IO, format_args!("cannot read the answer: {error}")))?;
    match answer.ends_with('\n') {
        true => Ok(answer.trim().to_owned()),
        false => Err(Failure::new(exit::IO, "the terminal has ended, or the answer is too long")),
    }
}

/// Asks a question. Enter alone stands for `default`.
pub(super) fn ask_or(question: &str, default: &str) -> Result<String, Failure> {
    let answer = ask(&format!("{question} [{default}]:"))?;
    Ok(if answer.is_empty() { default.to_owned() } else { answer })
}

/// Asks until `parse` takes the answer. Without a default, Enter alone is an answer like others.
pub(super) fn parsed<T>(
    question: &str,
    default: Option<&str>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Failure> {
    loop {
        let answer = match default {
            Some(default) => ask_or(question, default)?,
            None => ask(&format!("{question}:"))?,
        };
        match parse(&answer) {
            Ok(value) => return Ok(value),
            Err(reason) => say(format_args!("This is not possible: {reason}."))?,
        }
    }
}

/// Asks for a number from `least` to `most`.
pub(super) fn number(question: &str, least: u8, most: usize, default: u8) -> Result<u8, Failure> {
    let question = format!("{question}, {least} to {most}");
    parsed(&question, Some(&default.to_string()), |answer| {
        let number = answer.parse::<u8>().ok();
        let number = number.filter(|number| *number >= least && usize::from(*number) <= most);
        number.ok_or_else(|| format!("a number from {least} to {most} is needed"))
    })
}

/// Asks for different names.
pub(super) fn names<T>(question: &str, least: usize, most: usize) -> Result<Vec<T>, Failure>
where
    T: FromStr<Err: Display> + PartialEq,
{
    parsed(&format!("{question} ({least} to {most}, as in: ann ben)"), None, |answer| {
        let mut names: Vec<T> = Vec::new();
        for word in answer.split([' ', ',']).filter(|word| !word.is_empty()) {
            let name = word.parse().map_err(|error: T::Err| format!("{word}: {error}"))?;
            if names.contains(&name) {
                return Err(format!("{word} is there twice"));
            }
            names.push(name);
        }
        match (least..=most).contains(&names.len()) {
            true => Ok(names),
            false => Err(format!("{} names are there, and {least} to {most} are needed", names.len())),
        }
    })
}

/// Asks a question that has the answers yes and no.
pub(super) fn agreed(question: &str) -> Result<bool, Failure> {
    parsed(&format!("{question} (yes or no)"), None, |answer| match answer {
        "yes" | "y" => Ok(true),
        "no" | "n" => Ok(false),
        _ => Err("type yes or no".into()),
    })
}

/// Has people type the first digits of a pattern from their notes. Enter alone would not show that
/// they have compared.
///
/// # Errors
/// A [`Failure`] after [`TRIES`] other answers: the notes are of something else.
pub(super) fn compared(who: &str, what: &str, digits: &str) -> Result<(), Failure> {
    let expected = digits.get(..TYPED).unwrap_or(digits);
    for _ in 0..TRIES {
        let typed = ask(&format!("{who}: type the first {TYPED} digits of {what}, from the paper:"))?;
        if typed == expected {
            return Ok(());
        }
        say(format_args!("These are not the first {TYPED} digits of {what}. Compare once more:\n{digits}"))?;
    }
    Err(Failure::new(
        exit::DATA,
        format_args!("the paper and the screen differ in {what}; find out why before you go on"),
    ))
}

/// Tries again for as long as people want to.
pub(super) fn again<T>(mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(failure) => {
                did_not_work(failure)?;
                // Somebody who types on expects the question for the passphrase.
                passphrase::hidden_line("Press Enter to try again, or Ctrl-C to stop: ").map_err(
                    |error| Failure::new(exit::IO, format_args!("cannot read the answer: {error}")),
                )?;
            }
        }
    }
}

/// Longest answer, in bytes: as many as a line of a terminal can have (termios(3)).
const LONGEST: u64 = 4096;
/// Number of digits that people type, which shows that they have looked. Somebody with time can
/// make a key with the same first digits, so the screen always has all digits.
const TYPED: usize = 8;
/// Number of tries for digits from the paper.
const TRIES: usize = 3;
