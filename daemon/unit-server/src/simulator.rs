//! Simulation of a remote crypto unit: slow, rate-limited, unreliable, faulty, or of an older
//! model.

use core::any::Any;
use core::str::FromStr;
use core::time::Duration;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand;
use keyward_grep11::{
    GetMechanismListResponse, Mechanism, SignFinalResponse, SignResponse, SignSingleResponse,
};
use keyward_grep11::{ckm, ckr};
use keyward_unit::grep11::Error;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Extensions;

use super::limits::Handle;
use super::rpcs::RPCS;

/// Settings of a simulation. The default simulates nothing.
#[derive(Clone, Debug, Default)]
pub struct Simulation {
    /// Minimum time that is added to each call.
    pub latency: Duration,
    /// Maximum random time that is added to the latency.
    pub jitter: Duration,
    /// Maximum rate of calls a second; further calls wait. Zero means no limit.
    pub rate: u32,
    /// Calls that fail.
    pub errors: Vec<Chance>,
    /// Calls in which the connection is cut.
    pub disconnects: Vec<Chance>,
    /// Calls that are answered with a signature with one wrong bit.
    pub corruption: Vec<Chance>,
    /// Mechanisms that the unit does not have, by number.
    pub without: Vec<u64>,
    /// Mechanisms that the unit lists but refuses, by number.
    pub refused: Vec<u64>,
    /// True if decryption reports a wrong PKCS #1 v1.5 padding.
    pub padding_errors: bool,
}

impl Simulation {
    /// Description of each simulated fault, for the log. Empty if nothing is simulated.
    pub(crate) fn describe(&self) -> Vec<String> {
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
        lines.extend(chances(&self.corruption, "a bit of the signature is wrong"));
        lines.extend(self.without.iter().map(|number| format!("{} is not offered", name(*number))));
        lines.extend(self.refused.iter().map(|number| format!("{} is listed, and refused", name(*number))));
        lines.extend(self.padding_errors.then(|| "decryption reports a wrong padding".to_owned()));
        lines
    }
}

/// Probability of a fault in the calls of one rpc, or of all rpcs.
#[derive(Clone, Debug, PartialEq)]
pub struct Chance {
    /// Name of the rpc; `None` for all rpcs.
    rpc: Option<&'static str>,
    /// From 0 to 1.
    probability: f64,
}

impl Chance {
    /// Parses `RPC=PROBABILITY`. The rpc must be one that answers with a signature.
    ///
    /// # Errors
    /// The reason as a sentence.
    pub fn of_signature(text: &str) -> Result<Self, String> {
        let chance: Self = text.parse()?;
        match chance.rpc {
            Some(rpc) if SIGNING.contains(&rpc) => Ok(chance),
            _ => Err(format!("the rpc must be one that answers with a signature: {}", SIGNING.join(", "))),
        }
    }

    fn calls(&self) -> &'static str {
        self.rpc.unwrap_or("every call")
    }

    /// True with the given probability, if the chance is for this rpc.
    fn hits(&self, rpc: &str) -> bool {
        self.rpc.is_none_or(|named| named == rpc) && random() < self.probability
    }
}

impl FromStr for Chance {
    type Err = String;

    /// Parses `RPC=PROBABILITY`. The rpc `*` means all rpcs.
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

/// Parses a mechanism: its name, such as `CKM_RSA_PKCS_PSS`, or its number, such as `0xd` or `13`.
///
/// # Errors
/// The reason as a sentence.
pub fn mechanism(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    if let Ok(number) = number {
        return Ok(number);
    }
    let named = ckm::ALL.iter().find(|(name, _)| *name == text);
    named.map(|(_, number)| *number).ok_or_else(|| {
        "it must be the name of a mechanism, as in CKM_RSA_PKCS_PSS, or a number, as in 0xd".into()
    })
}

/// Name of a mechanism, or its number if the name is unknown.
fn name(number: u64) -> String {
    ckm::name(number).map_or_else(|| format!("mechanism {number:#x}"), str::to_owned)
}

/// Simulator of one unit.
pub(crate) struct Simulator {
    simulation: Simulation,
    /// Time at which the rate limit admits the next call.
    free: Mutex<Instant>,
}

impl Simulator {
    /// Simulator with these settings; `None` if they simulate nothing.
    pub(crate) fn new(simulation: &Simulation) -> Option<Self> {
        let free = Mutex::new(Instant::now());
        (!simulation.describe().is_empty()).then(|| Self { simulation: simulation.clone(), free })
    }

    /// Delays a call, and lets it fail. `mechanisms` are the mechanisms that the request names.
    ///
    /// # Errors
    /// The simulated error.
    pub(crate) async fn before(
        &self,
        rpc: &'static str,
        mechanisms: &[Option<u64>],
        extensions: &Extensions,
    ) -> Result<(), Error> {
        let Simulation { latency, jitter, rate, errors, disconnects, without, refused, .. } =
            &self.simulation;
        if let Some(interval) = Duration::from_secs(1).checked_div(*rate) {
            let start = {
                let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
                let start = (*free).max(Instant::now());
                *free = start + interval;
                start
            };
            sleep_until(start).await;
        }
        let delay = *latency + jitter.mul_f64(random());
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if disconnects.iter().any(|chance| chance.hits(rpc)) {
            if let Some(handle) = extensions.get::<Handle>() {
                handle.close();
            }
            return Err(Error::new(ckr::CKR_DEVICE_ERROR, "simulated: the connection is cut"));
        }
        if errors.iter().any(|chance| chance.hits(rpc)) {
            return Err(Error::new(ckr::CKR_DEVICE_ERROR, "simulated: the device failed"));
        }
        if let Some(number) = mechanisms.iter().flatten().find(|number| without.contains(number)) {
            let detail = format!("simulated: {} is not offered here", name(*number));
            return Err(Error::new(ckr::CKR_MECHANISM_INVALID, detail));
        }
        if let Some(number) = mechanisms.iter().flatten().find(|number| refused.contains(number)) {
            let detail = format!("simulated: {} is not for this", name(*number));
            return Err(Error::new(ckr::CKR_MECHANISM_PARAM_INVALID, detail));
        }
        Ok(())
    }

    /// Changes the response of a call.
    pub(crate) fn after(&self, rpc: &'static str, answer: &mut dyn Any) {
        if let Some(list) = answer.downcast_mut::<GetMechanismListResponse>() {
            list.mechs.retain(|number| !self.simulation.without.contains(number));
        }
        if let Some(signature) = signature(answer)
            && self.simulation.corruption.iter().any(|chance| chance.hits(rpc))
        {
            flip_a_bit(signature);
        }
    }
}

/// Field of a request that names a mechanism.
pub(crate) trait MechanismField {
    /// Number of the mechanism, if the field is set.
    fn number(&self) -> Option<u64>;
}

impl MechanismField for Option<Mechanism> {
    fn number(&self) -> Option<u64> {
        self.as_ref().map(|mechanism| keyward_grep11::number(mechanism.mechanism))
    }
}

impl MechanismField for u64 {
    fn number(&self) -> Option<u64> {
        Some(keyward_grep11::number(*self))
    }
}

/// Rpcs that answer with a signature.
const SIGNING: [&str; 3] = ["SignSingle", "Sign", "SignFinal"];

/// Signature in the response of one of [`SIGNING`].
fn signature(answer: &mut dyn Any) -> Option<&mut Vec<u8>> {
    if answer.is::<SignSingleResponse>() {
        return answer.downcast_mut().map(|answer: &mut SignSingleResponse| &mut answer.signature);
    }
    if answer.is::<SignResponse>() {
        return answer.downcast_mut().map(|answer: &mut SignResponse| &mut answer.signature);
    }
    answer.downcast_mut().map(|answer: &mut SignFinalResponse| &mut answer.signature)
}

/// Flips one random bit.
fn flip_a_bit(bytes: &mut [u8]) {
    // Below the number of bits, because the random number is below 1. A signature has a few
    // thousand bits at most, so the conversion is exact.
    let bit = (random() * (bytes.len() * 8) as f64) as usize;
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// Random number from 0 to 1, without 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without random bytes the number is always zero, which is harmless in a simulation.
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
            simulator.before("SignSingle", &[], &Extensions::new()).await.unwrap();
        }
        let took = start.elapsed();
        assert!((Duration::from_millis(1990)..Duration::from_millis(2010)).contains(&took), "{took:?}");
    }

    #[test]
    fn signatures_alone_are_corrupted() {
        assert_eq!(Chance::of_signature("SignFinal=0.5"), "SignFinal=0.5".parse());
        for bad in ["*=1", "DigestSingle=1", "SignInit=1", "VerifySingle=1", "Sing=1", "Sign=2", "Sign"] {
            assert!(Chance::of_signature(bad).is_err(), "{bad}");
        }
        let corruption =
            ["SignSingle=1", "Sign=1", "SignFinal=0"].map(|text| Chance::of_signature(text).unwrap());
        let simulator =
            Simulator::new(&Simulation { corruption: corruption.to_vec(), ..Simulation::default() }).unwrap();
        let mut bits = [false; 64];
        for _ in 0..2000 {
            let mut answer = SignSingleResponse { signature: vec![0; 8] };
            simulator.after("SignSingle", &mut answer);
            let flipped = u64::from_be_bytes(answer.signature.try_into().unwrap());
            assert_eq!(flipped.count_ones(), 1);
            bits[flipped.trailing_zeros() as usize] = true;
        }
        assert_eq!(bits, [true; 64], "every bit is flipped sometimes");

        let mut answer = SignResponse { signature: vec![0; 8] };
        simulator.after("Sign", &mut answer);
        assert_ne!(answer.signature, [0; 8]);
        let mut answer = SignFinalResponse { signature: vec![0; 8] };
        simulator.after("SignFinal", &mut answer);
        assert_eq!(answer.signature, [0; 8]);
        let mut empty = SignSingleResponse::default();
        simulator.after("SignSingle", &mut empty);
        assert!(empty.signature.is_empty());
    }

    #[tokio::test]
    async fn missing_mechanisms_are_neither_listed_nor_used() {
        let without = vec![ckm::CKM_RSA_PKCS_PSS, 0x99];
        let simulation = Simulation { without, ..Simulation::default() };
        assert_eq!(
            simulation.describe(),
            ["CKM_RSA_PKCS_PSS is not offered", "mechanism 0x99 is not offered"]
        );
        let simulator = Simulator::new(&simulation).unwrap();
        let mut list = GetMechanismListResponse { mechs: vec![ckm::CKM_RSA_PKCS, ckm::CKM_RSA_PKCS_PSS] };
        simulator.after("GetMechanismList", &mut list);
        assert_eq!(list.mechs, [ckm::CKM_RSA_PKCS]);

        let extensions = Extensions::new();
        let used =
            async |mechanisms: &[Option<u64>]| simulator.before("SignSingle", mechanisms, &extensions).await;
        for fine in [&[][..], &[None], &[Some(ckm::CKM_RSA_PKCS)]] {
            used(fine).await.unwrap();
        }
        for absent in [&[Some(0xd)][..], &[Some(1), Some(0x99)]] {
            assert_eq!(used(absent).await.unwrap_err().code(), ckr::CKR_MECHANISM_INVALID);
        }
    }

    #[test]
    fn mechanisms_are_read() {
        assert_eq!(mechanism("CKM_RSA_PKCS_PSS"), Ok(0xd));
        assert_eq!(mechanism("0xd"), Ok(0xd));
        assert_eq!(mechanism("13"), Ok(0xd));
        assert_eq!(mechanism("0x8001001c"), Ok(ckm::CKM_IBM_ED25519_SHA512));
        for bad in ["", "CKM_RSA", "ckm_rsa_pkcs", "0x", "-1", "0x10000000000000000", "d"] {
            assert!(mechanism(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_simulated_unless_asked_for() {
        assert!(Simulator::new(&Simulation::default()).is_none());
    }
}
