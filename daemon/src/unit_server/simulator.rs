//! What a crypto unit far away is like: slow, limited, and gone now and then.

use core::str::FromStr;
use core::time::Duration;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand;
use keyward_grep11::ckr;
use keyward_unit::grep11::Error;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Extensions;

use super::connection::Cut;
use super::service::RPCS;

/// What is to be simulated. The default is nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Simulation {
    /// How long each call takes at least.
    pub(crate) latency: Duration,
    /// How much longer it takes at most, at random.
    pub(crate) jitter: Duration,
    /// How many calls the unit answers in a second; more have to wait. Zero stands for no limit.
    pub(crate) rate: u32,
    /// Calls that fail.
    pub(crate) errors: Vec<Chance>,
    /// Calls in which the connection is cut.
    pub(crate) disconnects: Vec<Chance>,
}

impl Simulation {
    /// What is simulated, in a line each; none if nothing is.
    pub(crate) fn described(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.latency.is_zero() || !self.jitter.is_zero() {
            lines.push(format!(
                "every call takes {:?} longer, and up to {:?} more at random",
                self.latency, self.jitter
            ));
        }
        if self.rate != 0 {
            lines.push(format!("no more than {} calls are answered in a second", self.rate));
        }
        let chances = |chances: &[Chance], what: &str| -> Vec<String> {
            (chances.iter())
                .map(|chance| format!("{what} with probability {} in {}", chance.probability, chance.calls()))
                .collect()
        };
        lines.extend(chances(&self.errors, "CKR_DEVICE_ERROR"));
        lines.extend(chances(&self.disconnects, "the connection is cut"));
        lines
    }
}

/// How probable something is in the calls of an rpc, or of all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chance {
    /// None for all.
    rpc: Option<&'static str>,
    /// From 0 to 1.
    probability: f64,
}

impl Chance {
    fn calls(&self) -> &'static str {
        self.rpc.unwrap_or("every call")
    }

    /// Draws a lot.
    fn hits(&self, rpc: &str) -> bool {
        self.rpc.is_none_or(|named| named == rpc) && random() < self.probability
    }
}

impl FromStr for Chance {
    type Err = String;

    /// Reads `RPC=PROBABILITY`, where the rpc may be `*`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (rpc, probability) =
            text.split_once('=').ok_or("it must be RPC=PROBABILITY, as in SignSingle=0.01")?;
        let rpc = match rpc {
            "*" => None,
            name => Some(
                *RPCS
                    .iter()
                    .find(|known| **known == name)
                    .ok_or_else(|| format!("there is no rpc {name}"))?,
            ),
        };
        let probability = probability.parse().ok().filter(|probability| (0.0..=1.0).contains(probability));
        Ok(Self { rpc, probability: probability.ok_or("the probability must be a number from 0 to 1")? })
    }
}

/// Simulates, where there is something to simulate.
pub(crate) struct Simulator {
    simulation: Simulation,
    /// When the unit is free again.
    free: Mutex<Instant>,
}

impl Simulator {
    pub(crate) fn new(simulation: &Simulation) -> Option<Self> {
        let free = Mutex::new(Instant::now());
        (!simulation.described().is_empty()).then(|| Self { simulation: simulation.clone(), free })
    }

    /// What happens before a call is answered, or instead.
    pub(crate) async fn before(&self, rpc: &'static str, extensions: &Extensions) -> Result<(), Error> {
        let Simulation { latency, jitter, rate, errors, disconnects } = &self.simulation;
        if let Some(turn) = Duration::from_secs(1).checked_div(*rate) {
            let start = {
                let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
                let start = (*free).max(Instant::now());
                *free = start + turn;
                start
            };
            sleep_until(start).await;
        }
        let delay = *latency + jitter.mul_f64(random());
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if disconnects.iter().any(|chance| chance.hits(rpc)) {
            if let Some(cut) = extensions.get::<Cut>() {
                cut.now();
            }
            return Err(Error::new(ckr::CKR_DEVICE_ERROR, "simulated: the connection is cut"));
        }
        if errors.iter().any(|chance| chance.hits(rpc)) {
            return Err(Error::new(ckr::CKR_DEVICE_ERROR, "simulated: the device failed"));
        }
        Ok(())
    }
}

/// A number from 0 up to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without random bytes it is always zero, which harms nobody: it is a simulation.
    let _ = rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_read() {
        assert_eq!("*=0.5".parse(), Ok(Chance { rpc: None, probability: 0.5 }));
        assert_eq!("SignSingle=1".parse(), Ok(Chance { rpc: Some("SignSingle"), probability: 1.0 }));
        for bad in ["", "SignSingle", "Sing=0.5", "*=1.1", "*=-0.1", "*=NaN", "*=", "=0.1"] {
            assert!(bad.parse::<Chance>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_chance_of_one_always_hits_its_rpc_and_no_other() {
        let chance: Chance = "SignSingle=1".parse().unwrap();
        assert!((0..100).all(|_| chance.hits("SignSingle") && !chance.hits("Sign")));
        assert!((0..100).all(|_| !"*=0".parse::<Chance>().unwrap().hits("Sign")));
    }

    #[tokio::test(start_paused = true)]
    async fn more_calls_than_the_rate_have_to_wait() {
        let simulation = Simulation { rate: 500, ..Simulation::default() };
        let simulator = Simulator::new(&simulation).unwrap();
        let start = Instant::now();
        for _ in 0..1000 {
            simulator.before("SignSingle", &Extensions::new()).await.unwrap();
        }
        let took = start.elapsed();
        assert!((Duration::from_millis(1990)..Duration::from_millis(2010)).contains(&took), "{took:?}");
    }

    #[test]
    fn nothing_is_simulated_unless_asked_for() {
        assert!(Simulator::new(&Simulation::default()).is_none());
    }
}
