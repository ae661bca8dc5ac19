//! The passphrase of an encrypted key file.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::ground::exit;
use crate::ground::ownership::is_for_others;
use crate::ground::text::{printable, quoted};

/// Source of the passphrase of an encrypted file; without these options, the user is asked on the
/// terminal.
#[derive(Args, Debug, Default)]
pub(super) struct Source {
    /// File whose first line is the passphrase, of each key if there are several; other users must
    /// not be able to read the file [default: ask on the terminal, except for a list]
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    passphrase_file: Option<PathBuf>,
    /// Open descriptor whose first line is the passphrase of an encrypted key
    #[arg(long, value_name = "NUMBER")]
    passphrase_fd: Option<u16>,
}

impl Source {
    /// True if the passphrase is read from standard input.
    pub(super) fn is_standard_input(&self) -> bool {
        self.passphrase_fd == Some(0)
    }

    /// Reads the passphrase of the file `encrypted`; `None` if no option names a source and there
    /// is no terminal.
    pub(super) fn read(&self, encrypted: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let descriptor = self.passphrase_fd.map(|number| PathBuf::from(format!("/dev/fd/{number}")));
        if let Some(path) = self.passphrase_file.as_ref().or(descriptor.as_ref()) {
            let file = File::open(path).map_err(|error| Failure::reading(path, &error))?;
            if self.passphrase_file.is_some() {
                refuse_exposed(path, &file)?;
            }
            return first_line(file).map(Some).map_err(|error| Failure::reading(path, &error));
        }
        if encrypted == Path::new("-") || !io::stdin().is_terminal() {
            return Ok(None);
        }
        asked("Passphrase", encrypted).map(Some)
    }

    /// Reads the passphrase of a file that is to be made: the user types it twice. `None` as for
    /// [`Self::read`].
    pub(super) fn read_new(&self, file: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let first = self.read(file)?;
        if let Some(first) = &first
            && self.passphrase_file.is_none()
            && self.passphrase_fd.is_none()
            && asked("Once more, the passphrase", file)? != *first
        {
            return Err(Failure::new(
                exit::DATA,
                "the two passphrases differ, so nothing was made; run the command again",
            ));
        }
        match first {
            Some(empty) if empty.is_empty() => {
                Err(Failure::new(exit::DATA, "an empty passphrase protects nothing; type a long one"))
            }
            first => Ok(first),
        }
    }
}

/// Refuses a passphrase that other users can read.
fn refuse_exposed(path: &Path, file: &File) -> Result<(), Failure> {
    let failed = |error| Failure::reading(path, &error);
    // A pipe or a terminal has no permissions that matter once it is open.
    let is_file = file.metadata().map_err(failed)?.is_file();
    if is_file && is_for_others(file).map_err(failed)? {
        return Err(Failure::new(
            exit::CONFIG,
            format_args!(
                "refused the passphrase in {}: others can read it; run: chmod o= {}",
                path.display(),
                quoted(path)
            ),
        ));
    }
    Ok(())
}

fn first_line(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    // The full capacity at once, since a vector that grows leaves copies of its bytes in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST + 2));
    file.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
    line(text)
}

/// Asks on the terminal, with echo off.
fn asked(what: &str, encrypted: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let question = format!("{what} of {}: ", printable(&encrypted.display().to_string()));
    hidden_line(&question)
        .map_err(|error| Failure::new(exit::IO, format_args!("cannot ask for the passphrase: {error}")))
}

/// Asks on the terminal, with echo off, and reads a line.
pub(super) fn hidden_line(question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let terminal = io::stdin();
    let shown = tcgetattr(&terminal)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    hidden.local_modes.insert(LocalModes::ECHONL);
    // Ctrl-C ends the line instead of the process, so that echo is on again when the process ends.
    let interrupt = shown.special_codes[SpecialCodeIndex::VINTR];
    hidden.special_codes[SpecialCodeIndex::VEOL] = interrupt;
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
    eprint!("{question}");
    let mut text = Zeroizing::new(vec![0; LONGEST + 1]);
    // One read returns one line. The buffer of `io::stdin` would keep a copy of the passphrase.
    let read = rustix::io::read(&terminal, text.as_mut_slice());
    tcsetattr(&terminal, OptionalActions::Now, &shown)?;
    text.truncate(read?);
    match text.last() {
        None => Err(io::ErrorKind::UnexpectedEof.into()),
        Some(last) if *last == interrupt && interrupt != DISABLED => {
            eprintln!();
            kill_process(getpid(), Signal::INT)?;
            Err(io::ErrorKind::Interrupted.into())
        }
        Some(_) => line(text),
    }
}

fn line(mut text: Zeroizing<Vec<u8>>) -> io::Result<Zeroizing<Vec<u8>>> {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    if end > LONGEST {
        return Err(io::Error::other("the passphrase is longer than 1024 bytes"));
    }
    text.truncate(end);
    if text.last() == Some(&b'\r') {
        text.pop();
    }
    Ok(text)
}

/// Value of a special character that a terminal does not have (_POSIX_VDISABLE of Linux).
const DISABLED: u8 = 0;
/// Longest passphrase, in bytes.
const LONGEST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_as_it_is() {
        let read = |text: &str| line(Zeroizing::new(text.as_bytes().to_vec())).map(|line| line.to_vec()).ok();
        for (text, expected) in
            [("a b \nrest", "a b "), ("a\r\n", "a"), ("", ""), ("\n", ""), (" gr\u{fc}n", " gr\u{fc}n")]
        {
            assert_eq!(read(text), Some(expected.into()), "{text:?}");
        }
        assert!(read(&"x".repeat(LONGEST)).is_some() && read(&"x".repeat(LONGEST + 1)).is_none());
    }
}
