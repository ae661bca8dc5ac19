//! A daemon that tries from inside of its confined process what it must not be able to do, for
//! tests. Prints a line for each attempt. No program that is installed has this code.
//!
//! ```text
//! inside serve CONFIG STATE RUNTIME [ATTEMPT...]
//! inside unit CONFIG STATE RUNTIME [ATTEMPT...]
//! ```
//!
//! An attempt is `read=FILE`, `write=FILE`, `connect=PORT`, `listen`, `udp`, `spawn`, `execute`,
//! `trace=PID`, `signal=PID` or `user`.

use std::ffi::OsString;
use std::fs::Permissions;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use keyward::serve::{Options, UnitOptions, serve_and};
use keyward_unit::Profile;
use keyward_unit_server::Transport;
use nix::sys::{ptrace, signal};
use nix::unistd::{Pid, Uid, setuid};
use rustix::net::{AddressFamily, SendFlags, SocketType};

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let [_, kind, config, state_dir, runtime_dir, attempts @ ..] = &*words else {
        // The helper that looks up names.
        return keyward::cli::main();
    };
    if kind == "names" {
        return keyward::cli::main();
    }
    let unit = (kind == "unit").then(|| UnitOptions {
        server: keyward_unit_server::Options {
            listen: ([127, 0, 0, 1], 0).into(),
            transport: Transport::Plaintext,
            tokens: None,
            reflection: false,
            simulation: keyward_unit_server::Simulation::default(),
        },
        master_key: None,
        control_points: Profile::Strict,
        next_master_key: None,
    });
    let options = Options {
        config: Some(config.into()),
        state_dir: state_dir.into(),
        runtime_dir: runtime_dir.into(),
        dev: true,
        unit,
    };
    let attempts: Vec<String> = attempts.iter().map(|text| text.to_string_lossy().into_owned()).collect();
    let at_ready = move || {
        for attempt in &attempts {
            let (verb, object) = attempt.split_once('=').unwrap_or((attempt, ""));
            match attempted(verb, object) {
                Ok(()) => println!("{MARK} {attempt}: done"),
                Err(error) => println!("{MARK} {attempt}: {error}"),
            }
        }
        println!("{MARK} end: done");
    };
    match serve_and(&options, at_ready) {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn attempted(verb: &str, object: &str) -> io::Result<()> {
    let number = || object.parse::<i32>().map_err(io::Error::other);
    match verb {
        "read" => fs::read(object).map(drop),
        "write" => File::create(object).map(drop),
        "connect" => TcpStream::connect(("127.0.0.1", number()? as u16)).map(drop),
        "listen" => TcpListener::bind(("127.0.0.1", 0)).map(drop),
        // Two ways to send data that Landlock does not see.
        "multipath" => {
            let kind = (AddressFamily::INET, SocketType::STREAM);
            let socket = rustix::net::socket(kind.0, kind.1, Some(rustix::net::ipproto::MPTCP))?;
            Ok(rustix::net::connect(&socket, &loopback(number()?))?)
        }
        "fastopen" => {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            let flags = SendFlags::from_bits_retain(MSG_FASTOPEN);
            Ok(rustix::net::sendto(&socket, b"out", flags, &loopback(number()?)).map(drop)?)
        }
        // A program that others could run as the user of the daemon.
        "setuid" => {
            File::create(object)?;
            fs::set_permissions(object, Permissions::from_mode(0o4755))
        }
        "udp" => UdpSocket::bind(("127.0.0.1", 0)).map(drop),
        "spawn" => Command::new("/bin/true").status().map(drop),
        "execute" => Err(Command::new("/bin/true").exec()),
        "trace" => Ok(ptrace::attach(Pid::from_raw(number()?))?),
        "signal" => Ok(signal::kill(Pid::from_raw(number()?), None)?),
        "user" => Ok(setuid(Uid::from_raw(0))?),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn loopback(port: i32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port as u16)
}

/// sendto(2).
const MSG_FASTOPEN: u32 = 0x2000_0000;

/// Begins each line.
const MARK: &str = "attempted from inside:";
