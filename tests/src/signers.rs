//! An open-loop load of signatures over the daemon's socket.
//!
//! Requests are due at fixed times, whatever happened to earlier requests. Latency counts from the
//! due time. So a stall shows in every request that was due during it, not only in the requests
//! that were in progress.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use keyward_client::{Address, Client, Error, Input, KeyId};
use keyward_proto::{Outcome, Reference, Scheme};

use crate::Daemon;
use crate::tool::wait_for;

/// Threads that request the signatures of TLS 1.3 servers at a steady rate until [`Signers::stop`].
#[derive(Debug)]
pub struct Signers {
    plan: Arc<Plan>,
    threads: Vec<JoinHandle<Vec<Signed>>>,
}

/// A request of a load.
#[derive(Clone, Debug)]
pub struct Signed {
    number: u64,
    /// Time when the request was due.
    pub due: Instant,
    /// Time when the answer came, or when it was clear that no answer would come.
    pub ended: Instant,
    /// The signature, or the reason why there is none.
    pub outcome: Result<Vec<u8>, Failure>,
}

impl Signed {
    /// Time from the due time to the end, waiting for a free thread included.
    pub fn latency(&self) -> Duration {
        self.ended.saturating_duration_since(self.due)
    }
}

/// Reason why there is no signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Text of the client, as a server would log it.
    pub text: String,
    /// Outcome of the daemon, if the daemon refused.
    pub outcome: Option<Outcome>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let outcome = if let Error::Refused(outcome) = error { Some(outcome) } else { None };
        Self { text: error.to_string(), outcome }
    }
}

impl Signers {
    /// Starts a load of `rate` requests a second, evenly spaced. A free thread takes each request,
    /// so the number of threads limits the requests in progress. Every message is different.
    ///
    /// # Panics
    /// If the scheme does not exist in TLS 1.3.
    pub fn start(daemon: &Daemon, label: &str, scheme: Scheme, rate: f64, threads: usize) -> Self {
        let reference = std::fs::read_to_string(daemon.reference(label)).expect("a reference");
        let address = Address::try_from(daemon.socket().as_path()).expect("a path for a socket");
        let plan = Arc::new(Plan {
            client: Client::new(address, Client::DEFAULT_TIMEOUT),
            reference: Reference::from_pem(&reference).expect("a reference"),
            scheme,
            algorithm: algorithm(scheme),
            start: Instant::now() + LEAD,
            rate,
            next: AtomicU64::new(0),
            signed: AtomicU64::new(0),
            end: Mutex::new(None),
            ended: Condvar::new(),
        });
        let threads = (0..threads)
            .map(|_| {
                let plan = Arc::clone(&plan);
                std::thread::spawn(move || plan.sign())
            })
            .collect();
        Self { plan, threads }
    }

    /// Lets the load run for a time.
    pub fn let_run(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Lets the load run until so many more signatures have come.
    pub fn let_sign(&self, count: u64) {
        let signed = || self.plan.signed.load(Ordering::Relaxed);
        let enough = signed() + count;
        wait_for(&format!("{count} more signatures"), || (signed() >= enough).then_some(()));
    }

    /// Ends the load, and returns every request that was due until now, in the order of the due
    /// times. Waiting requests are still made, for as long as [`GRACE`]; then they count as
    /// failures.
    ///
    /// # Panics
    /// If a signature is wrong.
    pub fn stop(mut self) -> Vec<Signed> {
        self.plan.end_now();
        let threads = std::mem::take(&mut self.threads).into_iter();
        let mut signed: Vec<_> =
            threads.flat_map(|thread| thread.join().expect("a thread that signs")).collect();
        signed.sort_unstable_by_key(|signed| signed.number);
        // Only now, so that the load does not share the processors with the verification.
        signed.iter().for_each(|signed| self.plan.verify(signed));
        signed
    }
}

impl Drop for Signers {
    fn drop(&mut self) {
        self.plan.end_now();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The requests that were due in a time, out of requests in the order of [`Signers::stop`].
pub fn due_within(signed: &[Signed], time: Range<Instant>) -> &[Signed] {
    let before = |end: Instant| signed.partition_point(|signed| signed.due < end);
    &signed[before(time.start)..before(time.end)]
}

/// The requests that failed.
pub fn failures(signed: &[Signed]) -> Vec<&Signed> {
    signed.iter().filter(|signed| signed.outcome.is_err()).collect()
}

/// The latency at a percentile of the signatures: 0.99 for the 99th. Failures do not count.
///
/// # Panics
/// If there is no signature.
pub fn percentile(signed: &[Signed], share: f64) -> Duration {
    let signatures = signed.iter().filter(|signed| signed.outcome.is_ok());
    let mut latencies: Vec<_> = signatures.map(Signed::latency).collect();
    latencies.sort_unstable();
    let rank = (share * latencies.len() as f64).ceil() as usize;
    *latencies.get(rank.saturating_sub(1)).expect("a signature")
}

/// Common state of the threads of a load.
#[derive(Debug)]
struct Plan {
    client: Client,
    reference: Reference,
    scheme: Scheme,
    algorithm: &'static dyn VerificationAlgorithm,
    /// Moment at which the first request is due.
    start: Instant,
    /// Requests per second.
    rate: f64,
    /// Number of the next request that a thread takes.
    next: AtomicU64,
    /// Number of signatures so far.
    signed: AtomicU64,
    /// End of the load: requests that are due later are not made.
    end: Mutex<Option<Instant>>,
    ended: Condvar,
}

/// Decision about a request after waiting for it.
enum Turn {
    Sign,
    /// The request was due before the load ended, but too long ago.
    Late,
    /// The request would be due after the load ended.
    Over,
}

impl Plan {
    fn sign(&self) -> Vec<Signed> {
        let mut signed = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.start + Duration::from_secs_f64(number as f64 / self.rate);
            let outcome = match self.wait(due) {
                Turn::Sign => self.request(number),
                Turn::Late => Err(Failure { text: "no thread was free for it".into(), outcome: None }),
                Turn::Over => return signed,
            };
            signed.push(Signed { number, due, ended: Instant::now(), outcome });
        }
    }

    fn request(&self, number: u64) -> Result<Vec<u8>, Failure> {
        let (label, version) = (self.reference.label(), self.reference.version());
        let message = certificate_verify(number);
        let key = KeyId::new(label, version);
        let signature = self.client.sign(key, self.scheme, Input::Message(&message))?;
        self.signed.fetch_add(1, Ordering::Relaxed);
        Ok(signature.into_bytes())
    }

    /// Waits until a request is due, or the load ends.
    fn wait(&self, due: Instant) -> Turn {
        let mut end = self.end.lock().expect("no thread panics");
        loop {
            let left = due.saturating_duration_since(Instant::now());
            match *end {
                Some(end) if due >= end => return Turn::Over,
                Some(end) if end.elapsed() > GRACE => return Turn::Late,
                _ if left.is_zero() => return Turn::Sign,
                _ => end = self.ended.wait_timeout(end, left).expect("no thread panics").0,
            }
        }
    }

    fn end_now(&self) {
        self.end.lock().expect("no thread panics").get_or_insert_with(Instant::now);
        self.ended.notify_all();
    }

    fn verify(&self, signed: &Signed) {
        let Ok(signature) = &signed.outcome else { return };
        let message = certificate_verify(signed.number);
        let verified =
            UnparsedPublicKey::new(self.algorithm, self.reference.spki()).verify(&message, signature);
        assert!(verified.is_ok(), "a wrong signature by key {}: {signed:?}", self.reference.label());
    }
}

/// The message that a server signs in TLS 1.3 (RFC 8446, 4.4.3), with a number for the transcript
/// hash.
fn certificate_verify(number: u64) -> Vec<u8> {
    let (padding, context) = ([b' '; 64], b"TLS 1.3, server CertificateVerify\0");
    [&padding[..], context, &[0; 24], &number.to_be_bytes()].concat()
}

/// Algorithm that verifies signatures of a scheme (RFC 8446, 4.2.3).
fn algorithm(scheme: Scheme) -> &'static dyn VerificationAlgorithm {
    match scheme {
        Scheme::EcdsaSecp256r1Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
        Scheme::EcdsaSecp384r1Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
        Scheme::EcdsaSecp521r1Sha512 => &signature::ECDSA_P521_SHA512_ASN1,
        Scheme::RsaPssRsaeSha256 => &signature::RSA_PSS_2048_8192_SHA256,
        Scheme::RsaPssRsaeSha384 => &signature::RSA_PSS_2048_8192_SHA384,
        Scheme::RsaPssRsaeSha512 => &signature::RSA_PSS_2048_8192_SHA512,
        Scheme::Ed25519 => &signature::ED25519,
        other => panic!("TLS 1.3 has no {other:?} for servers"),
    }
}

/// Time that the threads need before the first request is due.
const LEAD: Duration = Duration::from_millis(5);

/// Time after the end of the load in which waiting requests are still made.
const GRACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::tool::succeed;

    const P256: Scheme = Scheme::EcdsaSecp256r1Sha256;

    fn daemon() -> Daemon {
        let daemon = Daemon::start();
        daemon.generate("shop", "p256");
        daemon
    }

    #[test]
    fn a_load_keeps_its_rate() {
        let daemon = daemon();
        let signers = Signers::start(&daemon, "shop", P256, 200.0, 4);
        signers.let_run(Duration::from_secs(1));
        let signed = signers.stop();
        assert!(failures(&signed).is_empty(), "{:?}", failures(&signed)[0]);
        assert!(signed.len() >= 195, "{}", signed.len());
        for (number, pair) in signed.windows(2).enumerate() {
            let apart = pair[1].due - pair[0].due;
            assert!(apart.abs_diff(Duration::from_millis(5)) < Duration::from_micros(1), "{apart:?}");
            assert_eq!(pair[1].number as usize, number + 1);
        }
        // Half of the requests were answered before the next request was due.
        assert!(percentile(&signed, 0.5) < Duration::from_millis(5), "{:?}", percentile(&signed, 0.5));
        assert_eq!(daemon.logged(&["outcome=done", "purpose=tls13-server"]), signed.len());
    }

    #[test]
    fn signatures_of_every_type_are_checked() {
        let daemon = Daemon::start();
        for (key_type, scheme) in [
            ("p256", P256),
            ("p384", Scheme::EcdsaSecp384r1Sha384),
            ("p521", Scheme::EcdsaSecp521r1Sha512),
            ("ed25519", Scheme::Ed25519),
            ("rsa2048", Scheme::RsaPssRsaeSha256),
            ("rsa2048", Scheme::RsaPssRsaeSha384),
            ("rsa2048", Scheme::RsaPssRsaeSha512),
        ] {
            let label = format!("{key_type}-{}", scheme.code());
            daemon.import(&label, key_type);
            let signers = Signers::start(&daemon, &label, scheme, 1000.0, 2);
            signers.let_sign(10);
            let plan = Arc::clone(&signers.plan);
            let mut signed = signers.stop();
            let some = signed.iter_mut().find(|signed| signed.outcome.is_ok()).unwrap();
            some.number += 1;
            let wrong = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| plan.verify(some)));
            assert!(wrong.is_err(), "{scheme:?}: the signature of another message");
        }
    }

    #[test]
    fn refusals_and_outages_are_told_apart() {
        let mut daemon = daemon();
        let signers = Signers::start(&daemon, "shop", P256, 200.0, 2);
        signers.let_sign(10);
        assert!(failures(&signers.stop()).is_empty());

        succeed(&mut daemon.keyward(&["key", "disable", "shop"]));
        let signers = Signers::start(&daemon, "shop", P256, 200.0, 2);
        signers.let_run(Duration::from_millis(50));
        let refused = signers.stop();
        let expected =
            Failure { text: Outcome::KeyDisabled.reason().into(), outcome: Some(Outcome::KeyDisabled) };
        assert!(refused.len() >= 9, "{}", refused.len());
        assert!(refused.iter().all(|signed| signed.outcome.as_ref() == Err(&expected)), "{:?}", refused[0]);

        let signers = Signers::start(&daemon, "shop", P256, 200.0, 2);
        daemon.kill();
        let gone = Instant::now();
        signers.let_run(Duration::from_millis(50));
        let signed = signers.stop();
        let lost = due_within(&signed, gone..gone + Duration::from_secs(10));
        assert!(!lost.is_empty());
        for signed in lost {
            let failure = signed.outcome.as_ref().unwrap_err();
            assert!(failure.outcome.is_none() && failure.text.contains("cannot reach"), "{failure:?}");
        }
    }

    #[test]
    fn a_stall_shows_in_every_request_that_was_due_meanwhile() {
        let daemon = daemon();
        let pid = Pid::from_raw(daemon.id().cast_signed()).unwrap();
        let signers = Signers::start(&daemon, "shop", P256, 200.0, 2);
        signers.let_sign(20);
        let (stall, rest) = (Duration::from_millis(200), Duration::from_millis(50));
        kill_process(pid, Signal::STOP).unwrap();
        // The signal may arrive late.
        let stalled = Instant::now() + rest / 10;
        signers.let_run(stall);
        kill_process(pid, Signal::CONT).unwrap();
        // All requests that have waited, and more.
        signers.let_sign(60);
        let signed = signers.stop();
        assert!(failures(&signed).is_empty(), "{:?}", failures(&signed)[0]);
        let meanwhile = due_within(&signed, stalled..stalled + stall - rest);
        assert!(meanwhile.len() >= 29, "{}", meanwhile.len());
        let shortest = meanwhile.iter().map(Signed::latency).min().unwrap();
        assert!(shortest >= rest / 2, "{shortest:?}");
        assert!(percentile(meanwhile, 1.0) >= stall / 2);
    }

    #[test]
    fn what_no_thread_came_to_is_a_failure() {
        let daemon = daemon();
        let pid = Pid::from_raw(daemon.id().cast_signed()).unwrap();
        let signers = Signers::start(&daemon, "shop", P256, 200.0, 1);
        signers.let_sign(1);
        kill_process(pid, Signal::STOP).unwrap();
        signers.let_run(Duration::from_millis(100));
        let plan = Arc::clone(&signers.plan);
        let stopped = std::thread::spawn(|| signers.stop());
        wait_for("an end long ago", || plan.end.lock().unwrap().filter(|end| end.elapsed() > GRACE));
        kill_process(pid, Signal::CONT).unwrap();
        let signed = stopped.join().unwrap();
        let late = failures(&signed);
        assert!(late.len() >= 15, "{}", late.len());
        assert!(late.iter().all(|signed| signed.outcome.as_ref().unwrap_err().text.contains("no thread")));
    }

    #[test]
    fn percentiles() {
        let start = Instant::now();
        let at = |number: u64| start + Duration::from_millis(10 * number);
        let mut signed: Vec<_> = (0..100)
            .map(|number| Signed {
                number,
                due: at(number),
                ended: at(number) + Duration::from_millis(number + 1),
                outcome: Ok(Vec::new()),
            })
            .collect();
        let ms = Duration::from_millis;
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| percentile(&signed, share)), [1, 50, 99, 100].map(ms));
        let window = due_within(&signed, at(10)..at(20));
        assert_eq!((window.len(), percentile(window, 1.0)), (10, ms(20)));
        signed[99].outcome = Err(Failure { text: String::new(), outcome: None });
        assert_eq!((failures(&signed).len(), percentile(&signed, 1.0)), (1, ms(99)));
    }
}
