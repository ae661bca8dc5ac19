//! `keyward unit serve`: the software crypto unit as a GREP11 server.

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use keyward_unit::Profile;
use keyward_unit_server::{Chance, Simulation, Transport};

use crate::cli::failure::Failure;
use crate::cli::served;
use crate::serve::{Options, UnitOptions};

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("transport").required(true).args(["plaintext", "tls_cert"]))]
pub(in crate::cli) struct Serve {
    /// Address to listen on; with port 0, the log has the chosen port
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Serve without TLS; on loopback addresses only
    #[arg(long)]
    plaintext: bool,
    /// Certificate chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Accept only clients with a certificate of one of these CAs
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Accept only clients with one of these bearer tokens; the file has one on each line
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File of the master key [default: the systemd credential master-key]
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    master_key: Option<PathBuf>,
    /// Control points for clients while nobody owns the unit: tls, strict or open; its owners set
    /// others with keyward unit control-points
    #[arg(long, value_name = "PROFILE", default_value_t = Profile::Strict)]
    control_points: Profile,
    /// Configuration file, with roles and the audit trail [default: /etc/keyward/unit.toml, if
    /// there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the state of the unit and the audit trail
    #[arg(long, value_name = "DIR", default_value = UNIT_STATE_DIR)]
    state_dir: PathBuf,
    /// Directory of the administrators' socket
    #[arg(long, value_name = "DIR", default_value = UNIT_RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// Development mode: make a master key
    #[arg(long)]
    dev: bool,
    /// Describe the service to clients that ask (gRPC server reflection)
    #[arg(long)]
    reflection: bool,
    /// Wrap by this master key in RewrapKeyBlob, and take none of its blobs, as a unit of another
    /// maker whose next master key is committed
    #[arg(long, value_name = "FILE", help_heading = "Simulation")]
    simulate_next_master_key: Option<PathBuf>,
    /// Delay every call by this time
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s", help_heading = "Simulation")]
    simulate_latency: Duration,
    /// Delay every call by up to this further time, at random
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s", help_heading = "Simulation")]
    simulate_jitter: Duration,
    /// Answer at most this number of calls in a second
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        help_heading = "Simulation"
    )]
    simulate_rate: u32,
    /// Fail calls with CKR_DEVICE_ERROR at this rate, as in SignSingle=0.01 or *=0.01; the option
    /// may be repeated
    #[arg(long, value_name = "RPC=PROBABILITY", help_heading = "Simulation")]
    simulate_errors: Vec<Chance>,
    /// Close the connection during calls at this rate, as in SignSingle=0.01; the option may be
    /// repeated
    #[arg(long, value_name = "RPC=PROBABILITY", help_heading = "Simulation")]
    simulate_disconnects: Vec<Chance>,
    /// Answer SignSingle, Sign or SignFinal at this rate with one bit of the signature changed; the
    /// option may be repeated
    #[arg(long, value_name = "RPC=PROBABILITY", value_parser = Chance::of_signature, help_heading = "Simulation")]
    simulate_corruption: Vec<Chance>,
    /// Remove a mechanism, as in CKM_RSA_PKCS_PSS or 0xd; the option may be repeated
    #[arg(long, value_name = "MECHANISM", value_parser = keyward_unit_server::mechanism, help_heading = "Simulation")]
    simulate_without: Vec<u64>,
    /// List a mechanism, but refuse it with CKR_MECHANISM_PARAM_INVALID; the option may be repeated
    #[arg(long, value_name = "MECHANISM", value_parser = keyward_unit_server::mechanism, help_heading = "Simulation")]
    simulate_refused: Vec<u64>,
    /// Fail decryption with CKM_RSA_PKCS if the padding is wrong, as older firmware does
    #[arg(long, help_heading = "Simulation")]
    simulate_padding_errors: bool,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let transport = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Transport::Tls { certificate, key, client_ca: self.client_ca },
            _ => Transport::Plaintext,
        };
        let server = keyward_unit_server::Options {
            listen: self.listen,
            transport,
            tokens: self.token_file,
            reflection: self.reflection,
            simulation: Simulation {
                latency: self.simulate_latency,
                jitter: self.simulate_jitter,
                rate: self.simulate_rate,
                errors: self.simulate_errors,
                disconnects: self.simulate_disconnects,
                corruption: self.simulate_corruption,
                without: self.simulate_without,
                refused: self.simulate_refused,
                padding_errors: self.simulate_padding_errors,
            },
        };
        let unit = UnitOptions {
            server,
            master_key: self.master_key,
            control_points: self.control_points,
            next_master_key: self.simulate_next_master_key,
        };
        let options = Options {
            config: self.config,
            state_dir: self.state_dir,
            runtime_dir: self.runtime_dir,
            dev: self.dev,
            unit: Some(unit),
        };
        served(&options)
    }
}

const UNIT_STATE_DIR: &str = "/var/lib/keyward-unit";
const UNIT_RUNTIME_DIR: &str = "/run/keyward-unit";
