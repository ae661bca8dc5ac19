//! A program of an administrator that signs commands, such as a script around a token.
//!
//! The program runs with one more argument. With `public-key` it prints the public key: a
//! SubjectPublicKeyInfo of P-521, in PEM or DER. With `sign` it gets the bytes to sign on standard
//! input, and prints the signature: ECDSA with SHA-512, in DER, as it is or in base64.
//!
//! The standard error of the program is shown at once, since the program may ask for a PIN or a
//! touch there. The program stays in the process group, since only that group may read from the
//! terminal.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::io::{self, Write};
use std::process::{ExitStatus, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_unit::administration::PersonKey;
use keyward_unit::public_key_of_file;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};

use super::signers::{PERSON_TIME, wait};
use crate::cli::failure::Failure;
use crate::ground::exit;

/// A signing program, with its own arguments.
#[derive(Clone, Debug)]
pub(super) struct Program {
    name: String,
    arguments: Vec<String>,
    /// Longest time of one run.
    limit: Duration,
}

impl Program {
    /// Asks the program for its public key.
    ///
    /// # Errors
    /// [`Failure`] if the program fails, or prints something else.
    pub(super) fn public_key(&self) -> Result<PersonKey, Failure> {
        let printed = self.run("public-key", b"")?;
        PersonKey::from_spki(&public_key_of_file(&printed))
            .map_err(|error| Failure::new(exit::DATA, format_args!("{self} public-key printed: {error}")))
    }

    /// Has the program sign a text. The signature is not verified here.
    ///
    /// # Errors
    /// [`Failure`] if the program fails, or prints neither DER nor base64.
    pub(super) fn sign(&self, text: &[u8]) -> Result<Vec<u8>, Failure> {
        signature_in(self.run("sign", text)?).ok_or_else(|| {
            Failure::new(
                exit::DATA,
                format_args!("{self} sign printed no signature: DER is needed, as it is or in base64"),
            )
        })
    }

    fn run(&self, argument: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
        let late = format!("{self} {argument} did not end");
        wait(self.limit, &late, async {
            let output = self.output(argument, input).await;
            output.map_err(|error| Failure::new(error.status(), format_args!("{self} {argument} {error}")))
        })
    }

    async fn output(&self, argument: &str, input: &[u8]) -> Result<Vec<u8>, RunError> {
        let mut command = Command::new(&self.name);
        command.args(&self.arguments).arg(argument).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ((), output, last_line) = tokio::try_join!(feed(stdin, input), limited(stdout), shown(stderr))?;
        match child.wait().await? {
            status if status.success() => Ok(output),
            status => Err(RunError::Ended { status, last_line }),
        }
    }
}

impl FromStr for Program {
    type Err = &'static str;

    /// Splits a command into words as a shell does, without running a shell.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = shlex::split(text).ok_or("a quote is not closed")?.into_iter();
        let name = words.next().filter(|name| !name.is_empty()).ok_or("there is no program in it")?;
        Ok(Self { name, arguments: words.collect(), limit: PERSON_TIME })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

async fn feed(stdin: Option<ChildStdin>, input: &[u8]) -> Result<(), RunError> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    match stdin.write_all(input).await {
        // A program that does not read its input signs something else, which shows later.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// All that a program prints, unless it is too much.
async fn limited(stdout: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, RunError> {
    let mut output = Vec::new();
    if let Some(stdout) = stdout {
        stdout.take(MAX_OUTPUT + 1).read_to_end(&mut output).await?;
    }
    if output.len() as u64 > MAX_OUTPUT { Err(RunError::Long) } else { Ok(output) }
}

/// Shows standard error as it comes, as if a person had run the program. Returns the last line.
async fn shown(stderr: Option<impl AsyncRead + Unpin>) -> Result<String, RunError> {
    let Some(mut stderr) = stderr else { return Ok(String::new()) };
    let (mut tail, mut chunk) = (Vec::new(), [0; 1024]);
    loop {
        let length = stderr.read(&mut chunk).await?;
        let read = chunk.get(..length).unwrap_or_default();
        if read.is_empty() {
            break;
        }
        // Nobody misses the text if standard error is closed.
        let _ = io::stderr().write_all(read);
        tail.extend_from_slice(read);
        tail.drain(..tail.len().saturating_sub(MAX_LINE));
    }
    let text = String::from_utf8_lossy(&tail);
    Ok(text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned())
}

/// The signature in the output of a program.
fn signature_in(output: Vec<u8>) -> Option<Vec<u8>> {
    // A SEQUENCE in DER begins with 0x30, and its base64 with M.
    if output.first() == Some(&0x30) {
        return Some(output);
    }
    let text: Vec<_> = output.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok().filter(|signature| !signature.is_empty())
}

/// Reason why a run gave no output.
#[derive(Debug, Error)]
enum RunError {
    #[error("failed with {status}{}{last_line}", if last_line.is_empty() { "" } else { ": " })]
    Ended { status: ExitStatus, last_line: String },
    #[error("printed more than {MAX_OUTPUT} bytes")]
    Long,
    #[error("cannot be run: {0}")]
    System(#[from] io::Error),
}

impl RunError {
    fn status(&self) -> u8 {
        match self {
            Self::Ended { .. } => exit::UNAVAILABLE,
            Self::Long => exit::DATA,
            Self::System(reason) => match reason.kind() {
                io::ErrorKind::NotFound => exit::NO_INPUT,
                io::ErrorKind::PermissionDenied => exit::NO_PERMISSION,
                _ => exit::OS,
            },
        }
    }
}

/// Most output, in bytes. A public key in PEM has some 300.
const MAX_OUTPUT: u64 = 16 * 1024;
/// Longest last line of standard error that is kept, in bytes.
const MAX_LINE: usize = 300;

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn program(script: &str, limit: Duration) -> Program {
        let arguments = ["-c", script, "script"].map(str::to_owned).to_vec();
        Program { name: "sh".into(), arguments, limit }
    }

    #[test]
    fn a_command_is_split_as_in_a_shell() {
        let words = |text: &str| text.parse().map(|Program { name, arguments, .. }| (name, arguments));
        let expected = ("/opt/my sign".to_owned(), vec!["--slot".to_owned(), "1".to_owned()]);
        assert_eq!(words("'/opt/my sign'  --slot 1"), Ok(expected));
        // A shell would run a command here.
        assert_eq!(words("a;b $(c)"), Ok(("a;b".to_owned(), vec!["$(c)".to_owned()])));
        assert_eq!(words("a 'b"), Err("a quote is not closed"));
        for empty in ["", "  ", "''"] {
            assert_eq!(words(empty), Err("there is no program in it"));
        }
    }

    #[test]
    fn a_program_gets_the_text_and_its_output_is_taken() {
        let echo = program("test $# = 1 && test $1 = sign && cat", PERSON_TIME);
        assert_eq!(echo.run("sign", b"text\0\n").unwrap(), b"text\0\n");
        // It reads nothing of a text that is longer than a pipe.
        let deaf = program("echo done", PERSON_TIME);
        assert_eq!(deaf.run("sign", &[b'x'; 1 << 20]).unwrap(), b"done\n");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("echo $$ >{}; exec sleep 600", file.path().display());
        let failure = program(&script, Duration::from_millis(300)).run("sign", b"").unwrap_err();
        assert_eq!(failure.into_reason(), "sh sign did not end within 300ms");
        let pid = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        // Without such a process there is nothing to wait for.
        if let Ok(process) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) {
            let deadline = Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(
                poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline)),
                Ok(1),
                "it runs on"
            );
        }
    }

    #[test]
    fn failures_have_the_last_line_and_output_has_a_limit() {
        let reason = |script: &str| program(script, PERSON_TIME).run("sign", b"").unwrap_err().into_reason();
        assert_eq!(
            reason("echo first >&2; echo 'no token ' >&2; echo >&2; exit 3"),
            "sh sign failed with exit status: 3: no token"
        );
        assert_eq!(reason("exit 4"), "sh sign failed with exit status: 4");
        assert_eq!(reason("kill -9 $$"), "sh sign failed with signal: 9 (SIGKILL)");
        assert_eq!(reason("exec cat /dev/zero"), "sh sign printed more than 16384 bytes");
        let missing: Program = "/no/such/program".parse().unwrap();
        let reason = missing.run("sign", b"").unwrap_err().into_reason();
        assert!(reason.starts_with("/no/such/program sign cannot be run: No such file"), "{reason}");
    }

    #[test]
    fn signatures_are_der_or_base64() {
        let der = vec![0x30, 6, 2, 1, 1, 2, 1, 2];
        assert_eq!(signature_in(der.clone()), Some(der.clone()));
        assert_eq!(signature_in(b"MAYC AQEC\r\nAQI=\n".to_vec()), Some(der));
        for other in [&b""[..], b"\n", b"signed!", b"\x04\x81"] {
            assert_eq!(signature_in(other.to_vec()), None);
        }
    }
}
