//! Contents of the file that a server loads as its key, and the errors for invalid contents.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use keyward_tests::pki::plain_key;
use keyward_tests::tool::{run, stderr};
use keyward_tests::{Daemon, Host, OpenSsl, Pki};

/// A key, its certificate, and its reference, which tests damage.
struct Scene {
    daemon: Daemon,
    certificate: PathBuf,
    reference: String,
}

impl Scene {
    fn new() -> Self {
        let daemon = Daemon::start();
        daemon.generate("shop", "p256");
        let reference = daemon.reference("shop");
        let certificate = Pki::new(daemon.directory()).certify(&daemon, &reference);
        Self { daemon, certificate, reference: fs::read_to_string(reference).unwrap() }
    }

    fn write(&self, content: &[u8]) -> PathBuf {
        let path = self.daemon.path("spoilt.pem");
        fs::write(&path, content).unwrap();
        path
    }

    /// Loads a file as servers do, and signs, with 32 MiB of address space.
    fn server(&self, openssl: OpenSsl, content: &[u8]) -> Output {
        let host = Host::new(&self.daemon, openssl);
        let host = host.mode("signs", &self.certificate, &self.write(content), 1).command;
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--as={}", 32 * MIB)).arg(host.get_program()).args(host.get_args());
        limited.envs(host.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut limited)
    }

    /// Loads a file as the openssl program does, which uses other functions of OpenSSL.
    fn program(&self, openssl: OpenSsl, content: &[u8]) -> Output {
        run(self.daemon.openssl_of(openssl, &["pkey", "-pubout", "-in"]).arg(self.write(content)))
    }

    /// The reference without a number of lines at its end.
    fn without_last_lines(&self, count: usize) -> String {
        let lines: Vec<_> = self.reference.lines().collect();
        lines[..lines.len() - count].join("\n")
    }
}

/// Asserts that the program loads nothing, and gives this reason.
fn assert_refused(output: &Output, told: &str) {
    assert_eq!(output.status.code(), Some(1), "{}: {}", output.status, stderr(output));
    assert!(stderr(output).contains(told), "{told:?} in {}", stderr(output));
}

#[test]
fn references_that_are_cut_short() {
    let scene = Scene::new();
    let end = "-----END KEYWARD KEY-----\n";
    for openssl in OpenSsl::ALL {
        for cut in [
            scene.without_last_lines(1),
            scene.without_last_lines(2),
            scene.reference[..scene.reference.len() - 10].to_owned(),
            format!("{}\n{end}", scene.without_last_lines(2)),
            format!("-----BEGIN KEYWARD KEY-----\n{end}"),
            "-----BEGIN KEYWARD KEY-----".to_owned(),
        ] {
            for output in [scene.server(openssl, cut.as_bytes()), scene.program(openssl, cut.as_bytes())] {
                assert_refused(&output, "keyward: cannot read key reference: ");
            }
        }
        // Without its name, nobody can recognise a reference.
        for cut in ["", "-----BEGIN KEYWA"] {
            for output in [scene.server(openssl, cut.as_bytes()), scene.program(openssl, cut.as_bytes())] {
                assert_refused(&output, "");
                assert!(!stderr(&output).contains("keyward:"), "{}", stderr(&output));
            }
        }
    }
}

/// Files that do not fit into memory.
#[test]
fn files_that_are_huge() {
    let scene = Scene::new();
    let begin: &[u8] = b"-----BEGIN KEYWARD KEY-----\n";
    let lines = b"0123456789abcde\n".repeat(32 * MIB / 16);
    let line = vec![b'A'; 32 * MIB];
    let too_long = "keyward: cannot read key reference: longer than a reference can be";
    for openssl in OpenSsl::ALL {
        assert_refused(&scene.server(openssl, &lines), "unsupported");
        assert_refused(&scene.server(openssl, &[begin, &lines].concat()), too_long);
        assert_refused(&scene.server(openssl, &[begin, &line].concat()), too_long);
        let output = scene.server(openssl, &[scene.reference.as_bytes(), &lines].concat());
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

/// The provider searches the first mebibyte of a file.
#[test]
fn references_among_junk() {
    let scene = Scene::new();
    let reference = scene.reference.as_bytes();
    let lines = b"0123456789abcde\n".repeat(MIB / 32);
    for openssl in OpenSsl::ALL {
        for content in [
            [&lines, reference].concat(),
            [b"\0\xff\x80\n\n-----BEGIN\n", reference].concat(),
            [reference, b"\0\xff\x80\n-----BEGIN PRIVATE KEY-----\n", &lines].concat(),
            [reference, reference].concat(),
        ] {
            for output in [scene.server(openssl, &content), scene.program(openssl, &content)] {
                assert!(output.status.success(), "{}", stderr(&output));
            }
        }
        let far = [&*lines, &lines, &lines, reference].concat();
        assert_refused(&scene.server(openssl, &far), "unsupported");
    }
}

/// Some programs leave errors in the queue of OpenSSL, as HAProxy does after a certificate that
/// does not match. OpenSSL then looks only at the first PEM block of a file, except for the labels
/// that it knows.
#[test]
fn references_behind_certificates_after_an_earlier_error() {
    let scene = Scene::new();
    let reference = &scene.reference;
    let certificate = &fs::read_to_string(&scene.certificate).unwrap();
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let plain = &plain_key("p256").to_owned();
    for openssl in OpenSsl::ALL {
        let load = |content: &str| {
            let host = Host::new(&scene.daemon, openssl);
            let file = scene.write(content.as_bytes());
            run(&mut host.mode("signs-after-an-error", &scene.certificate, &file, 1).command)
        };
        for (content, signs, behind) in [
            ([reference, certificate].map(String::as_str).concat(), true, "behind=1"),
            ([certificate, reference].map(String::as_str).concat(), true, "behind=0"),
            (
                [certificate, certificate, reference, certificate].map(String::as_str).concat(),
                true,
                "behind=1",
            ),
            (format!("{parameters}the key\n{certificate}\nbehind\n{reference}"), true, "behind=0"),
            // The first key counts, whatever follows.
            ([certificate, plain, reference, certificate].map(String::as_str).concat(), false, "behind=1"),
            ([certificate, certificate, plain].map(String::as_str).concat(), false, "behind=0"),
        ] {
            let before = scene.daemon.status()["requests"].as_u64().unwrap();
            let output = load(&content);
            assert!(output.status.success(), "{openssl:?}: {}\n{content}", stderr(&output));
            let asked = scene.daemon.status()["requests"].as_u64().unwrap() - before;
            assert_eq!(asked, if signs { 2 } else { 0 }, "{openssl:?}: {content}");
            assert_eq!(
                String::from_utf8_lossy(&output.stdout).matches(behind).count(),
                2,
                "{openssl:?}: {content}"
            );
        }
        for content in [certificate.repeat(50), format!("{certificate}{}", scene.without_last_lines(2))] {
            assert_refused(&load(&content), "host.c");
        }
    }
}

/// A store returns every object of a file, whatever happened before.
#[test]
fn stores_lose_nothing_before_a_reference() {
    let scene = Scene::new();
    let reference = scene.reference.as_str();
    let certificate = fs::read_to_string(&scene.certificate).unwrap();
    for openssl in OpenSsl::ALL {
        for (content, found) in [
            (&[&*certificate, reference][..], "all=1+1 certificates=1+0 keys=0+1"),
            (&[reference, &certificate], "all=1+1 certificates=1+0 keys=0+1"),
            (&[&*certificate, &certificate, reference, &certificate], "all=3+1 certificates=3+0 keys=0+1"),
            (&[&*certificate, &certificate], "all=2+0 certificates=2+0 keys=0+0"),
        ] {
            let file = scene.write(content.concat().as_bytes());
            for earlier_error in [0, 1] {
                let host = Host::new(&scene.daemon, openssl);
                let output = run(&mut host.mode("store", &scene.certificate, &file, earlier_error).command);
                let told = String::from_utf8_lossy(&output.stdout);
                assert_eq!(told.trim(), found, "{openssl:?}, {earlier_error}: {}", stderr(&output));
            }
        }
    }
}

/// Files as editors, mail programs and templates leave them.
#[test]
fn references_that_were_written_anew() {
    let scene = Scene::new();
    let lines: Vec<_> = scene.reference.lines().collect();
    let begin = lines.iter().position(|line| line.starts_with("-----BEGIN ")).unwrap() + 1;
    let (head, end) = (lines[..begin].join("\n"), lines[lines.len() - 1]);
    let body = &lines[begin..lines.len() - 1];
    for openssl in OpenSsl::ALL {
        for content in [
            format!("{head}\n{}\n{end}\n", body.concat()),
            scene.reference.replace('\n', " \t\n"),
            scene.reference.replace('\n', "\r\n"),
            scene.reference.replace('\n', "\n    "),
            format!("\u{feff}{}", lines[1..].join("\n")),
        ] {
            for output in
                [scene.server(openssl, content.as_bytes()), scene.program(openssl, content.as_bytes())]
            {
                assert!(output.status.success(), "{content:?}: {}", stderr(&output));
            }
        }
    }
}

/// Files as editors and shells of Windows write them. No program reads these files, but the error
/// has a command that helps.
#[test]
fn references_in_utf16_are_told() {
    let scene = Scene::new();
    let little: Vec<u8> = scene.reference.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = scene.reference.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let command = "iconv -f UTF-16 -t ASCII FILE > NEW";
    for content in [[b"\xff\xfe", &*little].concat(), [b"\xfe\xff", &*big].concat()] {
        for openssl in OpenSsl::ALL {
            // The openssl program does not show the errors of decoders for text without PEM.
            let output = scene.server(openssl, &content);
            assert_refused(&output, "the file is text in UTF-16");
            assert!(stderr(&output).contains(command), "{}", stderr(&output));
        }
        let file = scene.write(&content);
        let new = scene.daemon.path("new.pem");
        let command = command.replace("FILE", file.to_str().unwrap()).replace("NEW", new.to_str().unwrap());
        assert!(run(Command::new("sh").args(["-c", &command])).status.success());
        let output = scene.server(OpenSsl::ALL[0], &fs::read(new).unwrap());
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

const MIB: usize = 1 << 20;
