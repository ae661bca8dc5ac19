//! Findings of `keyward doctor`: one test for each mistake between a server and its keys.

mod configuration;
mod daemon;
mod found;
mod grants;
mod nginx_conf;
mod process;
mod protected;
mod references;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::tool::{run, stderr};
use keyward_tests::{Daemon, OpenSsl};

const OTHER: &str = "daemon";

/// A finding: verdict, detail and what to do.
type Finding = [String; 3];

/// Findings of the doctor by one check, run with more arguments.
fn doctor(daemon: &Daemon, check: &str, arguments: &[&dyn AsRef<OsStr>]) -> Vec<Finding> {
    let mut command = daemon.keyward(&["doctor", "--json"]);
    findings(command.env_remove("KEYWARD_SOCKET").args(arguments), check)
}

/// Findings of a command by one check.
fn findings(command: &mut Command, check: &str) -> Vec<Finding> {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout);
    let findings: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", stderr(&output)));
    let findings = findings.as_array().unwrap();
    let fails = findings.iter().any(|finding| finding["verdict"] == "fail");
    assert_eq!(output.status.code(), Some(if fails { 78 } else { 0 }), "{text}");
    let field =
        |finding: &serde_json::Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    of_check.map(|finding| ["verdict", "detail", "fix"].map(|name| field(finding, name))).collect()
}

/// A daemon, and an openssl.cnf that tests damage.
struct Scene {
    daemon: Daemon,
    good: String,
}

impl Scene {
    fn new() -> Self {
        let daemon = Daemon::start();
        let good = daemon.least_openssl_conf(OpenSsl::System);
        Self { daemon, good }
    }

    /// The openssl.cnf with a part of it replaced.
    fn conf(&self, part: &str, by: &str) -> PathBuf {
        assert!(self.good.contains(part), "{part:?} in {}", self.good);
        let path = self.daemon.path("spoilt.cnf");
        fs::write(&path, self.good.replacen(part, by, 1)).unwrap();
        path
    }

    /// Runs the doctor on an openssl.cnf, which must give one finding.
    fn find(&self, conf: &Path) -> Finding {
        let mut found = doctor(&self.daemon, "openssl.cnf", &[&"--openssl-conf", &conf]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    /// Asserts that the doctor finds the mistake, and says how to fix it.
    fn trap(&self, part: &str, by: &str, detail: &str, fix: &str) {
        let [verdict, told, fixes] = self.find(&self.conf(part, by));
        assert_eq!(verdict, "fail", "{told}");
        assert!(told.contains(detail), "{detail:?} in {told:?}");
        assert!(fixes.contains(fix), "{fix:?} in {fixes:?}");
    }

    fn module(&self) -> PathBuf {
        self.daemon.path("keyward.so")
    }
}
