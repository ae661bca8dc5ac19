//! Runs a program of the system, such as `systemctl`, without a shell.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use thiserror::Error;
use zeroize::Zeroizing;

/// Runs a program that `PATH` leads to, with an input. Returns its output.
///
/// # Errors
/// [`ProgramError`] if the program cannot be run, fails, or prints more than [`MAX_OUTPUT`] bytes.
pub(in crate::cli) fn run(
    name: &'static str,
    arguments: &[&str],
    input: &[u8],
) -> Result<Zeroizing<Vec<u8>>, ProgramError> {
    let (status, output, last_line) = finished(name, arguments, input)?;
    match output {
        // Such a program ends with an error, because nobody reads the rest.
        output if output.len() > MAX_OUTPUT => Err(ProgramError::Long { name }),
        _ if !status.success() => Err(ProgramError::Ended { name, status, last_line }),
        output => Ok(output),
    }
}

/// Runs a program whose status does not matter. Returns its output.
///
/// # Errors
/// [`ProgramError`] if the program cannot be run.
pub(in crate::cli) fn run_any(
    name: &'static str,
    arguments: &[&str],
) -> Result<Zeroizing<Vec<u8>>, ProgramError> {
    finished(name, arguments, b"").map(|(_, output, _)| output)
}

fn finished(
    name: &'static str,
    arguments: &[&str],
    input: &[u8],
) -> Result<(ExitStatus, Zeroizing<Vec<u8>>, String), ProgramError> {
    let failed = |reason| ProgramError::System { name, reason };
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (output, last_line) = thread::scope(|scope| {
        let last_line = scope.spawn(|| last_line(stderr));
        let output = feed(stdin, input).and_then(|()| limited(stdout));
        (output, last_line.join().unwrap_or_default())
    });
    let status = child.wait().map_err(failed)?;
    Ok((status, output.map_err(failed)?, last_line))
}

fn feed(stdin: Option<impl Write>, input: &[u8]) -> io::Result<()> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    match stdin.write_all(input) {
        // The program has failed, and says why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn limited(stdout: Option<impl Read>) -> io::Result<Zeroizing<Vec<u8>>> {
    // With full capacity from the start: growing would leave unwiped copies in memory.
    let mut output = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 1));
    if let Some(stdout) = stdout {
        stdout.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut output)?;
    }
    Ok(output)
}

/// Reads standard error to its end. Returns the last line that is not blank.
fn last_line(stderr: Option<impl Read>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut tail, mut chunk) = (Vec::new(), [0; 1024]);
    while let Ok(length @ 1..) = stderr.read(&mut chunk) {
        tail.extend_from_slice(chunk.get(..length).unwrap_or_default());
        tail.drain(..tail.len().saturating_sub(MAX_LINE));
    }
    let text = String::from_utf8_lossy(&tail);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// Reason why a program gave no output.
#[derive(Debug, Error)]
pub(in crate::cli) enum ProgramError {
    #[error("{name} failed with {status}{}{last_line}", if last_line.is_empty() { "" } else { ": " })]
    Ended { name: &'static str, status: ExitStatus, last_line: String },
    #[error("{name} printed more than {MAX_OUTPUT} bytes")]
    Long { name: &'static str },
    #[error("cannot run {name}: {reason}")]
    System { name: &'static str, reason: io::Error },
}

/// Most output, in bytes. An encrypted credential has some 600.
const MAX_OUTPUT: usize = 64 * 1024;
/// Longest last line of standard error that is kept, in bytes.
const MAX_LINE: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &[u8]) -> Result<Vec<u8>, String> {
        let arguments = ["-c", script];
        run("sh", &arguments, input).map(|output| output.to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_program_gets_the_input_and_its_output_is_taken() {
        assert_eq!(shell("cat; echo to nobody >&2", b"secret\0").unwrap(), b"secret\0");
        // The program reads nothing of an input that is longer than a pipe.
        assert_eq!(shell("echo done", &[b'x'; 1 << 20]).unwrap(), b"done\n");
    }

    #[test]
    fn failures_have_the_last_line_and_output_has_a_limit() {
        let failed = |script: &str| shell(script, b"").unwrap_err();
        assert_eq!(
            failed("echo first >&2; echo 'no TPM ' >&2; echo >&2; exit 3"),
            "sh failed with exit status: 3: no TPM"
        );
        assert_eq!(failed("exit 4"), "sh failed with exit status: 4");
        assert_eq!(failed("head -c 100000 /dev/zero"), "sh printed more than 65536 bytes");
        // More than a pipe holds.
        let long = failed("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1");
        assert_eq!(long.len(), "sh failed with exit status: 1: ".len() + MAX_LINE);
        let missing = run("/no/such/program", &[], b"").unwrap_err().to_string();
        assert!(missing.starts_with("cannot run /no/such/program: No such file"), "{missing}");
    }
}
